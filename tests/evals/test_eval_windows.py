"""``k15 eval --nbce``: evidence spread over windows, what stands beside it, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from browser_kit import body_of, drawn, needs_browser
from eval_kit import CHARACTERS, problem, write_model
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
from evals.results import read_results
from evals.votes import same_text
from evals.voting import Ballot, VoteResponder, elected
from evals.windows import Spread, WindowError, WindowRenderer, by_size, evenly
from recipes.commands.cli import main
from rewards.score import Score
from rollout.engine import Request, Sampling
from rollout.models.tokenizer import build_tokenizer
from rollout.pool.board import Completion
from rollout.problems.source import ProblemError
from rollout.types import Problem, Prompt, Segment, StopReason

NEWS = [
    {"id": f"n{i}", "problem": f"news {i}", "answer": label}
    for i, label in enumerate(["World", "Sports", "Business", "Sci/Tech", "World", "Sports"])
]
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
    with pytest.raises(ProblemError, match="'p2': its field evidence is no list of texts"):
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
    assert in_turn("aabab", range(5)) == [0, 2, 1, 4, 3]


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


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_rows(folder / "agnews_test.jsonl", NEWS)
    write_rows(folder / "agnews_dev.jsonl", SHOTS)
    write_rows(folder / "math500.jsonl", [{"problem": f"{i}+1?", "answer": str(i + 1)} for i in range(2)])
    write_rows(folder / "math_train.jsonl", [{"problem": f"{i}?", "solution": str(i)} for i in range(6)])
    return folder


def command(model: Path, data: Path, out: Path, *more: str) -> list[str]:
    given = ["eval", more[0], "--model", str(model), "--engine", "hf", "--out", str(out), *more[1:]]
    return given if "needle" in more else [*given, "--data", str(data)]


def test_all_ways_on_the_same_problems_and_seeds(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("agnews", "--shots", "16", "--nbce", "3", "--beside", "truncated,parallel,vote", "--n", "2")
    more = (*more, "--temperature", "1")
    assert main(command(model, data, tmp_path, *more)) == 0
    shown = capsys.readouterr().out
    assert "[window 3]" in shown
    assert "3 responses drawn for each answer" in shown
    assert "agnews against it: " in shown
    results = read_results(tmp_path).benchmarks
    assert [one.name for one in results] == ["agnews", "agnews truncated", "agnews parallel", "agnews vote"]
    assert len({one.fingerprint for one in results}) == 1
    nbce, *rest = results
    assert nbce.beside is None
    assert nbce.settings["merging"] == {"pooling": "entropy", "beta": 0.25, "eta": 0.1, "top_p": 0.95}
    assert sum(nbce.windows.tokens) == pytest.approx(1)
    for one in rest:
        assert one.beside.name == "agnews"
        assert one.score.mean + one.beside.difference == pytest.approx(nbce.score.mean)
        assert one.settings["windows"] == 3
        assert [row.id for row in one.problems] == [row.id for row in nbce.problems]
    rows = pq.read_table(tmp_path / "samples.parquet").to_pylist()
    assert len(rows) == 4 * 6 * 2
    assert {row["response"] for row in rows} <= set(get("agnews").labels)  # a random model says nothing else
    assert {row["stop"] for row in rows} == {"eos"}
    for row in rows:
        if row["benchmark"] in ("agnews", "agnews vote"):
            assert row["window"] in (1, 2, 3)
            assert sum(row["windows"]) == pytest.approx(1)
        else:
            assert row["window"] is None
    assert "spoke first" in (tmp_path / "report.html").read_text()

    capsys.readouterr()
    assert main(command(model, data, tmp_path, *more)) == 0  # everything is on record
    assert pq.read_table(tmp_path / "samples.parquet").to_pylist() == rows
    assert all(one.speed is None for one in read_results(tmp_path).benchmarks)
    vote = tmp_path / "agnews" / "vote" / "responses.jsonl"
    lines = vote.read_text().splitlines(keepends=True)
    vote.write_text("".join(lines[:5]) + lines[5][:20])  # killed in the middle of the last arm
    assert main(command(model, data, tmp_path, *more)) == 0
    assert pq.read_table(tmp_path / "samples.parquet").to_pylist() == rows
    speeds = [one.speed for one in read_results(tmp_path).benchmarks]
    assert speeds[:3] == [None] * 3
    assert speeds[3].responses == 7
    for changed in (("--nbce", "4"), ("--nbce", "3", "--pooling", "mean"), ("--nbce", "3", "--shots-seed", "1")):
        given = [*command(model, data, tmp_path, *more[:3]), *changed, *more[5:]]
        assert main(given) == 1
        assert "holds answers under other settings" in capsys.readouterr().err


def test_labels_hold_without_windows_and_one_that_begins_another_can_be_said(
    model: Path, data: Path, tmp_path: Path
) -> None:
    (tmp_path / "own.py").write_text(
        "from evals.benchmark import Benchmark\nfrom evals.labels import verify_label\n"
        "BENCHMARK = Benchmark('own', 'Own', 'Ours alone.', file='own.jsonl', verifier='exact', verify=verify_label,\n"
        "    labels=('no', 'none'), samples=40, temperature=1.0)\n"
    )
    write_rows(tmp_path / "own.jsonl", [{"problem": "any?", "answer": "none"}])
    assert main(command(model, tmp_path, tmp_path / "out", str(tmp_path / "own.py"))) == 0
    said = pq.read_table(tmp_path / "out" / "samples.parquet").to_pylist()
    assert {(row["response"], row["stop"]) for row in said} == {("no", "eos"), ("none", "eos")}
    (result,) = read_results(tmp_path / "out").benchmarks
    assert result.settings["labels"] == ["no", "none"]
    assert result.settings["max_tokens"] == 5


def test_a_haystack_longer_than_the_context(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    model = write_model(tmp_path_factory.mktemp("models") / "wide", context=2048)
    more = ("needle", "--nbce", "4", "--lengths", "4000", "--depths", "0,100", "--trials", "1", "--max-tokens", "4")
    assert main(command(model, tmp_path, tmp_path, *more)) == 0
    (result,) = read_results(tmp_path).benchmarks
    assert {(cell.length, cell.depth) for cell in result.cells} == {(4000, 0), (4000, 100)}
    rows = pq.read_table(tmp_path / "samples.parquet").to_pylist()
    assert [row["holder"] for row in rows] == [1, 4]
    assert result.windows.found is not None


def test_a_benchmark_of_ones_own_says_what_is_evidence(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (
        "from evals.benchmark import Benchmark, Divided\n"
        "def divide(problem):\n    *facts, question = problem.prompt.split('. ')\n"
        "    return Divided(tuple(facts), question)\n"
        "BENCHMARK = Benchmark('own', 'Own', 'Ours alone.', file='own.jsonl', verifier='exact', evidence=divide,\n"
        "    max_tokens=4)\n"
    )
    (tmp_path / "own.py").write_text(text)
    write_rows(tmp_path / "own.jsonl", [{"problem": "Ann is 7. Bob is 9. How old is Bob?", "answer": "9"}])
    given = command(model, tmp_path, tmp_path / "out", str(tmp_path / "own.py"), "--nbce", "2")
    assert main(given) == 0
    assert "[window 2]\n<user>Bob is 9\n\nHow old is Bob?<assistant>" in capsys.readouterr().out
    write_rows(tmp_path / "own.jsonl", [{"problem": "How old is Bob?", "answer": "9"}])
    assert main(given) == 2
    assert "own.py" in (error := capsys.readouterr().err)
    assert "at least one piece of evidence" in error


@pytest.mark.parametrize(
    ("arguments", "words_"),
    [
        (["agnews", "--nbce", "3"], "--nbce spreads solved examples over windows; add --shots N, at least 3"),
        (
            ["agnews", "--shots", "2", "--nbce", "3"],
            "2 solved examples leave some of 3 windows empty; --nbce 2 or fewer",
        ),
        (["aime2024", "--nbce", "3", "--data", "{aime}"], "has neither solved examples nor evidence of its own"),
        (["agnews", "--pooling", "mean"], "--pooling belongs to --nbce N"),
        (["agnews", "--beside", "vote"], "--beside belongs to --nbce N"),
        (["agnews", "--shots", "4", "--nbce", "2", "--beside", "all"], "'all' is none of truncated, parallel, vote"),
        (["agnews", "--shots", "4", "--nbce", "2", "--pooling", "exact", "--beta", "1"], "beta of exact is the number"),
        (["agnews", "--shots", "4", "--nbce", "2", "--pooling", "mean", "--eta", "1"], "--eta is of --pooling entropy"),
        (["agnews", "--shots", "4", "--nbce", "5000"], "at most 4096 windows"),
        (["agnews", "--shots", "4", "--nbce", "0"], "not a whole number of at least 1"),
        (["agnews", "--shots", "4", "--nbce", "2", "--max-tokens", "3"], "its longest label has 9 tokens"),
        (["agnews", "--model", "http://localhost:1/v1", "--shots", "4", "--nbce", "2"], "does not give; name a model"),
        (["heldout", "--nbce", "2"], "heldout is asked as its run asked it"),
        (
            ["agnews", "--shots", "16", "--nbce", "1"],
            "no room for an answer after the longest prompt, window 1 with",
        ),
        (
            ["math500", "--shots", "6", "--nbce", "2", "--max-tokens", "500"],
            "has no room for --max-tokens 500 after the",
        ),
        (
            ["agnews", "--shots", "8", "--nbce", "2", "--engine", "vllm", "--beside", "parallel"],
            "only the transformers engine reads windows in parallel; add --engine hf",
        ),
    ],
)
def test_what_cannot_work_is_one_line_before_anything_is_drawn(
    model: Path, data: Path, tmp_path: Path, arguments: list[str], words_: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(tmp_path / "aime2024.jsonl", [{"problem": "a", "answer": "1"}])
    given = ["eval", *(argument.format(aime=tmp_path) for argument in arguments), "--out", str(tmp_path / "out")]
    given += [] if "--model" in given else ["--model", str(model)]
    given += [] if "--data" in given else ["--data", str(data)]
    given += [] if "--engine" in given else ["--engine", "hf"]
    try:
        code = main(given)
    except SystemExit as stop:  # argparse's own
        code = int(stop.code or 0)
    error = capsys.readouterr().err
    assert code == 2, error
    assert words_ in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_the_number_of_windows_that_would_do_does(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = command(model, data, tmp_path, "agnews", "--shots", "16", "--limit", "1")
    assert main([*given, "--nbce", "1"]) == 2
    count = int(capsys.readouterr().err.rpartition("--nbce ")[2])
    assert count > 1
    assert main([*given, "--nbce", str(count)]) == 0


def test_one_window_without_contrast_is_plain_decoding(model: Path, data: Path, tmp_path: Path) -> None:
    given = ("agnews", "--shots", "4", "--nbce", "1", "--beta", "0")
    assert main(command(model, data, tmp_path / "one", *given)) == 0
    assert main(command(model, data, tmp_path / "plain", *given[:3])) == 0
    one, plain = (pq.read_table(tmp_path / name / "samples.parquet").to_pylist() for name in ("one", "plain"))
    assert [row["token_ids"] for row in one] == [row["token_ids"] for row in plain]
    assert {row["window"] for row in one} == {None}


def test_the_text_of_all_prompts_can_be_read(model: Path) -> None:
    render = renderer(Benchmark("b", "B", ""), 2, [("1?", "1"), ("2?", "2")])
    shown = render.text(problem(3))
    assert shown.startswith("[question alone]\n<user>What is 3?")
    assert "[window 2]\n<user>2?" in shown
    assert isinstance(Renderer(render.tokenizer, render.spread.conversation)(problem(3)), Prompt)
    assert np.array_equal(render(problem(3)).question.token_ids, render(problem(3)).question.token_ids)


def test_windows_that_the_engine_cannot_keep_are_said(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = command(model, data, tmp_path, "agnews", "--shots", "8", "--nbce", "4", "--limit", "1")
    assert main([*given, "--kv-cache-gib", "0.0001"]) == 0
    assert "so it reads windows again for every question; --kv-cache-gib 1 holds them" in capsys.readouterr().err
    assert main([*given, "--kv-cache-gib", "1"]) == 0
    assert "reads windows again" not in capsys.readouterr().err


@needs_browser
def test_the_report_says_which_windows_spoke(model: Path, data: Path, tmp_path: Path) -> None:
    more = ("agnews", "--shots", "8", "--nbce", "2", "--beside", "truncated")
    assert main(command(model, data, tmp_path / "out", *more)) == 0
    body = body_of(drawn(tmp_path / "out" / "report.html", tmp_path / "profile"))
    for shown in (
        "windows by the share of tokens that they spoke for: ",
        "AG News, the first of 2 windows",
        "agnews +",
        "p 1",
    ):
        assert shown in body.replace("agnews −", "agnews +"), shown
