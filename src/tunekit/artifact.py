"""What a run leaves, and how it is read back.

runs/<name>/adapter_model.safetensors, adapter_config.json   (a full fine-tuning: the model's own files)
            tokenizer files with the chat template, generation_config.json with the stop tokens
            config.yaml     the resolved job
            manifest.json   versions, hardware, precision and why, data fingerprint, seed, command, results
            metrics.jsonl   one line a log event
            README.md       the card, with the run's own numbers
            checkpoints/    only while it trains, or was stopped
"""

import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from tunekit.config import Model, Train, typed
from tunekit.errors import ArtifactError, RunExists
from tunekit.policy import Base

LIBRARIES = ("torch", "transformers", "peft", "trl", "datasets", "accelerate", "bitsandbytes", "hydra-core")
NOT_IDENTITY = ("name", "out", "overwrite")  # where a run lies is not what it is


@dataclass
class RunFolder:
    """A claimed folder: ours to write."""

    path: Path
    config: dict[str, Any]
    manifest: dict[str, Any]
    replaces: bool = False  # overwrite=true: what lies there goes when this run begins

    def begin(self) -> None:
        """Make the folder. Not before everything that can be checked has been: a refused job leaves nothing behind."""
        if self.replaces:
            shutil.rmtree(self.path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunExists(f"{self.path}: cannot be made ({error.strerror}); choose another out=") from error
        (self.path / "config.yaml").write_text(yaml.safe_dump(self.config, sort_keys=False), encoding="utf-8")
        self.note(status="running")

    @property
    def finished(self) -> bool:
        return self.manifest.get("status") == "finished"

    @property
    def checkpoint(self) -> Path | None:
        """The newest checkpoint by number, to resume from."""
        found = [(int(p.name.split("-")[1]), p) for p in (self.path / "checkpoints").glob("checkpoint-*[0-9]")]
        return max(found)[1] if found else None

    def check_inputs(self, name: str, now: str) -> None:
        """Raises RunExists where the rows or the adapter that this run was begun with have changed since."""
        before = self.manifest.get("inputs", {}).get(name, now)
        if before != now:
            raise RunExists(
                f"{self.path} was begun with another {name} (sha256 {before[:12]} then, {now[:12]} now); "
                "overwrite=true trains it anew"
            )

    def note(self, **facts: Any) -> None:
        """Add to the manifest, atomically."""
        self.manifest.update(facts)
        write_json(self.path / "manifest.json", self.manifest)


def claim(job: Train, command: str) -> RunFolder:
    """The folder of this job: new, to be resumed, or finished; nothing is written. Raises RunExists where it belongs
    to another job."""
    config = {k: v for k, v in asdict(job).items() if k not in NOT_IDENTITY}
    base = Path(job.out).expanduser() if job.out else Path("runs") / (job.name or _default_name(job))
    named = bool(job.out or job.name)
    for attempt in range(1, 1000):
        path = base if attempt == 1 else base.with_name(f"{base.name}-{attempt}")
        before = _read_json(path / "manifest.json")
        if before is None and (not path.exists() or _is_empty(path)):
            return _new(path, config, command)
        if before is None:
            raise RunExists(f"{path}: exists and is no run of tunekit; choose another name= or out=")
        differences = _differences(before.get("config", {}), config)
        if not differences and not job.overwrite:
            return RunFolder(path, config, before)
        if job.overwrite and (named or not differences):
            return _new(path, config, command, replaces=True)
        if named:
            raise RunExists(
                f"{path} belongs to another run; it differs in\n  " + "\n  ".join(differences) + "\n"
                "choose another name=, set overwrite=true to replace it, or repeat its own command to go on"
            )
    raise RunExists(f"{base}: a thousand runs have this name; choose another with name=")


def _default_name(job: Train) -> str:
    dataset = Path(job.dataset.path).stem if job.dataset.name == "file" else job.dataset.name
    return f"{job.method.name}-{job.model.name}-{dataset}"


def _new(path: Path, config: dict[str, Any], command: str, replaces: bool = False) -> RunFolder:
    manifest = {
        "status": "new",
        "command": command,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": {
            "tunekit": version("tunekit"), "python": platform.python_version(), **{n: version(n) for n in LIBRARIES}
        },
        "seed": config["seed"],
        "config": config,
    }  # fmt: skip
    return RunFolder(path, config, manifest, replaces)


def finish(folder: RunFolder, results: Mapping[str, float], base: Base, seconds: float) -> None:
    """The run is whole: numbers, card, no checkpoints (they hold pickles, and the adapter lies beside them)."""
    folder.note(results=dict(results), seconds=round(seconds, 1), base=asdict(base))
    (folder.path / "README.md").write_text(card(folder.manifest, base), encoding="utf-8")
    folder.note(status="finished")
    shutil.rmtree(folder.path / "checkpoints", ignore_errors=True)


