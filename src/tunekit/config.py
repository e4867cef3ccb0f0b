"""The typed job: what each verb takes, and the one place where YAML becomes dataclasses.

`typed` walks the composed config against the dataclass and reports *every* unknown key and wrong type at once, also
those that came from a YAML file. (OmegaConf's structured merge stops at the first and turns `adapter: false` into
"False".) Below this module nobody sees OmegaConf.
"""

import types
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from tunekit.errors import ConfigError, did_you_mean

T = TypeVar("T")


@dataclass
class Model:
    """A base model preset (conf/model)."""

    name: str
    path: str | None  # hub id or local folder; null: `builder` makes it on disk
    lora_targets: list[str]
    template: str  # "own", a name in models/templates, or the path of a .jinja file
    chat: bool  # true: already answers in turns; false: a raw base
    parameters: int  # how many weights, for the choice of precision
    licence: str
    revision: str | None = None  # a commit of the hub repository
    builder: str | None = None  # a name in models/builders.py
    recipe: str | None = None  # the recipe to name when this base is used in a way known to hurt


@dataclass
class Precision:
    """How the base is held in memory (conf/precision)."""

    name: Literal["auto", "fp32", "bf16", "fp16", "8bit", "4bit"]
    quant_type: Literal["nf4", "fp4"] = "nf4"
    double_quant: bool = True  # quantise the quantisation constants too: 0.37 bit a weight less (QLoRA, section 3)


@dataclass
class Peft:
    """Which weights learn (conf/peft)."""

    name: Literal["none", "lora", "qlora"]
    r: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: list[str] | None = None  # null: the model preset's lora_targets


@dataclass
class Dataset:
    """Where rows come from (conf/dataset)."""

    name: str
    path: str  # hub id, a JSON or JSONL file, or a folder of bundled data
    format: str | None = None  # a name in data/formats.py; null: recognised from the columns, and said
    revision: str | None = None
    split: str = "train"
    heldout: str | float | None = None  # a split, a file beside `path`, or the fraction of rows to hold out
    limit: int | None = None  # use only the first so many training rows of the file or split
    heldout_limit: int | None = None
    on_bad_row: Literal["error", "drop"] = "error"
    on_long: Literal["drop", "error", "cut"] = "drop"  # an answer that does not fit max_length
    licence: str | None = None


@dataclass
class Method:
    """What is optimised (conf/method). Its rows and its trainer are in methods/."""

    name: str
    trl: str  # whose TRL config `args` belong to: trl/trainer/<trl>_config.py
    learning_rate: dict[str, float]  # by peft; `args.learning_rate` points here unless set


@dataclass
class Train:
    """The job of the default verb."""

    model: Model
    precision: Precision
    peft: Peft
    dataset: Dataset
    method: Method
    verb: Literal["train"] = "train"
    name: str | None = None
    out: str | None = None
    adapter: str | None = None
    start: Literal["continue", "merge"] = "continue"
    seed: int = 42
    overwrite: bool = False
    args: dict[str, Any] = field(default_factory=dict)


@dataclass
class Chat:
    """A conversation in the terminal, or from standard input line by line."""

    precision: Precision
    verb: Literal["chat"] = "chat"
    adapter: str | None = None
    model: Model | None = None
    system: str | None = None
    max_new_tokens: int = 256
    temperature: float = 0.7
    top_p: float = 0.95
    repetition_penalty: float = 1.0
    seed: int = 42


@dataclass
class Evaluate:
    """Held-out numbers and sample answers of an adapter or a base."""

    precision: Precision
    verb: Literal["evaluate"] = "evaluate"
    adapter: str | None = None
    model: Model | None = None
    dataset: Dataset | None = None
    out: str | None = None
    batch_size: int = 8
    max_length: int | None = None
    samples: int = 3
    max_new_tokens: int = 96
    repetition_penalty: float = 1.0
    compare: bool = True


