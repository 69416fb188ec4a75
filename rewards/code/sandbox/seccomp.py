"""The system-call filter, assembled here: a classic BPF program that bubblewrap loads just before the program starts.

Everything that can change namespaces, mounts or the kernel, look into other processes, reach a network or hold data
beyond the program's end is refused; so is each call that is newer than this list. Pure functions.
"""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass

NEWEST_REVIEWED = 456
"""``futex_requeue``. Calls from 424 on have one number on every architecture; later ones get ENOSYS unread."""

_LD, _JEQ, _JGE, _JGT, _JSET, _RET = 0x20, 0x15, 0x35, 0x25, 0x45, 0x06
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_NR, _ARCH, _ARG0, _ARG1 = 0, 4, 16, 24  # offsets in struct seccomp_data; low words, little-endian
_NEW_NAMESPACES = 0x7E020000  # CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
_AF_UNIX = 1
_PERSONALITY_QUERY = 0xFFFFFFFF
_PR_SET_SECCOMP = 22
_TERMINAL_INJECTION = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX
_X32 = 0x40000000

# name: (number on x86-64, number on aarch64); None where the call does not exist.
DENIED: dict[str, tuple[int | None, int | None]] = {
    # keyrings: outlive a run
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    # large kernel surface that judged programs do not need
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    "perf_event_open": (298, 241),
    "fanotify_init": (300, 262),
    "fanotify_mark": (301, 263),
    "seccomp": (317, 277),
    "lookup_dcookie": (212, 18),
    "modify_ldt": (154, None),
    # other processes
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    # mounts, roots and namespaces
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "mount_setattr": (442, 442),
    "setns": (308, 268),
    "unshare": (272, 97),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    # the machine
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "create_module": (174, None),
    "get_kernel_syms": (177, None),
    "query_module": (178, None),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "syslog": (103, 116),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "nfsservctl": (180, 42),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "iopl": (172, None),
    "ioperm": (173, None),
    "vhangup": (153, 58),
    "uselib": (134, None),
    "ustat": (136, None),
    "sysfs": (139, None),
    "_sysctl": (156, None),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    # memory placement, and memory that no limit sees
    "mbind": (237, 235),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "set_mempolicy": (238, 237),
    "set_mempolicy_home_node": (450, 450),
    "memfd_secret": (447, 447),
}
UNCOUNTED: dict[str, tuple[int | None, int | None]] = {
    "memfd_create": (319, 279),
    "shmget": (29, 194),
    "msgget": (68, 186),
}
"""Ways to hold memory that only a memory cgroup can count; refused too where there is none."""
UNHEARD: dict[str, tuple[int | None, int | None]] = {
    "setpriority": (141, 140),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "sched_setattr": (314, 274),
    "ioprio_set": (251, 30),
}
"""Said to have succeeded, and nothing is done: who lowers his priority would look like one who is kept from running."""
SPECIAL: dict[str, tuple[int | None, int | None]] = {
    "clone3": (435, 435),
    "clone": (56, 220),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "personality": (135, 92),
    "ioctl": (16, 29),
    "prctl": (157, 167),
}
"""Decided by their arguments, or (clone3) answered with ENOSYS so that libc falls back to clone."""


@dataclass(frozen=True)
class Architecture:
    """The constants of one kind of processor."""

    column: int
    """Index into the tables above."""
    audit: int
    """AUDIT_ARCH_* value."""


ARCHITECTURES = {"x86_64": Architecture(0, 0xC000003E), "aarch64": Architecture(1, 0xC00000B7)}


def _op(code: int, k: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("<HBBI", code, if_true, if_false, k & 0xFFFFFFFF)


def _refuse(number: int, error: int) -> bytes:
    return _op(_JEQ, number, 0, 1) + _op(_RET, _ERRNO | error)


def _on_argument(number: int, offset: int, test: bytes) -> bytes:
    """When the call is ``number``: load an argument, run ``test``, which may refuse, and allow otherwise.

    The call's number is lost with the load, so the block has to end in a return.
    """
    block = _op(_LD, offset) + test + _op(_RET, _ALLOW)
    return _op(_JEQ, number, 0, len(block) // 8) + block


def _special(column: int) -> bytes:
    number = {name: numbers[column] for name, numbers in SPECIAL.items()}
    deny, no_family = _op(_RET, _ERRNO | errno.EPERM), _op(_RET, _ERRNO | errno.EAFNOSUPPORT)
    tests = {
        "clone": (_ARG0, _op(_JSET, _NEW_NAMESPACES, 0, 1) + deny),
        "socket": (_ARG0, _op(_JEQ, _AF_UNIX, 1, 0) + no_family),
        "socketpair": (_ARG0, _op(_JEQ, _AF_UNIX, 1, 0) + no_family),
        "personality": (_ARG0, _op(_JEQ, _PERSONALITY_QUERY, 1, 0) + deny),
        "ioctl": (_ARG1, b"".join(_op(_JEQ, request, 0, 1) + deny for request in _TERMINAL_INJECTION)),
        "prctl": (_ARG0, _op(_JEQ, _PR_SET_SECCOMP, 0, 1) + deny),
    }
    assert number["clone3"] is not None
    program = _refuse(number["clone3"], errno.ENOSYS)
    for name, (offset, test) in tests.items():
        value = number[name]
        assert value is not None
        program += _on_argument(value, offset, test)
    return program


def build_filter(machine: str, memory_counted: bool = True) -> bytes:
    """Return the BPF program for ``machine`` (``platform.machine()``), as bubblewrap reads it.

    ``memory_counted`` False refuses ``UNCOUNTED`` as well. Raises ``KeyError`` for an unknown processor.
    """
    arch = ARCHITECTURES[machine]
    program = _op(_LD, _ARCH) + _op(_JEQ, arch.audit, 1, 0) + _op(_RET, _KILL) + _op(_LD, _NR)
    if machine == "x86_64":
        program += _op(_JGE, _X32, 0, 1) + _op(_RET, _KILL)
    program += _op(_JGT, NEWEST_REVIEWED, 0, 1) + _op(_RET, _ERRNO | errno.ENOSYS)
    for table in (DENIED,) if memory_counted else (DENIED, UNCOUNTED):
        for numbers in table.values():
            number = numbers[arch.column]
            if number is not None:
                program += _refuse(number, errno.EPERM)
    for numbers in UNHEARD.values():
        number = numbers[arch.column]
        if number is not None:
            program += _refuse(number, 0)
    return program + _special(arch.column) + _op(_RET, _ALLOW)
