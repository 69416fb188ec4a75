"""Nothing is drawn or graded twice, whatever kills an evaluation; and what somebody else drew can be graded."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from eval_kit import Scripted, problem
from paths import ROOT, TESTS
from rich.console import Console

from evals.evaluate import Ask, Done, NothingGraded, Response, asks_of, evaluate, result_of
from evals.journal import Journal, JournalError, opened
from evals.predictions import PredictionError, read_predictions
from evals.view import EvalView
from rewards.score import Score
from rollout.grading import Answered, Grading, Through
from rollout.types import Problem, StopReason
from tests.processes import until

PROBLEMS = [problem(i, answer=str(i)) for i in range(3)]


def verify(item: Problem, text: str) -> Score:
    return Score.right(text) if text == item.answer else Score.wrong("differs", text)


def test_an_evaluation_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    class Stops(Scripted):
        def respond(self, asks: Any, done: Done) -> None:
            super().respond(asks[:4], done)
            raise KeyboardInterrupt

    asks = asks_of(PROBLEMS, 2, 0)
    first, second = Stops(lambda ask: ask.problem.answer), Scripted(lambda ask: "no")
    graded: list[str] = []

    def counting(item: Problem, text: str) -> Score:
        graded.append(item.id)
        return verify(item, text)

    with pytest.raises(KeyboardInterrupt), opened(tmp_path, {"a": 1}) as journal:
        evaluate(first, asks, Grading.by(counting), journal)
    with opened(tmp_path, {"a": 1}) as journal:
        answers = evaluate(second, asks, Grading.by(counting), journal)
    assert second.asked == [ask.key for ask in asks[4:]]
    assert [a.score.verdict for a in answers] == ["correct"] * 4 + ["wrong"] * 2
    kept = len(graded)
    with opened(tmp_path, {"a": 1}) as journal:
        again = evaluate(Scripted(lambda ask: "never"), asks, Grading.by(counting), journal)
    assert again == answers
    assert len(graded) == kept


def test_an_interrupt_waits_for_no_verdict(tmp_path: Path) -> None:
    class Silent:
        """A judge that is asked, and takes its time."""

        def __init__(self) -> None:
            self.asked = threading.Event()
            self.cancelled = False

        async def grade(self, _: Sequence[Answered]) -> Sequence[Score]:
            self.asked.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled = True
                raise
            return []

        def counts(self) -> dict[str, float]:
            return {}

        def close(self) -> None:
            pass

    class Interrupted(Scripted):
        def respond(self, asks: Any, done: Done) -> None:
            super().respond(asks, done)
            judge.asked.wait()
            raise KeyboardInterrupt

    judge, asks = Silent(), asks_of(PROBLEMS, 60, 0)  # more than are graded at once
    with opened(tmp_path, {}) as journal, Grading(judge) as grading:
        with pytest.raises(KeyboardInterrupt):
            evaluate(Interrupted(lambda ask: ask.problem.answer), asks, Grading(Through(grading)), journal)
        until(lambda: judge.cancelled, "the verdict is given up")
    with opened(tmp_path, {}) as journal:
        assert (len(journal.responses), len(journal.scores)) == (180, 0)
        assert len(evaluate(Scripted(lambda ask: "never"), asks, Grading.by(verify), journal)) == 180


def test_more_samples_extend_a_record_and_other_settings_are_refused(tmp_path: Path) -> None:
    with opened(tmp_path, {"temperature": 0.6}) as journal:
        evaluate(Scripted(lambda ask: "x"), asks_of(PROBLEMS, 1, 0), Grading.by(verify), journal)
    more = Scripted(lambda ask: "y")
    with opened(tmp_path, {"temperature": 0.6}) as journal:
        assert len(evaluate(more, asks_of(PROBLEMS, 3, 0), Grading.by(verify), journal)) == 9
    assert len(more.asked) == 6
    with pytest.raises(JournalError, match=r"temperature: 0\.6 -> 1\.0.*choose another --out"):
        Journal(tmp_path, {"temperature": 1.0})


def test_a_torn_line_is_cut_and_a_broken_one_named(tmp_path: Path) -> None:
    with opened(tmp_path, {}) as journal:
        journal.keep_response(("a", 0), Response("x\ud800\n", StopReason.EOS, 2, (1, 2)))
    path = tmp_path / "responses.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"id": "b", "sam')
    with opened(tmp_path, {}) as journal:
        assert dict(journal.responses) == {("a", 0): Response("x\ud800\n", StopReason.EOS, 2, (1, 2))}
    assert path.read_bytes() == whole
    path.write_bytes(b"rubbish\n" + whole)
    with pytest.raises(JournalError, match=r"responses\.jsonl:1"):
        Journal(tmp_path, {})


def test_two_processes_do_not_share_a_record(tmp_path: Path) -> None:
    with opened(tmp_path, {}), pytest.raises(JournalError, match="another process is working on"):
        Journal(tmp_path, {})


def test_what_was_aborted_or_ungradable_is_tried_again(tmp_path: Path) -> None:
    with opened(tmp_path, {}) as journal:
        journal.keep_response(("p0", 0), Response("", StopReason.ABORTED, 0, error="engine died"))
        journal.keep_response(("p1", 0), Response("1", StopReason.EOS, 1))
        journal.keep_score(("p1", 0), Score.ungradable("grader died"))
    responder = Scripted(lambda ask: ask.problem.answer)
    with opened(tmp_path, {}) as journal:
        answers = evaluate(responder, asks_of(PROBLEMS[:2], 1, 0), Grading.by(verify), journal)
    assert responder.asked == [("p0", 0)]
    assert [answer.score.verdict for answer in answers] == ["correct", "correct"]


def test_where_nothing_could_be_graded_the_reason_is_told() -> None:
    def broken(item: Problem, text: str) -> Score:
        raise RuntimeError("no such model")

    answers = evaluate(Scripted(lambda ask: "x"), asks_of(PROBLEMS, 2, 0), Grading.by(broken))
    with pytest.raises(NothingGraded, match=r"none of 6 responses .* 6 of them: RuntimeError: no such model; mend"):
        result_of(answers, 2)


def test_a_grader_that_raises_is_ungradable_not_wrong() -> None:
    def broken(item: Problem, text: str) -> Score:
        raise RuntimeError("boom")

    (answer,) = evaluate(Scripted(lambda ask: "x"), asks_of(PROBLEMS[:1], 1, 0), Grading.by(broken))
    assert answer.score.verdict == "ungradable"
    assert "boom" in answer.score.reason


def test_two_responses_to_one_ask_are_a_defect() -> None:
    class Twice:
        def respond(self, asks: Any, done: Done) -> None:
            done(asks[0], Response("a", StopReason.EOS, 1))
            done(asks[0], Response("b", StopReason.EOS, 1))

    with pytest.raises(ValueError, match="two responses"):
        evaluate(Twice(), asks_of(PROBLEMS[:1], 1, 0), Grading.by(verify))


VICTIM = """
import sys, time
from pathlib import Path
from eval_kit import problem
from evals.evaluate import Response, asks_of, evaluate
from evals.journal import opened
from rewards.score import Score
from rollout.grading import Answered, Grading, Through
from rollout.types import StopReason

