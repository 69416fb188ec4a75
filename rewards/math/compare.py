"""Comparison of two answers, form by form. An ``Engine`` decides whether two *values* are the same."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from rewards.math.absence import absence
from rewards.math.bars import has_bars, without_bars
from rewards.math.collections import Collections
from rewards.math.engine import Engine
from rewards.math.exact import Beyond, TooLarge
from rewards.math.families import as_family, families
from rewards.math.finished import is_numeral, unfinished
from rewards.math.forms import EXPRESSION, either_clock, variables
from rewards.math.intervals import as_set, is_set, real_set
from rewards.math.relations import Relations
from rewards.math.tree import (
    CONSTANTS,
    Based,
    Builder,
    Clock,
    Congruence,
    Expr,
    Family,
    Joined,
    Listing,
    Matrix,
    Node,
    Num,
    Op,
    Piecewise,
    Ratio,
    Relation,
    Seq,
    SetOf,
    Sym,
    Text,
    Union,
    Unit,
    replaced,
    symbols,
    walk,
)
from rewards.math.units import conversion
from rewards.math.verdict import SAME, Verdict, differs
from rewards.math.words import number_of

_WHOLE_SHARE = Fraction(10)
"""A decimal below this may be a share or a ratio, so that its per cent are another number."""


class Comparer:
    """Compares answers by one engine and under one tolerance."""

    def __init__(self, engine: Engine, tolerance: Fraction | None = None) -> None:
        self.engine = engine
        self.tolerance = tolerance
        self.relation = Relations(engine, self.compare)
        self.collection = Collections(self.compare, strict=tolerance is not None)

    def any_reading(self, golds: Sequence[Node], founds: Sequence[Node]) -> Verdict:
        """Return whether some reading of one is some reading of the other; the reason is that of the likeliest
        readings.
        """
        first = None
        for gold in golds:
            for found in founds:
                verdict = self.compare(gold, found)
                if verdict.same:
                    return verdict
                first = first or verdict
        assert first is not None
        return first

    def compare(self, gold: Node, found: Node) -> Verdict:
        """Return the rules of ``rewards.math.grade`` on two trees."""
        if gold == found or absence(gold) == absence(found) != "":
            return SAME
        numbered = as_family(gold), as_family(found)
        if all(isinstance(node, Family) for node in numbered):
            gold, found = numbered
        if isinstance(gold, Family) or isinstance(found, Family):
            return families(gold, found, self.compare)
        if not has_bars(found):
            gold = without_bars(gold)
        both = isinstance(gold, Relation) and isinstance(found, Relation)
        described = either_clock(as_set(gold), as_set(found))
        if not both or not any(isinstance(node, Relation) for node in described):
            gold, found = described
        if gold == found:
            return SAME
        sets = self.sets(gold, found)
        if sets is not None:
            return sets
        if isinstance(gold, Listing | SetOf) or isinstance(found, Listing | SetOf):
            return self.collection.collections(gold, found)
        if isinstance(gold, Text) or isinstance(found, Text):
            return self.texts(gold, found)
        if isinstance(gold, Relation) or isinstance(found, Relation):
            return self.relation.relations(gold, found)
        if isinstance(gold, Based) or isinstance(found, Based):
            return _bases(gold, found)
        if isinstance(gold, Ratio) or isinstance(found, Ratio):
            both = isinstance(gold, (Ratio, *EXPRESSION)) and isinstance(found, (Ratio, *EXPRESSION))
            return self.relation.ratios(gold, found) if both else differs("another form")
        if isinstance(gold, EXPRESSION) and isinstance(found, EXPRESSION):
            return self.values(gold, found)
        return self.alike(gold, found)

    def sets(self, gold: Node, found: Node) -> Verdict | None:
        """Return two sets of real numbers, by the intervals they are made of; ``None`` where one is none."""
        plain = isinstance(gold, Seq) and isinstance(found, Seq)
        if plain or not is_set(gold) or not is_set(found):
            return None
        if isinstance(gold, Relation) and isinstance(found, Relation):
            return None
        try:
            expected, actual = real_set(gold, self.engine.order), real_set(found, self.engine.order)
        except (Beyond, TooLarge) as error:
            return differs(f"cannot be worked out: {error}")
        if expected is None or actual is None:
            return None
        if len(expected) != len(actual):
            return differs("another set")
        for one, other in zip(expected, actual, strict=True):
            verdict = self.alike(one.node(), other.node())
            if not verdict.same:
                return verdict
        return SAME

    def alike(self, gold: Node, found: Node) -> Verdict:
        """Return two nodes of one form; a column of numbers is also a point."""
        gold, found = _column(gold, found), _column(found, gold)
        if type(gold) is not type(found):
            return differs(f"{_kind(found)} where {_kind(gold)} is asked")
        ordered, unordered = self.collection.ordered, self.collection.unordered
        if isinstance(gold, Seq) and isinstance(found, Seq):
            if (gold.opening, gold.closing) != (found.opening, found.closing):
                return differs("other brackets")
            return ordered(gold.items, found.items)
        if isinstance(gold, Matrix) and isinstance(found, Matrix):
            if [len(row) for row in gold.rows] != [len(row) for row in found.rows]:
                return differs("a matrix of another shape")
            return ordered(sum(gold.rows, ()), sum(found.rows, ()))
        if isinstance(gold, Union) and isinstance(found, Union):
            return unordered(gold.parts, found.parts)
        if isinstance(gold, Clock) and isinstance(found, Clock):
            times = [(clock.hour, clock.minute, clock.second) for clock in (gold, found)]
            same = times[0] == times[1] and gold.half in ("", found.half)
            return SAME if same else differs("another time")
        if isinstance(gold, Congruence) and isinstance(found, Congruence):
            return self.relation.congruences(gold, found)
        if isinstance(gold, Joined) and isinstance(found, Joined):
            if gold.sign != found.sign:
                return differs("another sign of logic")
            return (ordered if gold.sign in ("implies", "setminus") else unordered)(gold.parts, found.parts)
        if isinstance(gold, Piecewise) and isinstance(found, Piecewise):
            rows = [[Seq("", row, "") for row in node.rows] for node in (gold, found)]
            return unordered(rows[0], rows[1])
        if isinstance(gold, Builder) and isinstance(found, Builder):
            return self.builders(gold, found)
        return differs("another answer")

    def builders(self, gold: Builder, found: Builder) -> Verdict:
        """Return two sets by description, whatever their variables are called."""
        names, others = variables(gold), variables(found)
        if len(names) != len(others) or len(gold.conditions) != len(found.conditions):
            return differs("another set")
        values = {other: Sym(name) for other, name in zip(others, names, strict=True)}
        head = self.compare(gold.head, replaced(found.head, values))
        if not head.same:
            return head
        return self.collection.unordered(gold.conditions, [_renamed(part, values) for part in found.conditions])

    def texts(self, gold: Node, found: Node) -> Verdict:
        """Words: spaces, brackets around a choice and the case of longer words do not count."""
        if isinstance(gold, Text) and isinstance(found, EXPRESSION):
            number = number_of(gold.words)
            if number is not None:
                return self.values(Num(Fraction(number)), found)
        if isinstance(found, Relation) and isinstance(gold, Text):
            return self.relation.relations(gold, found)
        expected, actual = _letters(gold), _letters(found)
        if not expected or not actual:
            return differs("words where a value is asked" if isinstance(found, Text) else "the reference is words")
        if len(expected) > 1:
            expected, actual = expected.casefold(), actual.casefold()
        return SAME if _singular(expected) == _singular(actual) else differs("another text")

    # Values.

    def values(self, gold: Expr, found: Expr) -> Verdict:
        """Return two expressions: units, then whether the answer is worked out, then the value."""
        gold, found = _outer_unit(gold), _outer_unit(found)
        gold_unit, gold = (gold.name, gold.value) if isinstance(gold, Unit) else ("", gold)
        found_unit, found = (found.name, found.value) if isinstance(found, Unit) else ("", found)
        units = _in_unit(gold, gold_unit, found, found_unit)
        if units is None:
            return differs(f"unit {found_unit[:20]!r} where {gold_unit[:20]!r} is asked")
        expected, factor = units
        if any(isinstance(part, Sym) and part.name == "infty" for part in walk(gold)):
            return SAME if _infinity(gold) == _infinity(found) != 0 else differs("another value")
        if any(isinstance(part, Sym) and part.name == "infty" for part in walk(found)):
            return differs("another value")
        found = _same_constant(gold, found)
        reason = unfinished(found, expected, closed_forms=self.tolerance is not None)
        if reason:
            return differs(reason)
        self.engine.reason = ""
        if self.engine.equal(expected, found if factor is None else Op("mul", (factor, found)), self.tolerance):
            return SAME
        return differs(self.engine.reason or "another value")


_ANGLE = Op("div", (Sym("pi"), Num(Fraction(180))))
"""A degree in radians."""


def _in_unit(gold: Expr, gold_unit: str, found: Expr, found_unit: str) -> tuple[Expr, Expr | None] | None:
    """Return the reference, and what the answer is multiplied with, so that both are in one unit; ``None`` when they do
    not compare.
    """
    has_pi = (Sym("pi") in walk(gold), Sym("pi") in walk(found))
    if found_unit == "deg" and (gold_unit == "rad" or (not gold_unit and has_pi[0])):
        return gold, _ANGLE
    if gold_unit == "deg" and (found_unit == "rad" or (not found_unit and has_pi[1] and not has_pi[0])):
        return Op("mul", (gold, _ANGLE)), None
    if not gold_unit and found_unit == "%" and not _counts_per_cent(gold):
        return None
    if not gold_unit and found_unit in ("deg", "degC", "degF") and not is_numeral(gold):
        return None
    factor = conversion(gold_unit, found_unit)
    if factor is None:
        return None
    return gold, None if factor == 1 else Num(factor)


def _counts_per_cent(node: Expr) -> bool:
    """Return whether a reference without a sign may be a number of per cent: whole and not 1, or a decimal of some
    size.
    """
    if isinstance(node, Op) and node.name == "neg":
        return _counts_per_cent(node.args[0])
    return isinstance(node, Num) and ((node.value.denominator == 1 and node.value != 1) or node.value >= _WHOLE_SHARE)


def _same_constant(gold: Expr, found: Expr) -> Expr:
    """Return the answer with the reference's name for the constant of an integration: ``2x + c`` is ``2x + C``."""
    if not (isinstance(gold, Op) and gold.name == "add" and Sym("C") in gold.args and isinstance(found, Op)):
        return found
    if found.name != "add" or sum(part == Sym("C") for part in walk(gold)) != 1:
        return found
    more = symbols(found) - symbols(gold)
    if len(more) != 1 or Sym(min(more)) not in found.args or sum(part == Sym(min(more)) for part in walk(found)) != 1:
        return found
    return replaced(found, {min(more): Sym("C")})


