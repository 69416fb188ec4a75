"""Plays one case: forks the run's process, lets it end as its strikes have it, goes on with it, and audits the end.

Everything is forked from a process of one thread that has imported all that engines, learners and runs need.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NoReturn

import psutil
import yaml

from recipes.run.launching import Launcher, Machines, calibrate, starting_model
from recipes.run.session import run
from recipes.run.setup import Setup
from rl.config import RunConfig
from rl.learner.spec import LearnerSpec, Receivers
from rl.state.run_dir import RunDir
from rollout.pool.pool import Pool
from tests.chaos.audit import Extent, audit
from tests.chaos.cases import Act, Case
from tests.chaos.doom import FILLER, Doom, install
from tests.chaos.hosts import Nursery, die_with_parent
from tests.chaos.ledger import read_ledger, read_record, take
from tests.chaos.proxies import ProcessEngine, ProcessPolicy
from tests.chaos.sameness import differences
from tests.chaos.strikes import FREEZE_S, RAY_FREEZE_S
from tests.paths import ROOT

MOST = 8
"""Differences that are told."""
PR_SET_CHILD_SUBREAPER, CLONE_NEWNS = 36, 0x20000
DISK_MIB = 32
"""Size of the disk of a run whose disk is to be full."""
GONE_S = 300.0
"""Patience with processes that end by themselves when their run is gone; bounds hangs only."""


def launcher(address: Path, doom: Doom) -> Launcher:
    """Return a launcher of engines and a learner in processes of the nursery at ``address``."""

    def launch(setup: Setup, directory: RunDir, stack: ExitStack, claim: Callable[[], None]) -> Machines:
        config, path = setup.config, starting_model(setup, directory)
        pool = Pool(
            lambda _: ProcessEngine(address, doom, str(path), config.engine, config.seed, config.model.attention),
            config.engine,
            config.rollout,
            setup.end,
            config.seed,
            config.model.compute_dtype,
        )
        stack.enter_context(pool)
        pool.start()
        policy = ProcessPolicy(address, doom, Receivers.of(config, "shm"), LearnerSpec.of(config), path)
        stack.callback(policy.end)
        return calibrate(Machines(policy, pool), setup)  # type: ignore[arg-type]

    return launch


@dataclass(frozen=True)
class Ended:
    """How a process of the run has ended."""

    code: int
    """As ``subprocess`` has it: negative for signals."""
    output: str
    orphans: tuple[str, ...]
    """Names of processes that it left behind."""


class Play:
    """One case in a folder of its own; ``whole``: the same run without its strikes, to compare with."""

    def __init__(self, case: Case, folder: Path, config: RunConfig, whole: Path | None) -> None:
        self.case, self.folder, self.config, self.whole = case, folder, config, whole
        self.run_dir = folder / "disk" / "run"
        self.notes = folder / "notes"
        self.notes.mkdir(parents=True)
        die_with_parent()
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def faults(self) -> list[str]:
        """Play it and return what is not as it must be, a line each."""
        make_disk(self.run_dir.parent, self.case.disk)
        for number, act in enumerate(self.case.acts):
            ended = self.act(number, act)
            if found := [*complaints(act, ended)]:
                return [*found, *ended.output.splitlines()[-25:]]
        return [*self.audited()]

    def act(self, number: int, act: Act) -> Ended:
        """Start the run once more, with these strikes, and return how that ended."""
        filler = self.run_dir.parent / FILLER
        filler.unlink(missing_ok=True)
        output = self.folder / f"output{number}.txt"
        with ExitStack() as stack:
            if self.case.nodes:
                pid, ours, frozen_s = self.on_ray(act, output), set[int](), RAY_FREEZE_S
            else:
                nursery = Nursery(self.folder / f"nursery{number}")
                stack.callback(nursery.close)
                pid, ours, frozen_s = self.forked(nursery.address, act, output), {nursery.pid}, FREEZE_S
            code = watch(pid, frozen_s)
            orphans = left_behind(ours)
        take(self.run_dir, self.notes / f"{len(list(self.notes.iterdir())):02d}", f"end of process {number}")
        return Ended(code, output.read_text(), orphans)

    def on_ray(self, act: Act, output: Path) -> int:
        """Start the run's process on Ray; returns it."""
        config = self.folder / "config.yaml"
        config.write_text(yaml.safe_dump(self.config.model_dump(mode="json")))
        words = [" ".join(map(str, act.strikes)), str(self.case.nodes), str(config), str(self.run_dir), str(self.notes)]
        command = [sys.executable, "-m", "tests.chaos.cluster", *words]
        with output.open("wb") as file:
            return subprocess.Popen(
                command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
            ).pid

    def forked(self, address: Path, act: Act, output: Path) -> int:
        """Fork the run's process; returns it."""
        pid = os.fork()
        if pid == 0:
            self.drive(address, act, output)
        return pid

    def drive(self, address: Path, act: Act, output: Path) -> NoReturn:
        """Be the run's process: in a session of its own, output into a file."""
        code, doom = 99, Doom(act.strikes, self.run_dir, self.notes)
        try:
            os.setsid()
            die_with_parent()
            with output.open("wb") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            install(doom)
            code = run(self.config, self.run_dir, launcher(address, doom))
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 97
        except BaseException:  # noqa: BLE001 - as an interpreter's end
            traceback.print_exc()
        finally:
            threading._shutdown()  # type: ignore[attr-defined]
            atexit._run_exitfuncs()
            if doom.left:
                print("never struck:", *doom.left, file=sys.stderr)
                code = 98
            for stream in (sys.stdout, sys.stderr):
                try:
                    stream.flush()
                except OSError:
                    continue
            os._exit(code)

    def audited(self) -> Iterator[str]:
        """Yield what is wrong with the run at its end."""
        ledgers = [read_ledger(folder) for folder in sorted(self.notes.iterdir())]
        yield from audit(read_record(self.run_dir), ledgers, Extent.of(self.config))
        if self.whole is not None:
            yield from islice(differences(self.whole, self.run_dir, self.case.same), MOST)


def complaints(act: Act, ended: Ended) -> Iterator[str]:
    """Yield what is wrong with the end of a process."""
    if ended.code != act.code:
        yield f"exit code {ended.code} instead of {act.code}"
    if act.says not in ended.output:
        yield f"it does not say {act.says!r}"
    if act.code == 1 and not act.speechless:
        said = [line for line in ended.output.splitlines() if line.startswith("k15: ")]
        if len(said) != 1 or "Traceback" in ended.output:
            yield f"it ends with {len(said)} lines of k15's instead of one"
    for name in ended.orphans:
        yield f"process {name} is left behind"


def watch(pid: int, frozen_s: float) -> int:
    """Wait for a child's end, and let it go on when it has stopped itself; returns its exit code."""
    while True:
        _, status = os.waitpid(pid, os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            return os.waitstatus_to_exitcode(status)
        time.sleep(frozen_s)
        os.kill(pid, signal.SIGCONT)


def left_behind(ours: set[int]) -> tuple[str, ...]:
    """Return the names of descendants of this process that do not end by themselves, and end them."""
    found = []
    for one in psutil.Process().children(recursive=True):
        if one.pid in ours:
            continue
        try:
            name = one.name()
            one.wait(GONE_S)
        except psutil.TimeoutExpired:
            found.append(name)
            one.kill()
        except psutil.NoSuchProcess:
            continue
    return tuple(found)


def make_disk(folder: Path, wanted: bool) -> None:
    """Make the folder of the run; where that is wanted a small file system, which this process alone sees."""
    folder.mkdir()
    if not wanted:
        return
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "a file system of its own takes root")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", str(folder)], check=True)
