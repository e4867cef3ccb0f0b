"""The fields of TRL's configs, read from its source, are the fields of the real classes."""

import re
from dataclasses import fields
from typing import Any

import pytest
import yaml
from trl import DPOConfig, SFTConfig

from tunekit.paths import CONF, RECIPES
from tunekit.trl_args import AT_LEAST, OWNED, RENAMED, known, problems

REAL = {name: {f.name for f in fields(config)} for name, config in (("sft", SFTConfig), ("dpo", DPOConfig))}
LIVE = REAL["sft"] | REAL["dpo"]


@pytest.mark.parametrize("trl", REAL)
def test_known_fields_are_those_of_the_real_config(trl: str) -> None:
    assert set(known(trl)) == REAL[trl]


def test_no_owned_field_is_stale() -> None:
    assert set(OWNED) - LIVE == set()


def test_no_renamed_field_is_live_again() -> None:
    assert set(RENAMED) & LIVE == set()


def test_no_field_with_a_least_value_is_stale() -> None:
    assert set(AT_LEAST) - LIVE == set()


@pytest.mark.parametrize("old", [o for o, new in RENAMED.items() if not new.startswith(("nothing", "the tunekit key"))])
def test_the_new_name_of_a_renamed_field_is_a_live_one(old: str) -> None:
    new = re.match(r"\w+", RENAMED[old])
    assert new is not None and new[0] in LIVE


@pytest.mark.parametrize("trl", REAL)
@pytest.mark.parametrize("name", sorted(OWNED))
def test_an_owned_field_names_the_key_that_sets_it(trl: str, name: str) -> None:
    assert problems(trl, {name: None}) == [f"args.{name}: set by tunekit; use {OWNED[name]}"]


def shipped() -> list[Any]:
    """(file, method, args) of every preset and recipe, with each learning rate the preset may point to."""
    found = []
    for file in CONF.glob("method/*.yaml"):
        preset = yaml.safe_load(file.read_text(encoding="utf-8"))
        for peft, rate in preset["method"]["learning_rate"].items():
            args = {**preset["args"], "learning_rate": rate}
            found.append(pytest.param(preset["method"]["trl"], args, id=f"{file.stem}-{peft}"))
    for file in RECIPES.glob("*/*.yaml"):
        recipe = yaml.safe_load(file.read_text(encoding="utf-8"))
        entries = [entry for entry in recipe["defaults"] if isinstance(entry, dict)]
        method = next((e["override /method"] for e in entries if "override /method" in e), "sft")
        found.append(pytest.param(method, recipe.get("args", {}), id=f"{file.parent.name}-{file.stem}"))
    return found


@pytest.mark.parametrize("trl, args", shipped())
def test_every_shipped_preset_and_recipe_passes(trl: str, args: dict[str, Any]) -> None:
    assert problems(trl, args) == []


@pytest.mark.parametrize(
    "args",
    [
        {"learning_rate": 1},
        {"learning_rate": None},
        {"max_length": None},
        {"max_steps": -1},
        {"warmup_steps": 0.1},
        {"lr_scheduler_type": "cosine"},
        {"optim": "adamw_torch"},
        {"gradient_checkpointing": False},
        {"num_train_epochs": 0.5},
        {"lr_scheduler_kwargs": {"num_cycles": 1}},
        pytest.param({"num_train_epochs": None}),
    ],
)
def test_a_value_that_trl_takes_passes(args: dict[str, Any]) -> None:
    assert problems("sft", args) == problems("dpo", args) == []


@pytest.mark.parametrize("loss", ["sigmoid", ["sigmoid"], ["sigmoid", "sft"]])
def test_a_loss_is_a_name_or_a_list_of_names(loss: Any) -> None:
    assert problems("dpo", {"loss_type": loss}) == []


@pytest.mark.parametrize(
    "trl, args, problem",
    [
        ("dpo", {"bta": 1}, "args.bta: DPOConfig has no such field; did you mean beta?"),
        ("sft", {"learning_rat": 1}, "args.learning_rat: SFTConfig has no such field; did you mean learning_rate?"),
        ("sft", {"lr": 1}, "args.lr: gone from SFTConfig; use learning_rate"),
        ("dpo", {"max_prompt_length": 1}, "args.max_prompt_length: gone from DPOConfig; use max_length (it bounds"),
        (
            "sft",
            {"learning_rate": "2e-5"},
            "args.learning_rate: '2e-5' is text, but SFTConfig wants float: write 2e-5 ",
        ),
        ("sft", {"learning_rate": "fast"}, "args.learning_rate: 'fast' is text, but SFTConfig wants float"),
        ("sft", {"packing": 1}, "args.packing: 1 is a whole number, but SFTConfig wants bool"),
        ("sft", {"max_steps": 1.5}, "args.max_steps: 1.5 is a number, but SFTConfig wants int"),
        ("sft", {"max_steps": True}, "args.max_steps: true is true or false, but SFTConfig wants int"),
        ("sft", {"max_steps": [1]}, "args.max_steps: [1] is a list, but SFTConfig wants int"),
        ("sft", {"max_steps": {"a": 1}}, "args.max_steps: this is a mapping, but SFTConfig wants int"),
        ("sft", {"max_length": 1}, "args.max_length=1: must be at least 2"),
        ("sft", {"learning_rate": -1e-5}, "args.learning_rate=-1e-05: must be at least 0"),
        ("dpo", {"beta": -0.1}, "args.beta=-0.1: must be at least 0"),
        ("sft", {"gradient_accumulation_steps": 0}, "args.gradient_accumulation_steps=0: must be at least 1"),
        ("sft", {"num_train_epochs": 0}, "args.num_train_epochs=0: must be above 0"),
        ("sft", {"max_steps": 0}, "args.max_steps=0: trains nothing; give a number of steps, or -1 for whole epochs"),
        ("sft", {"packing_strategy": "wrapped"}, "args.packing_strategy=wrapped: it cuts answers and lets documents"),
        ("dpo", {"label_smoothing": 0.1}, "args.label_smoothing: TRL 1.16 ignores it for loss_type sigmoid"),
    ],
)
def test_what_trl_would_not_take_is_named_with_its_cure(trl: str, args: dict[str, Any], problem: str) -> None:
    (told,) = problems(trl, args)
    assert told.startswith(problem)


def test_true_is_not_a_number_in_quotes() -> None:
    assert problems("sft", {"learning_rate": True}) == [
        "args.learning_rate: true is true or false, but SFTConfig wants float"
    ]


@pytest.mark.parametrize("rate", [float("nan"), float("inf")])
def test_a_rate_is_a_finite_number(rate: float) -> None:
    assert len(problems("sft", {"learning_rate": rate})) == 1


def test_label_smoothing_is_for_the_robust_loss() -> None:
    assert problems("dpo", {"label_smoothing": 0.1, "loss_type": ["robust"]}) == []


@pytest.mark.parametrize("name", ["fb16", "bf_16", "reportto", "output_dirs", "seeds"])
def test_no_field_that_tunekit_owns_is_proposed(name: str) -> None:
    (told,) = problems("sft", {name: 1})
    assert told.partition("did you mean ")[2].rstrip("?") not in OWNED


def test_all_problems_are_told_in_order() -> None:
    told = problems("dpo", {"bta": 1, "seed": 1, "epochs": 1, "max_length": 1, "beta": 0.1})
    assert [line.split(":")[0] for line in told] == ["args.bta", "args.seed", "args.epochs", "args.max_length=1"]
