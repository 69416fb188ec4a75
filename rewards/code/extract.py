"""The program in a response. Pure functions, linear in the text's length: responses are hostile input.

Only text after the thinking counts (``rewards.response``). A program stands in a fenced block: a line that begins with
three or more backticks or tildes, after any indentation, opens it, and its first word is the language tag
(``language_of``: a version, a file name or options may stand beside the language); a line of nothing but as many or
more of the same characters closes it. Among the blocks, in this order:

1. The last block whose tag names a language that the problem takes counts. A shell block, which mostly shows how the
   program is run, counts only where no other does.
2. Without any, the last block without a tag.
3. Blocks with another tag (``text``, ``output``) never count, and neither does text outside of blocks.

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
    "python": "python", "py": "python", "pypy": "python", "cpython": "python", "ipython": "python",
    "cpp": "cpp", "c++": "cpp", "cc": "cpp", "cxx": "cpp", "gnu++": "cpp", "g++": "cpp",
    "c": "c", "gnu": "c", "gcc": "c",
    "javascript": "javascript", "js": "javascript", "node": "javascript", "nodejs": "javascript", "mjs": "javascript",
    "cjs": "javascript", "ecmascript": "javascript", "es": "javascript",
    "java": "java", "bash": "bash", "sh": "bash", "rust": "rust", "rs": "rust", "go": "go",
}  # fmt: skip
"""Language tag, in lower case and without a version -> language."""
_VERSIONED = re.compile(r"(.*?[a-z+])[-_@]?v?(\d[\d.]*)?")

_FENCE = re.compile(r"([ \t]*)(`{3,}|~{3,})([^\n]*)")


def language_of(tag: str) -> str:
    """Return the language that a tag names, empty when it names none: ``python3.11``, ``c++17``, ``python:a.py``,
    ``a.py``, ``{.python}``, ``python,linenos``, ``language-js``. Python 2 is another language.
    """
    word = re.split(r"[:,;={(\[|]", tag.lower().lstrip("{.").removeprefix("language-").removeprefix("lang-"))[0]
    word = word.rstrip("}.")
    match = _VERSIONED.fullmatch(word)
    if match is None:
        return ""
    name, version = match.groups("")
    language = TAGS.get(name) or TAGS.get(name.rpartition(".")[2], "")  # the latter: the name of a file
    return "" if language == "python" and version.startswith("2") else language


@dataclass(frozen=True)
class Block:
    """One fenced block of a response."""

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
    """Return all fenced blocks, in order."""
    found: list[Block] = []
    fence, indent, tag, lines = "", 0, "", list[str]()
    for line in text.removeprefix("\ufeff").replace("\r\n", "\n").split("\n"):
        match = _FENCE.fullmatch(line)
        marks, info = (match.group(2), match.group(3).strip()) if match else ("", "")
        if not fence:
            if match and not (marks[0] == "`" and "`" in info):
                fence, indent, lines = marks, len(match.group(1)), []
                tag = info.split()[0].lower() if info else ""
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
    """Return the program of a response, or why there is none.

    ``languages`` are those that the problem takes; a block without a tag is in the ``default`` one.
    """
    text = after_thinking(response)
    if not text.strip():
        return "no answer after the thinking"
    found = [block for block in blocks(text) if block.code.strip()]
    tagged = [block for block in found if language_of(block.tag) in languages]
    others = [block for block in tagged if language_of(block.tag) != "bash"]
    chosen = (others or tagged or [block for block in found if not block.tag])[-1:]
    if not chosen:
        tags = sorted({block.tag for block in found})[:5]
        return f"no block of code in {' or '.join(sorted(languages))}" + (f", only {', '.join(tags)}" if tags else "")
    if len(chosen[0].code) > MAX_CODE:
        return f"the program is longer than {MAX_CODE} characters"
    return Extracted(chosen[0].code, language_of(chosen[0].tag) or default)
