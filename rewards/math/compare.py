"""Whether two answers are the same, form by form. What is the same *value* is asked of a ``Decide``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from rewards.math.finished import unfinished
from rewards.math.forms import (
    EXPRESSION,
    FLIPPED,
    chained_alike,
    either_clock,
    intervals,
    is_constant,
    named_reference,
    named_value,
    ratio_of,
    unnamed,
)
from rewards.math.tree import (
    CONSTANTS,
    Based,
    Clock,
    Expr,
    Listing,
    Matrix,
    Node,
    Num,
    Op,
    Relation,
    Seq,
    SetOf,
    Sym,
    Text,
    Union,
    Unit,
    difference,
    renamed,
    symbols,
    walk,
)
from rewards.math.units import conversion

Decide = Callable[[Expr, Expr, Fraction | None], bool]
"""Whether a reference and a found expression have the same value, up to a tolerance if one is given."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the answer is the reference's; when not, why."""

    same: bool
    reason: str = ""


SAME = Verdict(True)


def differs(reason: str) -> Verdict:
    """A verdict with its reason."""
    return Verdict(False, reason)


class Comparer:
    """Compares answers under one way to decide values and one tolerance."""

    def __init__(self, decide: Decide, tolerance: Fraction | None = None) -> None:
        self.decide = decide
        self.tolerance = tolerance

    def any_reading(self, golds: Sequence[Node], founds: Sequence[Node]) -> Verdict:
        """Whether some reading of one is some reading of the other; the reason is that of the likeliest readings."""
        verdicts = [self.compare(gold, found) for gold in golds for found in founds]
        return next((verdict for verdict in verdicts if verdict.same), verdicts[0])

    def compare(self, gold: Node, found: Node) -> Verdict:
        """The rules of ``rewards.math.grade`` on two trees."""
        if gold == found:
            return SAME
        gold, found = either_clock(intervals(gold), intervals(found))
        if isinstance(gold, Listing | SetOf):
            return self.collections(gold, found)
        if isinstance(found, Listing):
            return differs("several answers where one is asked")
        if isinstance(found, SetOf):
            return differs("a set where none is asked")
        if isinstance(gold, Text) or isinstance(found, Text):
            return self.texts(gold, found)
        if isinstance(gold, Relation) or isinstance(found, Relation):
            return self.relations(gold, found)
        if isinstance(gold, Based) or isinstance(found, Based):
            return _bases(gold, found)
        if isinstance(gold, EXPRESSION) and isinstance(found, EXPRESSION):
            return self.values(gold, found)
        if type(gold) is not type(found):
            return differs(f"{_kind(found)} where {_kind(gold)} is asked")
        return self.alike(gold, found)

    def alike(self, gold: Node, found: Node) -> Verdict:
        """Two nodes of one form."""
        if isinstance(gold, Seq) and isinstance(found, Seq):
            if (gold.opening, gold.closing) != (found.opening, found.closing):
                return differs("other brackets")
            return self.ordered(gold.items, found.items)
        if isinstance(gold, Matrix) and isinstance(found, Matrix):
            if [len(row) for row in gold.rows] != [len(row) for row in found.rows]:
                return differs("a matrix of another shape")
            return self.ordered(sum(gold.rows, ()), sum(found.rows, ()))
        if isinstance(gold, Union) and isinstance(found, Union):
            return self.unordered(gold.parts, found.parts)
        if isinstance(gold, Clock) and isinstance(found, Clock):
            same = (gold.hour, gold.minute) == (found.hour, found.minute) and gold.half in ("", found.half)
            return SAME if same else differs("another time")
        return differs("another answer")

    # Collections.

    def collections(self, gold: Listing | SetOf, found: Node) -> Verdict:
        """Several answers, or a set: in any order."""
        expected = gold.items
        if isinstance(found, Listing | SetOf):
            items = found.items
        elif len(expected) == 1 and isinstance(gold, SetOf):
            items = (found,)
        else:
            return differs("one answer where several are asked")
        if isinstance(gold, SetOf) and isinstance(found, SetOf):
            expected, items = self.distinct(expected), self.distinct(items)
        # "x = 1, 2": the name counts for all that follow it.
        return self.unordered(unnamed(expected), unnamed(items))

    def distinct(self, items: Sequence[Node]) -> tuple[Node, ...]:
        """Items of a set without repetitions."""
        kept: list[Node] = []
        for item in items:
            if not any(self.compare(other, item).same for other in kept):
                kept.append(item)
        return tuple(kept)

    def ordered(self, golds: Sequence[Node], founds: Sequence[Node]) -> Verdict:
        """Item by item."""
        if len(golds) != len(founds):
            return differs(f"{len(founds)} items where {len(golds)} are asked")
        for gold, found in zip(golds, founds, strict=True):
            verdict = self.compare(gold, found)
            if not verdict.same:
                return verdict
        return SAME

    def unordered(self, golds: Sequence[Node], founds: Sequence[Node]) -> Verdict:
        """Every item once, in any order. What equals the same item is equal, so pairing needs no second thought."""
        if len(golds) != len(founds):
            return differs(f"{len(founds)} answers where {len(golds)} are asked")
        rest = list(founds)
        for gold in golds:
            reason = "another answer among several"
            for index, found in enumerate(rest):
                verdict = self.compare(gold, found)
                if verdict.same:
                    del rest[index]
                    break
                if verdict.reason.startswith("not worked out"):
                    reason = verdict.reason
            else:
                return differs(reason)
        return SAME

    # Words, bases, relations.

    def texts(self, gold: Node, found: Node) -> Verdict:
        """Words: spaces, brackets around a choice and the case of longer words do not count."""
        expected, actual = _letters(gold), _letters(found)
        if not expected or not actual:
            return differs("words where a value is asked" if isinstance(found, Text) else "the reference is words")
        if len(expected) > 1:
            expected, actual = expected.casefold(), actual.casefold()
        return SAME if expected == actual else differs("another text")

    def relations(self, gold: Node, found: Node) -> Verdict:
        """Equations, inequalities and named values (``x = 5``)."""
        if isinstance(found, Relation) and len(found.signs) > 1 and not chained_alike(gold, found):
            return differs("a chain of equations" if "=" in found.signs else "a chain of relations")
        named_gold, named_found = named_reference(gold), named_value(found)
        if named_gold and not named_found and isinstance(found, Relation) and is_constant(named_gold[1]):
            return differs("not solved")
        if named_gold and named_found:
            if named_gold[0] != named_found[0] and not isinstance(named_gold[0], Text):
                return self.equations(gold, found)
            return self.compare(named_gold[1], named_found[1])
        if named_found and not isinstance(gold, Relation):
            return self.compare(gold, named_found[1])
        if named_gold and not isinstance(found, Relation):
            return self.compare(named_gold[1], found)
        if not isinstance(gold, Relation) or not isinstance(found, Relation):
            ratio = ratio_of(gold)
            if ratio is not None and isinstance(found, EXPRESSION):
                return self.values(ratio, found)
            return differs("a relation where a value is asked" if isinstance(found, Relation) else "no relation")
        return self.equations(gold, found)

    def equations(self, gold: Node, found: Node) -> Verdict:
        """Two relations: side by side, turned around, or one a multiple of the other."""
        assert isinstance(gold, Relation)
        assert isinstance(found, Relation)
        turned = Relation(found.sides[::-1], tuple(FLIPPED[sign] for sign in found.signs[::-1]))
        for candidate in (found, turned):
            if candidate.signs == gold.signs and self.ordered(gold.sides, candidate.sides).same:
                return SAME
        one, other = ratio_of(gold), ratio_of(found)
        if one is not None and other is not None:
            return self.values(one, other)
        if gold.signs == found.signs == ("=",) and self.multiples(gold, found):
            return SAME
        return differs("another relation")

    def multiples(self, gold: Relation, found: Relation) -> bool:
        """Whether ``left - right`` of one equation is a constant multiple of the other's.

        The quotient D/E is constant exactly when D(x) E(y) = D(y) E(x) for independent x and y.
        """
        if not all(isinstance(side, EXPRESSION) for side in (*gold.sides, *found.sides)):
            return False
        one = difference(*gold.sides)  # type: ignore[arg-type]
        other = difference(*found.sides)  # type: ignore[arg-type]
        if symbols(one) != symbols(other) or not symbols(one):
            return False
        if unfinished(other, one):
            return False
        zero = Num(Fraction(0))
        if self.decide(one, zero, None) or self.decide(other, zero, None):
            return False
        left = Op("mul", (one, renamed(other, "'")))
        right = Op("mul", (renamed(one, "'"), other))
        return self.decide(left, right, None)

    # Values.

    def values(self, gold: Expr, found: Expr) -> Verdict:
        """Two expressions: units, then whether the answer is worked out, then the value."""
        gold, found = _outer_unit(gold), _outer_unit(found)
        gold_unit, gold = (gold.name, gold.value) if isinstance(gold, Unit) else ("", gold)
        found_unit, found = (found.name, found.value) if isinstance(found, Unit) else ("", found)
        factor = conversion(gold_unit, found_unit)
        if factor is None:
            return differs(f"unit {found_unit[:20]!r} where {gold_unit[:20]!r} is asked")
        if found_unit == "%" and not gold_unit and _within_one(gold):
            return differs("per cent where a share is asked")
        if any(isinstance(part, Sym) and part.name == "infty" for part in (*walk(gold), *walk(found))):
            return SAME if _infinity(gold) == _infinity(found) != 0 else differs("another value")
        reason = unfinished(found, gold)
        if reason:
            return differs(reason)
        if factor != 1:
            found = Op("mul", (Num(factor), found))
        return SAME if self.decide(gold, found, self.tolerance) else differs("another value")


