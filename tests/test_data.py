"""From a file, a folder or the hub to checked rows; what is wrong is told with file and row."""

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from conftest import CHATS, PAIRS, write_jsonl
from tunekit.config import Dataset
from tunekit.data import fingerprint, load
from tunekit.errors import DataError
from tunekit.rows import Data


def chat(question: str, answer: str = "Yo") -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def rows(data: Data, part: str = "train") -> list[dict[str, Any]]:
    """Canonical rows without their source."""
    return [{k: v for k, v in row.items() if k != "source"} for row in getattr(data, part)]


def sources(data: Data, part: str = "train") -> list[str]:
    return [row["source"] for row in getattr(data, part)]


def file(path: str | Path, **options: Any) -> Dataset:
    return Dataset(name="file", path=str(path), **options)


def said(dataset: Dataset, needs: str | None = None) -> str:
    with pytest.raises(DataError) as error:
        load(dataset, needs)
    return str(error.value)


def written(content: str | bytes, name: str = "a.jsonl") -> str:
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return name


A, B = json.dumps(chat("a")), json.dumps(chat("b"))


# Files


@pytest.mark.parametrize(
    "content, numbers",
    [
        (f"{A}\n{B}\n", [1, 2]),
        (f"{A}\n{B}", [1, 2]),
        (f"\ufeff{A}\n{B}\n", [1, 2]),
        (f"{A}\r\n{B}\r\n", [1, 2]),
        (f"\n{A}\n\n  \n{B}\n\n", [2, 5]),
        (f"[{A}, {B}]", [1, 2]),
        (f"\ufeff \n[\n{A},\r\n{B}\n]\n", [1, 2]),
    ],
    ids=["lines", "no-last-newline", "bom", "crlf", "blank-lines", "array", "array-spread-out"],
)
def test_json_lines_and_arrays_are_read(content: str, numbers: list[int]) -> None:
    data = load(file(written(content)), needs="instruct")
    assert data.kind == "instruct"
    assert rows(data) == [chat("a"), chat("b")]
    assert sources(data) == [f"a.jsonl row {n}" for n in numbers]
    assert data.notes == [
        "recognised as messages (instruct data) from its columns messages", "2 rows to train on, 0 held out"
    ]  # fmt: skip


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\v", "\f"])
def test_an_exotic_line_separator_inside_a_text_ends_no_row(mark: str) -> None:
    line = json.dumps(chat(f"a{mark}b"), ensure_ascii=False)
    assert rows(load(file(written(f"{line}\n{B}\n")), None)) == [chat(f"a{mark}b"), chat("b")]


