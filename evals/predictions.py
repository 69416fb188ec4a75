"""Responses drawn elsewhere, given as JSON Lines with ``id`` and ``response``, several lines per problem allowed."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evals.evaluate import Ask, Done, Key, Response
from rollout.problems.jsonl import read_rows
from rollout.problems.source import ProblemError
from rollout.types import Problem, StopReason

_STOPS = {"eos": StopReason.EOS, "stop": StopReason.EOS, "length": StopReason.LENGTH, None: None, "": None}


class PredictionError(ValueError):
    """The predictions cannot be used; one line: file, line, what is wrong."""


@dataclass(frozen=True)
class Predictions:
    """Given responses, as a ``Responder``."""

    responses: Mapping[Key, Response]

    def asks(self, problems: Sequence[Problem]) -> list[Ask]:
        """Return the asks that the predictions answer, in the order of the problems."""
        by_id = {problem.id: problem for problem in problems}
        order = {problem.id: index for index, problem in enumerate(problems)}
        keys = sorted(self.responses, key=lambda key: (order[key[0]], key[1]))
        return [Ask(by_id[name], sample) for name, sample in keys]

    def respond(self, asks: Sequence[Ask], done: Done) -> None:
        """See ``Responder``."""
        for ask in asks:
            done(ask, self.responses[ask.key])


def read_predictions(path: Path, problems: Sequence[Problem]) -> Predictions:
    """Read the responses of a file, numbered by problem in the file's order unless ``sample`` numbers them.

    Optional fields: ``sample``, ``stop`` (``eos`` or ``length``; a truncated response is wrong) and ``tokens``; the
    ``responses.jsonl`` of an evaluation is such a file. Raises ``PredictionError`` for a malformed line, an id that no
    problem has, or a sample that comes twice.
    """
    known = {problem.id for problem in problems}
    found: dict[Key, Response] = {}
    counts: dict[str, int] = {}
    unknown: dict[str, int] = {}
    try:
        for number, row in read_rows(path):
            name, response = _checked(row, f"{path}:{number}")
            if name not in known:
                unknown.setdefault(name, number)
                continue
            sample = row.get("sample", counts.get(name, 0))
            if not isinstance(sample, int) or isinstance(sample, bool) or sample < 0:
                raise PredictionError(f"{path}:{number}: 'sample' is {sample!r}, not a whole number from 0 on")
            if (name, sample) in found:
                raise PredictionError(f"{path}:{number}: sample {sample} of problem {name!r} comes twice")
            counts[name] = counts.get(name, 0) + 1
            found[name, sample] = response
    except ProblemError as error:
        raise PredictionError(str(error)) from error
    if unknown:
        raise PredictionError(_unknown(path, unknown, known))
    if not found:
        raise PredictionError(f"{path}: no predictions in this file")
    return Predictions(found)


def _checked(row: Mapping[str, Any], place: str) -> tuple[str, Response]:
    name, text = row.get("id"), row.get("response")
    if isinstance(name, int) and not isinstance(name, bool):
        name = str(name)
    if not isinstance(name, str) or not name:
        raise PredictionError(f"{place}: no 'id': each line needs the id of its problem")
    if not isinstance(text, str):
        has = ", ".join(list(row)[:8])
        raise PredictionError(f"{place}: no text 'response' (the line has: {has})")
    stop, tokens = row.get("stop"), row.get("tokens")
    if stop is not None and (not isinstance(stop, str) or stop not in (*_STOPS, "repetition", "aborted")):
        raise PredictionError(f"{place}: 'stop' is {stop!r}; it can be 'eos' or 'length'")
    if tokens is not None and (not isinstance(tokens, int) or isinstance(tokens, bool) or tokens < 0):
        raise PredictionError(f"{place}: 'tokens' is {tokens!r}, not a whole number")
    return name, Response(text, _STOPS[stop] if stop in _STOPS else StopReason(str(stop)), tokens)


def _unknown(path: Path, unknown: Mapping[str, int], known: set[str]) -> str:
    first = next(iter(unknown))
    lower = {name.lower(): name for name in known}
    near = difflib.get_close_matches(first.lower(), lower, n=1)
    hint = f"did you mean {lower[near[0]]!r}?" if near else f"ids look like {min(known)!r}"
    return (
        f"{path}:{unknown[first]}: no problem has the id {first!r}; {hint} "
        f"({len(unknown)} unknown id{'s' if len(unknown) > 1 else ''} in this file; is it for this benchmark and data?)"
    )
