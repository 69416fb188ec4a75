"""The program in a response. Pure functions, linear in the text's length: responses are hostile input.

Only text after the thinking counts (``rewards.response``). A program stands in a fenced block: a line that begins with
three or more backticks or tildes, after any indentation, opens it, and its first word is the language tag; a line of
nothing but as many or more of the same characters closes it. Among the blocks, in this order:

1. The last block whose tag names a language that the problem takes counts.
2. Without any, the last block without a tag.
3. Blocks with another tag (``text``, ``output``, ``bash``) never count, and neither does text outside of blocks.

A last block that is never closed runs to the end of the text, as in Markdown: the response ended with its program. A
response that was cut at its length limit is refused before it gets here.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from rewards.response import after_thinking

MAX_CODE = 256 * 1024
"""Characters of the longest program that is looked at."""

TAGS: dict[str, str] = {
    "python": "python", "python3": "python", "py": "python", "py3": "python",
    "cpp": "cpp", "c++": "cpp", "cc": "cpp", "cxx": "cpp", "c": "c",
    "javascript": "javascript", "js": "javascript", "node": "javascript",
    "java": "java", "bash": "bash", "sh": "bash", "rust": "rust", "rs": "rust", "go": "go",
}  # fmt: skip
"""Language tag, in lower case -> language."""

_FENCE = re.compile(r"([ \t]*)(`{3,}|~{3,})([^\n]*)")


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    tag: str
    """First word after the opening fence, in lower case; empty when there is none."""
    code: str
    closed: bool


@dataclass(frozen=True)
class Extracted:
    """A program found in a response."""

    code: str
    language: str


def blocks(text: str) -> list[Block]:
    """All fenced blocks, in order."""
    found: list[Block] = []
    fence, indent, tag, lines = "", 0, "", list[str]()
    for line in text.replace("\r\n", "\n").split("\n"):
        match = _FENCE.fullmatch(line)
        marks, info = (match.group(2), match.group(3).strip()) if match else ("", "")
        if not fence:
            if match and not (marks[0] == "`" and "`" in info):
                fence, indent, lines = marks, len(match.group(1)), []
                tag = info.split()[0].strip("{}.").lower() if info else ""
        elif marks.startswith(fence) and not info:
            found.append(Block(tag, "\n".join(lines) + "\n", True))
            fence = ""
        else:
            margin = len(line) - len(line.lstrip(" \t"))
            lines.append(line[min(indent, margin) :])
    if fence:
        found.append(Block(tag, "\n".join(lines) + "\n", False))
    return found


def extract(response: str, languages: Collection[str], default: str) -> Extracted | str:
    """The program of a response, or why there is none.

    ``languages`` are those that the problem takes; a block without a tag is in the ``default`` one.
    """
    text = after_thinking(response)
    if not text.strip():
        return "no answer after the thinking"
    found = [block for block in blocks(text) if block.code.strip()]
    tagged = [block for block in found if TAGS.get(block.tag) in languages]
    chosen = (tagged or [block for block in found if not block.tag])[-1:]
    if not chosen:
        tags = sorted({block.tag for block in found})[:5]
        return f"no block of code in {' or '.join(sorted(languages))}" + (f", only {', '.join(tags)}" if tags else "")
    if len(chosen[0].code) > MAX_CODE:
        return f"the program is longer than {MAX_CODE} characters"
    return Extracted(chosen[0].code, TAGS[chosen[0].tag] if chosen[0].tag else default)
