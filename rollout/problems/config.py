"""Configuration of problem sources. Imports no torch, vLLM or Ray."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, Field, ValidationError

from rewards.verify import check_verifier
from rollout.config import Config, UserCode

NO_RULE = "none"


def _verifier(name: str) -> str:
    """Return ``name``, or nothing for ``NO_RULE``. Raises ``ValueError`` when there is no such verifier."""
    return "" if name in ("", NO_RULE) else check_verifier(name)


VerifierName = Annotated[str, AfterValidator(_verifier)]
"""A name in ``rewards.verify.VERIFIERS``."""

PROCEDURAL = ("arithmetic", "countdown", "sums", "claims")
"""Kinds of sources that draw their problems, and demonstrations for them."""

S = TypeVar("S", bound=Config)

Value = str | int | float | bool
"""A plain value of a row's field."""


class ArithmeticSource(Config):
    """Procedural multi-step arithmetic (``rollout.problems.arithmetic.Arithmetic``)."""

    kind: Literal["arithmetic"] = "arithmetic"
    steps: tuple[int, int] = (2, 5)
    """Fewest and most additions and subtractions of a problem: the difficulty dial."""
    digits: int = Field(2, ge=1, le=12)
    """Operands and running totals have exactly this many digits."""
    products: float = Field(0.0, ge=0, le=1)
    """Chance that an operand is written as a product of two digits, where a fitting one exists."""
    careful: float = Field(0.25, ge=0, le=1)
    """Share of warm-up demonstrations that work every step out in columns."""
    mixed: float = Field(0.15, ge=0, le=1)
    """Share of demonstrations that choose between columns and writing the result down, step by step."""
    jumps: float = Field(0.1, ge=0, le=1)
    """Share of demonstrations that only state the answer; the remaining share is hasty throughout."""
    skips: float = Field(0.2, ge=0, le=1)
    """Chance that a hasty step takes the next one along."""
    checks: float = Field(0.1, ge=0, le=1)
    """Chance that a step is checked."""
    thorough: float = Field(0.0, ge=0, le=1)
    """Share of careful demonstrations that do every step twice: as right as once, and twice as long."""
    slips: float = Field(0.06, ge=0, le=1)
    """Chance that a quick step goes wrong, is caught by a check, and is done again in columns."""
    seed: int = 0
    """Another seed is another stream of problems with the same splits."""


class CountdownSource(Config):
    """Procedural countdown: reach a target from given numbers."""

    kind: Literal["countdown"] = "countdown"
    numbers: tuple[int, int] = (3, 4)
    """Fewest and most given numbers, from 2 to 5: the difficulty dial."""
    largest: int = Field(25, ge=2, le=999_999)
    """Given numbers lie in 1..largest."""
    target: tuple[int, int] = (10, 99)
    """Smallest and largest target."""
    tries: int = Field(12, ge=2)
    """States that a demonstration's search may visit; at least the most numbers."""
    seed: int = 0
    """Another seed is another stream of problems with the same splits."""


class SumsSource(Config):
    """Procedural sums of large numbers (``rollout.problems.sums.Sums``), for a policy that can call Python."""

    kind: Literal["sums"] = "sums"
    terms: tuple[int, int] = (2, 3)
    """Fewest and most numbers of a sum: the difficulty dial."""
    digits: tuple[int, int] = (4, 6)
    """Fewest and most digits of a number."""
    tool: float = Field(0.3, ge=0, le=1)
    """Share of warm-up demonstrations that call Python; the others state the answer at once."""
    seed: int = 0
    """Another seed is another stream of problems with the same splits."""


class ClaimsSource(Config):
    """Procedural answers to arithmetic in other forms, right or nearly so, for judges
    (``rollout.problems.claims.Claims``).
    """

    kind: Literal["claims"] = "claims"
    steps: tuple[int, int] = (2, 4)
    """Fewest and most steps of a question."""
    terms: tuple[int, int] = (1, 4)
    """Fewest and most terms of an answer, of which one is a plain number: the difficulty dial."""
    right: float = Field(0.5, ge=0, le=1)
    """Share of right answers."""
    careful: float = Field(0.35, ge=0, le=1)
    """Share of warm-up demonstrations that work the answer out; the others only say the verdict."""
    odd: float = Field(0.0, ge=0, le=1)
    """Share of answers in a form that none may have, as policies come to write them to please a judge: a digit too
    many, a verdict behind the number. They are wrong, beside the share ``right``."""
    seed: int = 0
    """Another seed is another stream of claims with the same splits."""


