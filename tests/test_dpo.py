"""DPO through the command line: in each case the reference is the model as it stood before the first step."""

import json
import math
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from conftest import metrics
from tunekit.models.builders import build

TINY = ("model=tiny", "method=dpo", "dataset=file", "args.logging_steps=1", "args.per_device_train_batch_size=4",
        "args.gradient_accumulation_steps=1", "args.learning_rate=0.01")  # fmt: skip


def first_and_last(run: Path) -> tuple[dict[str, float], dict[str, float]]:
    steps = [row for row in metrics(run) if "loss" in row]
    return steps[0], steps[-1]


def assert_starts_at_its_reference(run: Path, tolerance: float = 1e-6) -> None:
    first, _ = first_and_last(run)
    assert first["loss"] == pytest.approx(math.log(2), abs=tolerance)
    assert first["rewards/margins"] == pytest.approx(0.0, abs=tolerance)
    assert first["rewards/chosen"] == pytest.approx(0.0, abs=tolerance)


@pytest.fixture
def sft_run(trained, chats: str) -> Path:
    return trained("sft", "model=tiny", "dataset=file", f"dataset.path={chats}", "args.learning_rate=0.02")


def test_a_new_adapter_starts_at_log_two_and_learns(trained, pairs: str) -> None:
    run = trained("new", *TINY, f"dataset.path={pairs}", "args.num_train_epochs=3")
    assert_starts_at_its_reference(run)
    _, last = first_and_last(run)
    assert last["rewards/margins"] > 0.05
    assert last["loss"] < math.log(2)


def test_a_continued_adapter_starts_at_log_two_and_leaves_one_adapter(trained, sft_run: Path, pairs: str) -> None:
    run = trained("continued", *TINY, f"dataset.path={pairs}", f"adapter={sft_run}")
    assert_starts_at_its_reference(run)
    assert not (run / "ref").exists()
    before, after = (load_file(folder / "adapter_model.safetensors") for folder in (sft_run, run))
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[k], after[k]) for k in before)
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["start"]["how"] == "continue"


def test_a_merged_start_gives_one_exact_adapter_over_the_original_base(trained, sft_run: Path, pairs: str) -> None:
    run = trained("merged", *TINY, f"dataset.path={pairs}", f"adapter={sft_run}", "start=merge", "peft.r=4")
    assert_starts_at_its_reference(run)
    config = json.loads((run / "adapter_config.json").read_text())
    assert config["r"] == 16 + 4
    assert config["base_model_name_or_path"] == "tunekit:tiny"

    # Both adapters one after the other, by hand, against the one that is shared.
    base = build("tiny")
    shared = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), run)
    first = load_file(sft_run / "adapter_model.safetensors")
    joined = load_file(run / "adapter_model.safetensors")
    key = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    delta1 = (32 / 16) * first[key.format("B")] @ first[key.format("A")]
    a, b = joined[key.format("A")], joined[key.format("B")]
    torch.testing.assert_close(b[:, :16] @ a[:16], delta1, atol=1e-6, rtol=1e-5)
    merged = shared.merge_and_unload().state_dict()["model.layers.0.self_attn.q_proj.weight"]
    plain = AutoModelForCausalLM.from_pretrained(base).state_dict()["model.layers.0.self_attn.q_proj.weight"]
    torch.testing.assert_close(merged, plain + delta1 + b[:, 16:] @ a[16:], atol=1e-5, rtol=1e-4)


def test_a_continued_adapter_on_four_bits_starts_at_log_two_unrounded(trained, sft_run: Path, pairs: str) -> None:
    """TRL rounds the adapter to bf16 after it copied the reference; with large weights the two would differ."""
    from safetensors.torch import save_file

    torch.manual_seed(0)
    large = {k: torch.randn_like(v) * 0.3 for k, v in load_file(sft_run / "adapter_model.safetensors").items()}
    save_file(large, sft_run / "adapter_model.safetensors", {"format": "pt"})
    run = trained(
        "four", *TINY, f"dataset.path={pairs}", f"adapter={sft_run}", "precision=4bit", "args.learning_rate=0"
    )
    assert_starts_at_its_reference(run)
    after = load_file(run / "adapter_model.safetensors")
    assert all(torch.equal(after[k], v) for k, v in large.items())


