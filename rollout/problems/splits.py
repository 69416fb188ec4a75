"""Which split owns a procedural problem: a property of its text alone, so that no text is in both."""

from __future__ import annotations

from hashlib import blake2b

from rollout.problems.source import Split

HELD_OUT_SHARE = 8
"""One text in so many is held out."""


def owner(text: str, task: str, share: int = HELD_OUT_SHARE) -> Split:
    """Return the split that owns ``text``: a hash of it keyed by ``task``, so that tasks do not share their splits.

    One text in ``share`` is held out.
    """
    digest = blake2b(text.encode(), key=f"k15.{task}.split".encode(), digest_size=8).digest()
    return "heldout" if int.from_bytes(digest, "big") % share == 0 else "train"
