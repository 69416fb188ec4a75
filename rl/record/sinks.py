"""Optional trackers beside ``metrics.jsonl``: TensorBoard, Weights & Biases, Trackio.

Each is imported only when asked for, and before the run starts: a missing package is an error at the beginning.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol


class SinkError(RuntimeError):
    """A tracker that was asked for cannot be used."""


class Sink(Protocol):
    """Takes the finite numbers of each iteration."""

    def write(self, iteration: int, row: Mapping[str, float]) -> None:
        """Record one iteration."""

    def rewind(self, iteration: int) -> None:
        """Continue at ``iteration``; what was recorded from there on is void."""

    def close(self) -> None:
        """Flush and close."""


def identity(run_dir: Path) -> str:
    """Return a name for trackers that resume runs by name; it differs for directories of the same name."""
    path = run_dir.resolve()
    return f"{path.name}-{hashlib.sha256(str(path).encode()).hexdigest()[:6]}"


class TensorboardSink:
    """Event files under ``<run>/tensorboard``."""

    def __init__(self, run_dir: Path) -> None:
        self._writer_type = _load("torch.utils.tensorboard", "tensorboard").SummaryWriter
        self._folder = run_dir / "tensorboard"
        self._writer = self._writer_type(log_dir=str(self._folder))

    def write(self, iteration: int, row: Mapping[str, float]) -> None:
        """Write one scalar per metric, flushed so that a crash loses nothing."""
        for key, value in row.items():
            self._writer.add_scalar(key, value, global_step=iteration)
        self._writer.flush()

    def rewind(self, iteration: int) -> None:
        """Open another event file that hides the steps from ``iteration`` on."""
        self._writer.close()
        self._writer = self._writer_type(log_dir=str(self._folder), purge_step=iteration)

    def close(self) -> None:
        """Flush and close the event file."""
        self._writer.close()


class RunSink:
    """A run at Weights & Biases or Trackio, which share an interface; going on in the directory resumes it."""

    def __init__(self, name: str, run_dir: Path, project: str, config: Mapping[str, Any]) -> None:
        own = {"name": identity(run_dir)}
        if name == "wandb":
            own = {"name": run_dir.resolve().name, "id": identity(run_dir), "dir": str(run_dir)}
        self._run = _load(name, name).init(project=project, config=dict(config), resume="allow", **own)

    def write(self, iteration: int, row: Mapping[str, float]) -> None:
        """Write one history row."""
        self._run.log(dict(row), step=iteration)

    def rewind(self, iteration: int) -> None:
        """Do nothing: a step's first values stay, and a resumed run repeats the same ones."""

    def close(self) -> None:
        """Send what is left and end the run."""
        self._run.finish()


_NAMES = ("tensorboard", "wandb", "trackio")


def open_sinks(names: Sequence[str], run_dir: Path, project: str, config: Mapping[str, Any]) -> list[Sink]:
    """Open the trackers named. Raises ``SinkError`` for an unknown name or a missing package, before any tracker
    opens.
    """
    for name in names:
        if name not in _NAMES:
            raise SinkError(f"log.sinks: unknown tracker {name!r}; choose from {', '.join(_NAMES)}")
        _load(name, name)
    return [_open(name, run_dir, project, config) for name in names]


def _open(name: str, run_dir: Path, project: str, config: Mapping[str, Any]) -> Sink:
    if name == "tensorboard":
        return TensorboardSink(run_dir)
    return RunSink(name, run_dir, project, config)


def _load(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        hint = f"run 'pip install {package}' or leave it out"
        raise SinkError(f"log.sinks: {package} cannot be imported ({error}); {hint}") from error
