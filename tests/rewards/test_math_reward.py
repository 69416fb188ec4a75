"""The table of verifiers, as a run uses it."""

from __future__ import annotations

import pytest

from rewards.exact import verify_exact
from rewards.reference import Reference
from rewards.score import Score
from rewards.verify import VERIFIERS, get_verifier


def test_exact() -> None:
    assert verify_exact("<think>hm</think>\nParis ", "Paris").correct
    assert verify_exact("<think>hm</think>", "Paris").reason == "no answer after the thinking"
    assert not verify_exact("paris", "Paris").correct


def test_registry() -> None:
    assert get_verifier("math", 2.0)("\\boxed{4}", Reference("4")).correct
    assert get_verifier("gsm8k")("#### 4", Reference("4")).correct
    assert get_verifier("arithmetic")("<think></think>Answer: 4", Reference("4")).correct
    with pytest.raises(ValueError, match=r"unknown verifier 'maths'; did you mean 'math'\?"):
        get_verifier("maths")
    with pytest.raises(ValueError, match="there are: math, gsm8k"):
        get_verifier("zzz")
    assert set(VERIFIERS) >= {"math", "gsm8k", "exact"}


def test_verdicts() -> None:
    assert Score.right().verdict == "correct"
    assert Score(0.5).verdict == "wrong"
    assert Score.wrong("no").verdict == "wrong"
    assert Score.ungradable("crash", "4") == Score(None, False, {}, "crash", "4")
    assert Score.ungradable("crash").verdict == "ungradable"