def _outer_unit(node: Expr) -> Expr:
    r"""Units on factors or behind a minus sign, moved to the outside: ``-\$5``."""
    if isinstance(node, Op) and node.name == "neg" and isinstance(node.args[0], Unit):
        return Unit(Op("neg", (node.args[0].value,)), node.args[0].name)
    return node


def _renamed(node: Node, values: dict[str, Sym]) -> Node:
    """Return a condition with other names for its variables."""
    if isinstance(node, EXPRESSION):
        return replaced(node, values)
    if isinstance(node, Relation):
        return Relation(tuple(_renamed(side, values) for side in node.sides), node.signs)
    return node


def _column(node: Node, other: Node) -> Node:
    """Return a matrix of one column as the point that it is, beside a point."""
    if isinstance(node, Matrix) and isinstance(other, Seq) and all(len(row) == 1 for row in node.rows):
        return Seq("(", tuple(row[0] for row in node.rows), ")")
    return node


def _singular(text: str) -> str:
    """Return a text without a plural's ending."""
    return text.removesuffix("s") if len(text) > 3 else text


def _infinity(node: Expr) -> int:
    if node == Sym("infty"):
        return 1
    return -1 if node == Op("neg", (Sym("infty"),)) else 0


def _letters(node: Node) -> str:
    """Letters of words, of a choice such as ``(C)``, or of a product of variables; empty for other nodes."""
    if isinstance(node, Text):
        return "".join(sign for sign in node.words if not sign.isspace() and sign not in "().\"'!")
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
        return node.digits if isinstance(node, Based) else _letters(node)

    bases = {node.base for node in (gold, found) if isinstance(node, Based)}
    same = len(bases) == 1 and digits(gold) == digits(found)
    return SAME if same else differs("other digits or another base")


def _kind(node: Node) -> str:
    if isinstance(node, EXPRESSION):
        return "a value"
    return {"Seq": "a bracketed list", "Union": "a union"}.get(type(node).__name__, f"a {type(node).__name__.lower()}")
