"""What ends a run with one line instead of a traceback."""

from __future__ import annotations

from pathlib import Path

from evals.report.run.data import ReportError
from rewards.code.types import SandboxFailure
from rl.actors import LearnerDead
from rl.launch import LaunchError
from rl.learner.learner import NonFiniteGradients
from rl.learner.movement import Unmoved
from rl.record.log import LogError
from rl.record.rollout_store import StoreError
from rl.record.sinks import SinkError
from rl.state.checkpoint import CheckpointError
from rl.state.run_dir import RunDirError
from rl.stop import Halted
from rollout.engine import EngineError
from rollout.models.export import ExportError

EXPECTED = (
    Halted,
    RunDirError,
    CheckpointError,
    LaunchError,
    LearnerDead,
    NonFiniteGradients,
    Unmoved,
    EngineError,
    ExportError,
    LogError,
    StoreError,
    SinkError,
    ReportError,
    SandboxFailure,
    OSError,
    ValueError,
)
"""Failures whose message says what, where and what to do; anything else is a bug and is shown with its traceback."""


def located(error: Exception, run_dir: Path) -> str:
    """Return the error's message with the file, which a failed write to an open file does not name."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or run_dir}: {error.strerror}; once that is mended the same command goes on"
    return str(error)
