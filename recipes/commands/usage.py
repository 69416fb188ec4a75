"""What every command's arguments have in common: usage errors and the types of values. Loads nothing heavy."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NoReturn, Protocol


class UsageError(Exception):
    """The command is wrong; the message is one or more lines. Exit code 2."""


class Parser(argparse.ArgumentParser):
    """argparse without its guesses: no abbreviations, and an option that is given twice has to say the same."""

    def __init__(self, *names: Any, **more: Any) -> None:
        super().__init__(*names, **{**more, "allow_abbrev": False})
        self.register("action", None, _Once)
        self.register("action", "store", _Once)

    def error(self, message: str) -> NoReturn:
        """One line; the usage text would hide it."""
        self.exit(2, f"k15: {message}; usage: {self.prog} --help\n")


class _Once(argparse._StoreAction):
    """Stores a value; argparse would take the last of several without a word."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        given = vars(namespace).setdefault("given_options", {})
        if option is not None and given.setdefault(self.dest, values) != values:
            parser.error(f"{option} is given twice, with different values; leave one out")
        super().__call__(parser, namespace, values, option)


class AddCommand(Protocol):
    """``command`` of ``recipes.commands.cli.parser``."""

    def __call__(self, name: str, run: object, text: str, **more: str) -> argparse.ArgumentParser:
        """Add a command."""


def file_trouble(error: OSError) -> str:
    """What was wrong with which file, in one line."""
    if error.filename is None or not error.strerror:
        return str(error) or type(error).__name__
    return f"{error.filename}: {error.strerror}"


def count(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def path(text: str) -> Path:
    """A file or directory; ``~`` is the home directory also where the shell leaves it (``--out=~/x``)."""
    if not text.strip() or "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is no path")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from error


def seed(text: str) -> int:
    """A whole number from 0 to 2^32 - 1: what every library takes."""
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to {2**32 - 1}")
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
