"""The quickstart's supervised warm-up alone [2501.12599 §2.2]: long reasoning paths, then evaluation, no RL."""

from __future__ import annotations

from recipes import quickstart
from rl.config import RunConfig

DESCRIPTION = "the quickstart's long-CoT supervised warm-up and its evaluation, without RL"


def config() -> RunConfig:
    """Return the quickstart with no RL iteration."""
    return quickstart.config().model_copy(update={"recipe": "warmup", "iterations": 0, "promise": None})
