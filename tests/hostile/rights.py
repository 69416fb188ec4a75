"""What an honest program may do."""

from dataclasses import replace

from rewards.code.types import MIB
from tests.hostile.case import LIMITS, Case, prints

_ROOMY = replace(LIMITS, cpu_s=10.0, memory_bytes=512 * MIB)

RIGHTS = [
    Case(
        "recursion 100,000 deep",
        """
sys.setrecursionlimit(1_000_000)
def depth(n): return 0 if n == 0 else 1 + depth(n - 1)
print(depth(100_000))
""",
        prints("100000"),
        limits=_ROOMY,
    ),
    Case(
        "recursion 100,000 deep in a thread, through C",
        """
import functools, threading
sys.setrecursionlimit(1_000_000)
threading.stack_size(200 << 20)
@functools.lru_cache(None)
def depth(n): return 0 if n == 0 else 1 + depth(n - 1)
def work(): print(depth(100_000))
thread = threading.Thread(target=work); thread.start(); thread.join()
""",
        prints("100000"),
        limits=_ROOMY,
    ),
    Case(
        "twenty threads",
        """
import threading
total = []
threads = [threading.Thread(target=total.append, args=(i,)) for i in range(20)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(sum(total))
""",
        prints("190"),
        limits=_ROOMY,
    ),
    Case(
        "subprocess, shell and pipes",
        """
print(subprocess.run(["sh", "-c", "echo hello | tr a-z A-Z"], capture_output=True, text=True).stdout.strip())
print(subprocess.run([sys.executable, "-c", "print(6 * 7)"], capture_output=True, text=True).stdout.strip())
""",
        prints("HELLO", "42"),
        limits=_ROOMY,
    ),
    Case(
        "multiprocessing",
        """
import multiprocessing
if __name__ == "__main__":
    with multiprocessing.Pool(2) as pool: print(sum(pool.map(abs, range(-5, 0))))
""",
        prints("15"),
        limits=_ROOMY,
    ),
    Case(
        "temporary files, clock, random numbers, asyncio, user name",
        """
import asyncio, getpass, pathlib, tempfile
with tempfile.TemporaryDirectory() as folder: pathlib.Path(folder, "x").write_text("y")
async def main(): await asyncio.sleep(0.01)
asyncio.run(main())
print(len(os.urandom(8)), time.time() > 1.7e9, getpass.getuser(), os.path.expanduser("~"), open("/dev/null").read())
""",
        prints("8 True judge /work "),
        limits=_ROOMY,
    ),
    Case(
        "standard input in every manner",
        """
first = sys.stdin.buffer.readline()
second = os.read(0, 0)
rest = sys.stdin.read()
print(first, rest.split())
""",
        prints("b'1 2\\n' ['3', '4']"),
        stdin=b"1 2\n3\n4\n",
    ),
    Case(
        "standard streams opened by name",
        """
for name in ("/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"):
    assert open(name).read() == "given", name
for name in ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"):
    with open(name, "w") as out: out.write("out\\n")
    with open(name, "a") as out: out.write("more\\n")
for name in ("/dev/stderr", "/dev/fd/2"):
    with open(name, "w") as out: out.write("err\\n")
with open("/dev/fd/3", "w") as out: out.write("result")
subprocess.run("echo shell > /dev/stdout; echo shell > /dev/stderr; cat /dev/stdin", shell=True)
""",
        lambda outcome, facts: (
            (outcome.ok, outcome.stdout, outcome.stderr, outcome.channel)
            == (True, b"out\nmore\n" * 3 + b"shell\ngiven", b"err\n" * 2 + b"shell\n", b"result")
        ),
        stdin=b"given",
        channel=True,
    ),
    Case(
        "the stack's limit raised as far as can be",
        """
import resource
for limit in (1 << 29, resource.RLIM_INFINITY):
    resource.setrlimit(resource.RLIMIT_STACK, (limit, resource.RLIM_INFINITY))
    print(resource.getrlimit(resource.RLIMIT_STACK)[0])
""",
        prints(str(1 << 29), "-1"),
    ),
    Case(
        "own priority lowered",
        "print(os.nice(5) is None, os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0)))",
        prints("False None"),
    ),
    Case(
        "results beside stdout",
        "os.write(3, b'result'); print('text')",
        lambda outcome, facts: outcome.ok and outcome.channel == b"result" and outcome.stdout == b"text\n",
        channel=True,
    ),
]
