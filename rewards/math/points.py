"""Points at which expressions with variables are compared; the reference alone chooses them."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from random import Random

from mpmath import mp  # type: ignore[import-untyped]

from rewards.math.exact import Beyond, TooLarge
from rewards.math.numeric import Uncertain, at
from rewards.math.tree import Expr, Num, Op, Sym, difference, symbols, walk

Point = dict[str, Fraction]

SCALES = (2, -2, 0.6, 5, -10, 30, -1e6, 1e15, 0.05)
"""Sizes of the points; a minus lets signs vary."""
ENOUGH = 3
"""Points at which two functions are compared, at least, where the reference has as many."""
_BITS = 300
"""Random bits of a coordinate: no periodic function is 0 at all of them."""
_LOW = 60
"""Bits with which a domain is looked for."""
_STEPS = frozenset({"fact", "binom", "mod", "gcd", "lcm"})
"""Operations that make a variable a natural number."""
_ROUNDING = frozenset({"floor", "ceil"})
_COUNTERS = frozenset("ijklmnN")
"""Names of natural numbers by custom: rounding alone makes none of a variable, or it would round nothing."""
_PROBES = tuple(Fraction(place, 100) for place in (0, 1, 10, 100, -100, 300, 700, -500, 1200, 4000, -3000, 10000))


def is_natural(node: Expr) -> bool:
    """Return whether the variables of an expression have to be natural numbers: in factorials, above a negative base,
    and where they are rounded and named like natural numbers.
    """
    for part in walk(node):
        if isinstance(part, Op) and symbols(part):
            if part.name in _STEPS:
                return True
            if part.name in _ROUNDING and symbols(part) <= _COUNTERS:
                return True
            if (
                part.name == "pow"
                and isinstance(part.args[0], Op)
                and part.args[0].name == "neg"
                and symbols(part.args[1])
            ):
                return True
    return False


@lru_cache(maxsize=512)
def points(reference: Expr, names: frozenset[str] = frozenset()) -> tuple[Point, ...]:
    """Points at which ``reference`` has a real value, for its variables and further ``names``.

    Where it has none anywhere, points at which it has a complex one; none when it has no value at all.
    """
    every = sorted(symbols(reference) | names)
    if not every:
        return ({},)
    random = Random(repr(reference))
    natural = is_natural(reference)
    candidates = [_random_point(every, scale, natural, random) for scale in SCALES * (4 if natural else 1)]
    real = [point for point in candidates if _has_value(reference, point, True)]
    if natural:
        real = ([point for point in real if _chooses(reference, point)] or real)[: len(SCALES)]
    if len(real) < ENOUGH and not natural:
        for point in _search(reference, every, random):
            real.append(point)
            if len(real) >= ENOUGH:
                break
    return tuple(real) or tuple(point for point in candidates if _has_value(reference, point, False))


def _random_point(names: list[str], scale: float, natural: bool, random: Random) -> Point:
    point = {}
    for name in names:
        if natural:
            size = int(abs(scale))
            point[name] = Fraction(random.randrange(2, 4 + 30 * size if size < 1000 else 3000))
        else:
            sign = random.choice((1, -1)) if scale < 0 else 1
            point[name] = sign * (between(Fraction(0), Fraction(abs(scale)), random) + Fraction(abs(scale)) / 17)
    return point


def between(low: Fraction, high: Fraction, random: Random) -> Fraction:
    """Return a random number of an interval."""
    return low + (high - low) * Fraction(random.getrandbits(_BITS), 2**_BITS)


def _has_value(node: Expr, point: Point, real: bool) -> bool:
    """Return whether an expression has a value at a point; ``real`` unless it is written with the imaginary unit."""
    try:
        (number, error), _ = at(node, point, 2 * _LOW)
    except (Beyond, TooLarge, Uncertain):
        return False
    return not real or Sym("i") in walk(node) or not mp.im(number) or mp.mag(mp.im(number)) <= error


def _chooses(node: Expr, point: Point) -> bool:
    """Return whether every binomial at a point chooses no more than there are: where it does, other forms have no
    value.
    """
    for part in walk(node):
        if isinstance(part, Op) and part.name == "binom":
            try:
                upper, lower = (at(arg, point, _LOW)[0][0] for arg in part.args)
            except (Beyond, TooLarge, Uncertain):
                return False
            if mp.re(upper) < mp.re(lower):
                return False
    return True


def _bounds(node: Expr) -> list[Expr]:
    """Expressions that must not be negative for an expression to be real."""
    found: list[Expr] = []
    one = Num(Fraction(1))
    for part in walk(node):
        if not isinstance(part, Op) or not symbols(part):
            continue
        inner = part.args[0]
        if part.name in ("log", "root", "pow") and symbols(inner):
            found.append(inner)
        elif part.name in ("arcsin", "arccos", "arctanh"):
            found.append(difference(one, Op("pow", (inner, Num(Fraction(2))))))
        elif part.name in ("arccosh", "arcsec", "arccsc"):
            found.append(difference(Op("pow", (inner, Num(Fraction(2)))), one))
    return found


def _search(reference: Expr, names: list[str], random: Random) -> Iterator[Point]:
    """Points inside of a domain that random points miss, one variable at a time.

    The borders are where a radicand or the like is 0; where it is linear or quadratic in the variable, three values
    tell them exactly, else nearly.
    """
    bounds = _bounds(reference)
    for _ in range(4):
        start = _random_point(names, random.choice((1, 2, -3)), False, random)
        for name in names:
            borders = {Fraction(0)}
            for bound in bounds:
                for middle in _PROBES:
                    borders |= set(_roots_near(bound, start, name, middle))
            line = sorted(borders)
            gaps = [(line[0] - 10, line[0]), *pairwise(line), (line[-1], line[-1] + 10)]
            for low, high in gaps[:60]:
                point = start | {name: between(low, high, random)}
                if _has_value(reference, point, True):
                    yield point
                    yield start | {name: between(low, high, random)}


def _roots_near(bound: Expr, start: Point, name: str, middle: Fraction) -> list[Fraction]:
    """Roots and vertex of the parabola through three points of an expression, as functions of one variable."""
    step = Fraction(1, 2)
    values = []
    for shift in (-step, Fraction(0), step):
        try:
            (number, _), _ = at(bound, start | {name: middle + shift}, _LOW)
        except (Beyond, TooLarge, Uncertain):
            return []
        values.append(float(mp.re(number)))
    low, here, high = values
    curve, slope = 2 * (low - 2 * here + high), high - low
    if abs(curve) < 1e-9 * max(1e-300, abs(slope)):
        return [middle - _fraction(here / slope)] if slope else []
    vertex = middle - _fraction(slope / (2 * curve))
    square = slope * slope - 4 * curve * here
    if square < 0:
        return [vertex]
    half = _fraction(square**0.5 / (2 * abs(curve)))
    return [vertex - half, vertex, vertex + half]


def _fraction(number: float) -> Fraction:
    return Fraction(number) if abs(number) < 1e30 else Fraction(10**30)
