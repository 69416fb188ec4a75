"""Is an output the expected one? Pure functions on hostile data; they run outside of any sandbox."""

from __future__ import annotations

import math
import re
from typing import Any

Tolerance = float | None
"""Largest absolute or relative error of a number; ``None``: numbers must match exactly."""

_NUMBER = re.compile(rb"[+-]?(?:\d{1,400}(?:\.\d{0,400})?|\.\d{1,400})(?:[eE][+-]?\d{1,4})?")
_POWER = r"(?:10\s*\^\s*\{?\s*[-−–]\s*(\d{1,2})\s*\}?|1[eE][-−–](\d{1,2})|10[⁻](\d{1,2}))"
_STATED = (
    re.compile(
        r"(?:absolute|relative)\s+(?:error\s+)?or\s+(?:absolute|relative)[^.]{0,40}error.{0,600}?" + _POWER, re.S
    ),
    re.compile(r"\berror\b[^.]{0,160}?" + _POWER, re.S),
    re.compile(r"\bwithin\s+\$?" + _POWER + r"\$?\s+of", re.S),
)


def stated_tolerance(statement: str) -> Tolerance:
    """The error that a statement says it accepts ("absolute or relative error of at most 10^{-6}"), if it says so."""
    for pattern in _STATED:
        match = pattern.search(statement)
        if match:
            return 10.0 ** -int(next(group for group in match.groups() if group))
    return None


def layout_matters(expected: bytes) -> bool:
    """True when white space carries meaning in an expected output: an indented line, or two blanks in a row."""
    return re.search(rb"^[ \t]+\S|\S[ \t]{2,}\S", expected, re.M) is not None


def same_output(found: bytes, expected: bytes, tolerance: Tolerance = None) -> tuple[bool, str]:
    """Whether a program's output is the expected one, and where not.

    Token by token, split at ASCII white space; case matters. Where the expected output itself uses layout
    (``layout_matters``), line by line instead, white space at line ends and empty last lines aside. With a
    ``tolerance``, two finite decimal numbers match when they differ by at most that, absolutely or relatively.
    """
    if layout_matters(expected):
        a, b, unit = _lines(found), _lines(expected), "line"
    else:
        a, b, unit = found.split(), expected.split(), "token"
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y and not (tolerance is not None and close_text(x, y, tolerance)):
            return False, f"{unit} {i + 1}: {_short(x)}, not {_short(y)}"
    if len(a) != len(b):
        return False, f"{len(a)} {unit}s, not {len(b)}"
    return True, ""


def close_text(found: bytes, expected: bytes, tolerance: float) -> bool:
    """Two plain decimal numbers within the tolerance; anything else (``nan``, ``inf``, ``1_0``, ``0x1``) is not."""
    if not (_NUMBER.fullmatch(found) and _NUMBER.fullmatch(expected)):
        return False
    return close(float(found), float(expected), tolerance)


def close(found: float, expected: float, tolerance: float) -> bool:
    """Within the tolerance, absolutely or relative to ``expected``; never for infinities and NaN."""
    if not (math.isfinite(found) and math.isfinite(expected)):
        return False
    # A hair more than stated: the tolerance itself and the decimal notation are rounded.
    return abs(found - expected) <= tolerance * max(1.0, abs(expected)) * (1 + 1e-9)


def same_value(found: Any, expected: Any, tolerance: Tolerance = None) -> bool:
    """Whether a result is the expected JSON value, by exact builtin types.

    A tuple passes for a list. ``True`` is not 1. Where a float is expected, an int of the same value will do, and the
    ``tolerance`` applies; where an int is expected, a float will not.
    """
    if type(expected) is list:
        return (
            type(found) in (list, tuple)
            and len(found) == len(expected)
            and all(same_value(x, y, tolerance) for x, y in zip(found, expected, strict=True))
        )
    if type(expected) is dict:
        return (
            type(found) is dict
            and found.keys() == expected.keys()
            and all(type(key) is str for key in found)
            and all(same_value(found[key], value, tolerance) for key, value in expected.items())
        )
    if type(expected) is float:
        if type(found) not in (int, float) or (type(found) is int and found.bit_length() > 1000):
            return False
        return found == expected or (tolerance is not None and close(float(found), expected, tolerance))
    return type(found) is type(expected) and bool(found == expected)


def floats(value: Any) -> Any:
    """The same JSON value with every int as a float, for problems whose results are floats written as ``2``."""
    if type(value) is list:
        return [floats(item) for item in value]
    return float(value) if type(value) is int and abs(value) < 2**53 else value


def _lines(text: bytes) -> list[bytes]:
    return [line.rstrip() for line in text.rstrip().split(b"\n")]


def _short(text: bytes) -> str:
    return ascii(text[:40].decode(errors="replace") + ("..." if len(text) > 40 else ""))
