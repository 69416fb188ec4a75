"""JSON that every reader takes: NaN and infinities, which JSON has not, become null.

Python's own writer puts them down bare (`NaN`, `Infinity`), and jq, JavaScript, DuckDB and most others refuse the file.
Whatever people or other programs read is written by ``dumps``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


def finite(value: Any) -> Any:
    """Return ``value`` with ``None`` in the place of every NaN and infinity, at any depth."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def dumps(value: Any, **how: Any) -> str:
    """Return ``json.dumps`` with null for NaN and infinities."""
    return json.dumps(finite(value), allow_nan=False, **how)
