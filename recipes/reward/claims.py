"""Labelled claims as a file, to train and to compare reward models on.

    python -m recipes.reward.claims labelled.jsonl --count 4000
    python -m recipes.reward.claims unseen.jsonl --count 2000 --split heldout

Each line has id, question, reference, response and label; the questions of the two splits have no text in common.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rollout.files import replace_file
from rollout.problems.build import build_generator
from rollout.problems.claims import Claims
from rollout.problems.config import ClaimsSource
from rollout.problems.source import ProblemError, Split
from rollout.reward_models.labelled import RIGHT, WRONG
from rollout.strict_json import dumps

MOST_REPEATS = 100
"""Claims drawn for each one that is new, before a source is called exhausted."""


def rows(source: Claims, split: Split, wanted: int) -> Iterator[dict[str, Any]]:
    """Yield the first ``wanted`` different claims of a split. Raises ``ProblemError`` when there are not so many."""
    seen: set[str] = set()
    for index in count():
        if len(seen) == wanted:
            return
        if index > MOST_REPEATS * wanted:
            raise ProblemError(f"only {len(seen)} different claims were found, not {wanted}: widen steps or terms")
        problem, claim = source.problem(index, split), source.claim(index, split)
        if problem.id in seen:
            continue
        seen.add(problem.id)
        yield {
            "id": problem.id,
            "question": claim.question.prompt,
            "reference": claim.question.answer,
            "response": claim.response,
            "label": RIGHT if claim.right else WRONG,
        }


def write_claims(path: Path, source: Claims, split: Split, wanted: int) -> None:
    """Write so many claims of a split, a line each. Raises ``ProblemError`` and ``OSError``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, "".join(dumps(row) + "\n" for row in rows(source, split, wanted)).encode())


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the file that the command line asks for; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m recipes.reward.claims", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out", type=Path, help="the JSON Lines file")
    parser.add_argument("--count", type=int, default=4000, help="claims")
    parser.add_argument("--split", choices=("train", "heldout"), default="train", help="whose questions")
    parser.add_argument("--terms", type=int, nargs=2, default=(1, 4), metavar=("FEWEST", "MOST"), help="of an answer")
    parser.add_argument("--seed", type=int, default=0, help="another seed draws other claims")
    given = parser.parse_args(arguments)
    if given.count < 1:
        parser.error(f"--count must be at least 1, got {given.count}")
    try:
        source = build_generator(ClaimsSource(terms=tuple(given.terms), seed=given.seed))
        assert isinstance(source, Claims)
        write_claims(given.out, source, given.split, given.count)
    except (ProblemError, ValidationError, OSError) as error:
        print(f"k15: {error}", file=sys.stderr)
        return 1
    print(f"{given.out}: {given.count} claims")
    return 0


if __name__ == "__main__":
    sys.exit(main())
