"""Every preset in conf/ is composed and run: what no test runs does not exist."""

import json
from pathlib import Path

import pytest
import yaml

import miniatures
from tunekit.overrides import choices

METHOD_OF = {
    "quickstart-chat": "sft", "ultrachat-200k": "sft", "file": "sft",
    "quickstart-preferences": "dpo", "ultrafeedback-binarized": "dpo",
}  # fmt: skip


@pytest.mark.parametrize("method", choices("method"))
@pytest.mark.parametrize("model", choices("model"))
def test_a_model_trains_by_every_method_to_one_step(tunekit, tmp_path: Path, model: str, method: str) -> None:
    dataset = {"sft": "ultrachat-200k", "dpo": "ultrafeedback-binarized"}[method]
    words = miniatures.replaced(model, dataset, tmp_path)
    result = tunekit(f"model={model}", f"method={method}", f"dataset={dataset}", *words, "name=a")
    assert result.code == 0, result.err
    saved = json.loads(Path("runs/a/adapter_config.json").read_text())
    assert set(saved["target_modules"]) == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"
    }  # fmt: skip


@pytest.mark.parametrize("dataset", choices("dataset"))
def test_a_dataset_trains_to_one_step(tunekit, tmp_path: Path, chats: str, dataset: str) -> None:
    words = ["args.max_steps=1"]
    if dataset in miniatures.DATASETS:
        words.append(f"dataset.path={miniatures.made('dataset', dataset, tmp_path)}")
    if dataset == "file":
        words.append(f"dataset.path={chats}")
    result = tunekit("model=tiny", f"method={METHOD_OF[dataset]}", f"dataset={dataset}", "name=a", *words)
    assert result.code == 0, result.err
    notes = json.loads(Path("runs/a/manifest.json").read_text())["data"]["notes"]
    if dataset == "ultrafeedback-binarized":
        assert notes[0].startswith(
            "dropped 1 of 8 rows that cannot be used:\n  dataset-ultrafeedback-binarized[train_prefs]"
        )
        assert notes[1] == "7 rows to train on, 4 held out"


@pytest.mark.parametrize("peft", choices("peft"))
@pytest.mark.parametrize("method", choices("method"))
def test_a_peft_composes_with_its_learning_rate(tunekit, method: str, peft: str) -> None:
    expected = {("sft", "none"): 2e-5, ("dpo", "none"): 5e-7, ("dpo", "lora"): 5e-6, ("dpo", "qlora"): 5e-6}
    for words in ((f"peft={peft}", f"method={method}"), (f"method={method}", f"peft={peft}")):
        result = tunekit(*words, "--cfg", "job")
        assert result.code == 0, result.err
        job = yaml.safe_load(result.out)
        assert job["args"]["learning_rate"] == expected.get((method, peft), 2e-4)
        assert job["precision"]["name"] == ("4bit" if peft == "qlora" else "auto")


@pytest.mark.parametrize("precision", choices("precision"))
def test_a_precision_composes(tunekit, precision: str) -> None:
    result = tunekit(f"precision={precision}", "--cfg", "job")
    assert yaml.safe_load(result.out)["precision"]["name"] == precision


@pytest.mark.parametrize("group", ["model", "precision", "peft", "dataset", "method"])
def test_a_preset_is_named_as_its_file(group: str) -> None:
    from tunekit.paths import CONF

    for file in (CONF / group).glob("*.yaml"):
        content = yaml.safe_load(file.read_text())
        assert content.get(group, content)["name"] == file.stem


def test_each_data_preset_states_its_licence_and_each_hub_preset_a_revision() -> None:
    from tunekit.paths import CONF

    for file in [*(CONF / "dataset").glob("*.yaml"), *(CONF / "model").glob("*.yaml")]:
        preset = yaml.safe_load(file.read_text())
        if preset["name"] != "file":
            assert preset["licence"], file
        if preset["name"] in miniatures.DATASETS or (file.parent.name == "model" and preset["path"]):
            assert len(preset["revision"]) == 40, file
