"""DPO's implicit reward and what is reported of it."""

import math
from dataclasses import dataclass

from torch import Tensor


def implicit_rewards(policy_logps: Tensor, reference_logps: Tensor, beta: float) -> Tensor:
    """beta * (log pi(y|x) - log pi_ref(y|x)) of each answer; (B,) in, (B,) out, nats times beta.

    Source: Rafailov et al. 2023 (arXiv:2305.18290), section 5; summed over the answer's tokens, not averaged.
    """
    return beta * (policy_logps - reference_logps)


@dataclass(frozen=True)
class Interval:
    """A share with its 95 % Wilson score interval."""

    share: float
    low: float
    high: float


def wilson(successes: int, trials: int) -> Interval:
    """The 95 % score interval of a binomial share (Wilson 1927): honest near 0 and 1, where +-1.96 sigma is not."""
    if trials < 1:
        raise ValueError("no trials")
    z = 1.959964
    share = successes / trials
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return Interval(share, min(share, centre - half), max(share, centre + half))  # rounding at 0 and 1
