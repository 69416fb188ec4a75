"""The arithmetic of the benchmark of drafts."""

from __future__ import annotations

from benchmarks.drafting.__main__ import differing, drafted
from benchmarks.rollout import Round
from rollout.config import SpeculativeConfig
from rollout.engine import Request, Sampling
from rollout.types import Prompt

SPAN = SpeculativeConfig(method="span", tokens=8, min_ngram=2)


def test_drafts_are_counted_as_an_engine_would_verify_them() -> None:
    asked = [Request("r", Prompt([*range(20), 50]), 16, Sampling(), 0)]
    assert drafted(asked, {"r": list(range(60, 76))}, SPAN) == (0, 0)
    # 0 1 are drawn; 2 3 drafted, 4 drawn; 5 to 9 drafted, 10 drawn; 11 to 14 of eight fit before the last.
    assert drafted(asked, {"r": list(range(16))}, SPAN) == (2 + 5 + 4, 2 + 5 + 4)
    assert drafted(asked, {"r": [0, 1, 2, 70, 71, 72]}, SPAN) == (2, 1)


def test_responses_that_differ_are_named_with_their_first_difference() -> None:
    asked = [Request(key, Prompt([1]), 4, Sampling(), 0) for key in ("a", "b", "c")]
    plain = Round(9, 1.0, 1.0, 0.0, {"a": [1, 2, 3], "b": [1, 2, 3], "c": [1, 2, 3]})
    other = Round(9, 1.0, 1.0, 0.0, {"a": [1, 2, 3], "b": [1, 9, 3], "c": [1, 2]})
    assert differing(asked, plain, other) == [{"response": "b", "token": 1}, {"response": "c", "token": 2}]
