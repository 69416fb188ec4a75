"""From a configuration to its objective."""

from __future__ import annotations

from rl.objectives.cispo import Cispo
from rl.objectives.classes import Classes
from rl.objectives.config import (
    CispoConfig,
    ClassesConfig,
    GrpoConfig,
    MirrorDescentConfig,
    ObjectiveConfig,
    PythonObjectiveConfig,
    ReinforceConfig,
)
from rl.objectives.grpo import Grpo
from rl.objectives.mirror_descent import MirrorDescent
from rl.objectives.own import own
from rl.objectives.protocol import Objective
from rl.objectives.reinforce import Reinforce
from rl.objectives.rest import Rest


def build(config: ObjectiveConfig, max_tokens: int) -> Objective:
    """Return the configured objective; ``max_tokens``: the longest response. Raises what ``own`` does."""
    if isinstance(config, ClassesConfig):
        return Classes(config.classes, at=config.at)
    if isinstance(config, PythonObjectiveConfig):
        return own(config)
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
