"""Supervised fine-tuning through the command line, and its invariants."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from conftest import metrics
from tunekit.methods import sft
from tunekit.methods.house import config
from tunekit.models import load_template
from tunekit.models.builders import build
from tunekit.policy import Base, Policy

TINY = ("model=tiny", "dataset=file", "args.logging_steps=1")


def test_it_learns(trained, chats: str) -> None:
    run = trained("a", *TINY, f"dataset.path={chats}", "args.num_train_epochs=10", "args.learning_rate=0.02")
    losses = [row["loss"] for row in metrics(run) if "loss" in row]
    assert losses[0] == pytest.approx(math.log(261), abs=0.4)  # random weights: about ln(vocabulary)
    assert losses[-1] < losses[0] - 0.25


def test_batch_one_accumulated_eight_times_is_batch_eight(trained, chats: str) -> None:
    """Rows of different lengths: the loss is a mean over tokens, not over micro-batches."""
    runs = [
        trained(f"b{size}", *TINY, f"dataset.path={chats}", "peft.dropout=0", "args.learning_rate=0.01",
                f"args.per_device_train_batch_size={size}", f"args.gradient_accumulation_steps={8 // size}")
        for size in (1, 8)
    ]  # fmt: skip
    one, eight = ([row["loss"] for row in metrics(run) if "loss" in row] for run in runs)
    assert one == pytest.approx(eight, abs=1e-4)
    weights = [load_file(run / "adapter_model.safetensors") for run in runs]
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], atol=1e-4, rtol=1e-3)


def make_trainer(tmp_path: Path, **args: object) -> sft.Trainer:
    from transformers import AutoModelForCausalLM

    from tunekit.config import Model

    preset = Model("tiny", None, ["q_proj"], "chatml", True, 47_000, "apache-2.0", builder="tiny")
    template = load_template(preset)
    rows = [
        {
            "messages": [{"role": "user", "content": "a" * n}, {"role": "assistant", "content": "b" * (n + 3)}],
            "source": "x",
        }
        for n in (1, 4, 9, 2)
    ]
    encoded = sft.encode(rows, template, 256, "drop")
    policy = Policy(AutoModelForCausalLM.from_pretrained(build("tiny")), template, Base("tiny", "t", None, None))
    given = {"per_device_train_batch_size": 4, "max_length": 256, **args}
    settings = sft.settings(given, out=tmp_path, seed=1, precision="fp32", device="cpu")
    return sft.trainer(policy, encoded, None, settings)


def test_packed_rows_have_the_loss_of_unpacked_ones(tmp_path: Path) -> None:
    losses = []
    for args in ({}, {"packing": True, "per_device_train_batch_size": 1}):
        trainer = make_trainer(tmp_path, **args)
        batch = next(iter(trainer.get_train_dataloader()))
        trainer.model.eval()
        with torch.no_grad():
            losses.append(float(trainer.compute_loss(trainer.model, batch)))
        supervised = int((batch["labels"] != -100).sum())
        assert supervised == sum(n + 3 + 1 for n in (1, 4, 9, 2))  # every answer and its stop token
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_a_step_trains_answers_and_stop_tokens_and_nothing_else(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    batch = next(iter(trainer.get_train_dataloader()))
    stop = trainer.processing_class.convert_tokens_to_ids("<|im_end|>")
    for ids, labels, mask in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
        learned = ids[labels != -100].tolist()
        assert set(learned[:-1]) == {ord("b")}
        assert learned[-1] == stop
        assert (labels[mask == 0] == -100).all()


@pytest.mark.parametrize(
    ("on_long", "rows", "note"),
    [
        ("drop", 1, "2 answers do not fit max_length=40 and are left out (1 of 2 rows whole)"),
        ("cut", 2, "2 answers do not fit max_length=40 and are cut, so their stop token is lost"),
    ],
)
def test_long_answers_are_counted(on_long: str, rows: int, note: str) -> None:
    from tunekit.config import Model

    template = load_template(Model("tiny", None, [], "chatml", True, 1, "x", builder="tiny"))
    turn = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "short"}]
    long = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "x" * 100}]
    encoded = sft.encode(
        [{"messages": turn + long, "source": "a"}, {"messages": long, "source": "b"}], template, 40, on_long
    )
    assert len(encoded) == rows
    assert note in encoded.notes[0]
    assert all(len(ids) <= 40 for ids in encoded.columns["input_ids"])
    if on_long == "drop":
        assert encoded.columns["labels"][0][-1] == template.stop_id  # cut right after the whole answer's stop token


def test_a_long_row_can_be_an_error(tunekit, chats: str) -> None:
    result = tunekit(*TINY, f"dataset.path={chats}", "dataset.on_long=error", "args.max_length=30")
    assert result.code == 2
    assert "chats.jsonl row 1:" in result.err
    assert "do not fit args.max_length=30" in result.err


def test_when_nothing_fits_the_shortest_way_out_is_said(tunekit, chats: str) -> None:
    result = tunekit(*TINY, f"dataset.path={chats}", "args.max_length=8")
    assert result.code == 2
    assert "no row is left to train on" in result.err
    assert "16 answers do not fit max_length=8" in result.err
    assert not Path("runs").exists()  # a refused job leaves nothing behind


def test_trl_config_gets_what_was_asked_and_what_tunekit_owns(tmp_path: Path) -> None:
    from trl import SFTConfig

    made = config(SFTConfig, {"max_length": 77, "optim": None}, out=tmp_path, seed=3, precision="bf16", device="cpu")
    assert (made.max_length, made.seed, made.data_seed, made.bf16, made.fp16, made.use_cpu) == (
        77,
        3,
        3,
        True,
        False,
        True,
    )
    assert made.report_to == []
    assert made.push_to_hub is False
    assert made.gradient_checkpointing is False
