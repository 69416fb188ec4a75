"""Problems of a file for learning and, apart from them, for judging. Imports no torch, vLLM or Ray."""

from __future__ import annotations

from rl.config import ProblemsConfig, RunConfig
from rollout.problems.build import build_source
from rollout.problems.config import JsonlSource
from rollout.problems.source import ProblemError

SHUFFLE = 0
"""Seed of the split; files are often sorted by difficulty."""


def split_problems(run: RunConfig, problems: str, heldout: str | None, verifier: str) -> RunConfig:
    """Return the configuration with ``problems`` to learn from and ``heldout`` to judge on; without the latter a fifth
    of
    ``problems``, at most ``problems.heldout_size``, is kept apart.

    Raises ``ProblemError`` for files that cannot be read or hold fewer than two problems.
    """
    old = run.problems
    if heldout is not None:
        train = JsonlSource(path=problems, verifier=verifier)
        judge = JsonlSource(path=heldout, verifier=verifier)
        size = build_source(judge, "heldout").size or 1
    else:
        total = build_source(JsonlSource(path=problems, verifier=verifier), "train").size or 0
        if total < 2:
            raise ProblemError(f"{problems}: one problem cannot be both learned from and judged on; give --heldout")
        size = max(1, min(old.heldout_size, total // 5))
        train = JsonlSource(path=problems, verifier=verifier, shuffle=SHUFFLE, skip=size)
        judge = JsonlSource(path=problems, verifier=verifier, shuffle=SHUFFLE, limit=size)
    changes = {"train": train, "heldout": judge, "heldout_size": min(size, old.heldout_size), "train_size": None}
    return run.model_copy(update={"problems": ProblemsConfig.model_validate({**old.model_dump(), **changes})})
