"""Demonstrations of the supervised warm-up as tokens
[2501.12599 §2.2]: from the task's generator, a file, or training problems.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import numpy as np

from rl.config import WarmupStage
from rollout.models.prompts import PromptError
from rollout.models.turns import Feeder
from rollout.plain import lone_surrogate
from rollout.problems.build import build_generator
from rollout.problems.config import ProceduralSource, with_mixture
from rollout.problems.fit import DROP
from rollout.problems.jsonl import read_rows
from rollout.problems.rows import demonstration_of
from rollout.problems.source import ProblemError, Procedural
from rollout.seeds import seed_of
from rollout.types import Message, Problem

if TYPE_CHECKING:
    from recipes.run.setup import Setup
    from rl.warmup import Pair


@dataclass(frozen=True)
class Demonstration:
    """A problem with the response to learn."""

    place: str
    """Where it comes from, for messages."""
    problem: Problem
    response: str | Sequence[Message]
    """Text, or turns: the policy's (``assistant``) with what its environment answers in between."""


def demonstrations(setup: Setup) -> tuple[list[list[Pair] | None], list[str]]:
    """Return the pairs of each warm-up stage, and a line on what was left out of one.

    ``None`` for a stage that learns from the model's own responses (``recipes.run.own_responses``). Raises
    ``ProblemError`` or ``PromptError``, naming file and line, for what cannot be learnt from.
    """
    found: list[list[Pair] | None] = []
    notes: list[str] = []
    drawn = 0
    for number, stage in enumerate(setup.config.warmup.stages if setup.config.warmup else ()):
        if stage.sampled is not None:
            found.append(None)
            continue
        if stage.path is not None:
            rows, from_file = _read(Path(stage.path)), True
        elif stage.response is not None:
            rows, from_file = _filled_in(setup, stage), setup.train.size is not None
        else:
            rows, from_file = _drawn(setup, stage, drawn), False
            drawn += stage.examples
        pairs, note = _tokenised(setup, rows, stage.examples, from_file)
        if not pairs:
            raise ProblemError(f"warm-up stage {number + 1} has no demonstration to learn from{note and '; ' + note}")
        found.append(pairs)
        notes += [f"warm-up stage {number + 1}: {note}"] if note else []
    return found, notes


def _tokenised(setup: Setup, rows: Iterator[Demonstration], wanted: int, from_file: bool) -> tuple[list[Pair], str]:
    """Return the first ``wanted`` demonstrations that fit the context, and a note on those that do not."""
    limits = setup.limits
    feeder = Feeder(setup.tokenizer, setup.transcript.arguments)
    pairs: list[Pair] = []
    overlong: list[tuple[str, int]] = []
    refuse = refuses(setup.config.problems.overlong, finite=from_file)
    taken = 0
    for row in rows:
        try:
            turns = _pairs(setup, feeder, row)
        except PromptError as error:
            raise PromptError(f"{row.place}: {error}") from error
        pair = turns[-1]
        tokens = len(pair[0]) + len(pair[1])
        if tokens > limits.context:
            if refuse:
                raise PromptError(
                    f"{row.place}: the demonstration has {tokens} tokens (prompt {len(pair[0])}, response "
                    f"{len(pair[1])}), the context {limits.context} (engine.max_model_len); raise that, mend the data, "
                    f"or {DROP}"
                )
            overlong.append((row.place, tokens))
            continue
        limits.check_vocabulary(np.concatenate(pair), f"{row.place}: the demonstration")
        pairs += turns
        taken += 1
        if taken == wanted:
            break
    if not overlong:
        return pairs, ""
    longest = max(tokens for _, tokens in overlong)
    return pairs, (
        f"left out {len(overlong)} demonstrations of up to {longest} tokens, {limits.context} fit "
        f"(first: {overlong[0][0]})"
    )


def refuses(overlong: str, finite: bool) -> bool:
    """Return what ``problems.overlong`` means for rows of a file (``finite``) or of a stream."""
    return overlong == "refuse" or (overlong == "auto" and finite)


def _pairs(setup: Setup, feeder: Feeder, row: Demonstration) -> list[Pair]:
    """Return one pair for each turn of the policy: what it reads, and what it says. The last one holds all of the
    tokens.
    """
    turns = [Message("assistant", row.response)] if isinstance(row.response, str) else row.response
    if not turns or any(message.role != "assistant" for message in (turns[0], turns[-1])):
        raise PromptError("the turns of a demonstration begin and end with the assistant's")
    pairs: list[Pair] = []
    read, answers = setup.render(row.problem).token_ids, list[Message]()
    for message in turns:
        if found := lone_surrogate(message.content):
            raise PromptError(f"the {message.role}'s turn has {found}, which no tokenizer takes")
        if message.role != "assistant":
            answers.append(message)
            continue
        if pairs:
            read = np.concatenate([*pairs[-1], feeder.tokens(answers)])
        tokens = setup.tokenizer(message.content, add_special_tokens=False)["input_ids"]
        pairs.append((read, np.array([*tokens, setup.end[0]], np.int32)))
        answers = []
    return pairs


def _drawn(setup: Setup, stage: WarmupStage, first: int) -> Iterator[Demonstration]:
    source, train = setup.config.problems.train, setup.train
    if not isinstance(train, Procedural):
        raise ProblemError("warmup needs warmup.path or warmup.response unless problems.train is procedural")
    generator = train.generator
    if isinstance(source, ProceduralSource):
        generator = build_generator(with_mixture(source, stage.mixture))
    for index in range(first, first + stage.examples):
        problem = setup.train[index]
        rng = Random(seed_of(setup.config.seed, "demonstration", index))
        yield Demonstration(setup.train.place(index), problem, generator.demonstration(problem, rng))


def _filled_in(setup: Setup, stage: WarmupStage) -> Iterator[Demonstration]:
    assert stage.response is not None
    for index in setup.usable(stage.examples):
        problem, place = setup.train[index], setup.train.place(index)
        try:
            yield Demonstration(place, problem, fill_in(stage.response, problem))
        except ProblemError as error:
            raise ProblemError(f"{place}: {error}") from error


def _read(path: Path) -> Iterator[Demonstration]:
    for number, row in read_rows(path):
        place = f"{path}:{number}"
        if row.get("defect"):
            continue
        try:
            problem, response = demonstration_of(row, f"{path.name}:{number}")
        except ValueError as error:
            raise ProblemError(f"{place}: {error}") from error
        yield Demonstration(place, problem, response)


def fill_in(template: str, problem: Problem) -> str:
    """Return ``template`` with each ``{field}`` replaced by that field of the problem's row, written as text.

    Raises ``ProblemError`` when the problem has no such field. Other braces stay: ``boxed{{answer}}`` becomes
    ``boxed{42}``.
    """
    fields = {"problem": problem.prompt, "answer": problem.answer, **problem.extra}

    def value(match: re.Match[str]) -> str:
        found = fields.get(match.group(1))
        if found is None:
            raise ProblemError(f"problem {problem.id!r} has no {match.group(1)!r}, which warmup.response asks for")
        return str(found)

    return re.sub(r"\{([A-Za-z_]\w*)\}", value, template)
