r"""Problems whose answers can be guessed, or that no rule can judge, by their text alone [2501.12599 §2.1].

k1.5 leaves out "multiple-choice, true/false, and proof-based questions"; how it finds them is not published. What is
counted as what here:

- ``multiple_choice``: options stand in the text, lettered or not, or the letter of one is asked for; also where the
  options were lost ("which of the following").
- ``true_false``: the answer is yes or no, true or false.
- ``few_answers``: a word out of few that everyone knows (odd or even, a day of the week, a direction) or that the
  question itself names ("who is older, Ann or Ben?"). A guess is right as often as with options.
- ``proof``: something is to be shown, and nothing is asked besides.
- ``several_answers``: parts that each ask something, or a list of *different* quantities, which the grader would take
  in any order. All solutions of one equation, a tuple, a set, and values for names are one answer
  (``rewards.math.grade``).
- ``no_question``: nothing is asked, or what is asked for stands in a figure, table or passage that the text lacks. "As
  shown" beside a full description is no reason: most such problems can be solved.

Rules know English, and of Chinese the set phrases. Every pattern is linear in the text, and only its beginning and
end are read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection

from recipes.curate.missing import refers_elsewhere
from recipes.curate.options import has_options
from recipes.curate.parts import asks_for_several
from recipes.curate.wording import ASKS, MENTIONS, Wording, wording

_YES_NO = frozenset(
    """yes no true false correct incorrect wrong ja nein oui non sí да нет 是 否 对 错 正确 错误 不是 不能 能 不对 √ ×
    はい いいえ""".split()  # noqa: SIM905
)
_TRUTH_ASKED = re.compile(
    r"\b(?:true|false|whether|proposition|statements?|(?:in)?correct|t/f)\b|判断|命题|是否|^(?:is|are|does|do|can|will)\b"
)
_YES_BUT = re.compile(
    r"(?:yes|no|true|false|正确|错误)[,;:.，。]|(?:it|they|he|she) (?:is|are|does|do|can)(?: not|n't)?$"
)
_FEW = frozenset(
    """odd even neither both positive negative left right up down north south east west northeast northwest southeast
    southwest clockwise counterclockwise anticlockwise convex concave increasing decreasing circle ellipse parabola
    hyperbola line point empty acute obtuse scalene isosceles equilateral greater less equal more fewer larger smaller
    same first second spring summer autumn fall winter monday tuesday wednesday thursday friday saturday sunday january
    february march april may june july august september october november december rational irrational prime composite
    converges diverges convergent divergent heads tails < > =""".split()  # noqa: SIM905
)
_ROMAN = frozenset(("i", "ii", "iii", "iv"))
_FILLING = re.compile(r"^(?:they are |it is |both are |the |quadrants? )+")
_NAME = re.compile(r"[^\W\d_]{2}[\w.' -]+")
_NAME_ASKED = re.compile(
    r"\b(?:who|whom|whose|which|where|what (?:is the )?(?:colou?r|day|month|season|direction|kind|type|order)|in what|"
    r"classify|determine if|compare|names?|fewest|least popular)\b"
)
_LETTER_OF_A_PATTERN = re.compile(r"\b(?:what|which)\b[^.?]{0,40}\b(?:letter|column|row|box|door)\b")
_CHOICE_OF_TWO = re.compile(r"\b(?:which|who)\b[^.?]{0,300}\bor\b[^.?]{0,200}\?")
_LONGEST_CHOICE = 1500
"""Characters; in longer texts, such as passages, there are many words that could be the answer."""

_SHOW = re.compile(
    r"(?:^|[.:;,?!)\n，。；、]\s*|\b(?:then|and|to|please|or|induction|must|should|we)\s+)"
    r"(?:(?:dis)?prove|show(?! your\b)|demonstrate|verify|justify(?: why)?|establish|derive(?! an?\b)|explain why|"
    r"(?:give|write|provide) an? (?:\w+ )?proof|check that)\b|求证|证明"
)
_SHOW_WORDS = (
    "prove", "proof", "show", "monstrate", "verify", "justify", "establish", "derive", "explain", "check", "证"
)  # fmt: skip
_REMARKS = re.compile(r"when (?:does|do|is) (?:the )?equality (?:hold|occur|attained)s?[^?.]{0,40}\?|prove or disprove")

_ENGLISH = re.compile(r"\b(?:the|of|a|an|is|and|to|in|that|for|with|be|by|then|at|it|if|on|are|was|you)\b")
_WORD = re.compile(r"[^\W\d_]{2,}")
_BLANK = re.compile(r"_{2,}|\\underline|\\(?:boxed|square|fbox)\b|\( {1,}\)|（\s*）|[.…]{4,}|\\ldots\s*$")


def excluded(statement: str, answer: str, formats: Collection[str]) -> str | None:
    """Return the format, one of ``formats``, for which a problem is left out, or ``None``; where several fit, the one
    that stands first in the list above this module.
    """
    read = wording(statement, answer)
    for name, fits in _RULES.items():
        if name in formats and fits(read):
            return name
    return None


def _is_true_false(read: Wording) -> bool:
    if read.said in _YES_NO or _YES_BUT.match(read.said):
        return True
    return read.said in ("t", "f", "right", "it is not") and _TRUTH_ASKED.search(read.text) is not None


def _has_few_answers(read: Wording) -> bool:
    said = [_FILLING.sub("", item) for item in re.split(r"\s*,\s*(?:and )?", read.said) if item]
    if not said or len(read.text) > _LONGEST_CHOICE:
        return False
    if all(item in _FEW for item in said) or (all(item in _ROMAN for item in said) and read.has("quadrant")):
        return True
    if len(said) == 1 and " or " in read.text and read.said in read.text and _CHOICE_OF_TWO.search(read.text):
        return True
    if len(read.said) == 1 and read.said.isalpha():
        return _LETTER_OF_A_PATTERN.search(read.text) is not None
    return (
        all(_NAME.fullmatch(item) and read.names(item) for item in said) and _NAME_ASKED.search(read.text) is not None
    )


def _is_proof(read: Wording) -> bool:
    if not _shows(read):
        return False
    rest = _SHOW.sub("; ", _REMARKS.sub(" ", read.text))
    return ASKS.search(rest) is None


def _shows(read: Wording) -> bool:
    return read.near(_SHOW, *_SHOW_WORDS)


def _has_no_question(read: Wording) -> bool:
    if refers_elsewhere(read):
        return True
    return not _asks_anything(read) and _is_english(read.text)


def _asks_anything(read: Wording) -> bool:
    """Whether there is a question, a request, a blank, or a sentence that the answer ends."""
    if (
        "?" in read.text
        or MENTIONS.search(read.text)
        or ASKS.search(read.text)
        or _shows(read)
        or _BLANK.search(read.text)
    ):
        return True
    return not read.text.rstrip(" $*\\])}").endswith((".", "!"))


def _is_english(text: str) -> bool:
    words = len(_WORD.findall(text))
    return words >= 3 and 8 * len(_ENGLISH.findall(text)) >= words


_RULES: dict[str, Callable[[Wording], bool]] = {
    "multiple_choice": has_options,
    "true_false": _is_true_false,
    "few_answers": _has_few_answers,
    "proof": _is_proof,
    "several_answers": asks_for_several,
    "no_question": _has_no_question,
}
