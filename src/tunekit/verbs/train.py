"""The shared trainer: every method, every model, one way through the house.

python -m tunekit method=dpo model=mistral-7b adapter=runs/zephyr-7b-sft
"""

import os
import sys
import time
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from tunekit import artifact, data, hardware, models
from tunekit.artifact import RunFolder, Trained
from tunekit.config import Train
from tunekit.errors import DataError, Stopped
from tunekit.methods import METHODS
from tunekit.policy import Policy
from tunekit.progress import Progress, StopAtStep, line
from tunekit.rows import Data, Encoded
from tunekit.template import ChatTemplate


def run(job: Train, command: str) -> None:
    method = METHODS[job.method.name]
    first = int(os.environ.get("RANK", "0")) == 0  # under several processes one writes and speaks
    say = print if first else (lambda text: None)
    start = artifact.read(job.adapter) if job.adapter else None
    found = hardware.detect()
    precision, why = hardware.choose(job.precision, job.peft, job.model, found)
    for warning in method.warnings(not job.model.chat, start.path if start else None, job.model.recipe):
        print(f"warning: {warning}", file=sys.stderr)
    folder = artifact.claim(job, command)
    if folder.finished:
        say(f"{folder.path} is finished already; overwrite=true trains it again")
        return
    precision, why = _kept(folder, precision, why)
    say(
        f"{job.method.name} of {job.model.name} on {job.dataset.name}, {job.peft.name}, {precision} ({why}) -> {folder.path}"
    )

    rows = data.load(job.dataset, needs=method.needs)
    template = models.load_template(job.model)
    train, heldout = encode(method, rows, template, job)
    say("\n".join(f"  {note}" for note in rows.notes))

    if first:
        folder.begin()
    policy = load_policy(job, template, precision, start, method.needs_reference)
    trainer = method.trainer(
        policy, train, heldout, job.args, out=folder.path, seed=job.seed, precision=precision, device=found.device
    )
    if first:
        folder.note(
            base=asdict(policy.base),
            precision={"name": precision, "why": why},
            hardware=found.record(),
            data={"name": job.dataset.name, "fingerprint": rows.fingerprint, "train": len(train),
                  "heldout": len(heldout) if heldout else 0, "notes": rows.notes},
            start=_start_record(job, start),
        )  # fmt: skip
    results, seconds = fit(trainer, folder)

    if first:
        models.save(policy, trainer.accelerator.unwrap_model(trainer.model), folder.path)
        artifact.finish(folder, results, policy.base, seconds)
    say(_farewell(folder, results, seconds))


def encode(method: Any, rows: Data, template: ChatTemplate, job: Train) -> tuple[Encoded, Encoded | None]:
    """Token rows for training and for the held-out numbers; what did not fit is in rows.notes."""
    length, long = job.args.get("max_length"), job.dataset.on_long
    parts = []
    for part in (rows.train, rows.heldout):
        encoded = method.encode(part, template, length, long)
        if encoded.bad:
            data.report_bad(encoded.bad, len(part), job.dataset.on_bad_row, rows.notes)
        rows.notes.extend(encoded.notes)
        parts.append(encoded)
    if not len(parts[0]):
        raise DataError("no row is left to train on:\n  " + "\n  ".join(rows.notes))
    return parts[0], parts[1] if len(parts[1]) else None


def load_policy(
    job: Train, template: ChatTemplate, precision: str, start: Trained | None, needs_reference: bool
) -> Policy:
    """The policy; with all weights learning, a preference method's reference is the same weights loaded once more."""
    adapter, trained_on = (start.path, start.base) if start else (None, None)
    load = partial(models.load, job.model, template, precision, job.precision, job.peft, adapter, job.start, trained_on)
    if needs_reference and job.peft.name == "none":
        return replace(load(), reference=load().model.eval().requires_grad_(False))
    return load()


def fit(trainer: Any, folder: RunFolder) -> tuple[dict[str, float], float]:
    """Train, resuming where an earlier try was stopped, then measure on the held-out rows."""
    began = time.monotonic()
    trainer.add_callback(Progress(folder.path / "metrics.jsonl"))
    with StopAtStep() as stop:
        trainer.add_callback(stop)
        checkpoint = folder.checkpoint
        if checkpoint is not None:
            print(f"  resuming from step {checkpoint.name.split('-')[1]}")
        outcome = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    state = trainer.state
    if stop.signal is not None and state.global_step < state.max_steps:
        folder.note(status="stopped")
        raise Stopped(
            f"stopped at step {state.global_step} of {state.max_steps}, saved; the same command goes on from there"
        )
    results = {"train_loss": outcome.metrics["train_loss"], "steps": state.global_step}
    if trainer.eval_dataset is not None:
        results.update(trainer.evaluate())
    return {k: float(v) for k, v in results.items()}, time.monotonic() - began


def _kept(folder: RunFolder, precision: str, why: str) -> tuple[str, str]:
    """A resumed run keeps the precision it was begun with."""
    before = folder.manifest.get("precision")
    return (before["name"], "as this run began") if before else (precision, why)


def _start_record(job: Train, start: Trained | None) -> dict[str, Any] | None:
    if start is None:
        return None
    weights = start.path / models.adapters.WEIGHTS
    return {"adapter": str(start.path), "how": job.start, "sha256": models.builders.digest(weights)}


def _farewell(folder: RunFolder, results: dict[str, float], seconds: float) -> str:
    chat = f"python -m tunekit chat adapter={folder.path}"
    if folder.config["peft"]["name"] == "none":
        chat = (
            f"python -m tunekit chat model={folder.config['model']['name']} model.path={folder.path} model.template=own"
        )
    return f"done in {seconds / 60:.1f} min: {line(results)}\n  it lies in {folder.path}\n  talk to it: {chat}"
