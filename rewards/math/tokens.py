r"""Cleaned LaTeX in tokens. One pass, no recursion but into ``\text``; what is too long or strange is refused here."""

from __future__ import annotations

import re
from dataclasses import dataclass

from rewards.math.signs import RANGE
from rewards.math.tree import Unreadable
from rewards.math.words import words

MAX_TOKENS = 1500
"""Tokens of one answer; the longest gold of the public sets has about 150."""
MAX_DIGITS = 400
"""Digits of one written number."""
MAX_TEXTS = 8
"""How deep text commands may stand in each other."""


@dataclass(frozen=True, slots=True)
class Token:
    """One token; ``kind`` is ``num name text word cmd`` or ``op``. A ``word`` is a run of letters to be resolved."""

    kind: str
    value: str
    spaced: bool
    """White space stood before it."""
    upright: bool = False
    r"""It stood in ``\mathrm`` or ``\text``."""


_TEXT = words(
    "text mbox hbox textbf textit textrm texttt textnormal textsf textsl textsc textup textmd emph operatorname"
)
_UPRIGHT = frozenset({"mathrm", "mathsf", "rm", "sf"})
_FONT = words(
    "mathbf mathit mathtt mathnormal mathscr boldsymbol boldmath bm mathcal mathfrak bf it tt em mathop mathbin mathrel"
    " ensuremath"
)
FUNCTIONS = words("sin cos tan cot sec csc arcsin arccos arctan arccot arcsec arccsc sinh cosh tanh coth log ln lg exp")
"""Function names, with or without backslash."""
NAMED = {
    "sqrt": "sqrt", "pi": "pi", "infinity": "infty", "inf": "infty", "asin": "arcsin", "acos": "arccos",
    "atan": "arctan", "tg": "tan", "ctg": "cot", "arctg": "arctan", "sh": "sinh", "ch": "cosh", "th": "tanh",
    "mod": "mod", "choose": "choose", "oo": "infty",
}  # fmt: skip
"""Further names that mean a command, without backslash."""
_CALLED = words("gcd lcm max min det sup inf lim")
_SAME = {
    "dbinom": "binom", "tbinom": "binom", "le": "leq", "leqslant": "leq", "ge": "geq", "geqslant": "geq", "ne": "neq",
    "lt": "<", "gt": ">", "wedge": "land", "vee": "lor", "lnot": "neg", "ast": "*", "div": "/", "colon": ":",
    "lbrace": "{set", "rbrace": "}set", "lvert": "|", "rvert": "|", "vert": "|", "mid": "|", "lbrack": "[",
    "rbrack": "]", "degree": "circ", "varnothing": "emptyset", "langle": "<(", "rangle": ")>", "backslash": "setminus",
    "smallmatrix": "matrix", "bigcup": "cup", "bigcap": "cap", "simeq": "approx", "varphi": "phi",
    "varepsilon": "epsilon", "prime": "'", "dots": "...", "Vert": "||", "lVert": "||", "rVert": "||",
    "implies": "Rightarrow", "iff": "Leftrightarrow", "Longrightarrow": "Rightarrow", "arctg": "arctan", "tg": "tan",
    "ctg": "cot", "pounds": "£", "textsterling": "£", "euro": "€", "texteuro": "€", "yen": "¥", "textyen": "¥",
    "rupee": "₹", "textdollar": "$", "lparen": "(", "rparen": ")", "cot": "cot", "bot": "perp", "Alpha": "A",
}  # fmt: skip
_ARGUMENTS = {"frac": 2, "binom": 2, "sqrt": 1}
_PIECE = re.compile(
    r"(?P<space>\s+)"
    r"|(?P<num>[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]{1,3}(?![0-9A-Za-z.]))?"
    r"|\.[0-9]+(?:[eE][+-]?[0-9]{1,3}(?![0-9A-Za-z.]))?)"
    r"|\\(?P<cmd>[A-Za-z]+)"
    r"|(?P<esc>\\[{}$%|_#&\\])"
    r"|(?P<word>[A-Za-z]+)"
    r"|(?P<foreign>[^\W\d_]+)"
    rf"|(?P<op>\*\*|<=|>=|!=|==|[-+*/^_=<>!|(),;:\[\]{{}}&%'$£€¥₹‰{RANGE}])"
)
_SPLIT = re.compile(r"\s*([,;]|\band\b|\bor\b)\s*")
_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")
_MATHS = re.compile(r"[-+]?(?:\\?\$|[£€¥₹(.])?[0-9].*|[A-Za-z] ?[=<>].*|[<>].*", re.DOTALL)
"""Text that is a value: it begins with a number, or names one."""


