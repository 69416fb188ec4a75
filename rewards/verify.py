"""Verifiers by name. Each is loaded when first used."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from functools import cache, partial
from importlib import import_module
from typing import Any

from rewards.reference import Reference
from rewards.score import GRADER_TIMEOUT_S, Score

Verifier = Callable[[str, Reference], Score]
"""``(response, reference) -> Score``. Raises only when the grader or the reference is at fault."""

VERIFIERS: dict[str, str] = {
    "math": "rewards.math.verify:verify_math",
    "gsm8k": "rewards.gsm8k:verify_gsm8k",
    "exact": "rewards.exact:verify_exact",
    "arithmetic": "rewards.arithmetic:verify_arithmetic",
    "countdown": "rewards.countdown:verify_countdown",
    "code": "rewards.code.verify:verify_code",
    "verdict": "rewards.models.verdict:verify_verdict",
}
"""Name -> ``module:function``."""
TIMED = frozenset({"math", "gsm8k"})
"""Those that may take long and so have a time limit; code has the limits of its problem."""
WHOLE = frozenset({"code"})
"""Those that judge against the whole ``Reference``; the others take the response and its answer."""


@cache
def get_verifier(name: str, timeout_s: float = GRADER_TIMEOUT_S) -> Verifier:
    """Return the verifier called ``name``; those that can take long stop after ``timeout_s`` seconds.

    Raises ``ValueError`` with the nearest name for one that does not exist.
    """
    check_verifier(name)
    module, _, function = VERIFIERS[name].partition(":")
    found: Any = getattr(import_module(module), function)
    if name in WHOLE:
        whole: Verifier = found
        return whole
    judge = partial(found, timeout_s=timeout_s) if name in TIMED else found
    return lambda response, reference: judge(response, reference.answer)


def check_verifier(name: str) -> str:
    """``name`` itself. Raises ``ValueError`` when there is no such verifier; loads nothing."""
    if name not in VERIFIERS:
        near = difflib.get_close_matches(name, VERIFIERS, n=1)
        raise ValueError(
            f"unknown verifier '{name}'; "
            + (f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(VERIFIERS)}")
        )
    return name


def question(name: str, reference: Reference) -> str:
    """Return how a problem is put to a model: its statement; for ``code`` also what the program must look like.

    Raises ``ValueError`` when no program could be judged against it, e.g. for want of tests.
    """
    if name != "code":
        return reference.problem
    text: str = import_module("rewards.code.statement").question(reference)
    return text
