"""Log-probabilities of the labelled tokens only: prompts and padding never meet the vocabulary.

TRL 1.16 does this on GPUs (Triton); elsewhere its head projects every position and is 4 to 5 times slower
(trl/trainer/utils.py, add_fused_lm_head: `compact = _use_triton(...)`). `add_selective_head` gives a CPU the same.
"""

import functools
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tunekit.template import IGNORE

CHUNK = 1024  # labelled positions at a time: 1024 x 49k x 4 bytes = 200 MB of logits for SmolLM2


@dataclass
class Scores:
    """Per labelled position, (N,): log p(label), entropy, mean logit, and whether the label is the likeliest."""

    log_probs: Tensor
    entropy: Tensor
    mean_logits: Tensor
    is_top1: Tensor


def score(hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor) -> Scores:
    """Scores of `labels` (N,) under hidden states (N, H) and head (V, H). Only `log_probs` carries a gradient."""
    parts = []
    for rows, wanted in zip(hidden.split(CHUNK), labels.split(CHUNK), strict=True):
        logits = F.linear(rows.to(weight.dtype), weight, bias).float()
        log_p = logits.log_softmax(-1)
        log_probs = log_p.gather(-1, wanted[:, None]).squeeze(-1)
        with torch.no_grad():
            entropy = -(log_p.exp() * log_p).sum(-1)
            parts.append((log_probs, entropy, logits.mean(-1), logits.argmax(-1) == wanted))
    return Scores(*(torch.cat(column) for column in zip(*parts, strict=True)))


def labelled_log_probs(model: Any, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> Tensor:
    """log p of each labelled token, 0 elsewhere. input_ids, attention_mask, labels: (B, T). Returns (B, T - 1), nats.

    The last token predicts nothing: shift by one.
    """
    mask = labels[:, 1:] != IGNORE
    if scales_logits(model):
        log_p = model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits[:, :-1].float()
        return log_p.log_softmax(-1).gather(-1, labels[:, 1:].clamp(min=0)[..., None]).squeeze(-1).masked_fill(~mask, 0)
    hidden = _backbone(model)(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
    head = model.get_output_embeddings()
    scores = score(hidden[:, :-1][mask], head.weight, head.bias, labels[:, 1:][mask])
    return scores.log_probs.new_zeros(mask.shape).masked_scatter(mask, scores.log_probs)


def _backbone(model: Any) -> Any:
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return inner.base_model


def scales_logits(model: Any) -> bool:
    """Whether the model multiplies or caps its logits after the head (Gemma 2, Cohere, Granite, ...)."""
    config = model.config.get_text_config()
    names = ("final_logit_softcapping", "logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling")
    return any(getattr(config, name, None) not in (None, 1.0) for name in names)


def add_selective_head(model: Any, output: Callable[..., Any]) -> bool:
    """Let `model(..., labels=, fused_lm_head=True)` score labelled positions only, where it is not done already.

    model: a causal LM that TRL gave its fused head; `output` makes TRL's FusedCausalLMOutput. False, and nothing
    changed, on a GPU and for models that scale or cap their logits, whose formulas TRL knows.
    """
    routed = getattr(model.config.get_text_config(), "output_router_logits", False)
    if scales_logits(model) or routed or next(model.parameters()).device.type != "cpu":
        return False
    fused = model.forward

    @functools.wraps(type(model).forward)  # generate() checks its arguments against this signature
    def forward(self: Any, *args: Any, fused_lm_head: bool = False, labels: Any = None, **kwargs: Any) -> Any:
        if not fused_lm_head or kwargs.get("shift_labels") is not None or kwargs.get("num_items_in_batch") is not None:
            return fused(*args, fused_lm_head=fused_lm_head, labels=labels, **kwargs)
        kwargs["use_cache"] = False
        hidden = self.base_model(*args, **kwargs).last_hidden_state[:, :-1]
        labels = labels[:, 1:]
        mask = labels != IGNORE
        head = self.get_output_embeddings()
        scores = score(hidden[mask], head.weight, head.bias, labels[mask])
        columns = {
            name: values.new_zeros(mask.shape).masked_scatter(mask, values) for name, values in vars(scores).items()
        }
        return output(label_mask=mask, **columns)

    model.forward = types.MethodType(forward, model)
    return True
