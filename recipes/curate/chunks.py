"""What came of problems that a model was asked, chunk by chunk: a finished chunk is one small file.

A chunk is a folder with the record of an evaluation (``evals.journal``) and, once all of it is there,
``outcomes.jsonl``: a head, and a line per problem. Going on reads these alone, not the responses.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from evals.evaluate import Answer
from evals.journal import JournalError, drawn
from rollout.files import replace_file
from rollout.lines import BrokenLine, read_lines
from rollout.strict_json import dumps
from rollout.types import Problem

T = TypeVar("T")
Json = dict[str, Any]
OUTCOMES = "outcomes.jsonl"
SIZE = "chunks.json"


@dataclass(frozen=True)
class Reduction(Generic[T]):
    """From a problem's answers to what stays in memory of it."""

    kind: type[T]
    """A frozen dataclass of plain values, with the ``id`` of its problem."""
    of: Callable[[Problem, Sequence[Answer], str], T]
    """``(problem, its answers in the order of samples, why it was not asked)`` -> the outcome."""
    by: Json
    """The settings that it depends on; under others a finished chunk is worked out again from its responses."""


@dataclass(frozen=True)
class Chunk:
    """The folder of some problems."""

    folder: Path
    settings: Json
    """Under others the responses mean something else."""
    by: Json
    """Under others the responses stay, and the outcomes are worked out again."""

    def finished(self, kind: type[T], problems: Sequence[Problem]) -> list[T] | None:
        """Return the outcomes, in the order of the problems; ``None`` when the chunk is not finished under these
        settings.

        Raises ``JournalError`` when it holds those of other settings, or cannot be read.
        """
        path = self.folder / OUTCOMES
        try:
            rows = [row for _, row in read_lines(path)]
            if not rows:
                return None
            self._check(rows[0]["settings"])
            if rows[0]["by"] != self._plain(self.by):
                return None
            found: list[Any] = TypeAdapter(list[kind]).validate_python(rows[1:])  # type: ignore[valid-type]
        except (BrokenLine, KeyError, TypeError, ValidationError, OSError) as error:
            reason = str(error).partition("\n")[0]
            raise JournalError(f"{path}: no file of outcomes ({reason}); remove it to go on") from error
        same = [one.id for one in found] == [problem.id for problem in problems]
        return found if same else None  # another part of the set is asked: most of its responses are there

    def finish(self, kind: type[T], outcomes: Sequence[T]) -> None:
        """Write the outcomes. Raises ``JournalError``."""
        plain = TypeAdapter(list[kind]).dump_python(list(outcomes), mode="json")  # type: ignore[valid-type]
        lines = [dumps(row) for row in ({"settings": self.settings, "by": self.by}, *plain)]
        path = self.folder / OUTCOMES
        try:
            replace_file(path, ("\n".join(lines) + "\n").encode())
        except OSError as error:
            raise JournalError(
                f"{path} cannot be written: {error.strerror}; make room, the same command goes on"
            ) from error

    def on_record(self, problems: Sequence[Problem], samples: int) -> int:
        """Return how many of ``samples`` responses to each problem an earlier process has drawn. Raises
        ``JournalError``.
        """
        asked = {problem.id for problem in problems}
        return sum(id_ in asked and sample < samples for id_, sample in drawn(self.folder))

    def _check(self, old: Json) -> None:
        changed = [key for key, value in self._plain(self.settings).items() if old.get(key) != value]
        if changed:
            raise JournalError(
                f"{self.folder} holds answers under other settings ({', '.join(changed)}); choose another --out, or "
                "remove this one"
            )

    @staticmethod
    def _plain(value: Json) -> Json:
        plain: Json = json.loads(json.dumps(value))
        return plain


def chunk_size(folder: Path, fresh: Callable[[], int]) -> int:
    """Return how many problems a chunk of ``folder`` has: as it began, else ``fresh()``, which is then kept.

    So the chunks stay what they are when a process goes on with more or fewer engines. Raises ``JournalError``.
    """
    path = folder / SIZE
    try:
        if path.exists():
            return int(json.loads(path.read_bytes())["problems"])
        size = fresh()
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(path, f'{{"problems": {size}}}\n'.encode())
    except (ValueError, KeyError, TypeError) as error:
        raise JournalError(f"{path}: not the size of chunks ({error}); remove {folder} to go on") from error
    except OSError as error:
        raise JournalError(f"{path} cannot be written: {error.strerror}; choose another --out") from error
    return size
