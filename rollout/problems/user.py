"""Problems from code of the user's own: a list, a stream, a procedural task, or a whole source.

What the configuration names is, or returns when it is called, one of

- an iterable of rows as in a JSON Lines file (``problem``, ``answer``, ...) or of ``Problem``: read whole and checked
  like a file, or with ``stream`` drawn as it comes;
- a procedural task (``rollout.problems.source.Generator``): problems and demonstrations by index and split;
- a ``ProblemSource``; one that ends is read whole, too.

Errors in it are ``ProblemError`` of one line, with its file and line.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from random import Random
from typing import Any, TypeVar

from rewards.verify import check_verifier
from rollout.problems.config import PythonSource
from rollout.problems.rows import problem_of
from rollout.problems.source import ProblemError, ProblemList, ProblemSource, Procedural, Split
from rollout.types import Message, Problem
from rollout.user_code import UserCodeError, explain, load, source_of

T = TypeVar("T")
GROUP = "k15.problems"
"""Entry points that name problem sources."""
MOST = 100_000
"""Problems of an iterable that does not tell its length, after which it is taken for one that never ends."""
KEPT = 65_536
"""Problems of a stream that are kept; one from before is found by beginning again."""
COMPARED = 3
"""First problems of a stream that must be the same when it is begun twice."""
_SOURCE = ("size", "fingerprint", "__getitem__", "place")
_TASK = ("alphabet", "problem", "demonstration")


def load_user(config: PythonSource, split: Split) -> ProblemSource:
    """Return the source that ``config.path`` names. A function is called, with ``split`` if it has a parameter of that
    name.

    Raises ``ProblemError``.
    """
    try:
        found = load(config.path, GROUP)
    except UserCodeError as error:
        raise ProblemError(str(error)) from error
    file, text = source_of(config.path, found)
    code = _Code(config, split, found, file or config.path)
    made = code.make()
    identity = hashlib.sha256(text + f"\n{config.model_dump_json()}/{split}".encode()).hexdigest()
    if all(hasattr(made, name) for name in _TASK):
        return Procedural(_Task(made, code), split, identity)
    if all(hasattr(made, name) for name in _SOURCE):
        return _whole(_Own(made, code), config.path)
    if config.stream:
        return Stream(code, identity)
    return code.listed(made)


def _whole(source: _Own, path: str) -> ProblemSource:
    """Read a source that ends as a whole, and so check it like a file."""
    size = source.size
    if size is None:
        return source
    return ProblemList([source[i] for i in range(size)], path, [source.place(i) for i in range(size)])


class _Code:
    """The user's function; every call may fail."""

    def __init__(self, config: PythonSource, split: Split, found: Any, file: str) -> None:
        self.config, self.split, self.found, self.file = config, split, found, file
        self.name = config.path.rpartition(":")[2]

    def make(self) -> Any:
        """Return what the function returns; the object itself when it is no function."""
        found = self.found
        if not callable(found) or (not inspect.isclass(found) and all(hasattr(found, name) for name in _SOURCE)):
            return found
        return self.call(lambda: found(split=self.split) if "split" in inspect.signature(found).parameters else found())

    def call(self, make: Callable[[], T]) -> T:
        """Return what ``make`` gives. Raises ``ProblemError`` for whatever it raises."""
        try:
            return make()
        except Exception as error:
            raise self.failed(error) from error

    def failed(self, error: BaseException) -> ProblemError:
        """Return the user's exception as one line."""
        return ProblemError(f"{explain(error, self.file)} (while {self.name} made its {self.split} problems)")

    def problems(self, made: Any) -> Iterator[Problem]:
        """Yield the problems of an iterable, in order."""
        if isinstance(made, str | bytes | Mapping):
            raise self._misfit(made)
        try:
            rows = iter(made)
        except TypeError:
            raise self._misfit(made) from None
        index = -1
        while True:
            index += 1
            try:
                row = next(rows)
            except StopIteration:
                return
            except Exception as error:
                raise self.failed(error) from error
            yield self._problem(row, index)

    def _problem(self, row: Any, index: int) -> Problem:
        if isinstance(row, Problem):
            return self.known(row, index)
        if not isinstance(row, Mapping):
            raise ProblemError(f"{self.place(index)}: is {type(row).__name__}, neither a Problem nor a dict")
        try:
            return problem_of(row, self.config.verifier, f"{self.name}-{self.split}-{index}", self.name)
        except ValueError as error:
            raise ProblemError(f"{self.place(index)}: {error}") from error

    def known(self, problem: Any, index: int) -> Problem:
        """Return the problem itself. Raises ``ProblemError`` when it is none, or names a verifier that there is not."""
        if not isinstance(problem, Problem):
            raise ProblemError(f"{self.place(index)}: is {type(problem).__name__}, not a Problem")
        try:
            if problem.verifier:  # without one the run's own reward judges
                check_verifier(problem.verifier)
        except ValueError as error:
            raise ProblemError(f"{self.place(index)}: {error}") from error
        return problem

    def listed(self, made: Any) -> ProblemList:
        """Return all problems of an iterable that ends."""
        sized = hasattr(made, "__len__")
        found = list(self.problems(made)) if sized else list(islice(self.problems(made), MOST + 1))
        if len(found) > MOST and not sized:
            raise ProblemError(
                f"{self.config.path}: goes on after {MOST} problems; if it never ends say so with stream: true, "
                "otherwise return a list"
            )
        return ProblemList(found, self.config.path, [self.place(index) for index in range(len(found))])

    def place(self, index: int) -> str:
        """Return ``/a/my_file.py:source, problem 3 (train)``."""
        return f"{self.config.path}, problem {index + 1} ({self.split})"

    def _misfit(self, made: Any) -> ProblemError:
        return ProblemError(
            f"{self.config.path}: gave {type(made).__name__}; a problem source returns an iterable of dicts with "
            "problem and answer, or of Problem"
        )


