import pytest

from tunekit.config import Model, Peft, Precision
from tunekit.errors import ConfigError, HardwareError
from tunekit.hardware import Hardware, choose

GB = 1_000_000_000
MISTRAL = Model("mistral-7b", "m", [], "zephyr", False, 7_241_732_096, "apache-2.0")
SMALL = Model("smollm2-135m", "s", [], "own", True, 134_515_008, "apache-2.0")
TINY = Model("tiny", None, [], "chatml", True, 47_000, "apache-2.0")
A100 = Hardware("cuda", "A100", 80 * GB, True)
T4 = Hardware("cuda", "T4", 16 * GB, False)
RTX = Hardware("cuda", "RTX 4090", 24 * GB, True)
CPU = Hardware("cpu", "CPU", 24 * GB, True)


@pytest.mark.parametrize(
    ("model", "peft", "found", "expected"),
    [
        (MISTRAL, "lora", A100, "bf16"),  # 14.5 of 80 GB: 18 %
        (MISTRAL, "lora", RTX, "4bit"),  # 14.5 of 24 GB: 60 %
        (SMALL, "lora", T4, "fp16"),  # no bf16 there
        (MISTRAL, "none", RTX, "bf16"),  # never 4bit: quantised weights cannot learn
        (MISTRAL, "qlora", A100, "4bit"),
        (SMALL, "lora", CPU, "fp32"),
        (TINY, "lora", CPU, "fp32"),
        (MISTRAL, "lora", CPU, "bf16"),  # 29 GB in fp32 do not fit, 14.5 GB do
        (MISTRAL, "lora", Hardware("cpu", "CPU", 12 * GB, True), "4bit"),
    ],
)
def test_auto_decides_from_the_device_and_its_memory(model: Model, peft: str, found: Hardware, expected: str) -> None:
    name, why = choose(Precision("auto"), Peft(peft), model, found)
    assert name == expected
    assert why


def test_a_model_that_cannot_fit_is_answered() -> None:
    with pytest.raises(HardwareError, match=r"even in 4 bits its weights take 3.8 GB, and this machine has 4.0 GB"):
        choose(Precision("auto"), Peft("lora"), MISTRAL, Hardware("cpu", "CPU", 4 * GB, True))


@pytest.mark.parametrize(
    ("precision", "peft", "found", "error", "words"),
    [
        ("bf16", "qlora", A100, ConfigError, "peft=qlora holds the base in 4 bits"),
        ("4bit", "none", A100, ConfigError, "quantised weights cannot learn; use peft=qlora"),
        ("8bit", "none", A100, ConfigError, "quantised weights cannot learn"),
        ("fp16", "lora", CPU, HardwareError, "needs a GPU, and none is found here; use precision=bf16 or fp32"),
        ("bf16", "lora", T4, HardwareError, "T4 has no bf16; use precision=fp16"),
    ],
)
def test_what_cannot_be_is_refused_with_the_alternative(
    precision: str, peft: str, found: Hardware, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        choose(Precision(precision), Peft(peft), SMALL, found)
