"""The parser of every command, usage errors, and the types of values. Loads nothing heavy."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NoReturn, Protocol


class UsageError(Exception):
    """The command is wrong; the message is one or more lines. Exit code 2."""


class Parser(argparse.ArgumentParser):
    """argparse without its guesses: no abbreviations, and an option given twice must have one value."""

    def __init__(self, *names: Any, **more: Any) -> None:
        super().__init__(*names, **{**more, "allow_abbrev": False})
        self.register("action", None, _Once)
        self.register("action", "store", _Once)

    def error(self, message: str) -> NoReturn:
        """Raise the error as one line, which the usage text would hide."""
        self.exit(2, f"k15: {message}; usage: {self.prog} --help\n")


class _Once(argparse._StoreAction):
    """Stores a value and refuses a second one; argparse would silently take the last."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        given = vars(namespace).setdefault("given_options", {})
        if option is not None and given.setdefault(self.dest, values) != values:
            parser.error(f"{option} is given twice, with different values; leave one out")
        super().__call__(parser, namespace, values, option)


class AddCommand(Protocol):
    """The function of ``recipes.commands.cli.parser`` that adds a command."""

    def __call__(self, name: str, run: object, text: str, **more: str) -> argparse.ArgumentParser:
        """Add a command."""


def file_trouble(error: OSError) -> str:
    """Return one line on which file failed and why."""
    if error.filename is None or not error.strerror:
        return str(error) or type(error).__name__
    return f"{error.filename}: {error.strerror}"


def count(text: str) -> int:
    """Parse a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def path(text: str) -> Path:
    """Parse a file or directory; ``~`` is the home directory also where the shell leaves it (``--out=~/x``)."""
    if not text.strip() or "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is no path")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from error


def seed(text: str) -> int:
    """Parse a whole number from 0 to 2^32 - 1, the range that every library takes."""
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to {2**32 - 1}")
    return int(text)


def number(text: str) -> float:
    """Parse a number; anything else gives NaN, which is in no range."""
    try:
        return float(text)
    except ValueError:
        return float("nan")


def not_negative(text: str) -> float:
    """Parse a finite number of at least 0."""
    if not 0 <= number(text) < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 0")
    return float(text)


def positive(text: str) -> float:
    """Parse a finite number above 0."""
    if not 0 < number(text) < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return float(text)
