"""Results that are kept, so that the same command only adds what is missing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.common import CACHE, ROOT
from rl.config import RunConfig
from rollout.files import replace_file

FOLDER = CACHE / "overlap"


def settings_of(config: RunConfig) -> str:
    """Return what a run depends on: all that is not the default, so that a new key does not make results old."""
    return json.dumps(config.model_dump(mode="json", exclude_defaults=True), sort_keys=True).replace(str(ROOT), "")


def kept(name: str, settings: str, measure: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Return the result called ``name``, measured if there is none of exactly these settings.

    ``measure`` gets a folder of its own for what it writes.
    """
    file = FOLDER / f"{name}.json"
    if file.exists():
        known = json.loads(file.read_text())
        if known["settings"] == settings:
            return dict(known["result"])
    file.parent.mkdir(parents=True, exist_ok=True)
    result = measure(file.with_suffix(""))
    replace_file(file, json.dumps({"settings": settings, "result": result}, indent=1).encode())
    return result
