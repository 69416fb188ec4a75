"""Equations, inequalities, congruences and ratios."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from rewards.math.engine import Engine
from rewards.math.finished import unfinished
from rewards.math.forms import (
    EXPRESSION,
    FLIPPED,
    chained_alike,
    function_name,
    is_constant,
    named_reference,
    named_value,
    quotient,
)
from rewards.math.tree import (
    CONSTANTS,
    Congruence,
    Expr,
    Node,
    Num,
    Op,
    Ratio,
    Relation,
    Sym,
    Text,
    difference,
    negated,
    replaced,
    symbols,
    walk,
)
from rewards.math.verdict import SAME, Verdict, differs

Compare = Callable[[Node, Node], Verdict]
ZERO = Num(Fraction(0))
_BOUNDS = frozenset({"<", ">", "<=", ">="})


@dataclass(frozen=True)
class Relations:
    """Compares relations, with ``compare`` for what stands on their sides."""

    engine: Engine
    compare: Compare

    def relations(self, gold: Node, found: Node) -> Verdict:
        """Equations, inequalities and named values (``x = 5``), or one of them and a value."""
        if isinstance(found, Relation) and len(found.signs) > 1 and not chained_alike(gold, found):
            return differs("a chain of equations" if "=" in found.signs else "a chain of relations")
        named_gold, named_found = named_reference(gold), named_value(found)
        if named_gold and not named_found and isinstance(found, Relation) and is_constant(named_gold[1]):
            return differs("not solved")
        if named_gold and named_found:
            return self.both_named(gold, found, named_gold, named_found)
        if named_found and not isinstance(gold, Relation):
            return self.compare(gold, named_found[1])
        if named_gold and not isinstance(found, Relation):
            return self.compare(named_gold[1], found)
        if not isinstance(gold, Relation) or not isinstance(found, Relation):
            return differs("a relation where a value is asked" if isinstance(found, Relation) else "no relation")
        return self.equations(gold, found)

    def both_named(
        self, gold: Node, found: Node, named_gold: tuple[Node, Node], named_found: tuple[Node, Node]
    ) -> Verdict:
        """Compare two named values: of one name, or one function of a variable that may be called otherwise."""
        one, other = function_name(named_gold[0]), function_name(named_found[0])
        value = named_found[1]
        if one and other and one[0] == other[0] and one[1] != other[1] and isinstance(value, EXPRESSION):
            if one[1] in symbols(value):
                return differs("another variable")
            return self.compare(named_gold[1], replaced(value, {other[1]: Sym(one[1])}))
        if named_gold[0] != named_found[0] and not isinstance(named_gold[0], Text):
            return self.equations(gold, found)
        return self.compare(named_gold[1], value)

    def equations(self, gold: Node, found: Node) -> Verdict:
        """Compare two relations: side by side, turned around, one a multiple of the other, or solved for another
        name.
        """
        assert isinstance(gold, Relation)
        assert isinstance(found, Relation)
        candidates = [found]
        if set(found.signs) <= FLIPPED.keys():
            candidates.append(Relation(found.sides[::-1], tuple(FLIPPED[sign] for sign in found.signs[::-1])))
        if set(found.signs) <= _BOUNDS and all(isinstance(side, EXPRESSION) for side in found.sides):
            sides = tuple(negated(side) for side in found.sides)  # type: ignore[arg-type]
            candidates.append(Relation(sides, tuple(FLIPPED[sign] for sign in found.signs)))
        for candidate in candidates:
            if candidate.signs == gold.signs and self.side_by_side(gold, candidate):
                return SAME
        if gold.signs == found.signs == ("=",) and (self.multiples(gold, found) or self.solved(gold, found)):
            return SAME
        if (
            len(gold.signs) == len(found.signs) == 1
            and {*gold.signs, *found.signs} <= _BOUNDS
            and self.bounds(gold, found)
        ):
            return SAME
        return differs("another relation")

    def side_by_side(self, gold: Relation, found: Relation) -> bool:
        """Return whether every side is the reference's."""
        return all(self.compare(one, other).same for one, other in zip(gold.sides, found.sides, strict=True))

    def differences(self, gold: Relation, found: Relation) -> tuple[Expr, Expr] | None:
        """``left - right`` of both, when they are functions of the same variables."""
        if not all(isinstance(side, EXPRESSION) for side in (*gold.sides, *found.sides)):
            return None
        one = difference(*gold.sides)  # type: ignore[arg-type]
        other = difference(*found.sides)  # type: ignore[arg-type]
        if symbols(one) != symbols(other) or not symbols(one) or unfinished(other, one):
            return None
        return one, other

    def multiples(self, gold: Relation, found: Relation) -> bool:
        """Return whether ``left - right`` of one equation is a constant multiple of the other's."""
        pair = self.differences(gold, found)
        return pair is not None and self.engine.proportion(*pair) != 0

    def bounds(self, gold: Relation, found: Relation) -> bool:
        """Return whether inequalities agree: by a positive multiple, or a negative one of the inequality turned
        around.
        """
        pair = self.differences(gold, found)
        if pair is None or len(symbols(pair[0])) < 2:
            return False
        sign = self.engine.proportion(*pair)
        return sign != 0 and gold.signs[0] == (found.signs[0] if sign > 0 else FLIPPED[found.signs[0]])

    def solved(self, gold: Relation, found: Relation) -> bool:
        """Return whether one equation is the other, solved for a name in which it is linear: ``E = mc^2``, ``m =
        E/c^2``.
        """
        pair = self.differences(gold, found)
        if pair is None:
            return False
        answer, reference = _solution(found), _solution(gold)
        if answer and self.linear(pair[0], answer[0], None):
            return self.engine.vanishes(replaced(pair[0], {answer[0]: answer[1]}), _all_of(pair[0], answer[0]))
        if reference and self.linear(pair[1], reference[0], reference[1]):
            return self.engine.vanishes(replaced(pair[1], {reference[0]: reference[1]}), reference[1])
        return False

    def linear(self, node: Expr, name: str, value: Expr | None) -> bool:
        """Return whether an expression is linear in a name.

        With ``value``, what the name is by the reference, also whether the factor of the name is nothing but the
        denominator of the value: any other factor could be 0 where the value is defined, and adds solutions.
        """
        here, step = Sym(name), Sym("step'")
        below = replaced(node, {name: difference(here, step)})
        above = replaced(node, {name: Op("add", (here, step))})
        bend = Op("add", (below, above, negated(Op("mul", (Num(Fraction(2)), node)))))
        domain = _all_of(Op("add", (node, step)), "")
        if not self.engine.vanishes(bend, domain):
            return False
        slope = difference(replaced(node, {name: Op("add", (here, Num(Fraction(1))))}), node)
        if self.engine.vanishes(slope, domain):
            return False
        if value is None:
            return True
        return not _divides(node) and self.engine.proportion(_denominator(value), slope) != 0

    def congruences(self, gold: Congruence, found: Congruence) -> Verdict:
        """Compare two congruences: the same left side and modulus, right sides that differ by a multiple of it."""
        if not self.compare(gold.left, found.left).same:
            return differs("another name")
        if not self.engine.equal(gold.modulus, found.modulus, None):
            return differs("another modulus")
        if self.engine.equal(gold.right, found.right, None):
            return SAME
        if not all(is_constant(part) for part in (gold.right, found.right, gold.modulus)):
            return differs("another remainder")
        remainders = [Op("mod", (part, gold.modulus)) for part in (gold.right, found.right)]
        return SAME if self.engine.equal(remainders[0], remainders[1], None) else differs("another remainder")

    def ratios(self, gold: Node, found: Node) -> Verdict:
        """Compare two ratios, or a ratio of two and its quotient; the order of the terms counts."""
        if isinstance(gold, Ratio) and isinstance(found, Ratio):
            if len(gold.terms) != len(found.terms):
                return differs("a ratio of another number of terms")
            pairs = list(zip(gold.terms, found.terms, strict=True))
            first, other = pairs[0]
            for one, two in pairs[1:]:
                left, right = Op("mul", (first, two)), Op("mul", (one, other))
                if not self.engine.equal(left, right, None):
                    return differs("another ratio")
            return SAME if self.nonzero(gold, found) else differs("another ratio")
        value = quotient(gold if isinstance(gold, Ratio) else found)  # type: ignore[arg-type]
        if value is None:
            return differs(
                "a ratio where a value is asked" if isinstance(found, Ratio) else "a value where a ratio is asked"
            )
        return self.compare(value, found) if isinstance(gold, Ratio) else self.compare(gold, value)

    def nonzero(self, gold: Ratio, found: Ratio) -> bool:
        """Return whether terms are 0 in the same places only."""
        return all(
            (one == ZERO) == self.engine.equal(ZERO, two, None)
            for one, two in zip(gold.terms, found.terms, strict=True)
        )


