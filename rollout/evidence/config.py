"""How windows of evidence are merged into one distribution. Imports no torch."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from rollout.settings import Config


class MergingConfig(Config):
    """NBCE [2403.17552]: log p(T|S_1..S_n) = (1 + beta) P[log p(T|S)] - beta log p(T), at each step by itself.

    Defaults are those of the paper's demonstration and code.
    """

    shorthand: ClassVar[str] = "pooling"
    pooling: Literal["entropy", "mean", "exact"] = "entropy"
    """P. ``entropy``: the one window whose next-token distribution has the least entropy. ``mean``: the mean of all.
    ``exact``: naive Bayes to the letter, the mean with beta = n - 1."""
    beta: float | None = Field(None, ge=0)
    """Weight of the contrast with the model that sees no evidence; ``null``: 0.25, and n - 1 of ``exact``."""
    eta: float = Field(0.1, ge=0)
    """Nats taken off the entropy of the window that spoke for the token before, so that it speaks on; of ``entropy``
    alone."""
    top_p: float | None = Field(None, gt=0, le=1)
    """Nucleus that each row keeps before it is merged, not renormalised; ``null``: 0.95 of ``entropy``, and 1 of the
    others, of which any single window could otherwise forbid a token to all."""

    @model_validator(mode="after")
    def _exact(self) -> Self:
        if self.pooling == "exact" and self.beta is not None:
            raise ValueError("beta of exact is the number of windows less one: leave it out, or take pooling mean")
        return self

    def weight(self, windows: int) -> float:
        """Return beta for so many windows."""
        if self.pooling == "exact":
            return windows - 1.0
        return 0.25 if self.beta is None else self.beta

    @property
    def nucleus(self) -> float:
        """``top_p``, or what stands for it."""
        if self.top_p is not None:
            return self.top_p
        return 0.95 if self.pooling == "entropy" else 1.0


class TrainedMergingConfig(MergingConfig):
    """A merging that is part of the policy: the learner computes it again, with the windows that spoke for each token.

    That takes one window a token, and its whole distribution: tokens outside of a nucleus that has moved since would
    have no log-probability.
    """

    top_p: float | None = Field(1.0, gt=0, le=1)
    """As drawn: 1, the whole distribution."""

    @model_validator(mode="after")
    def _again(self) -> Self:
        if self.pooling != "entropy":
            raise ValueError(f"pooling {self.pooling} reads all windows for each token: training takes entropy")
        if self.nucleus < 1:
            raise ValueError("training takes the whole distribution of each window: set top_p to 1")
        return self
