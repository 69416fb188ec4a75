"""Values of expressions with roots, logarithms, trigonometry and real exponents, each with a bound on its error.

Runs in a grading process only. A value is a number of mpmath and a binary exponent: the true value lies within 2 to
that power of it. So two values that differ are told apart however small they are, and two that agree are known to agree
to how many digits. What an evaluation costs is counted in steps, not in seconds: a verdict does not depend on the
machine.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

from mpmath import mp  # type: ignore[import-untyped]

from rewards.math.exact import Beyond, TooLarge
from rewards.math.tree import Expr, Num, Op, Sym, Unit

EXACT = -(10**9)
"""The error's exponent of a value that has none."""
MAX_STEPS = 60_000
"""Cost of one evaluation; an addition at 200 bits is one step, a sine about twenty."""
HUGE = 10**9
"""Powers beyond e to this are not worked out, nor functions of numbers beyond 2 to 1,000."""

Value = tuple[Any, int]
"""A number and the exponent of its error."""

_FUNCTIONS = {
    "sin": "sin", "cos": "cos", "tan": "tan", "cot": "cot", "sec": "sec", "csc": "csc", "sinh": "sinh", "cosh": "cosh",
    "tanh": "tanh", "coth": "coth", "arcsin": "asin", "arccos": "acos", "arctan": "atan", "arccot": "acot",
    "arcsec": "asec", "arccsc": "acsc", "arcsinh": "asinh", "arccosh": "acosh", "arctanh": "atanh",
}  # fmt: skip
_SATURATED = frozenset({"tanh", "coth", "arctan", "arccot"})
"""Functions that come ever closer to a constant."""


_PERIODIC = frozenset({"sin", "cos", "tan", "cot", "sec", "csc"})
"""Functions that say nothing of an argument known no better than to a period."""


class Uncertain(Exception):
    """The error is too large to go on; more precision may help."""


def magnitude(number: Any) -> int:
    """Return the least n with ``|number| < 2**n``, give or take one; ``EXACT`` for 0."""
    found = mp.mag(number)
    return int(found) if mp.isfinite(found) else EXACT


def _with_bits(function: Callable[[Any], Any], argument: Any, extra: int) -> Any:
    """``function`` worked out with so many bits more."""
    with mp.workprec(mp.prec + extra):
        return function(argument)


