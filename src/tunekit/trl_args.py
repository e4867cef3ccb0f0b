"""What `args.` may hold: the fields of TRL's config classes, read from the installed source without importing it.

Importing `trl` takes seconds (20 on a cold disk); parsing four files with `ast` takes 0.03 s, so a typo is answered at
once. Field names are TRL's, verbatim. Tested against the real dataclasses in tests/test_trl_args.py.
"""

import ast
import math
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tunekit.config import describe
from tunekit.errors import did_you_mean

# Fields tunekit sets itself, and the key that does it.
OWNED = {
    "output_dir": "out=",
    "run_name": "name=",
    "seed": "seed=",
    "data_seed": "seed=",
    "full_determinism": "seed= (one device is deterministic already)",
    "bf16": "precision=bf16",
    "fp16": "precision=fp16",
    "bf16_full_eval": "precision=bf16",
    "fp16_full_eval": "precision=fp16",
    "use_cpu": "nothing: the device is found",
    "report_to": "nothing: metrics.jsonl holds them; trackers come with tracking=",
    "push_to_hub": "nothing: sharing is a command of its own",
    "hub_model_id": "nothing: sharing is a command of its own",
    "hub_token": "the environment variable HF_TOKEN",
    "hub_strategy": "nothing: sharing is a command of its own",
    "hub_private_repo": "nothing: sharing is a command of its own",
    "hub_always_push": "nothing: sharing is a command of its own",
    "hub_revision": "nothing: sharing is a command of its own",
    "chat_template_path": "model.template=",
    "eos_token": "model.template=: the stop token is the one the template ends an answer with",
    "pad_token": "nothing: padding is masked by position",
    "assistant_only_loss": "nothing: only answers are learned, stop token included",
    "completion_only_loss": "nothing: only answers are learned, stop token included",
    "dataset_text_field": "dataset.format=",
    "dataset_kwargs": "dataset.*",
    "truncation_mode": "dataset.on_long=",
    "model_init_kwargs": "model.* and precision=",
    "trust_remote_code": "nothing: code from the hub is never run",
    "resume_from_checkpoint": "nothing: the same command resumes",
    "do_train": "nothing: `train` trains",
    "do_eval": "args.eval_strategy=",
    "do_predict": "the verb evaluate",
    "remove_unused_columns": "nothing: only the needed columns are made",
    "disable_tqdm": "nothing: the bar is shown only in a terminal",
    "label_names": "nothing: the method knows its columns",
    "deepspeed": "nothing: sharded training is not supported yet",
    "fsdp": "nothing: sharded training is not supported yet",
    "fsdp_config": "nothing: sharded training is not supported yet",
    "auto_find_batch_size": "args.per_device_train_batch_size= (it would change the batch in silence)",
}

# Names of 2023 that were removed or renamed since; the number one complaint of TRL's users.
RENAMED = {
    "max_seq_length": "max_length",
    "max_prompt_length": "max_length (it bounds prompt and answer together)",
    "max_completion_length": "max_length (it bounds prompt and answer together)",
    "warmup_ratio": "warmup_steps: a number below 1 is the share of all steps",
    "evaluation_strategy": "eval_strategy",
    "group_by_length": "train_sampling_strategy=group_by_length",
    "rpo_alpha": "loss_type=[sigmoid,sft] with loss_weights=[1.0,alpha]",
    "torch_dtype": "the tunekit key precision=",
    "overwrite_output_dir": "the tunekit key overwrite=true",
    "no_cuda": "nothing: the device is found",
    "logging_dir": "the tunekit key out=",
    "batch_size": "per_device_train_batch_size",
    "epochs": "num_train_epochs",
    "lr": "learning_rate",
}

# Least value of the numbers that libraries reject late, or not at all (0 epochs "trains" and exits 0).
AT_LEAST = {
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "max_length": 2,
    "learning_rate": 0.0,
    "beta": 0.0,
    "logging_steps": 0.0,
}


@cache
def known(trl: str) -> dict[str, str]:
    """Field name -> its annotation as written, for the config of `trl/trainer/<trl>_config.py` and its bases."""
    sources = [
        _package("transformers") / "training_args.py",
        _package("trl") / "trainer" / "base_config.py",
        _package("trl") / "trainer" / f"{trl}_config.py",
    ]
    found: dict[str, str] = {}
    for source in sources:
        for node in ast.parse(source.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and any("dataclass" in ast.unparse(d) for d in node.decorator_list):
                for item in node.body:
                    if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                        found[item.target.id] = ast.unparse(item.annotation)
    return found


def _package(name: str) -> Path:
    spec = find_spec(name)
    assert spec is not None and spec.origin is not None, f"{name} is not installed"
    return Path(spec.origin).parent


def problems(trl: str, args: Mapping[str, Any]) -> list[str]:
    """One line for each of `args` that TRL would not take, takes in silence and ignores, or that tunekit owns."""
    return [line for name in args if (line := _problem(trl, name, args))]


def _problem(trl: str, name: str, args: Mapping[str, Any]) -> str | None:
    fields, owner, value = known(trl), f"{trl.upper()}Config", args[name]
    if name in OWNED:
        return f"args.{name}: set by tunekit; use {OWNED[name]}"
    if name not in fields:
        if name in RENAMED:
            return f"args.{name}: gone from {owner}; use {RENAMED[name]}"
        return f"args.{name}: {owner} has no such field{did_you_mean(name, set(fields) - set(OWNED))}"
    if not _fits(fields[name], value):
        plain = _as_number(value)
        cure = f": write {plain} without quotes" if plain and "str" not in fields[name] else ""
        return f"args.{name}: {describe(value)}, but {owner} wants {fields[name]}{cure}"
    if isinstance(value, float) and not math.isfinite(value):
        return f"args.{name}={value}: is not a finite number"
    if name in AT_LEAST and isinstance(value, int | float) and value < AT_LEAST[name]:
        return f"args.{name}={value}: must be at least {AT_LEAST[name]:g}"
    if name == "num_train_epochs" and value is not None and value <= 0:
        return f"args.num_train_epochs={value}: must be above 0"
    if name == "max_steps" and value == 0:
        return "args.max_steps=0: trains nothing; give a number of steps, or -1 for whole epochs"
    if name == "packing_strategy" and value == "wrapped":
        return "args.packing_strategy=wrapped: it cuts answers and lets documents see each other; use bfd"
    if name == "label_smoothing" and trl == "dpo" and value and args.get("loss_type") in (None, "sigmoid", ["sigmoid"]):
        return "args.label_smoothing: TRL 1.16 ignores it for loss_type sigmoid; use loss_type=[robust], or leave it 0"
    return None


def _fits(annotation: str, value: Any) -> bool:
    if value is None:
        return True  # null means: TRL's own default
    if isinstance(value, bool):
        return "bool" in annotation
    if isinstance(value, int):
        return "int" in annotation or "float" in annotation
    if isinstance(value, float):
        return "float" in annotation
    if isinstance(value, list):
        return "list" in annotation
    if isinstance(value, dict):
        return "dict" in annotation
    return any(kind in annotation for kind in ("str", "Strategy", "Type", "list"))


def _as_number(value: Any) -> str | None:
    """Text that was meant as a number."""
    if not isinstance(value, str):
        return None
    try:
        float(value)
    except ValueError:
        return None
    return value
