r"""Cleaned LaTeX in tokens. One pass, no recursion; an answer that is too long or too strange is refused here."""

from __future__ import annotations

import re
from dataclasses import dataclass

from rewards.math.tree import Unreadable
from rewards.math.units import BARE
from rewards.math.words import words

MAX_TOKENS = 1500
"""Tokens of one answer; the longest gold of the public sets has about 150."""
MAX_DIGITS = 400
"""Digits of one written number."""


@dataclass(frozen=True, slots=True)
class Token:
    """One token; ``kind`` is ``num name text unit cmd`` or ``op``."""

    kind: str
    value: str
    spaced: bool
    """White space stood before it."""


_TEXT = frozenset({"text", "mbox", "textbf", "textit", "textrm", "texttt", "textnormal", "operatorname"})
_FONT = words("mathrm mathbf mathit mathsf boldsymbol bm mathcal mathbb mathfrak")
FUNCTIONS = words("sin cos tan cot sec csc arcsin arccos arctan arccot arcsec arccsc sinh cosh tanh coth log ln lg exp")
"""Function names, with or without backslash."""
_WORDS = {"sqrt": "sqrt", "pi": "pi", "infinity": "infty", "inf": "infty", "asin": "arcsin", "acos": "arccos"}
_SAME = {
    "dbinom": "binom", "tbinom": "binom", "le": "leq", "leqslant": "leq", "ge": "geq", "geqslant": "geq", "ne": "neq",
    "lt": "<", "gt": ">", "land": "and", "wedge": "and", "lor": "or", "vee": "or", "ast": "*", "div": "/", "colon": ":",
    "lbrace": "{set", "rbrace": "}set", "lvert": "|", "rvert": "|", "vert": "|", "mid": "|", "lbrack": "[",
    "rbrack": "]", "degree": "circ", "varnothing": "emptyset", "langle": "<(", "rangle": ")>", "cfrac": "frac",
    "smallmatrix": "matrix", "bigcup": "cup", "simeq": "approx", "varphi": "phi", "varepsilon": "epsilon",
    "mathop": "", "rm": "", "bf": "", "it": "", "prime": "'", "dots": "...", "ldots": "...", "cdots": "...",
}  # fmt: skip
_ARGUMENTS = {"frac": 2, "binom": 2, "sqrt": 1}
_PIECE = re.compile(
    r"(?P<space>\s+)"
    r"|(?P<num>[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]{1,3}(?![0-9A-Za-z.]))?"
    r"|\.[0-9]+(?:[eE][+-]?[0-9]{1,3}(?![0-9A-Za-z.]))?)"
    r"|\\(?P<cmd>[A-Za-z]+)"
    r"|(?P<esc>\\[{}$%|_#&\\])"
    r"|(?P<word>[A-Za-z]+)"
    r"|(?P<op>\*\*|<=|>=|!=|==|\.\.\.|[-+*/^_=<>!|(),;:\[\]{}&%'])"
)
_SPLIT = re.compile(r"\s*(?:[,;]|\band\b|\bor\b)\s*")
_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")


def tokenize(text: str) -> list[Token]:
    """Tokens of a cleaned answer. Raises ``Unreadable``."""
    tokens: list[Token] = []
    spaced, at = False, 0
    owed = [0]  # arguments that a command still takes, for every open brace: one without braces is a single digit
    while at < len(text):
        match = _PIECE.match(text, at)
        if match is None:
            raise Unreadable(f"the character {text[at]!a}")
        if len(tokens) > MAX_TOKENS:
            raise Unreadable(f"more than {MAX_TOKENS} signs")
        at = match.end()
        kind = match.lastgroup
        if kind == "space":
            spaced = True
            continue
        if kind == "num":
            number = match.group()
            if len(number) > MAX_DIGITS:
                raise Unreadable(f"a number of more than {MAX_DIGITS} digits")
            if owed[-1] and number.isdigit():
                number, at = number[0], match.start() + 1
            tokens.append(Token("num", number, spaced))
        elif kind == "cmd":
            at = _command(match["cmd"], text, at, spaced, tokens)
        elif kind == "esc":
            sign = {r"\{": "{set", r"\}": "}set", r"\|": "|", "\\\\": "newline"}.get(
                match["esc"], match["esc"].removeprefix("\\")
            )
            tokens.append(Token("op", sign, spaced))
        elif kind == "word":
            _word(match["word"], spaced, tokens)
        else:
            sign = {"<=": "leq", ">=": "geq", "!=": "neq", "==": "=", "**": "^"}.get(match.group(), match.group())
            tokens.append(Token("cmd" if sign in ("leq", "geq", "neq") else "op", sign, spaced))
        spaced = False
        if tokens:
            _count_arguments(tokens, owed)
    return tokens


