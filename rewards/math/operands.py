"""The operands of an expression: numbers, names, functions, brackets, roots, matrices."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from fractions import Fraction

from rewards.math.cursor import Cursor
from rewards.math.tokens import FUNCTIONS, Token
from rewards.math.tree import (
    Based,
    Expr,
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
    Unreadable,
    expression,
    negated,
)
from rewards.math.words import words

MAX_DEPTH = 40
"""Nesting of one answer."""

_BIG = {"sum": "sum", "prod": "prod", "int": "int", "iint": "int", "oint": "int", "lim": "lim"}
_CALLS = frozenset({"max", "min", "gcd", "lcm", "det", "sup", "inf"})
_ACCENTS = words(
    "vec hat bar tilde dot ddot overline overrightarrow overleftarrow widehat underline overleftrightarrow"
)
_PREFIXES = frozenset({"angle", "triangle", "measuredangle", "square", "parallelogram"})
_SYMBOLS = words(
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron rho sigma tau upsilon phi chi"
    " psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega pi infty hbar ell nabla partial odot mho"
    " aleph emptyset perp parallel sim star circledast oplus"
)
_MATRICES = frozenset({"pmatrix", "bmatrix", "matrix", "Bmatrix", "array"})
_BASES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]


class Operands(Cursor, ABC):
    """Reads operands; what stands around them is read by the methods that a subclass adds."""

    @abstractmethod
    def listing(self, expand: bool = True) -> list[Node]:
        """Statements between separators."""

    @abstractmethod
    def statement(self) -> Node:
        """A value, or values with relation signs between them."""

    @abstractmethod
    def sum(self) -> Node:
        """Terms with signs."""

    @abstractmethod
    def product(self) -> Node:
        """Factors."""

    @abstractmethod
    def power(self) -> Node:
        """An operand with what stands after it."""

    @abstractmethod
    def beside(self, left: Expr) -> Expr:
        """A factor without a sign before it."""

    def starts_factor(self) -> bool:
        """Whether the coming token can stand right after a factor."""
        sign = self.peek()
        if sign == "|":
            return self.bars == 0
        return (
            self.kind() in ("num", "name")
            or sign in ("(", "[", "{", "frac", "sqrt", "binom", "lfloor", "lceil", "$")
            or sign in FUNCTIONS
            or sign in _SYMBOLS
            or sign in _ACCENTS
            or sign in _BIG
            or sign in _CALLS
            or sign in _PREFIXES
            or sign.startswith("begin ")
        )

    def atom(self) -> Node:
        """One operand."""
        self.depth += 1
        self.operands_left -= 1
        if self.depth > MAX_DEPTH:
            raise Unreadable(f"nested deeper than {MAX_DEPTH}")
        if self.operands_left < 0:
            raise Unreadable("too complicated")
        try:
            kind, sign = self.kind(), self.peek()
            if kind == "num":
                return self.numeral()
            if kind == "name":
                return self.name()
            if kind == "text":
                self.at += 1
                words = self.tokens[self.at - 1].value
                if re.fullmatch(r"[0-9A-Z]+", words) and self.take("_"):
                    return Based(words, _base(self.script()))
                return Text(words)
            self.at += 1
            return self.form(sign)
        finally:
            self.depth -= 1

    def form(self, sign: str) -> Node:
        """The operand that a sign or command begins; it has been stepped over."""
        if sign in ("(", "["):
            return self.brackets(sign)
        if sign == "<(":
            items = self.listing(expand=False)
            self.need(")>")
            return Seq("(", tuple(items), ")")
        if sign == "{":
            node = self.statement()
            if self.take("choose"):
                node = Op("binom", (expression(node), expression(self.sum())))
            self.need("}")
            return node
        if sign == "{set":
            return self.set_of()
        if sign == "|":
            self.bars += 1
            inner = expression(self.sum())
            self.bars -= 1
            self.need("|")
            return Op("abs", (inner,))
        if sign in ("lfloor", "lceil"):
            inner = expression(self.sum())
            self.need("rfloor" if sign == "lfloor" else "rceil")
            return Op("floor" if sign == "lfloor" else "ceil", (inner,))
        if sign in ("frac", "binom"):
            upper, lower = self.argument(), self.argument()
            return Op("div" if sign == "frac" else "binom", (upper, lower))
        if sign == "sqrt":
            return self.root()
        if sign in FUNCTIONS:
            return self.function(sign)
        if sign in _BIG or sign in _CALLS:
            return self.unevaluated(_BIG.get(sign, sign))
        if sign.startswith("begin "):
            return self.matrix(sign.removeprefix("begin "))
        if sign == "$":
            return Unit(expression(self.power()), "$")
        if sign in _ACCENTS:
            return self.subscripted(accented(self.argument(), sign).name)
        if sign in _SYMBOLS or sign in _PREFIXES:
            return self.subscripted(sign)
        raise Unreadable(
            f"{sign.removesuffix('set')!r} where a value should be" if sign else "an answer that breaks off"
        )

    def brackets(self, opening: str) -> Node:
        """Grouping, or a tuple, point or interval."""
        bars, self.bars = self.bars, 0
        items = self.listing(expand=False)
        self.bars = bars
        closing = self.peek()
        if closing not in (")", "]"):
            raise Unreadable("unbalanced brackets")
        self.at += 1
        if len(items) == 1:
            if (opening, closing) in (("(", ")"), ("[", "]")):
                if isinstance(items[0], Num) and items[0].value.denominator == 1 and self.take("_"):
                    return Based(str(items[0].value), _base(self.script()))
                return items[0]
            raise Unreadable("unbalanced brackets")
        return Seq(opening, tuple(items), closing)

    def set_of(self) -> Node:
        r"""A set by its elements, or ``\{x | condition\}``."""
        if self.take("}set"):
            return Sym("emptyset")
        outer = self.saw_pm
        self.bars += 1  # a bar after an element is no absolute value
        self.sets += 1
        items = self.listing(expand=self.sets == 1)
        builder = len(items) == 1 and isinstance(items[0], Sym) and self.take("|", ":")
        condition = self.statement() if builder else None
        self.bars -= 1
        self.sets -= 1
        self.need("}set")
        if self.sets == 0:
            self.saw_pm = outer
        if condition is None:
            return SetOf(tuple(items))
        described = isinstance(condition, Seq | Union | SetOf) or (
            isinstance(condition, Relation) and set(condition.signs) <= {"<", ">", "<=", ">="}
        )
        if not described:
            raise Unreadable("a set whose condition is no inequality")
        return condition

    def numeral(self) -> Node:
        """A number; with a subscript it is one in another base."""
        token = self.tokens[self.at]
        number = self.number()
        if self.peek() == "_" and re.fullmatch(r"[0-9]+(\.[0-9]+)?", token.value):
            self.at += 1
            return Based(re.sub(r"^0+(?=[0-9])", "", token.value), _base(self.script()))
        return number

    def number(self) -> Num:
        r"""The number that comes, with an ``\overline`` of repeating digits."""
        digits = self.tokens[self.at].value
        self.at += 1
        if self.peek() == "overline" and "." in digits and self.peek(1) == "{":
            repeating = self.tokens[self.at + 2] if self.at + 2 < len(self.tokens) else Token("", "", False)
            if repeating.kind == "num" and repeating.value.isdigit() and self.peek(3) == "}":
                self.at += 4
                places, count = len(digits.partition(".")[2]), len(repeating.value)
                return Num(Fraction(digits.rstrip(".")) + Fraction(int(repeating.value), 10**places * (10**count - 1)))
        return Num(Fraction(digits.rstrip(".") if digits.endswith(".") else digits.replace(".e", "e")))

    def name(self) -> Node:
        """A variable with its subscript."""
        name = self.tokens[self.at].value
        self.at += 1
        return self.subscripted(name)

    def subscripted(self, name: str) -> Expr:
        """A name with a subscript, if one comes; ``C_n^k`` is a binomial."""
        if not self.take("_"):
            return Sym(name)
        start = self.at
        if name == "C":
            lower = self.script_expression()
            if self.take("^"):
                return Op("binom", (lower, self.script_expression()))
            self.at = start
        return Sym(f"{name}_{self.script()}")

    def script_expression(self) -> Expr:
        """An exponent: braces, or one sign, letter or number (TeX takes a single digit; people mean the number)."""
        if self.peek() == "'":
            return Sym(self.script())
        if self.peek() == "{" and self.peek(1) == "'":
            return Sym(self.script())
        if self.take("-"):
            return negated(self.script_expression())
        self.take("+")
        return self.argument()

    def argument(self) -> Expr:
        r"""The argument of a command: braces, a number, or one operand."""
        if self.kind() == "num":
            return self.number()
        return expression(self.atom())

    def root(self) -> Expr:
        """A square root or the root of a given degree."""
        degree: Expr = Num(Fraction(2))
        if self.take("["):
            degree = expression(self.sum())
            self.need("]")
        return Op("root", (self.argument(), degree))

    def function(self, name: str) -> Expr:
        r"""``\sin^2 x``, ``\log_2(x)``: in brackets, or all factors that follow without a sign."""
        base: Expr = Num(Fraction(10)) if name == "lg" else Sym("e")
        exponent: Expr | None = None
        while self.peek() in ("^", "_"):
            if self.take("_"):
                base = self.script_expression()
            else:
                self.at += 1
                exponent = self.script_expression()
        if self.peek() in ("(", "{", "["):
            inner = expression(self.power_without_script())
        else:
            inner = expression(self.power())
            while self.starts_factor() and self.peek() not in FUNCTIONS:
                inner = self.beside(inner)
        if name in ("log", "ln", "lg"):
            node = Op("log", (inner, Sym("ten") if name == "log" and base == Sym("e") else base))
        elif name == "exp":
            node = Op("pow", (Sym("e"), inner))
        elif exponent == Op("neg", (Num(Fraction(1)),)):
            return Op(f"arc{name}", (inner,))
        else:
            node = Op(name, (inner,))
        return Op("pow", (node, exponent)) if exponent is not None else node

    def power_without_script(self) -> Node:
        """The bracketed argument of a function; an exponent after it belongs to the function's value."""
        return self.atom()

    def unevaluated(self, name: str) -> Expr:
        """A sum, product, integral, limit, maximum ... that somebody still has to work out; never computed here."""
        parts: list[Expr] = []
        while self.peek() in ("_", "^"):
            self.at += 1
            parts.append(Sym(self.script()))
        parts.append(expression(self.product()))
        return Op(name, tuple(parts))

    def matrix(self, kind: str) -> Node:
        """A matrix environment."""
        if kind not in _MATRICES:
            raise Unreadable(f"a {kind[:20]!r}")
        rows: list[tuple[Node, ...]] = []
        row: list[Node] = []
        while True:
            row.append(self.statement())
            if self.take("&"):
                continue
            rows.append(tuple(row))
            row = []
            ended = self.take("newline")
            if self.take(f"end {kind}"):
                return Matrix(tuple(rows))
            if not ended:
                raise Unreadable("a broken matrix")


def accented(node: Expr, accent: str) -> Sym:
    """A name with an accent or prime."""
    letters = node.args if isinstance(node, Op) and node.name == "mul" else (node,)
    if not all(isinstance(letter, Sym) for letter in letters):
        raise Unreadable(f"{accent!r} over something that is no name")
    return Sym("".join(letter.name for letter in letters if isinstance(letter, Sym)) + ":" + accent)


def _base(text: str) -> int:
    if text.lower() in _BASES:
        return _BASES.index(text.lower())
    if re.fullmatch(r"[0-9]{1,2}", text):
        return int(text)
    raise Unreadable("a number with a subscript that is no base")
