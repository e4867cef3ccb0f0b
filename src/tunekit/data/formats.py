"""The shapes that rows come in: pure functions row -> canonical row, and the table that recognises them.

A new shape is one function, one line of FORMATS and a case in tests/test_formats.py.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tunekit.errors import DataError
from tunekit.rows import BadRow, Message, Row

SHAREGPT_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
ROLES = ("system", "user", "assistant")


def messages(row: Row) -> Row:
    """{"messages": [{"role", "content"}, ...]}"""
    turns = conversation(row["messages"], "messages")
    return {"messages": turns if turns[0]["role"] == "system" else [*_system(row), *turns]}


def sharegpt(row: Row) -> Row:
    """{"conversations": [{"from", "value"}, ...], "system"?: text}"""
    return {"messages": [*_system(row), *conversation(row["conversations"], "conversations")]}


def instruct(row: Row) -> Row:
    """{"instruction", "input"?, "output", "system"?, "history"?}: Alpaca's shape."""
    history: list[dict[str, Any]] = []
    for number, turn in enumerate(row.get("history") or [], 1):
        if not isinstance(turn, list) or len(turn) != 2:
            raise BadRow(f"history, turn {number}: must be [question, answer], got {turn!r:.60}")
        history += _turn(*turn)
    question = _text(row, "instruction")
    if row.get("input"):
        question += "\n\n" + _text(row, "input")
    turns = [*history, *_turn(question, _text(row, "output"))]
    return {"messages": [*_system(row), *conversation(turns, "history" if history else "output")]}


def completion(row: Row) -> Row:
    """{"prompt": text, "completion": text}"""
    turns = conversation(_turn(_text(row, "prompt"), _text(row, "completion")), "completion")
    return {"messages": [*_system(row), *turns]}


def pair(row: Row) -> Row:
    """{"prompt"?: text or messages, "chosen", "rejected": text, a message, or whole conversations}"""
    chosen, rejected = _answers(row["chosen"], "chosen"), _answers(row["rejected"], "rejected")
    if len(chosen) > 1 or len(rejected) > 1:  # whole conversations: the prompt is what they share
        if chosen[:-1] != rejected[:-1]:
            raise BadRow("chosen, rejected: they answer different prompts; all turns but the last must be equal")
        prompt = chosen[:-1]
    else:
        if row.get("prompt") is None:
            raise BadRow("prompt: missing")
        prompt = _prompt(row["prompt"])
    return _pair(prompt if prompt[0]["role"] == "system" else [*_system(row), *prompt], chosen[-1], rejected[-1])


def sharegpt_pair(row: Row) -> Row:
    """{"conversations": [{"from", "value"}, ...], "chosen": {"from", "value"}, "rejected": {...}}"""
    prompt = conversation(row["conversations"], "conversations", ends="user")
    answers = (_answers(row["chosen"], "chosen")[-1], _answers(row["rejected"], "rejected")[-1])
    return _pair([*_system(row), *prompt], *answers)


def thumbs(row: Row) -> Row:
    """{"messages" or "prompt" + "completion", "label": true | false}"""
    turns = row["messages"] if "messages" in row else _turn(_text(row, "prompt"), _text(row, "completion"))
    turns = conversation(turns, "messages")
    if not isinstance(row["label"], bool):
        raise BadRow(f"label: must be true or false, got {row['label']!r}")
    return {"prompt": turns[:-1], "completion": turns[-1:], "label": row["label"]}


@dataclass(frozen=True)
class Format:
    kind: str
    columns: frozenset[str]  # a row of this format has at least these
    convert: Callable[[Row], Row]


FORMATS = {
    "messages": Format("instruct", frozenset({"messages"}), messages),
    "sharegpt": Format("instruct", frozenset({"conversations"}), sharegpt),
    "instruct": Format("instruct", frozenset({"instruction", "output"}), instruct),
    "completion": Format("instruct", frozenset({"prompt", "completion"}), completion),
    "pair": Format("preference", frozenset({"chosen", "rejected"}), pair),
    "sharegpt_pair": Format("preference", frozenset({"conversations", "chosen", "rejected"}), sharegpt_pair),
    "thumbs": Format("thumbs", frozenset({"messages", "label"}), thumbs),
    "thumbs_completion": Format("thumbs", frozenset({"prompt", "completion", "label"}), thumbs),
}