@pytest.mark.parametrize(
    "content, message",
    [
        ("", "a.jsonl: the file is empty"),
        (" \n\r\n", "a.jsonl: the file is empty"),
        ("\ufeff", "a.jsonl: the file is empty"),
        ("[]", "a.jsonl: it has no rows"),
        (f'{A}\n\n{{"messages": [\n', 'a.jsonl line 3: not JSON (Expecting value at column 15): {"messages": ['),
        (f"{A},\n{B}\n", "a.jsonl line 1: not JSON (Extra data at column "),
        (f"[{A},\n{B}\n", "a.jsonl line 3, column 1: not JSON (Expecting ',' delimiter)"),
        (f"[{A}]\n{B}", "a.jsonl line 2, column 1: not JSON (Extra data)"),
        (A.encode() + b'\n{"messages": "\xff"}\n', f"a.jsonl: not UTF-8 (byte {len(A) + 15}); save it as UTF-8"),
        (A.encode("utf-16"), "a.jsonl: not UTF-8 (byte 0); save it as UTF-8"),
        ('"text"\n', "a.jsonl row 1: a row must be a mapping of fields, got 'text'"),
        ("[1, 2]", "a.jsonl row 1: a row must be a mapping of fields, got 1"),
        ('{"text": "a"}', "a.jsonl: columns text: fits no known format"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_the_place(content: str | bytes, message: str) -> None:
    assert said(file(written(content))).startswith(message)


def test_a_missing_file_names_the_nearest(chats: str) -> None:
    assert said(file("chat.jsonl")) == "chat.jsonl: no such file; did you mean chats.jsonl?"
    assert said(file("no/such.jsonl")) == "no/such.jsonl: no such file"
    assert said(file("~/no/such=x.jsonl")) == "~/no/such=x.jsonl: no such file"


def test_a_folder_in_place_of_a_file_is_told() -> None:
    Path("a.jsonl").mkdir()
    assert said(file("a.jsonl")) == "a.jsonl: is a folder, not a JSON or JSONL file"


def test_a_home_path_is_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, chats: str) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(load(file("~/chats.jsonl"), None).train) == 16


def test_bundled_data_is_found_from_anywhere() -> None:
    data = load(file("recipes/quickstart/data/chat-train.jsonl", heldout="chat-heldout.jsonl"), "instruct")
    assert data.train and data.heldout
    assert data.heldout[0]["source"] == "chat-heldout.jsonl row 1"


# Formats and kinds


def test_the_format_asked_for_wins() -> None:
    both = {**chat("a"), "prompt": "p", "completion": "c"}
    path = written(json.dumps(both))
    assert "fits several formats" in said(file(path))
    assert rows(load(file(path, format="completion"), None)) == [chat("p", "c")]


def test_an_unknown_format_names_the_nearest() -> None:
    assert said(file(written(A), format="mesages")) == (
        "dataset.format=mesages: no such format; did you mean messages?"
    )


def test_a_column_that_a_later_row_lacks_is_named() -> None:
    assert "a.jsonl row 2: messages: missing" in said(file(written(f'{A}\n{{"text": 1}}\n')))


THUMBS = {**chat("a"), "label": True}


@pytest.mark.parametrize(
    "row, needs, advice",
    [
        (CHATS[0], "preference", "the method needs preference data; dataset=file (a.jsonl) is instruct data "
         "(try dataset=ultrafeedback-binarized, or method=sft for this data)"),
        (PAIRS[0], "instruct", "the method needs instruct data; dataset=file (a.jsonl) is preference data "
         "(try method=dpo for this data, or dataset=ultrachat-200k)"),
        (THUMBS, "instruct", "the method needs instruct data; dataset=file (a.jsonl) is thumbs data "
         "(thumbs up and down are not answers to imitate: the bad ones would be learned too)"),
        (THUMBS, "preference", "the method needs preference data; dataset=file (a.jsonl) is thumbs data "
         "(thumbs up and down come one at a time, not in pairs)"),
    ],
)  # fmt: skip
def test_data_of_the_wrong_kind_is_refused_with_advice(row: dict[str, Any], needs: str, advice: str) -> None:
    assert said(file(written(json.dumps(row))), needs) == advice


@pytest.mark.parametrize("row, kind", [(CHATS[0], "instruct"), (PAIRS[0], "preference"), (THUMBS, "thumbs")])
def test_without_a_need_the_data_says_its_kind(row: dict[str, Any], kind: str) -> None:
    assert load(file(written(json.dumps(row))), None).kind == kind


# Bad rows


def test_bad_rows_are_all_counted_and_the_first_five_named(tmp_path: Path) -> None:
    bad = [chat("q", ""), {"text": 1}, 7, {"messages": []}, chat(""), chat("q", " "), chat("", "a")]
    path = write_jsonl(tmp_path / "bad.jsonl", [chat("a"), *bad, chat("b")])
    assert said(file(path)).splitlines() == [
        "7 of 9 rows cannot be used; mend them or set dataset.on_bad_row=drop",
        "  bad.jsonl row 2: messages, message 2 (assistant): content is empty",
        "  bad.jsonl row 3: messages: missing",
        "  bad.jsonl row 4: a row must be a mapping of fields, got 7",
        "  bad.jsonl row 5: messages: is empty",
        "  bad.jsonl row 6: messages, message 1 (user): content is empty",
        "  and 2 more",
    ]
    data = load(file(path, on_bad_row="drop"), None)
    assert rows(data) == [chat("a"), chat("b")]
    dropped = data.notes[1].splitlines()
    assert dropped[0] == "dropped 7 of 9 rows that cannot be used:"
    assert dropped[1] == "  bad.jsonl row 2: messages, message 2 (assistant): content is empty"


def test_bad_rows_are_named_in_an_array_too() -> None:
    assert "a.json row 2: messages: missing" in said(file(written(f'[{A}, {{"x": 1}}]', "a.json")))


def test_nothing_left_to_train_on_is_told_with_the_reason() -> None:
    message = said(file(written(json.dumps(chat("q", ""))), on_bad_row="drop"))
    assert message.startswith("a.jsonl: no row is left to train on\n")
    assert "a.jsonl row 1: messages, message 2 (assistant): content is empty" in message


def test_a_first_row_that_is_no_mapping_is_dropped_like_any_other() -> None:
    data = load(file(written(f"7\n{A}\n"), format="messages", on_bad_row="drop"), None)
    assert rows(data) == [chat("a")]


def test_half_a_surrogate_pair_is_a_bad_row() -> None:
    line = '{"messages": [{"role": "user", "content": "\\ud83d"}, {"role": "assistant", "content": "a"}]}'
    assert "a.jsonl row 1: messages, message 1 (user)" in said(file(written(line)))


# Parts


def test_limits_take_the_first_rows(chats: str, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "test.jsonl", [chat(f"t{i}") for i in range(9)])
    data = load(file(chats, limit=3, heldout="test.jsonl", heldout_limit=2), None)
    assert rows(data) == CHATS[:3]
    assert rows(data, "heldout") == [chat("t0"), chat("t1")]


def test_rows_behind_the_limit_are_not_checked(tmp_path: Path) -> None:
    assert len(load(file(written(f'{A}\n{B}\n{{"text": 1}}\n'), limit=2), None).train) == 2


@pytest.mark.parametrize("where", ["beside", "here", "absolute"])
def test_a_heldout_file_is_found_beside_the_training_file_or_by_its_path(tmp_path: Path, where: str) -> None:
    (tmp_path / "data").mkdir()
    write_jsonl(tmp_path / "data" / "train.jsonl", [chat("a")])
    write_jsonl(tmp_path / ("test.jsonl" if where == "here" else "data/test.jsonl"), [chat("b")])
    part = str(tmp_path / "data" / "test.jsonl") if where == "absolute" else "test.jsonl"
    data = load(file("data/train.jsonl", heldout=part), None)
    assert rows(data, "heldout") == [chat("b")]
    assert sources(data, "heldout") == ["test.jsonl row 1"]
    assert data.notes[-1] == "1 rows to train on, 1 held out"


def test_a_missing_heldout_file_names_the_nearest(chats: str) -> None:
    assert said(file("chats.jsonl", heldout="chat.jsonl")) == "chat.jsonl: no such file; did you mean chats.jsonl?"


def test_a_heldout_file_of_another_format_is_refused(chats: str, pairs: str) -> None:
    assert "pairs.jsonl row 1: messages: missing" in said(file(chats, heldout="pairs.jsonl"))


@pytest.mark.parametrize("share, number", [(0.5, 50), (0.25, 25), (0.1, 10), (0.05, 5), (0.01, 1)])
def test_a_share_is_held_out_spread_over_the_file_and_the_same_each_time(
    tmp_path: Path, share: float, number: int
) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [chat(f"q{i}") for i in range(100)])
    data, again = load(file(path, heldout=share), None), load(file(path, heldout=share), None)
    assert data == again
    assert len(data.heldout) == number and len(data.train) == 100 - number
    assert not set(sources(data)) & set(sources(data, "heldout"))
    places = [int(source.rsplit(" ", 1)[1]) for source in sources(data, "heldout")]
    assert places == list(range(1, 101, 100 // number))


@pytest.mark.parametrize("share", [0.3, 0.4, 0.7])
def test_a_large_share_is_held_out_as_asked(tmp_path: Path, share: float) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [chat(f"q{i}") for i in range(100)])
    assert len(load(file(path, heldout=share), None).heldout) == round(100 * share)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 2.0, float("nan")])