class Evaluation:
    """One evaluation of one expression at one point, at the working precision of mpmath."""

    def __init__(self, point: dict[str, Fraction], real_roots: bool = True) -> None:
        self.point = point
        self.real_roots = real_roots  # whether an odd root of a negative number is the real one
        self.steps = 0.0
        self.spread = 0
        """Bits between the largest and the smallest part of a sum: so many must be carried beyond the usual."""

    def cost(self, steps: float) -> None:
        """Count the steps of one operation. Raises ``TooLarge``."""
        self.steps += steps * (1 + (mp.prec / 500) ** 1.6)
        if self.steps > MAX_STEPS:
            raise TooLarge("more than it may take to work out")

    def value(self, node: Expr) -> Value:
        """Raises ``Beyond`` where there is no value, ``TooLarge``, ``Uncertain``."""
        if isinstance(node, Num):
            return self.fraction(node.value)
        if isinstance(node, Sym):
            return self.symbol(node.name)
        if isinstance(node, Unit):
            if node.name == "deg":
                return self.product([self.value(node.value), self.rounded(mp.pi / 180)])
            if node.name == "%":
                return self.quotient(self.value(node.value), (mp.mpf(100), EXACT))
            raise Beyond("a unit inside an expression")
        args = [self.value(arg) for arg in node.args]
        found = self.operation(node, args)
        if not mp.isfinite(found[0]):
            raise Beyond("no finite value")
        return self.snapped(found)

    def operation(self, node: Op, args: list[Value]) -> Value:
        """Evaluate an operation on values."""
        name = node.name
        if name in ("add", "mixed"):
            return self.sum(args)
        if name == "mul":
            return self.product(args)
        if name == "div":
            return self.quotient(*args)
        if name == "neg":
            return -args[0][0], args[0][1]
        if name == "pow":
            return self.power(node, *args)
        if name == "root":
            return self.root(*args)
        if name == "log":
            return self.quotient(self.logarithm(args[0]), self.logarithm(args[1]))
        if name == "binom":
            return self.binomial(*args)
        if name in ("max", "min"):
            return (max if name == "max" else min)(args, key=lambda value: mp.re(value[0]))
        if len(args) == 1:
            return self.unary(name, args[0])
        raise Beyond(name)

    def rounded(self, number: Any) -> Value:
        """Return a number with the error of one rounding."""
        return number, magnitude(number) - mp.prec + 2

    def fraction(self, number: Fraction) -> Value:
        """Return a rational number."""
        self.cost(1)
        if number.denominator == 1 and number.numerator.bit_length() < mp.prec:
            return mp.mpf(number.numerator), EXACT
        return self.rounded(mp.mpf(number.numerator) / number.denominator)

    def symbol(self, name: str) -> Value:
        """Evaluate a constant, or a variable at the point."""
        if name in self.point:
            return self.fraction(self.point[name])
        if name in ("pi", "e"):
            return self.rounded(+mp.pi if name == "pi" else +mp.e)
        if name == "i":
            return mp.mpc(0, 1), EXACT
        if name == "ten":
            return mp.mpf(10), EXACT
        raise Beyond("infinity" if name == "infty" else "an unknown symbol")

    def snapped(self, value: Value) -> Value:
        """Without an imaginary part that is smaller than its error: a sign of it would choose a branch."""
        number, error = value
        if isinstance(number, mp.mpc) and (not number.imag or magnitude(number.imag) <= error):
            return number.real, error
        return value

    def sum(self, terms: list[Value]) -> Value:
        """Evaluate a sum, and note how far its terms lie apart."""
        self.cost(len(terms))
        sizes = [magnitude(number) for number, _ in terms if number]
        total = mp.fsum([number for number, _ in terms])
        if sizes:
            self.spread = max(
                self.spread, max(sizes) - min(sizes), max(sizes) - (magnitude(total) if total else min(sizes))
            )
        error = max(error for _, error in terms)
        rounding = max(sizes, default=EXACT) - mp.prec + 2
        if all(error == EXACT for _, error in terms) and magnitude(total) < mp.prec and _whole(terms):
            return total, EXACT
        return total, max(error, rounding) + len(terms).bit_length()

    def product(self, factors: list[Value]) -> Value:
        """Evaluate a product."""
        self.cost(len(factors))
        total = mp.fprod([number for number, _ in factors])
        sizes = [max(magnitude(number), error) for number, error in factors]
        if any(not number and error == EXACT for number, error in factors):
            return mp.mpf(0), EXACT
        if all(error == EXACT for _, error in factors) and magnitude(total) < mp.prec and _whole(factors):
            return total, EXACT
        whole = sum(sizes)
        relative = max(error - size for (_, error), size in zip(factors, sizes, strict=True))
        return total, whole + max(relative, 2 - mp.prec) + len(factors).bit_length()

    def quotient(self, upper: Value, lower: Value) -> Value:
        """Evaluate a quotient."""
        self.cost(1)
        number, error = lower
        if not number and error == EXACT:
            raise Beyond("division by zero")
        size = magnitude(number)
        if error >= size - 2:
            raise Uncertain("division by what may be zero")
        result = upper[0] / number
        if not upper[0] and upper[1] == EXACT:
            return result, EXACT
        top = max(magnitude(upper[0]), upper[1])
        return result, top - size + 3 + max(upper[1] - top, error - size, 1 - mp.prec)

    def through(self, function: Any, value: Value, steps: float) -> Value:
        """Evaluate a function of one value; the error is what a change by the value's error changes."""
        number, error = value
        self.cost(steps)
        result = function(number)
        if error == EXACT:
            return self.rounded(result)
        self.cost(steps)
        moved = magnitude(function(number + mp.ldexp(mp.mpf(1), error)) - result)
        return result, max(moved + 3, magnitude(result) - mp.prec + 3)

    def unary(self, name: str, value: Value) -> Value:
        """Evaluate a named function of one number."""
        number, error = value
        if name == "abs":
            return abs(number), error
        if name in ("floor", "ceil"):
            return self.step(name, value)
        if name == "fact":
            return self.factorial(value)
        function = _FUNCTIONS.get(name)
        if function is None:
            raise Beyond(name)
        size = magnitude(number)
        if size > 1000 or (name in ("sinh", "cosh", "tanh", "coth") and size > 20):
            raise TooLarge(f"{name} of a huge number")
        if isinstance(number, mp.mpc) and size > 20 and not name.startswith("arc"):
            raise TooLarge(f"{name} of a huge complex number")
        if name in _PERIODIC and error > -3:
            raise Uncertain(name)
        if size < 0 and size != EXACT:
            self.spread = max(self.spread, -2 * size)
        if name in _SATURATED and size > 0:
            self.spread = max(self.spread, 2 * size if name.startswith("arc") else int(3 * abs(number)))
        evaluate = getattr(mp, function)
        if isinstance(number, mp.mpc) and size != EXACT:
            # mpmath subtracts what cancels: up to twice the argument's exponent in bits, near a pole up to twice the
            # bits in which the argument is known.
            extra = 2 * (mp.prec + abs(size)) + 20
            self.cost(20 * extra / mp.prec)
            return self.through(lambda argument: _with_bits(evaluate, argument, extra), value, 20)
        return self.through(evaluate, value, 20)

    def step(self, name: str, value: Value) -> Value:
        """Rounding to a whole number. What is whole but for its error is taken to be whole."""
        number, error = value
        if mp.im(number):
            raise Beyond(f"{name} of a complex number")
        near = mp.nint(number)
        if abs(number - near) <= mp.ldexp(mp.mpf(1), error):
            if error > -20:
                raise Uncertain(name)
            return near, EXACT
        return (mp.floor(number) if name == "floor" else mp.ceil(number)), EXACT

    def factorial(self, value: Value) -> Value:
        """Evaluate a factorial, between whole numbers by the gamma function."""
        number, error = value
        if mp.im(number) or magnitude(number) > 64:
            raise TooLarge("a factorial of a huge number")
        if mp.isint(number) and error == EXACT and mp.re(number) < 0:
            raise Beyond("a factorial of a negative number")
        return self.through(mp.factorial, value, 60)

    def binomial(self, upper: Value, lower: Value) -> Value:
        """Evaluate a binomial; exact when the lower number is small and whole."""
        (n, error), (k, lower_error) = upper, lower
        if lower_error != EXACT or not mp.isint(k):
            return self.quotient(self.factorial(upper), self.product(
                [self.factorial(lower), self.factorial(self.sum([upper, (-k, lower_error)]))]))  # fmt: skip
        if k < 0:
            return mp.mpf(0), EXACT
        if k > 20_000:
            raise TooLarge("a binomial of huge numbers")
        self.cost(int(k) / 4)
        if error == EXACT and mp.isint(n):
            return self.rounded(mp.binomial(n, k)) if magnitude(n) <= 32 else self.falling(upper, int(k))
        return self.falling(upper, int(k))

    def falling(self, upper: Value, count: int) -> Value:
        """``n (n-1) ... (n-k+1) / k!``."""
        if count > 200:
            raise TooLarge("a binomial of huge numbers")
        factors = [self.sum([upper, (mp.mpf(-place), EXACT)]) for place in range(count)]
        return self.quotient(self.product(factors), (mp.factorial(count), EXACT)) if factors else (mp.mpf(1), EXACT)

    def logarithm(self, value: Value) -> Value:
        """Evaluate the natural logarithm, on the principal branch."""
        number, error = value
        if not number and error == EXACT:
            raise Beyond("a logarithm of zero")
        if error >= magnitude(number) - 2:
            raise Uncertain("a logarithm of what may be zero")
        distance = magnitude(number - 1)
        if distance < 0 and distance != EXACT:
            self.spread = max(self.spread, -2 * distance)
        found = self.through(mp.log, value, 20)
        return (mp.mpf(0), EXACT) if number == 1 and error == EXACT else found

    def power(self, node: Op, base: Value, exponent: Value) -> Value:
        """Evaluate a power; with ``real_roots``, an odd root of a negative number is real."""
        number, error = base
        if not number and error == EXACT:
            if mp.re(exponent[0]) > 0:
                return mp.mpf(0), EXACT
            raise Beyond("division by zero")
        if error >= magnitude(number) - 2:
            raise Uncertain("a power of what may be zero")
        size = abs(mp.log(abs(number))) * abs(exponent[0])
        if size > HUGE or abs(exponent[0]) > HUGE:
            raise TooLarge("a power that is too large to work out")
        if exponent[1] == EXACT and mp.isint(exponent[0]):
            return self.whole_power(base, int(mp.re(exponent[0])))
        small = magnitude(size) if size else 0
        if small < 0:
            self.spread = max(self.spread, -2 * small)
        fraction = written_fraction(node.args[1])
        if self.real_roots and fraction and fraction.denominator % 2 and not mp.im(number) and number < 0:
            root = self.power(node, (-number, error), exponent)
            return (-root[0], root[1]) if fraction.numerator % 2 else root
        self.cost(60)
        result = mp.power(number, exponent[0])
        shifted = [result]
        if error != EXACT:
            shifted.append(mp.power(number + mp.ldexp(mp.mpf(1), error), exponent[0]))
        if exponent[1] != EXACT:
            shifted.append(mp.power(number, exponent[0] + mp.ldexp(mp.mpf(1), exponent[1])))
        moved = max(magnitude(one - result) for one in shifted)
        return result, max(moved + 3, magnitude(result) - mp.prec + 4)

    def whole_power(self, base: Value, exponent: int) -> Value:
        """Evaluate a whole power."""
        number, error = base
        self.cost(1 + abs(exponent).bit_length())
        result = number**exponent
        if error == EXACT and exponent >= 0 and magnitude(result) < mp.prec and _whole([base]):
            return result, EXACT
        relative = max(error - magnitude(number) + 1, 2 - mp.prec)
        return result, magnitude(result) + relative + abs(exponent).bit_length() + 1

    def root(self, radicand: Value, degree: Value) -> Value:
        """Evaluate a root of a small whole degree."""
        if degree[1] != EXACT or not mp.isint(degree[0]) or not 1 <= mp.re(degree[0]) <= 1000:
            raise Beyond("a root of a strange degree")
        number, error = radicand
        count = int(mp.re(degree[0]))
        if not number and error == EXACT:
            return mp.mpf(0), EXACT
        if self.real_roots and count % 2 and not mp.im(number) and number < 0:
            root = self.root((-number, error), degree)  # the real root, as people mean it
            return -root[0], root[1]
        if error >= magnitude(number) - 2:
            raise Uncertain("a root of what may be zero")
        return self.through(lambda x: mp.root(x, count), radicand, 20)


