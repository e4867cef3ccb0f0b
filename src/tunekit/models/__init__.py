"""From a model preset to a policy: tokenizer and template, base at a precision, adapter to continue or to add.

template = load_template(model)                     no weights yet
policy = load(model, template, "4bit", ...)
save(policy, trained, folder)
"""

import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import torch
import transformers
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, GenerationConfig

from tunekit.config import Model, Peft, Precision
from tunekit.errors import ModelError
from tunekit.models import adapters
from tunekit.models.builders import BUILDERS, build, weights_digest
from tunekit.models.tokenizers import apply
from tunekit.paths import cache
from tunekit.policy import Base, Policy
from tunekit.template import ChatTemplate

transformers.utils.logging.disable_progress_bar()


def load_template(model: Model) -> ChatTemplate:
    """The tokenizer and chat template of a preset."""
    source, revision = _source(model)
    with _hub_errors(model):
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
    return apply(tokenizer, model)


def base_of(model: Model) -> Base:
    """Which weights the preset means, in words that hold on every machine."""
    if model.path is None:
        assert model.builder is not None
        return Base(model.name, BUILDERS[model.builder].public_name, None, weights_digest(build(model.builder)))
    folder = Path(model.path).expanduser()
    if folder.is_dir():
        return Base(model.name, folder.resolve().name, None, weights_digest(folder))
    return Base(model.name, model.path, model.revision, None)


def check_start(model: Model, peft: Peft, adapter: Path, start: str, trained_on: Base | None) -> Peft:
    """What can be known of a starting adapter before weights load; returns `peft` as it will be. Raises ModelError."""
    adapters.check(adapter)
    adapters.check_base(adapter, trained_on, base_of(model))
    if start == "merge":
        adapters.check_joinable(adapter)
        return peft
    if peft.name == "none":
        raise ModelError("adapter= with peft=none: full fine-tuning has no adapter to continue; use start=merge")
    return adapters.continued(adapter, peft)


def load(
    model: Model,
    template: ChatTemplate,
    precision: str,
    quantisation: Precision,
    peft: Peft,
    adapter: Path | None = None,
    start: str = "continue",
) -> Policy:
    """The policy to train; `check_start` has looked at `adapter` before."""
    policy = Policy(None, template, base_of(model))
    if adapter is not None and start == "merge":
        weights = _load_merged(model, adapter, precision, quantisation, peft)
        return replace(policy, model=weights, new_adapter=_new(peft, model), merged_adapter=str(adapter))
    weights = load_weights(model, precision, quantisation, masters=peft.name == "none")
    if adapter is not None:
        return replace(policy, model=with_adapter(weights, adapter, trainable=True))
    return replace(policy, model=weights, new_adapter=_new(peft, model))


def _new(peft: Peft, model: Model) -> Any:
    return None if peft.name == "none" else adapters.new(peft, model)


