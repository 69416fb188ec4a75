"""Whether an engine sleeps (``Engine.sleep``), and what it may be asked for."""

from __future__ import annotations

from collections.abc import Collection

from rollout.engine import DEEP


class Rest:
    """The state of one engine between sampling and sampling."""

    def __init__(self) -> None:
        self.level = 0
        """Of its sleep; 0: awake."""
        self.bare = False
        """Whether it has no weights: it slept deeply, and none have come since."""

    def fall_asleep(self, level: int, in_flight: Collection[str]) -> None:
        """Note that it sleeps now. Raises ``ValueError`` with requests ``in_flight``."""
        if in_flight:
            raise ValueError(f"an engine cannot sleep with {len(in_flight)} requests in flight")
        self.level, self.bare = level, self.bare or level == DEEP

    def awake(self, bare: bool = False) -> None:
        """Raise ``ValueError`` unless it is awake and has weights; ``bare``: those may still be to come."""
        if self.level:
            raise ValueError("this engine sleeps: wake it first")
        if self.bare and not bare:
            raise ValueError("this engine has slept without weights: update them first")
