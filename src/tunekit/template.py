"""Where text meets tokens: one ChatTemplate renders for training, for evaluation and for chat, so they cannot differ.

The loss mask is made here and not by TRL, whose `assistant_only_loss` refuses every template without
`{% generation %}` marks (Zephyr's among them). An answer begins where the rendered prompt ends and ends with the stop
token; the stop token is learned, the white space a template may put after it is not.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jinja2

from tunekit.errors import ModelError
from tunekit.rows import BadRow, Message

IGNORE = -100  # the label that takes no part in the loss (torch.nn.functional.cross_entropy's ignore_index)


@dataclass(frozen=True)
class Tokens:
    """One conversation. `labels` equals `input_ids` on answers, stop tokens included, and IGNORE elsewhere."""

    input_ids: list[int]
    labels: list[int]

    @property
    def answer_ends(self) -> list[int]:
        """The length up to and with each answer, ascending."""
        after = [*self.labels[1:], IGNORE]
        return [
            i + 1 for i, (here, next_) in enumerate(zip(self.labels, after, strict=True)) if next_ == IGNORE != here
        ]

    def whole_answers(self, max_length: int) -> "Tokens | None":
        """Cut right after the last answer that fits whole into `max_length` tokens; None where not even the first does."""
        fitting = [end for end in self.answer_ends if end <= max_length]
        return Tokens(self.input_ids[: fitting[-1]], self.labels[: fitting[-1]]) if fitting else None


class ChatTemplate:
    """A tokenizer with a chat template that is known to end an answer with a stop token."""

    def __init__(self, tokenizer: Any, name: str) -> None:
        self.tokenizer = tokenizer
        self.name = name
        self.stop_id = self._find_stop()
        # What the saved tokenizer says, plain transformers and vLLM obey: an answer ends at the template's stop token.
        self.first_eos_id = tokenizer.eos_token_id
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(self.stop_id)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token  # harmless: padding is masked by position, never by id

    @property
    def stop_ids(self) -> list[int]:
        """Token ids at which generation stops: the template's, and the tokenizer's first end token if another."""
        return [self.stop_id, *({self.first_eos_id} - {None, self.stop_id})]

    @cached_property
    def control_tokens(self) -> re.Pattern[str]:
        """Texts that become control tokens wherever they stand."""
        special = [str(t) for t in self.tokenizer.added_tokens_decoder.values() if t.special]
        return re.compile("|".join(re.escape(t) for t in sorted(special, key=len, reverse=True)))

    def render(self, messages: list[Message], for_answer: bool = False) -> str:
        """The text the model sees; with `for_answer` it ends where the assistant begins to speak."""
        try:
            return str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=for_answer))
        except jinja2.TemplateError as error:
            raise BadRow(f"messages: template {self.name} refuses them ({error})") from error

    def ids(self, text: str) -> list[int]:
        """Token ids of rendered text. The template writes every special token itself, so none is added."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def prompt_ids(self, messages: list[Message]) -> list[int]:
        return self.ids(self.render(messages, for_answer=True))

    def encode(self, messages: list[Message]) -> Tokens:
        """Every assistant turn of a conversation becomes labels. Raises BadRow."""
        self._refuse_forged(messages)
        text = self.render(messages)
        ids = self.ids(text)
        labels = [IGNORE] * len(ids)
        for i, message in enumerate(messages):
            if message["role"] == "assistant":
                begin = len(self._shared_prompt(messages[:i], text, ids))
                end = self._answer_end(messages[: i + 1], text, ids, begin)
                labels[begin:end] = ids[begin:end]
        return Tokens(ids, labels)

    def answer(self, prompt: list[Message], answer: Message) -> tuple[list[int], list[int]]:
        """Token ids of a prompt and of one answer to it, stop token included. Raises BadRow."""
        messages = [*prompt, answer]
        self._refuse_forged(messages)
        text = self.render(messages)
        ids = self.ids(text)
        begin = len(self._shared_prompt(prompt, text, ids))
        return ids[:begin], ids[begin : self._answer_end(messages, text, ids, begin)]

    def _shared_prompt(self, prompt: list[Message], text: str, ids: list[int]) -> list[int]:
        """The prompt's ids as chat time makes them, which must be how the training ids begin."""
        before = self.render(prompt, for_answer=True)
        if not text.startswith(before):
            raise ModelError(
                f"template {self.name}: it renders earlier turns differently once an answer follows, so training and "
                "chat would see different text; use model.template=chatml or another"
            )
        prompt_ids = self.ids(before)
        if ids[: len(prompt_ids)] != prompt_ids:
            raise BadRow("content: an answer begins with white space that the tokenizer joins to the prompt; strip it")
        return prompt_ids

    def _answer_end(self, upto: list[Message], text: str, ids: list[int], begin: int) -> int:
        """The index after the stop token that ends the last answer of `upto`."""
        if not text.startswith(self.render(upto).rstrip()) or self.stop_id not in ids[begin:]:
            raise ModelError(
                f"template {self.name}: it ends an answer in the middle of a conversation otherwise than the last one, so "
                "where an answer stops cannot be told; use model.template=chatml or another"
            )
        return ids.index(self.stop_id, begin) + 1

    def _refuse_forged(self, messages: list[Message]) -> None:
        """Control tokens inside content would end or open turns that nobody wrote."""
        for number, message in enumerate(messages, 1):
            found = self.control_tokens.search(message["content"])
            if found:
                raise BadRow(
                    f"message {number} ({message['role']}): holds {found[0]!r}, a control token of this tokenizer, "
                    "which would forge a turn"
                )

    def _find_stop(self) -> int:
        """The first special token after a probe answer."""
        special = {i for i, t in self.tokenizer.added_tokens_decoder.items() if t.special}
        special |= set(self.tokenizer.all_special_ids)
        probe = [{"role": "user", "content": "a"}]
        try:
            before = self.prompt_ids(probe)
            after = self.ids(self.render([*probe, {"role": "assistant", "content": "b"}]))[len(before) :]
        except BadRow as error:
            raise ModelError(str(error)) from error
        stop = next((i for i in after if i in special), None)
        if stop is None:
            raise ModelError(
                f"template {self.name}: no special token of this tokenizer ends an answer, so the model would never "
                "learn to stop; model.template=zephyr and alpaca end it with the tokenizer's own end token"
            )
        return int(stop)
