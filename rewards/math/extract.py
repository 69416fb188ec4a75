r"""The boxed answer of a response. Pure functions, one pass over the text."""

from __future__ import annotations

import re
from dataclasses import dataclass

from rewards.math.clean import look
from rewards.math.words import number_of, words

_BOX = re.compile(r"(?<!\\)(?:\\\\)*(?P<command>\\(?:boxed|fbox|framebox)\s*\{)")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
MAX_BOXES = 32
"""Boxes that are looked at, from the last one back."""
MAX_CONTENT = 5_000
"""Characters within which a box has to close."""
_JOINT = 160
"""Characters between two boxes within which words can offer both as the answer."""
_SUBSCRIPT = re.compile(r"_\{?[0-9]\}?")
_WORDS = re.compile(r"[A-Za-z]+(?:'[a-z]+)?")
_CONNECTING = words(
    "or and also alternatively alternative either another other both possible possibly answer answers is are the a an"
    " solution solutions value values maybe perhaps could can may might be it as well too so x y z n k text quad qquad"
    " respectively final option options either choice choices else"
)
_OFFERS = words(
    "or and also alternatively alternative either another other both possible possibly maybe perhaps could can may"
    " might too else options choices"
)
"""Of these, those that say that there is more than one."""
_AFTER = re.compile(
    r"[\s$.,;:)(\]\\*\u2013\u2014-]{0,12}(?:\\text\s*\{\s*)?"
    r"\b(?:or|alternatively|otherwise|maybe|perhaps|possibly)\b"
    r"(?:\\?[\s,}$(]"
    r"|(?:equivalently|(?:more )?simply|in short|rather|maybe|perhaps|possibly|else|alternatively|otherwise|also|even"
    r"|just|it is)\b)*"
    r"(?P<rest>[^\n]{0,200})",
    re.IGNORECASE,
)
"""A word after a box that may offer another answer, and what follows it."""
_AND = re.compile(
    r"[\s$,)\]*]{0,12}\band\b(?:\s+also\b)?[\s$\\(]*(?P<rest>-?\\?[0-9$][^\s,;.]{0,40})(?=[\s$).\\]*(?:$|\n))",
    re.IGNORECASE,
)
"""The same for "and", where nothing but a value follows."""
_CASES = re.compile(
    r"[\s$,;)]{0,12}(?:(?:if|when|for)\b[^.\n]{0,80}?(?:[,;]|\b(?:and|or|but)\b)[\s$\\(]*(?P<one>-?[0-9][0-9./]*)"
    r"(?=[\s$)\\]*\b(?:if|when|for|otherwise|else)\b)"
    r"|(?:but|though|although)?\s*(?:it|this)?\s*\b(?:could|may|might)(?: also)? be[\s$\\(]*(?P<two>-?[0-9][0-9./]*))",
    re.IGNORECASE,
)
"""Another value in another case: "if n is even, 6 otherwise", "but it could be 6"."""
_CHUNK = re.compile(r"(?:\.(?![0-9])|[,;$\n](?![0-9])|\s[\u2013\u2014-]\s)")
_CONDITION = re.compile(r"\s*(?:if|when|for|in case|depending|where|unless|with)\b", re.IGNORECASE)
_ROUNDED = re.compile(r"\s*(?:approximately|about|roughly|around|\\approx)", re.IGNORECASE)
_OFFER = re.compile(
    r"[\s$({\\\[]*(?:(?:that|the|it|this|answer|value|result|x|y|n|is|was|be|could|may|might|can|would|equals|to|=)\b\s*|=\s*)*"
    r"[\s$({\\\[]*[-+]?\s?(?:[0-9.]*[0-9]|\\?(?:[dt]?frac|sqrt|pi|boxed)\b|\\\$[0-9])"
)
"""A value, maybe after words that only lead to it."""
_LAST = re.compile(r"\s\$?(-?[0-9][0-9.]*)\$?\s*$")
_MARKS = re.compile(r"\\[()\[\]]|[$]|\s*[).]+\s*$")
_MENTION = re.compile(
    r"\b(?:within|in|inside|into|using|with|by|format|the|a|an|of|like|as)\b[\s$\"'`(\\]*$", re.IGNORECASE
)
"""Before an empty box: words that speak of boxes, as a prompt does, rather than give an answer."""


@dataclass(frozen=True, slots=True)
class Found:
    """What was read out of a response."""

    answer: str
    """The answer's text, several with commas between; empty when there is none."""
    reason: str = ""
    """Why there is none."""
    marked: bool = True
    """Whether something said that this is the answer: a box, ``####``."""
    offered: tuple[str, ...] = ()
    """The single answers, where several are offered."""


