"""From a configuration to its objective."""

from __future__ import annotations

from typing import Any

from rl.objectives.cispo import Cispo
from rl.objectives.config import (
    CispoConfig,
    GrpoConfig,
    MirrorDescentConfig,
    ObjectiveConfig,
    PythonObjectiveConfig,
    ReinforceConfig,
)
from rl.objectives.grpo import Grpo
from rl.objectives.mirror_descent import MirrorDescent
from rl.objectives.protocol import Objective
from rl.objectives.reinforce import Reinforce
from rl.objectives.rest import Rest
from rollout.user_code import load

GROUP = "k15.objectives"
"""Entry points that are objectives."""
MEMBERS = ("needs", "per", "unit", "opens_on_reference", "advantages", "loss")


class ObjectiveError(ValueError):
    """An objective of a user's own that is none; one line."""


def build(config: ObjectiveConfig, max_tokens: int) -> Objective:
    """The configured objective; ``max_tokens``: the longest response. Raises ``ObjectiveError``, and what
    ``rollout.user_code.load`` raises.
    """
    if isinstance(config, PythonObjectiveConfig):
        return _own(config)
    keys = {name: getattr(config, name) for name in type(config).model_fields if name != "kind"}
    if isinstance(config, MirrorDescentConfig):
        return MirrorDescent(**keys, max_tokens=max_tokens)
    if isinstance(config, ReinforceConfig):
        return Reinforce(**keys, max_tokens=max_tokens)
    if isinstance(config, GrpoConfig):
        return Grpo(**keys, max_tokens=max_tokens)
    if isinstance(config, CispoConfig):
        return Cispo(**keys, length_norm="tokens", max_tokens=max_tokens)
    return Rest()


def _own(config: PythonObjectiveConfig) -> Objective:
    found: Any = load(config.path, GROUP)
    where = f"learner.objective.path {config.path}"
    if isinstance(found, type) or not hasattr(found, "loss"):
        if not callable(found):
            raise ObjectiveError(f"{where}: a {type(found).__name__}, neither an Objective nor what returns one")
        try:
            found = found(**config.options)
        except TypeError as error:
            raise ObjectiveError(f"{where}: cannot be made with options {config.options}: {error}") from error
    elif config.options:
        raise ObjectiveError(f"{where}: is an objective already, so options {config.options} have no use; name a class")
    if missing := [name for name in MEMBERS if not hasattr(found, name)]:
        raise ObjectiveError(
            f"{where}: a {type(found).__name__} without {', '.join(missing)}; subclass rl.objectives.protocol.Objective"
        )
    objective: Objective = found
    return objective
