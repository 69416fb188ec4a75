"""One process of one part, as the runner starts it: ``python -m benchmarks.gpu_check.worker MODULE OPTIONS NOTES
DONE``.
"""

from __future__ import annotations

import importlib
import json
import sys
from importlib.util import find_spec
from pathlib import Path

from benchmarks.gpu_check.case import DeviceLost, Notes, Options

DEVICE_LOST = 75
"""Exit code of a process that left cases undone because its device is unusable."""


def missing(needs: tuple[str, ...]) -> list[str]:
    """Packages among ``needs`` that are not installed."""
    return [name for name in needs if find_spec(name) is None]


def main() -> int:
    module, options, file, done = sys.argv[1:]
    notes = Notes(Path(file), json.loads(done))
    part = importlib.import_module(module)
    if lacking := missing(part.NEEDS):
        notes.skip(f"not installed: {', '.join(lacking)}")
        return 0
    try:
        part.work(Options.of(options), notes)
    except DeviceLost:
        return DEVICE_LOST
    return 0


if __name__ == "__main__":
    sys.exit(main())
