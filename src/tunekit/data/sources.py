"""Raw rows from a file or from the hub. Every message names the file and the line, or the dataset and the split."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
from datasets import load_dataset

from tunekit.errors import DataError, did_you_mean
from tunekit.paths import RECIPES

Numbered = tuple[str, Any]  # where the row is ("pairs.jsonl row 17"), and the row


def is_file(path: str) -> bool:
    return path.endswith((".json", ".jsonl")) or local(path).is_file()


def local(path: str) -> Path:
    """`path` here, or among what tunekit ships (bundled data is named from the top of the checkout)."""
    here = Path(path).expanduser()
    return here if here.exists() else RECIPES.parent / path if (RECIPES.parent / path).exists() else here


def file_rows(path: str) -> Iterator[Numbered]:
    """Rows of a JSON array or of JSON lines."""
    file = local(path)
    text = _text(file, path)
    if not text.strip():
        raise DataError(f"{path}: the file is empty")
    if text.lstrip().startswith("["):
        try:
            rows = json.loads(text)
        except json.JSONDecodeError as error:
            raise DataError(f"{path} line {error.lineno}, column {error.colno}: not JSON ({error.msg})") from error
        yield from ((f"{file.name} row {i}", row) for i, row in enumerate(rows, 1))
        return
    # Not splitlines(): U+2028 inside a text is no end of line.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield f"{file.name} row {number}", json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(
                    f"{path} line {number}: not JSON ({error.msg} at column {error.colno}): {line[:60]}"
                ) from error


def _text(file: Path, path: str) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        siblings = [f.name for f in file.parent.glob("*.json*")] if file.parent.is_dir() else []
        near = did_you_mean(file.name, siblings) if siblings else ""
        raise DataError(f"{path}: no such file{near}") from error
    except IsADirectoryError as error:
        raise DataError(f"{path}: is a folder, not a JSON or JSONL file") from error
    except PermissionError as error:
        raise DataError(f"{path}: cannot be read (permission denied)") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8") from error


def hub_rows(path: str, split: str, revision: str | None) -> Iterator[Numbered]:
    """Rows of a hub dataset, or of a local folder in the hub's layout."""
    folder = local(path)
    try:
        datasets.disable_progress_bars()
        rows = load_dataset(str(folder) if folder.is_dir() else path, revision=revision, split=split)
    except ValueError as error:
        raise DataError(f"{path}: {str(error).splitlines()[0]}") from error
    except datasets.exceptions.DatasetGenerationError as error:
        raise DataError(f"{path}: {str(error.__cause__ or error).splitlines()[0]}") from error
    except (OSError, datasets.exceptions.DatasetNotFoundError) as error:  # ConnectionError is an OSError
        if folder.is_dir():
            raise DataError(f"{path}: {str(error).splitlines()[0]}") from error
        raise DataError(
            f"{path}: not on this machine, and the hub did not give it ({type(error).__name__}). "
            "Check the network and the name; gated or private data needs HF_TOKEN; a copy on disk: dataset.path=FOLDER"
        ) from error
    name = path.rstrip("/").rsplit("/", 1)[-1]
    yield from ((f"{name}[{split}] row {i}", row) for i, row in enumerate(rows, 1))
