"""Do engine and learner agree? Their log-probs of the same tokens, and how far apart these may be (invariant 1).

Rounding makes them differ a little everywhere, a weight that did not arrive makes them differ systematically. How much
rounding makes depends on type and model, so it is measured: an engine scores a probe as it was loaded, from the files
that the learner was loaded from too, before it takes its first weights. What differs then is not the weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rollout.config import RolloutConfig
from rollout.engine import ParityError

QUANTILE = 0.99
"""Share of the probe's tokens whose difference ``Gap.high`` bounds: single outliers are no proof of anything."""
SLACK = 3.0
"""How many times what the same weights showed later ones may: logits grow in training, and rounding with them."""


@dataclass(frozen=True)
class Bounds:
    """Largest differences allowed, in nats a token."""

    mean: float
    high: float
    """Of the ``QUANTILE`` of tokens with the smallest differences."""


EXACT = Bounds(2e-3, 1e-2)
"""For float32, where right weights differ by a hundredth of this (docs/log.md). No bound of another type is below."""
BY_TYPE = {"float32": EXACT, "float16": Bounds(0.02, 0.15), "bfloat16": Bounds(0.15, 1.0)}
"""The most that rounding to each type is believed to cause."""


@dataclass(frozen=True)
class Gap:
    """The difference between engine and learner on a probe, in nats per token."""

    mean: float = 0.0
    """Mean absolute difference."""
    high: float = 0.0
    """The ``QUANTILE`` of the absolute differences."""
    largest: float = 0.0
    """The largest one; NaN counts as infinite."""
    engine: float = 0.0
    """The engine's log-prob at the largest difference."""
    learner: float = 0.0
    """The learner's."""
    tokens: int = 0
    """Tokens compared."""

    def within(self, bounds: Bounds) -> bool:
        """Return whether it keeps both bounds; NaN never does."""
        return self.mean <= bounds.mean and self.high <= bounds.high


def gap_of(engine: Sequence[Sequence[float]], learner: Sequence[Sequence[float]]) -> Gap:
    """Return the gap between log-probs [n][len - 1] of the same tokens. Raises ``ParityError`` when the shapes
    differ.
    """
    if [len(row) for row in engine] != [len(row) for row in learner]:
        raise ParityError("engine and learner scored the probe to different lengths")
    pairs = [pair for ours, theirs in zip(engine, learner, strict=True) for pair in zip(ours, theirs, strict=True)]
    if not pairs:
        return Gap()
    pairs.sort(key=_distance)
    distances = [_distance(pair) for pair in pairs]
    high = distances[max(0, math.ceil(QUANTILE * len(distances)) - 1)]
    return Gap(math.fsum(distances) / len(distances), high, distances[-1], *pairs[-1], len(pairs))


def _distance(pair: tuple[float, float]) -> float:
    gap = abs(pair[0] - pair[1])
    return math.inf if math.isnan(gap) else gap


@dataclass(frozen=True)
class Limits:
    """The largest gap that a run allows: as configured, or by type and by what the same weights showed."""

    dtype: str
    """The coarser one of engine's and learner's."""
    mean: float | None = None
    """``rollout.parity_mean``."""
    high: float | None = None
    """``rollout.parity_high``."""

    def after(self, loaded: Gap | None = None) -> Bounds:
        """Return the bounds for an engine that showed ``loaded`` with the learner's own weights; ``None``: that is
        unknown.
        """
        most = BY_TYPE[self.dtype]
        mean, high = most.mean, most.high
        if loaded is not None:
            mean = min(mean, max(EXACT.mean, SLACK * loaded.mean))
            high = min(high, max(EXACT.high, SLACK * loaded.high))
        return Bounds(self.mean or mean, self.high or high)


def limits(config: RolloutConfig, *dtypes: str) -> Limits:
    """Return the limits of a run whose engines and learner compute in ``dtypes``."""
    coarsest = max(dtypes, key=lambda name: BY_TYPE[name].mean)
    return Limits(coarsest, config.parity_mean, config.parity_high)


def check_loaded(name: str, gap: Gap, allowed: Limits) -> None:
    """Raises ``ParityError`` for an engine that disagrees with the learner before any weights were sent."""
    bounds = allowed.after()
    if gap.within(bounds):
        return
    raise ParityError(
        f"{name} and the learner disagree on the weights that both loaded from the same files: "
        f"{_told(gap, bounds)}. Nothing was sent yet, so it is not the transfer: {_rounding(allowed)}the engine "
        "computes this model in another way"
    )


def check_published(name: str, version: int, gap: Gap, loaded: Gap | None, allowed: Limits) -> None:
    """Raises ``ParityError`` for an engine that disagrees with the learner after publish of ``version``."""
    bounds = allowed.after(loaded)
    if gap.within(bounds):
        return
    if loaded is not None:
        why = (
            f"On the weights that both loaded it was {loaded.mean:.2g} and {loaded.high:.2g}, in {allowed.dtype} too, "
            "so some weights of this version did not arrive or are not used"
        )
    else:
        rounding = _rounding(allowed)
        why = (f"Either {rounding}or the" if rounding else "The") + " engine does not serve the learner's weights"
    raise ParityError(
        f"{name} and the learner disagree after publish of version {version}: {_told(gap, bounds)}. {why}"
    )


def _told(gap: Gap, bounds: Bounds) -> str:
    return (
        f"log-probs are {gap.mean:.3g} nats apart on average (bound {bounds.mean:.3g}), {QUANTILE:.0%} of {gap.tokens} "
        f"tokens within {gap.high:.3g} (bound {bounds.high:.3g}), at most {gap.largest:.3g} "
        f"({gap.engine:.6f} against {gap.learner:.6f}); rollout.parity_mean and rollout.parity_high set the bounds"
    )


def _rounding(allowed: Limits) -> str:
    """Return a hint at the type where it may be the cause."""
    if allowed.dtype == "float32":
        return ""
    return f"{allowed.dtype} is too coarse for this model (engine.dtype float32 tells), "
