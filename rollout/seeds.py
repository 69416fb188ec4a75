"""One way to derive independent seeds from names, stable across processes and machines."""

from __future__ import annotations

from hashlib import blake2b


def seed_of(*parts: object) -> int:
    """Return a 63-bit seed that depends on every part, e.g. ``seed_of(run_seed, rollout.id, position)``."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
