r"""A formula in tokens, and the part of it that a box belongs to: what is joined to the box by signs or position.

The answer grows from the box in both directions over signs, factors, scripts, units, brackets, and commands whose
argument it is. It ends at separators, words and relations. What stands before ``=`` is only a name or a step; any other
relation (``x \ne \boxed{42}``) is part of the answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rewards.math.units import LETTER_UNITS, meaning
from rewards.math.words import VALUE_WORDS, is_scale, words

_TOKEN = re.compile(
    r"(?P<skip>\s+|\\[,;:! ]|~|\\(?:left|right|[bB]igg?[lr]?|displaystyle|textstyle|limits)(?![A-Za-z])\.?|\{\})"
    r"|(?P<text>\\(?:text|textrm|textbf|textit|mbox|mathrm|operatorname|mathbf|textnormal|mathsf)\s*\{[^{}]*\})"
    r"|(?P<command>\\[A-Za-z]+\*?)"
    r"|(?P<escaped>\\.)"
    r"|(?P<number>[0-9]+(?:\{?,\}?[0-9]{3})*(?:\.[0-9]+)?|\.[0-9]+)"
    r"|(?P<word>[^\W\d_]+)"
    r"|(?P<sign>.)",
    re.DOTALL,
)
_RELATIONS = words(
    r"< > \lt \gt \le \leq \leqslant \ge \geq \geqslant \ne \neq \notin \subset \subseteq \parallel \perp \sim ≠ ≤ ≥"
)
"""Relations that are part of the answer; ``=``, ``\\approx``, ``\\equiv`` and ``\\in`` only lead to it."""
_BOUNDS = words(r"\le \leq \leqslant \ge \geq \geqslant ≤ ≥")
_SIGNS = words(r"+ - − \pm \mp ±")
_OPERATORS = _SIGNS | words(r"* / × · ÷ : \cdot \times \div \over \bmod \ast \cup \cap \setminus \land")
_DASHES = words("+ - − :")
"""Operators that are also marks of running text."""
_POSTFIXES = words(r"% \% ! ' ‰ ° \degree ² ³")
_PUNCTUATION = words("! ' ² ³")
"""Of these, what in running text is none."""
_PREFIXES = words(r"\sqrt \sin \cos \tan \cot \log \ln \lg \exp \arcsin \arccos \arctan √ \lfloor \lceil")
"""What works on an operand that follows it."""
_OPERANDS = _PREFIXES | words(
    r"\pi \alpha \beta \gamma \delta \theta \lambda \mu \phi \omega \infty \frac \dfrac \tfrac \binom \dbinom \overline"
    r" π ½ ∞"
)
_ARGUED = words(r"\sqrt \frac \dfrac \tfrac \cfrac \binom \dbinom ^ _ \overline \log \lvert")
"""Commands of whose argument more is made than layout."""
_OPENING = {"(": ")", "[": "]", "{": "}", r"\{": r"\}"}
_CLOSING = {closing: opening for opening, closing in _OPENING.items()}
_SEPARATORS = words(r", ; & \\ = \quad \qquad \Rightarrow \implies \iff \therefore . :")
_PROSE = words(r"\bmod \mod \pmod = \because \text")
"""What makes brackets after a value a remark on it."""
_SAYS_MORE = words("or and but is are was were if when where for answer answers to from not no at only")
"""Words of doubt or explanation after a value, which are read with the sentence."""


@dataclass(frozen=True, slots=True)
class Box:
    """A box in a text: from its command to its closing brace, and what is in it."""

    start: int
    end: int
    content: str


@dataclass(frozen=True, slots=True)
class Token:
    """One token of a formula; ``kind`` is a group of ``_TOKEN``, ``box``, or ``end`` of formula or line."""

    kind: str
    text: str
    start: int
    end: int

    @property
    def sign(self) -> str:
        """The text unless it is that of a box."""
        return "" if self.kind == "box" else self.text


def tokens_of(text: str, low: int, high: int, boxes: Sequence[Box], is_formula: bool) -> list[Token]:
    """The tokens from ``low`` to ``high`` with an end on both sides; in formulas every letter is a token."""
    tokens = [Token("end", "", low, low)]
    at = low
    for box in [*(box for box in boxes if low <= box.start and box.end <= high), None]:
        for match in _TOKEN.finditer(text, at, box.start if box else high):
            kind, start = match.lastgroup or "sign", match.start()
            if kind == "word" and is_formula:
                tokens += [Token("word", letter, start + n, start + n + 1) for n, letter in enumerate(match.group())]
            else:
                tokens.append(Token(kind, match.group(), *match.span()))
        if box:
            tokens.append(Token("box", box.content, box.start, box.end))
            at = box.end
    return [*tokens, Token("end", "", high, high)]


class Joined:
    """The part of a formula that is one with a box."""

    def __init__(self, tokens: Sequence[Token], box: Box, is_formula: bool) -> None:
        """``is_formula``: whether the tokens are those of a marked formula; else of running text, where less joins."""
        self.tokens = tokens
        self.is_formula = is_formula
        self.low = self.high = next(
            at for at, token in enumerate(tokens) if token.kind == "box" and token.start == box.start
        )
        self.joined = False  # more than layout and brackets stands round the box
        while self._right() or self._left() or self._enclosed():
            pass
        self._relation()

    @property
    def start(self) -> int:
        """Where it begins in the text."""
        return self.tokens[self.low].start

    @property
    def end(self) -> int:
        """Where it ends in the text."""
        return self.tokens[self.high].end

    def answer(self) -> str:
        """The box's content alone, or the formula of which it is a part, with boxes as groups."""
        part = self.tokens[self.low : self.high + 1]
        if not self.joined:
            return next(token.text for token in part if token.kind == "box")
        after = [token for token in part[1:] if token.kind != "skip"]
        has_unit = part[0].kind == "box" and (
            after[0].sign in ("_", "%", r"\%") or all(token.kind == "text" for token in after)
        )
        return "".join(f"{{{token.text}}}" if token.kind == "box" and not has_unit else token.text for token in part)

    # To the right.

    def _right(self) -> bool:
        """Take in what is joined on the right."""
        at = self._next(self.high, 1)
        token, near = self.tokens[at], at == self.high + 1
        if token.sign in _POSTFIXES:
            return (self.is_formula or token.sign not in _PUNCTUATION) and self._take(high=at)
        if token.sign in ("^", "_"):
            return (near or self.is_formula) and self._take(high=self._operand(at + 1))
        if token.kind == "text":
            return _changes(token.text) and self._take(high=at)
        if token.sign in _OPERATORS:
            spaced = self.tokens[at + 1].kind == "skip"
            is_dash = not self.is_formula and token.sign in _DASHES and spaced == near
            return not is_dash and self._take(high=self._operand(self._next(at, 1)))
        if not self.is_formula and token.kind == "word" and (len(token.text) > 1 or token.text in LETTER_UNITS):
            return near and is_scale(token.text) and self._take(high=at)
        joins = self.is_formula or (near and token.kind in ("number", "word", "command"))
        return joins and token.kind != "box" and self._take(high=self._operand(at))

    def _operand(self, at: int) -> int:
        """Where the operand ends that begins at a place; 0 when none does."""
        token = self.tokens[at]
        if token.kind in ("number", "box") or (token.kind == "word" and len(token.text) == 1):
            return at
        if token.sign in _SIGNS:
            return self._operand(self._next(at, 1))
        if token.sign in _OPENING:
            end = self._matching(at, 1)
            return 0 if any(_is_prose(inner) for inner in self.tokens[at:end]) else end
        if token.sign not in _OPERANDS:
            return 0
        while self.tokens[self._next(at, 1)].sign in ("{", "["):  # arguments of a command
            at = self._matching(self._next(at, 1), 1)
            if at == 0:
                return 0
        return at

    # To the left.

    def _left(self) -> bool:
        """Take in what is joined on the left."""
        at = self._next(self.low, -1)
        token, near = self.tokens[at], at == self.low - 1
        if token.sign in _OPERATORS:
            return self._left_operator(at, near)
        if token.sign in _PREFIXES or (token.sign == "." and near and self.tokens[at - 1].sign == "0"):
            return self._take(low=at if token.sign != "." else at - 1)
        if token.sign in ("^", "_"):
            return self._take(low=self._begin(self._next(at, -1)) or at)
        if token.kind == "word" and (not self.is_formula or self.tokens[at - 1].kind == "word"):
            return False  # a word, not a factor
        joins = self.is_formula or (near and token.kind in ("number", "command")) or token.sign == "}"
        return joins and token.kind != "box" and self._take(low=self._begin(at))

    def _left_operator(self, at: int, near: bool) -> bool:
        """An operator before the core: with the operand before it, or as a sign."""
        sign = self.tokens[at].sign
        before = self._next(at, -1)
        operand = self._begin(before)
        if sign == ":" and self.tokens[before].kind not in ("number", "box"):
            return False  # a label
        spaced = self.tokens[at - 1].kind == "skip"
        is_dash = not self.is_formula and sign in _DASHES and spaced == near
        if operand and not is_dash:
            return self._take(low=operand)
        return sign in _SIGNS and (self.is_formula or near) and self._take(low=at)

    def _begin(self, at: int) -> int:
        """Where the operand begins that ends at a place; 0 when none does."""
        token, begin = self.tokens[at], 0
        if token.kind in ("number", "box"):
            begin = at
        elif token.sign in _POSTFIXES:
            begin = self._begin(self._next(at, -1))
        elif token.kind == "word":
            begin = at if self.is_formula or len(token.text) == 1 else 0
        elif token.sign in _CLOSING:
            begin = self._begin_group(at)
        elif token.sign in _OPERANDS:
            begin = at
        if begin > 1 and self.tokens[script := self._next(begin, -1)].sign in ("^", "_"):
            return self._begin(self._next(script, -1)) or begin
        return begin

    def _begin_group(self, at: int) -> int:
        """Where the brackets begin that close at a place, with the command that they belong to; 0 for layout."""
        begin = self._matching(at, -1)
        while begin > 0 and self.tokens[before := self._next(begin, -1)].sign in ("}", "]"):
            begin = self._matching(before, -1)
        if begin <= 0:
            return 0
        command = self.tokens[self._next(begin, -1)]
        if command.sign in _ARGUED or command.sign in _PREFIXES:
            return self._next(begin, -1)
        return 0 if command.kind == "command" else begin

    # Around.

    def _enclosed(self) -> bool:
        """Take in the brackets round the core, with the command whose argument they hold."""
        left, right = self._next(self.low, -1), self._next(self.high, 1)
        opening = self.tokens[left].sign
        if _OPENING.get(opening, "none") != self.tokens[right].sign:
            return self._tuple()
        command = self._command_of(left) if opening == "{" else 0
        self.low, self.high = command or left, right
        self.joined |= bool(command) or opening == r"\{"
        while command and self.tokens[further := self._next(self.high, 1)].sign == "{":  # \frac{\boxed{1}}{2}
            self.high = self._matching(further, 1) or further
        return True

    def _command_of(self, left: int) -> int:
        """The place of the command of whose argument the brace at a place is the beginning; 0 for layout."""
        at = self._next(left, -1)
        while self.tokens[at].sign in ("}", "]"):
            at = self._matching(at, -1)
            if at == 0:
                return 0
            at = self._next(at, -1)
        return at if self.tokens[at].sign in _ARGUED else 0

    def _tuple(self) -> bool:
        r"""Take in the brackets round the core when all items in them are boxes: ``(\boxed{1}, \boxed{2})``."""
        left, right = self.low, self.high
        while _is_item(self.tokens[left]):
            left -= 1
        while _is_item(self.tokens[right]):
            right += 1
        if (
            left == self.low
            or self.tokens[left].sign not in ("(", "[", r"\{")
            or self.tokens[right].sign not in (")", "]", r"\}")
        ):
            return False
        self.low, self.high, self.joined = left, right, True
        return True

    def _relation(self) -> None:
        """Take in a relation that changes what is said, with its other side; a bound in numbers is a remark."""
        if (
            self.tokens[self._next(self.low, -1)].sign == "="
            and self.tokens[self._next(self.low, -1) - 1].sign not in "!<>"
        ):
            return  # x = \boxed{5} > 0
        for step, edge in ((-1, self.low), (1, self.high)):
            at = self._next(edge, step)
            sign = self.tokens[at].sign
            before = self.tokens[at - 1].sign
            if sign == "=" and before in ("!", "<", ">"):
                at, sign = at - 1, r"\ne" if before == "!" else r"\le"
            if sign not in _RELATIONS or (sign == ">" and before in ("-", "=")):  # an arrow
                continue
            other = at + step
            while self.tokens[other].kind not in ("end", "text") and self.tokens[other].sign not in _SEPARATORS:
                other += step
            side = self.tokens[min(at, other - step) : max(at, other - step) + 1]
            shown = [token for token in side if token.kind != "skip"]
            if not self.is_formula and {"<", ">"} <= {token.sign for token in shown}:  # <b>
                continue
            if not any(token.kind in ("word", "command") and token.sign not in _RELATIONS for token in shown):
                continue
            if any(token.kind == "word" and len(token.text) > 1 for token in shown):
                continue
            if sign in _BOUNDS and len(shown) > 2:  # a^2 + b^2 \ge \boxed{4}: the bound is the answer
                continue
            self._take(low=min(self.low, other - step), high=max(self.high, other - step))

    # Steps.

    def _next(self, at: int, step: int) -> int:
        """The place of the next token that shows, forwards or backwards."""
        at += step
        while self.tokens[at].kind == "skip":
            at += step
        return at

    def _matching(self, at: int, step: int) -> int:
        """The place of the bracket that belongs to the one at a place; 0 when there is none."""
        depth = 0
        while 0 <= at < len(self.tokens):
            sign = self.tokens[at].sign
            depth += (sign in _OPENING) - (sign in _CLOSING)
            if depth == 0:
                return at
            at += step
        return 0

    def _take(self, low: int = 0, high: int = 0) -> bool:
        """Make the core reach to a place, unless that is 0 or in it already."""
        low, high = min(low or self.low, self.low), max(high, self.high)
        if (low, high) == (self.low, self.high):
            return False
        self.low, self.high, self.joined = low, high, True
        return True


def _is_item(token: Token) -> bool:
    return token.kind in ("box", "skip") or token.sign in (",", ";", "-")


def _is_prose(token: Token) -> bool:
    return token.kind == "text" or (token.kind == "word" and len(token.text) > 1) or token.sign in _PROSE


def _changes(token: str) -> bool:
    """Whether words in a text command are the unit of the value before them, or change it."""
    content = token[token.index("{") + 1 : -1].split()
    if not 0 < len(content) <= 4:
        return False
    if len(content) == len(content[0]) == 1:
        return True
    return meaning(" ".join(content)) is not None or content[0].lower().strip(".,;:()") in VALUE_WORDS - _SAYS_MORE
