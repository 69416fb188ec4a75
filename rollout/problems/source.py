"""Sources of problems: files, Hugging Face data sets and generators behind one protocol."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, overload

from rewards.verify import WHOLE
from rollout.types import Message, Problem

Split = Literal["train", "heldout"]


class ProblemError(ValueError):
    """A problem source cannot be used; one line: where, what, what to do."""


class ProblemSource(Protocol):
    """Problems by index."""

    @property
    def size(self) -> int | None:
        """Number of problems; ``None``: unlimited, any index from 0 on is valid."""

    @property
    def fingerprint(self) -> str:
        """A hash that changes when any problem does; a resumed run compares it."""

    def __getitem__(self, index: int, /) -> Problem:
        """Return problem number ``index``: the same one every time."""

    def place(self, index: int) -> str:
        """Return where problem ``index`` comes from, for messages: ``train.jsonl:37``."""


class Generator(Protocol):
    """A procedural task: a frozen dataclass whose problems are pure functions of its fields, split and index."""

    @property
    def alphabet(self) -> Sequence[str]:
        """Tokens of which every prompt and demonstration is a concatenation."""

    def problem(self, index: int, split: Split) -> Problem:
        """Return problem ``index`` of a split; no text occurs in both splits."""

    def demonstration(self, problem: Problem, rng: random.Random) -> str | Sequence[Message]:
        """Return a verified response for the supervised warm-up; of several turns, the policy's (``assistant``) with
        what its environment answers in between.
        """


@dataclass(frozen=True)
class Procedural:
    """An unlimited source: one split of a generator."""

    generator: Generator
    split: Split
    identity: str = ""
    """Identity of the generator; empty: its ``repr``."""

    @property
    def size(self) -> None:
        """Unlimited."""
        return

    @property
    def fingerprint(self) -> str:
        """Name, fields and split of the generator."""
        return hashlib.sha256(f"{self.identity or repr(self.generator)}/{self.split}".encode()).hexdigest()

    def __getitem__(self, index: int) -> Problem:
        return self.generator.problem(index, self.split)

    def place(self, index: int) -> str:
        """Return the name of the generator and index."""
        return f"{type(self.generator).__name__.lower()} problem {index} ({self.split})"


class ProblemList(Sequence[Problem]):
    """A finite source. Raises ``ProblemError`` when it is empty or an id comes twice.

    ``origin`` names it in errors, ``places`` each of its problems (default: by number).
    """

    def __init__(self, problems: Sequence[Problem], origin: str, places: Sequence[str] | None = None) -> None:
        if not problems:
            raise ProblemError(f"{origin}: no problems are left to use; check the file and the filters of the source")
        seen: set[str] = set()
        for problem in problems:
            if problem.id in seen:
                raise ProblemError(f"{origin}: the id {problem.id!r} occurs twice; ids must be unique")
            seen.add(problem.id)
        self._problems = tuple(problems)
        self._places = None if places is None else tuple(places)
        self.origin = origin

    @property
    def size(self) -> int:
        """Number of problems."""
        return len(self._problems)

    @property
    def fingerprint(self) -> str:
        """Hash of what is asked and expected, in order."""
        digest = hashlib.sha256()
        for problem in self._problems:
            tests = [problem.extra] if problem.verifier in WHOLE else []
            before = [[message.role, message.content] for message in problem.messages[:-1]]
            more = [*tests, *([before] if before else [])]
            parts = [problem.id, problem.prompt, problem.answer, problem.verifier, *more]
            digest.update(json.dumps(parts, default=str).encode())
        return digest.hexdigest()

    def place(self, index: int) -> str:
        """Return file and line, or data set and row, of a problem."""
        return self._places[index] if self._places else f"{self.origin}, problem {index + 1}"

    def __len__(self) -> int:
        return len(self._problems)

    def __iter__(self) -> Iterator[Problem]:
        return iter(self._problems)

    @overload
    def __getitem__(self, index: int) -> Problem: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Problem, ...]: ...
    def __getitem__(self, index: int | slice) -> Problem | tuple[Problem, ...]:
        return self._problems[index]


def asked(problem: Problem) -> str:
    """Return what the user says in a problem, up to case and white space."""
    text = "\n".join(message.content for message in problem.messages if message.role == "user")
    return " ".join(text.casefold().split())


def check_disjoint(train: ProblemSource, heldout: ProblemSource) -> None:
    """Raises ``ProblemError`` when two finite sources share a problem, by its text up to case and white space."""
    if not isinstance(train, ProblemList) or not isinstance(heldout, ProblemList):
        return  # what is shared with a stream is left out as it comes (``rollout.problems.fit.Screen``)
    known = {asked(problem) for problem in train}
    shared = [problem.id for problem in heldout if asked(problem) in known]
    if shared:
        raise ProblemError(
            f"{len(shared)} of {len(heldout)} held-out problems of {heldout.origin} are also training problems of "
            f"{train.origin} (first: {shared[0]!r}); use other files, or keep them apart with skip and limit"
        )


def find_data(path: str, data_folder: str | None) -> Path:
    """Return the file that ``path`` names: relative ones in ``data_folder`` ($K15_DATA) first, then in the working
    folder.
    """
    given = Path(path).expanduser()
    places = [Path(data_folder) / given, given] if data_folder and not given.is_absolute() else [given]
    for place in places:
        if place.exists():
            return place
    looked = " and ".join(str(place.parent.absolute()) for place in places)
    hint = "" if data_folder or given.is_absolute() else "; $K15_DATA may name the folder of data files"
    raise ProblemError(f"no problem file {given.name!r} in {looked}{hint}")
