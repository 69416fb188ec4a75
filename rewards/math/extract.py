r"""The boxed answer of a response. Pure functions, one pass over the text."""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass

from rewards.math.clean import look
from rewards.math.words import words

MARK = "####"
"""What GSM8K puts before an answer."""
_LABEL = re.compile(r"^[ \t*]{0,8}(?:A|Answer)[ *]{0,4}:[ *]{0,4}(?P<answer>[^\n]*)$", re.MULTILINE | re.IGNORECASE)
_NUMBER = re.compile(r"(?<![0-9.])-?\$?[0-9][0-9,]{0,39}(?:\.[0-9]{1,40})?|-?\$?(?<![0-9])\.[0-9]{1,40}")
_JOINED = re.compile(r"[0-9%]\s*(?:\bor\b|\band\b|\bto\b|[,;/:|])\s*$")
_BOX = re.compile(r"(?<!\\)(?:\\\\)*(?P<command>\\(?:boxed|fbox|framebox)\s*\{)")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
MAX_BOXES = 32
"""Boxes that are looked at, from the last one back."""
MAX_CONTENT = 5_000
"""Characters within which a box has to close."""
_JOINT = 160
"""Characters between two boxes within which words can offer both as the answer."""
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
    r"[\s$.)\]\\]{0,12}(?:\bor\b|\\text\s*\{\s*or\b)[\s}]*(?:equivalently|simply|maybe|perhaps)?[\s,}$]*"
    r"(?P<what>[^\n$;]{0,60}?)(?:[.,]?\s*$|[.,]\s|[\n$;])",
    re.IGNORECASE | re.MULTILINE,
)
_ROUNDED = re.compile(r"\s*(?:approximately|about|roughly|\\approx)", re.IGNORECASE)


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
    found = boxes(text)
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
    after = _AFTER.match(text, chosen[-1][2] + 1)
    if after and re.search(r"[0-9\\]", after["what"]) and not _ROUNDED.match(after["what"]):
        contents.append(after["what"].strip())
    answers = {look(content): content for content in contents if content}
    return Found(", ".join(answers.values()), offered=tuple(answers.values()))


def _connects(between: str) -> bool:
    """Whether a text only joins two answers."""
    if len(between) > _JOINT:
        return False
    if re.search(r"[0-9]", between):
        return False
    between_words = {word.lower() for word in _WORDS.findall(between.replace("\\", " "))}
    return between_words <= _CONNECTING and (not between_words or bool(between_words & _OFFERS))


def bare_answer(text: str) -> Found:
    r"""The whole text as an answer, without ``\boxed{}`` around it."""
    answer = text.strip()
    if "\\boxed" in answer or "\\fbox" in answer:
        answer = unboxed(answer[:20_000])
    return Found(answer, "" if answer else "empty answer")


def final_number(text: str) -> Found:
    """The text after the last ``####``, else after the last ``A:`` or ``Answer:`` of a line, else the last number.

    A last number that another one is joined to ("4 or 5", "3/4") is no single answer.
    """
    _, mark, tail = text.rpartition(MARK)
    if mark:
        answer = bare_answer(tail.partition("\n")[0].strip(" *")).answer
        return Found(answer, "" if answer else "nothing after ####")
    labels = list(_LABEL.finditer(text))
    if labels:
        answer = bare_answer(labels[-1]["answer"].strip(" *")).answer
        return Found(answer, "" if answer else "nothing after the answer's label", marked=False)
    last = next(iter(deque(_NUMBER.finditer(text), maxlen=1)), None)
    if last is None:
        return Found("", "no number", marked=False)
    if _JOINED.search(text[max(0, last.start() - 20) : last.start()]):
        return Found("", "several numbers at the end", marked=False)
    return Found(last.group().rstrip(","), marked=False)
