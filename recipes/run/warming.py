"""A run's warm-up: its stages on demonstrations that were read, and on those that the model makes itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from recipes.run.own_responses import Harvest, OwnResponses
from rl.config import WarmupStage
from rl.record.live import LiveView
from rl.stop import Stopper
from rl.warmup import Pair, Taught, Trainee, warm_up


@dataclass(frozen=True)
class Warming:
    """All that a warm-up needs."""

    own: OwnResponses
    demonstrations: Sequence[list[Pair] | None]
    """Of each stage; ``None``: the model's own right responses."""
    policy: Trainee
    publish: Callable[[], None]
    """Puts the learner's present weights into the engines."""
    root: Path
    """The run's directory."""
    watch: LiveView
    stopper: Stopper

    @property
    def stages(self) -> tuple[WarmupStage, ...]:
        """All of the run's."""
        warmup = self.own.setup.config.warmup
        return warmup.stages if warmup else ()

    def run(self) -> dict[str, Any]:
        """Warm up, going on from what is there; return the contents of ``warmup.json``, but for the seconds.

        Raises ``Interrupted``, and ``ProblemError`` for a stage that has nothing to learn.
        """
        taught: dict[int, Taught] = {}
        harvests: dict[int, Harvest] = {}
        report = warm_up(
            self.stages,
            [
                partial(self._own, number, harvests) if pairs is None else pairs
                for number, pairs in enumerate(self.demonstrations, 1)
            ],
            self.policy,
            self.root / "warmup-checkpoints",
            self.watch,
            self.stopper,
            self.own.setup.config.seed,
            taught.__setitem__,
        )
        sampled = {number: asdict(harvest) for number, harvest in harvests.items()}
        metrics = [(step, dict(one.metrics)) for step, one in taught.items() if one.metrics]
        return {
            "steps": report.steps,
            "tokens": report.tokens,
            "losses": [(step, one.loss) for step, one in taught.items()],
            **({"metrics": metrics} if metrics else {}),
            **({"sampled": sampled} if sampled else {}),
        }

    def _own(self, number: int, harvests: dict[int, Harvest]) -> list[Pair]:
        """Return what stage ``number`` learns of the model's own responses, and note in ``harvests`` what came."""
        with self.stopper.interruptible():
            self.publish()
            pairs, harvests[number] = self.own.draw(number, self.stages[number - 1])
        self.watch.note(f"warm-up stage {number}: {harvests[number].told}")
        return pairs
