"""Verifiers by name. Each is loaded when first used."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from functools import cache, partial
from importlib import import_module
from typing import Any

from rewards.score import Score

Verifier = Callable[[str, str], Score]
"""``(response, answer) -> Score``. Raises only when the grader or the reference answer is at fault."""

VERIFIERS: dict[str, str] = {
    "math": "rewards.math.verify:verify_math",
    "gsm8k": "rewards.gsm8k:verify_gsm8k",
    "exact": "rewards.exact:verify_exact",
    "arithmetic": "rewards.arithmetic:verify_arithmetic",
    "countdown": "rewards.countdown:verify_countdown",
}
"""Name -> ``module:function``."""
TIMED = frozenset({"math"})
"""Those that may take long and so have a time limit."""


@cache
def get_verifier(name: str, timeout_s: float = 5.0) -> Verifier:
    """The verifier called ``name``; those that can take long stop after ``timeout_s`` seconds (then: ungradable).

    Raises ``ValueError`` with the nearest name for one that does not exist.
    """
    check_verifier(name)
    module, _, function = VERIFIERS[name].partition(":")
    found: Any = getattr(import_module(module), function)
    judge: Verifier = partial(found, timeout_s=timeout_s) if name in TIMED else found
    return judge


def check_verifier(name: str) -> str:
    """``name`` itself. Raises ``ValueError`` when there is no such verifier; loads nothing."""
    if name not in VERIFIERS:
        near = difflib.get_close_matches(name, VERIFIERS, n=1)
        raise ValueError(
            f"unknown verifier '{name}'; "
            + (f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(VERIFIERS)}")
        )
    return name
