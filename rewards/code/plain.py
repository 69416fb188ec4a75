"""Plain data as JSON, exactly: what may cross between a program, its tests and the judge.

Only values whose type *is* a builtin pass (``type(x) is int``; a subclass is no plain data), so nothing that a program
hands over brings behaviour of its own along. Types survive: tuples, sets, bytes, fractions and infinities come back as
they were. Both ends bound depth and size. Decoding belongs into a sandbox, with test code: the judge's own process
compares encodings (``rewards.code.compare``). Sent into a sandbox with the scripts that use it: standard library only.

    None, bool, str, finite float, int       as JSON
    list                                     [...]
    anything else                            {"<tag>": ...} with one of the tags below
"""

from __future__ import annotations

import math
import re
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from typing import Any

MAX_DEPTH = 200
"""Deepest nesting of containers."""
MAX_NODES = 1_000_000
"""Values in all; a value that contains itself, or that many times over, ends here."""
BIG = 2000
"""Integers of more bits travel in hexadecimal: decimal conversion is quadratic and limited by Python."""

MAX_COLLISIONS = 1000
"""Members of a set, or keys, that share the hash of another. More are made to be slow: each meets all the others."""
MAX_EXPONENT = 10_000
"""Of a ``Decimal``, and its digits: as an integer it must be of a size that test code can handle."""
MAX_BITS = 100_000
"""Of the parts of a ``Fraction``: each operation reduces it, which is quadratic."""

_VIEWS: dict[type, str] = {type({}.keys()): "keys", type({}.values()): "values", type({}.items()): "items"}
_SEQUENCES: dict[type, str] = {tuple: "tuple", set: "set", frozenset: "frozenset", **_VIEWS}
_DICTS = (dict, Counter, OrderedDict, defaultdict)


class NotPlain(ValueError):
    """The value is no plain data, or the text is no encoding of any."""


def _spread(items: list[Any]) -> list[Any]:
    """Return ``items``. Raises ``NotPlain`` if they would make a slow set; to be called before one is made."""
    if len(items) - len({hash(item) for item in items}) > MAX_COLLISIONS:
        raise NotPlain("too many equal hashes")
    return items


def _dict(pairs: list[Any]) -> dict[Any, Any]:
    _spread([key for key, _ in pairs])
    return dict(pairs)


_BUILD: dict[str, Callable[[list[Any]], Any]] = {
    "tuple": tuple,
    "set": lambda items: set(_spread(items)),
    "frozenset": lambda items: frozenset(_spread(items)),
    "range": lambda items: range(*items),
    "keys": lambda items: dict.fromkeys(_spread(items)).keys(),
    "values": lambda items: dict(enumerate(items)).values(),
    "items": lambda items: _dict(items).items(),
    "dict": _dict,
}
_DECIMAL = re.compile(r"-?(\d{1,10000})(?:\.(\d{1,10000}))?(?:E([+-]?\d{1,6}))?")


def type_name(value: object) -> str:
    """Return the name of a value's type, cut short; a program chooses it."""
    return str(type.__getattribute__(type(value), "__name__"))[:40]


class Encoder:
    """One encoding. ``special`` may turn a value that is not plain into JSON, or return ``None``."""

    def __init__(self, special: Callable[[Any], Any] | None = None) -> None:
        self._special = special
        self._nodes = 0

    def encode(self, value: Any, depth: int = 0) -> Any:
        """``value`` as JSON values. Raises ``NotPlain``."""
        self._nodes += 1
        if self._nodes > MAX_NODES or depth > MAX_DEPTH:
            raise NotPlain("the value is too large, too deep, or contains itself")
        kind = type(value)
        if value is None or kind is bool or kind is str:
            return value
        if kind is int:
            return value if value.bit_length() <= BIG else {"int": hex(value)}
        if kind is float:
            return value if math.isfinite(value) else {"float": repr(value)}
        if kind is list or kind is deque:
            return [self.encode(item, depth + 1) for item in value]
        if kind is range:
            return {"range": [self.encode(part) for part in (value.start, value.stop, value.step)]}
        if kind in _SEQUENCES:
            return {_SEQUENCES[kind]: [self.encode(item, depth + 1) for item in value]}
        if kind in _DICTS:
            return {"dict": [[self.encode(k, depth + 1), self.encode(v, depth + 1)] for k, v in value.items()]}
        if kind is bytes or kind is bytearray:
            return {"bytes": value.hex()}
        if kind is complex:
            return {"complex": [self.encode(value.real), self.encode(value.imag)]}
        if kind is _loaded("fractions", "Fraction"):
            return {"fraction": [self.encode(value.numerator), self.encode(value.denominator)]}
        if kind is _loaded("decimal", "Decimal"):
            return {"decimal": str(value)}
        special = self._special(value) if self._special is not None else None
        if special is None:
            raise NotPlain(f"a {type_name(value)} is not plain data")
        return special