def tokenize(text: str, depth: int = 0) -> list[Token]:
    """Return the tokens of a cleaned answer, its words unresolved. Raises ``Unreadable``."""
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
            at = _command(match["cmd"], text, at, spaced, tokens, depth)
        elif kind == "esc":
            sign = {r"\{": "{set", r"\}": "}set", r"\|": "||", "\\\\": "newline"}.get(
                match["esc"], match["esc"].removeprefix("\\")
            )
            tokens.append(Token("op", sign, spaced))
        elif kind in ("word", "foreign"):
            _word(match.group(), spaced, tokens, depth > 0)
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


def braced(text: str, at: int) -> tuple[str, int]:
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


def _command(name: str, text: str, at: int, spaced: bool, tokens: list[Token], depth: int) -> int:
    """Append the tokens of one command; returns where the text goes on."""
    opens = text[at:].lstrip(" ")[:1] == "{"
    if name in _TEXT or (name in _UPRIGHT and opens):
        content, at = braced(text, at + text[at : at + 1].count("*"))
        _prose(content, spaced, tokens, name in _TEXT - {"operatorname"}, depth)
    elif name in ("begin", "end"):
        content, at = braced(text, at)
        tokens.append(Token("cmd", f"{name} {content.strip('*')}", spaced))
        if name == "begin" and content == "array" and text[at : at + 1] == "{":
            at = braced(text, at)[1]
    elif name in _UPRIGHT:
        letters = re.compile(r" *([A-Za-z]+)").match(text, at)
        if letters:
            at = letters.end()
            _prose(letters[1], spaced, tokens, False, depth)
    elif name == "mathbb":
        content, at = (
            braced(text, at)
            if opens
            else (text[at:].lstrip(" ")[:1], at + len(text[at:]) - len(text[at:].lstrip(" ")) + 1)
        )
        tokens.append(Token("name", f"mathbb:{content}", spaced))
    elif name not in _FONT:
        name = _SAME.get(name, name)
        tokens.append(Token("cmd" if name.isalpha() and name.isascii() else "op", name, spaced))
    return at


def _prose(content: str, spaced: bool, tokens: list[Token], is_text: bool, depth: int) -> None:
    r"""Tokens of the content of ``\text{...}``: words, separators between them, a number, or a value with its unit."""
    if depth > MAX_TEXTS:
        raise Unreadable(f"text in text, deeper than {MAX_TEXTS}")
    content = content.replace("^{\\circ}", "°").replace("^\\circ", "°")
    for index, piece in enumerate(_SPLIT.split(content)):
        part = piece.strip()
        if index % 2:
            tokens.append(Token("op", part, True))
        elif _NUMBER.fullmatch(part):
            if part.startswith("-"):
                tokens.append(Token("op", "-", True))
            tokens.append(Token("num", part.removeprefix("-"), True))
        elif _MATHS.fullmatch(part) or (part.startswith("\\") and part[1:2].isalpha()):
            tokens.extend(tokenize(part.replace("°", "^\\circ "), depth + 1))
        elif part in ("\\$", "to"):
            tokens.append(Token("op", "$" if part == "\\$" else ":", spaced))
        elif part in FUNCTIONS or part in NAMED or (part in _CALLED and not is_text):
            tokens.append(Token("cmd", NAMED.get(part, part) if part not in _CALLED else part, spaced))
        elif re.match(r"mod\b", part):
            tokens.append(Token("cmd", "mod", spaced))
            tokens.extend(tokenize(part.removeprefix("mod"), depth + 1))
        elif len(part) == 1 and part.isalpha() and part.isascii():
            tokens.append(Token("text" if is_text and not tokens else "word", part, spaced, True))
        elif part:
            add_words(part, tokens)


def add_words(text: str, tokens: list[Token]) -> None:
    """Append words, joined to words before them."""
    if tokens and tokens[-1].kind == "text":
        text = f"{tokens.pop().value} {text}"
    tokens.append(Token("text", text, True, True))


def _word(word: str, spaced: bool, tokens: list[Token], upright: bool) -> None:
    """Append a run of bare letters: a separator, a function, or a word to be resolved."""
    if word in ("and", "or"):
        tokens.append(Token("op", word, True))
    elif word == "to" and tokens and tokens[-1].kind == "num":
        tokens.append(Token("op", ":", True))
    elif word in FUNCTIONS or word in NAMED:
        tokens.append(Token("cmd", NAMED.get(word, word), spaced))
    else:
        tokens.append(Token("word", word, spaced, upright))
