"""The waist of the house: the canonical row, and the data that carries it.

Formats (data/) stand upstream of it, methods (methods/) downstream; neither knows the other.

    instruct    {"messages": [message, ...]}
    preference  {"prompt": [message, ...], "chosen": [message], "rejected": [message]}
    thumbs      {"prompt": [message, ...], "completion": [message], "label": bool}

A message is {"role": "system" | "user" | "assistant", "content": text}. Each row carries `source`, the file (or hub
split) and row it came from, for messages about it.
"""

from dataclasses import dataclass, field
from typing import Any

Message = dict[str, str]
Row = dict[str, Any]


@dataclass
class Data:
    """Checked canonical rows of one kind."""

    kind: str
    train: list[Row]
    heldout: list[Row]
    fingerprint: str  # sha256 of all rows, in order
    notes: list[str] = field(default_factory=list)  # what was recognised, dropped or held out, in sentences


@dataclass
class Encoded:
    """Token rows for a trainer: one list per column, row by row."""

    columns: dict[str, list[Any]]
    notes: list[str] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)  # rows that could not be encoded, with the reason

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))


class BadRow(ValueError):
    """Why one row cannot be used; its message begins with the field."""
