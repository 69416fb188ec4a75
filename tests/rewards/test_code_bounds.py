"""Whatever a program returns costs the judge's own process next to nothing: processor time and memory are measured.

Replies are forged, so that making them costs the program nothing either, and written as one that is honest would be.
"""

from __future__ import annotations

import time
import tracemalloc

import pytest

from rewards.code.compare import Leeway, Order, same_output
from rewards.code.judge import Program, judge
from rewards.code.plain import NotPlain, decode
from rewards.code.problem import CodeProblem, problem_of_row
from rewards.code.sandbox import shared_sandbox
from rewards.code.verdict import Verdict
from tests.code_kit import FAST

MODULUS = 2**61 - 1
"""Integers that differ by it have equal hashes."""
FORGE = """
import os
M = 2**61 - 1
def tagged(tag, items): return '{"%s": [%s]}' % (tag, ', '.join(items))
def text(times, piece): return '"' + piece * times + '"'
line = b'["value", ' + (EXPRESSION).encode() + b']\\n'
while line: line = line[os.write(3, line):]
"""
REPLIES = {
    "set of equal hashes": "tagged('set', (str(M * i) for i in range(60_000)))",
    "set of tuples of equal hashes": "tagged('set', (tagged('tuple', [str(M * i)]) for i in range(60_000)))",
    "keys of equal hashes": "tagged('dict', ('[%d, 1]' % (M * i) for i in range(60_000)))",
    "keys of equal hashes as a view": "tagged('keys', (str(M * i) for i in range(60_000)))",
    "millions of lists": "'[' + ','.join(['[]'] * 2_700_000) + ']'",
    "millions of objects": "'[' + ','.join(['{}'] * 2_700_000) + ']'",
    "millions of numbers": "'[' + '1,' * 4_000_000 + '1]'",
    "lists without end": "'[' * 4_000_000 + ']' * 4_000_000",
    "a text of megabytes": "text(8_000_000, 'x')",
    "escapes": "text(1_300_000, chr(92) + 'u1234')",
    "digits without end": "'9' * 8_000_000",
    "as many digits as Python reads": "'[' + ','.join(['9' * 4299] * 1_800) + ']'",
    "an integer of 32 Mbit": "'{\"int\": \"0x' + 'f' * 8_000_000 + '\"}'",
    "a float of megabytes": "'0.' + '1' * 8_000_000",
    "a giant exponent": '\'{"decimal": "1E+999999999"}\'',
    "a giant fraction": "tagged('fraction', ['{\"int\": \"0x' + digit * 4_000_000 + '\"}' for digit in 'f7'])",
    "a giant range": "tagged('range', ['0', '1' + '0' * 400, '1'])",
    "bytes": "'{\"bytes\": \"' + '00' * 4_000_000 + '\"}'",
    "millions of pairs": "tagged('dict', ['[1,1]'] * 1_100_000)",
}
KINDS: dict[str, CodeProblem] = {
    "functional": problem_of_row({"fn_name": "f", "tests": [{"input": "1", "output": "[1, 2, 3]"}] * 2}),
    "asserts": problem_of_row({"test_list": ["assert f(1) == 2", "assert len(f(2)) == 3", "assert {1: f(3)}[1] == 5"]}),
}
DEFINED = "class Solution:\n    def f(self, n): return 0\ndef f(n): return 0\n"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reply", REPLIES)
def test_a_reply_costs_next_to_nothing(reply: str, kind: str) -> None:
    program = Program(FORGE.replace("EXPRESSION", REPLIES[reply]) + DEFINED)
    sandbox = shared_sandbox()
    tracemalloc.start()
    began = time.process_time()
    result = judge(KINDS[kind], program, sandbox, FAST)
    spent, peak = time.process_time() - began, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert result.verdict not in (Verdict.AC, Verdict.SE), result.reason
    assert len(result.reason) < 400
    assert result.reason.isprintable()
    assert spent < 3, "memory is traced, which makes it slower"
    assert peak < 200 << 20


@pytest.mark.parametrize("order", Order)
@pytest.mark.parametrize(
    "output", [b"\n" * 8_000_000, b"1 " * 4_000_000, b"1\n" * 4_000_000, b"9" * 8_000_000, b"[" * 8_000_000]
)
def test_an_output_costs_next_to_nothing(output: bytes, order: Order) -> None:
    leeway = Leeway(1e-6, order, frozenset({"yes"}))
    tracemalloc.start()
    began = time.process_time()
    for expected in (b"1 2 3\n", b"1\n2\n3\n", b"1.5", b" *\n* *", b"YES"):
        assert not same_output(output, expected, leeway)[0]
    spent, peak = time.process_time() - began, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert spent < 3
    assert peak < 40 << 20


def test_equal_hashes_are_refused_before_they_meet() -> None:
    """In the sandbox with the tests too: it would take them to their time limit."""
    began = time.process_time()
    for build in ({"set": [MODULUS * i for i in range(100_000)]}, {"dict": [[MODULUS * i, 1] for i in range(100_000)]}):
        with pytest.raises(NotPlain, match="equal hashes"):
            decode(build)
    assert time.process_time() - began < 5
    assert decode({"set": [-1, -2, MODULUS, 0]}) == {-1, -2, MODULUS, 0}


ENDLESS = {
    "generator": "def f(n):\n    while True: yield n",
    "iterator": "import itertools\ndef f(n): return itertools.count()",
    "object": "class f:\n    def __init__(self, n): pass\n    def __iter__(self): return self\n"
    "    def __next__(self): return self",
    "index": "class f:\n    def __init__(self, n): pass\n    def __getitem__(self, i): return [i] * 10**5",
    "length": "class f:\n    def __init__(self, n): pass\n    def __len__(self): return 10**9\n    __iter__ = iter([])",
}


@pytest.mark.parametrize("endless", ENDLESS)
def test_what_has_no_end_ends(endless: str) -> None:
    problem = problem_of_row({"test_list": ["assert list(f(1)) == [1]", "for x in f(2): assert x == 2"]})
    began = time.process_time()
    result = judge(problem, Program(ENDLESS[endless]), shared_sandbox(), FAST)
    assert result.verdict not in (Verdict.AC, Verdict.SE), result.reason
    assert time.process_time() - began < 3
