"""Every test is offline, leaves the checkout alone and goes through the doors a user has."""

import json
import os
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TRANSFORMERS_VERBOSITY="error", CI="1")

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any connection that is not to this machine fails the test that made it."""
    real = socket.socket.connect

    def connect(self: socket.socket, address: Any) -> Any:
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "localhost", "::1"):
            raise AssertionError(f"a test reached for the network: {address}")
        return real(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs go to a folder of the test's own."""
    monkeypatch.chdir(tmp_path)


class Result(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def tunekit(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """The user's command, in this process: `tunekit("method=dpo", "model=tiny")`."""
    from tunekit import main

    def run(*argv: str) -> Result:
        capsys.readouterr()
        code = main(list(argv))
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run


@pytest.fixture
def trained(tunekit: Callable[..., Result]) -> Callable[..., Path]:
    """A run that must succeed; returns its folder."""

    def run(name: str, *argv: str) -> Path:
        result = tunekit(*argv, f"name={name}")
        assert result.code == 0, result.err + result.out
        return Path("runs") / name

    return run


def write_jsonl(path: Path, rows: Iterable[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


CHATS = [
    {"messages": [{"role": "user", "content": f"What is {i} plus {i}?"}, {"role": "assistant", "content": f"{2 * i}."}]}
    for i in range(16)
]
PAIRS = [
    {
        "prompt": f"Name the number after {i}.",
        "chosen": f"It is {i + 1}.",
        "rejected": "It is hard to say, and much depends.",
    }
    for i in range(16)
]


@pytest.fixture
def chats(tmp_path: Path) -> str:
    return write_jsonl(tmp_path / "chats.jsonl", CHATS)


@pytest.fixture
def pairs(tmp_path: Path) -> str:
    return write_jsonl(tmp_path / "pairs.jsonl", PAIRS)


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