@dataclass(frozen=True)
class Verb:
    """One verb: its job, its module, and the line `--help` prints."""

    job: type[Any]
    module: str
    summary: str


VERBS = {
    "train": Verb(Train, "tunekit.verbs.train", "train an adapter (the default)"),
    "chat": Verb(Chat, "tunekit.verbs.chat", "talk to a base or an adapter; reads lines from a pipe too"),
    "evaluate": Verb(Evaluate, "tunekit.verbs.evaluate", "held-out loss or reward accuracy, and sample answers"),
}

# Hydra config groups, in the order of conf/<verb>.yaml's defaults lists.
GROUPS = ("model", "precision", "peft", "dataset", "method")


def typed(job: type[T], config: Mapping[str, Any]) -> T:
    """`config` as a `job`. Raises ConfigError that lists every problem."""
    problems: list[str] = []
    result = _build(job, config, "", problems)
    if problems:
        raise ConfigError("\n".join(problems))
    return result


def _build(cls: type[T], config: Mapping[str, Any], where: str, problems: list[str]) -> T:
    hints = get_type_hints(cls)
    values: dict[str, Any] = {}
    for key, value in config.items():
        path = f"{where}{key}"
        if key == "_target_":
            problems.append(f"{path}: a config may not name code to run; remove it")
        elif key not in hints:
            problems.append(f"{path}: no such key{did_you_mean(str(key), hints)}")
        else:
            values[key] = _value(hints[key], value, path, problems)
    for f in fields(cls):  # type: ignore[arg-type]
        if f.name not in values and f.default is MISSING and f.default_factory is MISSING:
            problems.append(f"{where}{f.name}: missing")
            values[f.name] = None
    return cls(**values)


def _value(kind: Any, value: Any, path: str, problems: list[str]) -> Any:
    """`value` as `kind`, or a problem."""
    options = [k for k in _options(kind) if k is not type(None)]
    if value is None and type(None) in _options(kind):
        return None
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            problems.append(f"{path}={value}: unknown{did_you_mean(str(value), get_args(kind))}")
        return value
    if is_dataclass(options[0]) and isinstance(value, Mapping):
        return _build(options[0], value, f"{path}.", problems)  # type: ignore[arg-type]
    if get_origin(kind) is dict and isinstance(value, Mapping):
        return {key: _value(get_args(kind)[1], inner, f"{path}.{key}", problems) for key, inner in value.items()}
    for option in options:
        if _fits(option, value):
            return float(value) if option is float else value
    problems.append(f"{path}: {describe(value)}, but {_name(kind)} is needed{_unquote(kind, value)}")
    return value


def _options(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _fits(kind: Any, value: Any) -> bool:
    """An int is a float; text is never a number; true is no int."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return True
    if kind is float:
        return _is_number(value)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if origin is list:
        return isinstance(value, list) and all(_fits(inner[0], v) for v in value)
    if origin is dict:
        return isinstance(value, Mapping) and all(_fits(inner[1], v) for v in value.values())
    return isinstance(kind, type) and isinstance(value, kind)


def describe(value: Any) -> str:
    """A value as the person typed it, with its kind: `'2e-5' is text`."""
    if isinstance(value, Mapping):
        return "this is a mapping"
    kinds = {bool: "true or false", int: "a whole number", float: "a number", str: "text", list: "a list"}
    kind = "empty" if value is None else kinds.get(type(value), type(value).__name__)
    shown = str(value).lower() if isinstance(value, bool) else "null" if value is None else repr(value)
    return f"{shown} is {kind}"


def _name(kind: Any) -> str:
    names = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(_name(k) for k in get_args(kind) if k is not type(None))
    if get_origin(kind) is list:
        return f"a list of {_name(get_args(kind)[0])}"
    return names.get(kind, "a mapping")


def _unquote(kind: Any, value: Any) -> str:
    for number in (k for k in _options(kind) if k in (int, float) and isinstance(value, str)):
        with suppress(ValueError):
            number(value)
            return f": write {value.strip()} without quotes"
    return ""
