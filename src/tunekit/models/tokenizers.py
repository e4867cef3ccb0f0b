"""A base's tokenizer with the chat template its preset names."""

from pathlib import Path
from typing import Any

import jinja2

from tunekit.config import Model
from tunekit.errors import ModelError, did_you_mean
from tunekit.template import ChatTemplate

TEMPLATES = Path(__file__).parent / "templates"


def apply(tokenizer: Any, model: Model) -> ChatTemplate:
    """Give `tokenizer` the preset's template, and BOS where the tokenizer itself would put one."""
    if model.template == "own":
        if not tokenizer.chat_template:
            raise ModelError(f"model={model.name}: its tokenizer has no chat template; use model.template={_known()}")
        return ChatTemplate(tokenizer, "own")
    text = read(model.template)
    # Rendered text carries every special token itself and is tokenised without adding any, at chat time as in
    # training. So a template of ours begins with BOS exactly where the tokenizer would have added it (Llama, Mistral).
    bos = tokenizer.bos_token_id
    if bos is not None and list(tokenizer("a")["input_ids"])[:1] == [bos]:
        text = "{{ bos_token }}" + text
    try:
        jinja2.Environment(extensions=["jinja2.ext.loopcontrols"]).parse(text)
    except jinja2.TemplateSyntaxError as error:
        raise ModelError(f"model.template={model.template} line {error.lineno}: {error.message}") from error
    tokenizer.chat_template = text
    if tokenizer.eos_token is None:
        raise ModelError(f"model={model.name}: its tokenizer has no end token, so an answer could never stop")
    return ChatTemplate(tokenizer, model.template)


def read(template: str) -> str:
    """A template of ours by name, or the text of a .jinja file."""
    if template.endswith((".jinja", ".j2")):
        try:
            return Path(template).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise ModelError(f"model.template={template}: cannot be read ({reason})") from error
    file = TEMPLATES / f"{template}.jinja"
    if not file.is_file():
        names = [f.stem for f in TEMPLATES.glob("*.jinja")] + ["own"]
        raise ModelError(f"model.template={template}: no such template{did_you_mean(template, names)}")
    return file.read_text(encoding="utf-8")


def _known() -> str:
    return ", ".join(sorted(f.stem for f in TEMPLATES.glob("*.jinja"))) + " or a .jinja file"
