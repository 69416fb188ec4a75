"""The parts that a loop works with, as it sees them: any learner, pool and sampler that behave like this."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rl.learner.stats import IterationStats
from rl.objectives.protocol import Objective
from rl.record.log import Evaluation, MetricsLog
from rl.record.metrics import Row
from rl.rewarding import Rewarder, ScoredGroup
from rl.state.checkpoint import Saves
from rl.state.journal import Journal
from rl.stop import Stopper
from rollout.engine import WeightUpdate
from rollout.environments.episodes import Episodes
from rollout.pool.pool import Pool
from rollout.progress import Progress
from rollout.types import Group, Problem, Prompt, WeightVersion


class Policy(Saves, Protocol):
    """The learner as the loop sees it: in this process, or a proxy to Ray actors."""

    def publish(self, version: WeightVersion) -> WeightUpdate:
        """Put the current weights where engines can fetch them."""

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-probs at temperature 1 for the parity probe; [n][len - 1], nats."""

    def train(
        self, groups: Sequence[Group], advantages: Sequence[Sequence[float | None]], version: WeightVersion
    ) -> IterationStats:
        """Train one iteration: freeze the reference, reset the optimiser, a few steps on the objective. [groups][k]."""

    def accumulate(
        self, groups: Sequence[Group], advantages: Sequence[Sequence[float | None]], version: WeightVersion
    ) -> None:
        """Add the gradients of some groups of an iteration of one step; as ``train``."""

    def close_iteration(self, version: WeightVersion) -> IterationStats:
        """Take the step on all that was added up."""


class Sampler(Protocol):
    """Chooses problems [2501.12599 §2.3.4]."""

    @property
    def overlong(self) -> Collection[int]:
        """Indices of problems that it leaves out because they do not fit the context."""

    def draw(self, n: int) -> list[Problem]:
        """Return n different problems."""

    def update(self, success: dict[str, float]) -> None:
        """Take the success rate of the newest finished group of each problem, by id."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state as JSON values."""


class Watcher(Progress, Protocol):
    """The live view, as the loop uses it."""

    def iteration(self, row: Row) -> None:
        """Show a complete iteration; ``row`` has its metrics by name."""


@dataclass(frozen=True)
class Parts:
    """The parts that the loop works with."""

    policy: Policy
    pool: Pool
    sampler: Sampler
    rewarder: Rewarder
    objective: Objective
    """Turns a group's rewards into advantages; the learner has the same one."""
    render: Callable[[Problem], Prompt]
    episodes: Episodes | None
    """The rollouts' environment; ``None``: an end token ends the response."""
    probe: Callable[[], list[list[int]]]
    """Token sequences on which engine and learner must agree after each publish."""
    evaluate: Callable[[int], Evaluation]
    """Held-out evaluation at the start of an iteration, under the weights just published."""
    journal: Journal
    log: MetricsLog
    store: Callable[[int, Sequence[ScoredGroup], Mapping[str, float]], None]
    """Writes an iteration's rollouts: iteration, groups, advantage by rollout id."""
    inspect: Callable[[Row], None]
    """Looks at each iteration for signs that the run cannot work."""
    watch: Watcher
    stopper: Stopper
    checkpoints: Path
