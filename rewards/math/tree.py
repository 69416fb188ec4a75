"""The forms that an answer can take, as immutable trees. Everything here is data; nothing evaluates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction


class Unreadable(Exception):
    """A text is no answer that the grammar knows; the message says why."""


@dataclass(frozen=True, slots=True)
class Num:
    """A written number: an integer, a decimal (``0.5``, ``1.2e3``) or a repeating decimal. Never negative."""

    value: Fraction


@dataclass(frozen=True, slots=True)
class Sym:
    """A variable or constant by its LaTeX name, with subscript and accents: ``x``, ``v_0``, ``pi``."""

    name: str


@dataclass(frozen=True, slots=True)
class Op:
    """An operation by name: ``add mul div neg pow root mixed fact binom abs floor ceil log sin sum ...``."""

    name: str
    args: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Unit:
    """A value with a unit: ``%``, ``deg``, ``$``, or words such as ``cm^2``."""

    value: Expr
    name: str


Expr = Num | Sym | Op | Unit


@dataclass(frozen=True, slots=True)
class Text:
    """Words."""

    words: str


@dataclass(frozen=True, slots=True)
class Based:
    """Digits in a number base, as written: ``204_5``."""

    digits: str
    base: int


@dataclass(frozen=True, slots=True)
class Clock:
    """A time of day; ``half`` is ``am``, ``pm`` or empty."""

    hour: int
    minute: int
    half: str


@dataclass(frozen=True, slots=True)
class Seq:
    """Ordered items in brackets: a tuple, point, vector or interval."""

    opening: str
    items: tuple[Node, ...]
    closing: str


@dataclass(frozen=True, slots=True)
class SetOf:
    """A finite set in braces; order and repetition do not count."""

    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Union:
    """A union of intervals and sets."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Matrix:
    """Rows of entries."""

    rows: tuple[tuple[Node, ...], ...]


@dataclass(frozen=True, slots=True)
class Relation:
    """``sides[0] signs[0] sides[1] ...`` with signs among ``= < > <= >= != :``."""

    sides: tuple[Node, ...]
    signs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Listing:
    """Several answers without brackets; their order does not count."""

    items: tuple[Node, ...]


Node = Expr | Text | Based | Clock | Seq | SetOf | Union | Matrix | Relation | Listing

CONSTANTS = frozenset({"pi", "e", "i", "infty", "ten"})
"""Symbols with a fixed meaning; ``ten`` is the base of a logarithm that names none."""


def walk(node: Expr) -> Iterator[Expr]:
    """The node and everything below it."""
    yield node
    if isinstance(node, Op):
        for arg in node.args:
            yield from walk(arg)
    elif isinstance(node, Unit):
        yield from walk(node.value)


def symbols(node: Expr) -> frozenset[str]:
    """Names of the variables in an expression, constants left out."""
    return frozenset(part.name for part in walk(node) if isinstance(part, Sym)) - CONSTANTS


def negated(node: Expr) -> Expr:
    """The expression with its sign changed."""
    return node.args[0] if isinstance(node, Op) and node.name == "neg" else Op("neg", (node,))


def difference(left: Expr, right: Expr) -> Expr:
    """``left - right``."""
    return Op("add", (left, negated(right)))


def renamed(node: Expr, suffix: str) -> Expr:
    """A copy with every variable renamed."""
    if isinstance(node, Sym):
        return node if node.name in CONSTANTS else Sym(node.name + suffix)
    if isinstance(node, Op):
        return Op(node.name, tuple(renamed(arg, suffix) for arg in node.args))
    if isinstance(node, Unit):
        return Unit(renamed(node.value, suffix), node.name)
    return node


def expression(node: Node) -> Expr:
    """``node`` when it can be an operand."""
    if isinstance(node, Num | Sym | Op | Unit):
        return node
    raise Unreadable(f"a {type(node).__name__.lower()} inside an expression")


def times(left: Expr, right: Expr) -> Expr:
    """The product, flat on the left."""
    factors = left.args if isinstance(left, Op) and left.name == "mul" else (left,)
    return Op("mul", (*factors, right))


def is_proper(nominator: Expr, denominator: Expr) -> bool:
    """Whether a fraction of whole numbers lies between 0 and 1, as the fraction of a mixed number does."""
    return (
        isinstance(nominator, Num)
        and isinstance(denominator, Num)
        and nominator.value.denominator == denominator.value.denominator == 1
        and 0 < nominator.value < denominator.value
    )
