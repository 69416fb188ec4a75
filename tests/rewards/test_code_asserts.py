"""What test code may do with results of a program: numbers of the standard library, iterators, exceptions, objects."""

from __future__ import annotations

import pytest

from rewards.code.judge import Program, judge
from rewards.code.problem import problem_of_row
from rewards.code.sandbox import shared_sandbox
from rewards.code.verdict import Judgement, Verdict
from tests.code_kit import FAST


def verdict(code: str, *tests: str) -> Judgement:
    return judge(problem_of_row({"test_list": [*tests]}), Program(code), shared_sandbox(), FAST)


RIGHT = {
    "Fraction against a float": (
        "from fractions import Fraction\ndef f(a): return Fraction(a, 2)",
        ["assert f(3) == 1.5", "assert f(4) == 2", "assert abs(f(1) - 0.5) < 1e-9", "assert str(f(1)) == '1/2'"],
    ),
    "Fraction in a list, and given back": (
        "from fractions import Fraction\ndef f(a): return [Fraction(a) / 3]\ndef g(a): return a[0] * 3",
        ["from fractions import Fraction\nassert f(1) == [Fraction(1, 3)]", "assert g(f(2)) == 2"],
    ),
    "Decimal": (
        "from decimal import Decimal\ndef f(a): return Decimal(a) / 4",
        [
            "from decimal import Decimal\nassert f(1) == Decimal('0.25')",
            "assert f(1) == 0.25",
            "assert f('1e300') > 1e200",
            "assert f(Decimal(8)) == 2 and isinstance(f(8), Decimal)",
        ],
    ),
    "generator": (
        "def f(a):\n    for x in a:\n        if x % 2 == 0: yield x",
        [
            "assert list(f([1, 2, 4])) == [2, 4]",
            "assert sorted(f([4, 2])) == [2, 4]",
            "assert len(list(f([]))) == 0",
            "assert sum(f([2, 4])) == 6 and 4 in f([2, 4]) and tuple(f([2])) == (2,)",
            "for x in f([6, 7]): assert x == 6",
            "a, b = f([2, 3, 4])\nassert (a, b) == (2, 4)",
            "assert list(f(range(5000))) == list(range(0, 5000, 2))",
            "assert [x for x in f([2, 4])] + [*f([6])] == [2, 4, 6]",
            "assert dict(zip('ab', f([2, 4]))) == {'a': 2, 'b': 4}",
        ],
    ),
    "next": (
        "def f():\n    a, b = 0, 1\n    while True:\n        yield a\n        a, b = b, a + b",
        [
            "g = f()\nassert next(g) == 0 and next(g) == 1",
            "from itertools import islice\nassert list(islice(f(), 9)) == [0, 1, 1, 2, 3, 5, 8, 13, 21]",
            "g = f()\nassert [next(g) for _ in range(12)][-1] == 89",
        ],
    ),
    "an end that is noticed": (
        "def f(n): return iter(range(n))",
        ["assert next(f(0), 'none') == 'none'", "g = f(1)\nassert next(g) == 0\nassert list(g) == []"],
    ),
    "filter, map, zip, reversed": (
        "def f(a): return filter(None, map(int, a))\ndef g(a): return zip(a, reversed(a))",
        ["assert list(f('102')) == [1, 2]", "assert list(g([1, 2])) == [(1, 2), (2, 1)]"],
    ),
    "views and ranges": (
        "def f(d): return d.keys()\ndef g(d): return d.values()\ndef h(d): return d.items()\ndef r(n): return range(n)",
        [
            "assert list(f({1: 2})) == [1] and f({1: 2}) == {1}",
            "assert sorted(g({1: 3, 2: 2})) == [2, 3]",
            "assert set(h({1: 2})) == {(1, 2)}",
            "assert list(r(3)) == [0, 1, 2] and r(3) == range(3) and len(r(10**12)) == 10**12",
        ],
    ),
    "an iterable object": (
        "class f:\n    def __init__(self, n): self.n = n\n    def __iter__(self): return iter(range(self.n))",
        ["a = f(3)\nassert list(a) == [0, 1, 2] and list(a) == [0, 1, 2]", "assert max(f(5)) == 4"],
    ),
    "a generator that the program is given back": (
        "def f(n): yield from range(n)\ndef total(g): return sum(g)",
        ["assert total(f(4)) == 6"],
    ),
    "exceptions by type": (
        "class Own(ValueError): pass\n"
        "def f(a, b): return a / b\n"
        "def g(kind): raise {'key': KeyError, 'own': Own, 'index': IndexError, 'type': TypeError}[kind]('so')",
        [
            "try:\n    f(1, 0)\n    assert False\nexcept ZeroDivisionError:\n    assert f(4, 2) == 2",
            "try:\n    g('own')\n    done = 0\nexcept ValueError as error:\n    done = str(error) == 'so'\nassert done",
            "def kind(name):\n    try: g(name)\n    except (KeyError, IndexError) as e: return type(e).__name__\n"
            "    except Exception as e: return 'else ' + type(e).__name__\n"
            "assert [kind(n) for n in ('key', 'index', 'type')] == ['KeyError', 'IndexError', 'else TypeError']",
        ],
    ),
    "an exception caught around an assert": (
        "def f(a, b): return a / b",
        [
            "try:\n    assert f(1, 0)\nexcept ZeroDivisionError:\n    assert f(4, 2) == 2",
            "try:\n    assert f(1, 0) == 0\nexcept (ValueError, ArithmeticError):\n    pass",
            "assert f(9, 3) == 3",
        ],
    ),
    "an exception while an iterator is gone through": (
        "def f(n):\n    yield n\n    raise ValueError('end')",
        ["try:\n    list(f(1))\n    done = False\nexcept ValueError:\n    done = True\nassert done", "assert f(1)"],
    ),
    "objects that several asserts make, each with calls of its own": (
        "class P:\n    def __init__(s, x): s.x = x\n    def get(s): return s.x",
        [
            "assert P(1).get() == 1 and P(2).get() == 2",
            "assert P(3).x == 3",
            "assert [P(i).get() for i in range(3)] == [0, 1, 2]",
            "assert [P(i).x for i in range(4, 7)] == [4, 5, 6] and P(1).get() == 1",
        ],
    ),
    "huge integers": (
        "def f(n): return 10 ** n",
        ["assert f(5000) == 10 ** 5000", "assert len(str(f(9000))) == 9001", "assert str(f(5000)) == '1' + '0' * 5000"],
    ),
    "a byte order mark": ("\ufeffdef f(): return 1", ["assert f() == 1"]),
}