@dataclass(frozen=True)
class _Task:
    """A user's procedural task (``Generator``); every call may fail."""

    inner: Any
    code: _Code

    @property
    def alphabet(self) -> Sequence[str]:
        """See ``Generator``."""
        found: Sequence[str] = self.code.call(lambda: tuple(self.inner.alphabet))
        return found

    def problem(self, index: int, split: Split) -> Problem:
        """See ``Generator``."""
        return self.code.known(self.code.call(lambda: self.inner.problem(index, split)), index)

    def demonstration(self, problem: Problem, rng: Random) -> str | Sequence[Message]:
        """See ``Generator``."""
        made = self.code.call(lambda: self.inner.demonstration(problem, rng))
        return made if isinstance(made, list | tuple) else str(made)


@dataclass(frozen=True)
class _Own:
    """A user's whole source (``ProblemSource``); every call may fail."""

    inner: Any
    code: _Code

    @property
    def size(self) -> int | None:
        """See ``ProblemSource``."""
        return self.code.call(lambda: None if self.inner.size is None else int(self.inner.size))

    @property
    def fingerprint(self) -> str:
        """See ``ProblemSource``."""
        return self.code.call(lambda: str(self.inner.fingerprint))

    def __getitem__(self, index: int) -> Problem:
        return self.code.known(self.code.call(lambda: self.inner[index]), index)

    def place(self, index: int) -> str:
        """See ``ProblemSource``."""
        return self.code.call(lambda: str(self.inner.place(index)))


class Stream:
    """Problems of an iterable that never ends, in its order. The code must make the same ones each time it is begun.

    Raises ``ProblemError`` when it does not, or when the iterable ends.
    """

    def __init__(self, code: _Code, fingerprint: str) -> None:
        self._code = code
        self.fingerprint = fingerprint
        """A hash that changes with the text of the user's file."""
        self._begin()
        first = [self[index] for index in range(COMPARED)]
        self._begin()
        if [self[index] for index in range(COMPARED)] != first:
            raise ProblemError(
                f"{code.config.path}: its problems differ when it is begun twice; draw them from a seed of your own, "
                "so that a run can be resumed"
            )

    @property
    def size(self) -> None:
        """Unlimited."""
        return

    def __getitem__(self, index: int) -> Problem:
        if index < self._first:
            self._begin()
        while index >= self._first + len(self._kept):
            try:
                self._kept.append(next(self._problems))
            except StopIteration:
                raise ProblemError(
                    f"{self._code.config.path}: ended after {self._first + len(self._kept)} problems, and stream: true "
                    "says that it never does"
                ) from None
            if len(self._kept) > KEPT:
                del self._kept[: KEPT // 2]
                self._first += KEPT // 2
        return self._kept[index - self._first]

    def place(self, index: int) -> str:
        """Return the code and the number."""
        return self._code.place(index)

    def _begin(self) -> None:
        self._problems = self._code.problems(self._code.make())
        self._kept: list[Problem] = []
        self._first = 0
        """Number of the first problem that is kept."""
