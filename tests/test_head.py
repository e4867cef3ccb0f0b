"""The selective head is TRL's fused head, computed on labelled positions only."""

import torch
from transformers import AutoModelForCausalLM
from trl.trainer.utils import FusedCausalLMOutput, add_fused_lm_head

from tunekit.losses import head
from tunekit.losses.head import add_selective_head, labelled_log_probs, score
from tunekit.models.builders import build
from tunekit.template import IGNORE

FIELDS = ("log_probs", "entropy", "mean_logits", "is_top1")


def batch() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    ids = torch.randint(0, 250, (3, 20))
    labels = ids.clone()
    labels[:, :9] = IGNORE
    labels[1, 15:] = IGNORE
    mask = torch.ones_like(ids)
    mask[1, 15:] = 0
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def tiny() -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(build("tiny"))


def test_it_equals_the_stock_head_in_values_and_gradients() -> None:
    stock, ours = tiny(), tiny()
    for model in (stock, ours):
        add_fused_lm_head(model, outputs=FIELDS)
    assert add_selective_head(ours, FusedCausalLMOutput)
    expected, found = (model(**batch(), fused_lm_head=True) for model in (stock, ours))
    for name in FIELDS:
        torch.testing.assert_close(getattr(found, name).float(), getattr(expected, name).float(), atol=1e-5, rtol=1e-4)
    assert torch.equal(found.label_mask, expected.label_mask)
    for output in (expected, found):
        output.log_probs.sum().backward()
    for (name, a), b in zip(stock.named_parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-5, rtol=1e-3, msg=name)


def test_a_batch_without_labels_gives_a_differentiable_zero() -> None:
    model = tiny()
    add_fused_lm_head(model, outputs=FIELDS)
    add_selective_head(model, FusedCausalLMOutput)
    inputs = batch()
    inputs["labels"][:] = IGNORE
    total = model(**inputs, fused_lm_head=True).log_probs.sum()
    total.backward()
    assert total.item() == 0.0


def test_scores_equal_log_softmax_by_hand_across_chunks(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(head, "CHUNK", 3)
    torch.manual_seed(0)
    hidden, weight, labels = torch.randn(7, 5), torch.randn(11, 5), torch.randint(0, 11, (7,))
    by_hand = (hidden @ weight.T).log_softmax(-1)
    scores = score(hidden, weight, None, labels)
    torch.testing.assert_close(scores.log_probs, by_hand[torch.arange(7), labels])
    torch.testing.assert_close(scores.entropy, -(by_hand.exp() * by_hand).sum(-1))
    assert torch.equal(scores.is_top1, by_hand.argmax(-1) == labels)


def test_a_model_that_caps_its_logits_is_scored_as_it_speaks() -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    model = Gemma2ForCausalLM(Gemma2Config(
        vocab_size=260, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, final_logit_softcapping=0.1,
    )).eval()  # fmt: skip
    assert head.scales_logits(model)
    assert not add_selective_head(model, FusedCausalLMOutput)
    assert_scored_as_it_speaks(model)


def test_labelled_log_probs_equal_the_full_forward() -> None:
    assert_scored_as_it_speaks(tiny().eval())


def assert_scored_as_it_speaks(model: torch.nn.Module) -> None:
    """Scores of the labelled tokens against the model's own logits."""
    inputs = batch()
    with torch.no_grad():
        found = labelled_log_probs(model, **inputs)
        full = model(inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits.log_softmax(-1)
    wanted = inputs["labels"][:, 1:]
    expected = full[:, :-1].gather(-1, wanted.clamp(min=0)[..., None]).squeeze(-1).masked_fill(wanted == IGNORE, 0)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
