"""An output folder with a folder for each stage of work, which says what it was made from and when it is finished."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from rl.state.run_dir import flatten
from rollout.files import replace_file
from rollout.lock import locked

UNIMPORTANT = ("run.log.", "run.ray.", "run.checkpoint.", "run.recipe")
"""Inputs that change how a stage runs, but not its result."""
STAGE = "stage.json"
"""What a stage was made from; ``note`` once it is finished."""


class WorkspaceError(ValueError):
    """The output folder cannot be used; one line: why, and what to do."""


class Workspace:
    """The stages in an output folder, and the check that their inputs are still the same."""

    def __init__(self, root: Path, option: str = "--out") -> None:
        self.root = root
        self._option = option

    def folder(self, name: str) -> Path:
        """Return the folder of a stage."""
        return self.root / name

    def note(self, name: str) -> str | None:
        """Return how a finished stage was made; ``None`` while it is not finished."""
        file = self.folder(name) / STAGE
        if not file.exists():
            return None
        found = json.loads(file.read_bytes()).get("note")
        return None if found is None else str(found)

    def begin(self, name: str, inputs: dict[str, Any]) -> Path:
        """Return the folder of a stage, new or to be continued with the same inputs.

        Raises ``WorkspaceError`` when it holds what was made from other inputs; the difference is shown.
        """
        folder, new = self.folder(name), json.loads(json.dumps(inputs, default=str))
        file = folder / STAGE
        if file.exists():
            changed = differences(json.loads(file.read_bytes())["inputs"], new)
            if changed:
                raise WorkspaceError(
                    f"{folder} was made from other inputs ({'; '.join(changed[:5])}); remove that folder to make it "
                    f"again, or choose another {self._option}"
                )
            return folder
        folder.mkdir(parents=True, exist_ok=True)
        self._write(name, {"inputs": new, "note": None})
        return folder

    def finish(self, name: str, note: str) -> None:
        """Mark a stage as complete."""
        inputs = json.loads((self.folder(name) / STAGE).read_bytes())["inputs"]
        self._write(name, {"inputs": inputs, "note": note})

    def _write(self, name: str, row: dict[str, Any]) -> None:
        replace_file(self.folder(name) / STAGE, (json.dumps(row, indent=1) + "\n").encode())

    def lock(self) -> AbstractContextManager[None]:
        """Lock the folder for one process. Raises ``WorkspaceError`` when another is at work or nothing can be
        written.
        """
        return locked(self.root, WorkspaceError, self._option)


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Return the dotted keys that differ, as ``key: old -> new``, without the unimportant ones."""
    before, after = flatten(old), flatten(new)
    return [
        f"{key}: {before.get(key, '(absent)')} -> {after.get(key, '(absent)')}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key, "(absent)") != after.get(key, "(absent)") and not key.startswith(UNIMPORTANT)
    ]