def boxes(text: str) -> list[tuple[int, int, int]]:
    r"""Start, start of content and end of content of the last boxes whose braces balance and that are in no other.

    At most ``MAX_BOXES`` of them, in order. The end is -1 when the content goes on for over ``MAX_CONTENT`` characters.
    """
    starts = list(_BOX.finditer(text))[-MAX_BOXES:]
    found: list[tuple[int, int, int]] = []
    for match in starts:
        if found and match.start() < found[-1][2]:  # inside of the one before
            continue
        end = _closing(text, match.end())
        if end >= 0 or len(text) - match.end() > MAX_CONTENT:
            found.append((match.start("command"), match.end(), end))
    return found


def _closing(text: str, start: int) -> int:
    """Where the braces close that opened before ``start``; -1 when they do not within the limit."""
    depth = 1
    for match in _BRACE.finditer(text, start, start + MAX_CONTENT):
        depth += {"{": 1, "}": -1}.get(match.group(), 0)
        if depth == 0:
            return match.start()
    return -1


def unboxed(text: str) -> str:
    """The text with every box in it turned into plain braces."""
    return _BOX.sub(lambda match: match.group()[: match.start("command") - match.start()] + "{", text).strip()


def final_box(text: str) -> Found:
    r"""The last box's content; contents of several boxes with commas between when they are offered together.

    Boxes are offered together when nothing but connecting words, signs and names stand between them (``\boxed{3}`` or
    ``\boxed{5}``): then the answer is all of them. So is a value that "or" joins to the last box. Other boxes before
    the last are intermediate results.
    """
    found = _without_mentions(text, boxes(text))
    if not found:
        return Found("", "no \\boxed{} answer after the thinking", marked=False)
    if found[-1][2] < 0:
        return Found("", f"a box of more than {MAX_CONTENT} characters")
    chosen = [found[-1]]
    for earlier in reversed(found[:-1]):
        if earlier[2] < 0 or not _connects(text[earlier[2] + 1 : chosen[0][0]]):
            break
        chosen.insert(0, earlier)
    contents = [unboxed(text[content:end]) for _, content, end in chosen]
    if not contents[-1]:
        return Found("", "empty \\boxed{}")
    contents += _offered_after(text, chosen[-1][2] + 1)
    answers = {look(content): content for content in contents if content}
    return Found(", ".join(answers.values()), offered=tuple(answers.values()))


def _without_mentions(text: str, found: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    r"""The boxes but for empty ones that are only spoken of in the paragraph of the one before.

    "It is ``\boxed{5}``. I have put it within ``\boxed{}``." answers 5; a text that goes on to a prompt of its own,
    with an empty box, does not.
    """
    kept = list(found)
    while len(kept) > 1:
        start, content, end = kept[-1]
        between = text[kept[-2][2] : start]
        if end < 0 or text[content:end].strip() or "\n\n" in between or not _MENTION.search(between[-40:]):
            break
        kept.pop()
    return kept


def _offered_after(text: str, start: int) -> list[str]:
    """The value that a word such as "or" offers beside the last box, in the same sentence; none for a rounded one."""
    joined = _AND.match(text, start)
    if joined:
        return [joined["rest"].strip("$ ")]
    cases = _CASES.match(text, start)
    if cases:
        return [(cases["one"] or cases["two"]).rstrip(".")]
    after = _AFTER.match(text, start)
    if after is None:
        return []
    for chunk in _CHUNK.split(after["rest"]):
        if _ROUNDED.match(chunk):
            return []
        if _OFFER.match(chunk):
            return [_MARKS.sub("", chunk).strip()]
        number = next((word for word in _WORDS.findall(chunk)[:3] if number_of(word) is not None), "")
        if number and (number.lower() != "one" or chunk.strip(" .)").lower() == "one"):
            return [str(number_of(number))]
        if not chunk.strip():
            continue
        if not _CONDITION.match(chunk):
            return []
        last = _LAST.search(chunk)
        if last:
            return [last[1]]
    return []


def _connects(between: str) -> bool:
    """Whether a text only joins two answers."""
    if len(between) > _JOINT:
        return False
    if re.search(r"[0-9]", _SUBSCRIPT.sub("", between)):
        return False
    between_words = {
        word.lower() for word in _WORDS.findall(between.replace("\\", " ")) if len(word) > 1 or word in "aA"
    }
    return between_words <= _CONNECTING and (not between_words or bool(between_words & _OFFERS))


def bare_answer(text: str) -> Found:
    r"""The whole text as an answer, without ``\boxed{}`` around it."""
    answer = text.strip()
    if "\\boxed" in answer or "\\fbox" in answer:
        answer = unboxed(answer[:20_000])
    return Found(answer, "" if answer else "empty answer")
