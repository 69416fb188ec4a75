"""Groups as plain JSON values and back, exactly.

Used by checkpoints and by the journal. JSON keeps Python floats to the last bit, so a stored group equals the original.
"""

from __future__ import annotations

from typing import Any

from rewards.score import Score
from rollout.engine import Delta
from rollout.types import Group, Problem, Rollout, Segment, StopReason

Json = dict[str, Any]


def group_to_json(group: Group) -> Json:
    """The group with its problem, rollouts and segments."""
    problem = group.problem
    return {
        "id": group.id,
        "born": group.born,
        "problem": {
            "id": problem.id,
            "prompt": problem.prompt,
            "answer": problem.answer,
            "verifier": problem.verifier,
            "source": problem.source,
            "difficulty": problem.difficulty,
            "extra": dict(problem.extra),
        },
        "rollouts": [rollout_to_json(rollout) for rollout in group.rollouts],
    }


def group_from_json(data: Json) -> Group:
    """Inverse of ``group_to_json``."""
    return Group(
        id=data["id"],
        problem=Problem(**data["problem"]),
        rollouts=tuple(rollout_from_json(item) for item in data["rollouts"]),
        born=data["born"],
    )


def rollout_to_json(rollout: Rollout) -> Json:
    """The rollout with its segments; a score only if it was graded."""
    score = rollout.score
    return {
        "id": rollout.id,
        "prompt_ids": list(rollout.prompt_ids),
        "segments": [[s.version, list(s.token_ids), list(s.logprobs)] for s in rollout.segments],
        "stop": rollout.stop,
        "failures": rollout.failures,
        "score": None if score is None else _score_to_json(score),
    }


def _score_to_json(score: Score) -> list[Any]:
    return [score.reward, score.correct, dict(score.parts), score.reason, score.extracted]


def rollout_from_json(data: Json) -> Rollout:
    """Inverse of ``rollout_to_json``."""
    return Rollout(
        id=data["id"],
        prompt_ids=tuple(data["prompt_ids"]),
        segments=tuple(Segment(v, tuple(tokens), tuple(logprobs)) for v, tokens, logprobs in data["segments"]),
        stop=None if data["stop"] is None else StopReason(data["stop"]),
        score=None if data["score"] is None else Score(*data["score"]),
        failures=data["failures"],
    )


def delta_to_json(delta: Delta) -> list[Any]:
    """One piece of progress, compactly: it is written for every poll."""
    return [
        delta.key,
        list(delta.token_ids),
        list(delta.logprobs),
        delta.version,
        delta.done,
        delta.stop,
        delta.error,
    ]


def delta_from_json(data: list[Any]) -> Delta:
    """Inverse of ``delta_to_json``."""
    key, tokens, logprobs, version, done, stop, error = data
    return Delta(key, tuple(tokens), tuple(logprobs), version, done, None if stop is None else StopReason(stop), error)
