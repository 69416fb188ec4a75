r"""From LaTeX to trees, by recursive descent. Refuses what it does not know: there is no guessing and no repair.

listing   = statement { ("," | ";" | "and" | "or") statement }
statement = [name "in"] union { relation union }
union     = sum { cup sum } [unit]
sum       = ["+" | "-" | "pm"] product { ("+" | "-" | "pm") product }
product   = power { ["*" | "/" | cdot | times] power }
"""

from __future__ import annotations

import re
from functools import lru_cache

from rewards.math.clean import clean, flat, join_commas
from rewards.math.operands import Operands, accented
from rewards.math.tokens import tokenize
from rewards.math.tree import (
    Based,
    Clock,
    Expr,
    Listing,
    Node,
    Num,
    Op,
    Relation,
    Sym,
    Text,
    Union,
    Unit,
    Unreadable,
    expression,
    is_proper,
    negated,
    times,
)
from rewards.math.units import canonical, is_plain_word_unit, is_unit

_RELATIONS = {"=": "=", "<": "<", ">": ">", "leq": "<=", "geq": ">=", "neq": "!=", ":": ":", "approx": "~"}
_MOD = frozenset({"mod", "bmod", "pmod", "equiv"})
_CLOCK = re.compile(r"([0-9]{1,2}) ?: ?([0-5][0-9])(?: ?([AaPp])\.? ?[Mm]\.?)?")
_BRACE = re.compile(r"\\.|[{}]")
_HOUR = re.compile(r"([0-9]{1,2})() ?([AaPp])\.? ?[Mm]\.?")
_PROSE_UNIT = re.compile(r"(.*[0-9}%)]) +([A-Za-z][A-Za-z .'/-]*)")


class Parser(Operands):
    """Reads a whole answer."""

    def listing(self, expand: bool = True) -> list[Node]:
        r"""Statements between separators. ``expand``: one with ``\pm`` is two answers."""
        items: list[Node] = []
        while True:
            start, depth = self.at, self.depth
            outer, self.saw_pm = self.saw_pm, False
            items.append(self.statement())
            if self.saw_pm and expand:
                end = self.at
                self.at, self.depth, self.upper = start, depth, not self.upper
                items.append(self.statement())
                self.upper = not self.upper
                if self.at != end:
                    raise Unreadable("plus-minus")
                self.saw_pm = False
            self.saw_pm = self.saw_pm or outer
            if not self.take(",", ";"):
                return items
            while self.take(",", ";"):  # ", and"
                continue

    def statement(self) -> Node:
        """A value, or values with relation signs between them."""
        self.take("approx")
        sides, signs = [self.union()], list[str]()
        if self.take("in"):
            return self.union()
        while (sign := _RELATIONS.get(self.peek())) and not (sign == ":" and self.bars):
            self.at += 1
            signs.append(sign)
            sides.append(self.union())
        return Relation(tuple(sides), tuple(signs)) if signs else sides[0]

    def union(self) -> Node:
        """A sum with its unit, or sets joined by union signs."""
        parts = [self.sum()]
        while self.take("cup"):
            parts.append(self.sum())
        if len(parts) > 1:
            return Union(tuple(parts))
        node = parts[0]
        if self.kind() == "text" and not isinstance(node, Text):
            words = self.tokens[self.at].value
            self.at += 1
            if self.peek() == "^":
                self.at += 1
                words += f"^{self.script()}"
            value = expression(node)
            if not is_unit(words) or isinstance(value, Unit):
                raise Unreadable("words beside a value")
            return Unit(value, canonical(words))
        return node

    def sum(self) -> Node:
        """Terms with signs."""
        terms: list[Node] = []
        while True:
            sign = self.peek()
            if sign in ("+", "-", "pm", "mp"):
                self.at += 1
                if sign in ("pm", "mp"):
                    self.saw_pm = True
                    sign = "+" if self.upper == (sign == "pm") else "-"
                if terms and self.take("-"):  # 2 + -3
                    sign = "+" if sign == "-" else "-"
                term = self.product()
                if sign == "-":
                    term = Based(f"-{term.digits}", term.base) if isinstance(term, Based) else negated(expression(term))
            elif terms:
                break
            else:
                term = self.product()
            terms.append(term)
            if len(terms) == 1 and self.peek() not in ("+", "-", "pm", "mp"):
                return term
        return Op("add", tuple(expression(term) for term in terms))

    def product(self) -> Node:
        """Factors, side by side or with signs; division binds to the left."""
        node = self.power()
        while True:
            if self.take("*", "cdot", "times"):
                node = times(expression(node), expression(self.factor()))
            elif self.take("/"):
                node = Op("div", (expression(node), expression(self.factor())))
            elif self.peek() in _MOD:
                self.at += 1
                node = Op("mod", (expression(node), expression(self.factor())))
            elif isinstance(node, Text) or not self.starts_factor():
                return node
            else:
                node = self.beside(expression(node))

    def beside(self, left: Expr) -> Expr:
        r"""A factor without a sign before it: a mixed number (``1\frac12``, ``1 1/2``) or a product."""
        after_number = self.tokens[self.at - 1].kind == "num"
        whole = after_number and isinstance(left, Num) and left.value.denominator == 1
        if self.kind() == "num" and after_number:
            nominator = self.number()
            if whole and self.peek() == "/" and self.at + 1 < len(self.tokens):
                self.at += 1
                if self.kind() == "num" and is_proper(nominator, denominator := self.number()):
                    return Op("mixed", (left, Op("div", (nominator, denominator))))
            raise Unreadable("two numbers side by side")
        was_fraction = self.peek() == "frac"
        right = expression(self.power())
        part = right.value if isinstance(right, Unit) else right
        if whole and was_fraction and isinstance(part, Op) and part.name == "div" and is_proper(*part.args):
            mixed = Op("mixed", (left, part))
            return Unit(mixed, right.name) if isinstance(right, Unit) else mixed
        return times(left, right)

    def factor(self) -> Node:
        """A factor after a sign: it may have a sign of its own."""
        if self.take("-"):
            return negated(expression(self.power()))
        self.take("+")
        return self.power()

    def power(self) -> Node:
        """An atom with its exponent, factorial, degree and per cent signs."""
        node = self.atom()
        while True:
            if self.peek() == "^":
                if self.degrees():
                    node = Unit(expression(node), "deg")
                    continue
                self.at += 1
                if self.take("'"):
                    node = accented(expression(node), "'")
                    continue
                exponent = self.script_expression()
                if isinstance(exponent, Sym) and exponent.name in ("'", "''"):
                    node = accented(expression(node), exponent.name)
                else:
                    node = Op("pow", (expression(node), exponent))
            elif self.take("circ"):
                node = Unit(expression(node), "deg")
            elif self.take("!"):
                if self.peek() in ("!", "="):
                    raise Unreadable("a double factorial")
                node = Op("fact", (expression(node),))
            elif self.take("%"):
                node = Unit(expression(node), "%")
            elif self.take("'"):
                node = accented(expression(node), "'")
            else:
                return node

    def degrees(self) -> bool:
        r"""Step over ``^\circ`` or ``^{\circ}``."""
        if self.peek(1) == "circ":
            self.at += 2
        elif self.peek(1) == "{" and self.peek(2) == "circ" and self.peek(3) == "}":
            self.at += 4
        else:
            return False
        return True


