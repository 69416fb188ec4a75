"""Meanings of relations, ratios and systems: a named value, a quotient, an assignment of values to names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from rewards.math.tree import (
    CONSTANTS,
    NOBODY,
    Clock,
    Expr,
    Listing,
    Node,
    Num,
    Op,
    Ratio,
    Relation,
    Seq,
    Sym,
    Text,
    Unit,
    parts_of,
    symbols,
)

FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<="} | {
    sign: sign for sign in ("=", "!=", "~", "parallel", "perp", "cong", "sim", "equiv")
}
"""Each relation sign as it reads from the other side; signs that are not here cannot be turned."""
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
    """Do the same for a reference, where ``a + b = 0`` and ``AB = CD`` are equations in their own right."""
    named = named_value(node)
    if named is None:
        return None
    name, value = named
    if isinstance(name, Op) and name.name == "add":
        return None
    if isinstance(name, Op) and name.name == "mul" and not is_variable(name) and not is_constant(value):
        return None
    return named


def _is_name(node: Node) -> bool:
    """Letters and brackets only: nothing that would have to be solved for."""
    if isinstance(node, Seq):
        return all(_is_name(item) for item in node.items)
    if isinstance(node, Ratio):
        return all(_is_name(term) for term in node.terms)
    if isinstance(node, Text):
        return not any(sign.isdigit() for sign in node.words)
    if isinstance(node, Op) and node.name == "add":  # m + n = 116
        return all(isinstance(arg, Sym) and _is_name(arg) for arg in node.args)
    if isinstance(node, Op):
        return node.name in ("mul", "div", "abs", "norm") and all(_is_name(arg) for arg in node.args)
    return isinstance(node, Sym) and node.name not in CONSTANTS


def is_variable(node: Node) -> bool:
    """Return whether a node is a lone name: ``x``, ``f(x)``."""
    if isinstance(node, Op) and node.name == "mul" and len(node.args) == 2:
        return all(isinstance(arg, Sym) for arg in node.args) and _is_name(node)
    return node == NOBODY or (isinstance(node, Sym) and node.name not in CONSTANTS)


def is_constant(node: Node) -> bool:
    """Return whether a node is a value without variables."""
    return isinstance(node, EXPRESSION) and not symbols(node)


def function_name(node: Node) -> tuple[str, str] | None:
    """``f`` and ``x`` of a name such as ``f(x)``, ``a`` and ``n`` of ``a_n``."""
    if isinstance(node, Sym) and re.fullmatch(r"[A-Za-z]+_[A-Za-z]", node.name):
        letter, _, index = node.name.partition("_")
        return f"{letter}_", index
    if isinstance(node, Op) and is_variable(node):
        head, argument = node.args
        if isinstance(head, Sym) and isinstance(argument, Sym):
            return head.name, argument.name
    return None


def unnamed(items: Sequence[Node]) -> tuple[Node, ...]:
    """Return the values of a list without their name, where the first one, or every one, has it."""
    names = [named_value(item) for item in items]
    if names and names[0] and all(name is None or name[0] == names[0][0] for name in names):
        return tuple(name[1] if name else item for name, item in zip(names, items, strict=True))
    return tuple(items)


def system(node: Node) -> tuple[tuple[Node, Node], ...] | None:
    """Names and values of ``x = 1, y = 2`` and of ``(x, y) = (1, 2)``; ``None`` for other nodes."""
    if isinstance(node, Relation) and node.signs == ("=",):
        left, right = node.sides
        same = isinstance(left, Seq) and isinstance(right, Seq) and len(left.items) == len(right.items)
        if same and isinstance(left, Seq) and isinstance(right, Seq) and all(is_variable(name) for name in left.items):
            return tuple(zip(left.items, right.items, strict=True))
        return None
    if not isinstance(node, Listing):
        return None
    pairs = [named_value(item) for item in node.items]
    names = [pair[0] for pair in pairs if pair is not None]
    if len(names) != len(pairs) or len(set(names)) != len(names) or len(names) < 2:
        return None
    return tuple(pair for pair in pairs if pair is not None)


def chained_alike(gold: Node, found: Relation) -> bool:
    """Return whether the reference is a chain of as many relations."""
    return isinstance(gold, Relation) and len(gold.signs) == len(found.signs)


def quotient(node: Ratio) -> Expr | None:
    """Return the quotient that ``a : b`` stands for, if it has one."""
    if len(node.terms) != 2 or node.terms[1] == Num(Fraction(0)):
        return None
    return Op("div", (node.terms[0], node.terms[1]))


def either_clock(gold: Node, found: Node) -> tuple[Node, Node]:
    """``3:15`` beside something that is no time is a ratio."""
    if isinstance(gold, Clock) and isinstance(found, Clock):
        return gold, found
    return _as_ratio(gold), _as_ratio(found)


def _as_ratio(node: Node) -> Node:
    if isinstance(node, Clock) and not node.half:
        return Ratio((Num(Fraction(node.hour)), Num(Fraction(node.minute))))
    if isinstance(node, Listing):
        return Listing(tuple(_as_ratio(item) for item in node.items), node.joint)
    return node


def has_dots(items: Sequence[Node]) -> bool:
    """Return whether dots stand for some of the items, so that their order tells which."""
    return any(isinstance(item, Sym) and item.name == "dots" for item in items)


def variables(node: Node) -> list[str]:
    """Return all variables of a tree, in the order in which they are met."""
    found: dict[str, None] = {}

    def visit(part: Node) -> None:
        if isinstance(part, Sym):
            if part.name not in CONSTANTS and not part.name.startswith("mathbb:"):
                found[part.name] = None
        elif isinstance(part, Op):
            for arg in part.args:
                visit(arg)
        elif isinstance(part, Unit):
            visit(part.value)
        else:
            for child in parts_of(part):
                visit(child)

    visit(node)
    return list(found)


def canonical(node: Expr) -> tuple[object, ...]:
    """Return what two expressions share that differ in the order of terms and factors only."""
    if isinstance(node, Num):
        return ("num", node.value.numerator, node.value.denominator)
    if isinstance(node, Sym):
        return ("sym", node.name)
    if isinstance(node, Unit):
        return ("unit", node.name, canonical(node.value))
    args = [canonical(arg) for arg in node.args]
    if node.name in ("add", "mul", "max", "min", "gcd", "lcm"):
        args.sort(key=repr)
    return (node.name, *args)