def _outer_unit(node: Expr) -> Expr:
    r"""A unit taken out of a sign or product: ``-45^\circ``, ``3x^\circ``, ``\$\frac{1}{2}``."""
    if isinstance(node, Op) and node.name in ("neg", "mul"):
        last = _outer_unit(node.args[-1])
        if isinstance(last, Unit) and not isinstance(last.value, Unit):
            return Unit(Op(node.name, (*node.args[:-1], last.value)), last.name)
    return node


def _within_one(node: Expr) -> bool:
    """A number between 0 and 1 that is no integer: there a per cent sign would be taken for the share itself."""
    if isinstance(node, Op) and node.name == "neg":
        return _within_one(node.args[0])
    if isinstance(node, Op) and node.name == "div":
        upper, lower = node.args
        return isinstance(upper, Num) and isinstance(lower, Num) and 0 < upper.value < lower.value
    return isinstance(node, Num) and 0 < node.value < 1


def _infinity(node: Expr) -> int:
    if node == Sym("infty"):
        return 1
    return -1 if node == Op("neg", (Sym("infty"),)) else 0


def _letters(node: Node) -> str:
    """Letters of words, of a choice such as ``(C)``, or of a product of variables; empty for other nodes."""
    if isinstance(node, Text):
        return "".join(sign for sign in node.words if not sign.isspace() and sign not in "().")
    if isinstance(node, Sym):
        return node.name if node.name not in CONSTANTS - {"e", "i"} else ""
    if isinstance(node, Num) and node.value.denominator == 1:
        return str(node.value)
    if isinstance(node, Op) and node.name == "mul":
        parts = [_letters(arg) for arg in node.args]
        return "".join(parts) if all(parts) else ""
    return ""


def _bases(gold: Node, found: Node) -> Verdict:
    """Digits of a number base; the base may be left out on one side, but ``204_5`` is not 54."""

    def digits(node: Node) -> str:
        if isinstance(node, Based):
            return node.digits
        return str(node.value) if isinstance(node, Num) else ""

    bases = {node.base for node in (gold, found) if isinstance(node, Based)}
    same = len(bases) == 1 and digits(gold) == digits(found)
    return SAME if same else differs("other digits or another base")


def _kind(node: Node) -> str:
    if isinstance(node, EXPRESSION):
        return "a value"
    return {"Seq": "a bracketed list", "Union": "a union"}.get(type(node).__name__, f"a {type(node).__name__.lower()}")
