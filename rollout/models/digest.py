"""One number for the files of a model."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

FILES = ("*.safetensors", "*.bin", "*.json", "*.jinja", "*.model", "*.txt", "*.pt")
"""Files of a model that what it computes may depend on."""


def digest_of(files: Iterable[Path], folder: Path) -> str:
    """Return the SHA-256 of ``files`` of ``folder``, their contents and their names. Raises ``OSError``."""
    ordered = sorted(set(files))
    with ThreadPoolExecutor(min(len(ordered), len(os.sched_getaffinity(0))) or 1) as threads:
        sums = threads.map(_sum, ordered)
        lines = [f"{file.relative_to(folder)} {found}\n" for file, found in zip(ordered, sums, strict=True)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _sum(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
