"""A user's own objectives: loading, and checks that they are objectives."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

import torch

from rl.objectives.config import Pooled, PythonObjectiveConfig
from rl.objectives.protocol import EMPTY, OWN_METRICS, SHARED, Loss, Needs, Objective, Outputs
from rollout.plain import one_line
from rollout.user_code import explain, load, source_of

if TYPE_CHECKING:
    from rl.learner.batch import Batch

GROUP = "k15.objectives"
"""Entry points that are objectives."""
MEMBERS = ("needs", "per", "unit", "opens_on_reference", "advantages", "loss")
T = TypeVar("T")


class ObjectiveError(ValueError):
    """A user's objective is not one, or failed; one line: where, what."""


def own(config: PythonObjectiveConfig) -> Objective:
    """Load the objective at ``config.path``. Raises ``ObjectiveError``, and ``UserCodeError`` when nothing is there."""
    found: Any = load(config.path, GROUP)
    file = source_of(config.path, found)[0] or config.path
    if isinstance(found, type) or not hasattr(found, "loss"):
        if not callable(found):
            raise ObjectiveError(f"{config.path}: a {type(found).__name__}, neither an Objective nor what returns one")
        found = _called(file, found, **config.options)
    elif config.options:
        raise ObjectiveError(
            f"{config.path}: an objective already, with which options {config.options} can do nothing; name its class"
        )
    if missing := [name for name in MEMBERS if not hasattr(found, name)]:
        raise ObjectiveError(
            f"{config.path}: a {type(found).__name__} without {', '.join(missing)}; subclass "
            "rl.objectives.protocol.Objective"
        )
    if found.unit != 1:
        raise ObjectiveError(f"{config.path}: unit is {found.unit}; RL shuffles rollouts one by one, so it has to be 1")
    made = Own(found, file)
    rehearse(made)
    return made


def rehearse(objective: Objective) -> None:
    """Try ``objective`` on four made-up responses in two groups: what fails in any case fails before a run begins."""
    from rl.learner.batch import pack_demonstrations

    batch = pack_demonstrations([((2, 3), (4,) * length) for length in (2, 3, 4, 5)])
    values = objective.advantages([1.0, 0.0], [True, False]) + objective.advantages([0.5, None], [False, False])
    logprobs = torch.linspace(-3, -1, int(batch.loss_mask.sum()))
    batch = replace(
        batch,
        advantages=torch.tensor([0.0 if value is None else value for value in values]),
        groups=("0", "0", "1", "1"),
        reference_logprobs=logprobs - 0.1,
    )
    needs = objective.needs
    rows = {"tokens": len(logprobs), **dict.fromkeys(get_args(Pooled), len(batch))}
    outputs = Outputs(
        logprobs=logprobs.requires_grad_() if needs.logprobs else EMPTY,
        entropy=torch.ones_like(logprobs) if needs.logprobs else EMPTY,
        hidden=torch.ones(rows[needs.hidden], 8, requires_grad=True) if needs.hidden else EMPTY,
        head=torch.ones(rows[needs.head.at], needs.head.outputs, requires_grad=True) if needs.head else EMPTY,
    )
    objective.loss(outputs, batch)


@dataclass(frozen=True)
class Own(Objective):
    """A user's objective, whose errors become an ``ObjectiveError`` with file and line."""

    theirs: Any
    file: str

    @property
    def needs(self) -> Needs:
        """See ``Objective``."""
        return self.theirs.needs  # type: ignore[no-any-return]

    @property
    def per(self) -> Literal["sequence", "token"]:
        """See ``Objective``."""
        return self.theirs.per  # type: ignore[no-any-return]

    @property
    def unit(self) -> int:
        """See ``Objective``."""
        return self.theirs.unit  # type: ignore[no-any-return]

    @property
    def opens_on_reference(self) -> bool:
        """See ``Objective``."""
        return self.theirs.opens_on_reference  # type: ignore[no-any-return]

    def advantages(self, rewards: Sequence[float | None], correct: Sequence[bool]) -> list[float | None]:
        """See ``Objective``."""
        found = [*_called(self.file, self.theirs.advantages, rewards, correct)]
        if len(found) != len(rewards) or not all(value is None or math.isfinite(value) for value in found):
            raise ObjectiveError(
                f"{self.file}: advantages of {len(rewards)} rollouts have to be as many finite numbers or None, not "
                f"{found}"
            )
        return found

    def loss(self, outputs: Outputs, batch: Batch) -> Loss:
        """See ``Objective``."""
        found = _called(self.file, self.theirs.loss, outputs, batch)
        if not isinstance(found, Loss) or found.value.ndim or not found.value.requires_grad:
            raise ObjectiveError(
                f"{self.file}: loss has to return a Loss whose value is a scalar with gradient, not "
                f"{one_line(str(found), 200)}"
            )
        if wrong := [name for name in found.metrics if not (name in SHARED or name.startswith(OWN_METRICS))]:
            raise ObjectiveError(
                f"{self.file}: metrics of an objective's own begin with {OWN_METRICS}; found {', '.join(wrong)}"
            )
        if plain := [name for name, tally in found.metrics.items() if not hasattr(tally, "value")]:
            raise ObjectiveError(
                f"{self.file}: the metric {plain[0]} is a {type(found.metrics[plain[0]]).__name__}; wrap it so that it "
                "adds up over micro-batches: rl.objectives.tally.Mean.of(tensor)"
            )
        return found


def _called(file: str, function: Callable[..., T], *given: Any, **options: Any) -> T:
    try:
        return function(*given, **options)
    except Exception as error:
        raise ObjectiveError(explain(error, file)) from error
