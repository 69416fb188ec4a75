"""The sandbox's own promises: outcomes, what stays behind, what happens when it fails itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from rewards.code.sandbox import Sandbox, open_sandbox, shared_sandbox
from rewards.code.sandbox.cgroups import PREFIX
from rewards.code.types import MIB, Ending, Job, Limits, Outcome, ProgramMissing, SandboxFailure
from tests.paths import ROOT
from tests.processes import PATIENCE_S, until, until_gone
from tests.sandbox_kit import UNHURRIED, asleep, marked, python, sandbox, seconds, sleepers, wake

__all__ = ["sandbox"]
LEAVE = """
import fcntl, os, socket, ctypes
from multiprocessing import shared_memory
shared_memory.SharedMemory("k15mark", create=True, size=4096)
open("/tmp/k15mark", "w").close(); open("/work/k15mark", "w").close()
libc = ctypes.CDLL(None)
print(libc.shmget(0x515, 4096, 0o1600) >= 0, libc.semget(0x515, 1, 0o1600) >= 0, libc.msgget(0x515, 0o1600) >= 0)
s = socket.socket(socket.AF_UNIX); s.bind("\\0k15mark"); s.listen()
if os.fork() == 0:
    os.setsid(); os.close(1); os.close(2); import time; time.sleep(1000)
