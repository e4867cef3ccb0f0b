"""Held-out numbers and sample answers, before and after.

    python -m tunekit evaluate adapter=runs/quickstart-dpo
    python -m tunekit evaluate adapter=runs/quickstart-sft dataset=quickstart-chat out=numbers.json

Instruct rows give loss and perplexity per answer token; preference rows give DPO's implicit reward: accuracy with its
95 % interval, and margin. The reference is what the adapter was trained from.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tunekit import artifact, data, models
from tunekit.config import Dataset, Evaluate, typed
from tunekit.errors import ConfigError, DataError
from tunekit.losses.head import labelled_log_probs
from tunekit.losses.rewards import implicit_rewards, wilson
from tunekit.methods import METHODS
from tunekit.rows import Data, Encoded, Message, Row
from tunekit.template import IGNORE
from tunekit.verbs.answering import Opened, answer, open_model, without_adapter

DEFAULT_LENGTH = 2048  # tokens, where neither the command nor the run says
REFERENCE = "reference"  # the name of the second adapter, where the reference is one


def run(job: Evaluate, command: str) -> None:
    out = Path(job.out) if job.out else Path(job.adapter) / "evaluation.json" if job.adapter else None
    if job.out and out is not None and not out.parent.is_dir():  # before an hour of measuring
        raise ConfigError(f"out={out}: there is no folder {out.parent}")
    opened = open_model(job.adapter, job.model, job.precision)
    rows = data.load(_dataset(job, opened), needs=None)
    if not rows.heldout:
        raise DataError(
            "no rows of this dataset are held out. Train with dataset.heldout=0.1, or give rows the adapter has not seen: "
            "dataset=file dataset.path=OTHER dataset.heldout=0.99"
        )
    measure = {"instruct": likelihood, "preference": preference}.get(rows.kind)
    if measure is None:
        raise DataError(f"{rows.kind} data cannot be evaluated")
    results = measure(job, opened, rows)
    samples = answers(job, opened, rows.heldout[: job.samples])
    _show(job, results, samples)
    if out is not None:
        record = {"command": command, "model": opened.model.name, "precision": opened.precision,
                  "data": rows.fingerprint, "results": results, "samples": samples}  # fmt: skip
        artifact.write_json(out, record)
        print(f"written to {out}")


def _dataset(job: Evaluate, opened: Opened) -> Dataset:
    """The rows to measure on: the run's own held-out ones, or others, but never a new choice among those it learned."""
    manifest = opened.trained.manifest if opened.trained else None
    seen = typed(Dataset, manifest["config"]["dataset"]) if manifest else None
    asked = job.dataset
    if asked is None:
        if seen is None:
            raise ConfigError("dataset= is needed: only an adapter trained here names the data it was trained on")
        return seen
    if seen is not None and (seen.path, seen.split) == (asked.path, asked.split) and seen.heldout != asked.heldout:
        raise ConfigError(
            f"dataset.heldout={asked.heldout}: the adapter was trained on {seen.path} with dataset.heldout={seen.heldout}, "
            "so another choice would measure it on rows it has learned"
        )
    return asked


def likelihood(job: Evaluate, opened: Opened, rows: Data) -> dict[str, Any]:
    """Loss and perplexity of the held-out answers, per token, stop tokens included."""
    encoded = _encode("sft", job, opened, rows)
    batches = list(_instruct_batches(encoded, job.batch_size, opened))
    results = {"rows": len(encoded), "left_out": len(rows.heldout) - len(encoded), "loss": _mean_loss(opened, batches)}
    results["perplexity"] = math.exp(results["loss"])
    if job.compare and job.adapter:
        results["base_loss"] = without_adapter(opened, lambda: _mean_loss(opened, batches))
        results["base_perplexity"] = math.exp(results["base_loss"])
    return results


def preference(job: Evaluate, opened: Opened, rows: Data) -> dict[str, Any]:
    """Reward accuracy and margin of the held-out pairs, against the reference the adapter was trained from."""
    if opened.trained is None:
        raise ConfigError("preference rows measure an adapter against what it was trained from; give adapter=")
    encoded = _encode("dpo", job, opened, rows)
    score = partial(_answer_logps, encoded, job.batch_size, opened)
    beta, reference = _reference(opened)
    policy = score()
    if reference is None:
        against = without_adapter(opened, score)
    else:
        opened.weights.set_adapter(REFERENCE)
        against = score()
        opened.weights.set_adapter("default")
    rewards = implicit_rewards(policy, against, beta).view(-1, 2)  # (pairs, chosen and rejected)
    margins = rewards[:, 0] - rewards[:, 1]
    right = wilson(int((margins > 0).sum()), len(margins))
    return {
        "pairs": len(encoded), "left_out": len(rows.heldout) - len(encoded), "beta": beta,
        "reference": reference or f"{opened.model.name} without adapter",
        "accuracy": right.share, "accuracy_low": right.low, "accuracy_high": right.high,
        "margin": float(margins.mean()), "chosen": float(rewards[:, 0].mean()), "rejected": float(rewards[:, 1].mean()),
    }  # fmt: skip


def _encode(method: str, job: Evaluate, opened: Opened, rows: Data) -> Encoded:
    """Held-out tokens, at the length of the training unless another is asked for; what is left out is said."""
    manifest = (opened.trained.manifest if opened.trained else None) or {}
    length = job.max_length or manifest.get("config", {}).get("args", {}).get("max_length") or DEFAULT_LENGTH
    encoded: Encoded = METHODS[method].encode(rows.heldout, opened.template, length, "drop")
    notes = list(encoded.notes)
    if encoded.bad:
        data.report_bad(encoded.bad, len(rows.heldout), "drop", notes)
    for note in notes:
        print(f"  {note}")
    if not len(encoded):
        raise DataError(f"none of {len(rows.heldout):,} held-out rows can be used at max_length={length}")
    return encoded


