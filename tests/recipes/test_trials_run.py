"""Trials carried out, in processes of their own: each once, whatever happens to the others or to the command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest
from paths import ROOT
from run_kit import tiny

from recipes.evidence.bench.finding import Bench, Results
from recipes.evidence.bench.trial import RUN, Trial, read_outcome
from recipes.evidence.bench.work import carry_out, work
from rl.config import CheckpointConfig
from rl.learner.config import LearnerConfig, ModelConfig, OptimizerConfig, ScratchModel
from rl.pretraining_config import CosineSchedule, MeasureConfig, PretrainConfig
from rl.record.log import read_metrics
from rl.stop import Stopper
from rl.text.config import FilesText
from tests.processes import until, until_gone

SMALL = ScratchModel(layers=1, width=16, heads=2, kv_heads=2, mlp_width=32, context=96)


def pretraining(seed: int = 0, steps: int = 4, lr: float = 1e-3, text: str = str(ROOT / "README.md")) -> Trial:
    config = PretrainConfig(
        seed=seed,
        model=ModelConfig(base=SMALL, threads=1),
        text={"prose": FilesText(path=text)},
        schedule=CosineSchedule(steps=steps, batch=2, length=32, lr=lr),
        learner=LearnerConfig(optimizer=OptimizerConfig(lr=lr)),
        measure=MeasureConfig(every=0, tokens=128),
        checkpoint=CheckpointConfig(every=4),
    )
    return Trial(config)


def policy(base: Trial, seed: int = 0) -> Trial:
    changes = {"iterations": 1, "warmup": None, "model": {"base": {"kind": "pretrained", "path": "x"}, "threads": 1}}
    return Trial(tiny(seed=seed, **changes), base)


def carried_out(trials: Sequence[Trial], root: Path, jobs: int = 2) -> dict[str, str]:
    with Stopper() as stopper:
        return carry_out(lambda: trials, root, jobs, lambda _: None, stopper)


@pytest.mark.slow
def test_all_are_done_once_and_what_fails_holds_nothing_up(tmp_path: Path) -> None:
    """Two that share what they start from, one whose text is missing, one whose loss is not finite, one from that."""
    base, broken = pretraining(), pretraining(seed=1, steps=40, lr=1e30)
    good = [policy(base), policy(base, seed=1)]
    lost = pretraining(text=str(tmp_path / "no.txt"))
    trials = [*good, good[0], lost, policy(broken), base]
    failures = carried_out(trials, tmp_path)
    assert failures.keys() == {lost.key}
    assert "no.txt" in failures[lost.key]
    assert len(failures[lost.key].splitlines()) == 1
    for trial in (base, *good):
        found = read_outcome(trial, tmp_path)
        assert found is not None
        assert found.failed is None
        assert found.seconds > 0
        assert found.cpu
        assert not (found.folder / RUN / "checkpoints").exists()
    bench = Bench(tmp_path, (0, 1))
    outcomes = [read_outcome(one, tmp_path) for one in (broken, policy(broken))]
    results = Results({"all": [one for one in outcomes if one is not None]}, bench)
    assert results.failed == ["all: 2 of 2"]
    assert read_outcome(lost, tmp_path) is None
    before = {file: file.stat().st_mtime_ns for file in tmp_path.glob("trials/*/trial.json")}
    assert len(before) == 4, "the shared one once, and nothing for what starts from a failure"
    assert carried_out(trials, tmp_path).keys() == {lost.key}
    assert {file: file.stat().st_mtime_ns for file in before} == before


@pytest.mark.slow
def test_what_comes_next_is_asked_for_after_each(tmp_path: Path) -> None:
    bench = Bench(tmp_path, (0,))
    choices = {rate: pretraining(lr=rate) for rate in (1e-4, 1e-2)}

    def ask() -> list[Trial]:
        best = bench.best(choices, lambda one: -one.pretraining.heldout["prose"].loss)
        return [*choices.values()] if best is None else [policy(choices[best])]

    heard: list[int] = []
    with Stopper() as stopper:
        assert carry_out(ask, tmp_path, 1, lambda running: heard.append(len(running)), stopper) == {}
    assert read_outcome(policy(choices[1e-2]), tmp_path) is not None, "the higher rate learns more in four steps"
    assert heard == [1, 1, 1, 0]


PROGRAM = """
import sys
from pathlib import Path
from recipes.evidence.bench.work import WorkerKilled, carry_out
from rl.stop import Interrupted, Stopper
from tests.recipes.test_trials_run import pretraining

if __name__ == "__main__":
    trials = [pretraining(seed, steps) for seed, steps in ((0, 2), (1, 400))]
    with Stopper() as stopper:
        try:
            carry_out(lambda: trials, Path(sys.argv[1]), 2, lambda _: None, stopper)
        except Interrupted:
            sys.exit("stopped")
        except WorkerKilled as error:
            sys.exit(f"killed: {error}")
