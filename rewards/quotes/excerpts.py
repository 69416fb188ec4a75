"""Texts and programs that a response says its prompt has: quotations, inline code, code blocks."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from rewards.math.words import words
from rewards.quotes.lines import FENCE

QUOTED = re.compile(r"[\"“”„«]([^\"“”„«»\n]{1,2000})[\"“”»]")
CODE = re.compile(r"`([^`\n]{1,300})`")
IDENTIFIER = re.compile(r"[^\W\d]\w{1,80}")
CUES = words(
    "given states state stated says say said tells told reads read asks asked problem question prompt statement task"
    " provided provides according original mentioned mentions specified specifies described describes supplied"
    " existing quoted quote"
)
"""Words of a sentence that attribute what it quotes to the prompt."""
SHORTEST = 12
"""Characters of the shortest text that is taken for a quotation."""
MOST = 500
"""Excerpts of a response that are read; the first ones."""
_WORD = re.compile(r"[^\W\d_]+")
_DASHES = str.maketrans(dict.fromkeys("‐‑‒–—−", "-") | dict.fromkeys("‘’ʼ`", "'") | dict.fromkeys("“”„«»", '"'))
_KEYWORDS = words(
    "def return class import from for while if elif else in is not and or lambda pass None True False int str float"
    " list dict set tuple bool print len range self try except raise with as assert yield void const let var function"
    " public static new null true false this auto"
)


@dataclass(frozen=True)
class Excerpt:
    """A piece that a response attributes to the prompt."""

    kind: Literal["code", "text"]
    text: str
    start: int
    end: int
    supported: bool


def plain(text: str) -> str:
    """Return a text as it is compared: without case, kinds of quotes and dashes, and runs of white space."""
    return " ".join(unicodedata.normalize("NFKC", text).translate(_DASHES).casefold().split())


def judge_excerpts(prompt: str, response: str) -> list[Excerpt]:
    """Return what a response quotes from its prompt, in order; at most the first ``MOST``."""
    if not any(mark in response for mark in '"“”„«`'):
        return []
    body, theirs = plain(prompt), set(IDENTIFIER.findall(prompt))
    found: list[Excerpt] = []
    defined: set[str] = set()
    for start, line, block in _parts(response):
        if len(found) >= MOST:
            break
        if block:
            found += _of_block(line, start, theirs | defined)
            defined |= set(IDENTIFIER.findall(line))
            continue
        for match in QUOTED.finditer(line):
            if len(match[1].strip()) >= SHORTEST and _attributed(line, match.start(), match.end()):
                pieces = [plain(piece).strip(" .,;:!?") for piece in re.split(r"\.\.\.|…|\[[^\]]{0,80}\]", match[1])]
                supported = all(piece in body for piece in pieces)
                found.append(Excerpt("text", match[1], start + match.start(1), start + match.end(1), supported))
        for match in CODE.finditer(line):
            names = _names(match[1])
            if names and _attributed(line, match.start(), match.end()):
                supported = names <= theirs | defined
                found.append(Excerpt("code", match[1], start + match.start(1), start + match.end(1), supported))
            else:
                defined |= names
    return found[:MOST]


def _parts(response: str) -> Iterator[tuple[int, str, bool]]:
    """Yield the lines of a response with their places, and code blocks that are attributed to the prompt as one."""
    at = begun = 0
    fenced = cue = False
    block: list[str] = []
    for line in response.split("\n"):
        if FENCE.match(line):
            if fenced and block:
                yield begun, "\n".join(block), cue
            fenced, block, begun = not fenced, [], at + len(line) + 1
        elif fenced:
            block.append(line)
        elif line.strip():
            cue = bool(CUES & {w.lower() for w in _WORD.findall(line[-300:])}) and line.rstrip()[-1:] == ":"
            yield at, line, False
        at += len(line) + 1


def _of_block(block: str, start: int, known: set[str]) -> Iterator[Excerpt]:
    """Yield the lines of a code block whose names are all, or not all, in the prompt."""
    for line in block.split("\n"):
        if names := _names(line):
            yield Excerpt("code", line.strip(), start, start + len(line), names <= known)
        start += len(line) + 1


def _names(code: str) -> set[str]:
    """Return the identifiers of a piece of code."""
    return set(IDENTIFIER.findall(code)) - _KEYWORDS


def _attributed(line: str, start: int, end: int) -> bool:
    """Whether the sentence around a piece says that the prompt has it."""
    before = re.split(r"[.!?;]\s", line[max(0, start - 200) : start])[-1]
    behind = re.split(r"[.!?;]\s", line[end : end + 60])[0]
    return bool(CUES & {word.lower() for word in _WORD.findall(f"{before} {behind}")})
