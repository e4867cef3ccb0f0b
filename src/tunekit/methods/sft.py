"""Supervised fine-tuning: the likelihood of the assistant's turns, stop tokens included.

Invariants (tests/test_sft.py): prompt tokens carry no loss, the stop token does; batch 1 x accumulate 8 = batch 8;
packed = unpacked.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trl import SFTConfig, SFTTrainer

from tunekit.errors import DataError
from tunekit.methods.house import House, config, dataset
from tunekit.policy import Policy
from tunekit.rows import BadRow, Encoded, Row
from tunekit.template import IGNORE, ChatTemplate, Tokens

needs = "instruct"
needs_reference = False


class Trainer(House, SFTTrainer):
    pass


def encode(rows: Sequence[Row], template: ChatTemplate, max_length: int | None, on_long: str) -> Encoded:
    """Rows as `input_ids` and `labels`. Answers that do not fit `max_length` tokens are handled as `on_long` says."""
    encoded = Encoded({"input_ids": [], "labels": []})
    lost_answers = lost_rows = longest = 0
    for row in rows:
        try:
            whole = template.encode(row["messages"])
        except BadRow as reason:
            encoded.bad.append(f"{row['source']}: {reason}")
            continue
        longest = max(longest, len(whole.input_ids))
        if on_long == "error" and max_length is not None and longest > max_length:
            raise DataError(f"{row['source']}: {longest:,} tokens do not fit args.max_length={max_length}; raise it")
        kept = _fit(whole, max_length, on_long)
        lost_answers += sum(end > (len(kept.input_ids) if kept else 0) for end in whole.answer_ends)
        if kept is None:
            lost_rows += 1
        else:
            encoded.columns["input_ids"].append(kept.input_ids)
            encoded.columns["labels"].append(kept.labels)
    if lost_answers:
        fate = "left out" if on_long == "drop" else "cut, so their stop token is lost, or left out"
        encoded.notes.append(
            f"{lost_answers:,} answers do not fit max_length={max_length} and are {fate} "
            f"({lost_rows:,} of {len(rows):,} rows whole); the longest row has {longest:,} tokens"
        )
    return encoded


def _fit(tokens: Tokens, max_length: int | None, on_long: str) -> Tokens | None:
    if max_length is None or len(tokens.input_ids) <= max_length:
        return tokens
    if on_long == "drop":
        return tokens.whole_answers(max_length)
    cut = Tokens(tokens.input_ids[:max_length], tokens.labels[:max_length])
    return cut if any(label != IGNORE for label in cut.labels) else None


def settings(args: dict[str, Any], **owned: Any) -> SFTConfig:
    """TRL's config for these args; `owned`: see house.config. Rows are tokens already, so only packing prepares them."""
    prepared = args if args.get("packing") else {**args, "dataset_kwargs": {"skip_prepare_dataset": True}}
    return config(SFTConfig, prepared, **owned)


def trainer(policy: Policy, train: Encoded, heldout: Encoded | None, settings: SFTConfig) -> Trainer:
    return Trainer(
        model=policy.model,
        args=settings,
        train_dataset=dataset(train),
        eval_dataset=dataset(heldout) if heldout else None,
        processing_class=policy.template.tokenizer,
        peft_config=policy.new_adapter,
    )


def warnings(raw_base: bool, adapter: Path | None, recipe: str | None) -> list[str]:
    return []
