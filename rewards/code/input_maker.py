"""Runs inside of a sandbox: one run of a generator program, and the test inputs that it made.

A generator may print its input, or write it to files ending in ``.in`` as CYaRon's ``IO`` does, one or many. Its random
numbers are seeded before it starts and its number is ``sys.argv[1]``. CYaRon's ``output_gen`` does nothing here: the
outputs come from reference submissions, elsewhere.

``plan.json`` holds ``{"seed": text, "number": n}``; the inputs go to descriptor 3, one JSON text a line.
"""

from __future__ import annotations

import gc
import json
import os
import random
import re
import runpy
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

CHANNEL = 3


def patch_cyaron() -> Any:
    """CYaRon's ``IO`` class without ``output_gen``."""
    kind = import_module("cyaron").IO
    kind.output_gen = lambda *_, **__: None
    return kind


def flush(kind: Any) -> None:
    """Write out what a generator left in open files."""
    sys.stdout.flush()
    for thing in gc.get_objects():
        if type(thing) is kind and not thing.input_file.closed:
            thing.input_file.flush()


def numbered(path: Path) -> list[Any]:
    """Sort key: ``data2.in`` before ``data10.in``."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", str(path))]


def inputs(printed: Path) -> list[str]:
    """Return the files that the generator wrote, else what it printed."""
    files = sorted(Path().rglob("*.in"), key=numbered)
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in files]
    return texts or [printed.read_text(encoding="utf-8", errors="replace")]


def main() -> None:
    """Entry point; the working directory holds ``generator.py`` and ``plan.json``."""
    plan = json.loads(Path("plan.json").read_text(encoding="utf-8"))
    printed = Path("/tmp/printed")
    os.dup2(os.open(printed, os.O_WRONLY | os.O_CREAT), 1)
    kind = patch_cyaron()
    random.seed(plan["seed"])
    sys.argv = ["generator.py", str(plan["number"])]
    kept: dict[str, Any] = {}
    try:
        kept = runpy.run_path("generator.py", run_name="__main__")
    except SystemExit as error:
        if error.code not in (None, 0):
            raise
    flush(kind)
    with os.fdopen(CHANNEL, "wb") as channel:
        channel.writelines(json.dumps(text).encode() + b"\n" for text in inputs(printed))
    kept.clear()
