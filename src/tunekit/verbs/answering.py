"""What chat and evaluate share: a model with its adapter, and an answer to a conversation."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch

from tunekit import artifact, hardware, models
from tunekit.artifact import Trained
from tunekit.config import Model, Peft, Precision
from tunekit.errors import ArtifactError, ConfigError, DataError, HardwareError
from tunekit.models import adapters
from tunekit.rows import BadRow, Message
from tunekit.template import ChatTemplate


@dataclass
class Opened:
    weights: Any
    template: ChatTemplate
    model: Model
    trained: Trained | None
    precision: str


def open_model(adapter: str | None, model: Model | None, precision: Precision) -> Opened:
    """A base, or an adapter on its base. A run of ours names its base; an adapter from elsewhere is never followed."""
    trained = artifact.read(adapter) if adapter else None
    if trained is None and model is None:
        raise ConfigError("nothing to open: adapter=runs/NAME, or model=PRESET for a base alone")
    if trained is not None:
        adapters.check(trained.path)
    preset = model or (trained.model if trained else None)
    if preset is None:
        assert trained is not None
        raise ArtifactError(
            f"adapter={adapter} was not made by tunekit, so its base is not taken on trust "
            f"(it names {adapters.named_base(trained.path)!r}); say which with model="
        )
    template = models.load_template(preset)
    name = _precision(precision, trained, preset)
    if trained is not None:
        trained.check_template(preset)
        adapters.check_base(trained.path, trained.base, models.base_of(preset))
    weights = models.load_weights(preset, name, precision)
    if trained is not None:
        weights = models.with_adapter(weights, trained.path)
    return Opened(weights.eval(), template, preset, trained, name)


def _precision(asked: Precision, trained: Trained | None, preset: Model) -> str:
    """As asked; `auto` is what the adapter was trained at, where this machine can do that."""
    found = hardware.detect()
    if asked.name == "auto" and trained is not None and trained.manifest is not None:
        with suppress(HardwareError):
            before = replace(asked, name=trained.manifest["precision"]["name"])
            return hardware.choose(before, Peft("lora"), preset, found)[0]
    return hardware.choose(asked, Peft("lora"), preset, found)[0]


@torch.no_grad()
def answer(
    opened: Opened,
    messages: list[Message],
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    repetition_penalty: float = 1.0,
    streamer: Any = None,
) -> str:
    """The next assistant turn, stopped where training stopped. Temperature 0 takes the likeliest token."""
    try:
        ids = torch.tensor([opened.template.prompt_ids(messages)], device=opened.weights.device)
    except BadRow as error:
        raise DataError(str(error)) from error
    sampling = (
        {"do_sample": True, "temperature": temperature, "top_p": top_p} if temperature > 0 else {"do_sample": False}
    )
    out = opened.weights.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=max_new_tokens,
        eos_token_id=opened.template.stop_ids,
        pad_token_id=opened.template.tokenizer.pad_token_id,
        streamer=streamer,
        repetition_penalty=repetition_penalty,
        **sampling,
    )
    return str(opened.template.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)).strip()


def without_adapter(opened: Opened, work: Callable[[], Any]) -> Any:
    """`work` on the base alone."""
    if not hasattr(opened.weights, "disable_adapter"):
        return work()
    with opened.weights.disable_adapter():
        return work()
