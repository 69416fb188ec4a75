"""The GPU check: what becomes of parts that fail, crash, hang or lack something; and all of it with tiny sizes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import venv
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Any

import pytest
from paths import ROOT

from benchmarks.gpu_check import __main__ as command
from benchmarks.gpu_check.case import DeviceLost, Notes, Options, shortened
from benchmarks.gpu_check.report import goals, table
from benchmarks.gpu_check.runner import Part, Shard, result, run_parts
from tests.processes import until

PLENTY = 600.0
"""Seconds for a process that does nothing: bounds hangs only."""
BODY = """
import os, signal, time
from benchmarks.gpu_check.case import Case, run_cases
NEEDS = {needs}
def raises():
    raise ValueError("two and two\\nare five")
def dies():
    print("last words", flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)
def loses():
    raise RuntimeError("CUDA error: an illegal memory access was encountered")
def hangs():
    time.sleep(10_000)
def counts():
    return {{"process": os.getpid()}}
def wrong():
    return {{"value": 5, "ok": False}}
def work(options, notes):
    {work}
"""
RUN = "run_cases([Case(name, globals()[name.split()[0]]) for name in {names}], options, notes)"


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make parts out of cases by name, and run them."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    folder = tmp_path / "work"
    folder.mkdir()
    options = Options("cpu", True, str(folder))

    def part(name: str, *cases: str, needs: tuple[str, ...] = (), work: str = "", **fields: Any) -> Part:
        work = work or RUN.format(names=list(cases))
        (tmp_path / f"made_{name}.py").write_text(BODY.format(needs=needs, work=work))
        return Part(name, f"made_{name}", fields.pop("budget_s", PLENTY), **{"stage": 0, **fields})

    def run(*parts: Part, limit_s: float = 3 * PLENTY) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for results in run_parts(parts, options, limit_s):
            found |= results
        return found

    part.run = run  # type: ignore[attr-defined]
    return part


def test_an_error_is_recorded_and_the_next_case_runs(made: Any) -> None:
    found = made.run(made("a", "raises", "counts", "wrong"))["a"]
    assert found["status"] == "failed"
    assert found["cases"]["raises"] == {"ok": False, "error": "ValueError: two and two | are five"}
    assert found["cases"]["counts"]["ok"]
    assert found["cases"]["wrong"] == {"ok": False, "value": 5}
    assert (found["error"], found["not_run"]) == (None, [])


def test_a_part_that_cannot_start_stops_no_other(made: Any) -> None:
    found = made.run(made("a", work="raises()"), made("b", "counts", stage=1))
    assert found["a"]["status"] == "failed"
    assert found["a"]["error"].endswith("are five")
    assert found["b"]["status"] == "ok"


def test_what_a_dead_process_left_undone_is_run_by_another(made: Any) -> None:
    found = made.run(made("a", "counts", "dies", "counts again"))["a"]
    assert found["status"] == "failed"
    assert "SIGSEGV" in found["cases"]["dies"]["error"]
    assert "last words" in found["cases"]["dies"]["error"]
    assert found["cases"]["counts"]["process"] != found["cases"]["counts again"]["process"]


def test_after_a_lost_device_the_cases_go_on_in_another_process(made: Any) -> None:
    found = made.run(made("a", "counts", "loses", "counts again"))["a"]
    assert "illegal memory access" in found["cases"]["loses"]["error"]
    assert found["cases"]["counts"]["process"] != found["cases"]["counts again"]["process"]
    assert found["error"] is None


def test_a_part_without_its_packages_is_skipped_with_the_reason(made: Any) -> None:
    found = made.run(made("a", "counts", needs=("json", "no_such_package", "nor_this")))["a"]
    assert found["status"] == "skipped"
    assert found["error"] == "not installed: no_such_package, nor_this"


def test_a_part_that_hangs_is_ended_and_leaves_the_others_their_time(made: Any) -> None:
    # The first stage may take what the second, with its budget, leaves: half a second.
    found = made.run(made("a", "hangs", budget_s=0.5), made("b", "counts", stage=1), limit_s=PLENTY + 0.5)
    assert found["a"]["status"] == "out of time"
    assert found["a"]["error"].startswith("stopped after 0 s")
    assert 0 < found["a"]["limit_s"] <= 0.5
    assert found["b"]["status"] == "ok"
    assert found["b"]["limit_s"] <= PLENTY + 0.5


def test_what_was_measured_before_the_end_of_the_time_stays(made: Any, tmp_path: Path) -> None:
    part = made("a", "counts", "hangs", "counts again")
    shard = Shard(part, Options("cpu", True, str(tmp_path / "work")))
    shard.start()
    try:
        until(lambda: "hangs" in shard.begun(), "the case that hangs")
    finally:
        shard.stop()
    found = result(part, [shard], 1.0, 1.0)
    assert found["cases"].keys() == {"counts"}
    assert found["not_run"] == ["hangs", "counts again"]
    assert found["status"] == "out of time"


def test_processes_of_a_part_share_its_cases(made: Any) -> None:
    found = made.run(made("a", *(f"counts {number}" for number in range(5)), shards=2))["a"]
    assert len(found["cases"]) == 5
    assert len({row["process"] for row in found["cases"].values()}) == 2


def test_budgets_fit_into_eight_minutes() -> None:
    for dry in (False, True):
        parts = command.parts(dry, 16)
        stages = {part.stage for part in parts}
        longest = sum(max(part.budget_s for part in parts if part.stage == stage) for stage in stages)
        assert longest + command.OVERHEAD_S <= command.LIMIT_S == 480
        assert {part.name for part in parts} == {part.name for part in command.parts(not dry, 1)}


@pytest.mark.parametrize(("case", "code"), [("counts", 0), ("raises", 1), ("wrong", 1)])
def test_exit_code_and_json(
    made: Any, case: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = [made("parity", case), made("left_out", "counts", needs=("no_such_package",), stage=1)]
    monkeypatch.setattr(command, "parts", lambda *_: own)
    out = tmp_path / "deep" / "check.json"
    assert command.main(["--dry", "--out", str(out), "--parts", "parity", "left_out"]) == code
    found = json.loads(out.read_text())
    assert found["ok"] is (code == 0)
    assert found["parts"]["left_out"]["status"] == "skipped"
    printed = capsys.readouterr()
    last = json.loads(printed.out.splitlines()[-1])
    assert last["goals"] == found["goals"]
    assert last["goals"]["parity_wrong"]["met"] is (code == 0)
    assert "no_such_package" in printed.err


def test_without_a_device_it_says_what_to_do(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert command.main([]) == 2
    assert "--dry" in capsys.readouterr().err


def test_goals_are_computed_from_the_figures() -> None:
    def part(**cases: Any) -> dict[str, Any]:
        rows = {name: {"ok": True, **row} for name, row in cases.items()}
        return {"status": "ok", "seconds": 1.0, "limit_s": 2.0, "error": None, "cases": rows}

    parts = {
        "sharded": part(steps={"slowdown": 0.02}),
        "learner": part(short={"length": 16_384, "mfu": 0.2}, long={"length": 65_536, "mfu": 0.25}),
        "parity": part(one={}, two={"skipped": "no GPU"}),
    }
    found = goals(parts, dry=False)
    assert [found[name]["met"] for name in ("sharded_slowdown", "mfu_16384", "mfu_65536")] == [True, True, False]
    assert found["parity_wrong"] == {"value": 0, "of": 2, "bound": 0, "met": True}
    assert found["tiles_wrong"]["met"] is None
    assert goals(parts, dry=True)["sharded_slowdown"]["met"] is None, "a speed of tiny sizes says nothing"
    lines = "\n".join(line for name, rows in parts.items() for line in table(name, rows))
    assert "slowdown % 2.00" in lines
    assert "MFU % 25.0" in lines
    assert "1 right, 1 skipped, 0 wrong" in lines


def test_a_fault_of_the_device_is_told_from_other_errors(tmp_path: Path) -> None:
    notes = Notes(tmp_path / "notes")
    notes.fail("a", ValueError("too large"))
    with pytest.raises(DeviceLost, match="device-side assert"):
        notes.fail("b", RuntimeError("CUDA error: device-side assert triggered"))
    assert len((tmp_path / "notes").read_text().splitlines()) == 2
    assert len(shortened("x" * 5000)) < 700


TUNED = """
import torch, triton, triton.language as tl
from triton.runtime.errors import OutOfResources
from benchmarks.gpu_check.parity import tune_little
def refuse(_):
    raise OutOfResources(300_000, 200_000, "shared memory")
