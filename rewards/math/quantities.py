"""Values with words after them: a factor that is worked in, and the unit that is left."""

from __future__ import annotations

from fractions import Fraction

from rewards.math.exact import Beyond, TooLarge, rational
from rewards.math.tree import Expr, Matrix, Node, Num, Op, Unit, Unreadable, expression, times
from rewards.math.units import conversion, meaning, measure


def quantity(value: Expr, words: str) -> Expr:
    """Return the value with its unit or noun. Raises ``Unreadable`` for words that change it in ways that are
    not read.
    """
    found = meaning(words)
    if found is None:
        raise Unreadable("words beside a value")
    factor, unit = found
    if isinstance(value, Unit):
        if value.name == "deg" and words.strip() in ("C", "F", "Celsius", "Fahrenheit"):
            return Unit(value.value, f"deg{words.strip()[0]}")
        if unit not in ("", value.name):
            raise Unreadable("words beside a value")
        unit, value = value.name, value.value
    value = scaled(value, factor)
    return Unit(value, unit) if unit else value


def scaled(value: Expr, factor: Fraction) -> Expr:
    """Return the value times a factor; a plain number stays one."""
    if factor == 1:
        return value
    try:
        result = rational(value) * factor
    except (Beyond, TooLarge):
        return Op("mul", (Num(factor), value))
    return Num(result) if result >= 0 else Op("neg", (Num(-result),))


def product(left: Expr, right: Node) -> Node:
    """Return the product of two factors; a factor of a matrix goes into its entries."""
    if not isinstance(right, Matrix):
        return times(left, expression(right))
    try:
        factor = rational(left)
    except (Beyond, TooLarge):
        return Matrix(tuple(tuple(times(left, expression(entry)) for entry in row) for row in right.rows))
    return Matrix(tuple(tuple(scaled(expression(entry), factor) for entry in row) for row in right.rows))


def same_kind(first: Unit, further: Expr) -> Unit:
    """Return two quantities side by side as one: 1 h 30 min. Raises ``Unreadable`` when they are of different kinds."""
    if isinstance(further, Unit) and measure(first.name) is not None:
        factor = conversion(first.name, further.name)
        if factor is not None and factor < 1:
            return Unit(scaled_sum(first.value, scaled(further.value, factor)), first.name)
    raise Unreadable("two values side by side")


def scaled_sum(one: Expr, other: Expr) -> Expr:
    """Return the sum of two values; of plain numbers, a plain number."""
    try:
        return Num(abs(rational(one) + rational(other))) if rational(one) >= 0 else Op("add", (one, other))
    except (Beyond, TooLarge):
        return Op("add", (one, other))
