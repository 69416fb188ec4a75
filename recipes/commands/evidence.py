"""Files of evidence on a command line, and how they are merged. Loads nothing heavy."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from recipes.commands.usage import UsageError, count, not_negative, path
from rollout.plain import one_line

if TYPE_CHECKING:
    from rollout.evidence.config import MergingConfig
    from rollout.evidence.files import Piece


def add_evidence_options(one: argparse._ActionsContainer, least: Literal["*", "+"] = "+") -> None:
    """Add files, of which there may be none (``*``), windows and merging."""
    one.add_argument(
        "--evidence",
        nargs=least,
        type=path,
        metavar="FILE",
        help="text files, each read in a window of its own; last on the line, or before another option",
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

    if more.get("eta") and arguments.pooling in ("mean", "exact"):
        raise UsageError(f"--eta is of --pooling entropy alone; leave it out with {arguments.pooling}")
    keys = {"pooling": arguments.pooling, "beta": arguments.beta, **more}
    try:
        return MergingConfig.model_validate({key: value for key, value in keys.items() if value is not None})
    except ValidationError as error:
        raise UsageError(*(str(one["msg"]).removeprefix("Value error, ") for one in error.errors())) from error


def read_files(files: Sequence[Path]) -> list[Piece]:
    """Return the texts of the files. Raises ``UsageError`` with a line for each that cannot be used."""
    from rollout.evidence.files import Piece, read_text
    from rollout.evidence.windows import EvidenceError

    found, faults = [], []
    if twice := [file for number, file in enumerate(files) if file in files[:number]]:
        raise UsageError(f"--evidence {one_line(str(twice[0]), 200)}: named twice, and would vote twice; leave one out")
    for file in files:
        try:
            found.append(Piece(one_line(str(file), 120), read_text(file)))
        except EvidenceError as error:
            faults.append(f"--evidence {one_line(str(file), 200)}: {error}")
    if faults:
        raise UsageError(*faults)
    return found


def evidence_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the keys of ``reward.model`` for a judge that reads evidence; none without ``--evidence``. Raises
    ``UsageError``.
    """
    if arguments.evidence is None:
        given = {name: vars(arguments)[name] for name in ("window", "pooling", "beta")}
        if odd := [name for name, value in given.items() if value is not None]:
            raise UsageError(f"--{odd[0]} is of evidence in windows: name files with --evidence FILE ...")
        return {}
    if arguments.judge is None:
        raise UsageError("--evidence is read by a judge: name a causal LM with --judge PATH")
    read_files(arguments.evidence)  # what is wrong with them is said before anything is loaded
    merging = merging_of(arguments, eta=0, top_p=1)
    files = [str(file) for file in arguments.evidence]
    return {"evidence": {"files": files, "window": arguments.window, "merging": merging.model_dump()}}