def _solution(relation: Relation) -> tuple[str, Expr] | None:
    """Name and value of an equation that is solved for a variable."""
    for name, value in (relation.sides, relation.sides[::-1]):
        if not isinstance(name, Sym) or name.name in CONSTANTS or not isinstance(value, EXPRESSION):
            continue
        if name.name not in symbols(value):
            return name.name, value
    return None


def _all_of(node: Expr, without: str) -> Expr:
    """Return an expression that has a value everywhere, of the variables of another."""
    names = sorted(symbols(node) - {without})
    return Op("add", (ZERO, *(Sym(name) for name in names)))


def _denominator(node: Expr) -> Expr:
    """Return the product of what a product or quotient is divided by."""
    if isinstance(node, Op) and node.name == "neg":
        return _denominator(node.args[0])
    if isinstance(node, Op) and node.name == "div":
        return Op("mul", (node.args[1], _denominator(node.args[0])))
    if isinstance(node, Op) and node.name == "mul":
        return Op("mul", tuple(_denominator(arg) for arg in node.args))
    return Num(Fraction(1))


def _divides(node: Expr) -> bool:
    """Return whether an expression divides by a variable."""
    for part in walk(node):
        if isinstance(part, Op) and part.name == "div" and symbols(part.args[1]):
            return True
        if isinstance(part, Op) and part.name == "pow" and symbols(part.args[0]) and not isinstance(part.args[1], Num):
            return True
    return False
