"""Equality of expressions with roots, logarithms, trigonometry and real exponents, by evaluation to many digits.

Runs in a grading process only. The working precision grows with the digits that are written down, so that no decimal
expansion, however long, passes for an irrational number. Expressions with variables are compared at several points,
wherever the reference is defined: the same idea as in ``rewards.math.exact``, with real numbers for residues.
"""

from __future__ import annotations

from fractions import Fraction
from random import Random
from typing import Any

from mpmath import mp  # type: ignore[import-untyped]

from rewards.math.exact import Beyond, TooLarge
from rewards.math.tree import Expr, Num, Op, Sym, Unit, symbols, walk


class NoReference(Exception):
    """The reference has no value at any point."""


SCALES = (2, -2, 0.6, 5, -10, 30, -1e6, 1e15)
"""Sizes of the points at which expressions with variables are compared; a minus lets signs vary."""
MAX_DPS = 3000
"""Most decimal digits that are worked with."""
_STEPS = frozenset({"floor", "ceil", "fact", "binom"})
"""Operations that make a variable a natural number."""


def digits(*nodes: Expr) -> int:
    """Decimal digits written down in expressions."""
    total = 0
    for node in nodes:
        for part in walk(node):
            if isinstance(part, Num):
                total += len(str(part.value.numerator)) + len(str(part.value.denominator))
    return total


