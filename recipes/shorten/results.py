"""The results of long2short: every variant on the same held-out problems. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rewards.stats import Estimate

Method = Literal["merge", "rejection", "merge_rejection", "dpo", "rl"]
METHODS: tuple[Method, ...] = ("merge", "rejection", "merge_rejection", "dpo", "rl")
"""The ways of k1.5 section 2.4; ``merge_rejection``: rejection sampling from the merged model ("merge + rs")."""
TITLES = {
    "long": "long",
    "short": "short",
    "merge": "merge",
    "rejection": "shortest rejection",
    "merge_rejection": "merge + rejection",
    "dpo": "DPO",
    "rl": "long2short RL",
}
"""Names for people, by variant; ``long`` is the model that all start from, ``short`` the one that is merged in."""


@dataclass(frozen=True)
class Change:
    """The comparison of a variant with the long model, problem by problem."""

    accuracy: float
    """Difference of avg@n, in [-1, 1]."""
    low: float
    high: float
    """95 % interval of that difference (paired)."""
    p: float
    """Two-sided p-value of no difference in accuracy."""
    tokens: float
    """Mean response tokens over the long model's, minus 1: -0.4 is 40 % shorter."""


@dataclass(frozen=True)
class Variant:
    """The results of one model on the held-out problems."""

    name: str
    """Key of ``TITLES``."""
    model: str
    """Its Hugging Face directory."""
    accuracy: Estimate
    """avg@n with its 95 % interval; ungradable responses are left out."""
    tokens: Estimate
    """Mean response tokens with a 95 % interval over problems; cut responses count with the tokens that they have."""
    median_tokens: float
    truncated: float
    """Share of responses cut at the length cap (they count as wrong)."""
    ungradable: float
    """Share of responses that the grader failed on."""
    samples: int
    """Responses per problem."""
    change: Change | None = None
    """``None`` for the long model itself."""
    note: str = ""
    """How it was made, in a line: what was averaged, how many examples or pairs, which checkpoint and why."""
