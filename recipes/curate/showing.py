"""Progress of the stages without a model. Those that ask one show their own, and there is one terminal."""

from __future__ import annotations

import sys
from typing import Self

from rollout.progress import View, progress


class Showing:
    """A ``Progress`` whose view is opened by the first stage, and may be closed in between."""

    def __init__(self) -> None:
        self._view: View | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def stage(self, name: str, total: int | None = None, earlier: int = 0) -> None:
        """See ``Progress``."""
        if self._view is None:
            self._view = progress(transient=True).__enter__()
        self._view.stage(name, total, earlier)

    def advance(self, n: int, tokens: int = 0) -> None:
        """See ``Progress``."""
        if self._view is not None:
            self._view.advance(n, tokens)

    def print(self, line: str) -> None:
        """Print one line to standard error, above a bar that is there."""
        if self._view is not None:
            self._view.print(line)
        else:
            print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        """End the view; the next stage opens another. Idempotent."""
        if self._view is not None:
            self._view.close()
        self._view = None