def load_weights(
    model: Model, precision: str, quantisation: Precision, masters: bool = False, source: str | None = None
) -> Any:
    """A base on its device at `precision`. `masters`: keep fp32 weights for full fine-tuning.

    At a learning rate of 5e-7 an update is smaller than bf16 can hold: 99 % of pure bf16 weights never moved.
    """
    origin, revision = (source, None) if source else _source(model)
    on_gpu = torch.cuda.is_available()
    half = torch.bfloat16 if on_gpu and torch.cuda.is_bf16_supported() else torch.float32
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "8bit": half, "4bit": half}
    options: dict[str, Any] = {"dtype": torch.float32 if masters else dtypes[precision]}
    if precision == "4bit":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=quantisation.quant_type,
            bnb_4bit_use_double_quant=quantisation.double_quant,
            bnb_4bit_compute_dtype=half,
        )
    if precision == "8bit":
        options["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True)
    if on_gpu:
        options["device_map"] = {"": int(os.environ.get("LOCAL_RANK", "0"))}
    with _hub_errors(model):
        weights, info = AutoModelForCausalLM.from_pretrained(
            origin, revision=revision, output_loading_info=True, **options
        )
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise ModelError(f"model={model.name}: {len(missing)} tensors are missing from its weights, e.g. {missing[0]}")
    for module in weights.modules():
        # On CPUs with AVX512-BF16, bitsandbytes 0.50 repacks a 4-bit weight at the first forward without gradient: its
        # constants are rounded to bf16, so a held-out measurement would change the model, and rows shorter than a block
        # of 64 crash. Off until it does neither.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    weights.config._name_or_path = weights.name_or_path = base_of(model).public_name  # what adapters and cards say
    return weights


def with_adapter(weights: Any, adapter: Path, trainable: bool = False, name: str = "default") -> Any:
    """A PeftModel: `weights` with the adapter of a folder. Raises ModelError where they do not fit."""
    adapters.check(adapter)
    try:
        if isinstance(weights, PeftModel):
            weights.load_adapter(str(adapter), adapter_name=name, is_trainable=trainable)
            return weights
        return PeftModel.from_pretrained(weights, str(adapter), adapter_name=name, is_trainable=trainable)
    except (RuntimeError, ValueError) as error:
        first = str(error).strip().splitlines()
        raise ModelError(f"adapter={adapter} does not fit {weights.name_or_path}: {' '.join(first[:2])}") from error


def _load_merged(model: Model, adapter: Path, precision: str, quantisation: Precision, peft: Peft) -> Any:
    """The base with the adapter merged in fp32 (where memory allows, else as stored), then loaded as asked for."""
    source, revision = _source(model)
    roomy = 4 * model.parameters < 0.6 * psutil.virtual_memory().available
    with _hub_errors(model):
        whole = AutoModelForCausalLM.from_pretrained(
            source, revision=revision, dtype=torch.float32 if roomy else "auto"
        )
    whole.name_or_path = whole.config._name_or_path = base_of(model).public_name
    merged = with_adapter(whole, adapter).merge_and_unload(safe_merge=True)
    cache().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".merged-", dir=cache()) as folder:  # bitsandbytes quantises from disk
        merged.save_pretrained(folder)
        return load_weights(model, precision, quantisation, masters=peft.name == "none", source=folder)


def save(policy: Policy, trained: Any, folder: Path) -> None:
    """What chat, evaluate and plain transformers + peft load: adapter (or weights), tokenizer, stop tokens."""
    if not isinstance(trained, PeftModel):
        trained.save_pretrained(folder)
    elif policy.merged_adapter is None:
        _save_adapter(trained, folder)
    else:
        with tempfile.TemporaryDirectory() as second:
            _save_adapter(trained, Path(second))
            adapters.joined(Path(policy.merged_adapter), Path(second), folder, policy.base.public_name)
    policy.template.tokenizer.save_pretrained(folder)
    stops = policy.template.stop_ids
    GenerationConfig(
        eos_token_id=stops, pad_token_id=policy.template.tokenizer.pad_token_id, bos_token_id=None
    ).save_pretrained(folder)


def _save_adapter(trained: Any, folder: Path) -> None:
    # Not save_embedding_layers="auto": it asks the hub for the base's config at every save.
    trained.save_pretrained(str(folder), selected_adapters=["default"], save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty card


def _source(model: Model) -> tuple[str, str | None]:
    """What from_pretrained takes: a folder or hub id, and a revision."""
    if model.path is None:
        if model.builder not in BUILDERS:
            raise ModelError(f"model={model.name}: it has neither path nor a builder ({', '.join(BUILDERS)})")
        return str(build(model.builder)), None
    folder = Path(model.path).expanduser()
    if folder.is_dir():
        if (folder / adapters.CONFIG).is_file():
            raise ModelError(
                f"model.path={model.path}: is an adapter; use adapter={model.path} with its base as model="
            )
        return str(folder), None
    if model.path.startswith((".", "/", "~")):
        raise ModelError(f"model.path={model.path}: no such folder")
    return model.path, model.revision


class _hub_errors:
    """Turns the many ways in which a hub fails into one sentence."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, OSError | ValueError):
            return
        text = str(error)
        if "gated" in text or "401" in text or "403" in text:
            raise ModelError(
                f"model={self.model.name}: the hub wants a login for {self.model.path}; accept its licence on "
                f"https://huggingface.co/{self.model.path} and set HF_TOKEN"
            ) from error
        if "connect" in text.lower() or "offline" in text.lower() or "couldn't" in text.lower():
            raise ModelError(
                f"model={self.model.name}: {self.model.path} is not on this machine and the hub cannot be reached; "
                "check the network, or give a copy: model.path=FOLDER"
            ) from error
        raise ModelError(f"model={self.model.name}: {text.strip().splitlines()[0] if text else error!r}") from error
