"""Equality by exact arithmetic: fractions of bounded size, and rational functions modulo large primes.

Two rational functions with integer coefficients that agree at random points modulo random 61-bit primes are the same
(Schwartz and Zippel: the chance of an error is below the degree over 2**60 for each point). That decides polynomials,
factored or not, and huge powers, in microseconds and without ever building a large number.
"""

from __future__ import annotations

from fractions import Fraction
from math import comb, factorial
from random import Random

from rewards.math.tree import Expr, Num, Sym, Unit

MAX_BITS = 20_000
"""Size of numerator and denominator beyond which a value is not built."""
MAX_FACTORIAL = 2_000
"""Largest argument of a factorial or binomial that is worked out."""
PRIMES = (2305843009213693921, 2305843009213693693, 2305843009213693669)
"""Below 2**61, and 1 modulo 4, so that -1 has a square root: the imaginary unit."""


class Beyond(Exception):
    """This arithmetic cannot decide; the message says what it lacks."""


class TooLarge(Exception):
    """A power or factorial that no arithmetic here works out."""


def rational(node: Expr) -> Fraction:
    """Exact value. Raises ``Beyond`` for anything that is no rational number, ``TooLarge`` for a monster."""
    if isinstance(node, Num):
        return node.value
    if isinstance(node, Sym | Unit):
        raise Beyond("a symbol")
    if node.name == "pow":
        return _power(rational(node.args[0]), rational(node.args[1]))
    if node.name not in ("add", "mul", "div", "neg", "mixed", "fact", "binom", "abs", "floor", "ceil"):
        raise Beyond(node.name)
    values = [rational(arg) for arg in node.args]
    if node.name in ("fact", "binom"):
        return Fraction(_count(node.name, values))
    result = values[0]
    if node.name == "neg":
        return -result
    if node.name == "abs":
        return abs(result)
    if node.name in ("floor", "ceil"):
        return Fraction(result.__floor__() if node.name == "floor" else result.__ceil__())
    for value in values[1:]:
        if node.name in ("add", "mixed"):
            result += value
        elif node.name == "mul":
            result *= value
        elif value:
            result /= value
        else:
            raise Beyond("division by zero")
        _check(result)
    return result


def _check(value: Fraction) -> None:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise TooLarge(f"a number of more than {MAX_BITS} bits")


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        raise Beyond("a root")
    if not base and exponent <= 0:
        raise Beyond("division by zero")
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if abs(base) != 1 and base and bits * abs(exponent.numerator) > MAX_BITS:
        raise TooLarge("a power that is too large to work out")
    return base ** (exponent.numerator if abs(base) != 1 else exponent.numerator % 2)


def _count(name: str, values: list[Fraction]) -> int:
    """A factorial or binomial of small whole numbers."""
    if any(value.denominator != 1 or value < 0 for value in values):
        raise Beyond(f"{name} of something that is no natural number")
    if values[0] > MAX_FACTORIAL:
        raise TooLarge(f"a factorial or binomial beyond {MAX_FACTORIAL}")
    return factorial(int(values[0])) if name == "fact" else comb(int(values[0]), int(values[1]))


class _Point:
    """Values of all symbols modulo one prime."""

    def __init__(self, prime: int, random: Random) -> None:
        self.prime = prime
        self.random = random
        self.values = {"i": _root_of_minus_one(prime)}

    def value(self, node: Expr) -> int:
        """The node's value modulo the prime. Raises ``Beyond``, ``TooLarge``."""
        p = self.prime
        if isinstance(node, Num):
            return node.value.numerator * pow(node.value.denominator, -1, p) % p
        if isinstance(node, Sym):
            if node.name == "infty":
                raise Beyond("infinity")
            if node.name not in self.values:
                self.values[node.name] = self.random.randrange(2, p - 1)
            return self.values[node.name]
        if isinstance(node, Unit):
            raise Beyond("a unit inside an expression")
        if node.name == "pow":
            return self.power(*node.args)
        if node.name in ("fact", "binom"):
            return _count(node.name, [rational(arg) for arg in node.args]) % p
        if node.name not in ("add", "mul", "div", "neg", "mixed"):
            raise Beyond(node.name)
        result = self.value(node.args[0])
        for arg in node.args[1:]:
            value = self.value(arg)
            if node.name == "div":
                if not value:
                    raise Beyond("division by zero")
                result = result * pow(value, -1, p) % p
            else:
                result = result * value % p if node.name == "mul" else (result + value) % p
        return -result % p if node.name == "neg" else result

    def power(self, base: Expr, exponent: Expr) -> int:
        """A whole power."""
        times = rational(exponent)
        if times.denominator != 1:
            raise Beyond("a root")
        value = self.value(base)
        if not value:
            if times <= 0:
                raise Beyond("division by zero")
            return 0
        return pow(value, times.numerator % (self.prime - 1), self.prime)  # Fermat: exponents may be huge


def _root_of_minus_one(prime: int) -> int:
    root = next(
        root for base in range(2, 100) if (root := pow(base, (prime - 1) // 4, prime)) ** 2 % prime == prime - 1
    )
    return root


def identical(left: Expr, right: Expr) -> bool:
    """Whether two rational functions are the same. Raises ``Beyond`` for other functions, ``TooLarge``."""
    try:
        return rational(left) == rational(right)
    except (Beyond, TooLarge):
        pass
    random = Random(f"{left}/{right}")  # repeatable, and nothing that a response can aim at
    for prime in PRIMES:
        point = _Point(prime, random)
        if point.value(left) != point.value(right):
            return False
    return True
