"""A disk that is full for a moment."""

from __future__ import annotations

from typing import Any


class Filling:
    """A raw file whose disk is full for once: one write is short, the one after it fails, and then there is room."""

    def __init__(self, file: Any) -> None:
        self.file, self.full = file, True

    def write(self, data: memoryview) -> int:
        if self.full and len(data) > 1:
            return int(self.file.write(data[: len(data) // 2]))
        if self.full:
            self.full = False
            raise OSError(28, "No space left on device")
        return int(self.file.write(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)
