"""Each shape of row by value, in its real nesting, and every reason for which a row cannot be used."""

from typing import Any

import pytest

from tunekit.data.formats import FORMATS, recognise
from tunekit.errors import DataError
from tunekit.rows import BadRow

Turns = list[dict[str, Any]]


def user(text: Any) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def system(text: Any) -> dict[str, Any]:
    return {"role": "system", "content": text}


def human(text: Any) -> dict[str, Any]:
    return {"from": "human", "value": text}


def gpt(text: Any) -> dict[str, Any]:
    return {"from": "gpt", "value": text}


# (format, row as its dataset has it, canonical row)
CASES: list[Any] = [
    pytest.param(
        "messages",
        {
            "prompt_id": "f0e3",
            "messages": [system("Be brief."), user("Hi"), assistant("Yo"), user("2+2?"), assistant("4")],
        },
        {"messages": [system("Be brief."), user("Hi"), assistant("Yo"), user("2+2?"), assistant("4")]},
        id="messages-openai",
    ),
    pytest.param(
        "messages",
        {"prompt": "Hi", "prompt_id": "f0e3", "messages": [user("Hi"), assistant("Yo")]},
        {"messages": [user("Hi"), assistant("Yo")]},
        id="messages-ultrachat",
    ),
    pytest.param(
        "messages",
        {"messages": [system(""), user(" Hi\n"), assistant("\tYo ")]},
        {"messages": [system(""), user(" Hi\n"), assistant("\tYo ")]},
        id="messages-white-space-and-an-empty-system-message-are-kept",
    ),
    pytest.param(
        "sharegpt",
        {"id": "QWJhYvA_0", "conversations": [human("Hi"), gpt("Yo"), human("2+2?"), gpt("4")]},
        {"messages": [user("Hi"), assistant("Yo"), user("2+2?"), assistant("4")]},
        id="sharegpt",
    ),
    pytest.param(
        "sharegpt",
        {"system": "Be brief.", "conversations": [human("Hi"), gpt("Yo")], "tools": ""},
        {"messages": [system("Be brief."), user("Hi"), assistant("Yo")]},
        id="sharegpt-system-beside",
    ),
    pytest.param(
        "sharegpt",
        {"system": "", "conversations": [{"from": "system", "value": "Be brief."}, human("Hi"), gpt("Yo")]},
        {"messages": [system("Be brief."), user("Hi"), assistant("Yo")]},
        id="sharegpt-system-inside",
    ),
    pytest.param(
        "instruct",
        {"instruction": "Translate.", "input": "Bonjour", "output": "Hello", "text": "Below is an instruction ..."},
        {"messages": [user("Translate.\n\nBonjour"), assistant("Hello")]},
        id="alpaca",
    ),
    pytest.param(
        "instruct",
        {"instruction": "Name a colour.", "input": "", "output": "Red"},
        {"messages": [user("Name a colour."), assistant("Red")]},
        id="alpaca-without-input",
    ),
    pytest.param(
        "instruct",
        {"instruction": "And?", "output": "4", "system": "Be brief.", "history": [["Hi", "Yo"], ["2+1?", "3"]]},
        {
            "messages": [
                system("Be brief."), user("Hi"), assistant("Yo"), user("2+1?"), assistant("3"), user("And?"),
                assistant("4"),
            ]
        },
        id="alpaca-system-and-history",
    ),
    pytest.param(
        "completion",
        {"prompt": "2+2?", "completion": "4"},
        {"messages": [user("2+2?"), assistant("4")]},
        id="completion",
    ),
    pytest.param(
        "pair",
        {
            "prompt": "2+2?", "prompt_id": "9f", "score_chosen": 8.5, "score_rejected": 3.0,
            "messages": [user("2+2?"), assistant("4")],
            "chosen": [user("2+2?"), assistant("4")], "rejected": [user("2+2?"), assistant("5")],
        },
        {"prompt": [user("2+2?")], "chosen": [assistant("4")], "rejected": [assistant("5")]},
        id="pair-ultrafeedback-binarized",
    ),
    pytest.param(
        "pair",
        {
            "chosen": [system("s"), user("Hi"), assistant("Yo"), user("2+2?"), assistant("4")],
            "rejected": [system("s"), user("Hi"), assistant("Yo"), user("2+2?"), assistant("5")],
        },
        {
            "prompt": [system("s"), user("Hi"), assistant("Yo"), user("2+2?")],
            "chosen": [assistant("4")],
            "rejected": [assistant("5")],
        },
        id="pair-whole-conversations",
    ),
    pytest.param(
        "pair",
        {"prompt": "2+2?", "chosen": "4", "rejected": "5"},
        {"prompt": [user("2+2?")], "chosen": [assistant("4")], "rejected": [assistant("5")]},
        id="pair-text",
    ),
    pytest.param(
        "pair",
        {"prompt": [system("s"), user("2+2?")], "chosen": [assistant("4")], "rejected": assistant("5")},
        {"prompt": [system("s"), user("2+2?")], "chosen": [assistant("4")], "rejected": [assistant("5")]},
        id="pair-messages",
    ),
    pytest.param(
        "sharegpt_pair",
        {"conversations": [human("2+2?")], "chosen": gpt("4"), "rejected": gpt("5")},
        {"prompt": [user("2+2?")], "chosen": [assistant("4")], "rejected": [assistant("5")]},
        id="sharegpt-pair",
    ),
    pytest.param(
        "thumbs",
        {"messages": [user("2+2?"), assistant("5")], "label": False},
        {"prompt": [user("2+2?")], "completion": [assistant("5")], "label": False},
        id="thumbs",
    ),
    pytest.param(
        "thumbs_completion",
        {"prompt": "2+2?", "completion": "4", "label": True},
        {"prompt": [user("2+2?")], "completion": [assistant("4")], "label": True},
        id="thumbs-completion",
    ),
]  # fmt: skip