def test_what_cannot_be_joined_is_refused_before_training(tunekit, sft_run: Path, pairs: str) -> None:
    file = sft_run / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "use_rslora": True}))
    result = tunekit(*TINY, f"dataset.path={pairs}", f"adapter={sft_run}", "start=merge", "name=x")
    assert result.code == 2
    assert "only plain LoRA adapters can be merged and joined with a new one (this one has use_rslora)" in result.err
    assert not Path("runs/x").exists()


def test_a_continued_adapter_keeps_its_rank_and_the_record_says_so(trained, sft_run: Path, pairs: str) -> None:
    run = trained("c", *TINY, f"dataset.path={pairs}", f"adapter={sft_run}", "peft.r=64", "args.max_steps=1")
    assert json.loads((run / "manifest.json").read_text())["config"]["peft"]["r"] == 16


def test_full_fine_tuning_has_a_reference_of_its_own(trained, pairs: str) -> None:
    run = trained("full", *TINY, f"dataset.path={pairs}", "peft=none", "args.num_train_epochs=2")
    assert_starts_at_its_reference(run)
    _, last = first_and_last(run)
    assert last["rewards/margins"] > 0.01
    weights = load_file(run / "model.safetensors")
    assert {w.dtype for w in weights.values()} == {torch.float32}
    AutoModelForCausalLM.from_pretrained(run)
    assert AutoTokenizer.from_pretrained(run).eos_token == "<|im_end|>"


def test_full_fine_tuning_goes_on_from_a_merged_adapter(tunekit, trained, sft_run: Path, pairs: str) -> None:
    run = trained("full", *TINY, f"dataset.path={pairs}", f"adapter={sft_run}", "peft=none", "start=merge")
    assert_starts_at_its_reference(run)
    refused = tunekit(*TINY, f"dataset.path={pairs}", f"adapter={sft_run}", "peft=none", "name=x")
    assert refused.code == 2
    assert "full fine-tuning has no adapter to continue; use start=merge" in refused.err


def test_full_fine_tuning_in_bf16_keeps_fp32_masters_that_move(trained, pairs: str) -> None:
    """At 5e-7 a bf16 weight of 0.02 cannot move: the least step is 0.0001."""
    run = trained("bf16", *TINY, f"dataset.path={pairs}", "peft=none", "precision=bf16", "args.learning_rate=5e-7",
                  "args.warmup_steps=0", "args.lr_scheduler_type=constant")  # fmt: skip
    before, after = load_file(build("tiny") / "model.safetensors"), load_file(run / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    assert after[name].dtype == torch.float32
    assert (before[name] != after[name]).float().mean() > 0.9


def test_long_pairs_are_left_out_and_counted(tunekit, pairs: str) -> None:
    result = tunekit(*TINY, f"dataset.path={pairs}", "args.max_length=60", "name=x")
    assert result.code == 2
    assert "16 of 16 pairs do not fit max_length=60 and are left out" in result.err


@pytest.mark.parametrize("answer", ["chosen_ids", "rejected_ids"])
def test_answers_end_with_the_stop_token(pairs: str, answer: str) -> None:
    from tunekit import data
    from tunekit.config import Dataset, Model
    from tunekit.methods import dpo
    from tunekit.models import load_template

    template = load_template(Model("tiny", None, [], "chatml", True, 1, "x", builder="tiny"))
    encoded = dpo.encode(data.load(Dataset("file", pairs), "preference").train, template, 256, "drop")
    assert {ids[-1] for ids in encoded.columns[answer]} == {template.stop_id}
    prompt = template.tokenizer.decode(encoded.columns["prompt_ids"][0])
    assert prompt == "<|im_start|>user\nName the number after 0.<|im_end|>\n<|im_start|>assistant\n"


def test_dpo_on_a_raw_base_warns_and_names_the_recipe() -> None:
    from tunekit.methods import dpo

    (warning,) = dpo.warnings(raw_base=True, adapter=None, recipe="zephyr-7b")
    assert "MT-Bench 4.76" in warning
    assert "recipes/zephyr-7b" in warning
    assert dpo.warnings(raw_base=True, adapter=Path("runs/sft"), recipe="zephyr-7b") == []
    assert dpo.warnings(raw_base=False, adapter=None, recipe=None) == []
