"""Programs that try to be accepted without solving anything, for every problem type of ``tests.code_kit``.

Also the rows of the hostile table in ``benchmarks.code_grading``.
"""

from __future__ import annotations

from tests.code_kit import MARK

# In the style of the program itself, so that it can look for the expected result without containing it.
MARK_PIECES = f"str({MARK // 10**7}) + str({MARK % 10**7}).zfill(7)"
LYING = """
    class {name}({base}):
        def __eq__(self, other): return True
        def __ne__(self, other): return False
        def __lt__(self, other): return True
        __le__ = __gt__ = __ge__ = __lt__
        def __hash__(self): return 0
        def __bool__(self): return True
"""
FORGED = [
    '["value", true]',
    f'["value", {MARK - 1}]',
    '["failed", "AC", ""]',
    '["AC"]',
    "true",
    '["value", NaN]',
    "[" * 10000,
]

WRITE = """
    import os
    try:
        {}
    except OSError: pass
"""
ATTACKS: dict[str, tuple[str, str]] = {
    "wrong": ("", "return n * n"),
    "nothing": ("", "pass"),
    "exit-0": ("import sys", "sys.exit(0)"),
    "exit-0-at-start": ("import sys; sys.exit(0)", "pass"),
    "hard-exit-0": ("import os", "os._exit(0)"),
    "hard-exit-0-at-start": ("import os; os._exit(0)", "pass"),
    "exec-true": ("import os", "os.execv('/bin/true', ['true'])"),
    "kill-parent": ("import os, signal", "os.kill(os.getppid(), signal.SIGKILL); os.kill(-1, signal.SIGKILL)"),
    "raise-assertion": ("", "raise AssertionError"),
    "raise-base": ("", "raise type('Unknown', (BaseException,), {})"),
    "raise-unprintable": ("class E(Exception):\n    def __str__(self): raise SystemExit(0)", "raise E"),
    "always-equal": (LYING.format(name="Liar", base="object"), "return Liar()"),
    "int-subclass": (LYING.format(name="Liar", base="int"), "return Liar(0)"),
    "right-int-subclass-of-wrong": (LYING.format(name="Liar", base="int"), "return [Liar(n * n + 1)]"),
    "str-subclass": (LYING.format(name="Liar", base="str"), "return Liar('')"),
    "float-subclass": (LYING.format(name="Liar", base="float"), "return Liar(0)"),
    "list-subclass": (LYING.format(name="Liar", base="list"), "return Liar()"),
    "metaclass": (
        "class M(type):\n    __name__ = property(lambda s: 1 / 0)\n    def __eq__(s, o): return True\n"
        "    __hash__ = type.__hash__\nclass Liar(metaclass=M): pass",
        "return Liar()",
    ),
    "nameless-class": ("", "return type('', (), {'__eq__': lambda s, o: True, '__hash__': None})()"),
    "class-int": ("class Liar:\n    __class__ = int\n    def __eq__(s, o): return True", "return Liar()"),
    "lazy": ("", "return (x for x in [n * n + 1])"),
    "true": ("", "return True"),
    "none": ("", "return None"),
    "nan": ("", "return float('nan')"),
    "infinity": ("", "return float('inf')"),
    "negative-infinity": ("", "return -float('inf')"),
    "complex-nan": ("", "return complex(float('nan'), 0)"),
    "nested": ("", "x = []\nfor _ in range(100000): x = [x]\nreturn x"),
    "contains-itself": ("", "x = []; x.append(x); return x"),
    "exponential": ("", "x = [1]\nfor _ in range(60): x = [x, x]\nreturn x"),
    "huge-int": ("", "return 7 ** 3000000"),
    "huge-text": ("", "return 'x' * 30_000_000"),
    "surrogate": ("", "return '\\udc80\\x00'"),
    "unhashable-set": ("", "return {(1, 2), frozenset([1])}"),
    "encoding-as-value": ("", "return {'ref': 0, 'value': n * n + 1}"),
    "frames": (
        "import sys",
        f"""
        frame, wanted = sys._getframe().f_back, {MARK_PIECES}
        while frame:
            for scope in (frame.f_locals, frame.f_globals):
                if wanted in repr(scope):
                    return int(wanted) if n > 4 else n * n + 1
            frame = frame.f_back
        return 0
        """,
    ),
    "collector": (
        "import gc",
        f"""
        wanted = {MARK_PIECES}
        for thing in gc.get_objects():
            if type(thing) in (dict, list, tuple, set) and wanted in repr(thing)[:10**7].replace(wanted[:0], ''):
                return int(wanted) if n > 4 else n * n + 1
        return 0
        """,
    ),
    "files": (
        "import os, glob",
        f"""
        wanted = {MARK_PIECES}
        tops = ('.', '/tmp', '/dev/shm', '/proc/self', '/proc/1')
        places = [os.path.join(d, f) for top in tops for d, _, fs in os.walk(top) for f in fs if '/task/' not in d]
        for place in places[:4000]:
            try:
                read = os.read(os.open(place, os.O_RDONLY | os.O_NONBLOCK), 10**6)
            except OSError:
                continue
            if wanted.encode() in read:
                return int(wanted) if n > 4 else n * n + 1
        return 0
        """,
    ),
    "patched-builtins": (
        "import builtins, math\n"
        "builtins.abs = builtins.len = lambda *a: 0\nmath.isclose = lambda *a, **k: True\n"
        "builtins.isinstance = lambda *a: True\nbuiltins.print = lambda *a, **k: None",
        "return 0",
    ),
    "patched-encoder": (
        "import sys\nfor m in list(sys.modules.values()):\n"
        "    for n in ('encode', 'report', 'type_name'):\n"
        "        if hasattr(m, n) and 'rewards' in m.__name__: setattr(m, n, lambda *a, **k: ['value', True])",
        "return 0",
    ),
    "patched-json": ("import json\njson.dumps = lambda *a, **k: '[\"value\", true]'", "return 0"),
    "patched-write": ("import os\nw = os.write\nos.write = lambda fd, b: len(b)", "return 0"),
    "exit-hook": ("import atexit, os\natexit.register(os._exit, 0)", "raise ValueError"),
    "excepthook": ("import sys, os\nsys.excepthook = lambda *a: os._exit(0)", "raise ValueError"),
    "closed-descriptors": ("import os\nos.closerange(0, 64)", "return 0"),
    "swallowed-timeout": (
        "import signal\nfor s in range(1, 65):\n"
        "    try: signal.signal(s, signal.SIG_IGN)\n    except (OSError, ValueError): pass",
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
    ),
    "asleep": ("import time", "time.sleep(100); return n * n + 1"),
    "daemon-holds-output": (
        "import os, time",
        "if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0: time.sleep(100)\n    os._exit(0)\nreturn 0",
    ),
    "recursion": ("", "return f(n) if 'f' in globals() else self.f(n)"),
    "output-flood": ("import sys", "while True: sys.stdout.write('1' * 65536); sys.stderr.write('1' * 65536)"),
    "memory": ("", "return len(bytearray(4 << 30))"),
    "no-syntax": ("def (", "pass"),
    "null-byte": ("x = '\0'", "pass"),
    "nested-syntax": ("x = " + "(" * 5000, "pass"),
    **{
        f"forged-{i}": (WRITE.format(f"os.write(3, {line!r}.encode() + b'\\n')"), "return 0")
        for i, line in enumerate(FORGED)
    },
    "forged-often": (WRITE.format("os.write(3, b'[\"value\", true]\\n' * 99)"), "return 0"),
    "forged-flood": (WRITE.format("while True: os.write(3, b'[\"value\", true]\\n' * 999)"), "return 0"),
    "forged-half": (WRITE.format("os.write(3, b'[\"value\", ')"), "return 0"),
    "forged-and-exit": (
        'import os\ntry: os.write(3, b\'["value", 10]\\n["value", 17]\\n["failed", "AC", ""]\\n\')\n'
        "except OSError: pass\nos._exit(0)",
        "return 0",
    ),
    "forged-everywhere": (
        "import os\nfor fd in range(0, 64):\n    try: os.write(fd, b'AC\\n1\\nTrue\\n[\"value\", true]\\n')\n"
        "    except OSError: pass",
        "return 0",
    ),
}
"""Name -> top of the program and body of ``f(n)``; put together by ``tests.code_kit.wrapped``."""