@pytest.mark.parametrize("case", RIGHT)
def test_right(case: str) -> None:
    code, tests = RIGHT[case]
    result = verdict(code, *tests)
    assert result.verdict is Verdict.AC, result.reason


WRONG = {
    "wrong Fraction": ("from fractions import Fraction\ndef f(a): return Fraction(a, 3)", ["assert f(3) == 1.5"]),
    "own Fraction": (
        "import fractions\nclass Fraction:\n    numerator = 3\n    denominator = 2\n    def __eq__(s, o): return True\n"
        "Fraction.__hash__ = None\nfractions.Fraction = Fraction\ndef f(a): return Fraction()",
        ["assert f(3) == 7"],
    ),
    "Decimal NaN": ("from decimal import Decimal\ndef f(a): return Decimal('nan')", ["assert not f(1) > 5"]),
    "Decimal signalling NaN": ("from decimal import Decimal\ndef f(a): return Decimal('snan')", ["assert f(1) != 5"]),
    "giant Decimal": ("from decimal import Decimal\ndef f(a): return Decimal('1e999999')", ["assert int(f(1)) > 5"]),
    "short generator": ("def f(a): yield 2", ["assert list(f(1)) == [2, 4]"]),
    "generator against a list": ("def f(a): yield 2", ["assert f(1) == [2]"]),
    "generator where a length is asked": ("def f(a): yield 2", ["assert len(f(1)) == 1"]),
    "generator of liars": (
        "class L:\n    def __eq__(s, o): return True\n    __hash__ = None\ndef f(a): yield L()",
        ["assert list(f(1)) == [2]"],
    ),
    "no exception": (
        "def f(a, b): return 1",
        ["try:\n    f(1, 0)\n    assert False\nexcept ZeroDivisionError:\n    assert f(4, 2) == 2"],
    ),
    "another exception": (
        "def f(a, b):\n    if b == 0: raise ValueError\n    return a / b",
        ["try:\n    f(1, 0)\n    assert False\nexcept ZeroDivisionError:\n    assert f(4, 2) == 2"],
    ),
    "an exception of that name": (
        "class ZeroDivisionError(Exception): pass\n"
        "def f(a, b):\n    if b == 0: raise ZeroDivisionError\n    return a / b",
        ["try:\n    f(1, 0)\n    assert False\nexcept ZeroDivisionError:\n    assert f(4, 2) == 2"],
    ),
    "caught around an assert, and no exception": (
        "def f(a, b): return 7",
        ["try:\n    assert f(1, 0) == 2\nexcept ZeroDivisionError:\n    pass"],
    ),
    "caught around an assert, and another exception": (
        "def f(a, b): return {}[a]",
        ["try:\n    assert f(1, 0) == 2\nexcept ZeroDivisionError:\n    pass"],
    ),
    "everything caught around an assert": (
        "def f(a): raise ValueError",
        ["try:\n    assert f(1) == 2\nexcept Exception:\n    pass", "try:\n    assert f(2) == 2\nexcept:\n    pass"],
    ),
    "AssertionError caught around an assert": (
        "def f(a): return 7",
        ["try:\n    assert f(1) == 2\nexcept AssertionError:\n    pass"],
    ),
    "AssertionError raised where it is caught around an assert": (
        "def f(a): raise AssertionError",
        ["try:\n    assert f(1) == 2\nexcept AssertionError:\n    pass"],
    ),
    "exceptions in place of results": ("def f(a): raise AssertionError", ["assert f(1) == 2"]),
    "StopIteration in place of items": (
        "def f(a):\n    class I:\n        def __iter__(s): return s\n        def __next__(s): raise StopIteration\n"
        "    return I()",
        ["for x in f(1): assert x == 2", "assert f(1) == 2"],
    ),
    "exit in place of a result": ("def f(a): raise SystemExit(0)", ["assert f(1) == 2"]),
    "interrupt in place of a result": ("def f(a): raise KeyboardInterrupt", ["assert f(1) == 2"]),
    "an exception group": ("def f(a): raise ExceptionGroup('x', [ValueError()])", ["assert f(1) == 2"]),
    "an exception with a name that is none": (
        "def f(a): raise type('a\\ud800', (UnicodeDecodeError,), {'__init__': lambda *a: None})()",
        ["assert f(1) == 2"],
    ),
    "items that are forged": (
        "import os\ndef f(a):\n    class I:\n        def __iter__(s):\n"
        "            os.write(3, b'[\"value\", 7]\\n'); return iter([])\n    return I()",
        ["assert list(f(1)) == [2]"],
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong(case: str) -> None:
    code, tests = WRONG[case]
    result = verdict(code, *tests)
    assert result.verdict in (Verdict.WA, Verdict.RE), (result.verdict, result.reason)
    assert result.score().reward == 0.0
