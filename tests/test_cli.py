"""The command as a user types it: what is answered, what is refused, and in which words."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from conftest import Result
from tunekit import __version__
from tunekit.cli import _sweep_folder, _varied
from tunekit.paths import CONF, RECIPES

Command = Callable[..., Result]


@pytest.fixture
def refused(tunekit: Command) -> Callable[..., str]:
    """What is said about a command that must be refused as bad input and leave nothing behind."""

    def run(*argv: str) -> str:
        result = tunekit(*argv)
        assert result.code == 2, result
        assert not Path("runs").exists()
        return result.err

    return run


@pytest.fixture
def composed(tunekit: Command) -> Callable[..., dict[str, Any]]:
    """The job as `--cfg job` prints it."""

    def run(*argv: str) -> dict[str, Any]:
        result = tunekit(*argv, "--cfg", "job")
        assert result.code == 0, result.err
        return yaml.safe_load(result.out)

    return run


def recipe(text: str) -> str:
    """A user's own file, in the working directory."""
    start = "defaults:\n  - train\n  - override /model: tiny\n  - override /dataset: file\n  - _self_\n"
    Path("mine.yaml").write_text(start + "dataset:\n  path: x.jsonl\n" + text, encoding="utf-8")
    return "mine.yaml"


# Help


@pytest.mark.parametrize(
    "argv, groups",
    [
        (["--help"], ["model", "precision", "peft", "dataset", "method"]),
        (["train", "-h"], ["model", "precision", "peft", "dataset", "method"]),
        (["chat", "--help"], ["model", "precision"]),
        (["evaluate", "--help"], ["model", "precision", "dataset"]),
    ],
)
def test_help_lists_verbs_recipes_and_the_presets_of_each_group(
    tunekit: Command, argv: list[str], groups: list[str]
) -> None:
    code, out, err = tunekit(*argv)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    for verb in ("train", "chat", "evaluate"):
        assert any(line.startswith(f"  {verb} ") for line in lines)
    for file in RECIPES.glob("*/*.yaml"):
        assert f"{file.parent.name}/{file.name}" in out
    shown = {words[0][:-1]: words[1:] for line in lines if (words := line.split()) and words[0].endswith("=")}
    assert shown == {group: sorted(f.stem for f in (CONF / group).glob("*.yaml")) for group in groups}


@pytest.mark.parametrize(
    "argv, keys",
    [
        (["--help"], "name= out= adapter= start= seed= overwrite="),
        (["chat", "--help"], "adapter= system= max_new_tokens= temperature= top_p= repetition_penalty= seed="),
    ],
)
def test_help_lists_the_keys_of_its_verb(tunekit: Command, argv: list[str], keys: str) -> None:
    line = next(line for line in tunekit(*argv).out.splitlines() if line.startswith("  keys:"))
    assert line.split()[1:] == keys.split()


def test_version_is_printed(tunekit: Command) -> None:
    assert tunekit("--version") == Result(0, f"{__version__}\n", "")


# Typos


