"""What relations, ratios and inequalities stand for: a named value, a quotient, an interval."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from rewards.math.tree import (
    CONSTANTS,
    Clock,
    Expr,
    Listing,
    Node,
    Num,
    Op,
    Relation,
    Seq,
    Sym,
    Text,
    Union,
    Unit,
    symbols,
)

FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "=", "!=": "!=", ":": ":", "~": "~"}
"""Each relation sign as it reads from the other side."""
EXPRESSION = (Num, Sym, Op, Unit)
"""The nodes that are values."""


def named_value(node: Node) -> tuple[Node, Node] | None:
    r"""Name and value of ``x = 5``, ``f(x) = 2x``, ``\text{Area} = 3``, ``5 = x``; ``None`` for other nodes."""
    if not isinstance(node, Relation) or node.signs not in (("=",), ("~",)):
        return None
    left, right = node.sides
    if _is_name(left):
        return left, right
    return (right, left) if _is_name(right) else None


def named_reference(node: Node) -> tuple[Node, Node] | None:
    """The same for a reference, where ``a + b = 0`` and ``AB = CD`` are equations in their own right."""
    named = named_value(node)
    if named is None:
        return None
    name, value = named
    if isinstance(name, Op) and name.name == "add":
        return None
    if isinstance(name, Op) and name.name == "mul" and not _variable(name) and not is_constant(value):
        return None
    return named


def _is_name(node: Node) -> bool:
    """Letters and brackets only: nothing that would have to be solved for."""
    if isinstance(node, Seq):
        return all(_is_name(item) for item in node.items)
    if isinstance(node, Text):
        return not any(sign.isdigit() for sign in node.words)
    if isinstance(node, Op) and node.name == "add":  # m + n = 116
        return all(isinstance(arg, Sym) and _is_name(arg) for arg in node.args)
    if isinstance(node, Op):
        return node.name in ("mul", "div", "abs") and all(_is_name(arg) for arg in node.args)
    return isinstance(node, Sym) and node.name not in CONSTANTS


def is_constant(node: Node) -> bool:
    """A value without variables."""
    return isinstance(node, EXPRESSION) and not symbols(node)


def unnamed(items: Sequence[Node]) -> tuple[Node, ...]:
    """Values of a list in which the first, or every one, has a name."""
    names = [named_value(item) for item in items]
    if names and names[0] and all(name is None or name[0] == names[0][0] for name in names):
        return tuple(name[1] if name else item for name, item in zip(names, items, strict=True))
    return tuple(items)


def chained_alike(gold: Node, found: Relation) -> bool:
    """Whether the reference is a chain of as many relations."""
    return isinstance(gold, Relation) and len(gold.signs) == len(found.signs)


def ratio_of(node: Node) -> Expr | None:
    """The quotient that ``a : b`` stands for, if it has one."""
    if not isinstance(node, Relation) or node.signs != (":",):
        return None
    upper, lower = node.sides
    if not isinstance(upper, EXPRESSION) or not isinstance(lower, EXPRESSION) or lower == Num(Fraction(0)):
        return None
    return Op("div", (upper, lower))


def either_clock(gold: Node, found: Node) -> tuple[Node, Node]:
    """``3:15`` beside something that is no time is a ratio."""

    def ratio(node: Node) -> Node:
        if not isinstance(node, Clock) or node.half:
            return node
        return Relation((Num(Fraction(node.hour)), Num(Fraction(node.minute))), (":",))

    return (gold, found) if isinstance(gold, Clock) and isinstance(found, Clock) else (ratio(gold), ratio(found))


def _plain_interval(node: Node) -> Node:
    """An inequality on one variable as the interval it describes; other nodes as they are."""
    if not isinstance(node, Relation) or not set(node.signs) <= {"<", ">", "<=", ">="}:
        return node
    sides, signs = node.sides, node.signs
    if signs[0] in (">", ">="):
        sides, signs = sides[::-1], tuple(FLIPPED[sign] for sign in signs[::-1])
    if not set(signs) <= {"<", "<="}:
        return node
    infinity: Expr = Sym("infty")
    if len(sides) == 2 and _variable(sides[0]) and not _variable(sides[1]):
        return Seq("(", (Op("neg", (infinity,)), sides[1]), ")" if signs[0] == "<" else "]")
    if len(sides) == 2 and _variable(sides[1]) and not _variable(sides[0]):
        return Seq("(" if signs[0] == "<" else "[", (sides[0], infinity), ")")
    if len(sides) == 3 and _variable(sides[1]):
        return Seq("(" if signs[0] == "<" else "[", (sides[0], sides[2]), ")" if signs[1] == "<" else "]")
    return node


def intervals(node: Node) -> Node:
    """Inequalities on a variable as the set they describe: one an interval, several with "or" a union."""
    if not isinstance(node, Listing) or not all(isinstance(item, Relation) for item in node.items):
        return _plain_interval(node)
    parts = tuple(_plain_interval(item) for item in node.items)
    return Union(parts) if all(isinstance(part, Seq) for part in parts) else node


def _variable(node: Node) -> bool:
    """A lone name: ``x``, ``f(x)``."""
    if isinstance(node, Op) and node.name == "mul" and len(node.args) == 2:
        return all(isinstance(arg, Sym) for arg in node.args) and _is_name(node)
    return isinstance(node, Sym) and node.name not in CONSTANTS
