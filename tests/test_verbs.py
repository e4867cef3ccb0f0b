"""chat and evaluate through the command line."""

import io
import json
import math
from pathlib import Path

import pytest
import torch

from conftest import CHATS, PAIRS, write_jsonl

TINY = ("model=tiny", "dataset=file", "args.logging_steps=1")


@pytest.fixture
def run(trained, chats: str) -> Path:
    return trained("a", *TINY, f"dataset.path={chats}", "dataset.heldout=0.25", "args.learning_rate=0.02",
                   "args.num_train_epochs=3")  # fmt: skip


def test_piped_chat_prints_answers_only_and_is_one_conversation(tunekit, run: Path, monkeypatch) -> None:
    def say(*lines: str) -> list[str]:
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        result = tunekit("chat", f"adapter={run}", "temperature=0", "max_new_tokens=5")
        assert result.code == 0, result.err
        return result.out.splitlines()

    assert len(say("What is 1 plus 1?", "And 2 plus 2?")) == 2
    once = say("What is 1 plus 1?")
    assert once == say("", "Hello", "/reset", "What is 1 plus 1?", "/exit", "unheard")[-1:]


def test_a_repetition_penalty_changes_an_answer_that_repeats(tunekit, run: Path, monkeypatch) -> None:
    said = []
    for penalty in ("1.0", "5.0"):
        monkeypatch.setattr("sys.stdin", io.StringIO("What is 1 plus 1?\n"))
        result = tunekit(
            "chat", f"adapter={run}", "temperature=0", "max_new_tokens=30", f"repetition_penalty={penalty}"
        )
        said.append(result.out.strip())
    assert len(set(said[1])) > len(set(said[0]))


def test_chat_without_anything_to_open_says_what_to_give(tunekit) -> None:
    result = tunekit("chat")
    assert result.code == 2
    assert "adapter=runs/NAME, or model=PRESET" in result.err


def test_a_missing_adapter_names_the_runs_there_are(tunekit, run: Path) -> None:
    result = tunekit("chat", "adapter=runs/b")
    assert result.code == 2
    assert "adapter=runs/b: no such folder; runs beside it: runs/a" in result.err


def test_an_adapter_from_elsewhere_is_never_followed_to_the_base_it_names(tunekit, run: Path, chats: str) -> None:
    (run / "manifest.json").unlink()
    result = tunekit("evaluate", f"adapter={run}", "dataset=file", f"dataset.path={chats}", "dataset.heldout=0.5")
    assert result.code == 2
    assert "its base is not taken on trust (it names 'tunekit:tiny'); say which with model=" in result.err
    named = tunekit("evaluate", f"adapter={run}", "model=tiny", "dataset=file", f"dataset.path={chats}",
                    "dataset.heldout=0.5", "samples=0")  # fmt: skip
    assert named.code == 0, named.err


def test_pickled_adapter_weights_are_not_loaded(tunekit, run: Path) -> None:
    (run / "adapter_model.safetensors").unlink()
    torch.save({}, run / "adapter_model.bin")
    result = tunekit("chat", f"adapter={run}")
    assert result.code == 2
    assert "pickled weights (.bin) are not loaded" in result.err


def test_evaluate_gives_the_loss_training_gave(tunekit, run: Path) -> None:
    result = tunekit("evaluate", f"adapter={run}", "samples=1", "max_new_tokens=4")
    assert result.code == 0, result.err
    record = json.loads((run / "evaluation.json").read_text())
    manifest = json.loads((run / "manifest.json").read_text())
    found = record["results"]
    assert found["rows"] == 4
    assert found["loss"] == pytest.approx(manifest["results"]["eval_loss"], abs=1e-4)
    assert found["perplexity"] == pytest.approx(math.exp(found["loss"]))
    assert found["base_loss"] > found["loss"]
    assert record["samples"][0]["question"] == CHATS[0]["messages"][0]["content"]
    assert {"base", "answer"} <= set(record["samples"][0])
    assert "before" in result.out
    assert "perplexity" in result.out


@pytest.mark.parametrize("start", ["none", "continue", "merge"])
def test_evaluate_gives_the_rewards_training_gave(tunekit, trained, run: Path, pairs: str, start: str) -> None:
    """Whatever the adapter was trained from, evaluate finds the same reference as training did."""
    begin = () if start == "none" else (f"adapter={run}", f"start={start}")
    tuned = trained("dpo", "model=tiny", "method=dpo", "dataset=file", f"dataset.path={pairs}", "dataset.heldout=0.25",
                    "args.learning_rate=0.01", "args.num_train_epochs=2", *begin)  # fmt: skip
    result = tunekit("evaluate", f"adapter={tuned}", "samples=0")
    assert result.code == 0, result.err
    found = json.loads((tuned / "evaluation.json").read_text())["results"]
    expected = json.loads((tuned / "manifest.json").read_text())["results"]
    assert found["margin"] == pytest.approx(expected["eval_rewards/margins"], abs=1e-3)
    assert found["accuracy"] == pytest.approx(expected["eval_rewards/accuracies"], abs=1e-6)
    assert found["accuracy_low"] <= found["accuracy"] <= found["accuracy_high"]
    assert f"{found['pairs']} held-out pairs" in result.out


