"""The problems that a configuration describes."""

from __future__ import annotations

from rollout.problems.config import (
    ArithmeticSource,
    ClaimsSource,
    HubSource,
    JsonlSource,
    ProceduralSource,
    PythonSource,
    Source,
    SumsSource,
    VerdictsSource,
)
from rollout.problems.source import Generator, ProblemError, ProblemSource, Procedural, Split


def build_generator(config: ProceduralSource) -> Generator:
    """Return the generator of a procedural source. Raises ``ProblemError`` for values that it refuses."""
    try:
        if isinstance(config, ArithmeticSource):
            from rollout.problems.arithmetic import Arithmetic

            return Arithmetic(**config.model_dump(exclude={"kind"}))
        if isinstance(config, SumsSource):
            from rollout.problems.sums import Sums

            return Sums(**config.model_dump(exclude={"kind"}))
        if isinstance(config, ClaimsSource):
            from rollout.problems.claims import Claims

            return Claims(**config.model_dump(exclude={"kind"}))
        from rollout.problems.countdown import Countdown

        return Countdown(**config.model_dump(exclude={"kind"}))
    except ValueError as error:
        raise ProblemError(f"{config.kind} problems: {error}") from error


def build_source(config: Source, split: Split) -> ProblemSource:
    """Return the source that a configuration describes.

    ``split`` matters to procedural sources, which keep the two apart by construction; files are kept apart by their
    configuration (``skip``, ``limit``) and checked with ``check_disjoint``. Raises ``ProblemError``.
    """
    if isinstance(config, JsonlSource):
        from rollout.problems.jsonl import load_jsonl

        return load_jsonl(config)
    if isinstance(config, HubSource):
        from rollout.problems.hub import load_hub

        return load_hub(config)
    if isinstance(config, VerdictsSource):
        from rollout.problems.verdicts import load_verdicts

        return load_verdicts(config, split)
    if isinstance(config, PythonSource):
        from rollout.problems.user import load_user

        return load_user(config, split)
    return Procedural(build_generator(config), split)