class VerdictsSource(Config):
    """Labelled responses as problems for a judge: is this response right? (docs/judges.md)"""

    kind: Literal["verdicts"] = "verdicts"
    path: str
    """A JSON Lines or Parquet file with question, reference, response and label, the directory of a run, or that of an
    evaluation; a relative one is looked up in $K15_DATA first, then in the working directory."""
    template: str = ""
    """What the judge is asked: text with {question}, {reference} and {response}; empty: k15's own."""
    sees: Literal["whole", "answer"] = "whole"
    """The whole response, or what follows its thinking."""
    split: bool = True
    """Keep questions apart by their text, one in eight held out, so that training and held-out problems may come from
    one path; false: all rows, for paths that share no question."""
    shuffle: int | None = 0
    """Seed that shuffles the rows; ``null``: the file's order."""
    limit: int | None = Field(None, ge=1)
    """Keep this many."""


class JsonlSource(Config):
    """Problems from a JSON Lines file with fields id, problem, answer, source."""

    kind: Literal["jsonl"] = "jsonl"
    path: str
    """The file; a relative path is looked up in $K15_DATA first, then in the working directory."""
    verifier: VerifierName = "math"
    """How answers are judged, e.g. ``math``, ``gsm8k``, ``arithmetic``; ``none``: by no rule, but by
    ``reward.function`` or ``reward.model``. The rows need no answer then."""
    where: dict[str, Value | tuple[Value, ...]] = {}
    """Keep rows whose field equals the value, or one of the values: ``{single_number: true, grade: [1, 2]}``."""
    shuffle: int | None = None
    """Seed that shuffles the rows that pass the filters; ``null``: the file's order. Sorted files need it."""
    skip: int = Field(0, ge=0)
    """Then leave out the first rows (to keep splits of one file apart)."""
    limit: int | None = Field(None, ge=1)
    """Then keep this many."""
    max_prompt_chars: int | None = Field(None, ge=1)
    """Keep problems no longer than this."""


class HubSource(Config):
    """Problems from a Hugging Face data set."""

    kind: Literal["hub"] = "hub"
    path: str
    """Data set name or local directory, as ``datasets.load_dataset`` takes it."""
    name: str | None = None
    """Configuration of the data set."""
    split: str = "train"
    """Split of the data set."""
    columns: dict[str, str] = {"problem": "problem", "answer": "answer"}
    """Our field -> their column; ``problem`` and ``answer`` are needed, ``id``, ``difficulty`` are optional."""
    verifier: VerifierName = "math"
    """How answers are judged."""
    limit: int | None = Field(None, ge=1)
    """Keep the first rows only."""


class PythonSource(Config):
    """Problems from code of your own (docs/rewards.md)."""

    kind: Literal["python"] = "python"
    path: UserCode
    """``my_file.py:name``, ``package.module:name``, or an entry point of ``k15.problems``: an iterable of dicts as in a
    JSON Lines file or of ``Problem``, a procedural task, or a function that returns one, called with ``split``
    ("train" or "heldout") if it has a parameter of that name."""
    verifier: VerifierName = "math"
    """How the answers of dicts are judged; a ``Problem`` names its own."""
    stream: bool = False
    """Whether the iterable never ends: it is drawn from in its order, and must give the same problems each time that it
    is begun."""


ProceduralSource = ArithmeticSource | CountdownSource | SumsSource | ClaimsSource
"""Sources of kinds in ``PROCEDURAL``."""
Source = Annotated[
    ProceduralSource | VerdictsSource | JsonlSource | HubSource | PythonSource,
    Field(discriminator="kind"),
]


def with_mixture(source: S, mixture: Mapping[str, float]) -> S:
    """``source`` with other dials. Raises ``ValueError`` (one line) when it lacks a dial or refuses its value."""
    if not mixture:
        return source
    kind = getattr(source, "kind", "")
    if kind not in PROCEDURAL:
        raise ValueError("warmup mixture: only procedural problems have demonstrations of their own")
    known = [name for name in type(source).model_fields if name not in ("kind", "seed")]
    for name in mixture:
        if name not in known:
            raise ValueError(f"warmup mixture: {kind} problems have no {name!r}; they have {', '.join(known)}")
    try:
        return type(source).model_validate({**source.model_dump(), **mixture})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"warmup mixture: {where}: {first['msg']}") from error