@pytest.mark.parametrize("name, row, expected", CASES)
def test_a_row_becomes_canonical(name: str, row: dict[str, Any], expected: dict[str, Any]) -> None:
    assert FORMATS[name].convert(row) == expected


@pytest.mark.parametrize("name, row, expected", CASES)
def test_a_row_is_recognised_from_its_columns(name: str, row: dict[str, Any], expected: dict[str, Any]) -> None:
    assert recognise(row, "x.jsonl") == name
    kinds = {"messages": "instruct", "chosen": "preference", "label": "thumbs"}
    assert FORMATS[name].kind == next(kind for key, kind in kinds.items() if key in expected)


def test_every_format_has_a_case() -> None:
    assert {case.values[0] for case in CASES} == set(FORMATS)


@pytest.mark.parametrize(
    "columns, fitting",
    [
        (["messages", "conversations"], "messages, sharegpt"),
        (["messages", "instruction", "output"], "messages, instruct"),
        (["prompt", "completion", "messages"], "messages, completion"),
        (["messages", "label", "chosen", "rejected"], "pair, thumbs"),
    ],
)
def test_columns_of_several_formats_are_ambiguous(columns: list[str], fitting: str) -> None:
    with pytest.raises(DataError) as error:
        recognise(columns, "x.jsonl")
    first, known = str(error.value).split("\n  known: ")
    shown = ", ".join(sorted(columns))
    assert first == f"x.jsonl: columns {shown}: fits several formats ({fitting}); choose with dataset.format="
    assert "instruct: instruction, output" in known


@pytest.mark.parametrize(
    "columns, shown", [(["text"], "text"), (["prompt", "chosen"], "chosen, prompt"), ([], "(none)")]
)
def test_unknown_columns_are_told_with_the_known_ones(columns: list[str], shown: str) -> None:
    with pytest.raises(DataError) as error:
        recognise(columns, "x.jsonl")
    first, known = str(error.value).split("\n  known: ")
    assert first == f"x.jsonl: columns {shown}: fits no known format"
    assert known.split("; ") == [f"{name}: {', '.join(sorted(f.columns))}" for name, f in FORMATS.items()]


ALTERNATE = "user and assistant must take turns, got"


