"""Which loop a configuration asks for."""

from __future__ import annotations

from collections.abc import Callable

from rl import loop, on_policy, overlap
from rl.config import RunConfig
from rl.parts import Parts
from rl.state.checkpoint import RunState

Loop = Callable[[RunConfig, RunState, Parts], RunState]
"""Runs iterations from a state on; returns the state after the last one."""


def loop_of(config: RunConfig) -> Loop:
    """Return the loop in turn, the overlapped one, or the one that is strictly on policy."""
    if config.overlap is None:
        return loop.train
    return overlap.train if config.overlap.mode == "window" else on_policy.train
