"""Equality by exact arithmetic: fractions of bounded size, and rational functions modulo large primes.

Two rational functions with integer coefficients that agree at random points modulo random 61-bit primes are the same
(Schwartz and Zippel: the chance of an error is below 2**-20 for each of three points, and the functions are bounded in
degree and size). That decides polynomials, factored or not, and huge powers, in microseconds and without ever building
a large number.
"""

from __future__ import annotations

from fractions import Fraction
from functools import cache, lru_cache
from math import comb, factorial, gcd, lcm
from random import Random, SystemRandom

from rewards.math.tree import Expr, Num, Sym, Unit

MAX_BITS = 60_000
"""Size of numerator and denominator beyond which a value is not built."""
MAX_FACTORIAL = 5_000
"""Largest argument of a factorial or binomial that is worked out."""
MAX_DEGREE = 2**40
"""Bound on degree and bits of the functions that are compared modulo primes: far below the primes."""
_ARITHMETIC = frozenset(
    ("add", "mul", "div", "neg", "mixed", "fact", "binom", "abs", "floor", "ceil", "mod", "max", "min", "gcd", "lcm")
)
_BASES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)


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
    if node.name not in _ARITHMETIC:
        raise Beyond(node.name)
    values = [rational(arg) for arg in node.args]
    if node.name in ("fact", "binom"):
        return Fraction(_count(node.name, values))
    if node.name in ("mod", "max", "min", "gcd", "lcm"):
        return _listed(node.name, values)
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


def _listed(name: str, values: list[Fraction]) -> Fraction:
    """Remainder, extremes and divisors of several numbers."""
    if name in ("max", "min"):
        return max(values) if name == "max" else min(values)
    if name == "mod":
        if len(values) != 2 or not values[1]:
            raise Beyond("a remainder without a value")
        return values[0] % values[1]
    if any(value.denominator != 1 for value in values):
        raise Beyond(f"{name} of fractions")
    whole = [value.numerator for value in values]
    return Fraction(gcd(*whole) if name == "gcd" else lcm(*whole))


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
    """Return a factorial or binomial of small whole numbers."""
    if any(value.denominator != 1 or value < 0 for value in values):
        raise Beyond(f"{name} of something that is no natural number")
    if values[0] > MAX_FACTORIAL:
        raise TooLarge(f"a factorial or binomial beyond {MAX_FACTORIAL}")
    return _factorial(int(values[0])) if name == "fact" else comb(int(values[0]), int(values[1]))


@lru_cache(maxsize=64)
def _factorial(number: int) -> int:
    return factorial(number)


@cache
def primes() -> tuple[int, int, int]:
    """Three primes below 2**61, drawn once a process, so that nobody can write an answer that is zero modulo them.

    They are 1 modulo 4: then -1 has a square root, the imaginary unit.
    """
    random = SystemRandom()
    found: list[int] = []
    while len(found) < 3:
        number = random.randrange(2**58, 2**59) * 4 + 1
        if number not in found and _is_prime(number):
            found.append(number)
    return found[0], found[1], found[2]


def _is_prime(number: int) -> bool:
    """Miller and Rabin's test, exact below 2**64 with these bases."""
    if any(number % base == 0 for base in _BASES):
        return False
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in _BASES:
        power = pow(base, odd, number)
        if power in (1, number - 1):
            continue
        for _ in range(twos - 1):
            power = power * power % number
            if power == number - 1:
                break
        else:
            return False
    return True


def _degree(node: Expr) -> int:
    """Return a bound on the degree of a rational function and on the bits of its numbers. Raises ``TooLarge``."""
    if isinstance(node, Num):
        return node.value.numerator.bit_length() + node.value.denominator.bit_length()
    if isinstance(node, Sym | Unit):
        return 1
    degree = sum(_degree(arg) for arg in node.args) + 1
    if node.name == "pow":
        exponent = rational(node.args[1])
        degree = _degree(node.args[0]) * (abs(exponent.numerator) + 1)
    if degree > MAX_DEGREE:
        raise TooLarge("a power that is too large to work out")
    return degree


class _Point:
    """Values of all symbols modulo one prime."""

    def __init__(self, prime: int, random: Random) -> None:
        self.prime = prime
        self.random = random
        self.values = {"i": _root_of_minus_one(prime)}

    def value(self, node: Expr) -> int:
        """Return the node's value modulo the prime. Raises ``Beyond``, ``TooLarge``."""
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
        """Evaluate a whole power."""
        times = rational(exponent)
        if times.denominator != 1:
            raise Beyond("a root")
        value = self.value(base)
        if not value:
            if times <= 0:
                raise Beyond("division by zero")
            return 0
        return pow(value, times.numerator, self.prime)


def _root_of_minus_one(prime: int) -> int:
    root = next(
        root for base in range(2, 100) if (root := pow(base, (prime - 1) // 4, prime)) ** 2 % prime == prime - 1
    )
    return root


def identical(left: Expr, right: Expr) -> bool:
    """Return whether two rational functions are the same. Raises ``Beyond`` for other functions, ``TooLarge``."""
    try:
        return rational(left) == rational(right)
    except (Beyond, TooLarge):
        pass
    return all(one == other for one, other in residues(left, right))


def residues(*nodes: Expr) -> list[tuple[int, ...]]:
    """Return the values of rational functions at random points, one point for each prime. Raises ``Beyond``,
    ``TooLarge``.
    """
    for node in nodes:
        _degree(node)
    found = []
    for prime in primes():
        point = _Point(prime, Random(prime))
        found.append(tuple(point.value(node) for node in nodes))
    return found


def proportion(gold: Expr, found: Expr) -> int:
    """Return the sign of the constant that ``found / gold`` is; 0 when it is none. Raises ``Beyond``, ``TooLarge``."""
    for node in (gold, found):
        _degree(node)
    sign = 0
    for prime in primes():
        one, other = _Point(prime, Random(prime)), _Point(prime, Random(prime + 1))
        here, there = (one.value(gold), one.value(found)), (other.value(gold), other.value(found))
        if 0 in here or 0 in there or (here[0] * there[1] - here[1] * there[0]) % prime:
            return 0
        if not sign:
            sign = _sign(here[1] * pow(here[0], -1, prime) % prime, prime)
    return sign


def _sign(residue: int, prime: int) -> int:
    """Return the sign of the fraction of small numbers that a residue stands for. Raises ``Beyond`` when it is
    of none.
    """
    low, high, upper, lower = prime, residue, 0, 1
    while high * high * 2 > prime:
        quotient = low // high
        low, high, upper, lower = high, low - quotient * high, lower, upper - quotient * lower
    if not high or 2 * lower * lower >= prime:
        raise Beyond("a factor of many digits")
    return 1 if lower > 0 else -1


def is_zero(node: Expr) -> bool:
    """Return whether a rational function vanishes. Raises ``Beyond``, ``TooLarge``."""
    return identical(node, Num(Fraction(0)))