@pytest.mark.parametrize(
    "argv, message",
    [
        (["trian"], "trian: neither a verb, a .yaml file nor key=value; did you mean train?"),
        (["chat", "seed"], "seed: not key=value"),
        (["methd=dpo"], "methd: no such key; did you mean method?"),
        (["chat", "temprature=1"], "temprature: no such key; did you mean temperature?"),
        (["model.lora_targts=[a]"], "model.lora_targts: no such key; did you mean lora_targets?"),
        (["name.x=1"], "name.x: name has no keys of its own"),
        (["method=dop"], "method=dop: no such method; did you mean dpo?"),
        (["peft=dora"], "peft=dora: no such peft; did you mean lora?"),
        (["precision=int4"], "precision=int4: no such precision (known: 4bit, 8bit, auto, bf16, fp16, fp32)"),
        (
            ["model=mistral7b"],
            "model=mistral7b: no such model; did you mean mistral-7b? Weights of your own: model.path=",
        ),
        (["dataset=ultrachat"], "dataset=ultrachat: no such dataset; did you mean ultrachat-200k? Data of your own: "),
        (["model=~/m"], "model=~/m: no such model (known: mistral-7b, smollm2-135m, smollm2-135m-q4, tiny)"),
        (["model=~/m"], "Weights of your own: model.path=FOLDER_OR_HUB_ID"),
        (
            ["quickstart/1-sfy.yaml"],
            "no such file here or among the shipped recipes; did you mean recipes/quickstart/1-",
        ),
        (["method=dpo", "args.bta=1"], "args.bta: DPOConfig has no such field; did you mean beta?"),
        (["args.beta=0.1"], "args.beta: SFTConfig has no such field"),
        (["args.bf16=true"], "args.bf16: set by tunekit; use precision=bf16"),
        (["args.max_seq_length=1"], "args.max_seq_length: gone from SFTConfig; use max_length"),
        (['args.learning_rate="2e-5"'], "SFTConfig wants float: write 2e-5 without quotes"),
        (["seed=a"], "seed: 'a' is text, but a whole number is needed"),
        (["peft.r=2.5"], "peft.r: 2.5 is a number, but a whole number is needed"),
        (["args.per_device_train_batch_size=0"], "args.per_device_train_batch_size=0: must be at least 1"),
        (["args.num_train_epochs=0"], "args.num_train_epochs=0: must be above 0"),
        (["args.max_steps=0"], "args.max_steps=0: trains nothing"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
    ],
)
def test_a_wrong_word_is_named_with_its_cure(refused: Callable[..., str], argv: list[str], message: str) -> None:
    assert message in refused(*argv)


def test_all_wrong_words_are_told_at_once(refused: Callable[..., str]) -> None:
    said = refused("model=tinny", "sed=1", "peft.r=x", "args.bf16=true", "args.learning_rat=1", "seed=1.5")
    named = sorted(line.partition(":")[0] for line in said.removeprefix("tunekit: ").splitlines())
    assert named == ["args.bf16", "args.learning_rat", "model=tinny", "peft.r", "sed", "seed"]


def test_a_missing_path_is_named_in_full(refused: Callable[..., str]) -> None:
    assert "dataset.path" in refused("model=tiny", "dataset=file")


def test_a_file_dataset_without_a_path_is_refused(refused: Callable[..., str]) -> None:
    assert "path" in refused("model=tiny", "dataset=file")


def test_null_epochs_mean_the_default_of_trl(refused: Callable[..., str]) -> None:
    assert (
        refused("args.num_train_epochs=null", "seed=a") == "tunekit: seed: 'a' is text, but a whole number is needed\n"
    )


def test_a_group_that_is_needed_cannot_be_null(refused: Callable[..., str]) -> None:
    said = refused("model=null")
    assert "model=null" in said and "Traceback" not in said


# Contradictions


@pytest.mark.parametrize("argv", [["peft=qlora", "precision=bf16"], ["precision=bf16", "peft=qlora"]])
def test_qlora_at_another_precision_is_refused_in_either_order(refused: Callable[..., str], argv: list[str]) -> None:
    assert "peft=qlora holds the base in 4 bits, which precision=bf16 contradicts" in refused(*argv, "model=tiny")


@pytest.mark.parametrize("precision", ["4bit", "8bit"])
def test_full_fine_tuning_of_quantised_weights_is_refused(refused: Callable[..., str], precision: str) -> None:
    said = refused("model=tiny", "peft=none", f"precision={precision}")
    assert f"precision={precision} with peft=none: quantised weights cannot learn; use peft=qlora" in said


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU can do fp16")
def test_fp16_without_a_gpu_names_the_alternative(refused: Callable[..., str]) -> None:
    said = refused("model=tiny", "precision=fp16")
    assert "precision=fp16 needs a GPU, and none is found here; use precision=bf16 or fp32" in said


# A user's own file


@pytest.mark.parametrize(
    "text, message",
    [
        ("seeed: 3\n", "seeed: no such key; did you mean seed?"),
        ("peft:\n  rr: 3\n", "peft.rr: no such key; did you mean r?"),
        ("model:\n  _target_: os.system\n", "model._target_: a config may not name code to run; remove it"),
        ("_target_: os.system\n", "_target_: a config may not name code to run; remove it"),
        ("args:\n  bta: 1\n", "args.bta: SFTConfig has no such field"),
        ('args:\n  learning_rate: "2e-5"\n', "write 2e-5 without quotes"),
        ("adapter: false\n", "adapter: false is true or false, but text is needed"),
        ("start: merg\n", "start=merg: unknown; did you mean merge?"),
    ],
)
def test_a_wrong_key_in_a_file_is_refused_like_one_in_the_command(
    refused: Callable[..., str], text: str, message: str
) -> None:
    assert message in refused(recipe(text))


def test_a_file_of_ones_own_says_what_is_trained(composed: Callable[..., dict[str, Any]]) -> None:
    job = composed(recipe("seed: 7\nargs:\n  max_length: 99\n"), "name=n")
    assert (job["model"]["name"], job["seed"], job["args"]["max_length"], job["name"]) == ("tiny", 7, 99, "n")
    assert job["args"]["lr_scheduler_type"] == "cosine"


def test_a_file_that_names_no_verb_is_no_recipe(refused: Callable[..., str]) -> None:
    Path("x.yaml").write_text("seed: 1\n", encoding="utf-8")
    assert "not a recipe; its defaults list names no verb (train, chat, evaluate)" in refused("x.yaml")


@pytest.mark.parametrize("path", ["~/a=b.jsonl", "no such.jsonl", "(1).jsonl", "7.jsonl", "C:\\x\\y.jsonl"])
def test_a_path_needs_no_quotes_of_the_users(refused: Callable[..., str], path: str) -> None:
    assert f"tunekit: {path}: no such file" in refused("model=tiny", "dataset=file", f"dataset.path={path}")


# The composed job


def test_dpo_of_mistral_is_the_zephyr_recipe_by_default(composed: Callable[..., dict[str, Any]]) -> None:
    job = composed("method=dpo", "model=mistral-7b")
    assert job["dataset"]["name"] == "ultrafeedback-binarized"
    assert job["dataset"]["split"] == "train_prefs"
    assert job["model"]["template"] == "zephyr"
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    assert job["model"]["lora_targets"] == targets
    assert job["args"]["beta"] == 0.1
    assert job["args"]["learning_rate"] == 5e-6
    assert job["precision"]["name"] == "auto"


@pytest.mark.parametrize(
    "words, rate",
    [
        (["method=sft"], 2e-4),
        (["method=sft", "peft=none"], 2e-5),
        (["method=dpo", "peft=qlora"], 5e-6),
        (["method=dpo", "peft=none"], 5e-7),
        (["method=dpo", "peft=none", "args.learning_rate=1e-6"], 1e-6),
    ],
)
def test_the_learning_rate_follows_method_and_peft_unless_given(
    composed: Callable[..., dict[str, Any]], words: list[str], rate: float
) -> None:
    for argv in (words, words[::-1]):
        assert composed(*argv, "model=mistral-7b")["args"]["learning_rate"] == rate


def test_a_dataset_of_the_users_wins_over_the_methods_in_either_order(composed: Callable[..., dict[str, Any]]) -> None:
    for argv in (["method=dpo", "dataset=quickstart-preferences"], ["dataset=quickstart-preferences", "method=dpo"]):
        assert composed(*argv)["dataset"]["name"] == "quickstart-preferences"


def test_qlora_chooses_four_bits(composed: Callable[..., dict[str, Any]]) -> None:
    assert composed("peft=qlora")["precision"] == {"name": "4bit", "quant_type": "nf4", "double_quant": True}


@pytest.mark.parametrize(
    "argv, key, value",
    [
        (["name=7"], "name", "7"),
        (["name=a b"], "name", "a b"),
        (["name=null"], "name", None),
        (["+seed=1"], "seed", 1),
        (["chat", "system=It's 100% nice, ok?"], "system", "It's 100% nice, ok?"),
        (["dataset.heldout=0.2"], "dataset.heldout", 0.2),
        (["peft.targets=[q_proj]"], "peft.targets", ["q_proj"]),
        pytest.param(["name=Zoë"], "name", "Zoë"),
        pytest.param(["chat", "system=Hi!"], "system", "Hi!"),
        pytest.param(["name=it's"], "name", "it's"),
        pytest.param(
            ["dataset.heldout=~/a.jsonl"], "dataset.heldout", "~/a.jsonl",
        ),
        pytest.param(
            ["model.lora_targets=[q_proj]"], "model.lora_targets", ["q_proj"],
        ),
        pytest.param(
            ["args={max_length: 9}"], "args.max_length", 9,
        ),
    ],
)  # fmt: skip
def test_a_value_arrives_as_it_was_typed(
    composed: Callable[..., dict[str, Any]], argv: list[str], key: str, value: Any
) -> None:
    job: Any = composed(*argv)
    for part in key.split("."):
        job = job[part]
    assert job == value


@pytest.mark.parametrize(
    "flags",
    [
        ["--cfg", "job"],
        ["-c", "job"],
        pytest.param(
            ["--cfg=job"],
        ),
    ],
)
def test_an_unknown_key_is_refused_with_cfg_too(refused: Callable[..., str], flags: list[str]) -> None:
    assert "seeed: no such key" in refused("seeed=1", *flags)


# Sweeps and processes


@pytest.mark.parametrize(
    "job, folder",
    [
        ({"out": "/mnt/o", "name": "n"}, "/mnt/o/seed=1,peft.r=4"),
        ({"out": None, "name": "n"}, "runs/n/seed=1,peft.r=4"),
        ({"out": None, "name": None}, "runs/sweep/seed=1,peft.r=4"),
    ],
)
def test_each_job_of_a_sweep_has_a_folder_of_its_own(job: dict[str, Any], folder: str) -> None:
    varied = _varied(["-m", "seed=1,2", "name=n", "args.max_steps=1", "peft.r=choice(4,8)"])
    assert (
        _sweep_folder(SimpleNamespace(**job), ["++seed=1", "++name=n", "++args.max_steps=1", "++peft.r=4"], varied)
        == folder
    )


def test_a_sweep_folder_is_one_level_deep_whatever_is_varied() -> None:
    job = SimpleNamespace(out=None, name="n")
    assert _sweep_folder(job, ["++dataset.path=data/a.jsonl"], ["dataset.path"]) == "runs/n/dataset.path=data_a.jsonl"


def test_without_a_way_to_the_hub_nobody_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its library would try five times, for half a minute."""
    from tunekit import cli

    monkeypatch.setenv("HF_ENDPOINT", "https://hub.invalid")
    assert not cli._hub_has_an_address()
    named = SimpleNamespace(model=SimpleNamespace(path="mistralai/Mistral-7B-v0.1"), dataset=None)
    assert cli._names_a_hub(named)
    assert not cli._names_a_hub(SimpleNamespace(model=SimpleNamespace(path=None), dataset=SimpleNamespace(path=".")))


@pytest.mark.parametrize("argv, code", [(["--help"], 0), (["methd=dpo"], 2), (["method=dop", "args.lr=1"], 2)])
def test_help_and_typos_load_no_heavy_library(argv: list[str], code: int) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "tunekit", *argv]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, "NO_COLOR": "1"})
    assert done.returncode == code
    loaded = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert "tunekit" in loaded
    assert not loaded & {"torch", "transformers", "trl", "peft", "datasets", "accelerate", "numpy"}
