"""Longest first: what is expected of a response, and the order that follows from it."""

from __future__ import annotations

from factories import group, rollout

from rollout.engine import Request, Sampling
from rollout.ordering import expected, longest_first
from rollout.partial import Stretch
from rollout.types import Group, Prompt, Rollout


def fresh(name: str) -> Rollout:
    return Rollout(name, Prompt((1, 2)))


def ordered(groups: list[Group], budget: int = 100, earlier: dict[str, list[int]] | None = None) -> list[str]:
    stretches = [
        Stretch(Request(one.id, one.prompt, budget, Sampling()))
        for part in groups
        for one in part.rollouts
        if not one.finished
    ]
    return [stretch.request.key for stretch in longest_first(stretches, groups, earlier)]


def test_what_is_left_is_what_longer_ones_had_left() -> None:
    assert expected(0, [10, 30]) == 20
    assert expected(10, [10, 30, 50]) == 30
    assert expected(60, [10, 30, 50]) == 60, "longer than all: it doubles"
    assert expected(0, []) == 0
    assert expected(7, []) == 7


def test_responses_to_problems_with_long_responses_come_first() -> None:
    groups = [
        group("g0", [fresh("short"), rollout("x", [(0, 5)])], index=0),
        group("g1", [fresh("long"), rollout("y", [(0, 70)])], index=1),
        group("g2", [fresh("unknown")], index=2),
    ]
    assert ordered(groups) == ["long", "unknown", "short"], "of an unknown problem the usual is expected"
    assert ordered(groups, earlier={"p2": [90]}) == ["unknown", "long", "short"]


def test_what_is_under_way_comes_first_and_equals_keep_their_order() -> None:
    groups = [
        group("g0", [fresh("a"), fresh("b")]),
        group("g1", [rollout("c", [(0, 30)], stop=None), rollout("d", [(0, 60)], stop=None)], index=1),
    ]
    assert ordered(groups) == ["d", "c", "a", "b"]
    assert ordered(groups, budget=20) == ["c", "d", "a", "b"], "no stretch draws more than its budget"


def test_nothing_is_lost_or_doubled() -> None:
    groups = [group(f"g{n}", [fresh(f"g{n}/{j}") for j in range(4)], index=n) for n in range(5)]
    assert sorted(ordered(groups)) == sorted(one.id for part in groups for one in part.rollouts)
    assert longest_first([], groups) == []
