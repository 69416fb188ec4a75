"""What the rules of ``formats`` read: a problem without its typesetting and its drawings' code."""

from __future__ import annotations

import re
from dataclasses import dataclass

_HEAD, _TAIL = 8_000, 4_000
"""Characters at either end that are read: a question is asked at one of them, and hostile text costs no more."""
_WRAPPED = re.compile(
    r"\\(?:text(?:bf|rm|sf|it|tt|up)?|math(?:rm|bf|sf|it)|mbox|emph|operatorname|underline|boxed|fbox)\s*"
    r"(?:\{([^{}\n]{0,200})\}|([A-Z])\b)"
)
_BOLD_LETTER = re.compile(r"\*\*\(?([A-K])\)?[.):]?\*\*")
_BREAK = re.compile(
    r"\\(?:q?quad|newline|bullet|item)\b|\\\\(?!\w)|\\\]|\$\$|\\end\{[^{}]{0,20}\}|\\[hv]space\*?\{[^{}]{0,20}\}|•"
)
_THIN = re.compile(r"\\(?:[,;:! ]|left\b|right\b)")
_SIGNS = str.maketrans("$~\t", "   ")
_SPACES = re.compile(r"  +")

_VERBS = (
    "find|compute|calculate|determine|evaluate|simplify|estimate|approximate|maximi[sz]e|minimi[sz]e|factori[sz]e|"
    "factor|solve|integrate|differentiate|rationali[sz]e"
)
_REQUESTS = (
    "give|state|name|list|write|round|convert|express|divide|multiply|add|subtract|expand|enter|tell|rewrite|work out|"
    "arrange|order|sort|identify|describe|fill in|complete|use|draw|sketch|graph|plot|choose|select|pick|classify|"
    "compare|answer|count|let us find|reduce|translate|implement|print|return|output|design|create|provide|"
    "construct|obtain|represent|suggest|decide|judge|predict|formulate|summari[sz]e|match|deduce|figure out|"
    "perform|put|apply|generate|specify|report|recall|guess|locate|break down|change|combine|cancel|sum|derive an?"
)
_ASKED = "is|are|was|were|will|would|does|do|did|should|must|can"
ASKS = re.compile(
    "|".join(
        (
            r"[?？؟]",
            r"(?:^|[.:;,，!)\n]\s*|\b(?:and|then|hence|please|to|must|also|now|thus|therefore|so|finally|proof,|or|fully|"
            rf"completely) )(?:{_VERBS})\b",
            rf"(?:^|[.:;，!)\n]\s*|\b(?:then|please|also|now|, and|to) |, )(?:{_REQUESTS})\b",
            rf"\bwhat(?:'s| (?:{_ASKED}|\w+ (?:of|{_ASKED})))\b",
            r"\b(?:how (?:many|much|long|far|old|tall|fast|often|large|big)|why)\b|\bask(?:s|ed) (?:to|for)\b",
            r"求(?!证)|计算|多少|几|解方程|化简|写出|等于|为何|哪|什么",
        )
    )
)
"""Where a lower-cased text asks for something: a question, a request, or a question without its mark."""

MENTIONS = re.compile(rf"\b(?:{_VERBS}|print|return|output|reverse|simply)\b")
"""A verb that asks, wherever it stands: "given $a = 2$ find $b$", but also "he can find"."""


@dataclass(frozen=True, slots=True)
class Wording:
    """One problem as rules read it."""

    raw: str
    """The statement's ends, as they are."""
    plain: str
    """Without drawings' code, dollar signs and fonts; spacing commands are line breaks."""
    text: str
    """``plain`` in lower case."""
    answer: str
    """The reference without dollar signs and fonts."""
    said: str
    """``answer`` in lower case, without brackets and full stops around it."""

    @property
    def is_letter(self) -> bool:
        """Whether the answer is the letter of an option."""
        return re.fullmatch(r"[a-k]", self.said) is not None

    def has(self, *words: str) -> bool:
        """Whether one of these stands in ``text``, as a word or in one."""
        return any(map(self.text.__contains__, words))

    def near(self, pattern: re.Pattern[str], *words: str) -> bool:
        """Whether ``text`` has a match of a pattern each of whose matches has one of the words, at most 80 characters
        from its beginning and 160 from its end. Looking for words is much faster than for patterns.
        """
        for word in words:
            at = self.text.find(word)
            while at >= 0:
                found = pattern.search(self.text, max(0, at - 80), at + 300)
                # The end of the window is no end of the text, as ``$`` takes it.
                if found and pattern.match(self.text, found.start()):
                    return True
                at = self.text.find(word, at + 140)
        return False

    def names(self, word: str) -> bool:
        """Whether the statement, drawings' labels included, has a word (in any case, or in the plural)."""
        return re.search(rf"(?<!\w){re.escape(word)}s?(?!\w)", self.raw, re.IGNORECASE) is not None


def wording(statement: str, answer: str) -> Wording:
    """Return what rules read of a problem."""
    raw = ends(statement)
    plain = bare(_BREAK.sub("\n", without_drawings(raw)))
    said = bare(answer[:400])
    return Wording(raw, plain, plain.lower(), said, said.strip(" .()[]!").lower())


def ends(statement: str) -> str:
    """Return the beginning and the end of a long text, and a short one whole."""
    if len(statement) <= _HEAD + _TAIL:
        return statement
    return f"{statement[:_HEAD]}\n{statement[-_TAIL:]}"


def without_drawings(text: str) -> str:
    """Return a text without the code of Asymptote drawings."""
    kept: list[str] = []
    begin = 0
    while (start := text.find("[asy]", begin)) >= 0:
        kept.append(text[begin:start])
        stop = text.find("[/asy]", start)
        if stop < 0:
            return "\n".join(kept)
        begin = stop + len("[/asy]")
    return "\n".join([*kept, text[begin:]])


def bare(text: str) -> str:
    """Return a text without fonts and dollar signs, and with single spaces."""
    if "\\" in text:
        text = _THIN.sub(" ", _WRAPPED.sub(_content, _WRAPPED.sub(_content, text)))
    if "**" in text:
        text = _BOLD_LETTER.sub(r"\n(\1) ", text).replace("**", " ")
    return _SPACES.sub(" ", text.translate(_SIGNS)).strip()


def _content(found: re.Match[str]) -> str:
    return found[1] if found[1] is not None else found[2]
