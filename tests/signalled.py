"""A stop signal in the midst of a journalled piece of news."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path

from rl.state.journal import Journal
from rollout.engine import Delta


class Signalled(Journal):
    """Gets SIGTERM as it is about to record its ``at``-th piece; ``came``: all pieces that it was asked to record."""

    def __init__(self, folder: Path, at: int) -> None:
        super().__init__(folder)
        self.at, self.came = at, list[Sequence[Delta]]()

    def append(self, deltas: Sequence[Delta]) -> None:
        self.came.append(deltas)
        if len(self.came) == self.at:
            signal.raise_signal(signal.SIGTERM)
        super().append(deltas)

    def recorded(self) -> bool:
        """Whether all of them are on record, in their order and without a gap."""
        self.close()
        return Journal(self.folder).open(0) == [delta for deltas in self.came for delta in deltas]
