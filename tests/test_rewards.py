import math

import pytest
import torch

from tunekit.losses.rewards import implicit_rewards, wilson


def test_the_implicit_reward_is_beta_times_the_log_ratio() -> None:
    rewards = implicit_rewards(torch.tensor([-10.0, -20.0]), torch.tensor([-12.0, -18.0]), beta=0.1)
    torch.testing.assert_close(rewards, torch.tensor([0.2, -0.2]))


@pytest.mark.parametrize(
    ("right", "trials", "low", "high"),
    [(80, 100, 0.7112, 0.8666), (100, 100, 0.9630, 1.0), (0, 10, 0.0, 0.2775)],  # R: prop.test(..., correct=FALSE)
)
def test_the_wilson_interval_is_the_textbooks(right: int, trials: int, low: float, high: float) -> None:
    found = wilson(right, trials)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-3)
    assert math.isclose(found.share, right / trials)


def test_no_trials_is_an_error() -> None:
    with pytest.raises(ValueError, match="no trials"):
        wilson(0, 0)