"""


def started(root: Path) -> subprocess.Popen[str]:
    """Start a short trial and a long one side by side; returns when the long one is alone, with a checkpoint."""
    file = root / "program.py"
    file.write_text(PROGRAM)
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    process = subprocess.Popen(
        [sys.executable, str(file), str(root)], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    )
    long = pretraining(1, 400).folder(root) / RUN

    def at_work() -> bool:
        assert process.poll() is None, process.communicate()
        return read_outcome(pretraining(0, 2), root) is not None and len(read_metrics(long)) > 5

    until(at_work, "both trials")
    return process


def goes_on(root: Path) -> None:
    """The same is done by the next command, from where it was."""
    trials = [pretraining(0, 2), pretraining(1, 400)]
    assert carried_out(trials, root) == {}
    long = trials[1].folder(root)
    assert [row["iteration"] for row in read_metrics(long / RUN)] == list(range(400))
    alone = root / "alone"
    assert work(trials[1], alone) is None
    for found in zip(*(read_metrics(folder / RUN) for folder in (long, trials[1].folder(alone))), strict=True):
        assert len({row["loss"] for row in found}) == 1


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_signal_stops_the_trials_where_they_can_go_on(tmp_path: Path, number: int) -> None:
    process = started(tmp_path)
    workers = [one.pid for one in psutil.Process(process.pid).children(recursive=True)]
    process.send_signal(number)
    _, errors = process.communicate(timeout=600)
    assert errors.strip() == "stopped"
    until_gone(workers)
    trial = pretraining(1, 400)
    assert read_outcome(trial, tmp_path) is None
    assert 0 < len(read_metrics(trial.folder(tmp_path) / RUN)) < 400
    assert "Traceback" not in (trial.folder(tmp_path) / "log.txt").read_text()
    goes_on(tmp_path)


@pytest.mark.slow
def test_a_killed_process_of_a_trial_is_told_in_a_line(tmp_path: Path) -> None:
    process = started(tmp_path)
    for one in psutil.Process(process.pid).children(recursive=True):
        if "spawn_main" in " ".join(one.cmdline()):
            one.kill()
    _, errors = process.communicate(timeout=600)
    lines = errors.strip().splitlines()
    assert lines == ["killed: a process of a trial was killed (too little memory?); the same command goes on"]
    goes_on(tmp_path)


@pytest.mark.slow
def test_no_trial_outlives_the_command(tmp_path: Path) -> None:
    """After SIGKILL of the command: the same command would find its folder in use."""
    process = started(tmp_path)
    workers = [one.pid for one in psutil.Process(process.pid).children(recursive=True)]
    process.kill()
    process.communicate()
    until_gone(workers)
    goes_on(tmp_path)


@pytest.mark.slow
def test_the_command_makes_page_and_documentation(tmp_path: Path) -> None:
    """A finding of two tiny trials through the command line, done once."""
    (tmp_path / "tiny_finding.py").write_text(FINDING)
    program = (
        "import sys; import recipes.evidence as e; e.FINDINGS.clear(); e.FINDINGS['tiny'] = 'tiny_finding'\n"
        "from recipes.commands.cli import main\n"
        "if __name__ == '__main__': sys.exit(main(sys.argv[1:]))\n"
    )
    (tmp_path / "program.py").write_text(program)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests", tmp_path)))}
    out = tmp_path / "out"
    command = [sys.executable, str(tmp_path / "program.py"), "evidence", "tiny", "--out", str(out)]
    for _ in range(2):
        done = subprocess.run(
            [*command, "--docs", str(tmp_path / "docs"), "--seeds", "1"],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "tiny: cannot tell. It is so." in done.stdout
        assert str(out / "evidence.html") in done.stdout
    assert len(list(out.glob("trials/*"))) == 2
    page = (tmp_path / "docs" / "evidence.md").read_text()
    assert "**Verdict: cannot tell.**" in page
    assert "2 trials" in page
    assert json.loads(next(out.glob("trials/*/trial.json")).read_bytes())["failed"] is None


FINDING = """
from recipes.evidence.bench.finding import Judgement, Row, above, estimate
from tests.recipes.test_trials_run import pretraining

TITLE, PAPER, CLAIM, PUBLISHED, SCALE = "A title", "none", "A claim.", "nothing", "Tiny."


def arms(bench):
    return {f"{rate}": [pretraining(seed, lr=rate) for seed in bench.seeds] for rate in (1e-3, 2e-3)}


def judge(results):
    values = [results.values(arm, lambda one: one.pretraining.heldout["prose"].loss) for arm in results.arms]
    one = estimate(values[0] - values[1])
    return Judgement(above(one), "It is so.", (Row("gain", one),))
"""
