"""What a part of the GPU check is made of: cases, and the notes on them that outlive the process."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from rollout.strict_json import dumps

Row = dict[str, Any]
FAULTS = (
    "CUDA error",
    "illegal memory access",
    "device-side assert",
    "unspecified launch failure",
    "misaligned address",
)
"""Words of errors after which a process can use its device no more."""


class DeviceLost(RuntimeError):
    """This process can use its device no more: the rest of the cases needs another one."""


@dataclass(frozen=True)
class Options:
    """What a worker is told."""

    device: str
    """``cuda``, or ``cpu`` in the dry mode."""
    dry: bool
    """Tiny sizes: proves the path, measures nothing."""
    folder: str
    """Where notes, logs and made models lie; removed at the end."""
    shard: int = 0
    """Number of this process among ``shards``, which share the cases of the part."""
    shards: int = 1

    def json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def of(cls, text: str) -> Self:
        return cls(**json.loads(text))


@dataclass(frozen=True)
class Case:
    """One measurement or comparison. ``run`` returns its figures; ``ok: False`` among them says that they are wrong."""

    name: str
    run: Callable[[], Row]


class Notes:
    """Lines of JSON in a file, each written at once: what is planned, begun and ended."""

    def __init__(self, file: Path, done: Iterable[str] = ()) -> None:
        self.file = file
        self.done = set(done)
        """Cases that a process before this one has ended."""

    def _write(self, **line: Any) -> None:
        with self.file.open("a") as out:
            out.write(dumps(line) + "\n")

    def skip(self, reason: str) -> None:
        """The whole part is left out."""
        self._write(event="skip", reason=reason)

    def plan(self, names: Iterable[str]) -> None:
        """The cases to come."""
        self._write(event="plan", cases=list(names))

    def begin(self, name: str) -> None:
        """A case begins; the process may not see its end."""
        self._write(event="begin", case=name)

    def end(self, name: str, row: Row) -> None:
        """A case has ended with these figures."""
        self._write(event="end", case=name, row={"ok": True, **row})

    def fail(self, name: str, error: BaseException | str) -> None:
        """A case has ended with an error; raises ``DeviceLost`` if it took the device with it."""
        text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
        self._write(event="end", case=name, row={"ok": False, "error": shortened(text)})
        if any(word in text for word in FAULTS):
            raise DeviceLost(shortened(text))


def shortened(text: str, most: int = 600) -> str:
    """One line of at most ``most`` characters."""
    line = " | ".join(part.strip() for part in text.strip().splitlines() if part.strip())
    return line if len(line) <= most else f"{line[: most // 2]} ... {line[-most // 2 :]}"


def run_cases(cases: Iterable[Case], options: Options, notes: Notes) -> None:
    """Run this process's share of ``cases`` that has not been run; errors are noted, and the next one follows.

    This is the boundary at which a part's exceptions are caught and counted. Raises ``DeviceLost``.
    """
    share = [case for number, case in enumerate(cases) if number % options.shards == options.shard]
    notes.plan(case.name for case in share)
    for case in share:
        if case.name in notes.done:
            continue
        notes.begin(case.name)
        try:
            row = case.run()
        except Exception as error:  # noqa: BLE001 - see above
            notes.fail(case.name, error)
        else:
            notes.end(case.name, row)
        release(options.device)


def release(device: str) -> None:
    """Give back the memory of what nobody refers to."""
    gc.collect()
    if device == "cuda":
        import torch

        torch.cuda.empty_cache()
