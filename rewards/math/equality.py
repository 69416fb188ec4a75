"""Equality of two expressions, by their values to many digits; a deterministic number of steps each time.

No decimal expansion, however long, passes for an irrational number: the precision grows with the digits that are
written down, and with the distance between the parts of sums, so that nothing small is lost beside something large.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from mpmath import mp  # type: ignore[import-untyped]

from rewards.math.exact import Beyond, TooLarge
from rewards.math.numeric import EXACT, Uncertain, Value, at, magnitude
from rewards.math.points import Point, points
from rewards.math.tree import Expr, Num, Op, symbols, walk


class NoReference(Exception):
    """The reference has no value at any point."""


MAX_BITS = 10_000
"""Most bits that are worked with: 3,000 digits."""
_TOLD = 40
"""Bits of a value that must be known for it to be one."""
_ZERO_BITS = 4
"""How often the usual precision two values must lie below their errors to be taken for 0."""


def digits(*nodes: Expr) -> int:
    """Decimal digits written down in expressions."""
    total = 0
    for node in nodes:
        for part in walk(node):
            if isinstance(part, Num):
                total += len(str(part.value.numerator)) + len(str(part.value.denominator))
    return total


def _bits(*nodes: Expr) -> int:
    return 200 + 7 * digits(*nodes)


def identical(gold: Expr, found: Expr, tolerance: Fraction | None = None) -> bool:
    """Return whether both have the same value, wherever ``gold`` has one.

    Raises ``NoReference`` when gold has no value anywhere, and ``Beyond`` or ``TooLarge`` when ``found`` has none
    where gold has one.
    """
    compared = 0
    least = _bits(gold, found)
    for point in points(gold):
        try:
            expected = steady(gold, point, least)
        except (Beyond, TooLarge, Uncertain) as error:
            if symbols(gold):  # at this point only
                continue
            raise NoReference(str(error)) from error
        compared += 1
        if not _same(gold, found, point, expected, least, tolerance):
            return False
    if not compared:
        raise NoReference("no value at any point")
    return True


def _same(gold: Expr, found: Expr, point: Point, expected: Value, least: int, tolerance: Fraction | None) -> bool:
    """At one point; for constants, roots of negative numbers may be the real or the principal ones."""
    if _agree(gold, found, point, expected, least, tolerance):
        return True
    if symbols(gold) or not any(
        isinstance(part, Op) and part.name in ("pow", "root") for part in (*walk(gold), *walk(found))
    ):
        return False
    return _agree(gold, found, point, None, least, tolerance, real_roots=False)


def _agree(
    gold: Expr, found: Expr, point: Point, expected: Value | None, least: int, tolerance: Fraction | None,
    real_roots: bool = True,
) -> bool:  # fmt: skip
    bits = least
    while True:
        try:
            one, spread = at(gold, point, bits, real_roots)
        except (Beyond, TooLarge, Uncertain):
            if expected is None:
                return False
            one, spread = expected, 0
        try:
            other, more = at(found, point, bits, real_roots)
        except Uncertain as error:
            if bits >= MAX_BITS:
                raise Beyond(str(error)) from error
            bits = min(MAX_BITS, 2 * bits)
            continue
        gap = one[0] - other[0]
        noise = max(one[1], other[1]) + 2
        if tolerance is not None:
            with mp.workprec(bits):
                return bool(abs(gap) <= mp.mpf(tolerance.numerator) / tolerance.denominator + _power(noise))
        if magnitude(gap) > noise:
            return False
        needed = least + (0 if symbols(gold) else 2 * max(spread, more))
        if needed > 2 * MAX_BITS:
            raise TooLarge("more digits than are worked with")
        needed = min(needed, MAX_BITS)
        size = max(magnitude(one[0]), magnitude(other[0]))
        if bits >= MAX_BITS and noise > max(size - least // 2, -least):
            raise Beyond("a value that cannot be told")
        if bits >= needed and (
            size - noise >= least // 2 or bits >= min(MAX_BITS, _ZERO_BITS * least) or noise <= EXACT // 2
        ):
            return True
        bits = max(needed, min(MAX_BITS, 2 * bits))


def _power(exponent: int) -> Any:
    return mp.ldexp(mp.mpf(1), exponent) if exponent > EXACT // 2 else mp.mpf(0)


def steady(node: Expr, point: Point, bits: int) -> Value:
    """Return a value; with more bits where the usual ones do not tell. Raises ``Beyond``, ``TooLarge``,
    ``Uncertain``.
    """
    tries = 0
    while True:
        try:
            value = at(node, point, bits)[0]
            if value[1] <= max(magnitude(value[0]) - _TOLD, -bits // 2):
                return value
            raise Uncertain("a value that cannot be told")
        except Uncertain:
            tries += 1
            if tries > 3 or bits >= MAX_BITS:
                raise
            bits = min(MAX_BITS, 2 * bits)


def proportion(gold: Expr, found: Expr) -> int:
    """Return the sign of the constant that ``found / gold`` is; 0 when it is none.

    Raises ``NoReference`` when gold has no value, ``Beyond`` and ``TooLarge`` when found has none where gold has one.
    """
    least = _bits(gold, found)
    first: tuple[Value, Value] | None = None
    sign = 0
    for point in points(gold):
        try:
            one = steady(gold, point, least)
        except (Beyond, TooLarge, Uncertain):
            continue
        other = steady(found, point, least)
        if magnitude(one[0]) <= one[1] or magnitude(other[0]) <= other[1]:
            return 0
        if first is None:
            first = one, other
            sign = 1 if mp.re(other[0] / one[0]) > 0 else -1
            continue
        with mp.workprec(least):
            here, there = first[0][0] * other[0], first[1][0] * one[0]
            if abs(here - there) > abs(here) * mp.ldexp(mp.mpf(1), -(least // 2)):
                return 0
    if first is None:
        raise NoReference("no value at any point")
    return sign


def vanishes(node: Expr, domain: Expr) -> bool:
    """Return whether an expression is 0 wherever ``domain`` has a value; where it has none itself, it is not.

    Raises ``NoReference``.
    """
    least = _bits(node)
    compared = 0
    for point in points(domain, symbols(node)):
        try:
            if not _agree(Num(Fraction(0)), node, point, None, least, None):
                return False
        except (Beyond, TooLarge):
            return False
        compared += 1
    if not compared:
        raise NoReference("no value at any point")
    return True


def order(one: Expr, other: Expr) -> int:
    """-1, 0 or 1: how two real constants compare. Raises ``Beyond``, ``TooLarge``."""
    if identical(one, other):
        return 0
    difference_ = steady(one, {}, 400)[0] - steady(other, {}, 400)[0]
    if mp.im(difference_):
        raise Beyond("complex numbers have no order")
    return -1 if difference_ < 0 else 1
