"""``k15 evidence``: what it refuses, its list, and that both come without anything heavy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT

from recipes.commands.cli import main
from recipes.evidence import FINDINGS
from recipes.evidence.bench.session import load

HEAVY = {"torch", "transformers", "vllm", "ray", "faiss", "sentence_transformers", "sklearn", "pandas", "matplotlib"}


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    try:
        code = main(["evidence", *arguments])
    except SystemExit as error:  # argparse
        code = int(str(error.code))
    assert code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_what_is_not_understood_is_said_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys) == "k15: name a finding, or give --all; k15 evidence --list lists them"
    assert refused(capsys, "moun") == "k15: unknown finding 'moun'; did you mean 'muon'?"
    assert f"there are: {', '.join(FINDINGS)}" in refused(capsys, "zzzzzz")
    assert refused(capsys, "muon", "--all") == "k15: give names, or --all, not both"
    assert refused(capsys, "muon", "--list") == "k15: give names, or --list, not both"
    assert "--seeds" in refused(capsys, "muon", "--seeds", "0")
    assert "--jobs" in refused(capsys, "muon", "--jobs", "-1")
    assert "--seeds" in refused(capsys, "muon", "--seeds", "many")


def test_a_folder_that_somebody_works_in_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from rollout.lock import locked

    with locked(tmp_path, ValueError, "--out"):
        line = refused(capsys, "moba", "--out", str(tmp_path))
    assert line == f"k15: another process is working on {tmp_path}; wait for it or choose another --out"


def test_the_list_has_all_findings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evidence", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(FINDINGS)
    for line, name in zip(lines, FINDINGS, strict=True):
        assert load(name).TITLE in line
        assert load(name).PAPER in line


@pytest.mark.parametrize(
    "code",
    [
        "from recipes.commands.cli import main; assert main(['evidence', '--list']) == 0",
        "from recipes.commands.cli import main; assert main(['evidence', 'moun']) == 2",
        "from recipes.commands.cli import main; assert main(['train', 'moonlight', '--dry-run']) == 0",
        "from recipes.commands.cli import main; assert main(['config', 'moonlight']) == 0",
        "from recipes.evidence import FINDINGS\nimport recipes.evidence.bench.session as s\n[*map(s.load, FINDINGS)]",
        "import recipes.moonlight; recipes.moonlight.config()",
    ],
    ids=["list", "refusal", "dry-run", "config", "findings", "recipe"],
)
def test_nothing_heavy_is_loaded(code: str) -> None:
    program = f"import sys\n{code}\nloaded = {HEAVY} & set(sys.modules)\nassert not loaded, loaded"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
