"""Model output made safe to look at. Pure functions.

A response can hold terminal escapes, bidirectional overrides and invisible characters: enough to rewrite a terminal or
to make a report show what was never sampled. Such characters are replaced by visible names; ordinary text of any script
stays as it is.
"""

from __future__ import annotations

import re

_HIDDEN = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 but tab and newline, DEL, C1
    "\xad\u061c\u180e\u200b\u200e\u200f"  # soft hyphen, bidi marks, zero-width space
    "\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"  # separators, bidi embeddings and isolates, invisible operators
    "\ud800-\udfff"  # lone surrogates
    "\U000e0000-\U000e007f"  # tag characters
    "]"
)


def _name(match: re.Match[str]) -> str:
    return f"\u2039U+{ord(match.group()):04X}\u203a"  # not Unicode's control pictures: few fonts have them


def lone_surrogate(text: str) -> str:
    """Return the first half of a surrogate pair that stands alone, and where; empty for text that UTF-8 can hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"a lone surrogate (U+{ord(text[error.start]):04X}, character {error.start + 1})"
    return ""


def visible(text: str) -> str:
    """Return ``text`` with control, bidirectional and invisible characters shown; newlines and tabs are kept."""
    return _HIDDEN.sub(_name, text)


def one_line(text: str, limit: int = 200) -> str:
    """Return ``visible`` text on one line, cut to ``limit`` characters with an ellipsis."""
    line = visible(" ".join(text[: 4 * limit].split()))
    return line if len(line) <= limit else line[: limit - 1] + "\u2026"


def first_line(said: BaseException | str) -> str:
    """Return the first line of another library's message, which may have many lines or none; of an error without one,
    its kind.
    """
    return str(said).strip().partition("\n")[0] or type(said).__name__


def clip(text: str, limit: int) -> str:
    """Return ``text`` itself, or its head and tail around a note of how many characters are left out."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half} characters left out ...]\n{text[len(text) - half :]}"