class Slow:
    told = 0

    def respond(self, asks, done):
        for ask in asks:
            done(ask, Response(f"{ask.problem.id} {ask.sample} {sys.argv[2]}", StopReason.EOS, 1))
            self.told += 1
            time.sleep(6000 if sys.argv[2] == "first" and self.told == 40 else 0.01)

with opened(Path(sys.argv[1]), {}) as journal:
    evaluate(Slow(), asks_of([problem(i) for i in range(50)], 4, 0), Grading.by(lambda p, t: Score.right(t)), journal)
"""


def test_kill_9_repeats_no_answer(tmp_path: Path) -> None:
    """Every response that was on disk at the kill is the one in the end; each is there once."""
    path = tmp_path / "responses.jsonl"
    env = {**os.environ, "PYTHONPATH": str(TESTS)}
    run = [sys.executable, "-c", VICTIM, str(tmp_path)]
    victim = subprocess.Popen([*run, "first"], env=env, cwd=ROOT)
    until(lambda: path.exists() and path.read_bytes().count(b"\n") >= 20, "20 responses on record", every_s=0.01)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    before = [json.loads(line) for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    assert 20 <= len(before) < 200
    subprocess.run([*run, "second"], env=env, cwd=ROOT, check=True)
    after = [json.loads(line) for line in path.read_text().splitlines()]
    assert after[: len(before)] == before
    assert len({(row["id"], row["sample"]) for row in after}) == len(after) == 200
    assert {row["response"].split()[-1] for row in after[len(before) :]} == {"second"}


# ---- given predictions ----


def predictions(tmp_path: Path, *lines: Any) -> Path:
    path = tmp_path / "answers.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def test_predictions_are_numbered_by_problem(tmp_path: Path) -> None:
    path = predictions(
        tmp_path,
        {"id": "p1", "response": "1"},
        {"id": "p0", "response": "x", "stop": "length"},
        {"id": "p1", "response": "2", "tokens": 5},
    )
    found = read_predictions(path, PROBLEMS)
    asks = found.asks(PROBLEMS)
    assert [ask.key for ask in asks] == [("p0", 0), ("p1", 0), ("p1", 1)]
    answers = evaluate(found, asks, Grading.by(verify))
    assert [answer.score.verdict for answer in answers] == ["wrong", "correct", "wrong"]
    assert answers[0].score.reason == "truncated at the length cap"
    assert answers[2].response.tokens == 5


def test_a_record_is_a_file_of_predictions(tmp_path: Path) -> None:
    asks = asks_of(PROBLEMS, 2, 0)
    with opened(tmp_path, {}) as journal:
        answers = evaluate(Scripted(lambda ask: str(ask.sample)), asks, Grading.by(verify), journal)
    found = read_predictions(tmp_path / "responses.jsonl", PROBLEMS)
    again = evaluate(found, found.asks(PROBLEMS), Grading.by(verify))
    assert [a.score for a in again] == [a.score for a in answers]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", ":2: not valid JSON"),
        ("[1]", ":2: expected an object"),
        ({"response": "x"}, ":2: no 'id'"),
        ({"id": "p0", "text": "x"}, r":2: no text 'response' \(the line has: id, text\)"),
        ({"id": "p0", "response": None}, ":2: no text 'response'"),
        ({"id": "P1", "response": "x"}, ":2: no problem has the id 'P1'; did you mean 'p1'"),
        ({"id": "p0", "response": "x", "stop": "bored"}, ":2: 'stop' is 'bored'"),
        ({"id": "p0", "response": "x", "sample": 0}, ":2: sample 0 of problem 'p0' comes twice"),
        ({"id": "p0", "response": "x", "sample": -1}, ":2: 'sample' is -1"),
        ({"id": "p0", "response": "x", "tokens": "many"}, ":2: 'tokens' is 'many'"),
    ],
)
def test_bad_predictions_are_named_by_line(tmp_path: Path, line: Any, words: str) -> None:
    path = predictions(tmp_path, {"id": "p0", "response": "x"}, line)
    with pytest.raises(PredictionError, match=words):
        read_predictions(path, PROBLEMS)


def test_no_predictions_at_all(tmp_path: Path) -> None:
    with pytest.raises(PredictionError, match="no predictions in this file"):
        read_predictions(predictions(tmp_path), PROBLEMS)
    with pytest.raises(PredictionError, match="cannot be read"):
        read_predictions(tmp_path / "none.jsonl", PROBLEMS)


def test_asks_have_seeds_of_their_own() -> None:
    asks = asks_of(PROBLEMS, 2, 0)
    assert len({ask.seed for ask in asks}) == 6
    assert asks == asks_of(PROBLEMS, 2, 0)
    assert isinstance(asks[0], Ask)


def test_progress_counts_graded_answers_and_says_what_was_on_record() -> None:
    said = io.StringIO()
    with EvalView("Toy", 4, 1, Console(file=said, width=200)) as view:
        evaluate(Scripted(lambda ask: "1"), asks_of(PROBLEMS, 1, 0), Grading.by(verify), watch=view.watch)
    assert said.getvalue().splitlines()[0] == "Toy: 4 responses, 1 of them on record"
    assert said.getvalue().splitlines()[-1].startswith("Toy: 3/4, score 33.3 %")
