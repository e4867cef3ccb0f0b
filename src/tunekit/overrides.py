"""What was typed, word by word: each override checked and mended before Hydra sees it.

Hydra stops at the first unknown key and knows no nearest match; its grammar refuses `~/m` and `a=b` as values.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import is_dataclass
from difflib import get_close_matches
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from tunekit.config import GROUPS, VERBS
from tunekit.errors import did_you_mean
from tunekit.paths import CONF

# Hydra's flags that take the next word.
FLAGS_WITH_VALUE = "--cfg -c --package -p --config-path -cp --config-name -cn --config-dir -cd --info -i"


def check_overrides(verb: str, argv: list[str]) -> tuple[list[str], list[str]]:
    """argv with each override that can be understood mended or dropped, and what is wrong with them, all at once.

    A wrong group value is replaced by the nearest right one so that the rest can be checked too; nothing runs then.
    """
    flags: list[str] = []
    mended: list[str] = []
    problems: list[str] = []
    skip = False
    hints = get_type_hints(VERBS[verb].job)
    own_folder = any(flag in argv for flag in ("--config-path", "-cp"))
    for word in argv:
        if skip or word.startswith("-"):
            flags.append(word)
            skip = not skip and word in FLAGS_WITH_VALUE.split()
            continue
        key, equals, value = word.lstrip("+~").partition("=")
        if word.startswith("~") or key.startswith("hydra") or "@" in key:
            mended.append(word)
        elif key == "verb":
            problems.append(f"{word}: a verb is the first word: python -m tunekit {value} ...")
        elif not equals:
            problems.append(f"{word}: not key=value{did_you_mean(word, VERBS)}")
        elif key in GROUPS and is_dataclass(group_type(verb, key)):
            if not own_folder and (problem := _unknown_choice(key, value, type(None) in get_args(hints[key]))):
                problems.append(problem)
                value = next(iter(get_close_matches(value, choices(key), n=1)), "")
            mended.append(f"{key}={value}" if value else "")
        elif problem := _unknown_key(verb, key) or _groupless(key, hints, argv):
            problems.append(problem)
        else:
            # ++: Hydra would refuse a key that the YAML leaves at the dataclass's default, and every field of args.
            mended.append(f"++{key}={_quoted(verb, key, value)}")
    return [*flags, *filter(None, mended)], problems  # argparse wants its flags before the overrides


def choices(group: str) -> list[str]:
    return sorted(f.stem for f in (CONF / group).glob("*.yaml"))


def _unknown_choice(group: str, value: str, optional: bool) -> str | None:
    known = choices(group)
    wrong = [v for v in value.split(",") if v not in known and not (v == "null" and optional)]
    if not wrong:
        return None
    own = " Weights of your own: model.path=FOLDER_OR_HUB_ID." if group == "model" else ""
    own = " Data of your own: dataset=file dataset.path=FILE." if group == "dataset" else own
    return f"{group}={wrong[0]}: no such {group}{did_you_mean(wrong[0], known)}{own}"


def _groupless(key: str, hints: Mapping[str, Any], argv: Iterable[str]) -> str | None:
    """`model.path=` alone, where the verb takes the model from the adapter's run: which preset is it to change?"""
    group = key.split(".")[0]
    alone = "." in key and type(None) in get_args(hints[group]) and not any(w.startswith(f"{group}=") for w in argv)
    return f"{key}: changes a preset, and none is given; add {group}=" if alone else None


def group_type(verb: str, key: str) -> Any:
    kind = get_type_hints(VERBS[verb].job).get(key)
    return next((k for k in get_args(kind) if is_dataclass(k)), kind)


def _unknown_key(verb: str, key: str) -> str | None:
    kind: Any = VERBS[verb].job
    for i, part in enumerate(key.split(".")):
        kind = next((k for k in get_args(kind) if is_dataclass(k)), kind)
        if not is_dataclass(kind):
            return None if get_origin(kind) is dict else f"{key}: {'.'.join(key.split('.')[:i])} has no keys of its own"
        hints = get_type_hints(kind)
        if part not in hints:
            return f"{key}: no such key{did_you_mean(part, hints)}"
        kind = hints[part]
    return None


def _quoted(verb: str, key: str, value: str) -> str:
    """Text keys take what was typed: `~/m`, `a=b`, `Hi!` and `7` need no quotes for Hydra's grammar."""
    kind: Any = VERBS[verb].job
    for part in key.split("."):
        kind = next((k for k in get_args(kind) if is_dataclass(k)), kind)
        kind = get_type_hints(kind)[part] if is_dataclass(kind) else Any
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    if str not in kinds or value == "null" or "${" in value or value[:1] in ("'", '"'):
        return value
    plain = re.fullmatch(r"[\w./:,@%-]*", value, re.ASCII) and value not in ("true", "false")
    is_number = re.fullmatch(r"[+-]?[\d.]+(e[+-]?\d+)?", value, re.IGNORECASE)
    if (plain and not is_number) or (is_number and float in kinds):
        return value
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", value)
    return "'" + re.sub(r"(\\+)$", r"\1\1", escaped) + "'"  # a backslash counts only before a quote