def test_a_share_is_between_zero_and_one(chats: str, share: float) -> None:
    assert said(file(chats, heldout=share)) == (
        f"dataset.heldout={share:g}: must be a file, a split, or a share between 0 and 1"
    )


def test_heldout_rows_that_are_trained_on_are_told(tmp_path: Path, chats: str) -> None:
    write_jsonl(tmp_path / "test.jsonl", [*CHATS[3:5], chat("new")])
    data = load(file(chats, heldout="test.jsonl"), None)
    assert data.notes[-2] == "warning: 2 of 3 held-out rows are also trained on"
    assert not any("warning" in note for note in load(file(chats, heldout=0.1), None).notes)


# Fingerprint


def test_one_character_changes_the_fingerprint(tmp_path: Path) -> None:
    prints = {load(file(written(json.dumps(chat("q", answer)))), None).fingerprint for answer in ("a", "b", "a ", "ä")}
    assert len(prints) == 4 and all(len(p) == 64 for p in prints)


def test_the_same_rows_have_the_same_fingerprint(chats: str) -> None:
    data = load(file(chats), None)
    assert data.fingerprint == load(file(chats), None).fingerprint == fingerprint(data.train)
    assert data.fingerprint != load(file(chats, limit=15), None).fingerprint


# The hub and its layout


