"""Evidence spread over windows, labels, and the vote of windows: the parts of ``k15 eval --nbce``."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from eval_kit import CHARACTERS, problem
from hypothesis import given
from hypothesis import strategies as st

from evals.benchmark import Benchmark, Needs
from evals.benchmark import given as own_evidence
from evals.benchmarks import get
from evals.data import load_shots
from evals.evaluate import Ask, Response, Spoke
from evals.journal import Journal
from evals.labels import LabelError, in_turn, one_of, verify_label
from evals.pooled import PoolResponder, Reading
from evals.prompting import Conversation, Renderer
from evals.votes import same_text
from evals.voting import Ballot, VoteResponder, elected
from evals.windows import Spread, WindowError, WindowRenderer, by_size, evenly
from rewards.score import Score
from rollout.engine import Request, Sampling
from rollout.models.tokenizer import build_tokenizer
from rollout.pool.board import Completion
from rollout.problems.source import ProblemError
from rollout.types import Problem, Prompt, Segment, StopReason

SHOTS = [
    {"problem": f"shot {i} of {label}", "answer": label}
    for i in range(4)
    for label in ("World", "Sports", "Business", "Sci/Tech")
]


def words(texts: Sequence[str]) -> list[int]:
    return [len(text) for text in texts]


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@given(st.integers(1, 40), st.integers(0, 300))
def test_examples_are_spread_whole_in_order_and_evenly(windows: int, more: int) -> None:
    parts = evenly(windows + more, windows)
    assert [index for part in parts for index in part] == list(range(windows + more))
    assert len(parts) == windows
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@given(st.lists(st.integers(0, 50), min_size=1, max_size=80), st.data())
def test_pieces_are_spread_in_order_about_equally_and_no_window_is_empty(sizes: list[int], data: st.DataObject) -> None:
    windows = data.draw(st.integers(1, len(sizes)))
    parts = by_size(sizes, windows)
    assert [index for part in parts for index in part] == list(range(len(sizes)))
    assert len(parts) == windows
    assert all(parts)
    if min(sizes) > 0 and sum(sizes) / windows > max(sizes):
        for part in parts:
            assert abs(sum(sizes[part.start : part.stop]) - sum(sizes) / windows) <= max(sizes)


def renderer(benchmark: Benchmark, windows: int, shots: Sequence[tuple[str, str]] = ()) -> WindowRenderer:
    tokenizer = build_tokenizer(CHARACTERS, 4096)
    return WindowRenderer(tokenizer, Spread(Conversation(benchmark, tuple(shots)), windows, words))


def texts(render: WindowRenderer, item: Problem) -> list[str]:
    found = render(item)
    prompts = (found.question, *found.windows)
    return [str(render.tokenizer.decode(prompt.token_ids.tolist())) for prompt in prompts]


def test_each_window_is_a_conversation_with_its_examples_and_row_0_has_none() -> None:
    shots = [(f"{i}?", str(i)) for i in range(5)]
    render = renderer(Benchmark("b", "B", "", system="Sum."), 2, shots)
    alone, first, second = texts(render, problem(7))
    asked = "<user>What is 7?<assistant>"
    turns = ["".join(f"<user>{u}<assistant>{a}<eos>" for u, a in part) for part in (shots[:3], shots[3:])]
    assert (alone, first, second) == tuple(f"<user>Sum.{turn}{asked}" for turn in ("", *turns))
    assert texts(renderer(Benchmark("b", "B", ""), 5, shots), problem(7))[5] == f"<user>4?<assistant>4<eos>{asked}"


def test_a_text_is_cut_at_lines_and_the_window_with_the_needle_is_known() -> None:
    benchmark = get("needle")
    assert benchmark.make is not None
    for item in benchmark.make(Needs(lambda text: len(text) // 4, (400, 900), (0, 30, 60, 100), 2, seed=1)):
        whole = Conversation(benchmark).messages(item)[-1]["content"]
        assert whole == item.prompt
        render = renderer(benchmark, 4)
        question, *windows = (chat[-1]["content"] for chat in _chats(render, item))
        assert question == item.prompt.rpartition("\n\n")[2]
        bodies = [window.removesuffix("\n\n" + question) for window in windows]
        assert "\n".join(bodies) + "\n\n" + question == item.prompt
        assert max(map(len, bodies)) - min(map(len, bodies)) < 200
        ship = question.split(" of the ")[1].split("?")[0]
        holds = [k for k, body in enumerate(bodies, 1) if f"the {ship} is {item.answer}." in body]
        assert holds == [render(item).holder]


def _chats(render: WindowRenderer, item: Problem) -> list[list[dict[str, str]]]:
    found = render.spread.chats(item)
    return [found.question, *found.windows]


def test_a_row_may_bring_its_evidence_itself() -> None:
    benchmark = Benchmark("b", "B", "", evidence=own_evidence)
    item = replace(problem(1), extra={"evidence": ["one", "two", "three"]})
    assert Conversation(benchmark).messages(item)[-1]["content"] == "one\ntwo\nthree\n\nWhat is 1?"
    found = [chat[-1]["content"] for chat in _chats(renderer(benchmark, 3), item)]
    assert found == ["What is 1?", *(f"{text}\n\nWhat is 1?" for text in ("one", "two", "three"))]
    with pytest.raises(
        WindowError, match=r"3 pieces of evidence of problem 'p1' leave some of 4 windows empty; --nbce 3"
    ):
        renderer(benchmark, 4)(item)
    with pytest.raises(ProblemError, match="'p2': it has no field evidence"):
        Conversation(benchmark).messages(problem(2))


def test_balanced_examples_take_turns_and_are_never_the_problems(tmp_path: Path) -> None:
    write_rows(tmp_path / "agnews_dev.jsonl", [*SHOTS, {"problem": "news 0", "answer": "World"}])
    benchmark = get("agnews")
    assert benchmark.shots is not None
    found = load_shots(benchmark.shots, 16, tmp_path, benchmark.ask, 0, frozenset({"news 0"}))
    for start in range(0, 16, 4):
        assert {answer for _, answer in found[start : start + 4]} == set(benchmark.labels)
    assert load_shots(benchmark.shots, 6, tmp_path, benchmark.ask, 0, frozenset({"news 0"})) == found[:6]
    assert load_shots(benchmark.shots, 16, tmp_path, benchmark.ask, 1, frozenset({"news 0"})) != found
    with pytest.raises(ProblemError, match="16 solved examples, fewer than --shots 17"):
        load_shots(benchmark.shots, 17, tmp_path, benchmark.ask, 0, frozenset({"news 0"}))
    turns = in_turn("aabab" * 40, Random(0))
    rounds = ["".join("aabab"[index % 5] for index in turns[start : start + 2]) for start in range(0, 160, 2)]
    assert set(rounds) == {"ab", "ba"}
    assert 25 < rounds.count("ab") < 55  # one that is ahead in a round has no better chance in the next
    assert sorted(turns) == list(range(200))
    assert {"aabab"[index % 5] for index in turns[160:]} == {"a"}  # those without a counterpart come last


def test_labels_become_their_tokens_and_the_end_token() -> None:
    tokenizer = build_tokenizer(CHARACTERS, 64)
    end = tokenizer.eos_token_id
    found = one_of(tokenizer, ("no", "none"), end)
    assert found.labels == tuple(
        (*tokenizer(text, add_special_tokens=False)["input_ids"], end) for text in ("no", "none")
    )
    for labels, words_ in (
        (("a",), "1 labels to choose between"),
        (("a", " "), "label ' ' is empty"),
        (("a", "a"), "labels 'a' and 'a' have the same tokens"),
        (("a", "\u00e9"), "cannot be written in tokens"),
    ):
        with pytest.raises(LabelError, match=words_):
            one_of(tokenizer, labels, end)


def test_verdicts_on_labels() -> None:
    item = problem(0, "Sci/Tech")
    assert verify_label(item, "sci/tech.").correct
    assert verify_label(item, "<think>World</think> Sci/Tech").extracted == "Sci/Tech"
    assert verify_label(item, "World") == Score.wrong("another label", "World")
    assert verify_label(item, "") == Score.wrong("no answer")


@pytest.mark.parametrize(
    ("ballots", "winner"),
    [
        ([("a", -3.0), ("b", -0.1), ("a", -2.0)], 2),  # of the majority's responses the surest
        ([("a", -3.0), ("b", -0.1)], 1),  # of as many votes the surest
        ([("a", -1.0), ("b", -1.0)], 0),  # of equals the first
        ([("", -0.1), ("b", -3.0)], 1),  # no answer, no vote
        ([("", -2.0), ("", -1.0)], 1),  # nobody has one
    ],
)
def test_the_vote(ballots: list[tuple[str, float]], winner: int) -> None:
    assert elected([Ballot(*one) for one in ballots], same_text) == winner


class ScriptedPool:
    """Says for each request what ``say`` returns of it, a character a token."""

    def __init__(self, say: Callable[[Request], tuple[str, float, StopReason | None, str]]) -> None:
        self.say = say
        self.keys: list[str] = []

    def generate(self, requests: Sequence[Request], *, on_rest: Any = None, turns: Any = None) -> list[Completion]:
        done = []
        for request in Random(0).sample(list(requests), len(requests)):  # in any order
            self.keys.append(request.key)
            text, sure, stop, error = self.say(request)
            tokens = [ord(character) for character in text]
            segments = (Segment(0, tokens, [sure] * len(tokens)),) if tokens else ()
            done.append(Completion(request.key, segments, stop, error=error))
            on_rest(done[-1])
        return done


def vote_of(say: Callable[[Request], tuple[str, float, StopReason | None, str]], asks: Sequence[Ask]) -> dict[Any, Any]:
    def read(prompt: Any, tokens: Any) -> str:
        return "".join(map(chr, tokens))

    pool = ScriptedPool(say)
    drawing = PoolResponder(pool, lambda _: Prompt([1]), read, Sampling(), 8, 64)
    found: dict[Any, Response] = {}
    windows = [Reading(Prompt([1, 2])), Reading(Prompt([1, 3])), Reading(Prompt([1, 4]))]
    responder = VoteResponder(drawing, lambda _: windows, lambda _, text: Score.wrong("x", text), same_text)
    responder.respond(asks, lambda ask, response: found.__setitem__(ask.key, response))
    assert sorted(pool.keys) == sorted(f"{a.problem.id}#{a.sample}@{k}" for a in asks for k in (1, 2, 3))
    return found


def test_each_window_answers_alone_and_most_of_them_decide() -> None:
    said = {2: ("7", -2.0), 3: ("5", -0.1), 4: ("7", -1.0)}
    asks = [Ask(problem(i), j, seed=i) for i in range(2) for j in range(2)]
    found = vote_of(lambda r: (*said[int(r.prompt.token_ids[-1])], StopReason.EOS, ""), asks)
    assert set(found) == {ask.key for ask in asks}
    assert {response.text for response in found.values()} == {"7"}
    assert found["p0", 0].spoke == Spoke(3, (0.0, 0.0, 1.0))


def test_cut_answers_have_no_vote_and_a_lost_one_is_tried_again() -> None:
    said = {2: ("7", StopReason.LENGTH), 3: ("5", StopReason.EOS), 4: ("7", StopReason.LENGTH)}

    def cut(request: Request) -> tuple[str, float, StopReason | None, str]:
        text, stop = said[int(request.prompt.token_ids[-1])]
        return text, -1.0, stop, ""

    assert vote_of(cut, [Ask(problem(0), 0)])["p0", 0].text == "5"

    def lost(request: Request) -> tuple[str, float, StopReason | None, str]:
        return ("", 0.0, None, "gone") if request.prompt.token_ids[-1] == 3 else ("7", -1.0, StopReason.EOS, "")

    assert vote_of(lost, [Ask(problem(0), 0)])["p0", 0].stop is StopReason.ABORTED


def test_the_record_keeps_which_windows_spoke(tmp_path: Path) -> None:
    response = Response("7", StopReason.EOS, 1, (5,), spoke=Spoke(2, (0.25, 0.75), 1))
    journal = Journal(tmp_path, {"a": 1})
    journal.keep_response(("p0", 0), response)
    journal.close()
    again = Journal(tmp_path, {"a": 1})
    assert again.responses == {("p0", 0): response}
    again.close()


def test_the_text_of_all_prompts_can_be_read() -> None:
    render = renderer(Benchmark("b", "B", ""), 2, [("1?", "1"), ("2?", "2")])
    shown = render.text(problem(3))
    assert shown.startswith("[question alone]\n<user>What is 3?")
    assert "[window 2]\n<user>2?" in shown
    assert isinstance(Renderer(render.tokenizer, render.spread.conversation)(problem(3)), Prompt)
    assert np.array_equal(render(problem(3)).question.token_ids, render(problem(3)).question.token_ids)
