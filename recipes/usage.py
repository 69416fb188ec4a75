"""What every command's arguments have in common: usage errors and the types of values. Loads nothing heavy."""

from __future__ import annotations

import argparse
from typing import Protocol


class UsageError(Exception):
    """The command is wrong; the message is one or more lines. Exit code 2."""


class AddCommand(Protocol):
    """``command`` of ``recipes.cli.parser``."""

    def __call__(self, name: str, run: object, text: str, **more: str) -> argparse.ArgumentParser:
        """Add a command."""


def count(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def number(text: str) -> float:
    """A number; NaN, which is in no range, for anything else."""
    try:
        return float(text)
    except ValueError:
        return float("nan")


def not_negative(text: str) -> float:
    """A finite number of at least 0."""
    if not 0 <= number(text) < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 0")
    return float(text)


def positive(text: str) -> float:
    """A finite number above 0."""
    if not 0 < number(text) < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return float(text)
