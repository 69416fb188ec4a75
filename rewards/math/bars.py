"""Inequalities on an absolute value as the intervals that they describe: ``|x - 1| < 3`` is ``(-2, 4)``."""

from __future__ import annotations

from fractions import Fraction

from rewards.math.exact import Beyond, TooLarge, rational
from rewards.math.forms import FLIPPED, is_constant
from rewards.math.intervals import ALL, INFINITY
from rewards.math.tree import Expr, Node, Num, Op, Relation, Seq, Sym, Union, negated, symbols, walk


def has_bars(node: Node) -> bool:
    """Return whether a node is a relation with an absolute value in it."""
    return isinstance(node, Relation) and any(
        isinstance(part, Op) and part.name == "abs"
        for side in node.sides
        if isinstance(side, Num | Sym | Op)
        for part in walk(side)
    )


def without_bars(node: Node) -> Node:
    """Return an inequality between the absolute value of something linear and a number, as a set; other nodes as they
    are.
    """
    if not isinstance(node, Relation) or len(node.signs) != 1 or node.signs[0] not in ("<", ">", "<=", ">="):
        return node
    (left, right), sign = node.sides, node.signs[0]
    if not (isinstance(left, Op) and left.name == "abs"):
        left, right, sign = right, left, FLIPPED[sign]
    if not (isinstance(left, Op) and left.name == "abs" and is_constant(right)):
        return node
    names = symbols(left)
    line = _line(left.args[0]) if len(names) == 1 else None
    if line is None or not line[0] or not isinstance(right, Num | Op | Sym):
        return node
    low, high = (_solved(line, bound) for bound in (negated(right), right))
    if line[0] < 0:
        low, high = high, low
    if sign in ("<", "<="):
        return Seq("(" if sign == "<" else "[", (low, high), ")" if sign == "<" else "]")
    below = Seq("(", (ALL.low, low), ")" if sign == ">" else "]")
    above = Seq("(" if sign == ">" else "[", (high, INFINITY), ")")
    return Union((below, above))


def _line(node: Expr) -> tuple[Fraction, Fraction] | None:
    """Slope and intercept of an expression that is linear in its only variable, with rational ones."""
    if not symbols(node):
        try:
            return Fraction(0), rational(node)
        except (Beyond, TooLarge):
            return None
    if isinstance(node, Sym):
        return Fraction(1), Fraction(0)
    if not isinstance(node, Op) or node.name not in ("neg", "add", "mul", "div"):
        return None
    parts = [_line(arg) for arg in node.args]
    lines = [part for part in parts if part is not None]
    if len(lines) != len(parts):
        return None
    if node.name == "neg":
        return -lines[0][0], -lines[0][1]
    if node.name == "add":
        return sum((slope for slope, _ in lines), Fraction(0)), sum((rest for _, rest in lines), Fraction(0))
    if node.name == "div":
        slope, rest = lines[1]
        return (lines[0][0] / rest, lines[0][1] / rest) if not slope and rest else None
    line = lines[0]
    for other in lines[1:]:
        if line[0] and other[0]:
            return None
        line = line[0] * other[1] + line[1] * other[0], line[1] * other[1]
    return line


def _solved(line: tuple[Fraction, Fraction], value: Expr) -> Expr:
    """Return where a line has a value; a plain number when the value is rational."""
    slope, rest = line
    try:
        place = (rational(value) - rest) / slope
    except (Beyond, TooLarge):
        top = Op("add", (value, _number(-rest))) if rest else value
        return Op("div", (top, _number(slope))) if slope != 1 else top
    return _number(place)


def _number(value: Fraction) -> Expr:
    return Num(value) if value >= 0 else Op("neg", (Num(-value),))
