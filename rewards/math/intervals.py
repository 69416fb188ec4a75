"""Sets of real numbers: inequalities, intervals, unions and complements, all as intervals in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cmp_to_key

from rewards.math.forms import EXPRESSION, FLIPPED, is_constant, is_variable
from rewards.math.tree import NOBODY, Expr, Joined, Listing, Node, Op, Relation, Seq, SetOf, Sym, Text, Union, negated

Order = Callable[[Expr, Expr], int]
"""-1, 0 or 1: how two real constants compare."""

INFINITY = Sym("infty")
_SIGNS = frozenset({"<", ">", "<=", ">="})
REALS = frozenset(
    {"all real numbers", "all reals", "real numbers", "all real x", "the real numbers", "any real number"}
)
MAX_INTERVALS = 64


@dataclass(frozen=True, slots=True)
class Interval:
    """From ``low`` to ``high``, each with or without itself."""

    low: Expr
    low_in: bool
    high: Expr
    high_in: bool

    def node(self) -> Seq:
        """As it is written."""
        return Seq("[" if self.low_in else "(", (self.low, self.high), "]" if self.high_in else ")")


ALL = Interval(Op("neg", (INFINITY,)), False, INFINITY, False)


def plain_interval(node: Node) -> Node:
    """Return an inequality on one variable as the interval that it describes; other nodes as they are."""
    if not isinstance(node, Relation) or not set(node.signs) <= _SIGNS:
        return node
    if not all(isinstance(side, EXPRESSION) or side == NOBODY for side in node.sides):
        return node
    sides, signs = node.sides, node.signs
    if signs[0] in (">", ">="):
        sides, signs = sides[::-1], tuple(FLIPPED[sign] for sign in signs[::-1])
    if not set(signs) <= {"<", "<="}:
        return node
    if any(isinstance(side, Op) and side.name == "neg" and is_variable(side.args[0]) for side in sides):
        sides, signs = tuple(negated(side) for side in sides[::-1]), signs[::-1]  # type: ignore[arg-type]
    if len(sides) == 2 and is_variable(sides[0]) and not is_variable(sides[1]):
        return Seq("(", (ALL.low, sides[1]), ")" if signs[0] == "<" else "]")
    if len(sides) == 2 and is_variable(sides[1]) and not is_variable(sides[0]):
        return Seq("(" if signs[0] == "<" else "[", (sides[0], INFINITY), ")")
    if len(sides) == 3 and is_variable(sides[1]):
        return Seq("(" if signs[0] == "<" else "[", (sides[0], sides[2]), ")" if signs[1] == "<" else "]")
    return node


def as_set(node: Node) -> Node:
    """Inequalities as the set that they describe, where it can be told without comparing bounds."""
    if isinstance(node, Listing) and node.joint == "or" and all(isinstance(item, Relation) for item in node.items):
        parts = tuple(plain_interval(item) for item in node.items)
        return Union(parts) if all(isinstance(part, Seq) for part in parts) else node
    return plain_interval(node)


def is_set(node: Node) -> bool:
    """Return whether a node describes a set of real numbers in more words than a single interval."""
    if isinstance(node, Seq):
        return len(node.items) == 2 and all(is_constant(item) for item in node.items)
    if isinstance(node, Union):
        return True
    if isinstance(node, Joined):
        return node.sign in ("cap", "setminus", "lor", "land")
    if isinstance(node, Listing):
        return all(_is_bound(item) for item in node.items)
    return node == Sym("mathbb:R") or _is_bound(node) or (isinstance(node, Text) and node.words.lower() in REALS)


def _is_bound(node: Node) -> bool:
    """Return whether a node is an inequality, or says what a variable is not."""
    return (
        isinstance(node, Relation)
        and (set(node.signs) <= _SIGNS or node.signs == ("!=",))
        and any(is_variable(side) for side in node.sides)
    )


def real_set(node: Node, order: Order) -> list[Interval] | None:
    """Return the intervals of a set, in order, none touching the next; ``None`` when it is no such set."""
    found = _intervals(node, order)
    return None if found is None or len(found) > MAX_INTERVALS else joined(found, order)


def _intervals(node: Node, order: Order) -> list[Interval] | None:
    node = plain_interval(node)
    if node == Sym("mathbb:R") or (isinstance(node, Text) and node.words.lower() in REALS):
        return [ALL]
    if isinstance(node, Seq):
        if len(node.items) != 2 or not all(is_constant(item) for item in node.items):
            return None
        low, high = node.items
        return [Interval(low, node.opening == "[", high, node.closing == "]")]  # type: ignore[arg-type]
    if isinstance(node, SetOf):
        if not all(is_constant(item) for item in node.items):
            return None
        return [Interval(item, True, item, True) for item in node.items]  # type: ignore[arg-type]
    if isinstance(node, Relation) and node.signs == ("!=",):
        values = [side for side in node.sides if not is_variable(side)]
        if len(values) != 1 or not is_constant(values[0]):
            return None
        return complement([Interval(values[0], True, values[0], True)], order)  # type: ignore[arg-type]
    if isinstance(node, Union):
        return _together(node.parts, order)
    if isinstance(node, Joined):
        return _joined_sets(node, order)
    if isinstance(node, Listing):
        if node.joint == "or":
            return _together(node.items, order)
        both = _common(node.items, order)
        return both if node.joint == "and" or both or both is None else _together(node.items, order)
    return None


def _together(parts: Sequence[Node], order: Order) -> list[Interval] | None:
    found: list[Interval] = []
    for part in parts:
        intervals = _intervals(part, order)
        if intervals is None:
            return None
        found += intervals
    return found


def _common(parts: Sequence[Node], order: Order) -> list[Interval] | None:
    """Return what all parts share: what is outside of none of them."""
    outside: list[Interval] = []
    for part in parts:
        intervals = _intervals(part, order)
        if intervals is None:
            return None
        outside += complement(intervals, order)
    return complement(outside, order)


def _joined_sets(node: Joined, order: Order) -> list[Interval] | None:
    if node.sign == "lor":
        return _together(node.parts, order)
    if node.sign in ("land", "cap"):
        return _common(node.parts, order)
    if node.sign != "setminus":
        return None
    first, second = (_intervals(part, order) for part in node.parts)
    if first is None or second is None:
        return None
    return complement(complement(first, order) + second, order)


def _compare(one: Expr, other: Expr, order: Order) -> int:
    """``order`` with infinities."""
    ranks = [1 if end == INFINITY else -1 if end == negated(INFINITY) else 0 for end in (one, other)]
    if any(ranks):
        return (ranks[0] > ranks[1]) - (ranks[0] < ranks[1])
    return order(one, other)


def joined(intervals: Sequence[Interval], order: Order) -> list[Interval]:
    """Intervals in order, those that touch or overlap as one, empty ones left out."""
    kept = []
    for interval in intervals:
        width = _compare(interval.low, interval.high, order)
        if width < 0 or (width == 0 and interval.low_in and interval.high_in):
            kept.append(interval)
    kept.sort(key=cmp_to_key(lambda a, b: _compare(a.low, b.low, order) or b.low_in - a.low_in))
    found: list[Interval] = []
    for interval in kept:
        if found:
            last = found[-1]
            gap = _compare(last.high, interval.low, order)
            if gap > 0 or (gap == 0 and (last.high_in or interval.low_in)):
                longer = _compare(interval.high, last.high, order)
                if longer > 0 or (longer == 0 and interval.high_in):
                    found[-1] = Interval(last.low, last.low_in, interval.high, interval.high_in)
                continue
        found.append(interval)
    return found


def complement(intervals: Sequence[Interval], order: Order) -> list[Interval]:
    """Return the complement: all other real numbers."""
    found: list[Interval] = []
    low, low_in = ALL.low, False
    for interval in joined(intervals, order):
        found.append(Interval(low, low_in, interval.low, not interval.low_in))
        low, low_in = interval.high, not interval.high_in
    found.append(Interval(low, low_in, INFINITY, False))
    return joined([part for part in found if not (part.low == part.high and part.low in (INFINITY, ALL.low))], order)
