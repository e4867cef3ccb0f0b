"""What only a CUDA device shows. `make test-gpu`; not run by CI, which has none."""

import json
from pathlib import Path

import pytest
import torch

from conftest import CHATS, PAIRS, metrics, write_jsonl

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16", "8bit", "4bit"])
def test_every_precision_of_a_gpu_trains(trained, tmp_path: Path, precision: str) -> None:
    path = write_jsonl(tmp_path / "chats.jsonl", CHATS)
    run = trained(precision, "model=tiny", "dataset=file", f"dataset.path={path}", f"precision={precision}",
                  "args.learning_rate=0.01", "args.num_train_epochs=4", "args.logging_steps=1")  # fmt: skip
    losses = [m["loss"] for m in metrics(run) if "loss" in m]
    assert losses[-1] < losses[0]
    assert json.loads((run / "manifest.json").read_text())["hardware"]["device"] == "cuda"


@pytest.mark.parametrize("peft", ["lora", "qlora", "none"])
def test_dpo_starts_at_log_two_on_a_gpu(trained, tmp_path: Path, peft: str) -> None:
    path = write_jsonl(tmp_path / "pairs.jsonl", PAIRS)
    run = trained(peft, "model=tiny", "method=dpo", "dataset=file", f"dataset.path={path}", f"peft={peft}",
                  "args.logging_steps=1", "args.max_steps=2")  # fmt: skip
    assert metrics(run)[0]["loss"] == pytest.approx(0.693147, abs=2e-3)
