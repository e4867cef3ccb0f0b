"""What models/ makes and methods/ trains."""

from dataclasses import dataclass
from typing import Any

from tunekit.template import ChatTemplate


@dataclass(frozen=True)
class Base:
    """Which weights an adapter belongs to, in words that mean the same on every machine."""

    name: str  # the preset
    public_name: str  # hub id, or where else anyone can get it; never a local path
    revision: str | None
    digest: str | None  # sha256 of the weights where they lie on this disk, else null


@dataclass
class Policy:
    """The model to train and everything its method needs to know of it."""

    model: Any  # a transformers model, or a PeftModel that goes on learning
    template: ChatTemplate
    base: Base
    new_adapter: Any | None = None  # a peft config for the trainer to add; null: full weights, or `model` has one
    reference: Any | None = None  # the frozen reference of a full fine-tuning with a preference method
    merged_adapter: str | None = None  # start=merge: the adapter that lies merged in `model`