@pytest.mark.parametrize(
    "turns, reason",
    [
        ([], "messages: is empty"),
        (None, "messages: must be a list of messages, got None"),
        ("Hi", "messages: must be a list of messages, got 'Hi'"),
        ({"role": "user"}, "messages: must be a list of messages, got {'role': 'user'}"),
        (["Hi"], "messages, message 1: a message must be a mapping, got 'Hi'"),
        ([user("Hi"), None], "messages, message 2: a message must be a mapping, got None"),
        ([user("Hi"), {"role": "bot", "content": "Yo"}],
         "messages, message 2: role 'bot' is unknown (known: system, user, assistant; human, gpt)"),
        ([{"content": "Hi"}], "messages, message 1: role None is unknown (known: system, user, assistant; human, gpt)"),
        ([{"role": 1, "content": "Hi"}], "messages, message 1: role 1 is unknown (known: system, user"),
        ([user("Hi"), {"role": "tool", "content": "Yo"}], "messages, message 2: role 'tool' is unknown"),
        ([user("Hi"), assistant("")], "messages, message 2 (assistant): content is empty"),
        ([user(" \n\t"), assistant("Yo")], "messages, message 1 (user): content is empty"),
        ([user("Hi"), assistant(None)], "messages, message 2 (assistant): content is missing"),
        ([user("Hi"), {"role": "assistant"}], "messages, message 2 (assistant): content is missing"),
        ([user("Hi"), assistant(4)], "messages, message 2 (assistant): content must be text, got 4"),
        ([user([{"type": "text", "text": "Hi"}]), assistant("Yo")],
         "messages, message 1 (user): content must be text, got [{'type': 'text', 'text': 'Hi'}]"),
        ([assistant("Yo")], f"messages, message 1: {ALTERNATE} assistant"),
        ([user("Hi"), user("Hi?"), assistant("Yo")], f"messages, message 2: {ALTERNATE} user"),
        ([system("s"), user("Hi"), assistant("Yo"), assistant("Yo")], f"messages, message 4: {ALTERNATE} assistant"),
        ([system("s"), assistant("Yo")], f"messages, message 2: {ALTERNATE} assistant"),
        ([user("Hi"), system("s"), assistant("Yo")], "messages, message 2: a system message must come first"),
        ([system("s"), system("s"), user("Hi"), assistant("Yo")],
         "messages, message 2: a system message must come first"),
        ([user("Hi")], "messages: must end with the assistant, ends with the user"),
        ([user("Hi"), assistant("Yo"), user("And?")], "messages: must end with the assistant, ends with the user"),
        ([system("s")], "messages: must end with the assistant, ends with the system"),
        pytest.param(
            [user("Hi"), assistant("\ud83d")], "messages, message 2 (assistant): content",
        ),
    ],
)  # fmt: skip
def test_a_bad_conversation_is_named_by_field_and_message(turns: Any, reason: str) -> None:
    with pytest.raises(BadRow) as error:
        FORMATS["messages"].convert({"messages": turns})
    assert str(error.value).startswith(reason)