"""
LOOK = """
import os, socket, ctypes
libc = ctypes.CDLL(None)
print(os.listdir("/dev/shm"), os.listdir("/tmp"), os.listdir("/work"))
print(libc.shmget(0x515, 4096, 0), libc.semget(0x515, 1, 0), libc.msgget(0x515, 0))
try: socket.socket(socket.AF_UNIX).connect("\\0k15mark"); print("connected")
except ConnectionRefusedError: print("refused")
print(open("/proc/sysvipc/shm").read().count("\\n"), [p for p in os.listdir("/proc") if p.isdigit()])
"""


def groups(supervisor: int) -> list[Path]:
    """Control groups of a supervisor, wherever they are."""
    top = f"{PREFIX}{supervisor}-"
    return [Path(at, name) for at, names, _ in os.walk("/sys/fs/cgroup") for name in names if name.startswith(top)]


def test_outcome(sandbox: Sandbox) -> None:
    code = "import sys; print(sys.stdin.read()[::-1]); print('e', file=sys.stderr, end='')\n"
    code += "open('out/x', 'w').write(open('in').read()); sys.exit(3)"
    job = python(code, files={"in": b"given", "out/empty": b""}, stdin=b"abc", collect=("out/x", "in", "none"))
    outcome = sandbox.run(job)
    assert (outcome.ending, outcome.exit_code, outcome.ok) == (Ending.EXIT, 3, False)
    assert (outcome.stdout, outcome.stderr) == (b"cba\n", b"e")
    assert outcome.files == {"out/x": b"given", "in": b"given"}
    assert 0.001 < outcome.cpu_s < outcome.wall_s + 1
    assert outcome.wall_s < 25


def test_usage_is_measured(sandbox: Sandbox) -> None:
    outcome = sandbox.run(python("x = b'x' * (80 << 20)\nimport time\nwhile time.process_time() < 0.3: pass"))
    assert outcome.ok
    assert 0.3 <= outcome.cpu_s < 1.0
    assert outcome.memory_bytes is not None
    assert 75 * MIB < outcome.memory_bytes < 130 * MIB


def test_one_core_at_a_time(sandbox: Sandbox) -> None:
    if sandbox.describe().enforced["cores"] == "nothing" or len(os.sched_getaffinity(0)) < 2:
        pytest.skip("cores cannot be limited here, or there is only one")
    code = (
        "import os, time\nfor _ in range(3): os.fork()\nend = time.monotonic() + 1\nwhile time.monotonic() < end: pass"
    )
    outcome = sandbox.run(python(code, limits=Limits(cores=0.5)))
    assert outcome.cpu_s < 0.75 * outcome.wall_s


def test_large_data_both_ways(sandbox: Sandbox) -> None:
    data = os.urandom(6 * MIB)
    job = Job(argv=("sh", "-c", "cat; cat file >&2"), files={"file": data}, stdin=data)
    outcome = sandbox.run(job)
    assert outcome.ok
    assert outcome.stdout == data
    assert outcome.stderr == data


@pytest.mark.parametrize("path", ["/etc/x", "../x", "a/../../x", "", "a//b", "./a", "a\0b"])
def test_paths_outside_of_the_directory_are_refused(sandbox: Sandbox, path: str) -> None:
    for job in (Job(argv=("true",), files={path: b""}), Job(argv=("true",), collect=(path,))):
        with pytest.raises(ValueError, match="a job's file"):
            sandbox.run(job)


def test_missing_program(sandbox: Sandbox) -> None:
    for argv in (("no-such-interpreter",), ("/no/such",), ("./none",)):
        with pytest.raises(ProgramMissing, match=argv[0].rpartition("/")[2]):
            sandbox.run(Job(argv=argv))


def test_own_binary_runs(sandbox: Sandbox) -> None:
    outcome = sandbox.run(Job(argv=("./mine", "x"), files={"mine": b"#!/bin/sh\necho $1 $PWD\n"}))
    assert outcome.stdout == b"x /work\n"


def test_nothing_leaks_from_one_run_to_the_next(sandbox: Sandbox) -> None:
    left = sandbox.run(python(LEAVE))
    assert left.ok
    assert sandbox.describe().cgroup == "none" or left.stdout == b"True True True\n"
    found = sandbox.run(python(LOOK)).stdout.decode().splitlines()
    assert found[0] == "[] [] []"
    assert found[1] == "-1 -1 -1"
    assert found[2] == "refused"
    assert found[3] in ("1 ['1', '2']", "1 ['1', '2', '3']")


def test_neighbours_do_not_see_each_other() -> None:
    mark = f"k15-neighbour-{os.getpid()}"
    with open_sandbox(slots=2) as both, ThreadPoolExecutor(2) as pool:
        hidden = pool.submit(both.run, python(f"open('/tmp/a', 'w'); {asleep(mark)}", limits=UNHURRIED))
        until(lambda: sleepers(mark), "the neighbour")
        seen = both.run(python("import os; print(os.listdir('/tmp'), [p for p in os.listdir('/proc') if p.isdigit()])"))
        wake(mark)
        assert hidden.result().ok
    assert b"[] ['1', '2'" in seen.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a file of root")
def test_root_only_file_in_a_visible_folder(sandbox: Sandbox) -> None:
    secret = Path(f"/usr/local/share/k15-test-{os.getpid()}")
    secret.touch(0o600)
    secret.write_text("secret")
    try:
        code = f"import os; print(os.path.exists('{secret}'), os.stat('{secret}').st_uid); open('{secret}')"
        outcome = sandbox.run(python(code))
    finally:
        secret.unlink()
    assert outcome.stdout == b"True 65534\n"
    assert b"PermissionError" in outcome.stderr


def test_repository_home_and_data_are_not_there(sandbox: Sandbox) -> None:
    places = [str(ROOT / "pyproject.toml"), str(Path(__file__)), str(Path.home() / ".profile"), "/work/pyproject.toml"]
    outcome = sandbox.run(python(f"import os; print([p for p in {places!r} if os.path.exists(p)])"))
    assert outcome.stdout == b"[]\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to write to /usr/local")
def test_hidden_folder_inside_of_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = Path(f"/usr/local/share/k15-data-{os.getpid()}")
    data.mkdir()
    (data / "answers").write_text("42")
    monkeypatch.setenv("K15_DATA", str(data))
    try:
        with open_sandbox(slots=1) as opened:
            outcome = opened.run(Job(argv=("ls", "-a", str(data))))
    finally:
        (data / "answers").unlink()
        data.rmdir()
    assert outcome.stdout == b".\n..\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="own user ids need root")
def test_each_slot_has_a_real_user_of_its_own() -> None:
    mark = f"k15-uid-{os.getpid()}"
    with open_sandbox(slots=2) as both, ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(both.run, python(asleep(mark), limits=UNHURRIED)) for _ in range(2)]
        until(lambda: len(sleepers(mark)) == 2, "both programs")
        uids = {Path(f"/proc/{pid}").stat().st_uid for pid in marked(mark)} - {0}
        wake(mark, 2)
        assert all(run.result().ok for run in runs)
    assert len(uids) == 2


def test_daemons_are_gone_at_once(sandbox: Sandbox) -> None:
    mark = f"k15-daemon-{os.getpid()}"
    code = f"import os, time\n'{mark}'\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0: time.sleep(1000)"
    assert sandbox.run(python(code)).ok
    assert not marked(mark)


def test_two_hundred_runs_leave_nothing_behind() -> None:
    def state() -> tuple[int, int, int, int]:
        supervisor = opened.supervisor_pid
        while Path(f"/proc/{supervisor}/stat").read_text().rsplit(")", 1)[1].split()[0] != "S":
            time.sleep(0.01)  # it closes a reply after the client has it; asleep, it has nothing left to do
        with open("/proc/mounts") as mounts:
            count = len(mounts.readlines())
        below = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
        return count, len(groups(supervisor)), len(os.listdir(f"/proc/{supervisor}/fd")), len(below)

    mark = f"k15-left-{os.getpid()}"  # other tests may run beside this one, with files of their own in /tmp
    with open_sandbox(slots=4) as opened, ThreadPoolExecutor(4) as pool:
        list(pool.map(opened.run, [Job(argv=("true",))] * 20))
        start = state()
        codes = ["true", f"echo x > /tmp/{mark}; mkdir d", "sleep 60 & exit 3", "kill -9 $$", "cat /dev/zero"]
        jobs = [Job(argv=("sh", "-c", codes[i % 5]), limits=Limits(output_bytes=1000)) for i in range(180)]
        endings = {outcome.ending for outcome in pool.map(opened.run, jobs)}
        assert state() == start
    assert endings == {Ending.EXIT, Ending.SIGNAL, Ending.OUTPUT}
    assert not groups(opened.supervisor_pid)
    assert mark not in os.listdir("/tmp")


def test_waits_for_a_free_slot_and_serves_many_threads() -> None:
    with open_sandbox(slots=2) as both, ThreadPoolExecutor(16) as pool:
        outcomes = list(pool.map(both.run, [python(f"print({i})") for i in range(32)]))
    assert [int(outcome.stdout) for outcome in outcomes] == list(range(32))


def test_killed_supervisor(sandbox: Sandbox) -> None:
    """Another one runs the program again, and nothing is left of the first time; killed twice, a run fails by name."""
    mark = f"k15-orphan-{os.getpid()}"
    ended: list[Outcome | SandboxFailure] = []

    def doomed() -> None:
        try:
            ended.append(sandbox.run(python(f"{asleep(mark)}; print('awake')", limits=UNHURRIED)))
        except SandboxFailure as failure:
            ended.append(failure)

    def killed() -> int:
        until(lambda: sleepers(mark), "the program")
        first, old = sleepers(mark), sandbox.supervisor_pid
        os.kill(old, signal.SIGKILL)
        until_gone(first)
        return old

    def begun() -> threading.Thread:
        thread = threading.Thread(target=doomed)
        thread.start()
        return thread

    thread = begun()
    old = killed()
    wake(mark)
    thread.join(PATIENCE_S)
    assert isinstance(ended[0], Outcome)
    assert ended[0].stdout == b"awake\n"
    assert (sandbox.restarts, sandbox.supervisor_pid != old) == (1, True)
    thread = begun()
    killed()
    killed()
    thread.join(PATIENCE_S)
    assert isinstance(ended[1], SandboxFailure)
    assert "exit -9" in str(ended[1])
    assert sandbox.run(Job(argv=("true",))).ok
    assert not marked(mark)
    assert not groups(old)


def test_killed_client_takes_everything_along() -> None:
    mark = f"k15-client-{os.getpid()}"
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from tests.sandbox_kit import *\n"
        "opened = open_sandbox(slots=1); print(opened.supervisor_pid, flush=True)\n"
        f"opened.run(python(\"'{mark}'; import time; time.sleep(1000)\"))"
    )
    client = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert client.stdout is not None
    supervisor = int(client.stdout.readline())
    until(lambda: marked(f"'{mark}'; import time"), "the program")
    client.kill()
    client.wait()
    client.stdout.close()
    until(lambda: not marked(mark) and not os.path.exists(f"/proc/{supervisor}"), "the end of program and supervisor")
    assert not groups(supervisor)


def test_forked_child_leaves_it_alone(sandbox: Sandbox) -> None:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            sandbox.run(Job(argv=("true",)))
        except SandboxFailure as failure:
            status = 0 if "opened by another process" in str(failure) else 2
        sandbox.close()
        os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert sandbox.run(Job(argv=("true",))).ok


def test_close_ends_runs() -> None:
    mark = f"k15-close-{os.getpid()}"
    opened = open_sandbox(slots=1)
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(opened.run, python(asleep(mark)))
        until(lambda: sleepers(mark), "the program")
        opened.close()
        with pytest.raises(SandboxFailure):
            run.result(PATIENCE_S)
    with pytest.raises(SandboxFailure, match="closed"):
        opened.run(Job(argv=("true",)))


def test_without_bubblewrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for kind in ("auto", "bubblewrap"):
        with pytest.raises(SandboxFailure, match="apt-get install bubblewrap"):
            open_sandbox(kind)
    with pytest.raises(ValueError, match="one of auto, bubblewrap"):
        open_sandbox("none")


def test_bubblewrap_that_cannot_work(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are closed to a slot's user
        broken = Path(folder, "bwrap")
        broken.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
        broken.chmod(0o755)
        Path(folder).chmod(0o755)
        monkeypatch.setenv("PATH", folder)
        with pytest.raises(SandboxFailure, match="No permissions to create new namespace"):
            open_sandbox("bubblewrap", slots=1)


def test_unsafe_is_said_to_be_unsafe() -> None:
    with open_sandbox("unsafe", slots=1) as opened:
        assert "no isolation at all" in opened.describe().degraded[0]
        assert opened.run(python("print(6 * 7)")).stdout == b"42\n"
        assert opened.run(python("while True: pass", limits=replace(UNHURRIED, cpu_s=0.3))).ending is Ending.CPU
        assert opened.run(python("import time; time.sleep(99)", limits=seconds(0.5))).ending is Ending.WALL
        with pytest.raises(ProgramMissing):
            opened.run(Job(argv=("no-such-program",)))


def test_facts(sandbox: Sandbox) -> None:
    facts = sandbox.describe()
    assert facts.backend == "bubblewrap"
    assert facts.slots == 1
    assert set(facts.enforced) == {"memory", "processes", "cores", "cpu", "wall", "output", "disk", "files"}
    assert facts.degraded or facts.cgroup != "none"


def test_shared_sandbox_is_one() -> None:
    assert shared_sandbox() is shared_sandbox()
    assert shared_sandbox().run(Job(argv=("true",))).ok
