"""A user's own reward: every form of function, and that nothing it does ends a run or becomes reward 0."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from factories import problem

from rewards.score import Score
from rollout.grading import Answered, Grading, LoopThread
from rollout.types import StopReason
from rollout.user_calls import AsyncCalls, TookTooLong, within
from rollout.user_code import UserCodeError
from rollout.user_reward import BATCH, FunctionGrader, Limits, described, load_reward

PATIENT = Limits(timeout_s=600.0)
"""Nothing here takes that long: what ends a call in these tests is never the clock."""


@pytest.fixture
def graders() -> Iterator[list[Grading]]:
    made: list[Grading] = []
    yield made
    for one in made:
        one.close()


class Judge:
    """Grades texts with a function from a file."""

    def __init__(self, folder: Path, source: str, graders: list[Grading], limits: Limits = PATIENT) -> None:
        self.file = folder / "mine.py"
        self.file.write_text(source)
        self.grading = Grading(load_reward(f"{self.file}:reward", limits))
        graders.append(self.grading)

    def __call__(self, *texts: str, stop: StopReason = StopReason.EOS) -> list[Score]:
        return self.grading.submit(lambda: [Answered(problem(), text, stop) for text in texts]).result()

    @property
    def counts(self) -> dict[str, float]:
        return self.grading.grader.counts()


@pytest.mark.parametrize(
    "source",
    [
        "def reward(problem, response):\n    return len(response) / 2",
        "async def reward(problem, response):\n    return len(response) / 2",
        "def reward(problems, responses):\n    return [len(r) / 2 for r in responses]",
        "async def reward(problems, responses):\n    return (len(r) / 2 for r in responses)",
        "class Scale:\n    def __call__(self, problem, response):\n        return len(response) / 2\nreward = Scale()",
        "import functools\ndef scaled(problem, response, by):\n    return len(response) / by\n"
        "reward = functools.partial(scaled, by=2)",
        "from rewards.score import Score\ndef reward(p, r):\n    return Score(len(r) / 2, len(r) >= 2)",
        "import numpy as np\ndef reward(problems, responses):\n    return np.array([len(r) for r in responses]) / 2",
        "import torch\ndef reward(problem, response):\n    return torch.tensor(len(response) / 2)",
    ],
)
def test_every_form_of_function(source: str, tmp_path: Path, graders: list[Grading]) -> None:
    scores = Judge(tmp_path, source, graders)("", "a", "ab", "abc")
    assert [score.reward for score in scores] == [0.0, 0.5, 1.0, 1.5]
    assert [score.correct for score in scores] == [False, False, True, True]
    assert all(type(score.reward) is float and type(score.correct) is bool for score in scores)


def test_the_function_sees_the_problem_and_the_graded_text(tmp_path: Path, graders: list[Grading]) -> None:
    source = "def reward(problem, response):\n    return float(response.endswith(problem.answer))"
    assert [score.correct for score in Judge(tmp_path, source, graders)("it is 7", "it is 8")] == [True, False]


def test_a_reward_may_be_negative_and_a_score_says_what_is_correct(tmp_path: Path, graders: list[Grading]) -> None:
    source = (
        "from rewards.score import Score\n"
        "def reward(problem, response):\n"
        "    return Score(-float(len(response)), response == 'yes', {'style': 0.5}, 'because', response)\n"
    )
    (score,) = Judge(tmp_path, source, graders)("yes")
    assert score == Score(-3.0, True, {"style": 0.5}, "because", "yes")


def test_what_a_score_takes_from_the_response_is_bounded(tmp_path: Path, graders: list[Grading]) -> None:
    source = (
        "from rewards.score import Score\n"
        "def reward(problem, response):\n"
        "    return Score(0.0, False, {}, 'not ' + response, response)\n"
    )
    (score,) = Judge(tmp_path, source, graders)("\x1b[2J\n" * 10_000)
    assert score.reason.startswith("not ‹U+001B›[2J ‹U+001B›[2J")
    assert (len(score.reason), len(score.extracted)) == (300, 10_000)


@pytest.mark.parametrize(
    ("body", "line", "reason"),
    [
        ("    x = 1\n    return x / 0\n", 3, "ZeroDivisionError: division by zero"),
        ("    import json\n    return json.loads(response)\n", 3, "JSONDecodeError: "),
        ("    import ast\n    return ast.parse(response)\n", 3, "SyntaxError: "),
        ("    raise SystemExit(1)\n", 2, "SystemExit: 1"),
        ("    raise StopIteration\n", 2, "StopIteration"),
        ("    raise KeyboardInterrupt\n", 2, "KeyboardInterrupt"),
        ("    raise TimeoutError('server')\n", 2, "TimeoutError: server"),
        ("    import asyncio\n    raise asyncio.CancelledError\n", 3, "CancelledError"),
        ("    raise ValueError('\\x1b[2J' + response * 999)\n", 2, "ValueError: ‹U+001B›[2J"),
        ("    return float('nan')\n", 1, "returned nan, which is not finite"),
        ("    return -1e999\n", 1, "returned -inf, which is not finite"),
        ("    return None\n", 1, "returned None, neither a number nor a Score"),
        ("    return '1.0'\n", 1, "returned '1.0', neither a number nor a Score"),
        ("    return [1.0, 2.0]\n", 1, "returned list, neither a number nor a Score"),
        ("    from rewards.score import Score\n    return Score(float('nan'))\n", 3, "ValueError: Score.reward is nan"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "async "])
def test_what_goes_wrong_is_ungradable_with_file_and_line(
    prefix: str, body: str, line: int, reason: str, tmp_path: Path, graders: list[Grading]
) -> None:
    judge = Judge(tmp_path, f"{prefix}def reward(problem, response):\n{body}", graders)
    (score,) = judge("(")
    assert not score.gradable
    assert score.reason.startswith(f"{judge.file}:{line}: ")
    assert reason in score.reason
    assert len(score.reason) < 400 + len(str(judge.file))
    assert judge.counts == {"calls": 1, "failed": 1, "timed_out": 0}


def test_one_bad_response_does_not_cost_the_others(tmp_path: Path, graders: list[Grading]) -> None:
    judge = Judge(tmp_path, "def reward(problem, response):\n    return int(response)", graders)
    assert [score.reward for score in judge("1", "x", "2")] == [1.0, None, 2.0]
    many = Judge(
        tmp_path,
        "def reward(problems, responses):\n    return [float(r) if r else float('nan') for r in responses]",
        graders,
    )
    assert [score.reward for score in many("1", "", "2")] == [1.0, None, 2.0]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("return [1.0]", "returned 1 rewards for 2 responses"),
        ("return None", "returned NoneType, not a sequence"),
        ("return 1.0", "returned float, not a sequence"),
        ("raise ValueError('x')", ":2: ValueError: x"),
    ],
)
def test_a_batch_that_fails_is_ungradable_as_a_whole(
    body: str, reason: str, tmp_path: Path, graders: list[Grading]
) -> None:
    judge = Judge(tmp_path, f"def reward(problems, responses):\n    {body}", graders)
    assert [(s.gradable, reason in s.reason) for s in judge("a", "b")] == [(False, True)] * 2
    assert judge.counts["failed"] == 2


HANGS = """
import threading
never = threading.Event()
def reward(problem, response):
    if response == "hang":
        never.wait()
    return 1.0
