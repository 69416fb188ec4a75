"""The operands of an expression: numbers, names, functions, brackets, roots."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from fractions import Fraction

from rewards.math.environments import Environments
from rewards.math.numerals import base_of
from rewards.math.tokens import FUNCTIONS
from rewards.math.tree import (
    DOTS,
    Based,
    Builder,
    Expr,
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
    " aleph emptyset star circledast oplus varsigma top"
)
_UNIT_BRACKETS = {"[": "]", "(": ")", "{": "}"}
CURRENCIES = frozenset("$£€¥₹")


class Operands(Environments, ABC):
    """Reads operands; what stands around them is read by the methods that a subclass adds."""

    @abstractmethod
    def listing(self, expand: bool = True) -> list[Node]:
        """Items between separators."""

    @abstractmethod
    def sum(self) -> Node:
        """Terms with signs."""

    @abstractmethod
    def product(self) -> Node:
        """Factors."""

    @abstractmethod
    def power(self) -> Node:
        """Parse an operand with what stands after it."""

    @abstractmethod
    def beside(self, left: Expr) -> Node:
        """Parse a factor without a sign before it."""

    def starts_factor(self) -> bool:
        """Return whether the coming token can stand right after a factor."""
        sign = self.peek()
        if sign == "|":
            return self.bars == 0
        if (sign == "(" and self.peek(1) in ("mod", "bmod")) or self.unit_ahead():
            return False
        return (
            self.kind() in ("num", "name")
            or sign in ("(", "[", "{", "frac", "sqrt", "binom", "lfloor", "lceil", "neg")
            or sign in CURRENCIES
            or sign in FUNCTIONS
            or sign in _SYMBOLS
            or sign in _ACCENTS
            or sign in _BIG
            or sign in _CALLS
            or sign in _PREFIXES
            or sign.startswith("begin ")
        )

    def unit_ahead(self) -> bool:
        r"""Whether a unit comes: words, or a sign of one such as ``\mu\text{m}``, ``\Omega``, a fraction of units."""
        sign = self.peek()
        if self.kind() == "text":
            return True
        if sign == "frac" and self.peek(1) == "{":
            return self.kind(2) == "text"
        if sign in _UNIT_BRACKETS and self.kind(1) == "text":
            return self.peek(2) == _UNIT_BRACKETS[sign]
        if sign == "mu":
            return self.kind(1) == "text"
        return sign == "Omega" and self.kind(1) == "" and self.at > 0 and self.tokens[self.at - 1].kind == "num"

    def atom(self) -> Node:
        """Parse one operand."""
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
                return self.text()
            self.at += 1
            return self.form(sign)
        finally:
            self.depth -= 1

    def text(self) -> Node:
        """Words, with a number after them if one comes: ``October 30``."""
        self.at += 1
        words = self.tokens[self.at - 1].value
        if re.fullmatch(r"[0-9A-F]+", words) and self.peek() == "_":
            self.at += 1
            base = base_of(self.script(), words)
            if not base:
                raise Unreadable("words with a subscript")
            return Based(words, base)
        if self.kind() == "num" and self.kind(1) == "" and self.peek(1) in ("", ",", ")", "}"):
            self.at += 1
            words += f" {self.tokens[self.at - 1].value}"
        return Text(words)

    def form(self, sign: str) -> Node:
        """Parse the operand that a sign or command begins; it has been stepped over."""
        if sign in ("(", "["):
            return self.brackets(sign)
        if sign == "<(":
            items = self.listing(expand=False)
            self.need(")>")
            return Seq("(", tuple(items), ")")
        if sign == "{":
            node = self.item()
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
        if sign == "||":
            inner = expression(self.sum())
            self.need("||")
            return Op("norm", (inner,))
        if sign == "...":
            return DOTS
        if sign == "neg":
            return Op("not", (expression(self.power()),))
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
        if sign in CURRENCIES:
            return Unit(expression(self.power()), sign)
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
        start = self.at
        items = self.listing(expand=False)
        self.bars = bars
        closing = self.peek()
        if closing not in (")", "]"):
            raise Unreadable("unbalanced brackets")
        self.at += 1
        if len(items) == 1:
            if opening == "(" and self.peek() == "_" and (based := self.based(start)) is not None:
                return based
            if (opening, closing) in (("(", ")"), ("[", "]")):
                return items[0]
            raise Unreadable("unbalanced brackets")
        return Seq(opening, tuple(items), closing)

    def based(self, start: int) -> Based | None:
        """Digits in brackets with their base: ``(2A)_{16}``."""
        digits = "".join(token.value for token in self.tokens[start : self.at - 1])
        place = self.at
        if re.fullmatch(r"[0-9A-F]+", digits):
            self.at += 1
            base = base_of(self.script(), digits)
            if base:
                return Based(digits, base)
            self.at = place
        return None

    def set_of(self) -> Node:
        r"""A set by its elements, or ``\{x | condition\}``."""
        if self.take("}set"):
            return Sym("emptyset")
        outer = self.plus_minus
        self.bars += 1  # a bar after an element is no absolute value
        self.sets += 1
        items = self.listing(expand=self.sets == 1)
        builder = len(items) == 1 and self.peek() in ("|", ":")
        conditions: list[Node] = []
        if builder:
            self.at += 1
            conditions = self.listing(expand=False)
        self.bars -= 1
        self.sets -= 1
        self.need("}set")
        if self.sets == 0:
            self.plus_minus = outer
        return described(expression(items[0]), conditions) if builder else SetOf(tuple(items))

    def name(self) -> Node:
        """Parse a variable with its subscript."""
        name = self.tokens[self.at].value
        self.at += 1
        return self.subscripted(name)

    def subscripted(self, name: str) -> Expr:
        """Parse a name with a subscript, if one comes; ``C_n^k`` is a binomial."""
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
        """Parse an exponent: braces, or one sign, letter or number (TeX takes a single digit; people mean the
        number).
        """
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
        """Parse a square root or the root of a given degree."""
        degree: Expr = Num(Fraction(2))
        if self.take("["):
            degree = expression(self.sum())
            self.need("]")
        return Op("root", (self.argument(), degree))

    def function(self, name: str) -> Expr:
        r"""``\sin^2 x``, ``\log_2(x)``: in brackets, or all factors that follow without a sign."""
        usual: dict[str, Expr] = {"lg": Num(Fraction(10)), "log": Sym("ten")}
        base = usual.get(name, Sym("e"))
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
                inner = expression(self.beside(inner))
        if name in ("log", "ln", "lg"):
            node = Op("log", (inner, base))
        elif name == "exp":
            node = Op("pow", (Sym("e"), inner))
        elif exponent == Op("neg", (Num(Fraction(1)),)):
            return Op(f"arc{name}", (inner,))
        else:
            node = Op(name, (inner,))
        return Op("pow", (node, exponent)) if exponent is not None else node

    def power_without_script(self) -> Node:
        """Parse the bracketed argument of a function; an exponent after it belongs to the function's value."""
        return self.atom()

    def unevaluated(self, name: str) -> Expr:
        """Parse a sum, product, integral, limit, maximum ... that somebody still has to work out."""
        parts: list[Expr] = []
        while self.peek() in ("_", "^"):
            self.at += 1
            parts.append(Sym(self.script()))
        if name in _CALLS and not parts and self.peek() in ("(", "{set"):
            closing = ")" if self.peek() == "(" else "}set"
            self.at += 1
            parts = [expression(item) for item in self.listing(expand=False)]
            self.need(closing)
        else:
            parts.append(expression(self.product()))
        return Op(name, tuple(parts))


def described(head: Expr, conditions: list[Node]) -> Node:
    """Return a set by description; one of numbers within bounds is an interval or union."""
    if len(conditions) == 1 and isinstance(head, Sym):
        (condition,) = conditions
        bounds = isinstance(condition, Relation) and set(condition.signs) <= {"<", ">", "<=", ">="}
        if bounds or isinstance(condition, Seq | Union | SetOf):
            return condition
    return Builder(head, tuple(conditions))


def accented(node: Expr, accent: str) -> Sym:
    """Return a name with an accent or prime."""
    letters = node.args if isinstance(node, Op) and node.name == "mul" else (node,)
    if not all(isinstance(letter, Sym) for letter in letters):
        raise Unreadable(f"{accent!r} over something that is no name")
    return Sym("".join(letter.name for letter in letters if isinstance(letter, Sym)) + ":" + accent)
