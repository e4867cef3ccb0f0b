"""What is here, and how a base fits on it.

found = detect()
precision, reason = choose(cfg.precision, cfg.peft, cfg.model, found)
"""

import os
from dataclasses import asdict, dataclass

import psutil
import torch

from tunekit.config import Model, Peft, Precision
from tunekit.errors import ConfigError, HardwareError

BYTES = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "8bit": 1.0, "4bit": 0.52}  # a weight; 4bit with its constants
# Weights may fill this share of a GPU in bf16 before `auto` takes 4bit: the rest is for activations and the optimizer.
GPU_SHARE = 0.4
CPU_SHARE = 0.8


@dataclass(frozen=True)
class Hardware:
    device: str  # "cuda" or "cpu"
    name: str
    memory: int  # bytes in all: of the GPU, else of the machine
    has_bf16: bool

    def record(self) -> dict[str, object]:
        return {**asdict(self), "cpus": os.cpu_count(), "torch": torch.__version__}


def detect() -> Hardware:
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        return Hardware("cuda", properties.name, properties.total_memory, torch.cuda.is_bf16_supported())
    return Hardware("cpu", f"CPU, {torch.get_num_threads()} threads", psutil.virtual_memory().total, True)


def choose(asked: Precision, peft: Peft, model: Model, found: Hardware) -> tuple[str, str]:
    """The precision and why. Raises ConfigError for a contradiction, HardwareError for what this machine cannot do."""
    name = asked.name
    if peft.name == "qlora" and name not in ("4bit", "auto"):
        raise ConfigError(
            f"peft=qlora holds the base in 4 bits, which precision={name} contradicts; drop precision=, or use peft=lora"
        )
    if peft.name == "none" and name in ("4bit", "8bit"):
        raise ConfigError(f"precision={name} with peft=none: quantised weights cannot learn; use peft=qlora")
    if name == "fp16" and found.device == "cpu":
        raise HardwareError("precision=fp16 needs a GPU, and none is found here; use precision=bf16 or fp32")
    if name == "bf16" and not found.has_bf16:
        raise HardwareError(f"precision=bf16: {found.name} has no bf16; use precision=fp16")
    if name != "auto":
        return name, "as asked"
    if peft.name == "qlora":
        return "4bit", "peft=qlora"
    return _auto(peft, model, found)


def _auto(peft: Peft, model: Model, found: Hardware) -> tuple[str, str]:
    half = "bf16" if found.has_bf16 else "fp16"
    if peft.name == "none":  # never 4bit: it could not learn
        return (half, "full fine-tuning on a GPU") if found.device == "cuda" else ("fp32", "full fine-tuning on a CPU")
    if found.device == "cuda":
        size = model.parameters * BYTES[half]
        if size <= GPU_SHARE * found.memory:
            return half, f"its weights take {size / found.memory:.0%} of the GPU"
        return "4bit", f"in {half} its weights would take {size / found.memory:.0%} of the GPU"
    for name in ("fp32", "bf16", "4bit"):
        share = model.parameters * BYTES[name] / found.memory
        if share <= CPU_SHARE:
            return name, f"no GPU; its weights take {share:.0%} of this machine's memory"
    raise HardwareError(
        f"model={model.name}: even in 4 bits its weights take {model.parameters * BYTES['4bit'] / 1e9:.1f} GB, and this "
        f"machine has {found.memory / 1e9:.1f} GB; use a smaller model, e.g. model=smollm2-135m"
    )