"""
HANGS_ASYNC = """
import asyncio
async def reward(problem, response):
    if response == "hang":
        await asyncio.Event().wait()
    return 1.0
"""
BLOCKS = HANGS.replace("def reward", "async def reward")


@pytest.mark.parametrize("source", [HANGS, HANGS_ASYNC, BLOCKS], ids=["sync", "async", "blocking"])
def test_a_call_that_hangs_is_ungradable_and_the_next_one_is_served(
    source: str, tmp_path: Path, graders: list[Grading], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rollout.user_calls.ALIVE_S", 0.2)
    judge = Judge(tmp_path, source, graders, Limits(timeout_s=0.2))
    (score,) = judge("hang")
    assert not score.gradable
    line = next(number for number, text in enumerate(source.splitlines(), 1) if "def reward" in text)
    assert score.reason == f"{judge.file}:{line}: the reward took longer than 0.2 s (reward.timeout_s)"
    assert judge.counts["timed_out"] == 1
    patient = Judge(tmp_path, source, graders)
    patient.grading.grader._runner = judge.grading.grader._runner  # what the hung call has left, and no clock
    assert [score.reward for score in patient("a", "b")] == [1.0, 1.0]


def test_calls_that_wait_behind_one_that_blocks_are_left_once_and_together(
    tmp_path: Path, graders: list[Grading], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them are late; the event loop is given up once, and those that come later have another."""
    monkeypatch.setattr("rollout.user_calls.ALIVE_S", 0.2)
    judge = Judge(tmp_path, BLOCKS, graders, Limits(timeout_s=0.2))
    assert ["took longer" in score.reason for score in judge(*["hang"] * 3, "a", "b")] == [True] * 5
    assert judge.counts == {"calls": 5, "failed": 0, "timed_out": 5}
    runner = judge.grading.grader._runner
    assert len(runner._hung) == 1
    patient = Judge(tmp_path, BLOCKS, graders)
    patient.grading.grader._runner = runner
    assert [score.reward for score in patient("a", "b")] == [1.0, 1.0]


