"""Talk to a base or an adapter.

    python -m tunekit chat adapter=runs/quickstart-dpo
    echo "What is LoRA?" | python -m tunekit chat adapter=runs/quickstart-dpo temperature=0

In a terminal the answer streams. From a pipe each line is the next turn of one conversation and only answers are
printed, one line each, for scripts. /reset begins a new conversation, in both; /exit or the end of the input ends it.
"""

import sys

import torch
from transformers import TextStreamer

from tunekit.config import Chat
from tunekit.rows import Message
from tunekit.verbs.answering import answer, open_model


def run(job: Chat, command: str) -> None:
    opened = open_model(job.adapter, job.model, job.precision)
    torch.manual_seed(job.seed)
    terminal = sys.stdin.isatty()
    first: list[Message] = [{"role": "system", "content": job.system}] if job.system else []
    messages = list(first)
    if terminal:
        print(f"{opened.model.name}{' with ' + job.adapter if job.adapter else ''}. /reset begins anew, /exit ends.")
    while (text := _read(terminal)) is not None:
        if text == "/exit":
            break
        if text == "/reset":
            messages = list(first)
        elif text:
            messages.append({"role": "user", "content": text})
            streamer = TextStreamer(opened.template.tokenizer, skip_prompt=True, skip_special_tokens=True)
            reply = answer(
                opened, messages, job.max_new_tokens, job.temperature, job.top_p, job.repetition_penalty,
                streamer if terminal else None,
            )  # fmt: skip
            if not terminal:
                print(reply.replace("\n", " "), flush=True)
            messages.append({"role": "assistant", "content": reply})


def _read(terminal: bool) -> str | None:
    """The next line, None at the end of the input (Ctrl-D, Ctrl-C)."""
    try:
        return input("> " if terminal else "").strip()
    except (EOFError, KeyboardInterrupt):
        return None
