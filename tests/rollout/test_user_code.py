"""Code that users bring: how it is found, and that each mistake is one line with their file and line."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest

from rollout.user_code import Spec, UserCodeError, absolute, explain, is_file, load, names_of, source_of


def write(folder: Path, text: str, name: str = "mine.py") -> Path:
    file = folder / name
    file.write_text(text)
    return file


def refusal(spec: str, group: str = "k15.rewards") -> str:
    with pytest.raises(UserCodeError) as caught:
        load(spec, group)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_name_in_a_file(tmp_path: Path) -> None:
    file = write(tmp_path, "def reward(problem, response):\n    return 1.0\n")
    assert load(f"{file}:reward", "k15.rewards")(None, "") == 1.0
    assert load(str(file), "k15.recipes").reward is load(f"{file}:reward", "k15.rewards")


def test_a_relative_path_is_looked_up_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "x = 1\n")
    monkeypatch.chdir(tmp_path)
    assert load("mine.py:x", "k15.rewards") == load("./mine.py:x", "k15.rewards") == 1
    assert absolute("mine.py:x") == absolute("./mine.py:x").replace("/./", "/") == f"{tmp_path}/mine.py:x"
    assert absolute("some.module:x") == "some.module:x"


def test_a_file_is_run_once_and_again_when_its_text_changes(tmp_path: Path) -> None:
    file = write(tmp_path, "x = [1]\n")
    assert load(f"{file}:x", "k15.rewards") is load(f"{file}:x", "k15.rewards")
    write(tmp_path, "x = [2]\n")  # same size, and most likely within the same second
    assert load(f"{file}:x", "k15.rewards") == [2]


def test_a_file_imports_its_neighbours_and_keeps_its_dataclasses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    write(tmp_path, "seven = 7\n", "neighbour_of_mine.py")
    text = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom neighbour_of_mine import seven\n"
    )
    file = write(tmp_path, text + "@dataclass\nclass A:\n    x: int = seven\n")
    assert load(f"{file}:A", "k15.rewards")().x == 7


def test_a_module_is_found_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "x = 5\n", "a_module_of_the_test.py")
    assert load("a_module_of_the_test:x", "k15.rewards") == 5
    assert refusal("a_module_of_the_test:y").startswith("a_module_of_the_test: has no 'y'")
    assert "module 'no_such_module.at_all' not found" in refusal("no_such_module.at_all:x")
    broken = write(tmp_path, "import json\nimport not_installed_anywhere\n", "a_broken_module_of_the_test.py")
    assert refusal("a_broken_module_of_the_test:x").startswith(f"{broken}:2: ModuleNotFoundError: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\ndef f(:\n", ":2: SyntaxError: "),
        ("x = 1\n\ny = x / 0\n", ":3: ZeroDivisionError: division by zero"),
        ("import json\n\njson.loads('{')\n", ":3: JSONDecodeError: "),  # raised in a library, called from line 3
        ("import not_installed_anywhere\n", ":1: ModuleNotFoundError: No module named 'not_installed_anywhere'"),
        ("raise SystemExit(3)\n", ":1: SystemExit: 3"),
        ("raise ValueError('two\\nlines \\x1b[2J')\n", ":1: ValueError: two lines ‹U+001B›[2J"),
    ],
)
def test_a_failure_to_load_names_file_and_line(text: str, message: str, tmp_path: Path) -> None:
    file = write(tmp_path, text)
    assert refusal(f"{file}:x").startswith(f"{file}{message}")


def test_the_file_is_plain_python_whatever_ours_imports_from_the_future(tmp_path: Path) -> None:
    file = write(tmp_path, "def f(x: int) -> int:\n    return x\n")
    assert load(f"{file}:f", "k15.rewards").__annotations__["x"] is int


def test_a_mistake_in_a_neighbour_names_the_neighbour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    other = write(tmp_path, "\n\nx = (\n", "neighbour_with_a_mistake.py")
    file = write(tmp_path, "import neighbour_with_a_mistake\n")
    assert refusal(f"{file}:x").startswith(f"{other}:3: SyntaxError: ")


def test_near_misses_are_told(tmp_path: Path) -> None:
    file = write(tmp_path, "def reward(problem, response):\n    return 1.0\n")
    assert refusal(f"{file}:rewrad") == f"{file}: has no 'rewrad'; did you mean 'reward'?"
    assert refusal(f"{tmp_path}/mime.py:reward") == f"{tmp_path}/mime.py: no such file; did you mean 'mine.py'?"


@pytest.mark.parametrize("spec", ["", "a/b", "mine.py:", "mine.py:f()", "1a:b", "a.b:c.d", "mine.txt:f", " "])
def test_what_is_no_spec_is_refused(spec: str) -> None:
    assert "FILE.py:NAME" in refusal(spec)


def test_forms_of_specs() -> None:
    assert Spec.parse("/a/b.py:c") == Spec(file=Path("/a/b.py"), name="c")
    assert Spec.parse("/a/b.py") == Spec(file=Path("/a/b.py"))
    assert Spec.parse("a.b:c") == Spec(module="a.b", name="c")
    assert Spec.parse("short") == Spec(name="short")
    assert [is_file(spec) for spec in ("b.py", "b.py:c", "b:c", "b")] == [True, True, False, False]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package with entry points, as pip would leave it."""
    info = tmp_path / "a_package_of_the_test-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: a-package-of-the-test\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[k15.rewards]\nbrevity = a_package_of_the_test:brevity\nbroken = a_package_of_the_test:gone\n"
    )
    write(tmp_path, "def brevity(problem, response):\n    return -len(response)\n", "a_package_of_the_test.py")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    return tmp_path


def test_an_entry_point_by_its_name(package: Path) -> None:
    brevity = load("brevity", "k15.rewards")
    assert brevity(None, "four") == -4
    assert "brevity" in names_of("k15.rewards")
    assert source_of("brevity", brevity)[0] == str(package / "a_package_of_the_test.py")
    assert "did you mean 'brevity'?" in refusal("brevty")
    assert "no entry point 'brevity' in the group k15.problems" in refusal("brevity", "k15.problems")
    assert "AttributeError" in refusal("broken")


def test_the_source_of_a_file_is_its_text(tmp_path: Path) -> None:
    file = write(tmp_path, "x = 1\n")
    assert source_of(f"{file}:x") == (str(file), b"x = 1\n")
    file.unlink()
    assert source_of(f"{file}:x") == (str(file), b"")


def test_an_error_at_run_time_names_the_innermost_line_of_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, "import json\n\ndef f():\n    return g()\n\ndef g():\n    return json.loads('')\n")
    with pytest.raises(json.JSONDecodeError) as caught:
        load(f"{file}:f", "k15.rewards")()
    assert explain(caught.value, str(file)).startswith(f"{file}:7: JSONDecodeError: ")
