"""Answer fusion: windows are the tokens that were drawn, and what is drawn from them is what they merge to."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browser_kit import body_of, drawn, needs_browser
from eval_kit import CHARACTERS, answer, write_model
from fake_engine import FakeEngine
from transformers import AutoModelForCausalLM, AutoTokenizer

from evals.benchmark import Benchmark
from evals.evaluate import Answer, Response, evaluate
from evals.fused import from_json, measured, vote
from evals.fusion import LONGEST, Fusing, FusingResponder, reasoned, tokens_before
from evals.journal import opened
from evals.report.evaluation import write_report
from evals.results import Context, Results, measure
from evals.stats import Ballot, majority_at_k
from evals.votes import same_text
from recipes.commands.cli import main
from rewards.score import Score
from rl.alone import open_pool
from rl.config import RayConfig
from rollout.config import EngineConfig, RolloutConfig
from rollout.engine import Request
from rollout.evidence.config import MergingConfig
from rollout.evidence.merge import merge
from rollout.grading import Grading, by_name
from rollout.models.prompts import Transcript, render_chat
from rollout.models.tokenizer import build_tokenizer
from rollout.pool.pool import Pool
from rollout.types import Problem, Prompt, StopReason

TEXTS = ("<think>abc</think>\nAnswer: 12", "<think>b</think>\nAnswer: 7", "<think>cab a</think>\nAnswer: 12")
PROBLEM = Problem.ask("p", "1+2", "12", "arithmetic")


def responses(tokenizer: Any, texts: Sequence[str] = TEXTS, problem: Problem = PROBLEM) -> list[Answer]:
    found = []
    for index, text in enumerate(texts):
        ids = (*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id)
        score = by_name(problem, text)
        found.append(Answer(problem, index, Response(text, StopReason.EOS, len(ids), ids), score))
    return found


def transcript_of(tokenizer: Any) -> Transcript:
    return Transcript(tokenizer, (tokenizer.eos_token_id,))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "tiny", context=128)


@pytest.fixture(scope="module")
def tokenizer(model: Path) -> Any:
    return AutoTokenizer.from_pretrained(model)


def fusing(tokenizer: Any, pool: Any = None, merging: MergingConfig | None = None, context: int = 128) -> Fusing:
    def render(problem: Problem) -> Prompt:
        return render_chat(tokenizer, [{"role": "user", "content": problem.prompt}])

    return Fusing(pool, render, transcript_of(tokenizer), context, merging or MergingConfig())


def test_windows_end_where_answers_begin_and_row_0_has_the_cue_alone(tokenizer: Any) -> None:
    found = fusing(tokenizer).contexts(responses(tokenizer))
    assert found is not None
    read = [tokenizer.decode(row.token_ids.tolist()) for row in (found.bare, *found.windows)]
    head = "<user>1+2<assistant>"
    assert read == [f"{head}<think></think>\nAnswer: "] + [
        f"{head}{text.partition('Answer: ')[0]}Answer: " for text in TEXTS
    ]
    assert found.left == 3  # "12" and the end


def test_thinking_that_the_prompt_opens_is_closed_by_the_cue() -> None:
    opening = build_tokenizer(CHARACTERS, 128)
    opening.chat_template = opening.chat_template.replace("{{ '<assistant>' }}", "{{ '<assistant><think>' }}")
    prompt = "<user>1+2<assistant><think>"
    given = []
    for one in responses(opening, ["abc</think>\nAnswer: 12"]):
        text = f"<think>{one.response.text}"
        given.append(replace(one, response=replace(one.response, text=text), score=by_name(PROBLEM, text)))
    found = fusing(opening).contexts(given)
    assert found is not None
    assert opening.decode(found.bare.token_ids.tolist()) == f"{prompt}</think>\nAnswer: "
    assert opening.decode(found.windows[0].token_ids.tolist()) == f"{prompt}abc</think>\nAnswer: "


@pytest.mark.parametrize("stop", [StopReason.LENGTH, StopReason.REPETITION, StopReason.ABORTED])
def test_what_has_no_vote_is_no_context(tokenizer: Any, stop: StopReason) -> None:
    given = responses(tokenizer)
    cut = Answer(PROBLEM, 1, Response(given[1].response.text, stop, 9, given[1].response.token_ids), given[1].score)
    silent = Answer(PROBLEM, 2, given[2].response, Score.wrong("no answer"))
    found = fusing(tokenizer).contexts([given[0], cut, silent])
    assert found is not None
    assert len(found.windows) == 1
    assert fusing(tokenizer).contexts([cut, silent]) is None
    assert fusing(tokenizer, context=20).contexts(given) is None  # nowhere is room for an answer


def test_the_cut_is_at_a_token_and_what_is_missing_is_encoded_but_for_white_space() -> None:
    """Tokens that reach over the beginning of an answer."""
    merged = build_tokenizer([*CHARACTERS, "####", "#### 7", "{4", "boxed", " 5"], 128)
    transcript = transcript_of(merged)

    def cut(text: str, verifier: str) -> tuple[str, str, int]:
        (one,) = responses(merged, [text], Problem.ask("p", "1", "4", verifier))
        found = reasoned(transcript, one, 0)
        assert found is not None
        return merged.decode(found.tokens.tolist()), merged.decode(list(found.cue)), len(found.tokens)

    before, cue, count = cut(r"so \boxed{42}", "math")
    assert (before, cue) == (r"so \boxed{", r"\boxed{")
    assert count == len(merged(r"so \boxed")["input_ids"]) + 1
    assert cut("a\n#### 5", "gsm8k")[:2] == ("a\n####", "####")  # " 5" is drawn with its space
    assert cut("a\n#### 75", "gsm8k")[:2] == ("a\n####", "####")  # the token of mark and digit is cut before


def test_half_a_character_is_not_cut_into() -> None:
    class Bytes:
        """Two tokens make one character."""

        def decode(self, tokens: Any) -> str:
            return bytes(int(token) for token in tokens).decode(errors="replace")

    tokens = np.array(list("aé7".encode()), np.int32)
    assert tokens_before(Bytes(), tokens, "aé7", 2) == 3  # type: ignore[arg-type]
    assert tokens_before(Bytes(), tokens, "aé7", 1) == 1  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def pool(model: Path, tokenizer: Any) -> Iterator[Pool]:
    with ExitStack() as stack:
        engine = EngineConfig(kind="hf", max_model_len=128)
        yield open_pool(str(model), engine, RayConfig(in_process=True), (tokenizer.eos_token_id,), 0, 1, stack)


@pytest.mark.parametrize(
    "merging", [MergingConfig(), MergingConfig(pooling="mean", beta=0), MergingConfig(pooling="exact")]
)
def test_the_answer_is_what_all_rows_merge_to(pool: Pool, model: Path, tokenizer: Any, merging: MergingConfig) -> None:
    how = fusing(tokenizer, pool, merging)
    contexts = how.contexts(responses(tokenizer))
    assert contexts is not None
    network = AutoModelForCausalLM.from_pretrained(model).eval()
    drawn: list[int] = []
    last = 0
    while len(drawn) < contexts.left and tokenizer.eos_token_id not in drawn:
        rows = [[*row.token_ids.tolist(), *drawn] for row in (contexts.bare, *contexts.windows)]
        with torch.inference_mode():
            step = merge(torch.stack([network(torch.tensor([row])).logits[0, -1] for row in rows]), merging, last)
        last = step.pointer
        drawn.append(int(step.logits.argmax()))
    with Grading.by(by_name) as grading:
        (found,) = evaluate(FusingResponder(how, [contexts]), [contexts.ask], grading)
    assert list(found.response.token_ids) == drawn
    said = tokenizer.decode([token for token in drawn if token != tokenizer.eos_token_id])
    assert found.response.text == f"<think></think>\nAnswer: {said}"


def counting(tokenizer: Any) -> tuple[Fusing, list[Request]]:
    """Engines that answer 12 to everything, and what they were asked."""
    asked: list[Request] = []

    def script(request: Request) -> list[int]:
        asked.append(request)
        return [*tokenizer("12")["input_ids"], tokenizer.eos_token_id]

    config = EngineConfig(kind="hf", max_model_len=128, stall_timeout_s=60, call_timeout_s=60)
    pool = Pool(
        lambda _: FakeEngine(script), config, RolloutConfig(segment_tokens=1, max_tokens=1), (tokenizer.eos_token_id,)
    )
    return fusing(tokenizer, pool), asked


def test_what_is_on_record_is_not_drawn_again_unless_its_responses_changed(tokenizer: Any, tmp_path: Path) -> None:
    how, asked = counting(tokenizer)

    def fuse(given: Sequence[Answer]) -> Answer:
        contexts = how.contexts(given)
        assert contexts is not None
        with opened(tmp_path, {}) as record, Grading.by(by_name) as grading:
            (found,) = evaluate(FusingResponder(how, [contexts]), [contexts.ask], grading, record)
        return found

    with how.pool:  # type: ignore[attr-defined]
        first = fuse(responses(tokenizer))
        assert first.score.correct
        before = len(asked)
        assert fuse(responses(tokenizer)) == first
        assert len(asked) == before
        fuse(responses(tokenizer, [*TEXTS, TEXTS[0]]))  # a further response: another answer
        assert len({request.key for request in asked}) == 2
    assert asked[0].evidence is not None
    assert len(asked[0].evidence.windows) == 3
    assert asked[0].sampling.temperature == 0


def test_fused_is_compared_with_the_vote_problem_by_problem() -> None:
    problems = [Problem.ask(f"p{index}", "x", "7", "exact") for index in range(4)]
    groups = [
        [answer(problems[0], 0, "correct", "7"), answer(problems[0], 1, "wrong", "8")],  # a tie: half right
        [answer(problems[1], 0, "wrong", "8"), answer(problems[1], 1, "wrong", "8")],
        [answer(problems[2], 0, "wrong", ""), answer(problems[2], 1, "wrong", "")],  # nobody has an answer
        [answer(problems[3], 0, "correct", "7"), answer(problems[3], 1, "correct", "7")],
    ]
    fused = {
        "p0": answer(problems[0], 0, "correct", "7"),
        "p1": answer(problems[1], 0, "correct", "7"),
        "p3": answer(problems[3], 0, "ungradable"),
    }
    found = measured(fused, {"p0": 2, "p1": 2, "p3": 2}, groups, same_text, "mean", 0.0)
    assert found is not None
    assert (found.k, found.problems, found.silent, found.ungradable, found.contexts) == (2, 3, 1, 1, 2)
    assert found.mean == pytest.approx(2 / 3)
    assert found.beyond_maj is not None
    assert found.beyond_maj.difference == pytest.approx((0.5 + 1 + 0) / 3)
    assert (found.beyond_maj.better, found.beyond_maj.worse) == (2, 0)
    assert from_json(json.loads(json.dumps(found.__dict__, default=lambda one: one.__dict__))) == found
    alone = measured(fused, {}, groups, None, "mean", None)
    assert alone is not None
    assert alone.beyond_maj is None
    assert measured({"p3": fused["p3"]}, {}, groups[3:], same_text, "mean", None) is None


@needs_browser
def test_the_report_names_fused_beside_the_vote(tmp_path: Path) -> None:
    problems = [Problem.ask(f"p{index}", "x", "7", "exact") for index in range(3)]
    groups = [[answer(one, sample, "correct", "7") for sample in range(3)] for one in problems]
    found = measured({one.id: answer(one, 0, "wrong", "8") for one in problems}, {}, groups, same_text, "mean", 0.5)
    assert found is not None
    every = [one for group in groups for one in group]
    context = Context(Benchmark("toy", "Toy", "none"), "here", "0", 0, 3, {"samples": 3, "prompt": ""})
    results = Results("m", {"created": "now"}, (replace(measure(context, every), fused=(found,)),))
    write_report(tmp_path / "report.html", results, [("toy", every)])
    body = body_of(drawn(tmp_path / "report.html", tmp_path / "profile"))
    assert "fused@3 (mean, beta 0.5) 0.0&nbsp;%" in body
    assert "against maj@3 \u2212100.0 points" in body


@pytest.mark.parametrize("votes", [(0, 0, 1), (0, 1, None), (None, None), (1, 0, 1, 0, 2)])
def test_the_votes_row_has_the_mean_of_maj_at_k(votes: tuple[int | None, ...]) -> None:
    ballot = Ballot(votes, frozenset({0}))
    row = vote(ballot)
    assert sum(row) / len(row) == majority_at_k(ballot, len(votes))


BENCHMARK = '''
from evals.benchmark import Benchmark
from evals.votes import same_text
from rewards.score import Score

def last(problem, text):
    """The last character that is no white space is the answer."""
    found = text.strip()[-1:]
    return Score.right(found) if found in "abcdefghijklm" else Score.wrong("another", found)

BENCHMARK = Benchmark(
    "letters", "Letters", "none", file="letters.jsonl",
    verify=last, verifier="exact", same=same_text, samples=3, temperature=1.0, max_tokens=12,
)
'''


def test_the_command_reports_and_keeps_fused_answers(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A benchmark of one's own, with a verifier that k15 does not know."""
    file, out = tmp_path / "letters.py", tmp_path / "out"
    file.write_text(BENCHMARK)
    rows = [{"id": f"p{index}", "problem": f"{index}?", "answer": "a"} for index in range(3)]
    (tmp_path / "letters.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["eval", str(file), "--model", str(model), "--engine", "hf", "--data", str(tmp_path), "--out", str(out)]
    assert main([*command, "--fuse", "entropy,exact"]) == 0, capsys.readouterr().err
    shown = capsys.readouterr().out
    assert "fused@3 (entropy) " in shown
    assert "fused@3 (exact) " in shown
    assert "against maj@3 " in shown
    result = json.loads((out / "results.json").read_text())["benchmarks"][0]
    assert [one["pooling"] for one in result["fused"]] == ["entropy", "exact"]
    assert "fused@" in (out / "report.html").read_text()
    record = out / "letters" / "fused-entropy" / "responses.jsonl"
    before = record.read_bytes()
    assert 0 < max(json.loads(line)["tokens"] for line in before.splitlines()) <= LONGEST
    assert main([*command, "--fuse", "entropy"]) == 0
    assert record.read_bytes() == before
    assert main([*command, "--fuse", "entropy", "--fuse-beta", "0"]) == 0
    assert (out / "letters" / "fused-entropy-beta0" / "responses.jsonl").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["math500", "--model", "x", "--fuse", "max"], "'max' is none of nbce, entropy, mean, exact"),
        (["math500", "--model", "x", "--fuse-beta", "1"], "--fuse-beta is of --fuse: leave it out"),
        (["math500", "--model", "x", "--fuse", "exact", "--fuse-beta", "1"], "not of exact"),
        (["math500", "--model", "http://127.0.0.1:1/v1", "--fuse", "nbce"], "--fuse needs engines of our own"),
        (["math500", "--predictions", "x", "--fuse", "nbce"], "does not go with --predictions"),
        (["math500", "--model", "{model}", "--data", "{data}", "--fuse", "nbce", "--n", "1"], "at least 2 are needed"),
    ],
)
def test_what_cannot_be_fused_is_one_line(
    model: Path, tmp_path: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "math500.jsonl").write_text(json.dumps({"id": "q", "problem": "1?", "answer": "1"}) + "\n")
    given = [one.format(model=model, data=tmp_path) for one in arguments]
    try:
        code = main(["eval", *given, "--engine", "hf", "--out", str(tmp_path / "out")])
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    assert code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert words in line
