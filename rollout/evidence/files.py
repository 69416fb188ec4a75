"""Evidence from text files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rollout.evidence.windows import EvidenceError

LARGEST = 16
"""MiB of one file."""


@dataclass(frozen=True)
class Piece:
    """One text of evidence."""

    name: str
    """Of its file or field, and which part of it."""
    text: str


def read_text(file: Path) -> str:
    """Return the text of a file. Raises ``EvidenceError``, without the file's name, for one that holds none."""
    if file.is_dir():
        raise EvidenceError("a directory; name the files in it")
    try:
        with file.open("rb") as opened:
            data = opened.read(LARGEST * 2**20 + 1)
    except OSError as error:
        raise EvidenceError(f"cannot be read: {error.strerror}") from error
    if len(data) > LARGEST * 2**20:
        raise EvidenceError(f"has more than {LARGEST} MiB; name the part of it that matters")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise EvidenceError(f"not UTF-8 text (byte {error.start}); convert it, or take its text out") from error
    if not text.strip():
        raise EvidenceError("holds no text")
    return text


def texts_digest(files: Iterable[str]) -> str:
    """Return the SHA-256 of what the files hold. Raises ``EvidenceError``."""
    digest = hashlib.sha256()
    for file in files:
        try:
            digest.update(hashlib.sha256(read_text(Path(file)).encode()).digest())
        except EvidenceError as error:
            raise EvidenceError(f"evidence {file}: {error}") from error
    return digest.hexdigest()
