"""Files of evidence on a command line, and how they are merged. Loads nothing heavy."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from recipes.commands.usage import UsageError, count, not_negative, path
from rollout.plain import one_line

if TYPE_CHECKING:
    from rollout.evidence.config import MergingConfig

LARGEST = 16
"""MiB of one file."""


@dataclass(frozen=True)
class Piece:
    """One text of evidence."""

    name: str
    """Of its file, and which part of it."""
    text: str


def add_evidence_options(one: argparse._ActionsContainer) -> None:
    """Add files, windows and merging."""
    one.add_argument(
        "--evidence", nargs="+", type=path, default=[], metavar="FILE", help="text files, each read in a window"
    )
    one.add_argument("--window", type=count, metavar="TOKENS", help="split longer files, between paragraphs or lines")
    one.add_argument(
        "--pooling", choices=["entropy", "mean", "exact"], help="the surest window speaks (entropy), or all together"
    )
    one.add_argument("--beta", type=not_negative, metavar="B", help="contrast with no evidence (0.25)")


def merging_of(arguments: argparse.Namespace, **more: float | None) -> MergingConfig:
    """Return how windows are merged: ``--pooling`` and ``--beta``, and ``more`` keys. Raises ``UsageError``."""
    from pydantic import ValidationError

    from rollout.evidence.config import MergingConfig

    keys = {"pooling": arguments.pooling, "beta": arguments.beta, **more}
    try:
        return MergingConfig.model_validate({key: value for key, value in keys.items() if value is not None})
    except ValidationError as error:
        raise UsageError(*(str(one["msg"]).removeprefix("Value error, ") for one in error.errors())) from error


def read_files(files: Sequence[Path]) -> list[Piece]:
    """Return the texts of the files. Raises ``UsageError`` with a line for each that cannot be used."""
    found, faults = [], []
    for file in files:
        try:
            found.append(Piece(one_line(str(file), 120), _read(file)))
        except ValueError as error:
            faults.append(f"--evidence {one_line(str(file), 200)}: {error}")
    if faults:
        raise UsageError(*faults)
    return found


def _read(file: Path) -> str:
    if file.is_dir():
        raise ValueError("a directory; name the files in it")
    try:
        with file.open("rb") as opened:
            data = opened.read(LARGEST * 2**20 + 1)
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from error
    if len(data) > LARGEST * 2**20:
        raise ValueError(f"has more than {LARGEST} MiB; name the part of it that matters")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 text (byte {error.start}); convert it, or take its text out") from error
    if not text.strip():
        raise ValueError("holds no text")
    return text