def test_a_call_that_waits_on_an_event_loop_given_up_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has time left when the loop that another one blocked comes free, and is cancelled there."""
    monkeypatch.setattr("rollout.user_calls.ALIVE_S", 0.05)
    wake = threading.Event()

    async def block() -> None:
        wake.wait()

    async def wait() -> None:
        await asyncio.sleep(60)

    async def both() -> None:
        calls = AsyncCalls("the reward")
        calls.start(block, ())
        waiting = calls.start(wait, ())
        await calls.leave()
        wake.set()
        with pytest.raises(TookTooLong):
            await within(waiting, 60)
        calls.close()

    asyncio.run(both())


def test_calls_that_hang_are_not_begun_without_end(tmp_path: Path, graders: list[Grading]) -> None:
    judge = Judge(tmp_path, HANGS, graders, Limits(timeout_s=0.05))
    scores = judge(*["hang"] * 12)
    assert not any(score.gradable for score in scores)
    assert sum("8 calls of the reward hang already" in score.reason for score in scores) == 4
    assert judge.counts["timed_out"] == 12


def test_a_function_that_is_not_async_is_never_called_twice_at_one_time(tmp_path: Path, graders: list[Grading]) -> None:
    source = (
        "import threading\n"
        "busy = threading.Lock()\n"
        "threads = set()\n"
        "def reward(problem, response):\n"
        "    assert busy.acquire(blocking=False)\n"
        "    threads.add(threading.get_ident())\n"
        "    busy.release()\n"
        "    return len(threads)\n"
    )
    judge = Judge(tmp_path, source, graders)
    futures = [judge.grading.submit(lambda: [Answered(problem(), "x")] * 20) for _ in range(5)]
    assert {score.reward for future in futures for score in future.result()} == {1.0}


def test_async_calls_run_together_up_to_the_limit(tmp_path: Path, graders: list[Grading]) -> None:
    source = (
        "import asyncio\n"
        "running = most = 0\n"
        "together = asyncio.Event()\n"
        "async def reward(problem, response):\n"
        "    global running, most\n"
        "    running += 1\n"
        "    most = max(most, running)\n"
        "    if running == 3:\n"
        "        together.set()\n"
        "    await together.wait()\n"
        "    for _ in range(50):\n"
        "        await asyncio.sleep(0)\n"
        "    running -= 1\n"
        "    return float(most)\n"
    )
    judge = Judge(tmp_path, source, graders, Limits(timeout_s=600.0, concurrency=3))
    assert max(score.reward or 0 for score in judge(*"abcdefgh")) == 3.0


def test_what_waits_goes_into_one_batch(tmp_path: Path, graders: list[Grading]) -> None:
    """While the first call runs others come to wait; they share the next call, whole groups, up to the limit."""
    source = (
        "import threading\n"
        "begun, go_on = threading.Event(), threading.Event()\n"
        "def reward(problems, responses):\n"
        "    begun.set()\n"
        "    go_on.wait()\n"
        "    return [len(responses)] * len(responses)\n"
    )
    judge = Judge(tmp_path, source, graders)
    module: Any = judge.grading.grader.function.call.__globals__
    first = judge.grading.submit(lambda: [Answered(problem(), "x")])
    assert module["begun"].wait(600)
    rest = [judge.grading.submit(lambda: [Answered(problem(), "x")] * 30) for _ in range(4)]
    grader: Any = judge.grading.grader
    reached = threading.Event()

    async def until_all_wait() -> None:
        import asyncio

        while len(grader._queue) < 4:
            await asyncio.sleep(0)
        reached.set()

    judge.grading._thread.start(until_all_wait())  # type: ignore[union-attr]
    assert reached.wait(600)
    module["go_on"].set()
    assert [score.reward for score in first.result()] == [1.0]
    sizes = sorted(score.reward or 0 for future in rest for score in future.result())
    assert sizes == [30.0] * 30 + [90.0] * 90
    assert 60 < BATCH < 90
    assert grader.counts()["calls"] == 3


def test_a_truncated_response_is_never_correct(tmp_path: Path, graders: list[Grading]) -> None:
    """Its reward is what the function says, since 0 may be more than any other response gets; or the key's."""
    source = "def reward(problem, response):\n    return 1.0 - len(response)"
    (score,) = Judge(tmp_path, source, graders)("", stop=StopReason.LENGTH)
    assert (score.reward, score.correct, score.reason) == (1.0, False, "truncated at the length cap")
    (score,) = Judge(tmp_path, source, graders)("four", stop=StopReason.REPETITION)
    assert (score.reward, score.correct) == (-3.0, False)
    fixed = Judge(tmp_path, source, graders, Limits(600.0, truncated=-9.0))
    assert [(s.reward, s.correct) for s in fixed("", stop=StopReason.LENGTH)] == [(-9.0, False)]
    assert [s.reward for s in fixed("", stop=StopReason.EOS)] == [1.0]
    assert not fixed("", stop=StopReason.ABORTED)[0].gradable
    assert fixed.counts["calls"] == 1


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("reward = 3", "is int, not a function (problem, response)"),
        ("def reward(response): ...", ":1: a reward takes (problem, response), or (problems, responses)"),
        ("x = 1\ndef reward(a, b, c): ...", ":2: a reward takes (problem, response)"),
        ("def reward(problems, response): ...", "parameters (problems, response): a reward that takes many at once"),
        ("def reward(problem, responses): ...", "parameters (problem, responses): a reward that takes many at once"),
        ("class reward:\n    def __init__(self):\n        raise ValueError('x')", ":3: ValueError: x (while"),
    ],
)
def test_what_is_no_reward_is_refused_when_it_is_loaded(source: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(source)
    with pytest.raises(UserCodeError) as caught:
        load_reward(f"{file}:reward", PATIENT)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_object_that_grades_is_used_as_it_is(tmp_path: Path, graders: list[Grading]) -> None:
    source = (
        "from rewards.score import Score\n"
        "class reward:\n"
        "    async def grade(self, answers):\n"
        "        return [Score(float(len(answers)))] * len(answers)\n"
        "    def counts(self):\n"
        "        return {}\n"
        "    def close(self):\n"
        "        pass\n"
    )
    assert [score.reward for score in Judge(tmp_path, source, graders)("a", "b")] == [2.0, 2.0]


def test_a_grader_that_fails_leaves_its_responses_ungradable(graders: list[Grading]) -> None:
    class Short:
        async def grade(self, answers: Any) -> list[Score]:
            return []

        def counts(self) -> dict[str, float]:
            return {}

        def close(self) -> None: ...

    grading = Grading(Short())
    graders.append(grading)
    (score,) = grading.submit(lambda: [Answered(problem(), "x")]).result()
    assert "0 scores for 1 responses" in score.reason


def test_an_event_loop_may_be_closed_twice() -> None:
    """The second time it may have ended while its thread has not."""
    ended, gone = threading.Event(), threading.Event()

    class Closing(asyncio.SelectorEventLoop):
        def close(self) -> None:
            super().close()
            ended.set()
            gone.wait(30)

    loop = LoopThread("twice")
    loop.loop.__class__ = Closing
    loop.close()
    assert ended.wait(30)
    loop.close()
    gone.set()


def test_functions_are_described() -> None:
    async def many(problems: Any, responses: Any, extra: int = 0) -> None: ...

    found = described(many, "here")
    assert (found.is_batched, found.is_async) == (True, True)
    found = described(lambda p, r: 0.0, "here")
    assert (found.is_batched, found.is_async) == (False, False)
    assert isinstance(FunctionGrader(found, PATIENT).counts(), dict)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("return ['right' for _ in answers]", "the reward returned 'right', neither a number nor a Score"),
        ("return [1.0]", "the reward returned 1 rewards for 2 responses"),
        ("return None", "the reward returned NoneType, not a sequence"),
        ("raise ValueError('x')", ":4: ValueError: x"),
        ("raise SystemExit(2)", ":4: RuntimeError: SystemExit: 2"),
        ("raise asyncio.CancelledError", ":4: RuntimeError: CancelledError"),
    ],
)
def test_a_grader_object_that_fails_costs_its_responses_and_never_the_run(
    body: str, reason: str, tmp_path: Path, graders: list[Grading], caplog: pytest.LogCaptureFixture
) -> None:
    source = (
        "import asyncio\nclass reward:\n    async def grade(self, answers):\n"
        f"        {body}\n"
        "    def counts(self): return {'seen': 'many'}\n"
        "    def close(self): raise RuntimeError('why')\n"
    )
    judge = Judge(tmp_path, source, graders)
    for score in judge("a", "b"):
        assert not score.gradable
        assert reason in score.reason
    assert judge.counts == {"failed": 2.0}
    judge.grading.close()
    assert "RuntimeError: why (while it was closed)" in caplog.text


def test_a_grader_object_may_return_numbers(tmp_path: Path, graders: list[Grading]) -> None:
    source = (
        "class reward:\n    async def grade(self, answers): return [len(a.text) / 2 for a in answers]\n"
        "    def counts(self): return {'seen': 2}\n    def close(self): pass\n"
    )
    judge = Judge(tmp_path, source, graders)
    assert [(score.reward, score.correct) for score in judge("a", "bb")] == [(0.5, False), (1.0, True)]
    assert judge.counts == {"failed": 0.0, "seen": 2.0}
