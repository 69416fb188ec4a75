"""One self-contained HTML file from data. Everything that a model may have written travels as inert JSON.

Three fences: the JSON cannot close its script element; the page's script puts text into the document only as text; and
the content security policy allows exactly one script and one style sheet, by their hashes, and no network at all.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
from importlib import resources
from string import Template
from typing import Any

from rollout.plain import visible

_UNSAFE = {ord(c): f"\\u{ord(c):04x}" for c in "<>&'\u2028\u2029"}


_PARTS = ("dom.js", "chart.js", "lanes.js", "table.js")
"""Scripts that every page contains, before its own."""


def script_of(package: str, *names: str) -> str:
    """Return the scripts of these names in a package, one after the other."""
    return "".join((resources.files(package) / name).read_text("utf-8") for name in names)


def render(title: str, payload: dict[str, Any], script: str, records: str) -> str:
    """Return the page; ``payload`` is plain JSON data that ``script`` knows how to show, with the parts of this
    package.

    ``records`` is the id of the list that the page is about; keyboards can skip to it.
    """
    files = resources.files("evals.report.page")
    script = script_of("evals.report.page", *_PARTS) + script
    style = (files / "page.css").read_text("utf-8")
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    return Template((files / "template.html").read_text("utf-8")).substitute(
        policy=policy,
        title=html.escape(visible(title)),
        style=style,
        script=script,
        data=embed(payload),
        records=html.escape(records),
    )


def embed(payload: Any) -> str:
    """Return JSON that may stand inside a script element: no markup character, no hidden character, no NaN."""
    return json.dumps(_clean(payload), ensure_ascii=False, separators=(",", ":"), allow_nan=False).translate(_UNSAFE)


def _clean(value: Any) -> Any:
    """Make strings visible, round floats to 6 digits, and turn NaN and infinities into null."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {visible(str(key)): _clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value]
    return value


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
