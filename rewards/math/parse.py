r"""From LaTeX to trees, by recursive descent. Refuses what it does not know: there is no guessing and no repair.

listing   = item { ("," | ";" | "and" | "or") item }
item      = statement { (land | lor | Rightarrow | Leftrightarrow) statement }
statement = [name "in"] ratio { relation ratio }
ratio     = union { ":" union }
union     = quantity { (cup | cap | setminus) quantity }
quantity  = sum [unit]
sum       = ["+" | "-" | "pm"] product { ("+" | "-" | "pm") product }
product   = power { ["*" | "/" | cdot | times] power }
"""

from __future__ import annotations

from fractions import Fraction

from rewards.math.operands import CURRENCIES, Operands, accented
from rewards.math.quantities import product, quantity, same_kind
from rewards.math.statements import BOUNDS, LABEL, QUANTIFIERS, is_approximate, more_or_less
from rewards.math.tree import (
    NOBODY,
    Based,
    Congruence,
    Expr,
    Joined,
    Matrix,
    Node,
    Num,
    Op,
    Ratio,
    Relation,
    Seq,
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

_RELATIONS = {
    "=": "=", "<": "<", ">": ">", "leq": "<=", "geq": ">=", "neq": "!=", "approx": "~", "equiv": "equiv",
    "parallel": "parallel", "perp": "perp", "subset": "subset", "subseteq": "subseteq", "cong": "cong", "sim": "sim",
}  # fmt: skip
_LEFT_OUT = frozenset({"<", ">", "<=", ">="})
"""Signs before which the name may be missing: ``\\le 5``."""
_LOGIC = {"Rightarrow": "implies", "Leftrightarrow": "iff", "lor": "lor", "land": "land"}
_SETS = {"cap": "cap", "setminus": "setminus"}
_MOD = frozenset({"mod", "bmod", "pmod"})
_SEPARATORS = (",", ";", "and", "or")
_MAX_INDEPENDENT = 3
"""Plus-minus signs of one statement that may be chosen each by itself: eight answers."""


class Parser(Operands):
    """The parser of a whole answer."""

    def listing(self, expand: bool = True) -> list[Node]:
        """Items between separators."""
        return self.separated(expand)[0]

    def separated(self, expand: bool = True) -> tuple[list[Node], list[str]]:
        r"""Items, and what stands before each but the first. ``expand``: one with ``\pm`` is several answers."""
        items: list[Node] = []
        labels: list[str] = []
        while True:
            read = self.both_signs() if expand else [self.item()]
            items += read
            labels += [","] * (len(read) - 1)
            label = self.peek()
            if not self.take(*_SEPARATORS):
                return items, labels
            while self.peek() in _SEPARATORS:  # ", and"
                label = self.peek()
                self.at += 1
            wider = (
                more_or_less(items[-1], self.tokens[self.at].value) if label == "or" and self.kind() == "text" else None
            )
            if wider is not None:
                items[-1] = wider
                self.at += 1
                return items, labels
            labels.append(label)

    def both_signs(self) -> list[Node]:
        """Parse an item once for every choice of its plus-minus signs."""
        start, depth = self.at, self.depth
        outer, self.plus_minus, self.minus = self.plus_minus, 0, 0
        read = [self.item()]
        end, count = self.at, self.plus_minus
        if count:
            alone = self.independent and 1 < count <= _MAX_INDEPENDENT
            for minus in range(1, 2**count) if alone else (1,):
                self.at, self.depth, self.plus_minus, self.minus = start, depth, 0, minus
                read.append(self.item())
                if self.at != end:
                    raise Unreadable("plus-minus")
        self.plus_minus, self.minus = outer, 0
        return read

    def item(self) -> Node:
        """Statements with signs of logic between them."""
        node = self.statement()
        while (sign := _LOGIC.get(self.peek())) is not None:
            self.at += 1
            right = self.statement()
            same = isinstance(node, Joined) and node.sign == sign and sign in ("lor", "land")
            node = Joined(sign, (*(node.parts if same and isinstance(node, Joined) else (node,)), right))
        return node

    def statement(self) -> Node:
        """Parse a value, or values with relation signs between them."""
        self.take("approx")
        if self.kind() == "text":
            words = self.tokens[self.at].value.lower().strip()
            if is_approximate(words):
                self.at += 1
            elif words in QUANTIFIERS and self.kind(1) == "name":
                self.at += 1
                bound = self.statement()
                if not isinstance(bound, Relation):
                    raise Unreadable("words beside a value")
                return bound
            elif words in BOUNDS:
                self.at += 1
                return Relation((NOBODY, self.ratio()), (BOUNDS[words],))
            elif LABEL.fullmatch(words) and self.tokens[self.at].upright:
                self.at += 1
                return Relation((Text(words[:-1]), self.ratio()), ("=",))
        first = NOBODY if _RELATIONS.get(self.peek()) in _LEFT_OUT else self.ratio()
        if self.take("over", "choose"):
            name = "div" if self.tokens[self.at - 1].value == "over" else "binom"
            first = Op(name, (expression(first), expression(self.sum())))
        if isinstance(first, Sym | Op | Seq) and self.take("in"):
            return self.union()
        if self.peek() == "equiv":
            return self.congruence(first)
        sides, signs = [first], list[str]()
        while (sign := _RELATIONS.get(self.peek())) is not None:
            self.at += 1
            signs.append(sign)
            sides.append(self.ratio())
        return Relation(tuple(sides), tuple(signs)) if signs else first

    def congruence(self, left: Node) -> Node:
        r"""``x \equiv 3 \pmod 7``, with the modulus in any of its spellings."""
        self.at += 1
        right = expression(self.sum_before_modulus())
        bracket = self.take("(")
        if not self.take(*_MOD):
            return Relation((left, right), ("equiv",))
        modulus = expression(self.sum())
        if bracket:
            self.need(")")
        return Congruence(left, right, modulus)

    def sum_before_modulus(self) -> Node:
        """Parse a sum in which ``mod`` is no operation."""
        self.moduli += 1
        node = self.sum()
        self.moduli -= 1
        return node

    def ratio(self) -> Node:
        """Parse a set or value, or several values with colons between them."""
        node = self.union()
        if self.peek() != ":" or self.bars:
            return node
        if isinstance(node, Text) and self.tokens[self.at - 1].upright and LABEL.fullmatch(f"{node.words.lower()}:"):
            self.at += 1
            return Relation((node, self.union()), ("=",))
        terms = [expression(node)]
        while self.take(":"):
            terms.append(expression(self.union()))
        return Ratio(tuple(terms))

    def union(self) -> Node:
        """Parse a quantity, or sets joined by signs."""
        node = self.quantity()
        while True:
            if self.take("cup"):
                parts = node.parts if isinstance(node, Union) else (node,)
                node = Union((*parts, self.quantity()))
            elif (sign := _SETS.get(self.peek())) is not None:
                self.at += 1
                node = Joined(sign, (node, self.quantity()))
            else:
                return node

    def quantity(self) -> Node:
        """Parse a sum with its unit; two quantities of one kind side by side are one: ``1 h 30 min``."""
        node = self.sum()
        if isinstance(node, Text) or not self.unit_ahead():
            return node
        found = quantity(expression(node), self.unit_words())
        while self.kind() == "num" and isinstance(found, Unit):
            further = quantity(expression(self.sum()), self.unit_words() if self.unit_ahead() else "?")
            found = same_kind(found, further)
        return found

    def unit_words(self) -> str:
        """Parse the words and signs of a unit, as plain text: ``kg*m^2/s``."""
        parts: list[str] = []
        while True:
            sign = self.peek()
            if self.kind() == "text":
                parts.append(" " + self.tokens[self.at].value)
                self.at += 1
            elif sign in ("[", "(", "{") and self.unit_ahead():
                parts.append(" " + self.tokens[self.at + 1].value)
                self.at += 3
            elif sign == "mu" and self.kind(1) == "text":
                parts.append(" μ" + self.tokens[self.at + 1].value)
                self.at += 2
            elif sign == "Omega":
                parts.append(" Ω")
                self.at += 1
            elif sign == "frac" and self.peek(1) == "{" and self.kind(2) == "text":
                self.at += 1
                parts.append(f" {self.unit_argument()}/({self.unit_argument()})")
            elif sign == "^" and parts:
                self.at += 1
                parts.append(f"^{self.script()}")
            elif parts and sign in ("/", "cdot", "*", "times") and (self.kind(1) == "text" or self.peek(1) == "mu"):
                parts.append("/" if sign == "/" else "*")
                self.at += 1
            else:
                return "".join(parts)

    def unit_argument(self) -> str:
        """Parse the unit in braces above or below a line."""
        self.need("{")
        words = self.unit_words()
        self.need("}")
        return words.strip()

    def sum(self) -> Node:
        """Terms with signs."""
        terms: list[Node] = []
        while True:
            sign = self.peek()
            if sign in ("+", "-", "pm", "mp"):
                self.at += 1
                sign = self.sign_of(sign) if sign in ("pm", "mp") else sign
                if terms and self.take("-"):  # 2 + -3
                    sign = "+" if sign == "-" else "-"
                term = self.product()
                if sign == "-" and isinstance(term, Matrix):
                    term = product(negated(Num(Fraction(1))), term)
                elif sign == "-":
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
                node = product(expression(node), self.factor())
            elif self.take("/"):
                node = Op("div", (expression(node), expression(self.factor())))
            elif self.peek() in _MOD and not self.moduli:
                self.at += 1
                node = Op("mod", (expression(node), expression(self.factor())))
            elif isinstance(node, Text) or not self.starts_factor():
                return node
            else:
                node = self.beside(expression(node))

    def beside(self, left: Expr) -> Node:
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
        node = self.power()
        if isinstance(node, Matrix):
            return product(left, node)
        right = expression(node)
        part = right.value if isinstance(right, Unit) else right
        if whole and was_fraction and isinstance(part, Op) and part.name == "div" and is_proper(*part.args):
            mixed = Op("mixed", (left, part))
            return Unit(mixed, right.name) if isinstance(right, Unit) else mixed
        return times(left, right)

    def factor(self) -> Node:
        """Parse a factor after a sign: it may have a sign of its own."""
        if self.take("-"):
            return negated(expression(self.power()))
        self.take("+")
        return self.power()

    def power(self) -> Node:
        """Parse an atom with its exponent, factorial, degree, per cent and currency signs."""
        node = self.atom()
        while True:
            if self.peek() == "^":
                if self.degrees():
                    node = self.minutes(expression(node))
                    continue
                self.at += 1
                if self.take("'"):
                    node = accented(expression(node), "'")
                    continue
                exponent = self.script_expression()
                if isinstance(exponent, Sym) and exponent.name in ("'", "''"):
                    node = accented(expression(node), exponent.name)
                elif isinstance(node, Matrix) and exponent in (Sym("T"), Sym("top")):
                    node = Matrix(tuple(zip(*node.rows, strict=True)))
                else:
                    node = Op("pow", (expression(node), exponent))
            elif self.take("circ"):
                node = self.minutes(expression(node))
            elif self.take("!"):
                if self.peek() in ("!", "="):
                    raise Unreadable("a double factorial")
                node = Op("fact", (expression(node),))
            elif self.take("%"):
                node = Unit(expression(node), "%")
            elif self.take("‰"):
                node = quantity(expression(node), "permille")
            elif self.take("'"):
                node = accented(expression(node), "'")
            elif self.peek() in CURRENCIES and self.kind(1) == "" and self.peek(1) in ("", ",", ")", "}"):
                node = Unit(expression(node), self.peek())
                self.at += 1
            else:
                return node

    def minutes(self, degrees: Expr) -> Expr:
        r"""An angle in degrees, with the minutes and seconds that follow: ``30^\circ 15'``."""
        terms = [degrees]
        for sign, size in (("'", 60), ("''", 3600)):
            marks = [self.peek(1 + place) for place in range(len(sign))]
            if self.kind() == "num" and marks == ["'"] * len(sign):
                terms.append(Num(self.number().value / size))
                self.at += len(sign)
        whole = all(isinstance(term, Num) for term in terms)
        value = Num(sum((term.value for term in terms if isinstance(term, Num)), Fraction(0))) if whole else degrees
        return Unit(value, "deg")

    def degrees(self) -> bool:
        r"""Step over ``^\circ`` or ``^{\circ}``."""
        if self.peek(1) == "circ":
            self.at += 2
        elif self.peek(1) == "{" and self.peek(2) == "circ" and self.peek(3) == "}":
            self.at += 4
        else:
            return False
        return True