def _unary(name: str, x: Any) -> Any:
    """A named function of one number."""
    if name == "neg":
        return -x
    if name == "abs":
        return abs(x)
    if name == "fact":
        if not (mp.isint(x) and 0 <= x <= 10_000):
            raise Beyond("a factorial of something that is no small natural number")
        return mp.factorial(x)
    if isinstance(x, mp.mpc) and x.imag:
        if name in ("floor", "ceil"):
            raise Beyond(f"{name} of a complex number")
    elif name in ("floor", "ceil"):
        x = mp.re(x)
        near = mp.nint(x)
        if abs(x - near) < mp.mpf(10) ** (-mp.dps // 2):  # a whole number, but for rounding
            return near
        return mp.floor(x) if name == "floor" else mp.ceil(x)
    if abs(x) > mp.mpf(10) ** 40:
        raise TooLarge(f"{name} of a huge number")
    function = _FUNCTIONS.get(name)
    if function is None:
        raise Beyond(name)
    return getattr(mp, function)(x)


_FUNCTIONS = {
    "sin": "sin", "cos": "cos", "tan": "tan", "cot": "cot", "sec": "sec", "csc": "csc", "sinh": "sinh", "cosh": "cosh",
    "tanh": "tanh", "coth": "coth", "arcsin": "asin", "arccos": "acos", "arctan": "atan", "arccot": "acot",
    "arcsec": "asec", "arccsc": "acsc", "arcsinh": "asinh", "arccosh": "acosh", "arctanh": "atanh",
}  # fmt: skip


def _power(base: Any, exponent: Any) -> Any:
    if not base:
        if mp.re(exponent) > 0:
            return mp.mpf(0)
        raise Beyond("division by zero")
    size = abs(mp.log(abs(base))) * abs(exponent)
    if size > 10**9 or abs(exponent) > 10**9:
        raise TooLarge("a power that is too large to work out")
    _watch(size / mp.log(10))
    return mp.power(base, exponent)


_largest = [0.0]
"""Decimal magnitude of the largest power met since it was last set to 0: so many digits can cancel."""


def _watch(magnitude: Any) -> None:
    _largest[0] = max(_largest[0], float(magnitude))


def value(node: Expr, point: dict[str, Any]) -> Any:
    """Value at the working precision. Raises ``Beyond``, ``TooLarge``; mpmath's own errors are ``Beyond``."""
    if isinstance(node, Num):
        return mp.mpf(node.value.numerator) / node.value.denominator
    if isinstance(node, Sym):
        if node.name in point:
            return point[node.name]
        raise Beyond("infinity" if node.name == "infty" else "an unknown symbol")
    if isinstance(node, Unit):
        inner = value(node.value, point)
        if node.name in ("deg", "%"):
            return inner * mp.pi / 180 if node.name == "deg" else inner / 100
        raise Beyond("a unit inside an expression")
    args = [value(arg, point) for arg in node.args]
    if node.name in ("add", "mixed"):
        return mp.fsum(args)
    if node.name == "mul":
        return mp.fprod(args)
    if node.name == "div":
        if not args[1]:
            raise Beyond("division by zero")
        return args[0] / args[1]
    if node.name == "pow":
        return _power(*args)
    if node.name == "root":
        return _root(*args)
    if node.name == "log":
        return _log(*args)
    if node.name == "binom":
        if not all(mp.isint(arg) and abs(arg) <= 10_000 for arg in args):
            raise Beyond("a binomial of something that is no small whole number")
        return mp.binomial(*args)
    if len(args) == 1:
        return _unary(node.name, args[0])
    raise Beyond(node.name)


def _root(radicand: Any, degree: Any) -> Any:
    if not (mp.isint(degree) and 1 <= degree <= 1000):
        raise Beyond("a root of a strange degree")
    degree = int(degree)
    if degree % 2 and not mp.im(radicand) and mp.re(radicand) < 0:
        return -mp.root(-mp.re(radicand), degree)  # the real root, as people mean it
    return mp.root(radicand, degree)


def _log(x: Any, base: Any) -> Any:
    if not x or not base or base == 1:
        raise Beyond("a logarithm without a value")
    return mp.log(x) / mp.log(base)


def _points(gold: Expr, found: Expr) -> list[dict[str, Any]]:
    """Values for the variables of both expressions; one empty point without any."""
    names = sorted(symbols(gold) | symbols(found))
    random = Random(f"{gold}/{found}")
    whole = any(
        (isinstance(part, Op) and part.name in _STEPS and symbols(part))
        or (isinstance(part, Op) and part.name == "pow" and _negative(part.args[0]) and symbols(part.args[1]))
        for node in (gold, found)
        for part in walk(node)
    )
    points = []
    for scale in SCALES if names else SCALES[:1]:
        point: dict[str, Any] = {"pi": mp.pi, "e": mp.e, "i": mp.mpc(0, 1), "ten": mp.mpf(10)}
        for name in names:
            if whole:
                point[name] = mp.mpf(random.randrange(2, 4 + 30 * int(abs(scale)) if abs(scale) < 1000 else 3000))
            else:
                sign = random.choice((1, -1)) if scale < 0 else 1
                point[name] = sign * (mp.mpf(random.randrange(10**20)) / 10**20 * abs(scale) + mp.mpf(1) / 17)
        points.append(point)
    return points


def _negative(node: Expr) -> bool:
    return isinstance(node, Op) and node.name == "neg"


def _close(left: Any, right: Any, power: int) -> bool:
    size = max(mp.mpf(1), abs(left), abs(right))
    return abs(left - right) <= mp.mpf(10) ** power * size


def _at_precision(node: Expr, point: dict[str, Any]) -> Any:
    """Value at a point; ``Beyond`` where it has none."""
    try:
        result = value(node, point)
    except (ValueError, ZeroDivisionError, OverflowError, TypeError, mp.NoConvergence) as error:
        raise Beyond(type(error).__name__) from error
    if not mp.isfinite(result):
        raise Beyond("no finite value")
    return result


def identical(gold: Expr, found: Expr, tolerance: Fraction | None = None) -> bool:
    """Whether both have the same value, wherever ``gold`` has one.

    Raises ``NoReference`` when gold has no value anywhere, ``Beyond`` when ``found`` has none where gold has one, and
    ``TooLarge``.
    """
    precision = 60 + 2 * digits(gold, found)
    while True:
        if precision > MAX_DPS:
            raise TooLarge(f"more than {MAX_DPS} digits")
        _largest[0] = 0.0
        with mp.workdps(precision):
            same = _same_everywhere(gold, found, tolerance, precision)
        # Large numbers may cancel: 2^{1000} + 1 - 2^{1000}. With variables, the points where nothing is large tell.
        needed = 0 if symbols(gold) else 60 + int(2 * _largest[0]) + 2 * digits(gold, found)
        if needed <= precision:
            return same
        precision = needed


def _same_everywhere(gold: Expr, found: Expr, tolerance: Fraction | None, precision: int) -> bool:
    compared = 0
    for point in _points(gold, found):
        try:
            expected = _at_precision(gold, point)
        except Beyond:
            continue
        except TooLarge as error:
            if symbols(gold):  # at this point only
                continue
            raise NoReference(str(error)) from error
        if symbols(gold) and Sym("i") not in walk(gold) and abs(mp.im(expected)) > mp.mpf(10) ** -30 * abs(expected):
            continue  # outside of the real domain: a logarithm or root of a negative number
        actual = _at_precision(found, point)
        compared += 1
        if tolerance is not None and abs(expected - actual) <= mp.mpf(tolerance.numerator) / tolerance.denominator:
            continue
        if not _close(expected, actual, -int(0.6 * precision)):
            return False
    if not compared:
        raise NoReference("no value at any point")
    return True


def evaluates(node: Expr) -> bool:
    """Whether an expression has a value somewhere; may take long, which is then the expression's fault."""
    try:
        return identical(node, node)
    except (Beyond, TooLarge, NoReference):
        return False
