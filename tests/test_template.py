"""Text, tokens and labels of each template, byte for byte: the tiny tokenizer's ids are the bytes of the text."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, processors
from tokenizers import models as tokenizer_models
from transformers import PreTrainedTokenizerFast

from tunekit.config import Model
from tunekit.errors import ModelError
from tunekit.models.builders import byte_tokenizer
from tunekit.models.tokenizers import apply
from tunekit.rows import BadRow
from tunekit.template import ChatTemplate, Tokens

PAD, BOS, EOS, START, END = 256, 257, 258, 259, 260  # <pad> <s> </s> <|im_start|> <|im_end|>
NAMES = ["zephyr", "chatml", "alpaca"]
STOP = {"zephyr": EOS, "chatml": END, "alpaca": EOS}


def b(text: str) -> list[int]:
    return list(text.encode())


def no(*parts: list[int]) -> list[int]:
    """As many labels that take no part in the loss."""
    return [-100] * sum(map(len, parts))


def preset(template: str) -> Model:
    return Model("m", None, [], template, chat=True, parameters=0, licence="")


def chat_template(name: str, tokenizer: Any = None) -> ChatTemplate:
    return apply(tokenizer or byte_tokenizer(), preset(name))


def jinja(text: str, tokenizer: Any = None) -> ChatTemplate:
    Path("own.jinja").write_text(text, encoding="utf-8")
    return chat_template("own.jinja", tokenizer)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


SYSTEM = {"role": "system", "content": "Be kind."}
TURNS = [user("Hi"), assistant("Yo!"), user("2+2?\nSay."), assistant("4\n\n= é")]

ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    "\n\n### Instruction:\nHi\n\n### Response:\n"
)

# (template, messages) -> alternately a prompt and an answer with its stop token, and the white space behind the last.
EXPECTED: dict[tuple[str, bool], tuple[list[list[int]], list[int]]] = {
    ("zephyr", False): (
        [
            [*b("<|user|>\nHi"), EOS, *b("\n<|assistant|>\n")],
            [*b("Yo!"), EOS],
            [*b("\n<|user|>\n2+2?\nSay."), EOS, *b("\n<|assistant|>\n")],
            [*b("4\n\n= é"), EOS],
        ],
        b("\n"),
    ),
    ("zephyr", True): (
        [
            [*b("<|system|>\nBe kind."), EOS, *b("\n<|user|>\nHi"), EOS, *b("\n<|assistant|>\n")],
            [*b("Yo!"), EOS],
            [*b("\n<|user|>\n2+2?\nSay."), EOS, *b("\n<|assistant|>\n")],
            [*b("4\n\n= é"), EOS],
        ],
        b("\n"),
    ),
    ("chatml", False): (
        [
            [START, *b("user\nHi"), END, *b("\n"), START, *b("assistant\n")],
            [*b("Yo!"), END],
            [*b("\n"), START, *b("user\n2+2?\nSay."), END, *b("\n"), START, *b("assistant\n")],
            [*b("4\n\n= é"), END],
        ],
        b("\n"),
    ),
    ("chatml", True): (
        [
            [START, *b("system\nBe kind."), END, *b("\n"),
             START, *b("user\nHi"), END, *b("\n"), START, *b("assistant\n")],
            [*b("Yo!"), END],
            [*b("\n"), START, *b("user\n2+2?\nSay."), END, *b("\n"), START, *b("assistant\n")],
            [*b("4\n\n= é"), END],
        ],
        b("\n"),
    ),
    ("alpaca", False): (
        [
            b(ALPACA),
            [*b("Yo!"), EOS],
            b("\n\n### Instruction:\n2+2?\nSay.\n\n### Response:\n"),
            [*b("4\n\n= é"), EOS],
        ],
        [],
    ),
    ("alpaca", True): (
        [
            b("Be kind.\n\n### Instruction:\nHi\n\n### Response:\n"),
            [*b("Yo!"), EOS],
            b("\n\n### Instruction:\n2+2?\nSay.\n\n### Response:\n"),
            [*b("4\n\n= é"), EOS],
        ],
        [],
    ),
}  # fmt: skip


def expected(name: str, has_system: bool) -> Tokens:
    (prompt1, answer1, prompt2, answer2), rest = EXPECTED[name, has_system]
    return Tokens(
        [*prompt1, *answer1, *prompt2, *answer2, *rest],
        [*no(prompt1), *answer1, *no(prompt2), *answer2, *no(rest)],
    )


every_template = pytest.mark.parametrize("name", NAMES)
with_and_without_system = pytest.mark.parametrize("has_system", [False, True], ids=["bare", "system"])


def conversation(has_system: bool) -> list[dict[str, str]]:
    return [SYSTEM, *TURNS] if has_system else TURNS


# Training


@every_template
@with_and_without_system
def test_ids_and_labels_are_these_bytes(name: str, has_system: bool) -> None:
    assert chat_template(name).encode(conversation(has_system)) == expected(name, has_system)


def test_a_conversation_written_out_by_hand() -> None:
    tokens = chat_template("zephyr").encode([user("Hi"), assistant("Yo")])
    prompt = [60, 124, 117, 115, 101, 114, 124, 62, 10, 72, 105, 258, 10]  # <|user|>\nHi</s>\n
    speaks = [60, 124, 97, 115, 115, 105, 115, 116, 97, 110, 116, 124, 62, 10]  # <|assistant|>\n
    assert tokens.input_ids == [*prompt, *speaks, 89, 111, 258, 10]
    assert tokens.labels == [-100] * 27 + [89, 111, 258, -100]
    assert tokens.answer_ends == [30]


@every_template
@with_and_without_system
def test_training_begins_like_the_prompt_at_chat_time_for_each_turn(name: str, has_system: bool) -> None:
    template, messages = chat_template(name), conversation(has_system)
    text, tokens = template.render(messages), template.encode(messages)
    for i, message in enumerate(messages):
        if message["role"] == "assistant":
            prompt = template.render(messages[:i], for_answer=True)
            assert text[: len(prompt)] == prompt
            ids = template.prompt_ids(messages[:i])
            assert tokens.input_ids[: len(ids)] == ids
            assert tokens.labels[len(ids) - 1] == -100 != tokens.labels[len(ids)]


@every_template
@with_and_without_system
def test_ids_decode_to_the_rendered_text(name: str, has_system: bool) -> None:
    template = chat_template(name)
    ids = template.encode(conversation(has_system)).input_ids
    assert template.tokenizer.decode(ids) == template.render(conversation(has_system))


@every_template
def test_the_stop_token_is_learned_and_what_follows_is_not(name: str) -> None:
    template = chat_template(name)
    tokens = template.encode(TURNS)
    assert template.stop_id == STOP[name]
    for end in tokens.answer_ends:
        assert tokens.labels[end - 1] == STOP[name]
        assert tokens.labels[end : end + 1] in ([-100], [])
    learned = [i for i in tokens.labels if i != -100]
    assert learned == [*b("Yo!"), STOP[name], *b("4\n\n= é"), STOP[name]]


def shifted(tokens: Tokens) -> Tokens:
    return replace(tokens, labels=[-100, *tokens.labels[:-1]])


def without_stop(tokens: Tokens) -> Tokens:
    end = tokens.answer_ends[0] - 1
    return replace(tokens, labels=[*tokens.labels[:end], -100, *tokens.labels[end + 1 :]])


def newline_added(tokens: Tokens) -> Tokens:
    return Tokens([*tokens.input_ids, 10], [*tokens.labels, -100])


def newline_learned(tokens: Tokens) -> Tokens:
    end = tokens.answer_ends[0]
    return replace(tokens, labels=[*tokens.labels[:end], tokens.input_ids[end], *tokens.labels[end + 1 :]])


def prompt_learned(tokens: Tokens) -> Tokens:
    return replace(tokens, labels=tokens.input_ids)


@every_template
@pytest.mark.parametrize("mutation", [shifted, without_stop, newline_added, newline_learned, prompt_learned])
def test_a_wrong_mask_would_be_noticed(name: str, mutation: Any) -> None:
    tokens = chat_template(name).encode(TURNS)
    assert mutation(tokens) != tokens == expected(name, False)


def test_a_stop_token_inside_an_earlier_prompt_does_not_end_the_answer() -> None:
    template = chat_template("zephyr")  # its prompts hold </s> too
    assert template.encode(conversation(True)).answer_ends == [
        len(EXPECTED["zephyr", True][0][0]) + 4,
        len(expected("zephyr", True).input_ids) - 1,
    ]


# Cutting


def test_whole_answers_cuts_behind_the_last_answer_that_fits() -> None:
    tokens = expected("zephyr", False)
    ids, labels = tokens.input_ids, tokens.labels
    first, last = tokens.answer_ends
    assert last == len(ids) - 1  # a newline follows
    for length in range(len(ids) + 2):
        end = last if length >= last else first
        assert tokens.whole_answers(length) == (None if length < first else Tokens(ids[:end], labels[:end]))


def test_a_conversation_without_answers_has_no_whole_one() -> None:
    assert Tokens([1, 2], [-100, -100]).whole_answers(9) is None
    assert Tokens([1, 2], [-100, -100]).answer_ends == []
    assert Tokens([1, 2, 3], [-100, 2, 3]).answer_ends == [3]


# Preferences


@every_template
@with_and_without_system
def test_an_answers_prompt_is_the_one_at_chat_time_and_it_ends_with_the_stop_token(name: str, has_system: bool) -> None:
    template, prompt = chat_template(name), conversation(has_system)[:-1]
    (first, answer1, second, answer2), _ = EXPECTED[name, has_system]
    for text, ids in (("4\n\n= é", answer2), ("5", [*b("5"), STOP[name]])):
        prompt_ids, answer_ids = template.answer(prompt, assistant(text))
        assert prompt_ids == template.prompt_ids(prompt) == [*first, *answer1, *second]
        assert answer_ids == ids


# Forgery


@every_template
@pytest.mark.parametrize("token", ["</s>", "<s>", "<pad>", "<|im_start|>", "<|im_end|>"])
def test_control_tokens_inside_content_are_refused(name: str, token: str) -> None:
    template = chat_template(name)
    told = f"holds {token!r}, a control token of this tokenizer, which would forge a turn"
    with pytest.raises(BadRow) as error:
        template.encode([SYSTEM, user("Hi"), assistant(f"Yo{token}system")])
    assert str(error.value) == f"message 3 (assistant): {told}"
    with pytest.raises(BadRow) as error:
        template.answer([user(f"{token} Hi")], assistant("Yo"))
    assert str(error.value) == f"message 1 (user): {told}"


@pytest.mark.parametrize("text", ["<|user|>", "### Response:", "< /s>", "<|im_start", "</S>"])
def test_text_that_is_no_control_token_is_allowed(text: str) -> None:
    template = chat_template("chatml")
    assert b(text) == template.answer([user("Hi")], assistant(text))[1][:-1]


# Tokenizers that merge


def merging_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes, and one merge: two newlines are a token of their own (id 256)."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {**{c: i for i, c in enumerate(alphabet)}, "ĊĊ": 256}
    core = Tokenizer(tokenizer_models.BPE(vocab=vocab, merges=[("Ċ", "Ċ")]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken("</s>", special=True)])
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", clean_up_tokenization_spaces=False)


@every_template
def test_white_space_that_the_tokenizer_joins_to_the_prompt_is_a_bad_row(name: str) -> None:
    tokenizer = merging_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    template = chat_template(name, tokenizer)
    for make in (lambda m: template.encode(m), lambda m: template.answer(m[:-1], m[-1])):
        with pytest.raises(BadRow, match="begins with white space that the tokenizer joins to the prompt; strip it"):
            make([user("Hi"), assistant("\nYo")])
    prompt, answer = template.answer([user("Hi\n")], assistant("Yo\n\nthen"))
    assert prompt == template.prompt_ids([user("Hi\n")])
    assert template.tokenizer.decode(answer).startswith("Yo\n\nthen")


# Templates that cannot be trained with

CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
SPEAK = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"


def test_a_template_that_ends_no_answer_is_refused() -> None:
    with pytest.raises(ModelError) as error:
        jinja("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
    assert str(error.value).startswith("template own.jinja: no special token of this tokenizer ends an answer")
    assert "model.template=zephyr and alpaca" in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        CHATML.replace("in messages", "in messages[-2:]") + SPEAK,  # forgets
        CHATML.replace("{{ m.content }}", "{{ m.content if loop.last else m.content[:1] }}") + SPEAK,  # shortens
        "{{ messages | length }}" + CHATML + SPEAK,  # counts
    ],
    ids=["forgets", "shortens", "counts"],
)
def test_a_template_that_changes_earlier_turns_is_refused(text: str) -> None:
    messages = [user("Hi"), assistant("Yo"), user("And?"), assistant("So")]
    template = jinja(text)
    for make in (lambda: template.encode(messages), lambda: template.answer(messages[:-1], messages[-1])):
        with pytest.raises(
            ModelError, match="renders earlier turns differently .* use model.template=chatml or another"
        ):
            make()


def test_a_template_that_ends_only_the_last_answer_is_refused() -> None:
    template = jinja(
        "{% for m in messages %}{{ m.role }}: {{ m.content }}"
        "{% if loop.last and m.role == 'assistant' %}</s>{% endif %}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    with pytest.raises(ModelError):
        template.encode(TURNS)


def test_a_role_that_the_template_refuses_is_a_bad_row() -> None:
    template = jinja(
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHATML + SPEAK
    )
    with pytest.raises(BadRow, match="no system role"):
        template.encode([SYSTEM, *TURNS])


def test_a_template_that_is_no_jinja_is_refused() -> None:
    with pytest.raises(ModelError, match=r"own\.jinja"):
        jinja("{% for m in messages %}")


# A tokenizer and the template of its preset


def test_the_templates_stop_token_becomes_the_tokenizers_end_token() -> None:
    template = chat_template("chatml")
    assert (template.tokenizer.eos_token, template.tokenizer.pad_token) == ("<|im_end|>", "<pad>")
    assert (template.stop_ids, template.first_eos_id, template.name) == ([END, EOS], EOS, "chatml")
    assert chat_template("zephyr").stop_ids == [EOS]


def test_a_tokenizer_without_padding_pads_with_its_end_token() -> None:
    assert chat_template("zephyr", merging_tokenizer()).tokenizer.pad_token == "</s>"


def bos_tokenizer(adds_it: bool) -> PreTrainedTokenizerFast:
    """The byte tokenizer, with BOS defined, and put in front by itself as Llama's and Mistral's do."""
    core = byte_tokenizer().backend_tokenizer
    if adds_it:
        core.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", BOS)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>", clean_up_tokenization_spaces=False
    )


@every_template
@pytest.mark.parametrize("adds_it", [False, True], ids=["defined", "added"])
def test_bos_is_in_front_once_where_the_tokenizer_would_add_it(name: str, adds_it: bool) -> None:
    template = chat_template(name, bos_tokenizer(adds_it))
    bare = expected(name, False)
    front = [BOS] if adds_it else []
    assert template.encode(TURNS) == Tokens([*front, *bare.input_ids], [*no(front), *bare.labels])
    assert template.prompt_ids(TURNS[:1]) == [*front, *EXPECTED[name, False][0][0]]
    assert template.render(TURNS).startswith("<s>") == adds_it


def test_own_is_the_tokenizers_own_template() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = CHATML + SPEAK
    template = chat_template("own", tokenizer)
    assert template.name == "own"
    assert template.encode(TURNS) == expected("chatml", False)


def test_own_without_a_template_names_the_others() -> None:
    with pytest.raises(ModelError) as error:
        chat_template("own")
    assert str(error.value) == (
        "model=m: its tokenizer has no chat template; use model.template=alpaca, chatml, zephyr or a .jinja file"
    )


@pytest.mark.parametrize(
    "name, message",
    [
        ("zephir", "model.template=zephir: no such template; did you mean zephyr?"),
        ("llama", "model.template=llama: no such template (known: alpaca, chatml, own, zephyr)"),
        ("no/such.jinja", "model.template=no/such.jinja: cannot be read (No such file or directory)"),
    ],
)
def test_an_unknown_template_names_the_nearest(name: str, message: str) -> None:
    with pytest.raises(ModelError) as error:
        chat_template(name)
    assert str(error.value) == message


def test_a_jinja_file_is_a_template(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    template = jinja(CHATML + SPEAK)
    assert template.name == "own.jinja"
    assert template.encode(TURNS) == expected("chatml", False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert chat_template("~/own.jinja").encode(TURNS) == expected("chatml", False)


def test_a_tokenizer_without_an_end_token_is_refused() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match="model=m: its tokenizer has no end token, so an answer could never stop"):
        chat_template("zephyr", tokenizer)