def _loaded(module: str, name: str) -> Any:
    """Return a class of the standard library; a value that is one has brought its module along."""
    return getattr(sys.modules.get(module), name, encode)  # a function is no value's type


def encode(value: Any) -> Any:
    """``value`` as JSON values. Raises ``NotPlain``; a value with behaviour may raise anything while it is walked."""
    return Encoder().encode(value)


class Decoder:
    """One decoding. ``special`` gives the value of a tag that is not known here; without it there is none."""

    def __init__(self, special: Callable[[str, Any], Any] | None = None) -> None:
        self._special = special
        self._nodes = 0

    def decode(self, data: Any, depth: int = 0) -> Any:
        """Return the value of an encoding, which may come from a hostile program. Raises ``NotPlain``."""
        self._nodes += 1
        if self._nodes > 2 * MAX_NODES or depth > MAX_DEPTH:  # of each container, its list counts too
            raise NotPlain("the encoding is too large or too deep")
        if data is None or type(data) in (bool, str, int, float):
            return data
        if type(data) is list:
            return [self.decode(item, depth + 1) for item in data]
        if type(data) is not dict or len(data) != 1:
            raise NotPlain("not an encoding")
        ((tag, inner),) = data.items()
        try:
            return self._tagged(tag, inner, depth)
        except (TypeError, ValueError, AttributeError, OverflowError, LookupError) as error:
            raise NotPlain(f"not an encoding: {error}"[:200]) from error

    def _tagged(self, tag: str, inner: Any, depth: int) -> Any:
        if tag in _BUILD and type(inner) is list:
            return _BUILD[tag](self.decode(inner, depth - (tag == "dict")))  # pairs are lists of their own
        if tag == "int":
            return int(inner, 16)
        if tag == "float" and inner in ("inf", "-inf", "nan"):
            return float(inner)
        if tag == "bytes":
            return bytes.fromhex(inner)
        if tag == "complex":
            return complex(self.decode(inner[0], depth + 1), self.decode(inner[1], depth + 1))
        if tag == "fraction":
            return _fraction(*(self.decode(part, depth + 1) for part in inner))
        if tag == "decimal":
            return _decimal(inner)
        if self._special is not None:
            return self._special(tag, inner)
        raise NotPlain("not an encoding")


def _fraction(numerator: Any, denominator: Any) -> Any:
    from fractions import Fraction

    if type(numerator) is not int or type(denominator) is not int:
        raise NotPlain("not an encoding")
    if max(numerator.bit_length(), denominator.bit_length()) > MAX_BITS or denominator < 1:
        raise NotPlain("the fraction is too large")
    return Fraction(numerator, denominator)


def _decimal(text: str) -> Any:
    from decimal import Decimal

    if text in ("Infinity", "-Infinity"):
        return Decimal(text)
    match = _DECIMAL.fullmatch(text)
    if match is None or abs(int(match.group(3) or 0)) > MAX_EXPONENT:
        raise NotPlain("the Decimal is too large, too small, or no number")
    return Decimal(text)


def decode(data: Any) -> Any:
    """Return the value of an encoding. Raises ``NotPlain``."""
    return Decoder().decode(data)


def has_nan(value: Any) -> bool:
    """Return True when a decoded value is or contains a NaN. Its depth is bounded by ``MAX_DEPTH``."""
    if type(value) is float:
        return math.isnan(value)
    if type(value) is complex:
        return math.isnan(value.real) or math.isnan(value.imag)
    if type(value) is dict:
        return any(has_nan(key) or has_nan(item) for key, item in value.items())
    return type(value) in (list, tuple, set, frozenset, *_VIEWS) and any(has_nan(item) for item in value)