choices = [triton.Config({"N": 1}, pre_hook=refuse), triton.Config({"N": 2}), triton.Config({"N": 3}, pre_hook=refuse)]
@triton.autotune(choices, key=["size"])
@triton.jit
def kernel(out, size, N: tl.constexpr):
    tl.store(out, N)
tune_little(kernel)
for size in (4, 8):
    out = torch.zeros(1)
    kernel[(1,)](out, size)
    print(int(out), [times[0] < 1 for times in kernel.configs_timings.values()])
"""


def test_tests_of_kernels_compile_no_more_than_the_first_choice_that_fits(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    (tmp_path / "tuned.py").write_text(TUNED)
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)}
    call = [sys.executable, str(tmp_path / "tuned.py")]
    done = subprocess.run(call, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["2 [False, True, False]"] * 2


NEEDED = (
    *("torch", "triton", "transformers", "numpy", "safetensors"),
    *("pydantic", "pyarrow", "psutil", "pytest", "hypothesis"),
)
"""What docs/gpu_check.md says that a machine must have."""


def with_their_needs(names: tuple[str, ...]) -> dict[str, Distribution]:
    """These packages and all that they cannot do without."""
    found: dict[str, Distribution] = {}
    todo = list(names)
    while todo:
        name = re.sub(r"[-_.]+", "-", todo.pop()).lower()
        if name not in found:
            found[name] = distribution(name)
            needs = [need for need in found[name].requires or [] if "extra ==" not in need]
            todo += [need for need in map(first_name, needs) if installed(need)]
    return found


def first_name(requirement: str) -> str:
    match = re.match(r"[\w.-]+", requirement)
    assert match is not None
    return match[0]


def installed(name: str) -> bool:
    try:
        distribution(name)
    except ModuleNotFoundError:
        return False
    return True


def bare(folder: Path, names: tuple[str, ...], without: str = "") -> Path:
    """The Python of a new environment that holds these packages and their needs alone, ``without`` one."""
    venv.create(folder, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    for name, each in with_their_needs(names).items():
        if name == without:
            continue
        tops = {file.parts[0] for file in each.files or []} - {"..", "__pycache__"}
        for top in tops:
            source = Path(str(each.locate_file(top)))
            if source.exists() and source.suffix != ".pth" and not (packages / top).exists():
                (packages / top).symlink_to(source)
    return folder / "bin" / "python"


def dry_run(python: Path, out: Path, *parts: str) -> subprocess.CompletedProcess[str]:
    call = [str(python), "-m", "benchmarks.gpu_check", "--dry", "--out", str(out)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    more = ["--parts", *parts] if parts else []
    return subprocess.run([*call, *more], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_all_of_it_with_tiny_sizes_and_nothing_but_what_it_needs(tmp_path: Path) -> None:
    out = tmp_path / "check.json"
    done = dry_run(bare(tmp_path / "venv", NEEDED), out)
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(out.read_text())
    assert {name: part["status"] for name, part in found["parts"].items()} == {
        part.name: "ok" for part in command.parts(True, 2)
    }
    assert not any(part["not_run"] for part in found["parts"].values())
    cases = {name: part["cases"] for name, part in found["parts"].items()}
    packages = cases["environment"]["facts"]["packages"]
    assert [name for name in ("ray", "vllm", "peft") if packages[name]] == []
    assert len(cases["parity"]) >= 15
    assert not any("skipped" in row for row in cases["parity"].values())
    assert cases["attention"]["512 forward+backward sdpa"].keys() >= {
        *("seconds", "baseline_seconds", "speedup", "tflops_equivalent", "peak_mib", "density"),
    }
    assert cases["attention"]["512 backward right"]["errors"].keys() == {"out", "q", "k", "v"}
    assert cases["products"]["newton-schulz tiny"]["errors"].keys() >= {"ours", "torch", "torch.optim.Muon"}
    assert cases["products"]["logprob right"]["errors"].keys() == {"ours", "torch"}
    assert cases["sharded"]["steps"].keys() >= {"plain_seconds", "sharded_seconds", "slowdown", "gap_max"}
    assert cases["sharded"]["steps"]["gap_max"] < 1e-5
    assert cases["learner"]["64 tokens"].keys() >= {"tokens_per_s", "flops_per_token", "mfu", "formula", "memory_mib"}
    assert found["goals"]["parity_wrong"]["met"]


@pytest.mark.slow
def test_without_pydantic_the_learner_is_left_out_and_the_kernels_are_not(tmp_path: Path) -> None:
    python = bare(tmp_path / "venv", NEEDED, without="pydantic")
    done = dry_run(python, tmp_path / "check.json", "products", "sharded", "learner")
    assert done.returncode == 0, done.stderr[-4000:]
    parts = json.loads((tmp_path / "check.json").read_text())["parts"]
    assert parts["products"]["status"] == "ok"
    assert parts["learner"]["error"] == parts["sharded"]["error"] == "not installed: pydantic"
