"""The promise of a recipe: whether it applies to a run with changed keys, and the exit code of a broken one."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from recipes import RECIPES
from rl.config import PromiseConfig, RunConfig
from rl.state.run_dir import difference

BROKEN = 3
"""Exit code of a run that is complete, with all its files, and has not reached what its recipe promises."""
FREE = (
    *("seed", "promise", "log", "ray", "checkpoint", "eval.every", "eval.interim_problems"),
    *("model.threads", "engine.threads"),
)
"""Keys that leave a recipe's promise in force: it is made for every seed and any machine."""


def voids(config: RunConfig) -> list[str]:
    """Return the changes to the recipe, as ``key: old -> new``, that void its promise.

    None for a promise that is the user's own: other numbers than the recipe's, or no recipe.
    """
    shipped = importlib.import_module(RECIPES[config.recipe]).config() if config.recipe in RECIPES else None
    if not isinstance(shipped, RunConfig) or shipped.promise != config.promise:
        return []
    return difference(shipped.model_dump(mode="json"), config.model_dump(mode="json"), FREE)


def words(promise: PromiseConfig) -> str:
    """Return the promise in words."""
    return (
        f"at least {100 * promise.gain:.0f} points gained held out, 95 % intervals apart, "
        f"at least {100 * promise.final:.0f} % in the end"
    )


def entry(config: RunConfig, changes: list[str], broken: bool) -> dict[str, Any] | None:
    """Return the entry of ``summary.json`` for the promise; ``kept`` is null when ``changes`` void it."""
    if config.promise is None:
        return None
    kept = None if changes else not broken
    return {**config.promise.model_dump(), "words": words(config.promise), "kept": kept, "void": changes}


def is_judged(summary: Mapping[str, Any], promise: PromiseConfig | None) -> bool:
    """Return whether a summary was written under this promise."""
    given = summary.get("promise")
    return (given and {key: given[key] for key in PromiseConfig.model_fields}) == (promise and promise.model_dump())


def exit_code(summary: Mapping[str, Any]) -> int:
    """Return the exit code of a finished run."""
    return BROKEN if (summary.get("promise") or {}).get("kept") is False else 0