def recognise(columns: Iterable[str], where: str) -> str:
    """The one format whose columns are all here; the most specific where one contains the other."""
    present = set(columns)
    fitting = {name: f.columns for name, f in FORMATS.items() if f.columns <= present}
    best = [n for n, c in fitting.items() if not any(c < other for other in fitting.values())]
    kinds = {FORMATS[n].kind for n in best}
    if len(best) > 1 and kinds == {"instruct", "preference"}:  # pairs often carry the chosen conversation again
        best = [n for n in best if FORMATS[n].kind == "preference"]
    marks = sorted(present & {"label", "kto_tag"})
    if marks and best and all(FORMATS[n].kind == "instruct" for n in best):
        raise DataError(
            f"{where}: looks like {best[0]}, but its column {marks[0]} may say which answers are bad; if it does not, "
            f"say dataset.format={best[0]}"
        )
    if len(best) == 1:
        return best[0]
    shapes = "; ".join(f"{n}: {', '.join(sorted(f.columns))}" for n, f in FORMATS.items())
    problem = (
        f"fits several formats ({', '.join(best)}); choose with dataset.format=" if best else "fits no known format"
    )
    raise DataError(f"{where}: columns {', '.join(sorted(present)) or '(none)'}: {problem}\n  known: {shapes}")


def conversation(turns: Any, field: str, ends: str = "assistant") -> list[Message]:
    """Checked messages: known roles, text that is not empty, system first, user and assistant in turn."""
    result: list[Message] = []
    for number, turn in enumerate(_list(turns, field), 1):
        if not isinstance(turn, Mapping):
            raise BadRow(f"{field}, message {number}: a message must be a mapping, got {turn!r:.60}")
        result.append(_message(turn, f"{field}, message {number}"))
    roles = [m["role"] for m in result]
    if "system" in roles[1:]:
        raise BadRow(f"{field}, message {roles.index('system', 1) + 1}: a system message must come first")
    for number, role in enumerate(roles[roles[0] == "system" :]):
        if role != ("user", "assistant")[number % 2]:
            at = number + 1 + (roles[0] == "system")
            raise BadRow(f"{field}, message {at}: user and assistant must take turns, got {role}")
    if roles[-1] != ends:
        raise BadRow(f"{field}: must end with the {ends}, ends with the {roles[-1]}")
    return result


def _message(turn: Mapping[str, Any], where: str) -> Message:
    raw = turn.get("role", turn.get("from"))
    role = raw if raw in ROLES else SHAREGPT_ROLES.get(str(raw))
    if role is None:
        raise BadRow(f"{where}: role {raw!r} is unknown (known: {', '.join(ROLES)}; human, gpt)")
    content = turn.get("content", turn.get("value"))
    if content is None:
        raise BadRow(f"{where} ({role}): content is missing")
    if not isinstance(content, str):
        raise BadRow(f"{where} ({role}): content must be text, got {content!r:.60}")
    if not content.strip() and role != "system":
        raise BadRow(f"{where} ({role}): content is empty")
    if any("\ud800" <= character <= "\udfff" for character in content):
        raise BadRow(f"{where} ({role}): content holds half a character (a lone surrogate)")
    return {"role": role, "content": content}


def _text(row: Row, field: str) -> str:
    """A field that must be text and not empty, under its own name."""
    value = row[field]
    if not isinstance(value, str):
        raise BadRow(f"{field}: must be text, got {value!r:.60}")
    if not value.strip():
        raise BadRow(f"{field}: is empty")
    return value


def _system(row: Row) -> list[Message]:
    return [{"role": "system", "content": _text(row, "system")}] if row.get("system") else []


def _list(value: Any, field: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise BadRow(f"{field}: {'is empty' if value == [] else f'must be a list of messages, got {value!r:.60}'}")
    return value


def _turn(question: Any, answer: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _prompt(value: Any) -> list[Message]:
    if isinstance(value, str):
        value = [{"role": "user", "content": value}]
    return conversation(value, "prompt", ends="user")


def _answers(value: Any, field: str) -> list[Message]:
    """Text, one message or a whole conversation, as messages that end with the assistant's answer."""
    if value is None or value == "":
        raise BadRow(f"{field}: is empty")
    if isinstance(value, str):
        value = {"role": "assistant", "content": value}
    if isinstance(value, Mapping):
        value = [value]
    if len(_list(value, field)) == 1:
        message = _message(value[0], field)
        if message["role"] != "assistant":
            raise BadRow(f"{field}: must be the assistant's answer, got a message of the {message['role']}")
        return [message]
    return conversation(value, field)


def _pair(prompt: list[Message], chosen: Message, rejected: Message) -> Row:
    if chosen["content"] == rejected["content"]:
        raise BadRow("chosen, rejected: they are equal, so there is nothing to prefer")
    return {"prompt": prompt, "chosen": [chosen], "rejected": [rejected]}
