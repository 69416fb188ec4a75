"""A piece of work with a folder of its own: one process at a time, done once, gone on with after a stop."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from recipes.run.workspace import STAGE, Workspace, WorkspaceError
from rl.launch import check_run_dir
from rl.state.run_dir import CHANGEABLE, flatten
from rl.stop import Interrupted, Stopper
from rollout.files import remove_asides
from rollout.lock import locked
from rollout.progress import Progress, progress


def fixed(config: dict[str, Any]) -> dict[str, Any]:
    """Return the keys, dotted, that a training that goes on must share with the one that began."""
    return {
        key: value
        for key, value in flatten(config).items()
        if not any(key == free or key.startswith(f"{free}.") for free in CHANGEABLE)
    }


def check_room(out: Path, written: Sequence[str], option: str) -> None:
    """Refuse a folder with files of something else, a run's, say, that the work would replace or remove.

    Raises ``WorkspaceError``.
    """
    if (out / STAGE).exists():
        return
    if there := [name for name in written if (out / name).exists()]:
        raise WorkspaceError(f"{out} holds {' and '.join(there)} of something else; choose another {option}")


def in_workspace(
    out: Path,
    told: Mapping[str, Any],
    written: Sequence[str],
    work: Callable[[Stopper, Progress], str],
    option: str = "--out",
) -> int:
    """Do ``work`` in the folder ``out``, and print what it returns; 0, 1, or 128 + signal.

    Work that was done is not done again. ``told``: what it depends on, its ``config`` among it. ``written``: names of
    what it writes, which a folder of something else must not have. ``option`` names the folder on the command line.
    Raises ``WorkspaceError`` for a folder that
    holds another's.
    """
    from transformers.utils.logging import disable_progress_bar

    from recipes.run.failures import EXPECTED, located

    disable_progress_bar()  # loading bars of transformers would tear ours
    with Stopper() as stopper, locked(out, WorkspaceError, option):
        try:
            check_run_dir(out.resolve())
            check_room(out, written, option)
            space, name = Workspace(out.resolve().parent, option), out.resolve().name
            space.begin(name, {**told, "config": fixed(told["config"])})
            remove_asides(out)
            if (note := space.note(name)) is None:
                with progress() as watch:
                    note = work(stopper, watch)
                space.finish(name, note)
        except Interrupted:
            print(f"k15: stopped; the same command goes on in {out}", file=sys.stderr)
            return 128 + (stopper.signal or signal.SIGTERM)
        except WorkspaceError:
            raise
        except EXPECTED as error:
            print(f"k15: {located(error, out)}", file=sys.stderr)
            return 1
    print(note)
    return 0
