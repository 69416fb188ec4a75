"""The type of benchmarks. Each file in ``evals/benchmarks`` describes one; ``_template.py`` there says how.

A user's own needs no file there: ``k15 eval my_benchmark.py`` (docs/extend.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from evals.votes import Same, same_maths
from rollout.evidence.asking import FIELD, before, texts_of
from rollout.evidence.windows import EvidenceError
from rollout.grading import Verify, by_name
from rollout.problems.config import HubSource
from rollout.problems.source import ProblemError
from rollout.types import Problem

Row = Mapping[str, Any]
"""A row of a data file: ``problem``, ``answer``, perhaps ``id``, ``source`` and further fields."""

BOXED = "Please reason step by step, and put your final answer within \\boxed{}."
"""What most published results on maths benchmarks ask for."""


def plain(problem: Problem) -> str:
    """Return the problem as it stands; problems of the verifier ``code`` say themselves what the program must look
    like.
    """
    return problem.prompt


def followed_by(instruction: str) -> Callable[[Problem], str]:
    """Return an ``ask`` that puts the instruction behind the problem, after an empty line."""
    return lambda problem: f"{problem.prompt}\n\n{instruction}"


@dataclass(frozen=True)
class Shots:
    """The source of solved examples for few-shot and many-shot prompts; never the benchmark's own problems."""

    file: str
    """Local file with ``problem`` and what ``solve`` needs."""
    hub: HubSource
    solve: Callable[[Row], str]
    """The assistant's turn: a worked solution that ends the way the instruction asks for."""
    convert: Callable[[Row], Row] = dict
    """From a row of the hub's data set to a row of the local layout."""
    balanced: str = ""
    """Field by whose values examples take turns, each value once in a round: no class is rarer than another by more
    than one example. Empty: as they are drawn."""


@dataclass(frozen=True)
class Divided:
    """A problem's text as evidence and question, so that the evidence can be spread over windows (``k15 eval
    --nbce``).
    """

    pieces: tuple[str, ...]
    """The evidence in order. Windows are cut between pieces; within one they stand on lines of their own."""
    question: str
    """What stands behind the evidence, and alone where there is none."""
    holder: int | None = None
    """Index of the piece that holds the answer, where that is known."""

    def __post_init__(self) -> None:
        if not self.pieces or not self.question.strip():
            raise ValueError("a divided problem has at least one piece of evidence, and a question")

    def text(self, pieces: Sequence[str]) -> str:
        """Return the problem's text with these pieces for its evidence."""
        return before(self.question, pieces)


def given(problem: Problem) -> Divided:
    """Return the evidence that a row brings itself: the texts of its field ``evidence``, and its problem as the
    question. Raises ``ProblemError`` for a problem without.
    """
    try:
        texts = texts_of(problem)
    except EvidenceError as error:
        raise ProblemError(str(error)) from error
    if not texts:
        raise ProblemError(f"problem {problem.id!r}: it has no field {FIELD}; give it a list of texts")
    return Divided(texts, problem.prompt)


@dataclass(frozen=True)
class Needs:
    """What a benchmark that generates its problems has to fit."""

    count: Callable[[str], int]
    """Tokens of a text (an estimate where no tokenizer is at hand)."""
    lengths: tuple[int, ...]
    """Context lengths to fill, in tokens."""
    depths: tuple[int, ...]
    """Where the needle is hidden, in per cent of the context."""
    trials: int
    """Problems per length and depth."""
    seed: int


@dataclass(frozen=True)
class Benchmark:
    """One benchmark: its problems, how they are asked, how answers are judged, and the usual settings."""

    name: str
    """What the command line calls it; also the name of its file, up to ``_``."""
    title: str
    """Its name for people, e.g. ``MATH-500``."""
    published: str
    """The settings behind published numbers, and how the defaults here relate to them."""
    file: str = ""
    """Name of the local file, in the layout of ``Row``; empty for generated benchmarks."""
    hub: HubSource | None = None
    """The data set on the hub, used when there is no local file."""
    convert: Callable[[Row], Row] = dict
    """From a row of the hub's data set to a row of the local layout."""
    keep: Callable[[Row], bool] = bool
    """Rows that belong to the benchmark; the default keeps all."""
    make: Callable[[Needs], Sequence[Problem]] | None = None
    """Generates the problems, for benchmarks without a file."""
    ask: Callable[[Problem], str] = plain
    """Returns the user's turn for a problem."""
    system: str = ""
    """System message; empty: none."""
    verifier: str = "math"
    """Name in ``rewards.verify.VERIFIERS``."""
    verify: Verify = by_name
    """Judges a response; by default with ``verifier``."""
    same: Same | None = same_maths
    """Whether two extracted answers are one vote (maj@k); ``None``: answers cannot be compared."""
    samples: int = 1
    """Responses per problem."""
    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 32_768
    """Longest response; less where the model's context is shorter."""
    breakdown: tuple[str, ...] = ()
    """Fields of ``Problem.extra`` by which scores are split."""
    dated: str = ""
    """Field with the date of a problem (ISO), for ``--from`` and ``--until``."""
    shots: Shots | None = None
    """Solved examples for ``--shots``."""
    evidence: Callable[[Problem], Divided] | None = None
    """What of a problem is evidence: it stands before the question, and ``--nbce`` spreads it over windows; ``given``:
    the row's own texts. ``None``: nothing, and of many solved examples those are spread."""
    labels: tuple[str, ...] = ()
    """The only answers that there are: our engines can say nothing else (restricted decoding). Empty: anything."""
    code: str = ""
    """SHA-256 of the user's files that problems and verdicts are from; a record goes on only under the same ones.
    Empty: ours."""

    def with_settings(self, **changes: Any) -> Benchmark:
        """Return a copy with these settings; ``None`` leaves a setting as it is."""
        return replace(self, **{name: value for name, value in changes.items() if value is not None})
