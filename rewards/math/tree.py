"""The forms that an answer can take, as immutable trees. Everything here is data; nothing evaluates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
"""What has a value."""


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
    second: int = 0


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
    """``sides[0] signs[0] sides[1] ...`` with signs such as ``= < > <= >= != ~ parallel``."""

    sides: tuple[Node, ...]
    signs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ratio:
    """``2 : 3`` or ``1 : 2 : 3``; the order of its terms counts, a common factor does not."""

    terms: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Congruence:
    """``left`` is ``right`` up to multiples of ``modulus``."""

    left: Node
    right: Expr
    modulus: Expr


@dataclass(frozen=True, slots=True)
class Joined:
    """Sets or statements with a sign of logic between them: ``lor land cap setminus implies iff``."""

    sign: str
    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Piecewise:
    """Values, each with its condition; the order of the rows does not count."""

    rows: tuple[tuple[Node, ...], ...]


@dataclass(frozen=True, slots=True)
class Builder:
    r"""A set by description, ``\{head | conditions\}``; the names of its variables do not count."""

    head: Expr
    conditions: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Family:
    r"""What ``value`` is for every integer that ``name`` can be: ``x = k\pi, k \in \mathbb{Z}``."""

    value: Node
    name: str


@dataclass(frozen=True, slots=True)
class Listing:
    """Several answers without brackets; their order does not count, unless dots stand for some of them."""

    items: tuple[Node, ...]
    joint: str = ","
    """What stands between them: ``,``, ``and`` or ``or``; it counts between inequalities only."""


Node = (
    Expr | Text | Based | Clock | Seq | SetOf | Union | Matrix | Relation | Ratio | Congruence | Joined | Piecewise
    | Builder | Family | Listing
)  # fmt: skip

DOTS = Sym("dots")
"""``...`` in place of what the reader is to continue."""
NOBODY = Text("")
"""The side that an inequality such as ``<= 5`` leaves out."""

CONSTANTS = frozenset({"pi", "e", "i", "infty", "ten"})
"""Symbols with a fixed meaning; ``ten`` is the base of a logarithm that names none."""


def walk(node: Expr) -> Iterator[Expr]:
    """Yield the node and everything below it."""
    yield node
    if isinstance(node, Op):
        for arg in node.args:
            yield from walk(arg)
    elif isinstance(node, Unit):
        yield from walk(node.value)


def symbols(node: Expr) -> frozenset[str]:
    """Return the names of the variables in an expression, constants left out."""
    return frozenset(part.name for part in walk(node) if isinstance(part, Sym)) - CONSTANTS


def negated(node: Expr) -> Expr:
    """Return the expression with its sign changed."""
    return node.args[0] if isinstance(node, Op) and node.name == "neg" else Op("neg", (node,))


def difference(left: Expr, right: Expr) -> Expr:
    """``left - right``."""
    return Op("add", (left, negated(right)))


def replaced(node: Expr, values: Mapping[str, Expr]) -> Expr:
    """Return a copy with expressions in place of some symbols."""
    if isinstance(node, Sym):
        return values.get(node.name, node)
    if isinstance(node, Op):
        return Op(node.name, tuple(replaced(arg, values) for arg in node.args))
    if isinstance(node, Unit):
        return Unit(replaced(node.value, values), node.name)
    return node


def expressions(node: Node) -> Iterator[Expr]:
    """Yield all expressions in a tree, in the order in which they are written."""
    if isinstance(node, Num | Sym | Op | Unit):
        yield node
        return
    for part in parts_of(node):
        yield from expressions(part)


def parts_of(node: Node) -> tuple[Node, ...]:
    """Return the nodes directly below one that is no expression."""
    if isinstance(node, Seq | SetOf | Listing):
        return node.items
    if isinstance(node, Union | Joined):
        return node.parts
    if isinstance(node, Relation):
        return node.sides
    if isinstance(node, Ratio):
        return node.terms
    if isinstance(node, Matrix | Piecewise):
        return sum(node.rows, ())
    if isinstance(node, Congruence):
        return (node.left, node.right, node.modulus)
    if isinstance(node, Builder):
        return (node.head, *node.conditions)
    if isinstance(node, Family):
        return (node.value,)
    return ()


def expression(node: Node) -> Expr:
    """``node`` when it can be an operand."""
    if isinstance(node, Num | Sym | Op | Unit):
        return node
    raise Unreadable(f"a {type(node).__name__.lower()} inside an expression")


def times(left: Expr, right: Expr) -> Expr:
    """Return the product, flat on the left."""
    factors = left.args if isinstance(left, Op) and left.name == "mul" else (left,)
    return Op("mul", (*factors, right))


def is_proper(nominator: Expr, denominator: Expr) -> bool:
    """Return whether a fraction of whole numbers lies between 0 and 1, as the fraction of a mixed number does."""
    return (
        isinstance(nominator, Num)
        and isinstance(denominator, Num)
        and nominator.value.denominator == denominator.value.denominator == 1
        and 0 < nominator.value < denominator.value
    )
