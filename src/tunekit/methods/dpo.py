"""Direct preference optimisation: raise the chosen answer's likelihood over the rejected one's, against a reference.

Source: Rafailov et al. 2023 (arXiv:2305.18290), eq. 7; log-probabilities are summed over the answer's tokens.
The reference is the model as it stood before the first step:

    a new adapter on a base       the base, adapter switched off
    an adapter that is continued  a frozen copy of that adapter (TRL adds it under the name "ref")
    full fine-tuning              the same weights, loaded a second time

Invariants (tests/test_dpo.py): in each case the first loss is ln 2 and every first margin 0.
TRL private part leaned on: `DPOTrainer._prepare_dataset`, which has no way in for rows that are tokens already.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from trl import DPOConfig, DPOTrainer

from tunekit.errors import DataError
from tunekit.methods.house import House, config, dataset
from tunekit.policy import Policy
from tunekit.rows import BadRow, Encoded, Row
from tunekit.template import ChatTemplate

needs = "preference"
needs_reference = True


class Trainer(House, DPOTrainer):
    def _prepare_dataset(self, dataset: Dataset, *args: Any, **kwargs: Any) -> Dataset:
        return dataset


def encode(rows: Sequence[Row], template: ChatTemplate, max_length: int | None, on_long: str) -> Encoded:
    """Rows as `prompt_ids`, `chosen_ids` and `rejected_ids`; both answers end with the stop token."""
    encoded = Encoded({"prompt_ids": [], "chosen_ids": [], "rejected_ids": []})
    lost = longest = 0
    for row in rows:
        try:
            prompt, chosen = template.answer(row["prompt"], row["chosen"][0])
            _, rejected = template.answer(row["prompt"], row["rejected"][0])
        except BadRow as reason:
            encoded.bad.append(f"{row['source']}: {reason}")
            continue
        length = len(prompt) + max(len(chosen), len(rejected))
        longest = max(longest, length)
        if max_length is not None and length > max_length:
            if on_long == "error":
                raise DataError(f"{row['source']}: {length:,} tokens do not fit args.max_length={max_length}; raise it")
            lost += 1
            room = max_length - len(prompt)
            if on_long == "drop" or room < 1:
                continue
            chosen, rejected = chosen[:room], rejected[:room]
        for column, ids in zip(encoded.columns.values(), (prompt, chosen, rejected), strict=True):
            column.append(ids)
    if lost:
        fate = "left out" if on_long == "drop" else "cut, so their stop token is lost"
        encoded.notes.append(
            f"{lost:,} of {len(rows):,} pairs do not fit max_length={max_length} and are {fate}; "
            f"the longest has {longest:,} tokens"
        )
    return encoded


def settings(args: dict[str, Any], **owned: Any) -> DPOConfig:
    """TRL's config for these args; `owned`: see house.config."""
    return config(DPOConfig, args, **owned)


def trainer(policy: Policy, train: Encoded, heldout: Encoded | None, settings: DPOConfig) -> Trainer:
    return Trainer(
        model=policy.model,
        ref_model=policy.reference,
        args=settings,
        train_dataset=dataset(train),
        eval_dataset=dataset(heldout) if heldout else None,
        processing_class=policy.template.tokenizer,
        peft_config=policy.new_adapter,
    )


def warnings(raw_base: bool, adapter: Path | None, recipe: str | None) -> list[str]:
    """What is known to go wrong, before any weight loads."""
    if raw_base and adapter is None:
        stages = f"; `recipes/{recipe}` does both stages" if recipe else "; run method=sft first, then adapter="
        return [
            "DPO on a raw base that never saw a chat is known to hurt (MT-Bench 4.76 in the Zephyr paper, "
            f"arXiv:2310.16944){stages}"
        ]
    return []
