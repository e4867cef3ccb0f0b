"""The shared trainer: every method, every model, one way through the house.

python -m tunekit method=dpo model=mistral-7b adapter=runs/zephyr-7b-sft
"""

import os
import sys
import time
from dataclasses import replace
from functools import partial
from typing import Any

from tunekit import artifact, data, hardware, models
from tunekit.artifact import RunFolder, Trained
from tunekit.config import Train
from tunekit.errors import ConfigError, DataError, HardwareError, RunExists, Stopped
from tunekit.methods import METHODS
from tunekit.policy import Policy
from tunekit.progress import Progress, StopAtStep, line
from tunekit.rows import Data, Encoded
from tunekit.template import ChatTemplate


def run(job: Train, command: str) -> None:
    method = METHODS[job.method.name]
    first = int(os.environ.get("RANK", "0")) == 0  # under several processes one writes and speaks
    say = print if first else (lambda text: None)
    if any(os.environ.get(name) == "true" for name in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED")):
        raise HardwareError(
            "sharded training (FSDP, DeepSpeed) is not supported yet: the weights would be saved in part"
        )
    found = hardware.detect()
    precision, why = hardware.choose(job.precision, job.peft, job.model, found)
    start = artifact.read(job.adapter) if job.adapter else None
    if start is not None:
        start.check_template(job.model)
        job.peft = models.check_start(job.model, job.peft, start.path, job.start, start.base)
    for warning in method.warnings(not job.model.chat, start.path if start else None, job.model.recipe):
        print(f"warning: {warning}", file=sys.stderr)
    folder = artifact.claim(job, command)
    inputs = {"adapter": _digest(start, folder)} if start else {}
    if folder.finished:
        say(f"{folder.path} is finished already; overwrite=true trains it again")
        return
    precision, why = _kept(folder, precision, why)
    say(
        f"{job.method.name} of {job.model.name} on {job.dataset.name}, {job.peft.name}, {precision} ({why}) -> {folder.path}"
    )

    rows = data.load(job.dataset, needs=method.needs)
    folder.check_inputs("data", rows.fingerprint)
    template = models.load_template(job.model)
    train, heldout = encode(method, rows, template, job)
    settings = method.settings(job.args, out=folder.path, seed=job.seed, precision=precision, device=found.device)
    if heldout is None and settings.eval_strategy != "no":
        raise ConfigError("args.eval_strategy: no rows are held out to evaluate on; dataset.heldout=0.1 holds some out")
    say("\n".join(f"  {note}" for note in rows.notes))

    if first:  # all that can be checked has been; from here on something is written
        folder.begin()
        folder.note(
            precision={"name": precision, "why": why},
            hardware=found.record(),
            data={"name": job.dataset.name, "train": len(train), "heldout": len(heldout or ()), "notes": rows.notes},
            inputs={**inputs, "data": rows.fingerprint},
            start={"adapter": str(start.path), "how": job.start} if start else None,
        )
    policy = load_policy(job, template, precision, start, method.needs_reference)
    trainer = method.trainer(policy, train, heldout, settings)
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
    adapter = start.path if start else None
    load = partial(models.load, job.model, template, precision, job.precision, job.peft, adapter, job.start)
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
        same = "the same command without overwrite=true" if folder.replaces else "the same command"
        raise Stopped(f"stopped at step {state.global_step} of {state.max_steps}, saved; {same} goes on from there")
    results = {"train_loss": outcome.metrics["train_loss"], "steps": state.global_step}
    if trainer.eval_dataset is not None:
        results.update(trainer.evaluate())
    return {k: float(v) for k, v in results.items()}, time.monotonic() - began


def _kept(folder: RunFolder, precision: str, why: str) -> tuple[str, str]:
    """A resumed run keeps the precision it was begun with."""
    before = folder.manifest.get("precision")
    return (before["name"], "as this run began") if before else (precision, why)


def _digest(start: Trained, folder: RunFolder) -> str:
    """sha256 of the starting adapter, which may neither be this very run nor have changed since it was begun."""
    if start.path.resolve() == folder.path.resolve():
        raise RunExists(f"adapter={start.path} lies where this run would be written; choose another name=")
    digest = models.adapters.digest(start.path)
    folder.check_inputs("adapter", digest)
    return digest


def _farewell(folder: RunFolder, results: dict[str, float], seconds: float) -> str:
    chat = f"python -m tunekit chat adapter={folder.path}"
    if folder.config["peft"]["name"] == "none":
        chat = (
            f"python -m tunekit chat model={folder.config['model']['name']} model.path={folder.path} model.template=own"
        )
    return f"done in {seconds / 60:.1f} min: {line(results)}\n  it lies in {folder.path}\n  talk to it: {chat}"
