"""rollout.lines and rollout.lock: what is appended outlives the process, and one process at a time appends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT

from rollout.lines import BrokenLine, LineWriter, read_lines
from rollout.lock import locked


def lines(path: Path) -> list[object]:
    return [value for _, value in read_lines(path)]


@pytest.mark.parametrize("torn", [b"", b'{"a', b'{"a": 2}', b"x" * 70_000, b"x" * (2**16 - 9)])
def test_a_torn_last_line_is_skipped_by_readers_and_cut_by_the_next_writer(torn: bytes, tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"a": 1}\n' + torn)
    assert lines(path) == [{"a": 1}]
    writer = LineWriter(path)
    assert path.read_bytes() == b'{"a": 1}\n'
    writer.append({"a": "\ud800\u2028"})
    writer.close()
    writer.close()
    assert lines(path) == [{"a": 1}, {"a": "\ud800\u2028"}]


def test_a_file_of_one_torn_line_is_empty_to_the_writer(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"a": 1')
    LineWriter(path).close()
    assert path.read_bytes() == b""
    assert lines(tmp_path / "none.jsonl") == []


def test_a_broken_line_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"a": 1}\n\n{"a": 2}\n')
    with pytest.raises(BrokenLine) as found:
        lines(path)
    assert found.value.number == 2


def test_short_writes_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer, write = LineWriter(tmp_path / "lines.jsonl"), os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:3]))
    writer.append({"x": 1.0})
    monkeypatch.undo()
    writer.close()
    assert lines(tmp_path / "lines.jsonl") == [{"x": 1.0}]


HOLDER = """
import sys; from pathlib import Path; from rollout.lock import locked
with locked(Path(sys.argv[1]), ValueError, "--out"):
    print("held", flush=True); sys.stdin.read()
"""


def test_a_folder_is_held_until_its_process_ends_however_it_ends(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(ValueError, match=r"another process is working on .*; wait for it or choose another --out"),
            locked(tmp_path, ValueError, "--out"),
        ):
            pass
        holder.send_signal(signal.SIGKILL)
    with (
        locked(tmp_path, ValueError, "--out"),
        pytest.raises(ValueError, match="another process"),
        locked(tmp_path, ValueError, "--out"),
    ):
        pass