def _whole(values: list[Value]) -> bool:
    """Return whether all numbers are whole, so that arithmetic on them is exact while they fit."""
    return all(
        (mp.isint(number.real) and mp.isint(number.imag)) if isinstance(number, mp.mpc) else mp.isint(number)
        for number, _ in values
    )


def written_fraction(node: Expr) -> Fraction | None:
    """Return the value of a fraction of whole numbers, as an exponent is written; ``None`` for other expressions."""
    if isinstance(node, Num):
        return node.value
    if isinstance(node, Op) and node.name in ("neg", "div"):
        parts = [written_fraction(arg) for arg in node.args]
        if None in parts or (node.name == "div" and not parts[1]):
            return None
        first = parts[0]
        assert first is not None
        return -first if node.name == "neg" else first / parts[1]  # type: ignore[operator]
    return None


def at(node: Expr, point: dict[str, Fraction], bits: int, real_roots: bool = True) -> tuple[Value, int]:
    """Value and spread of an expression at a point, worked out with so many bits.

    Raises ``Beyond``, also for mpmath's own errors, ``TooLarge`` and ``Uncertain``.
    """
    with mp.workprec(bits):
        evaluation = Evaluation(point, real_roots)
        try:
            return evaluation.value(node), evaluation.spread
        except (ValueError, ZeroDivisionError, OverflowError, TypeError, mp.NoConvergence) as error:
            raise Beyond(type(error).__name__) from error
