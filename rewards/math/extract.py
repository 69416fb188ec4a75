r"""The boxed answer of a response. Pure functions, one pass over the text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rewards.math.around import with_signs
from rewards.math.clean import look
from rewards.math.offers import denied, offered_after, offered_elsewhere
from rewards.math.words import words

_BOX = re.compile(r"(?<!\\)(?:\\\\)*(?P<command>\\(?:boxed|fbox|framebox)\s*\{)")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
MAX_BOXES = 32
"""Boxes that are looked at, from the last one back."""
MAX_CONTENT = 5_000
"""Characters within which a box has to close."""
_JOINT = 160
"""Characters between two boxes within which words can offer both as the answer."""
_LAYOUT = re.compile(r"\\(?:q?quad|text)(?![A-Za-z])")
_SUBSCRIPT = re.compile(r"_\{?[0-9]\}?")
_WORDS = re.compile(r"[A-Za-z]+(?:'[a-z]+)?")
_CONNECTING = words(
    "or and also alternatively alternative either another other both possible possibly possibility possibilities answer"
    " answers is are the a an solution solutions value values maybe perhaps could can may might be it as well too so x"
    " y z n k text quad qquad respectively final option options either choice choices else but though although however"
    " while plausible valid one first second there then otherwise would just equally likely that this result results"
)
"""Words that join two boxes, and say nothing else."""
_OFFERS = words(
    "or and also alternatively alternative either another other both possible possibly possibility maybe perhaps could"
    " can may might too else options choices otherwise plausible"
)
"""Of these, those that say that there is more than one."""
_MENTION = re.compile(
    r"\b(?:within|in|inside|into|using|with|by|format|the|a|an|of|like|as)\b[\s$\"'`(\\]*$", re.IGNORECASE
)
"""Before an empty box: words that speak of boxes, as a prompt does, rather than give an answer."""


@dataclass(frozen=True, slots=True)
class Found:
    """The answer read out of a response."""

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
    """Return where the braces close that opened before ``start``; -1 when they do not within the limit."""
    depth = 1
    for match in _BRACE.finditer(text, start, start + MAX_CONTENT):
        depth += {"{": 1, "}": -1}.get(match.group(), 0)
        if depth == 0:
            return match.start()
    return -1


def unboxed(text: str) -> str:
    """Return the text with every box in it turned into plain braces."""
    return _BOX.sub(lambda match: match.group()[: match.start("command") - match.start()] + "{", text).strip()


def final_box(text: str) -> Found:
    r"""The last box's content; contents of several boxes with commas between when they are offered together.

    Boxes are offered together when nothing but connecting words, signs and names stand between them (``\boxed{3}`` or
    ``\boxed{5}``): then the answer is all of them. So is a value that "or" joins to the last box. Other boxes before
    the last are intermediate results.
    """
    found = boxes(text)
    if breaks_off(text, found):
        return Found("", "the last box is not finished")
    found = _without_denied(text, _without_mentions(text, found))
    if not found:
        return Found("", "no \\boxed{} answer after the thinking", marked=False)
    if found[-1][2] < 0:
        return Found("", f"a box of more than {MAX_CONTENT} characters")
    chosen = _offered(text, found)
    contents = [unboxed(text[content:end]) for _, content, end in chosen]
    if not contents[-1]:
        return Found("", "empty \\boxed{}")
    last = chosen[-1]
    others = offered_elsewhere(text, last[2] + 1, contents[-1])
    contents[-1] = with_signs(text, last[0], last[2] + 1, contents[-1])
    contents += offered_after(text, last[2] + 1) + others
    answers = {look(content): content for content in contents if content}
    return Found(", ".join(answers.values()), offered=tuple(answers.values()))


def answer_box(text: str) -> tuple[int, int] | None:
    """Return start and start of content of the box in which the answer begins that ``final_box`` reads; ``None`` where
    it reads none.
    """
    found = boxes(text)
    if breaks_off(text, found):
        return None
    found = _without_denied(text, _without_mentions(text, found))
    return _offered(text, found)[0][:2] if found and found[-1][2] >= 0 else None


def _offered(text: str, found: Sequence[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Return the last box, and those before it that are offered together with it."""
    chosen = [found[-1]]
    for earlier in reversed(found[:-1]):
        if earlier[2] < 0 or not _connects(text[earlier[2] + 1 : chosen[0][0]]):
            break
        chosen.insert(0, earlier)
    return chosen


def breaks_off(text: str, found: Sequence[tuple[int, int, int]] = ()) -> bool:
    r"""Whether a box begins after the last of those ``found`` and never ends: the text is cut off there.

    One that is only spoken of ("I put it within ``\boxed{``") does not count.
    """
    after = found[-1][2] if found else 0
    if after < 0:
        return False
    start = -1
    for match in _BOX.finditer(text, max(after, len(text) - MAX_CONTENT)):
        start = match.start("command")
    return start >= 0 and not _MENTION.search(text[max(0, start - 40) : start])


def _without_denied(text: str, found: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Return the boxes but for last ones of which the text says that they are not the answer."""
    kept = list(found)
    while kept and kept[-1][2] >= 0 and denied(text, kept[-1][0], kept[-1][2] + 1):
        kept.pop()
    return kept


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


def _connects(between: str) -> bool:
    """Return whether a text only joins two answers."""
    if len(between) > _JOINT:
        return False
    between = _LAYOUT.sub(" ", between)
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