def card(manifest: Mapping[str, Any], base: Base) -> str:
    """A short model card. Only public names: no path of this machine."""
    config = manifest["config"]
    method, dataset = config["method"]["name"], config["dataset"]
    full = config["peft"]["name"] == "none"
    hub_data = dataset["path"] if "/" in dataset["path"] and not Path(dataset["path"]).exists() else None
    bundled = dataset["path"].startswith("recipes/")
    front: dict[str, Any] = {"license": config["model"]["licence"], "tags": ["tunekit", method]}
    if not full:
        front["library_name"] = "peft"
    if ":" not in base.public_name and "/" in base.public_name:
        front["base_model"] = base.public_name
    if hub_data and not bundled:
        front["datasets"] = [hub_data]
    rows = manifest["data"]
    results = manifest.get("results", {})
    names = {
        "eval_loss": "held-out loss (mean over batches)", "eval_rewards/accuracies": "held-out reward accuracy",
        "eval_rewards/margins": "held-out reward margin", "train_loss": "training loss (mean)",
    }  # fmt: skip
    table = [f"| {title} | {results[key]:.4f} |" for key, title in names.items() if key in results]
    load = (
        'model = AutoModelForCausalLM.from_pretrained("THIS_FOLDER")' if full else
        f'base = AutoModelForCausalLM.from_pretrained("{base.public_name}")\n'
        'model = PeftModel.from_pretrained(base, "THIS_FOLDER")'
    )  # fmt: skip
    imports = "from transformers import AutoModelForCausalLM, AutoTokenizer"
    return "\n".join([
        "---", yaml.safe_dump(front, sort_keys=False).strip(), "---", "",
        f"# {method.upper()} of {base.name}", "",
        f"{'Weights' if full else 'Adapter (' + config['peft']['name'] + ')'} for `{base.public_name}`"
        f"{' at revision ' + base.revision if base.revision else ''}, trained with tunekit "
        f"{manifest['versions']['tunekit']} by {method} on {dataset['name']}: {rows['train']:,} rows, "
        f"{rows['heldout']:,} held out (data licence: {dataset['licence'] or 'not stated'}).", "",
        "| | |", "| --- | --- |", *table,
        f"| precision | {manifest['precision']['name']} |",
        f"| learning rate | {config['args'].get('learning_rate')} |",
        f"| seed | {manifest['seed']} |", "",
        "```python", imports if full else "from peft import PeftModel\n" + imports, "", load,
        'tokenizer = AutoTokenizer.from_pretrained("THIS_FOLDER")  # with the chat template it was trained on', "```", "",
        "`manifest.json` holds versions, hardware, seed and the fingerprint of the data; `config.yaml` the whole job.", "",
    ])  # fmt: skip


@dataclass(frozen=True)
class Trained:
    """An adapter (or weights) on disk and, if tunekit made it, what its manifest says."""

    path: Path
    manifest: dict[str, Any] | None

    @property
    def base(self) -> Base | None:
        return Base(**self.manifest["base"]) if self.manifest and "base" in self.manifest else None

    @property
    def model(self) -> Model | None:
        """The base's preset as the run resolved it."""
        return typed(Model, self.manifest["config"]["model"]) if self.manifest else None

    def check_template(self, model: Model) -> None:
        """Raises ArtifactError where the adapter learned another chat template than `model` would bring."""
        learned = self.model.template if self.model else model.template
        if learned != model.template:
            raise ArtifactError(
                f"adapter={self.path} learned the chat template {learned}, and model={model.name} brings "
                f"{model.template}: it would read text unlike its training's; use model.template={learned}"
            )


def read(adapter: str) -> Trained:
    """An adapter folder. Raises ArtifactError where there is none, or where it is an unfinished run."""
    path = Path(adapter).expanduser()
    if not path.is_dir():
        runs = sorted(str(p.parent) for p in path.parent.glob("*/manifest.json"))
        here = f"; runs beside it: {', '.join(runs[:5])}" if runs else ""
        raise ArtifactError(f"adapter={adapter}: no such folder{here}")
    manifest = _read_json(path / "manifest.json")
    if manifest is not None and manifest.get("status") != "finished":
        raise ArtifactError(
            f"adapter={adapter}: this run is not finished; its command goes on with it: {manifest.get('command')}"
        )
    return Trained(path, manifest)


def write_json(file: Path, content: Any) -> None:
    """Atomically: a reader sees the old file or the new one, never half of it."""
    handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}-")
    with os.fdopen(handle, "w", encoding="utf-8") as out:
        json.dump(content, out, indent=2, ensure_ascii=False)
        out.write("\n")
    Path(temporary).chmod(0o644)
    Path(temporary).replace(file)


def _read_json(file: Path) -> dict[str, Any] | None:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise ArtifactError(f"{file}: damaged ({error})") from error


def _is_empty(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            result.update(_flat(value, f"{prefix}{key}."))
        else:
            result[f"{prefix}{key}"] = value
    return result


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    old, new = _flat(before), _flat(now)
    return [f"{k}: {old.get(k)} there, {new.get(k)} here" for k in sorted({*old, *new}) if old.get(k) != new.get(k)]
