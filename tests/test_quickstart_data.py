"""What the bundled data promises: sizes, no leaks, and preferences that no shortcut can tell."""

import json
import re
from typing import Any

import pytest
import torch

from tunekit.paths import RECIPES

DATA = RECIPES / "quickstart" / "data"


def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


def grams(text: str, n: int = 8) -> set[tuple[str, ...]]:
    found = words(text)
    return {tuple(found[i : i + n]) for i in range(len(found) - n + 1)}


def prompts(row: dict[str, Any]) -> list[str]:
    return [m["content"] for m in row.get("messages") or row["prompt"] if m["role"] == "user"]


def texts(row: dict[str, Any]) -> list[str]:
    parts = row.get("messages") or row["prompt"] + row["chosen"] + row["rejected"]
    return [m["content"] for m in parts]


def test_there_is_enough_of_it() -> None:
    assert (len(rows("chat-train")), len(rows("chat-heldout"))) == (340, 40)
    assert (len(rows("preferences-train")), len(rows("preferences-heldout"))) == (320, 100)


def test_no_held_out_prompt_shares_eight_words_with_training() -> None:
    seen = {
        g for name in ("chat-train", "preferences-train") for row in rows(name) for t in texts(row) for g in grams(t)
    }
    for name in ("chat-heldout", "preferences-heldout"):
        for row in rows(name):
            for prompt in prompts(row):
                assert not grams(prompt) & seen, prompt


def test_no_question_is_asked_twice() -> None:
    parts = ("chat-train", "chat-heldout", "preferences-train", "preferences-heldout")
    asked = [" ".join(words(prompts(row)[0])) for name in parts for row in rows(name)]
    assert len(set(asked)) == len(asked)
    # No template with a word swapped: two questions never agree in all but one word.
    holes = [tuple(w[:i] + ["_"] + w[i + 1 :]) for w in map(str.split, set(asked)) for i in range(len(w))]
    assert len(set(holes)) == len(holes)


@pytest.mark.parametrize("part", ["train", "heldout"])
def test_the_chosen_answer_is_the_shorter_one_in_half_of_the_pairs(part: str) -> None:
    pairs = rows(f"preferences-{part}")
    shorter = sum(len(r["chosen"][0]["content"]) < len(r["rejected"][0]["content"]) for r in pairs)
    assert 0.45 <= shorter / len(pairs) <= 0.55


def test_length_and_first_words_do_not_tell_chosen_from_rejected() -> None:
    """A logistic regression on lengths and the first three words, trained on one part, scores at most 0.6 on the other."""
    train, heldout = rows("preferences-train"), rows("preferences-heldout")
    sides = ("chosen", "rejected")
    first = sorted({w for r in train for s in sides for w in words(r[s][0]["content"])[:3]})
    place = {w: i for i, w in enumerate(first)}

    def difference(row: dict[str, Any]) -> torch.Tensor:
        features = []
        for side in sides:
            text = row[side][0]["content"]
            vector = torch.zeros(3 + len(place))
            vector[:3] = torch.tensor([len(text) / 100, len(words(text)) / 20, (len(text) / 100) ** 2])
            for word in words(text)[:3]:
                if word in place:
                    vector[3 + place[word]] += 1
            features.append(vector)
        return features[0] - features[1]

    x, held = (torch.stack([difference(r) for r in part]) for part in (train, heldout))
    weights = torch.zeros(x.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=100)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.softplus(-(x @ weights)).mean() + 0.01 * weights.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert ((held @ weights) > 0).float().mean() <= 0.6
