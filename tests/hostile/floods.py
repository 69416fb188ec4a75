"""Programs that try to use up the machine."""

from dataclasses import replace

from rewards.code.types import MIB, Ending, Outcome, SandboxFacts
from tests.hostile.case import LIMITS, Case, ends, number, prints


def _memory(outcome: Outcome, facts: SandboxFacts) -> bool:
    """Killed for memory; where the address space is the limit, allocation fails instead."""
    return outcome.ending is Ending.MEMORY or (facts.cgroup == "none" and b"MemoryError" in outcome.stderr)


def _memory_or_refused(outcome: Outcome, facts: SandboxFacts) -> bool:
    return outcome.ending is Ending.MEMORY or (facts.cgroup == "none" and outcome.stdout == b"EPERM\n")


_FILL = """
def fill(*folders):
    written = 0
    for folder in folders:
        try:
            with open(f"{folder}/flood", "wb", buffering=0) as file:
                while written < 1 << 30:
                    written += file.write(b"x" * 65536)
        except OSError as e:
            assert e.errno in (errno.ENOSPC, errno.EFBIG), e
    print(written >> 20)
"""

FLOODS = [
    Case(
        "fork bomb",
        """
while True:
    try:
        os.fork()
    except OSError:
        pass
""",
        ends(Ending.CPU, Ending.WALL),
    ),
    Case(
        "fork bomb whose processes all sleep",
        """
children = 0
try:
    while children < 5000:
        if os.fork() == 0:
            time.sleep(100)
        children += 1
except OSError as e:
    print(children <= 32, errno.errorcode[e.errno], flush=True)
    os._exit(0)
""",
        prints("True EAGAIN"),
    ),
    Case("memory bomb", "x = []\nwhile True: x.append(bytearray(1 << 20))", _memory),
    Case(
        "memory bomb shared out among children",
        """
for _ in range(6):
    if os.fork() == 0:
        x = bytearray(40 << 20)
        for i in range(0, len(x), 4096): x[i] = 1
        time.sleep(30)
time.sleep(30)
""",
        ends(Ending.MEMORY),
    ),
    Case(
        "memory bomb in memory files",
        """
try:
    while True:
        os.write(os.memfd_create("x"), b"x" * (4 << 20))
except OSError as e:
    print(errno.errorcode[e.errno])
""",
        _memory_or_refused,
    ),
    Case(
        "memory bomb in System V segments",
        """
libc.shmat.restype = ctypes.c_void_p
while True:
    segment = libc.shmget(0, ctypes.c_size_t(4 << 20), 0o600)
    if segment == -1:
        print(errno.errorcode[ctypes.get_errno()])
        break
    at = libc.shmat(segment, None, 0)
    ctypes.memset(at, 1, 4 << 20)
    libc.shmdt(ctypes.c_void_p(at))
""",
        _memory_or_refused,
        limits=replace(LIMITS, cpu_s=3.0),
    ),
    Case(
        "memory bomb in pipes",
        """
import fcntl
held, pipes = 0, []
try:
    while True:
        pipes.append(os.pipe())
        os.set_blocking(pipes[-1][1], False)
        try: fcntl.fcntl(pipes[-1][1], 1031, 1 << 20)
        except PermissionError: pass
        held += os.write(pipes[-1][1], b"x" * (1 << 20))
except OSError as e:
    print(held <= 300 << 20)
""",
        lambda outcome, facts: outcome.ending is Ending.MEMORY or outcome.stdout == b"True\n",
    ),
    Case("/dev/shm flood", _FILL + "fill('/dev/shm')", number(6, 8)),
    Case("tmpfs flood over every writable place", _FILL + "fill('/work', '/tmp', '/dev/shm')", number(6, 8)),
    Case(
        "inode flood",
        """
made = 0
try:
    for folder in ("/work", "/tmp", "/dev/shm"):
        for i in range(100_000):
            open(f"{folder}/{i}", "w").close()
            made += 1
except OSError as e:
    assert e.errno == errno.ENOSPC, e
print(made)
""",
        number(100, 216),
    ),
    Case(
        "directory tower",
        """
depth = 0
try:
    while True:
        os.mkdir("d" * 200)
        os.chdir("d" * 200)
        depth += 1
except OSError as e:
    print(errno.errorcode[e.errno], depth <= 216)
""",
        prints("ENOSPC True"),
    ),
    Case(
        "terabyte sparse file",
        """
with open("sparse", "wb") as file:
    print(error(os.ftruncate, file.fileno(), 1 << 40), os.path.getsize("sparse"))
    print(error(os.pwrite, file.fileno(), b"x", 1 << 40))
""",
        prints("EFBIG 0", "EFBIG"),
        collect=("sparse",),
    ),
    Case("infinite output", "while True: os.write(1, b'x' * 65536)", ends(Ending.OUTPUT)),
    Case("infinite output on stderr", "while True: os.write(2, b'x' * 65536)", ends(Ending.OUTPUT)),
    Case(
        "infinite output on the result descriptor",
        "while True: os.write(3, b'x' * 65536)",
        ends(Ending.OUTPUT),
        channel=True,
    ),
    Case(
        "infinite output from a child while the parent sleeps",
        """
if os.fork() == 0:
    while True: os.write(1, b'x' * 65536)
time.sleep(100)
""",
        ends(Ending.OUTPUT),
    ),
    Case(
        "CPU shared out among children, time-out signal ignored",
        """
signal.signal(signal.SIGXCPU, signal.SIG_IGN)
for _ in range(4): os.fork()
while True: pass
""",
        ends(Ending.CPU),
    ),
    Case(
        "all signals ignored and asleep",
        """
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
while True: time.sleep(1000)
""",
        ends(Ending.WALL),
        limits=replace(LIMITS, wall_s=1.0),
    ),
    Case(
        "standard streams closed and asleep",
        "os.closerange(0, 9)\ntime.sleep(1000)",
        ends(Ending.WALL),
        limits=replace(LIMITS, wall_s=1.0),
    ),
    Case(
        "asleep for longer than it may",
        "while True: time.sleep(0.01)",
        ends(Ending.SLEEP),
        limits=replace(LIMITS, cpu_s=20.0, wall_s=100.0, sleep_s=0.5),
    ),
    Case(
        "asleep in another process, waiting for it like for a disk",
        "if libc.vfork() == 0: time.sleep(1000)",
        ends(Ending.SLEEP),
        limits=replace(LIMITS, cpu_s=20.0, wall_s=100.0, sleep_s=0.5),
    ),
    Case(
        "limits raised",
        """
import resource
for name in ("CPU", "FSIZE", "NOFILE", "CORE"):
    kind = getattr(resource, f"RLIMIT_{name}")
    soft, hard = resource.getrlimit(kind)
    try:
        resource.setrlimit(kind, (hard, hard + 1))
        print(name, "raised")
    except ValueError:
        pass
print(resource.getrlimit(resource.RLIMIT_CORE))
""",
        prints("(0, 0)"),
    ),
    Case(
        "files open without end",
        """
fds = []
try:
    while True: fds.append(os.open("/dev/null", os.O_RDONLY))
except OSError as e:
    print(errno.errorcode[e.errno], len(fds) < 512)
""",
        prints("EMFILE True"),
    ),
    Case("64 MiB of standard input, unread", "print('done')", prints("done"), stdin=b"9" * (64 * MIB)),
]
