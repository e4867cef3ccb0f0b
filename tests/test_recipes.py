"""Every stage of every recipe, in order, on miniatures: only model.path, dataset.path and args.max_steps are replaced."""

import json
import os
import re
from pathlib import Path

import pytest
import yaml

import miniatures
from tunekit.paths import RECIPES

FOLDERS = sorted(f.name for f in RECIPES.iterdir() if f.is_dir())


def stages(recipe: str) -> list[Path]:
    return sorted((RECIPES / recipe).glob("*.yaml"))


def chosen(stage: Path, group: str) -> str:
    found = re.search(rf"override /{group}: (\S+)", stage.read_text())
    assert found, f"{stage}: names no {group}"
    return found[1]


@pytest.mark.parametrize("recipe", FOLDERS)
def test_the_stages_run_one_after_another(tunekit, tmp_path: Path, recipe: str) -> None:
    for stage in stages(recipe):
        words = miniatures.replaced(chosen(stage, "model"), chosen(stage, "dataset"), tmp_path)
        result = tunekit(f"recipes/{recipe}/{stage.name}", *words)
        assert result.code == 0, f"{stage.name}: {result.err}"
        run = Path("runs") / yaml.safe_load(stage.read_text())["name"]
        manifest = json.loads((run / "manifest.json").read_text())
        assert manifest["status"] == "finished"
        if "dpo" in stage.stem:
            assert manifest["results"]["train_loss"] == pytest.approx(0.693147, abs=2e-3)
            assert "DPO on a raw base" not in result.err
    if recipe == "zephyr-7b":
        saved = json.loads(Path("runs/zephyr-7b-dpo/adapter_config.json").read_text())
        assert saved["r"] == 16 + 128
        assert json.loads(Path("runs/zephyr-7b-dpo/manifest.json").read_text())["precision"]["name"] == "4bit"


@pytest.mark.parametrize("recipe", FOLDERS)
def test_the_recipe_has_a_readme_and_a_script_that_runs_its_stages(recipe: str) -> None:
    folder = RECIPES / recipe
    script = (folder / "run.sh").read_text()
    assert os.access(folder / "run.sh", os.X_OK)
    for stage in stages(recipe):
        assert f"recipes/{recipe}/{stage.name}" in script
    assert (folder / "README.md").is_file()
    assert f"[{recipe}]({recipe}/README.md)" in (RECIPES / "README.md").read_text()


def test_zephyrs_numbers_are_the_handbooks() -> None:
    sft, dpo = (yaml.safe_load((RECIPES / "zephyr-7b" / f).read_text()) for f in ("1-sft.yaml", "2-dpo.yaml"))
    assert (sft["peft"]["r"], sft["peft"]["alpha"], sft["args"]["learning_rate"]) == (16, 16, 2e-4)
    assert (dpo["peft"]["r"], dpo["peft"]["alpha"], dpo["args"]["learning_rate"]) == (128, 128, 5e-6)
    assert (dpo["args"]["beta"], dpo["start"]) == (0.01, "merge")


def test_dpo_on_mistral_alone_is_complete_and_warns(tunekit, tmp_path: Path) -> None:
    words = miniatures.replaced("mistral-7b", "ultrafeedback-binarized", tmp_path)
    result = tunekit("method=dpo", "model=mistral-7b", *words)
    assert result.code == 0, result.err
    assert "MT-Bench 4.76" in result.err
    assert "`recipes/zephyr-7b` does both stages" in result.err
    assert Path("runs/dpo-mistral-7b-ultrafeedback-binarized/adapter_model.safetensors").is_file()
