"""Programs that try to get out, look out, or leave something behind."""

from dataclasses import replace

from rewards.code.types import MIB, Ending, Outcome, SandboxFacts
from tests.hostile.case import LIMITS, Case, ends, prints

# Numbers of system calls on x86-64 and aarch64, for names that Python and libc have no function for.
_NUMBERS = """
import platform
X = platform.machine() == "x86_64"
N = lambda x86, arm: x86 if X else arm
"""


def _links(outcome: Outcome, facts: SandboxFacts) -> bool:
    return outcome.ok and outcome.files == {"plain": b"mine", "folder/plain": b"mine"}


def _no_files(outcome: Outcome, facts: SandboxFacts) -> bool:
    return outcome.ok and outcome.stdout.startswith(b"[]\n") and outcome.stdout.endswith(b"judge\n")


def _own_processes(outcome: Outcome, facts: SandboxFacts) -> bool:
    lines = outcome.stdout.decode().splitlines()
    harmless = {"PATH", "HOME", "TMPDIR", "LANG"}  # crun's first process has the program's own environment
    return len(lines) == 3 and int(lines[0]) <= 3 and set(lines[1].split()) <= harmless and lines[2] == "True"


ESCAPES = [
    Case(
        "double-fork daemon",
        """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        sys.argv[0] = "k15-hostile-daemon"
        time.sleep(1000)
    os._exit(0)
print("parent done")
""",
        lambda outcome, facts: outcome.stdout == b"parent done\n" and outcome.ok and outcome.wall_s < 15,
    ),
    Case(
        "kill(-1), kill(1) and the parent",
        """
if os.fork() == 0: time.sleep(100)
print(error(os.kill, 1, 9), error(os.kill, -1, 9), error(os.kill, os.getppid(), 9), flush=True)
time.sleep(0.1)
print("alive")
""",
        prints("done done done", "alive"),
    ),
    Case(
        "sockets of every family but Unix",
        """
families = {n: getattr(socket, n) for n in dir(socket) if n.startswith("AF_") and n not in ("AF_UNIX", "AF_UNSPEC")}
kinds = (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET)
outcomes = {error(socket.socket, family, kind) for family in [*families.values(), *range(2, 46)] for kind in kinds}
print({"AF_INET", "AF_INET6", "AF_VSOCK", "AF_NETLINK", "AF_PACKET", "AF_ALG"} <= set(families), outcomes)
a, b = socket.socketpair()
a.send(b"unix works")
print(b.recv(10).decode())
""",
        prints("True {'EAFNOSUPPORT'}", "unix works"),
    ),
    Case(
        "network interfaces other than lo",
        "print(sorted(line.split(':')[0].strip() for line in open('/proc/net/dev') if ':' in line))",
        prints("['lo']"),
    ),
    Case(
        "io_uring",
        "print(call(425, 8, 0), call(426, 0, 0, 0, 0, 0, 0), call(427, 0, 0, 0, 0))",
        prints("EPERM EPERM EPERM"),
    ),
    Case(
        "/proc/1/environ and other processes",
        """
pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
print(len(pids))
print(*(word.split("=")[0] for word in open("/proc/1/environ").read().split("\\0")))
print(os.getpid() <= 9)
""",
        _own_processes,
    ),
    Case(
        "files of this machine",
        """
secret = ["/etc/shadow", "/etc/ssh", "/home", "/root/.ssh", "/root/.bashrc", "/var", "/mnt", "/run", "/sys", "/boot",
          "/dev/mem", "/dev/kmsg", "/dev/tty", "/dev/vsock", "/dev/kvm", "/proc/1/root/etc/shadow", "/etc/hostname"]
print([path for path in secret if os.path.exists(path)])
print(error(os.listdir, "/proc/1/cwd/../root"), os.uname().nodename)
""",
        _no_files,
    ),
    Case(
        "kernel memory and machine state through /proc",
        """
places = ["/proc/kcore", "/proc/kmsg", "/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern",
          "/proc/sys/vm/drop_caches"]
print([place for place in places if error(open, place, "r+b") == "done"])
""",
        prints("[]"),
    ),
    Case(
        "writing to the system",
        """
places = ["/x", "/usr/x", "/etc/x", "/etc/passwd", "/dev/x", "/dev/null/x", "/bin/x", "/proc/x", sys.executable]
print({error(open, place, "ab") for place in places} <= {"EROFS", "EACCES", "ENOENT", "ENOTDIR", "ETXTBSY"})
""",
        prints("True"),
    ),
    Case(
        "ptrace and reading other memory",
        _NUMBERS
        + """
if (child := os.fork()) == 0: time.sleep(100)
print(call(N(101, 117), 16, child, 0, 0), call(N(310, 270), child, 0, 0, 0, 0, 0))
print(call(N(311, 271), child, 0, 0, 0, 0, 0), call(N(312, 272), child, os.getpid(), 0, 0, 0))
os.kill(child, 9)
""",
        prints("EPERM EPERM", "EPERM EPERM"),
    ),
    Case(
        "unshare, setns, clone with new namespaces",
        _NUMBERS
        + """
flags = [0x10000000, 0x20000, 0x20000000, 0x40000000, 0x4000000, 0x8000000, 0x2000000]
print({call(N(272, 97), flag) for flag in flags}, {call(N(56, 220), flag | 17, 0, 0, 0, 0) for flag in flags})
print(call(N(308, 268), os.open("/proc/self/ns/net", os.O_RDONLY), 0), call(435, 0, 0))
""",
        prints("{'EPERM'} {'EPERM'}", "EPERM ENOSYS"),
    ),
    Case(
        "mount, umount, chroot, pivot_root and the new mount calls",
        _NUMBERS
        + """
print(libc.mount(b"none", b"/tmp", b"tmpfs", 0, None), errno.errorcode[ctypes.get_errno()])
print(error(os.chroot, "/tmp"), call(N(166, 39), b"/proc", 2), call(N(155, 41), b".", b"."))
print({call(number, 0, 0, 0, 0, 0) for number in (428, 429, 430, 431, 432, 433, 442)})
""",
        prints("-1 EPERM", "EPERM EPERM EPERM", "{'EPERM'}"),
    ),
    Case(
        "opening files by handle",
        _NUMBERS + "print(call(N(303, 264), -100, b'/', 0, 0, 0), call(N(304, 265), -100, 0, 0))",
        prints("EPERM EPERM"),
    ),
    Case(
        "keyrings, bpf, userfaultfd, perf, personality, modules, kexec, fanotify, secret memory",
        _NUMBERS
        + """
calls = {"keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218), "bpf": (321, 280), "uffd": (323, 282),
         "perf": (298, 241), "personality": (135, 92), "module": (313, 273), "kexec": (246, 104),
         "fanotify": (300, 262), "secret": (447, 447), "seccomp": (317, 277),
         "reboot": (169, 142), "swapon": (167, 224), "syslog": (103, 116)}
print({name: result for name, pair in calls.items() if (result := call(N(*pair), 0, 0, 0, 0, 0)) != "EPERM"})
""",
        prints("{}"),
    ),
    Case(
        "system calls newer than the filter",
        "print({call(number, 0, 0, 0, 0, 0, 0) for number in (457, 458, 467, 500, 1000, 5000)})",
        prints("{'ENOSYS'}"),
    ),
    Case(
        "system calls of the x32 interface",
        _NUMBERS
        + """
if not X: os.kill(os.getpid(), signal.SIGSYS)
call(0x40000000 | 39)
print("went through")
""",
        lambda outcome, facts: outcome.ending is Ending.SIGNAL and outcome.exit_code == 159 and not outcome.stdout,
    ),
    Case(
        "typing into a terminal",
        """
import fcntl
def inject(): fcntl.ioctl(0, 0x5412, b"x")
print(error(inject), error(os.open, "/dev/tty", os.O_RDWR), error(os.ttyname, 0))
""",
        lambda outcome, facts: outcome.ok and outcome.stdout.split()[:2] == [b"EPERM", b"ENOENT"],
    ),
    Case(
        "privileges through setuid programs",
        """
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(status["NoNewPrivs"].strip(), {int(status[n], 16) for n in ("CapInh", "CapPrm", "CapEff", "CapAmb")})
print(error(os.setuid, 0), error(os.setgroups, [0]), os.getuid(), os.getgroups() in ([], [65534]))
""",
        prints("1 {0}", "EINVAL EPERM 1000 True"),
    ),
    Case(
        "inherited descriptors",
        "print(sorted(int(fd) for fd in os.listdir('/proc/self/fd')))",
        prints("[0, 1, 2, 3]"),  # 3 is the listing itself
    ),
    Case("inherited environment", "print(sorted(os.environ))", prints("['HOME', 'LANG', 'PATH', 'PWD', 'TMPDIR']")),
    Case(
        "changing one's own standard input",
        """
def spoil():
    with open("/proc/self/fd/0", "r+b", buffering=0) as file: file.write(b"y")
print(error(spoil), sys.stdin.read())
""",
        lambda outcome, facts: outcome.ok and outcome.stdout in (b"EPERM xxx\n", b"EACCES xxx\n"),
        stdin=b"xxx",
    ),
    Case(
        "links, pipes, devices and locked files in collected output",
        """
os.symlink("/etc/passwd", "link")
os.symlink("/", "root")
os.symlink("plain", "indirect")
os.mkfifo("pipe")
os.mkdir("folder"); os.mkdir("fake")
socket.socket(socket.AF_UNIX).bind("socket")
for name in ("plain", "folder/plain"):
    with open(name, "w") as file: file.write("mine")
os.symlink("folder", "alias")
""",
        _links,
        collect=(
            "link",
            "root/etc/passwd",
            "indirect",
            "pipe",
            "fake",
            "socket",
            "plain",
            "folder/plain",
            "alias/plain",
            "missing",
        ),
    ),
    Case(
        "collected output larger than the cap",
        "open('large', 'wb').write(b'x' * (3 << 20))",
        lambda outcome, facts: outcome.ok and len(outcome.files["large"]) == MIB,
        collect=("large",),
    ),
    Case(
        "folders that cannot be entered",
        """
os.makedirs("a/b/c")
open("a/b/c/file", "w").close()
os.chmod("a/b", 0); os.chmod("a", 0); os.chmod(".", 0); os.chmod("/tmp", 0)
""",
        lambda outcome, facts: outcome.ok,
    ),
    Case(
        "ends by a signal that it sends itself",
        "os.kill(os.getpid(), signal.SIGSEGV)",
        lambda outcome, facts: outcome.ending is Ending.SIGNAL and outcome.exit_code == 139,
    ),
    Case("exit status", "sys.exit(7)", lambda outcome, facts: outcome.ending is Ending.EXIT and outcome.exit_code == 7),
    Case(
        "time-out swallowed",
        """
while True:
    try:
        while True: pass
    except BaseException: pass
""",
        ends(Ending.CPU),
        limits=replace(LIMITS, cpu_s=0.5),
    ),
]
