"""YAML becomes dataclasses in one place, and everything wrong with it is told at once."""

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from tunekit.config import VERBS, Train, typed
from tunekit.errors import ConfigError


@dataclass
class Inner:
    rate: float
    targets: list[str] | None = None


@dataclass
class Job:
    inner: Inner
    kind: Literal["dpo", "sft"] = "sft"
    count: int = 1
    share: str | float | None = None
    name: str | None = None
    overwrite: bool = False
    rates: dict[str, float] = field(default_factory=dict)
    args: dict[str, Any] = field(default_factory=dict)
    other: Inner | None = None


GOOD: dict[str, Any] = {"inner": {"rate": 0.1}}


def problems(config: dict[str, Any], job: type = Job) -> list[str]:
    with pytest.raises(ConfigError) as error:
        typed(job, config)
    return str(error.value).splitlines()


def test_a_whole_job_is_built() -> None:
    job = typed(
        Job,
        {
            "inner": {"rate": 1, "targets": ["q"]}, "kind": "dpo", "count": 3, "share": 1, "name": "n",
            "overwrite": True, "rates": {"lora": 1e-4, "none": 1}, "args": {"a": [1], "b": None},
            "other": {"rate": 2.0},
        },
    )  # fmt: skip
    assert job == Job(
        Inner(1.0, ["q"]), "dpo", 3, 1.0, "n", True, {"lora": 1e-4, "none": 1.0}, {"a": [1], "b": None}, Inner(2.0)
    )


def test_defaults_are_the_dataclasses_own() -> None:
    assert typed(Job, GOOD) == Job(Inner(0.1))


@pytest.mark.parametrize("key, value", [("inner", {"rate": 1}), ("share", 1)])
def test_a_whole_number_is_a_number_and_becomes_one(key: str, value: Any) -> None:
    built = getattr(typed(Job, {**GOOD, key: value}), key)
    assert isinstance(built.rate if key == "inner" else built, float)


@pytest.mark.parametrize(
    "key, value",
    [("share", None), ("share", "test"), ("share", 0.5), ("name", None), ("other", None), ("args", {"x": {"y": 1}})],
)
def test_each_kind_a_key_allows_is_kept_as_it_is(key: str, value: Any) -> None:
    assert getattr(typed(Job, {**GOOD, key: value}), key) == value


@pytest.mark.parametrize(
    "config, problem",
    [
        ({"name": False}, "name: false is true or false, but text is needed"),
        ({"name": 7}, "name: 7 is a whole number, but text is needed"),
        ({"name": ["a"]}, "name: ['a'] is a list, but text is needed"),
        ({"name": {"a": 1}}, "name: this is a mapping, but text is needed"),
        ({"count": "x"}, "count: 'x' is text, but a whole number is needed"),
        ({"count": "16"}, "count: '16' is text, but a whole number is needed: write 16 without quotes"),
        ({"count": 2.5}, "count: 2.5 is a number, but a whole number is needed"),
        ({"count": True}, "count: true is true or false, but a whole number is needed"),
        ({"count": None}, "count: null is empty, but a whole number is needed"),
        ({"inner": {"rate": "2e-5"}}, "inner.rate: '2e-5' is text, but a number is needed: write 2e-5 without quotes"),
        ({"inner": {"rate": True}}, "inner.rate: true is true or false, but a number is needed"),
        ({"inner": {"rate": [1.0]}}, "inner.rate: [1.0] is a list, but a number is needed"),
        ({"overwrite": 1}, "overwrite: 1 is a whole number, but true or false is needed"),
        ({"overwrite": "true"}, "overwrite: 'true' is text, but true or false is needed"),
        ({"overwrite": None}, "overwrite: null is empty, but true or false is needed"),
        ({"share": True}, "share: true is true or false, but text or a number is needed"),
        ({"share": [1]}, "share: [1] is a list, but text or a number is needed"),
        ({"kind": "dop"}, "kind=dop: unknown; did you mean dpo?"),
        ({"kind": "ppo2"}, "kind=ppo2: unknown (known: dpo, sft)"),
        ({"kind": None}, "kind=None: unknown (known: dpo, sft)"),
        ({"inner": {"rate": 1, "targets": "q"}}, "inner.targets: 'q' is text, but a list of text is needed"),
        ({"inner": {"rate": 1, "targets": [1]}}, "inner.targets: [1] is a list, but a list of text is needed"),
        ({"inner": "x"}, "inner: 'x' is text, but a mapping is needed"),
        ({"inner": None}, "inner: null is empty, but a mapping is needed"),
        ({"other": 3}, "other: 3 is a whole number, but a mapping is needed"),
        ({"args": "lr=1"}, "args: 'lr=1' is text, but a mapping is needed"),
        ({"nmae": "n"}, "nmae: no such key; did you mean name?"),
        ({"inner": {"rate": 1, "rat": 2}}, "inner.rat: no such key; did you mean rate?"),
        ({"other": {"rate": 1, "x": 2}}, "other.x: no such key (known: rate, targets)"),
        ({1: 2}, "1: no such key (known: args, count, inner, kind, name, other, overwrite, rates, share)"),
        ({"inner": {}}, "inner.rate: missing"),
        ({"_target_": "os.system"}, "_target_: a config may not name code to run; remove it"),
        ({"inner": {"rate": 1, "_target_": "x"}}, "inner._target_: a config may not name code to run; remove it"),
        pytest.param(
            {"count": "1234567"},
            "count: '1234567' is text, but a whole number is needed: write 1234567 without quotes",
        ),
        pytest.param(
            {"count": "2.5"}, "count: '2.5' is text, but a whole number is needed",
        ),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_with_what_is_needed(config: dict[str, Any], problem: str) -> None:
    assert problems({**GOOD, **config}) == [problem]


def test_a_wrong_value_in_a_mapping_is_named_by_its_own_key() -> None:
    assert problems({**GOOD, "rates": {"lora": "x"}}) == ["rates.lora: 'x' is text, but a number is needed"]


def test_all_problems_are_told_at_once_in_order() -> None:
    config = {"kind": "dop", "inner": {"rte": 1, "targets": 3}, "count": "a", "_target_": "x", "nmae": 1}
    assert problems(config) == [
        "kind=dop: unknown; did you mean dpo?",
        "inner.rte: no such key; did you mean rate?",
        "inner.targets: 3 is a whole number, but a list of text is needed",
        "inner.rate: missing",
        "count: 'a' is text, but a whole number is needed",
        "_target_: a config may not name code to run; remove it",
        "nmae: no such key; did you mean name?",
    ]


def test_missing_keys_are_all_named() -> None:
    assert problems({}, Train) == [f"{key}: missing" for key in ("model", "precision", "peft", "dataset", "method")]


def test_false_is_no_adapter() -> None:
    assert "adapter: false is true or false, but text is needed" in problems({"adapter": False}, Train)


@pytest.mark.parametrize("name", VERBS)
def test_a_verbs_job_says_its_own_name_and_no_other(name: str) -> None:
    other = next(v for v in VERBS if v != name)
    told = problems({"verb": other}, VERBS[name].job)
    assert any(line.startswith(f"verb={other}: unknown") and name in line for line in told)
