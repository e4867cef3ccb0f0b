"""What every method shares: TRL's config filled in, and the four things tunekit changes in every TRL trainer.

TRL private parts leaned on (trl 1.16, pinned in pyproject.toml; tests/test_house.py fails when one moves):
`_send_telemetry`, `create_model_card`, `Trainer._save`, and `FusedCausalLMOutput` with `add_fused_lm_head`.
"""

from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from datasets import Dataset
from peft import PeftModel
from transformers import PrinterCallback
from trl.trainer.utils import FusedCausalLMOutput

from tunekit.errors import ConfigError
from tunekit.losses.head import add_selective_head
from tunekit.rows import Encoded


def config(config_class: Any, args: dict[str, Any], *, out: Path, seed: int, precision: str, device: str) -> Any:
    """TRL's config: the user's `args` verbatim, and the fields tunekit owns (trl_args.OWNED). Raises ConfigError."""
    given = {k: v for k, v in args.items() if v is not None or k == "max_length"}
    half_gpu = device == "cuda" and precision in ("8bit", "4bit")
    bf16 = precision == "bf16" or (half_gpu and torch.cuda.is_bf16_supported())
    defaults = {
        # Recomputing activations costs a third more time; worth it only where memory is short.
        "gradient_checkpointing": device == "cuda",
        "logging_first_step": True,
        "dataloader_pin_memory": device == "cuda",
    }
    owned = {
        "output_dir": str(out / "checkpoints"),
        "seed": seed,
        "data_seed": seed,
        "use_cpu": device == "cpu",
        "bf16": bf16,
        "fp16": precision == "fp16" or (half_gpu and not bf16),
        "report_to": "none",
        "disable_tqdm": True,
        "logging_nan_inf_filter": False,  # it would hide a NaN loss behind the last good value
    }
    try:
        return config_class(**{**defaults, **given, **owned})
    except (ValueError, TypeError) as error:
        raise ConfigError(f"args: {config_class.__name__} refuses them: {error}") from error


def dataset(encoded: Encoded) -> Dataset:
    return Dataset.from_dict({k: [np.asarray(ids, dtype=np.int64) for ids in v] for k, v in encoded.columns.items()})


def _is_peft(model: Any) -> bool:
    return isinstance(model, PeftModel)


class House:
    """Mixed in before a TRL trainer."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        model, trainer = kwargs["model"], cast(Any, self)
        # TRL casts the adapters of a quantised base to bf16 (sft_trainer.py:908), after DPO's reference was copied. At a
        # learning rate of 5e-6 bf16 would swallow most updates, and a continued adapter would no longer start at ln 2.
        exact = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad and _is_peft(model)}
        super().__init__(*args, **kwargs)
        trainer.remove_callback(PrinterCallback)
        base = trainer.model.get_base_model() if _is_peft(trainer.model) else trainer.model
        for model in (base, getattr(trainer, "ref_model", None)):
            if model is not None and not getattr(trainer, "use_weighting", False):
                add_selective_head(model, FusedCausalLMOutput)
        for name, parameter in trainer.model.named_parameters():
            if parameter.requires_grad and _is_peft(trainer.model):
                parameter.data = exact.get(name, parameter.data).to(parameter.device, torch.float32)

    def _send_telemetry(self) -> None:
        """Nothing leaves this machine."""

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """The run's card is written once, by artifact.py, with the run's own numbers."""

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """A checkpoint's weights, without the pickled training_args.bin and without asking the hub."""
        trainer: Any = self
        folder = Path(output_dir or trainer.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        model = trainer.accelerator.unwrap_model(trainer.model)
        options = {"save_embedding_layers": False} if _is_peft(model) else {}
        model.save_pretrained(str(folder), state_dict=state_dict, **options)
