"""Every command a README shows is one that works: `python -m tunekit` lines are run, file names and make targets exist."""

import io
import re
import shlex
from pathlib import Path

import pytest

import miniatures
from conftest import CHATS, PAIRS, ROOT, write_jsonl

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line.split("  #")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
    for line in block.splitlines()
    if "python -m tunekit" in line
]
FILES = {"my-chats.jsonl": CHATS, "my-pairs.jsonl": PAIRS}


def words_of(command: str) -> list[str]:
    return shlex.split(command.split("python -m tunekit", 1)[1])


def trains(words: list[str]) -> bool:
    return not words or "=" in words[0] or words[0].endswith(".yaml")


@pytest.fixture
def shop(tmp_path: Path, tunekit) -> None:
    """What the commands find where they are typed: two files, and the runs that earlier commands left."""
    for name, rows in FILES.items():
        write_jsonl(tmp_path / name, rows)
    runs = {"quickstart-sft": [], "quickstart-dpo": [], "zephyr-7b-sft": []}
    for name in runs:
        model = "mistral-7b" if name.startswith("zephyr") else "smollm2-135m-q4"
        place = miniatures.made("model", model, tmp_path)
        result = tunekit(
            f"model={model}", f"model.path={place}", "dataset=quickstart-chat", "args.max_steps=1", f"name={name}"
        )
        assert result.code == 0, result.err


def shrunk(words: list[str], tmp_path: Path) -> list[str]:
    """The command with only the weights, the data of a hub and the steps made small."""
    text = " ".join(words)
    if words and words[0].endswith(".yaml"):
        text += (ROOT / words[0]).read_text()
    model = "mistral-7b" if "mistral-7b" in text or "zephyr" in text else "smollm2-135m-q4"
    extra = (
        [f"model.path={miniatures.made('model', model, tmp_path)}"] if "adapter=" not in text or trains(words) else []
    )
    data = {"dpo": "ultrafeedback-binarized", "sft": "ultrachat-200k"}
    for method, name in data.items():
        if name in text or (f"method={method}" in text and method == "dpo" and "dataset=" not in text):
            extra.append(f"dataset.path={miniatures.made('dataset', name, tmp_path)}")
    if trains(words):
        extra += ["args.max_steps=1", "out=out"]
    elif words[0] == "evaluate":
        extra += ["max_new_tokens=2"]
    return [*words, *(e for e in extra if e.split("=")[0] not in " ".join(words))]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_readme_command_works(tunekit, shop: None, tmp_path: Path, monkeypatch, command: str) -> None:
    words = words_of(command)
    monkeypatch.setattr("sys.stdin", io.StringIO("What is LoRA?\n"))
    result = tunekit(*(words if {"--help", "--cfg"} & set(words) else shrunk(words, tmp_path)))
    assert result.code == 0, f"{command}\n{result.err}"


def test_there_are_commands_to_run() -> None:
    assert len(COMMANDS) >= 8


def test_every_make_target_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in ("README.md", "CONTRIBUTING.md"):
        assert set(re.findall(r"(?:`|^ *)make ([a-z-]+)", (ROOT / page).read_text(), re.MULTILINE)) <= targets


def test_every_file_linked_exists() -> None:
    for page in ("README.md", "CONTRIBUTING.md", "recipes/README.md"):
        for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text()):
            if not target.startswith("http"):
                assert ((ROOT / page).parent / target).exists(), f"{page}: {target}"


def test_ci_calls_the_readmes_test_command_and_nothing_else() -> None:
    lines = [x for x in (ROOT / ".ci" / "run").read_text().splitlines() if x and not x.startswith(("#", "set ", "cd "))]
    assert lines == ["make test", "make test-slow"]
    assert all(line in TEXT for line in lines)