def answers(job: Evaluate, opened: Opened, rows: Sequence[Row]) -> list[dict[str, str]]:
    """Held-out questions answered, by the base too where there is an adapter to compare with."""
    result = []
    reply = partial(answer, opened, max_new_tokens=job.max_new_tokens, repetition_penalty=job.repetition_penalty)
    for row in rows:
        prompt = _question(row)
        sample = {"question": prompt[-1]["content"], "answer": reply(prompt)}
        if job.compare and job.adapter:
            sample["base"] = without_adapter(opened, partial(reply, prompt))
        result.append(sample)
    return result


def _question(row: Row) -> list[Message]:
    messages: list[Message] = row.get("prompt") or row["messages"]
    return messages if "prompt" in row else messages[: [m["role"] for m in messages].index("assistant")]


def _reference(opened: Opened) -> tuple[float, str | None]:
    """beta, and the adapter the training began with, loaded beside the trained one; None: the base."""
    manifest = (opened.trained.manifest if opened.trained else None) or {}
    beta = float(manifest.get("config", {}).get("args", {}).get("beta", 0.1))
    start = manifest.get("start")
    if not start:
        return beta, None
    folder = Path(start["adapter"])
    if not folder.is_dir() or models.adapters.digest(folder) != manifest["inputs"]["adapter"]:
        raise ConfigError(
            f"the reference is the adapter {folder} that this one was trained from, and it is gone or was trained again; "
            "train this one again, or evaluate it on instruct rows"
        )
    models.with_adapter(opened.weights, folder, name=REFERENCE)
    opened.weights.set_adapter("default")
    return beta, str(folder)


@dataclass
class Batch:
    input_ids: Tensor  # (B, T)
    attention_mask: Tensor  # (B, T)
    labels: Tensor  # (B, T), IGNORE where nothing is scored


def _batch(rows: Sequence[tuple[list[int], list[int]]], opened: Opened) -> Batch:
    """Padded on the right; rows are (input_ids, labels)."""
    length = max(len(ids) for ids, _ in rows)
    pad = opened.template.tokenizer.pad_token_id

    def padded(values: list[list[int]], fill: int) -> Tensor:
        return torch.tensor([v + [fill] * (length - len(v)) for v in values], device=opened.weights.device)

    ids = [ids for ids, _ in rows]
    return Batch(
        padded(ids, pad), padded([[1] * len(i) for i in ids], 0), padded([labels for _, labels in rows], IGNORE)
    )


def _instruct_batches(encoded: Encoded, size: int, opened: Opened) -> Iterator[Batch]:
    rows = sorted(zip(*encoded.columns.values(), strict=True), key=lambda row: len(row[0]))  # little padding
    for i in range(0, len(rows), size):
        yield _batch(rows[i : i + size], opened)


def _answer_logps(encoded: Encoded, size: int, opened: Opened) -> Tensor:
    """Log-probability of each answer: (2 x pairs,), chosen and rejected of a pair side by side."""
    rows = [
        (prompt + ids, [IGNORE] * len(prompt) + ids)
        for prompt, chosen, rejected in zip(*encoded.columns.values(), strict=True)
        for ids in (chosen, rejected)
    ]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]))  # little padding
    parts = [
        _sequence_logps(opened, _batch([rows[i] for i in order[k : k + size]], opened))
        for k in range(0, len(rows), size)
    ]
    scores = torch.empty(len(rows), device=opened.weights.device)
    scores[torch.tensor(order, device=scores.device)] = torch.cat(parts)
    return scores


@torch.no_grad()
def _sequence_logps(opened: Opened, batch: Batch) -> Tensor:
    """Sum of log-probabilities of each answer: (B,), nats."""
    return labelled_log_probs(opened.weights, batch.input_ids, batch.attention_mask, batch.labels).sum(1).float()


def _mean_loss(opened: Opened, batches: Sequence[Batch]) -> float:
    total = sum(float(-_sequence_logps(opened, batch).sum()) for batch in batches)
    return total / sum(int((batch.labels[:, 1:] != IGNORE).sum()) for batch in batches)


def _show(job: Evaluate, results: dict[str, Any], samples: list[dict[str, str]]) -> None:
    for sample in samples:
        print(f"\nQ: {sample['question']}")
        if "base" in sample:
            print(f"   before: {sample['base']}")
        print(f"   {'after ' if 'base' in sample else 'answer'}: {sample['answer']}")
    print()
    if "loss" in results:
        print(f"{'':22}{'before':>10}{'after':>10}" if "base_loss" in results else f"{'':22}{'':>10}{'now':>10}")
        for name in ("loss", "perplexity"):
            before = f"{results['base_' + name]:.3f}" if f"base_{name}" in results else ""
            print(f"held-out {name:<13}{before:>10}{results[name]:>10.3f}")
    else:
        print(f"reward accuracy  {results['accuracy']:.3f}  (95 % interval {results['accuracy_low']:.3f} to "
              f"{results['accuracy_high']:.3f}, {results['pairs']} held-out pairs; before training every margin is 0)")  # fmt: skip
        print(f"reward margin    {results['margin']:+.3f}  (chosen {results['chosen']:+.3f}, rejected {results['rejected']:+.3f}; "
              f"beta {results['beta']:g}, against {results['reference']})")  # fmt: skip
    rows = results.get("rows", results.get("pairs"))
    print(f"on {rows} held-out rows" + (f", {results['left_out']} left out" if results["left_out"] else ""))
