r"""Verifiers of maths, GSM8K and exact answers, on responses that people and adversaries write."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.exact import verify_exact
from rewards.gsm8k import verify_gsm8k
from rewards.math.extract import last_boxed
from rewards.math.pool import GraderFailure, GraderPool
from rewards.math.verify import verify_math
from rewards.response import after_thinking
from rewards.score import Score
from rewards.verify import VERIFIERS, get_verifier

BOMB = r"9^{9^{9^{9}}}"


def boxed(answer: str) -> str:
    return f"<think>Let me see.</think>The answer is $\\boxed{{{answer}}}$."


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("42", "42"),
        ("042", "42"),
        ("42.0", "42"),
        (r"\frac{1}{2}", "0.5"),
        (r"\dfrac12", r"\frac{1}{2}"),
        (r"2\sqrt{2}", r"\sqrt{8}"),
        ("x=5", "5"),
        ("(1,2)", "(1, 2)"),
        (r"\left(1, 2\right)", "(1,2)"),
        (r"29,\!322", "29322"),
        ("1,000", "1000"),
        (r"90^\circ", "90"),
        (r"\text{Monday}", "Monday"),
        (r"\{1, 2\}", r"\{2, 1\}"),
        (r"\sin^2 t", r"\sin^2t"),
        ("5", "$5$"),
        ("5", "5."),
        (r"\frac{\sqrt{3}}{2}", r"\frac{3}{2\sqrt{3}}"),
    ],
)
def test_the_same_value_is_right(answer: str, gold: str) -> None:
    score = verify_math(boxed(answer), gold)
    assert score == Score.right(answer, format=1.0)


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("41", "42"),
        ("-42", "42"),
        (r"\frac{1}{3}", "0.33"),
        ("(2,1)", "(1,2)"),
        (r"\text{Friday}", "Monday"),
        ("1, 2, 3", "2"),
        (r"2 \text{ or } 3", "2"),
        ("x", "42"),
        ("1 2", "12"),
        (r"\frac{", "42"),
        ("__import__('os').abort()", "42"),
    ],
)
def test_another_value_is_wrong(answer: str, gold: str) -> None:
    score = verify_math(boxed(answer), gold)
    assert score.total == 0.0, score


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        ("The answer is 42.", "no \\boxed{} answer"),
        ("<think>\\boxed{42}", "no \\boxed{} answer"),  # thinking that never ended
        ("<think>\\boxed{42}</think>It is 42.", "no \\boxed{} answer"),  # only the answer part counts
        ("\\boxed{42</think>", "no \\boxed{} answer"),
        ("", "no \\boxed{} answer"),
        ("\\boxed{ }", "empty \\boxed{}"),
        ("\\boxed{" + "4" * 2000 + "}", "longer than 1000 characters"),
    ],
)
def test_no_answer_is_wrong_and_says_why(response: str, reason: str) -> None:
    score = verify_math(response, "42")
    assert score.total == 0.0
    assert reason in score.reason


def test_the_last_box_after_the_last_thinking_counts() -> None:
    assert verify_math("\\boxed{1}</think>\\boxed{2}</think>\\boxed{3} no, \\boxed{4}", "4").correct
    assert not verify_math("\\boxed{4} no, \\boxed{3}", "4").correct


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"\boxed{\frac{1}{2}} or", r"\frac{1}{2}"),
        (r"\boxed{\{1\}}", r"\{1\}"),
        (r"\boxed{1} \boxed{2", "1"),
        (r"\boxed{\boxed{3}}", "3"),
        (r"\fbox {4}", "4"),
        (r"} \boxed{5}", "5"),
        (r"\boxed{a\}b}", r"a\}b"),
        (r"\boxed 6", None),
        (r"\\boxed{7}", None),  # a line break, then the word
    ],
)
def test_last_boxed(text: str, content: str | None) -> None:
    assert last_boxed(text) == content


def test_extraction_takes_linear_time() -> None:
    for text in (
        "\\boxed{" * 200_000,
        "{" * 1_000_000,
        "\\boxed{1}" * 100_000,
        "####" * 200_000,
        "</think>" * 100_000,
        "$1," * 300_000,
    ):
        started = time.monotonic()
        last_boxed(after_thinking(text))
        verify_gsm8k(text, "1")
        assert time.monotonic() - started < 5


@settings(deadline=None)  # timings of shared machines vary
@given(st.text(alphabet="\\boxed{}$1,. \n#<think>/", max_size=60))
def test_no_text_breaks_extraction(text: str) -> None:
    last_boxed(text)
    assert verify_gsm8k(text, "7").gradable
    assert verify_exact(text, "7").gradable


def test_a_time_out_is_ungradable_and_the_next_item_still_grades() -> None:
    started = time.monotonic()
    score = verify_math(boxed(BOMB), "3", timeout_s=1.0)
    assert time.monotonic() - started < 30  # the start of a worker included
    assert score.total is None
    assert score.reason == "math grader took longer than 1 s"
    assert verify_math(boxed(r"\frac12"), "0.5").correct


def test_threads_share_the_pool_and_a_hung_item_hurts_nobody_else() -> None:
    answers = [BOMB if i % 5 == 0 else r"\frac12" for i in range(20)]
    with ThreadPoolExecutor(8) as threads:
        scores = list(threads.map(lambda answer: verify_math(boxed(answer), "0.5", timeout_s=2.0), answers))
    assert [score.total for score in scores] == [None if answer == BOMB else 1.0 for answer in answers]


def test_a_worker_that_died_is_replaced() -> None:
    pool = GraderPool(1)
    try:
        assert pool.ask("0.5", r"\frac12", 20)[0] == "right"
        worker = pool._idle.get()
        assert worker is not None
        worker.process.kill()
        worker.process.wait()
        pool._idle.put(worker)
        assert pool.ask("0.5", r"\frac12", 20)[0] == "right"
    finally:
        pool.close()


def test_a_crash_in_the_middle_is_a_failure_of_the_grader() -> None:
    pool = GraderPool(1)
    try:
        pool.ask("0.5", r"\frac12", 20)
        worker = pool._idle.get()
        assert worker is not None
        pool._idle.put(worker)
        threading.Timer(0.5, worker.process.kill).start()
        with pytest.raises(GraderFailure, match="crashed"):
            pool.ask("3", BOMB, 20)
        assert pool.ask("0.5", r"\frac12", 20)[0] == "right"
    finally:
        pool.close()


def test_a_hung_worker_does_not_outlive_a_killed_parent() -> None:
    code = (
        "from rewards.math.pool import Worker\nworker = Worker()\nprint(worker.process.pid, flush=True)\n"
        f"worker.ask('3', r'{BOMB}', 1.0)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    time.sleep(0.3)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and _alive(child):
        time.sleep(0.2)
    assert not _alive(child)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


@pytest.mark.parametrize(
    ("response", "gold", "right"),
    [
        ("2+2=4\n#### 4", "4", True),
        ("#### $1,234.50", "1234.5", True),
        ("#### 3\nno: #### 4", "4", True),
        ("#### 4 or 5", "4", True),
        ("#### none, it is 4", "4", True),
        ("####\n", "4", False),
        ("He has 3 + 1 = 4 apples.", "4", True),
        ("4 apples, not 5", "4", False),
        ("10-5", "5", True),
        ("it is -5", "-5", True),
        ("it is 5", "-5", False),
        ("4.0", "4", True),
        ("none", "4", False),
        ("<think>#### 4</think>I do not know", "4", False),
        ("<think>4", "4", False),
        ("4", "some reasoning\n#### 4", True),
    ],
)
def test_gsm8k(response: str, gold: str, right: bool) -> None:
    assert verify_gsm8k(response, gold).correct is right


def test_gsm8k_format_part_and_bad_reference() -> None:
    assert verify_gsm8k("#### 4", "4").parts == {"format": 1.0}
    assert verify_gsm8k("4", "4").parts == {"format": 0.0}
    with pytest.raises(ValueError, match="holds no number"):
        verify_gsm8k("4", "four")


def test_exact() -> None:
    assert verify_exact("<think>hm</think>\nParis ", "Paris").correct
    assert verify_exact("<think>hm</think>", "Paris").reason == "no answer after the thinking"
    assert not verify_exact("paris", "Paris").correct


def test_registry() -> None:
    assert get_verifier("math", 2.0)("\\boxed{4}", "4").correct
    assert get_verifier("arithmetic")("<think></think>Answer: 4", "4").correct
    with pytest.raises(ValueError, match=r"unknown verifier 'maths'; did you mean 'math'\?"):
        get_verifier("maths")
    with pytest.raises(ValueError, match="there are: math, gsm8k"):
        get_verifier("zzz")
    assert set(VERIFIERS) >= {"math", "gsm8k", "exact"}
