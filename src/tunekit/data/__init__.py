"""From a dataset preset to checked canonical rows: source -> format -> checks.

data = load(dataset, needs="preference")
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from tunekit.config import Dataset
from tunekit.data.formats import FORMATS, recognise
from tunekit.data.sources import Numbered, file_rows, hub_rows, is_file
from tunekit.errors import DataError, did_you_mean
from tunekit.rows import BadRow, Data, Row

SHOWN = 5  # bad rows named in a message; the rest are counted

# What to do with data of another kind, by (kind of the data, kind the method needs).
CURES = {
    ("instruct", "preference"): "try dataset=ultrafeedback-binarized, or method=sft for this data",
    ("preference", "instruct"): "try method=dpo for this data, or dataset=ultrachat-200k",
    ("thumbs", "instruct"): "thumbs up and down are not answers to imitate: the bad ones would be learned too",
    ("thumbs", "preference"): "thumbs up and down come one at a time, not in pairs",
}


def load(dataset: Dataset, needs: str | None) -> Data:
    """Rows of the kind the method needs (None: whatever they are). Raises DataError, naming file, row and field."""
    notes: list[str] = []
    train_rows = _raw(dataset, dataset.split)
    first = next(train_rows, None)
    if first is None:
        raise DataError(f"{dataset.path}: it has no rows")
    name = _format(dataset, first, notes)
    kind = FORMATS[name].kind
    if needs is not None and kind != needs:
        raise DataError(
            f"the method needs {needs} data; dataset={dataset.name} ({dataset.path}) is {kind} data "
            f"({CURES.get((kind, needs), '')})"
        )
    train = _convert(_chain(first, train_rows), name, dataset, dataset.limit, notes)
    heldout: list[Row] = []
    if isinstance(dataset.heldout, str):
        heldout = _convert(_raw(dataset, dataset.heldout), name, dataset, dataset.heldout_limit, notes)
    elif dataset.heldout is not None:
        train, heldout = _hold_out(train, dataset.heldout)
        heldout = heldout[: dataset.heldout_limit]
    if not train and (needs is not None or not heldout):  # who only measures may hold out every row
        raise DataError(f"{dataset.path}: no row is left to train on\n  " + "\n  ".join(notes))
    _note_leaks(train, heldout, notes)
    notes.append(f"{len(train):,} rows to train on, {len(heldout):,} held out")
    return Data(kind, train, heldout, fingerprint([*train, *heldout]), notes)


def fingerprint(rows: Iterable[Row]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True, ensure_ascii=False).encode())
    return digest.hexdigest()


def _raw(dataset: Dataset, part: str) -> Iterator[Numbered]:
    """The rows of one part: a split of a hub dataset, or a file (the held-out one stands beside the training one)."""
    if not is_file(dataset.path):
        return hub_rows(dataset.path, part, dataset.revision)
    if part == dataset.split:
        return file_rows(dataset.path)
    beside = Path(dataset.path).parent / part
    return file_rows(str(beside) if not Path(part).expanduser().exists() else part)


def _chain(first: Numbered, rest: Iterator[Numbered]) -> Iterator[Numbered]:
    yield first
    yield from rest


def _format(dataset: Dataset, first: Numbered, notes: list[str]) -> str:
    where, row = first
    if dataset.format is None:
        if not isinstance(row, dict):
            raise DataError(f"{where}: a row must be a mapping of fields, got {row!r:.60}")
        name = recognise(row, dataset.path)
        used = ", ".join(sorted(FORMATS[name].columns))
        notes.append(f"recognised as {name} ({FORMATS[name].kind} data) from its columns {used}")
        return name
    if dataset.format not in FORMATS:
        raise DataError(f"dataset.format={dataset.format}: no such format{did_you_mean(dataset.format, FORMATS)}")
    return dataset.format


def _convert(rows: Iterable[Numbered], name: str, dataset: Dataset, limit: int | None, notes: list[str]) -> list[Row]:
    """Canonical rows; bad ones are dropped and counted, or all reported at once."""
    good: list[Row] = []
    bad: list[str] = []
    total = 0
    for where, row in islice(rows, limit):
        total += 1
        try:
            good.append({**_canonical(name, row), "source": where})
        except BadRow as reason:
            bad.append(f"{where}: {reason}")
    if bad:
        report_bad(bad, total, dataset.on_bad_row, notes)
    return good


def _canonical(name: str, row: Row) -> Row:
    if not isinstance(row, dict):
        raise BadRow(f"a row must be a mapping of fields, got {row!r:.60}")
    missing = sorted(c for c in FORMATS[name].columns if c not in row)
    if missing:
        raise BadRow(f"{', '.join(missing)}: missing")
    return FORMATS[name].convert(row)


def report_bad(bad: list[str], total: int, on_bad_row: str, notes: list[str]) -> None:
    """Raise with the first few bad rows, or note them as dropped. Rows a method finds bad come here too."""
    shown = "\n  ".join(bad[:SHOWN]) + (f"\n  and {len(bad) - SHOWN:,} more" if len(bad) > SHOWN else "")
    if on_bad_row == "error":
        raise DataError(
            f"{len(bad):,} of {total:,} rows cannot be used; mend them or set dataset.on_bad_row=drop\n  {shown}"
        )
    notes.append(f"dropped {len(bad):,} of {total:,} rows that cannot be used:\n  {shown}")


def _hold_out(rows: list[Row], share: float) -> tuple[list[Row], list[Row]]:
    """Rows spread evenly over the file, so that the choice is the same on every machine."""
    if not 0 < share < 1:
        raise DataError(f"dataset.heldout={share:g}: must be a file, a split, or a share between 0 and 1")
    count = max(1, round(len(rows) * share))
    held = {i * len(rows) // count for i in range(count)}
    return [r for i, r in enumerate(rows) if i not in held], [rows[i] for i in sorted(held)]


def _note_leaks(train: list[Row], heldout: list[Row], notes: list[str]) -> None:
    """Held-out rows that were trained on make the held-out numbers meaningless."""
    bare = [{k: v for k, v in row.items() if k != "source"} for row in (*train, *heldout)]
    seen = {json.dumps(row, sort_keys=True) for row in bare[: len(train)]}
    leaks = sum(json.dumps(row, sort_keys=True) in seen for row in bare[len(train) :])
    if leaks:
        notes.append(f"warning: {leaks:,} of {len(heldout):,} held-out rows are also trained on")
