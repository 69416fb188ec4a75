"""Is an output the expected one? Pure functions on hostile data; they run outside of any sandbox.

What a program wrote is never hashed, and not sorted or converted at more cost than the expected output: a comparison
stops at the first difference, and reads only as many parts as the expected output has.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from decimal import Context, Decimal
from enum import StrEnum
from typing import Any

from rewards.code.plain import BIG

Tolerance = float | None
"""Largest absolute or relative error of a number; ``None``: numbers must match exactly."""


class Order(StrEnum):
    """The part of an answer that may come in any order."""

    FIXED = "fixed"
    ITEMS = "items"
    """The items of the answer, each as it is; of a printed one the lines, or the tokens of its only line."""
    INNER = "inner"
    """The numbers of its innermost lists, of a printed one those of each line."""


@dataclass(frozen=True)
class Leeway:
    """The freedom that a problem leaves to right outputs."""

    tolerance: Tolerance = None
    order: Order = Order.FIXED
    words: frozenset[str] = frozenset()
    """Words, in lower case, that may be printed in any case."""


EXACT = Leeway()
ROUNDING = 1e-9
"""Relative error of a float that another order of the same operations may have; where no tolerance is stated."""
ROUNDED_DIGITS = 6
"""Digits after the point from which on an expected number is taken for a rounded one."""

_NUMBER = re.compile(rb"[+-]?(?:\d{1,400}(?:\.\d{0,400})?|\.\d{1,400})(?:[eE][+-]?\d{1,4})?")
_INTEGER = re.compile(rb"[+-]?\d{1,400}")
_DECIMAL = re.compile(rb"([+-]?)(\d{1,400})(?:\.(\d{0,400}))?")
_WIDE = Context(prec=2000)


def layout_matters(expected: bytes) -> bool:
    """Return True when white space carries meaning in an expected output: an indented line, or two blanks in a row."""
    return re.search(rb"^[ \t]+\S|\S[ \t]{2,}\S", expected, re.M) is not None


def same_output(found: bytes, expected: bytes, leeway: Leeway = EXACT) -> tuple[bool, str]:
    """Return whether a program's output is the expected one, and where not.

    Token by token, split at ASCII white space; case matters. Where the expected output itself uses layout
    (``layout_matters``), line by line instead, white space at line ends and empty last lines aside. Numbers, letter
    case and order within the ``leeway``.
    """
    layout = layout_matters(expected)
    if layout:
        b = [line.rstrip() for line in expected.rstrip().split(b"\n")]
        a = [line.rstrip() for line in found.rstrip().split(b"\n", len(b))]
    else:
        b = expected.split()
        a = found.split(None, len(b))
    unit = "line" if layout else "token"
    fault = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if not same_token(x, y, leeway)), None)
    if fault is None and len(a) == len(b):
        return True, ""
    if leeway.order is not Order.FIXED and not layout and _same_reordered(found, expected, leeway):
        return True, ""
    if fault is None:
        return False, f"{'more' if len(a) > len(b) else len(a)} {unit}s, not {len(b)}"
    return False, f"{unit} {fault + 1}: {_short(a[fault])}, not {_short(b[fault])}"


def same_token(found: bytes, expected: bytes, leeway: Leeway = EXACT) -> bool:
    """Return whether one token, or one line, is the expected one."""
    if found == expected:
        return True
    if leeway.words and len(found) == len(expected) and found.lower() == expected.lower():
        return expected.decode(errors="replace").lower() in leeway.words
    if leeway.tolerance is not None and close_text(found, expected, leeway.tolerance):
        return True
    return b"." in expected and _same_rounded(found, expected)


def close_text(found: bytes, expected: bytes, tolerance: float) -> bool:
    """Return whether two plain decimal numbers are within the tolerance; anything else (``nan``, ``inf``, ``1_0``,
    ``0x1``) is not.

    An integer is no measurement: where one is expected, the same integer is right, and a number with a point if it is
    that close and rounds to it.
    """
    if not (_NUMBER.fullmatch(found) and _NUMBER.fullmatch(expected)):
        return False
    if not close(float(found), float(expected), tolerance):
        return False
    if not _INTEGER.fullmatch(expected):
        return True
    off = abs(_WIDE.subtract(Decimal(found.decode()), Decimal(expected.decode())))
    return off == 0 if _INTEGER.fullmatch(found) else off < Decimal("0.5")


def close(found: float, expected: float, tolerance: float) -> bool:
    """Within the tolerance, absolutely or relative to ``expected``; never for infinities and NaN."""
    if not (math.isfinite(found) and math.isfinite(expected)):
        return False
    # A hair more than stated: the tolerance itself and the decimal notation are rounded.
    return abs(found - expected) <= tolerance * max(1.0, abs(expected)) * (1 + 1e-9)


def _same_rounded(found: bytes, expected: bytes) -> bool:
    """Return whether two numbers are equal, or roundings of one: each with many digits after the point, and the same up
    to the shorter one's last.
    """
    a, b = _DECIMAL.fullmatch(found), _DECIMAL.fullmatch(expected)
    if a is None or b is None:
        return False
    digits = [len(match.group(3) or b"") for match in (a, b)]
    most, least = max(digits), min(digits)
    off = abs(_units(a, most) - _units(b, most))
    return off == 0 or (least >= ROUNDED_DIGITS and 2 * off <= 10 ** (most - least))


def _units(number: re.Match[bytes], digits: int) -> int:
    """Return a decimal number in units of its ``digits``-th place after the point."""
    sign, whole, part = number.groups(b"")
    return int(sign + whole + part.ljust(digits, b"0"))


def _same_reordered(found: bytes, expected: bytes, leeway: Leeway) -> bool:
    """Return whether an output is the expected one but for the order that is left open.

    A first line that says how many follow stays the first. Lines are reordered where all are of the same shape, the
    tokens of a line otherwise.
    """
    b = [line.split() for line in expected.split(b"\n") if line.strip()]
    longest = max(map(len, b), default=0)
    lines_found = found.strip().split(b"\n", 2 * len(b))  # blank ones among them
    if len(lines_found) > 2 * len(b):
        return False
    a = [line.split(None, longest) for line in lines_found if line.strip()]
    if len(a) != len(b):
        return False
    head = len(b) > 1 and b[0] in ([b"%d" % (len(b) - 1)], [b"%d" % len(b[1])])
    if head and a[0] != b[0]:
        return False
    a, b = a[head:], b[head:]
    lines = len({len(line) for line in b}) == 1 and (len(b[0]) == 1 or leeway.order is Order.ITEMS) and len(b) > 1
    a, b = (sorted(a), sorted(b)) if lines else ([sorted(line) for line in a], [sorted(line) for line in b])
    return all(
        len(x) == len(y) and all(same_token(p, q, leeway) for p, q in zip(x, y, strict=True))
        for x, y in zip(a, b, strict=True)
    )


def same_value(found: Any, expected: Any, leeway: Leeway = EXACT) -> bool:
    """Return whether a result, encoded by ``rewards.code.plain``, is the expected JSON value, by exact builtin types.

    A tuple passes for a list. ``True`` is not 1. Where a float is expected, an int of the same value will do, and the
    ``tolerance`` applies; where an int is expected, a float will not.
    """
    if type(expected) is list:
        return _same_list(found, expected, leeway)
    if type(expected) is dict:
        return _same_dict(found, expected, leeway)
    if type(expected) is float:
        return type(found) in (int, float) and _same_float(found, expected, leeway.tolerance)
    if type(expected) is int and expected.bit_length() > BIG:
        return bool(_inner(found, "int") == hex(expected))
    return type(found) is type(expected) and bool(found == expected)


def _same_float(found: int | float, expected: float, tolerance: Tolerance) -> bool:
    if type(found) is int and found.bit_length() > 1000:
        return False
    if tolerance is None:
        return found == expected or (math.isfinite(found) and abs(found - expected) <= ROUNDING * abs(expected))
    return found == expected or close(float(found), expected, tolerance)


def _same_list(found: Any, expected: list[Any], leeway: Leeway) -> bool:
    items = _listed(found)
    if items is None or len(items) != len(expected):
        return False
    flat = not any(type(item) in (list, dict) for item in expected)
    if leeway.order is Order.ITEMS or (leeway.order is Order.INNER and flat):
        items, expected = sorted(items, key=_place), sorted(expected, key=_place)
        leeway = Leeway(leeway.tolerance)
    return all(same_value(x, y, leeway) for x, y in zip(items, expected, strict=True))


def _same_dict(found: Any, expected: dict[str, Any], leeway: Leeway) -> bool:
    pairs = _inner(found, "dict")
    if type(pairs) is not list or len(pairs) != len(expected):
        return False
    seen: set[str] = set()  # of keys that are expected: none that a program chose is kept by its hash
    for pair in pairs:
        if type(pair) is not list or len(pair) != 2 or type(pair[0]) is not str or pair[0] not in expected:
            return False
        seen.add(pair[0])
        if not same_value(pair[1], expected[pair[0]], leeway):
            return False
    return len(seen) == len(expected)


def _inner(found: Any, tag: str) -> Any:
    """Return what stands under the tag of an encoding; ``None`` when it has another."""
    return found.get(tag) if type(found) is dict and len(found) == 1 else None


def _listed(found: Any) -> list[Any] | None:
    """Return the items of an encoded list, or of what passes for one."""
    for items in (found, *(_inner(found, tag) for tag in ("tuple", "keys", "values"))):
        if type(items) is list:
            return items
    return None


def _place(item: Any) -> tuple[int, float, str]:
    """Return a key to sort items by: numbers by size, whatever else by its text."""
    if type(item) in (int, float) and abs(item) < 1e300:
        return 0, item, ""
    return 1, 0, json.dumps(_bare(item))


def _bare(item: Any) -> Any:
    """Return an encoding with lists in place of what passes for one."""
    items = _listed(item)
    if items is not None:
        return [_bare(one) for one in items]
    return item


def floats(value: Any) -> Any:
    """Return the JSON value with every int as a float, for problems whose results are floats written as ``2``."""
    if type(value) is list:
        return [floats(item) for item in value]
    return float(value) if type(value) is int and abs(value) < 2**53 else value


def _short(text: bytes) -> str:
    return ascii(text[:40].decode(errors="replace") + ("..." if len(text) > 40 else ""))
