"""Carries trials out: several at a time, each in a process of its own with one thread, and each once."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path

from recipes.evidence.bench.trial import RUN, Outcome, Trial, claim_folder, read_outcome, write_outcome
from recipes.shorten.config import ShortenConfig
from rl.pretraining_config import PretrainConfig
from rl.stop import Interrupted, Stopper
from rollout.files import replace_file
from rollout.lock import locked
from rollout.progress import progress

SPENT = ("checkpoints", "journal", "rollouts", "initial", "warmup-responses", "timeline.jsonl")
"""What a finished trial does not keep."""
ONE_PROCESS = 25
"""Trials after which a worker makes room for another: what libraries hold on to would pile up."""
LOG = "log.txt"
PR_SET_PDEATHSIG = 1
"""Of prctl: the signal for when the parent ends."""


class WorkerKilled(RuntimeError):
    """A process that carried out a trial is gone; one line."""


def ready(trials: Iterable[Trial], root: Path) -> list[Trial]:
    """Return the trials, and those that they start from, that are to be done and can be: whose base is done."""
    found: dict[str, Trial] = {}
    for trial in trials:
        for part in trial.chain:
            if read_outcome(part, root) is None:
                found.setdefault(part.key, part)
                break
    return list(found.values())


def carry_out(
    ask: Callable[[], Sequence[Trial]],
    root: Path,
    jobs: int,
    told: Callable[[Sequence[Trial]], None],
    stopper: Stopper,
) -> dict[str, str]:
    """Do the trials that ``ask`` names, ``jobs`` at a time; asks again after each, since some choose what comes next.

    ``told`` hears which trials are running, whenever that changes. Returns why some could not be done, by their keys:
    all others are. Raises ``Interrupted`` and ``WorkerKilled``.
    """
    failures: dict[str, str] = {}
    running: dict[Future[str | None], Trial] = {}
    stopped: set[int] = set()
    with ProcessPoolExecutor(jobs, get_context("spawn"), _begin, max_tasks_per_child=ONE_PROCESS) as pool:
        while True:
            _begin_some(ask, root, jobs, pool, running, failures, stopper)
            told([*running.values()])
            if not running:
                break
            for future in _next_done(running, stopper, stopped):
                trial = running.pop(future)
                try:
                    why = future.result()
                except BrokenProcessPool as error:
                    if stopper.requested:  # one that had only been started
                        raise Interrupted("stopped between trials") from error
                    raise WorkerKilled(
                        "a process of a trial was killed (too little memory?); the same command goes on"
                    ) from error
                if why is not None:
                    failures[trial.key] = why
    if stopper.requested:
        raise Interrupted("stopped between trials")
    return failures


def _begin_some(
    ask: Callable[[], Sequence[Trial]],
    root: Path,
    jobs: int,
    pool: ProcessPoolExecutor,
    running: dict[Future[str | None], Trial],
    failures: Mapping[str, str],
    stopper: Stopper,
) -> None:
    if stopper.requested or len(running) == jobs:
        return
    busy = {trial.key for trial in running.values()} | failures.keys()
    waiting = [trial for trial in ready(ask(), root) if trial.key not in busy]
    for trial in waiting[: jobs - len(running)]:
        running[pool.submit(work, trial, root)] = trial


def _next_done(
    running: Mapping[Future[str | None], Trial], stopper: Stopper, stopped: set[int]
) -> set[Future[str | None]]:
    """Wait for the next trial to end; a stop signal is passed on, so that all of them stop where they can go on: once
    to each process, which ``stopped`` remembers, since a second one would not let it write a checkpoint.
    """
    while True:
        done, _ = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
        if done:
            return done
        if stopper.requested:
            for process in active_children():
                if process.pid is not None and process.pid not in stopped:
                    stopped.add(process.pid)
                    os.kill(process.pid, signal.SIGINT)  # which those without a trial do not hear


def _begin() -> None:
    """Prepare a worker: everything in it has one thread, so that trials side by side do not wait for each other. It
    stops when the first process is gone, so that the same command finds nobody at work.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # between trials; within one it has a handler of its own
    os.setpgid(0, 0)  # Ctrl-C reaches the first process alone, which passes it on
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    _end_if_alone()
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), "1")
    import torch
    from transformers.utils.logging import disable_progress_bar

    torch.set_num_threads(1)
    disable_progress_bar()


def _end_if_alone() -> None:
    """End a worker whose first process is gone: it would wait for another trial for ever."""
    first = parent_process()
    if first is not None and not first.is_alive():
        os._exit(1)


def work(trial: Trial, root: Path) -> str | None:
    """Carry a trial out, or go on with it; returns why it could not be. What it says goes to ``log.txt`` in its folder.

    A loss that is not finite is a result: with that setting it cannot be trained.
    """
    from recipes.run.failures import EXPECTED, located
    from rl.learner.learner import NonFiniteGradients

    folder = trial.folder(root)
    folder.mkdir(parents=True, exist_ok=True)
    began, failed = time.monotonic(), None
    with Stopper() as stopper, (folder / LOG).open("a") as log, redirect_stdout(log), redirect_stderr(log):
        claim_folder(trial, root)
        try:
            _train(trial, folder / RUN, root, stopper)
        except NonFiniteGradients as error:
            failed = str(error)
        except Interrupted as error:
            _end_if_alone()
            return f"stopped: {error}"
        except EXPECTED as error:
            return located(error, folder)
        finally:
            spent = _add_seconds(folder, time.monotonic() - began)
        for name in SPENT:
            gone = folder / RUN / name
            shutil.rmtree(gone, ignore_errors=True) if gone.is_dir() else gone.unlink(missing_ok=True)
        write_outcome(Outcome(trial, folder, spent, failed, cpu()))
    return None


def _train(trial: Trial, folder: Path, root: Path, stopper: Stopper) -> None:
    from recipes.pretrain.session import train as pretrain
    from recipes.run.session import train
    from recipes.run.workspace import WorkspaceError
    from recipes.shorten.pipeline import Order
    from recipes.shorten.pipeline import carry_out as shorten
    from recipes.shorten.results import METHODS
    from rl.state.run_dir import RunDir

    config = trial.placed(root)
    if isinstance(config, ShortenConfig):
        long = trial.base
        assert long is not None
        assert long.base is not None
        order = Order(long.model(root), long.base.model(root), None, None, METHODS, config, folder)
        if code := shorten(order, stopper):
            if stopper.requested:
                raise Interrupted("stopped while shortening")
            raise WorkspaceError(f"shortening ended with exit code {code}")
    elif isinstance(config, PretrainConfig):
        with locked(folder, WorkspaceError, "--out"), progress() as watch:
            pretrain(config, folder, stopper, watch)
    else:
        directory = RunDir(folder)
        with directory.lock():
            train(config, directory, stopper)


def _add_seconds(folder: Path, seconds: float) -> float:
    """Add to what was spent on a trial, and return it; of processes that were killed nothing is known."""
    file = folder / "seconds.json"
    total = seconds + (json.loads(file.read_bytes()) if file.exists() else 0.0)
    replace_file(file, json.dumps(total).encode())
    return total


def cpu() -> str:
    """Return what kind of numbers the processor computes with, since that moves results."""
    import torch

    return f"{torch.backends.cpu.get_cpu_capability()} ({platform.machine()})"