def _count_arguments(tokens: list[Token], owed: list[int]) -> None:
    """Follow which commands still wait for an argument; brackets after a root hold its degree."""
    token = tokens[-1]
    if token.value == "{" or (token.value == "[" and len(tokens) > 1 and tokens[-2].value == "sqrt"):
        owed.append(0)
    elif token.value in ("}", "]") and len(owed) > 1:
        owed.pop()
        owed[-1] = max(0, owed[-1] - (token.value == "}"))
    elif token.kind == "cmd" and token.value in _ARGUMENTS:
        owed[-1] = max(0, owed[-1] - 1) + _ARGUMENTS[token.value]
    else:
        owed[-1] = max(0, owed[-1] - 1)


def _braced(text: str, at: int) -> tuple[str, int]:
    """Content of the braces that open at ``at`` or after spaces, and where they end."""
    start = at
    while start < len(text) and text[start] == " ":
        start += 1
    if text[start : start + 1] != "{":
        raise Unreadable("a text command without braces")
    depth = 0
    for end in range(start, len(text)):
        if text[end] in "{}" and text[end - 1] != "\\":
            depth += 1 if text[end] == "{" else -1
            if depth == 0:
                return text[start + 1 : end], end + 1
    raise Unreadable("unbalanced braces")


def _command(name: str, text: str, at: int, spaced: bool, tokens: list[Token]) -> int:
    """Append the tokens of one command; returns where the text goes on."""
    if name in _TEXT or (name == "mathrm" and text[at : at + 1] == "{"):
        content, at = _braced(text, at)
        _prose(content, tokens)
    elif name in ("begin", "end"):
        content, at = _braced(text, at)
        tokens.append(Token("cmd", f"{name} {content.strip('*')}", spaced))
        if name == "begin" and content == "array" and text[at : at + 1] == "{":
            at = _braced(text, at)[1]
    elif name in _FONT:
        if name == "mathbb":
            content, at = _braced(text, at)
            tokens.append(Token("name", f"mathbb:{content}", spaced))
    else:
        name = _SAME.get(name, name)
        if name in ("and", "or"):
            tokens.append(Token("op", ",", spaced))
        elif name:
            tokens.append(Token("cmd" if name.isalpha() else "op", name, spaced))
    return at


def _prose(content: str, tokens: list[Token]) -> None:
    r"""Tokens of the content of ``\text{...}``: words, separators between them, or a number."""
    for index, piece in enumerate(_SPLIT.split(content)):
        if index:
            tokens.append(Token("op", ",", True))
        part = piece.strip()
        if _NUMBER.fullmatch(part):
            if part.startswith("-"):
                tokens.append(Token("op", "-", True))
            tokens.append(Token("num", part.removeprefix("-"), True))
        elif part:
            _words(part, tokens)


def _words(words: str, tokens: list[Token]) -> None:
    """Append words, joined to words before them."""
    if tokens and tokens[-1].kind == "text":
        words = f"{tokens.pop().value} {words}"
    tokens.append(Token("text", words, True))


def _word(word: str, spaced: bool, tokens: list[Token]) -> None:
    r"""Append a run of bare letters: a separator, a function, a unit after a value, a word, or single variables."""
    after_value = bool(tokens) and (tokens[-1].kind == "num" or tokens[-1].value in ("}", ")", "pi"))
    if word in ("and", "or"):
        tokens.append(Token("op", ",", True))
    elif word in FUNCTIONS or word in _WORDS:
        tokens.append(Token("cmd", _WORDS.get(word, word), spaced))
    elif after_value and word in BARE:
        tokens.append(Token("text", word, spaced))
    elif len(word) > 4 or (tokens and tokens[-1].kind == "text" and spaced and len(word) > 1):
        _words(word, tokens)
    else:
        tokens.extend(Token("name", letter, spaced and not index) for index, letter in enumerate(word))
