"""From the rewards of one problem's k rollouts to advantages. Pure functions; ``None`` marks a masked rollout."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Literal

Baseline = Literal["mean", "exp_mean"]
SPREAD_FLOOR = 1e-4
"""Added to the standard deviation that advantages are divided by, as TRL does; the papers leave a spread of 0 open."""


def baseline_value(rewards: Sequence[float], baseline: Baseline, tau: float) -> float:
    """Return tau log Z of one problem, estimated from its k rewards [2501.12599 §2.3.2].

    ``mean``: their mean, the paper's choice and the limit of tau to infinity. ``exp_mean``: tau log mean exp(r / tau),
    the exact form; the maximum is taken out so that small tau cannot overflow.
    """
    if baseline == "mean":
        return math.fsum(rewards) / len(rewards)
    top = max(rewards)
    return top + tau * math.log(math.fsum(math.exp((r - top) / tau) for r in rewards) / len(rewards))


def baselined(rewards: Sequence[float | None], baseline: Baseline = "mean", tau: float = 0.01) -> list[float | None]:
    """Return A_j = r_j - tau log Z for the k total rewards of one problem [2501.12599 eq. 3].

    A masked rollout gets no advantage and does not enter the baseline. With fewer than two rewards left there is
    nothing to compare (the mean would make A = 0 always) and every entry is ``None``.
    """
    known = [r for r in rewards if r is not None]
    if len(known) < 2:
        return [None] * len(rewards)
    level = baseline_value(known, baseline, tau)
    return [None if r is None else r - level for r in rewards]


def standardised(rewards: Sequence[float | None]) -> list[float | None]:
    """Return A_j = (r_j - mean) / std over the group's unmasked rewards [2402.03300 §4.1.2]; std is the sample's."""
    known = [r for r in rewards if r is not None]
    if len(known) < 2:
        return [None] * len(rewards)
    mean, spread = baseline_value(known, "mean", 0.0), statistics.stdev(known)
    return [None if r is None else (r - mean) / (spread + SPREAD_FLOOR) if spread else 0.0 for r in rewards]