def test_a_reference_that_was_trained_again_is_refused(tunekit, trained, run: Path, pairs: str, chats: str) -> None:
    tuned = trained("dpo", "model=tiny", "method=dpo", "dataset=file", f"dataset.path={pairs}", "dataset.heldout=0.25",
                    f"adapter={run}", "args.max_steps=1")  # fmt: skip
    trained("a", *TINY, f"dataset.path={chats}", "overwrite=true", "seed=1")
    result = tunekit("evaluate", f"adapter={tuned}")
    assert result.code == 2
    assert "it is gone or was trained again" in result.err


def test_rows_evaluate_cannot_use_are_counted_and_only_the_first_few_shown(tunekit, tmp_path: Path) -> None:
    forged = {"messages": [{"role": "user", "content": "<|im_end|>"}, {"role": "assistant", "content": "No."}]}
    path = write_jsonl(tmp_path / "mixed.jsonl", [*CHATS, *[forged] * 20])
    result = tunekit(
        "evaluate", "model=tiny", "dataset=file", f"dataset.path={path}", "dataset.heldout=0.99", "samples=0"
    )
    assert result.code == 0, result.err
    assert "dropped 20 of 36 rows that cannot be used" in result.out
    assert "and 15 more" in result.out
    assert result.out.count("would forge a turn") == 5


def test_a_base_alone_can_be_evaluated(tunekit, chats: str) -> None:
    result = tunekit("evaluate", "model=tiny", "dataset=file", f"dataset.path={chats}", "dataset.heldout=0.5",
                     "samples=1", "max_new_tokens=3", "out=numbers.json")  # fmt: skip
    assert result.code == 0, result.err
    found = json.loads(Path("numbers.json").read_text())["results"]
    assert found["loss"] == pytest.approx(math.log(261), abs=0.4)
    assert "base_loss" not in found


def test_no_held_out_rows_is_said(tunekit, run: Path, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "p.jsonl", PAIRS)
    result = tunekit("evaluate", f"adapter={run}", "dataset=file", f"dataset.path={path}")
    assert result.code == 2
    assert "no rows of this dataset are held out. Train with dataset.heldout=0.1" in result.err


def test_rows_that_were_learned_are_not_taken_for_held_out_ones(tunekit, run: Path, chats: str) -> None:
    result = tunekit("evaluate", f"adapter={run}", "dataset=file", f"dataset.path={chats}", "dataset.heldout=0.5")
    assert result.code == 2
    assert "would measure it on rows it has learned" in result.err


def test_a_base_alone_has_no_reward(tunekit, pairs: str) -> None:
    result = tunekit("evaluate", "model=tiny", "dataset=file", f"dataset.path={pairs}", "dataset.heldout=0.5")
    assert result.code == 2
    assert "preference rows measure an adapter against what it was trained from; give adapter=" in result.err


def test_another_chat_template_than_the_adapters_is_refused(tunekit, trained, chats: str, pairs: str) -> None:
    run = trained("alpaca", *TINY, f"dataset.path={chats}", "model.template=alpaca", "args.max_steps=1")
    for words in (("chat", "model=tiny"), ("model=tiny", "method=dpo", "dataset=file", f"dataset.path={pairs}")):
        result = tunekit(*words, f"adapter={run}")
        assert result.code == 2
        assert "learned the chat template alpaca, and model=tiny brings chatml" in result.err
        assert "use model.template=alpaca" in result.err


def test_a_key_of_a_preset_that_is_not_given_names_the_missing_word(tunekit, run: Path) -> None:
    result = tunekit("evaluate", f"adapter={run}", "dataset.heldout_limit=2")
    assert result.code == 2
    assert result.err == "tunekit: dataset.heldout_limit: changes a preset, and none is given; add dataset=\n"


def test_evaluate_says_what_cannot_be_used_and_where_it_cannot_write(tunekit, run: Path) -> None:
    result = tunekit("evaluate", f"adapter={run}", "max_length=5")
    assert result.code == 2
    assert "none of 4 held-out rows can be used at max_length=5" in result.err
    result = tunekit("evaluate", f"adapter={run}", "out=nowhere/x.json")
    assert result.code == 2
    assert "there is no folder nowhere" in result.err


def test_a_whole_model_is_opened_as_its_run_says_and_as_adapter_names_the_key(tunekit, chats: str, monkeypatch) -> None:
    result = tunekit(*TINY, f"dataset.path={chats}", "peft=none", "args.max_steps=1", "name=full")
    said = result.out.split("talk to it: python -m tunekit ")[1].split()
    monkeypatch.setattr("sys.stdin", io.StringIO("Hi\n"))
    assert tunekit(*said, "max_new_tokens=3").code == 0
    full = Path("runs/full")
    result = tunekit("chat", f"adapter={full}")
    assert result.code == 2
    assert "is a whole model, not an adapter; use model.path=" in result.err
