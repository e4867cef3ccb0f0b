"""Who may import whom: cli -> verbs -> rooms -> the waist -> config -> errors, paths. Only downwards, no siblings."""

import ast
from pathlib import Path

import pytest

from tunekit import cli

SRC = Path(cli.__file__).parent
FILES = sorted(SRC.rglob("*.py"))

# From the top down. A module may import from lower floors, and from its own room.
FLOORS = [
    ["cli", "__init__", "__main__"],
    ["verbs"],
    ["methods", "artifact"],
    ["models", "data", "losses", "hardware", "progress"],
    ["policy"],
    ["template"],
    ["rows"],
    ["overrides"],
    ["config", "trl_args"],
    ["errors", "paths"],
]
# The doors between neighbours that the design allows.
ALLOWED = {("trl_args", "config"), ("__init__", "cli"), ("__main__", "cli"), ("cli", "trl_args")}
HEAVY = {"torch", "transformers", "trl", "peft", "datasets", "accelerate", "bitsandbytes", "numpy"}
LIGHT = {"cli", "overrides", "config", "trl_args", "errors", "paths"}


def room(file: Path) -> str:
    return file.relative_to(SRC).parts[0].removesuffix(".py")


def imports(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found |= (
                {f"{node.module}.{alias.name}" for alias in node.names} if node.module == "tunekit" else {node.module}
            )
    return found


def floor(name: str) -> int:
    return next(i for i, rooms in enumerate(FLOORS) if name in rooms)


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(SRC)))
def test_imports_go_downwards(file: Path) -> None:
    here = room(file)
    for module in imports(file):
        if module.startswith("tunekit."):
            there = module.split(".")[1]
            if there == here or (here, there) in ALLOWED:
                continue
            assert floor(there) > floor(here), f"{here} imports {there}"


def test_methods_use_only_losses_among_the_rooms() -> None:
    for file in FILES:
        if room(file) in ("methods", "artifact"):
            used = {m.split(".")[1] for m in imports(file) if m.startswith("tunekit.")}
            assert not used & {"models", "data", "hardware", "progress"} - {room(file)}, file


@pytest.mark.parametrize("file", [f for f in FILES if room(f) in LIGHT], ids=lambda f: f.name)
def test_the_door_imports_nothing_heavy(file: Path) -> None:
    assert not {m.split(".")[0] for m in imports(file)} & HEAVY


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(SRC)))
def test_no_experimental_trl_and_no_remote_code(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert "trl.experimental" not in text
    assert "trust_remote_code=True" not in text


def test_only_cli_and_config_know_omegaconf() -> None:
    knowing = {room(f) for f in FILES if any(m.startswith("omegaconf") for m in imports(f))}
    assert knowing == {"cli"}


def test_no_function_below_the_verbs_takes_the_whole_job() -> None:
    """Except artifact.claim, whose subject is the job itself."""
    for file in FILES:
        if room(file) in ("verbs", "cli", "config", "artifact", "__init__"):
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                kinds = {ast.unparse(a.annotation) for a in node.args.args if a.annotation}
                assert not kinds & {"Train", "Chat", "Evaluate"}, f"{file.name}: {node.name}"
