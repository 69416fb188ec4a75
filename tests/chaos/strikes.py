"""What happens to whom, and at which moment of a run.

A strike is written ``VICTIM:FAULT@MOMENT#N``, as in ``engine:kill@engine.tokens#1``; with ``+`` at its end it comes
when what happens in that moment is done, and before anybody knows. Moments are calls, so nothing here depends on time:

- ``engine.METHOD``, ``learner.METHOD``: the N-th call of it, counted over all engines or learners and all their lives;
- ``engine.tokens``: an engine is about to hand out tokens of weight version N; ``engine.part``: it has handed out one
  of each rollout, and nobody has the others, which a fault that the engine survives would lose;
- ``tokens``: the run is about to record the first tokens of version N, or has with ``+``;
- a name of ``DRIVER``: the N-th call of that function of the run's own process.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Fault = Literal["kill", "freeze", "pause", "slow", "cut", "fill", "forwards", "backwards"]
"""``kill``: SIGKILL. ``freeze``: SIGSTOP for longer than every time limit, then SIGCONT. ``pause``: the same for less.
``slow``: every call takes ``SLOW_S`` longer from there on. ``cut``: alive, and its connection closed. ``fill``: no byte
left on the run's disk. ``forwards``, ``backwards``: the wall clock jumps by hours."""

LIMIT_S = 4.0
"""Time limit of the calls in a run that is struck."""
FREEZE_S = 7.0
"""How long the frozen are: longer than any limit."""
RAY_LIMIT_S, RAY_FREEZE_S = 12.0, 18.0
"""The same on Ray, whose calls take longer."""
PAUSE_S = 1.0
"""How long the paused are: nobody may notice."""
SLOW_S = 0.03
"""What each call of the slow takes longer."""
JUMP_S = 6 * 3600.0
"""How far the wall clock jumps."""

DRIVER = {
    "launch": "recipes.run.launching:starting_model",
    "restore": "rl.state.checkpoint:latest",
    "drawn": "rl.state.journal:Journal.drawn",
    "chose": "rl.state.journal:Journal.chose",
    "journal": "rl.state.journal:Journal.append",
    "grade": "rl.rewarding:Rewarder.submit",
    "collect": "rl.rewarding:Rewarder.collect",
    "store": "rl.record.rollout_store:write_rollouts",
    "metrics": "rl.record.log:MetricsLog.write",
    "state": "rl.state.checkpoint:_write_state",
    "manifest": "rl.state.checkpoint:_write_manifest",
    "evaluate": "recipes.run.heldout:Heldout.evaluate",
    "answers": "evals.store:write_samples",
    "evaluation": "rl.record.log:write_evaluation",
    "conclude": "recipes.run.finish:conclude",
    "summary": "recipes.run.finish:_write_summary",
    "report": "evals.report.run.build:build_report",
    "tokenizer": "rollout.models.export:save_tokenizer",
    "ask": "rewards.math.pool:Worker.ask",
    "line": "rewards.math.pool:Worker._line",
    "fork": "rewards.math.pool:Nursery.fork",
    "program": "rewards.code.sandbox.client:_Process.ask",
    "outcome": "rewards.code.sandbox.client:_Process._message",
}
"""Moments of the run's own process, as ``module:function`` or ``module:class.method``."""


@dataclass(frozen=True)
class Strike:
    """One fault."""

    victim: str
    """``engine``, ``learner``, ``driver``, ``grader`` and the like; ``disk``, ``clock``."""
    fault: Fault
    moment: str
    number: int = 1
    done: bool = False
    """Whether what happens in that moment is done by then."""

    def __str__(self) -> str:
        return f"{self.victim}:{self.fault}@{self.moment}#{self.number}{'+' if self.done else ''}"

    @classmethod
    def read(cls, text: str) -> Strike:
        """Return the strike that is written so. Raises ``ValueError``."""
        found = re.fullmatch(r"([\w.]+):(\w+)@([\w.]+)#(\d+)(\+?)", text)
        if found is None:
            raise ValueError(f"{text!r} is no strike: VICTIM:FAULT@MOMENT#N")
        victim, fault, moment, number, done = found.groups()
        return cls(victim, fault, moment, int(number), bool(done))  # type: ignore[arg-type]
