r"""Values for every integer: ``x = k\pi, k \in \mathbb{Z}``. The integer's name does not count, nor where it starts."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from fractions import Fraction

from rewards.math.clean import flat
from rewards.math.collections import Collections
from rewards.math.forms import EXPRESSION, unnamed, variables
from rewards.math.tree import (
    Builder,
    Expr,
    Family,
    Listing,
    Node,
    Num,
    Op,
    Relation,
    Seq,
    SetOf,
    Sym,
    Union,
    replaced,
)
from rewards.math.verdict import Verdict, differs

_COUNTERS = frozenset("ijklmnNtp")
"""Names that stand for an integer where nobody says so."""
_SHIFTS = (0, 1, -1, 2, -2)
"""How far one numbering may begin from another."""
_INTEGERS = Sym("mathbb:Z")
_ANY = r"(?:(?:any|all|every|each|some|an|arbitrary)\s)*"
_LETTER = r"(?P<{}>[A-Za-z])"
_IN = r"\\in\s*(?:\\mathbb\s*\{?\s*Z\s*\}?|\\mathbf\s*\{?\s*Z\s*\}?|Z\b|(?:the\s)?integers)"
_DECLARED = re.compile(
    rf"\s*(?:[,;:]|\\quad)*\s*[(\[]?\s*(?:(?:where|for|with|and|when|if)\s|\\forall\s?)?\s*{_ANY}(?:"
    rf"(?:integers?\s)?{_LETTER.format('one')}\s*{_IN}"
    rf"|{_LETTER.format('two')}\s*(?:is|are)?\s*{_ANY}integers?"
    rf"|integer(?:s|\svalues?(?:\sof)?)?\s{_LETTER.format('three')})\s*[)\]]?\s*\.?"
)


def declared(text: str) -> tuple[str, str] | None:
    """Return an answer without the words at its end that declare a name to be an integer, and that name."""
    text = flat(text)
    for match in _DECLARED.finditer(text):
        if match.end() == len(text) and match.start() > 0:
            return text[: match.start()].strip(), match["one"] or match["two"] or match["three"]
    return None


def as_family(node: Node) -> Node:
    """Return a set by description whose elements are numbered by an integer, as that family; other nodes as
    they are.
    """
    if not isinstance(node, Builder) or _INTEGERS not in node.conditions:
        return node
    others = [condition for condition in node.conditions if condition != _INTEGERS]
    value: Node = node.head
    if len(others) == 1 and isinstance(others[0], Relation) and others[0].signs == ("=",):
        if others[0].sides[0] != node.head:
            return node
        value = others[0].sides[1]
    elif others:
        return node
    names = variables(value)
    return Family(value, names[0]) if len(names) == 1 else node


def families(gold: Node, found: Node, compare: Callable[[Node, Node], Verdict]) -> Verdict:
    """Return a family and another, or something that is one but for the declaration of its integer."""
    both = isinstance(gold, Family) and isinstance(found, Family)
    if not isinstance(gold, Family):
        gold = _undeclared(gold, frozenset())
    if not isinstance(found, Family):
        found = _undeclared(found, frozenset({gold.name} if isinstance(gold, Family) else ()))
    if not isinstance(gold, Family) or not isinstance(found, Family):
        return differs("values for every integer" if isinstance(found, Family) else "no values for every integer")
    turned = mapped(found.value, {found.name: Sym(gold.name)})
    name = gold.name

    def shifted(one: Node, other: Node) -> Verdict:
        first = compare(one, other)
        if first.same or not both or name not in variables(other):
            return first
        for sign in (Sym(name), Op("neg", (Sym(name),))):
            for shift in _SHIFTS:
                step: Expr = Num(Fraction(abs(shift)))
                index: Expr = Op("add", (sign, step if shift > 0 else Op("neg", (step,)))) if shift else sign
                if compare(one, mapped(other, {name: index})).same:
                    return compare(one, mapped(other, {name: index}))
        return first

    golds, founds = _items(gold.value), _items(turned)
    if len(golds) == len(founds) == 1:
        return shifted(gold.value, turned)
    return Collections(shifted, strict=True).unordered(golds, founds)


def _items(node: Node) -> tuple[Node, ...]:
    return unnamed(node.items) if isinstance(node, Listing | SetOf) else (node,)


def _undeclared(node: Node, more: frozenset[str]) -> Node:
    """Return an answer with one name that is likely to be an integer, as a family."""
    names = [name for name in variables(node) if name in _COUNTERS | more]
    return Family(node, names[0]) if len(names) == 1 else node


def mapped(node: Node, values: Mapping[str, Expr]) -> Node:
    """Return a copy with expressions in place of some symbols, through lists, tuples and relations."""
    if isinstance(node, EXPRESSION):
        return replaced(node, values)
    if isinstance(node, Relation):
        return Relation(tuple(mapped(side, values) for side in node.sides), node.signs)
    if isinstance(node, Listing):
        return Listing(tuple(mapped(item, values) for item in node.items), node.joint)
    if isinstance(node, Seq):
        return Seq(node.opening, tuple(mapped(item, values) for item in node.items), node.closing)
    if isinstance(node, SetOf):
        return SetOf(tuple(mapped(item, values) for item in node.items))
    if isinstance(node, Union):
        return Union(tuple(mapped(part, values) for part in node.parts))
    return node