@pytest.fixture
def hub_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two splits as parquet files, as a dataset on the hub has them."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for split, questions in (("train_sft", ["a", "b", "c"]), ("test_sft", ["d"])):
        table = datasets.Dataset.from_list([{"prompt": q, **chat(q)} for q in questions])
        table.to_parquet(tmp_path / "chats" / "data" / f"{split}-00000-of-00001.parquet")
    return tmp_path / "chats"


def test_a_folder_in_the_hubs_layout_is_read_by_split(hub_folder: Path) -> None:
    data = load(file(hub_folder, split="train_sft", heldout="test_sft"), "instruct")
    assert rows(data) == [chat("a"), chat("b"), chat("c")]
    assert rows(data, "heldout") == [chat("d")]
    assert sources(data)[2] == "chats[train_sft] row 3"
    assert sources(data, "heldout") == ["chats[test_sft] row 1"]


def test_limits_and_shares_hold_for_a_split_too(hub_folder: Path) -> None:
    data = load(file(hub_folder, split="train_sft", limit=2, heldout=0.5), None)
    assert (rows(data), rows(data, "heldout")) == ([chat("b")], [chat("a")])


def test_an_unknown_split_names_the_known_ones(hub_folder: Path) -> None:
    message = said(file(hub_folder, split="train"))
    assert message.startswith(f"{hub_folder}: Unknown split")
    assert "train_sft" in message and "test_sft" in message


@pytest.mark.parametrize("heldout", [None, 0.1])
def test_a_hub_dataset_that_is_nowhere_is_named(hub_folder: Path, heldout: Any) -> None:
    message = said(Dataset(name="d", path="nobody/no-such-dataset", heldout=heldout))
    assert message.startswith("nobody/no-such-dataset: not on this machine, and the hub did not give it (")
    assert "HF_TOKEN" in message and "dataset.path=FOLDER" in message


def test_a_folder_with_a_broken_file_is_named(hub_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "train.jsonl").write_text('{"a": 1\n', encoding="utf-8")
    assert said(file(tmp_path / "broken")).startswith(f"{tmp_path / 'broken'}: ")


def test_an_empty_folder_is_not_blamed_on_the_network(hub_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "network" not in said(file(tmp_path / "empty"))
