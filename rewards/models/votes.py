"""From several verdicts on one response to the probability that it is right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

Vote = Literal["majority", "mean"]


def voted(verdicts: Sequence[bool | None], vote: Vote) -> float | None:
    """Return the probability that a response is right, by what was read of its verdicts; ``None``: undecided.

    ``mean``: the share that says right. ``majority``: 1 or 0 as more than half of them say; a tie is undecided.
    Verdicts that could not be read (``None``) are left out; without any there is no probability.
    """
    read = [verdict for verdict in verdicts if verdict is not None]
    if not read:
        return None
    share = sum(read) / len(read)
    if vote == "mean":
        return share
    return None if share == 0.5 else float(share > 0.5)