@pytest.mark.parametrize(
    "name, row, reason",
    [
        ("sharegpt", {"conversations": [human("Hi"), gpt("")]},
         "conversations, message 2 (assistant): content is empty"),
        ("sharegpt", {"conversations": []}, "conversations: is empty"),
        ("sharegpt", {"conversations": [human("Hi"), {"from": "function_call", "value": "{}"}]},
         "conversations, message 2: role 'function_call' is unknown"),
        ("sharegpt", {"conversations": [gpt("Yo"), human("Hi")]}, f"conversations, message 1: {ALTERNATE} assistant"),
        pytest.param("sharegpt", {"system": "s", "conversations": [human("Hi"), gpt("")]},
                     "conversations, message 2 (assistant): content is empty"),
        ("instruct", {"instruction": "Hi", "output": ""}, "output: is empty"),
        ("instruct", {"instruction": "Hi", "output": None}, "output: must be text, got None"),
        pytest.param("instruct", {"instruction": "", "output": "Yo"}, "instruction"),
        pytest.param("instruct", {"instruction": ["a"], "output": "Yo"}, "instruction"),
        pytest.param("instruct", {"instruction": "a", "input": 5, "output": "Yo"}, "input"),
        pytest.param("instruct", {"instruction": "a", "output": "b", "history": [["q"]]}, "history"),
        pytest.param("instruct", {"instruction": "a", "output": "b", "history": "qa"}, "history"),
        pytest.param("instruct", {"instruction": "a", "output": "b", "history": [{"q": "a"}]}, "history"),
        ("completion", {"prompt": "Hi", "completion": " "}, "completion: is empty"),
        pytest.param("completion", {"prompt": "", "completion": "Yo"}, "prompt"),
        ("pair", {"prompt": "Hi", "chosen": "", "rejected": "b"}, "chosen: is empty"),
        ("pair", {"prompt": "Hi", "chosen": "a", "rejected": None}, "rejected: is empty"),
        ("pair", {"prompt": "Hi", "chosen": "a", "rejected": []}, "rejected: is empty"),
        ("pair", {"prompt": "Hi", "chosen": " \n", "rejected": "b"}, "chosen (assistant): content is empty"),
        ("pair", {"prompt": "Hi", "chosen": 4, "rejected": "b"}, "chosen: must be a list of messages, got 4"),
        ("pair", {"prompt": "Hi", "chosen": [user("a")], "rejected": "b"},
         "chosen: must be the assistant's answer, got a message of the user"),
        ("pair", {"prompt": "Hi", "chosen": "a", "rejected": [assistant(3)]},
         "rejected (assistant): content must be text, got 3"),
        ("pair", {"prompt": "Hi", "chosen": "a", "rejected": "a"},
         "chosen, rejected: they are equal, so there is nothing to prefer"),
        ("pair", {"chosen": [user("Hi"), assistant("a")], "rejected": [user("Ho"), assistant("b")]},
         "chosen, rejected: they answer different prompts; all turns but the last must be equal"),
        ("pair", {"chosen": [user("Hi"), assistant("a")], "rejected": "b"},
         "chosen, rejected: they answer different prompts"),
        ("pair", {"chosen": [user("Hi"), assistant("a"), user("And?")], "rejected": [user("Hi"), assistant("b")]},
         "chosen: must end with the assistant, ends with the user"),
        ("pair", {"chosen": [user("Hi"), assistant("a")], "rejected": [user("Hi"), assistant("")]},
         "rejected, message 2 (assistant): content is empty"),
        ("pair", {"chosen": "a", "rejected": "b"}, "prompt: missing"),
        ("pair", {"prompt": None, "chosen": "a", "rejected": "b"}, "prompt: missing"),
        ("pair", {"prompt": "", "chosen": "a", "rejected": "b"}, "prompt, message 1 (user): content is empty"),
        ("pair", {"prompt": 3, "chosen": "a", "rejected": "b"}, "prompt: must be a list of messages, got 3"),
        ("pair", {"prompt": [user("Hi"), assistant("Yo")], "chosen": "a", "rejected": "b"},
         "prompt: must end with the user, ends with the assistant"),
        ("sharegpt_pair", {"conversations": [human("Hi"), gpt("Yo")], "chosen": gpt("a"), "rejected": gpt("b")},
         "conversations: must end with the user, ends with the assistant"),
        ("sharegpt_pair", {"conversations": [human("Hi")], "chosen": gpt("a"), "rejected": gpt("a")},
         "chosen, rejected: they are equal"),
        ("sharegpt_pair", {"conversations": [human("Hi")], "chosen": None, "rejected": gpt("a")}, "chosen: is empty"),
        ("thumbs", {"messages": [user("Hi"), assistant("a")], "label": 1}, "label: must be true or false, got 1"),
        ("thumbs", {"messages": [user("Hi"), assistant("a")], "label": None}, "label: must be true or false, got None"),
        ("thumbs", {"messages": [user("Hi")], "label": True}, "messages: must end with the assistant"),
        ("thumbs_completion", {"prompt": "Hi", "completion": "a", "label": "true"},
         "label: must be true or false, got 'true'"),
        pytest.param("thumbs_completion", {"prompt": "Hi", "completion": "", "label": True}, "completion"),
    ],
)  # fmt: skip
def test_a_bad_row_is_named_by_its_field(name: str, row: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadRow) as error:
        FORMATS[name].convert(row)
    assert str(error.value).startswith(reason)


def test_a_long_value_is_shortened_in_the_message() -> None:
    with pytest.raises(BadRow) as error:
        FORMATS["messages"].convert({"messages": [user(["x" * 999]), assistant("Yo")]})
    assert len(str(error.value)) < 130


@pytest.mark.parametrize("mark", ["label", "kto_tag"])
@pytest.mark.parametrize("columns", [{"conversations"}, {"instruction", "output"}])
def test_thumbs_in_any_shape_are_not_taken_for_answers_to_imitate(columns: set[str], mark: str) -> None:
    with pytest.raises(DataError, match=f"its column {mark} may say which answers are bad"):
        recognise(columns | {mark}, "x.jsonl")


@pytest.mark.parametrize("name", ["pair", "sharegpt_pair"])
def test_a_system_column_of_pairs_is_part_of_the_prompt(name: str) -> None:
    row = {"system": "Be brief.", "chosen": "Yes.", "rejected": "No."}
    row |= {"prompt": "Hi?"} if name == "pair" else {"conversations": [{"from": "human", "value": "Hi?"}]}
    found = FORMATS[name].convert(row)
    assert found["prompt"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi?"}]
