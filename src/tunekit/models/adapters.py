"""Adapter weights on disk: read, checked against the base they belong to, joined."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig
from safetensors.torch import load_file, save_file

from tunekit.config import Model, Peft
from tunekit.errors import ModelError
from tunekit.policy import Base

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
# Fields of LoraConfig that make an adapter more than one A and one B a module with one scale.
NOT_PLAIN = (
    "use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "modules_to_save", "fan_in_fan_out",
    "trainable_token_indices", "target_parameters",
)  # fmt: skip


def new(peft: Peft, model: Model) -> LoraConfig:
    """A LoRA adapter as the preset describes it: B starts at zero, so the first step sees the base."""
    return LoraConfig(
        r=peft.r,
        lora_alpha=peft.alpha,
        lora_dropout=peft.dropout,
        target_modules=list(peft.targets or model.lora_targets),
        task_type="CAUSAL_LM",
    )


def check(adapter: Path) -> None:
    """Raises ModelError where `adapter` is no folder of adapter weights in safetensors."""
    if not (adapter / CONFIG).is_file():
        what = "is a whole model, not an adapter; use model.path=" if (adapter / "config.json").is_file() else (
            "holds no adapter_config.json" if adapter.is_dir() else "no such folder"
        )  # fmt: skip
        raise ModelError(f"adapter={adapter}: {what}")
    if not (adapter / WEIGHTS).is_file():
        raise ModelError(f"adapter={adapter}: holds no {WEIGHTS}; pickled weights (.bin) are not loaded")


def check_base(adapter: Path, trained_on: Base | None, base: Base) -> None:
    """Raises ModelError where the adapter is known to belong to other weights than `base`."""
    if trained_on is None:
        return
    known = bool(trained_on.digest and base.digest)
    names = [(b.public_name, b.revision) for b in (trained_on, base)]
    if trained_on.digest != base.digest if known else names[0] != names[1]:
        verdict = "whose weights differ from those" if known else "and nothing here shows that its weights equal those"
        raise ModelError(
            f"adapter={adapter} was trained on {trained_on.name} ({trained_on.public_name}), {verdict} of {base.name} "
            f"({base.public_name}); use model={trained_on.name}"
        )


def joined(first: Path, second: Path, out: Path, public_name: str) -> None:
    """One adapter over the original base that equals `second` on top of the merged `first`, exactly.

    (W + s1 B1 A1) + s2 B2 A2 = W + [s1 B1, s2 B2] [A1; A2]: ranks add up, and the scale moves into B.
    """
    (config1, weights1), (config2, weights2) = read(first), read(second)
    rank1, rank2 = config1.r, config2.r
    result: dict[str, torch.Tensor] = {}
    for key in sorted({k for k in (*weights1, *weights2) if ".lora_A." in k}):
        b_key = key.replace(".lora_A.", ".lora_B.")
        a1, b1 = _factors(weights1, key, b_key, rank1, like=(weights2, key, b_key))
        a2, b2 = _factors(weights2, key, b_key, rank2, like=(weights1, key, b_key))
        result[key] = torch.cat([a1, a2], dim=0).contiguous()
        result[b_key] = torch.cat(
            [b1 * config1.lora_alpha / rank1, b2 * config2.lora_alpha / rank2], dim=1
        ).contiguous()
    targets = sorted({key.split(".")[-3] for key in result})
    config = LoraConfig(
        r=rank1 + rank2, lora_alpha=rank1 + rank2, lora_dropout=config2.lora_dropout, target_modules=targets,
        task_type="CAUSAL_LM", base_model_name_or_path=public_name, inference_mode=True,
    )  # fmt: skip
    config.save_pretrained(str(out))
    save_file(result, out / WEIGHTS, metadata={"format": "pt"})


def check_joinable(folder: Path) -> LoraConfig:
    """Raises ModelError where an adapter is more than plain A and B matrices with one rank and scale."""
    config = PeftConfig.from_pretrained(str(folder))
    found = [name for name in NOT_PLAIN if getattr(config, name, None)]
    if not isinstance(config, LoraConfig) or config.bias != "none" or found:
        raise ModelError(
            f"adapter={folder}: only plain LoRA adapters can be merged and joined with a new one "
            f"(this one has {', '.join(found) or config.peft_type.value}); use start=continue"
        )
    return config


def read(folder: Path) -> tuple[LoraConfig, dict[str, torch.Tensor]]:
    return check_joinable(folder), {k: v.float() for k, v in load_file(folder / WEIGHTS).items()}


def continued(folder: Path, peft: Peft) -> Peft:
    """`peft` as the adapter that goes on has it: rank and scale cannot change under way."""
    config = PeftConfig.from_pretrained(str(folder))
    if not isinstance(config, LoraConfig):
        raise ModelError(
            f"adapter={folder}: is of the kind {config.peft_type.value}; only LoRA adapters go on learning"
        )
    return replace(peft, r=config.r, alpha=float(config.lora_alpha), dropout=config.lora_dropout, targets=None)


def digest(folder: Path) -> str:
    """sha256 of the adapter's weights."""
    return hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()


def _factors(
    weights: dict[str, torch.Tensor], a_key: str, b_key: str, rank: int, like: tuple[dict[str, torch.Tensor], str, str]
) -> tuple[torch.Tensor, torch.Tensor]:
    """A and B of one module; zeros where this adapter leaves the module alone."""
    if a_key in weights:
        return weights[a_key], weights[b_key]
    other, a_like, b_like = like
    return torch.zeros(rank, other[a_like].shape[1]), torch.zeros(other[b_like].shape[0], rank)


def named_base(folder: Path) -> Any:
    """The base an adapter from elsewhere names, to be shown and never followed."""
    try:
        return json.loads((folder / CONFIG).read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError):
        return None