def _read_one(text: str) -> Node:
    clock = _CLOCK.fullmatch(flat(text)) or _HOUR.fullmatch(flat(text))
    if clock:
        half = (clock[3] or "").lower()
        return Clock(int(clock[1]), int(clock[2] or 0), half and f"{half}m")
    prose = _PROSE_UNIT.fullmatch(text)
    if prose and is_plain_word_unit(prose[2]):
        text = rf"{prose[1]}\text{{{prose[2]}}}"
    tokens = tokenize(text)
    if not tokens:
        raise Unreadable("nothing")
    parser = Parser(tokens, upper=True)
    items = parser.listing()
    if parser.at != len(parser.tokens):
        rest = parser.tokens[parser.at].value.removesuffix("set")
        raise Unreadable(f"{rest[:20]!a} after the answer")
    return items[0] if len(items) == 1 else Listing(tuple(items))


def read(text: str) -> tuple[Node, ...]:
    """All readings of an answer, the likelier first: ``1,234`` is a number, or else two answers.

    Raises ``Unreadable`` with the reason when there is none.
    """
    text = _without_braces(clean(text))
    texts = dict.fromkeys((join_commas(text), text))
    readings: list[Node] = []
    reason = "nothing"
    for one in texts:
        try:
            readings.append(_read_one(one))
        except (Unreadable, RecursionError) as error:
            reason = str(error) if isinstance(error, Unreadable) else "nested too deeply"
    if not readings:
        raise Unreadable(reason)
    return tuple(readings)


def _without_braces(text: str) -> str:
    """The text without braces around all of it: they do not show."""
    while text.startswith("{") and text.endswith("}") and not text.endswith("\\}") and r"\choose" not in text:
        depth = 0
        for match in _BRACE.finditer(text):
            depth += {"{": 1, "}": -1}.get(match.group(), 0)
            if depth == 0:
                break
        if depth or match.end() != len(text):
            return text
        text = text[1:-1].strip()
    return text


@lru_cache(maxsize=4096)
def read_gold(text: str) -> tuple[Node, ...]:
    """The readings of a reference answer, kept: each is compared with many responses."""
    return read(text)
