"""Problems asked of a model chunk by chunk: nothing is drawn twice, and what cannot be asked is told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from curate_kit import Model, problems, right

from evals.evaluate import Answer
from evals.journal import JournalError
from recipes.commands.eval_options import EvalError
from recipes.curate import chunks
from recipes.curate.asking import CHUNK, ROUNDS, Asker, Question, Voice
from recipes.curate.chunks import Reduction
from rl.config import RayConfig
from rl.stop import Interrupted
from rollout.config import EngineConfig
from rollout.models.templates import PromptError
from rollout.problems.source import ProblemError
from rollout.types import Problem
from tests.paths import ROOT, TESTS

QUESTION = Question(stage="test", samples=3, temperature=1.0, max_tokens=40, prompt="{problem} Use \\boxed{}.")
SWITCHED = (
    "{% for message in messages %}<user>{{ message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% if enable_thinking is defined and not enable_thinking %}"
    "<think></think>{% endif %}{% endif %}"
)
ALWAYS = (
    "{% for message in messages %}<user>{{ message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant><think>\n{% endif %}"
)


@dataclass(frozen=True)
class Counts:
    id: str
    right: int
    samples: int
    why: str = ""


def counts(problem: Problem, answers: Sequence[Answer], refused: str) -> Counts:
    return Counts(problem.id, sum(answer.score.correct for answer in answers), len(answers), refused)


REDUCTION = Reduction(Counts, counts, {})


def says(problem: str, sample: int) -> str:
    """Of problem i the samples below i % 4 are right."""
    number = int(problem[1:])
    return right(number) if sample < number % 4 else "It is \\boxed{0}."


def expected(count: int) -> list[Counts]:
    return [Counts(f"p{i}", min(i % 4, 3), 3) for i in range(count)]


def small_chunks(folder: Path, size: int = 4) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / chunks.SIZE).write_text(json.dumps({"problems": size}))
    return folder


@pytest.fixture
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return Model(tmp_path_factory.getbasetemp() / "tiny", says)


def test_one_outcome_per_problem_and_engines_once_for_all_stages(model: Model, tmp_path: Path) -> None:
    asked = problems(10)
    with model.asker() as asker:
        assert model.opened == 0
        assert asker.each(QUESTION, asked, small_chunks(tmp_path / "one"), REDUCTION) == expected(10)
        other = replace(QUESTION, stage="other")
        assert asker.each(other, asked[:2], tmp_path / "two", REDUCTION) == expected(2)
    assert model.opened == 1
    assert len(model.keys) == 36
    assert len({request.seed for request in model.requests}) == 36  # by stage, problem and sample
    prompt = asker.model.tokenizer.decode(model.requests[0].prompt.token_ids)
    assert prompt == "<user>What is 0 + 1? Use \\boxed{}.<assistant>"
    again = Model(model.path, says)
    with again.asker(seed=1) as asker:
        asker.each(QUESTION, asked[:2], tmp_path / "three", REDUCTION)
    assert not {request.seed for request in again.requests} & {request.seed for request in model.requests}


@pytest.mark.parametrize("cut_after", [0, 1, 7, 12, 17])
def test_no_complete_response_is_drawn_twice(model: Model, tmp_path: Path, cut_after: int) -> None:
    asked, folder = problems(10), small_chunks(tmp_path / "out")
    model.cut_after = cut_after
    with pytest.raises(Interrupted), model.asker() as asker:
        asker.each(QUESTION, asked, folder, REDUCTION)
    kept = sum(len(path.read_text().splitlines()) for path in folder.glob("*/responses.jsonl"))
    assert kept == cut_after
    model.cut_after, model.requests = None, []
    with model.asker() as asker:
        assert asker.each(QUESTION, asked, folder, REDUCTION) == expected(10)
    assert len(model.requests) == 30 - kept


MORTAL = """
import os, signal, sys
from pathlib import Path
from curate_kit import Model, problems
from test_curate_asking import QUESTION, REDUCTION, says

def mortal(problem, sample):
    if (problem, sample) == ("p6", 1):
        os.kill(os.getpid(), signal.SIGKILL)
    return says(problem, sample)

with Model(Path(sys.argv[1]), mortal).asker(max_concurrency=3) as asker:
    asker.each(QUESTION, problems(10), Path(sys.argv[2]), REDUCTION)
"""


def test_a_process_killed_at_work_loses_what_was_being_drawn(model: Model, tmp_path: Path) -> None:
    folder = small_chunks(tmp_path / "out")
    paths = os.pathsep.join([str(TESTS), str(TESTS / "recipes"), str(ROOT)])
    command = [sys.executable, "-c", MORTAL, str(model.path), str(folder)]
    died = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    kept = sum(len(path.read_text().splitlines()) for path in folder.glob("*/responses.jsonl"))
    assert 12 <= kept < 12 + 9
    with model.asker() as asker:
        assert asker.each(QUESTION, problems(10), folder, REDUCTION) == expected(10)
    assert len(model.requests) == 30 - kept


def test_what_is_finished_is_not_read_again_and_starts_no_engine(model: Model, tmp_path: Path) -> None:
    asked, folder = problems(6), small_chunks(tmp_path / "out")
    with model.asker() as asker:
        first = asker.each(QUESTION, asked, folder, REDUCTION)
    for path in folder.glob("*/responses.jsonl"):
        path.unlink()
    again = Model(model.path, lambda *_: pytest.fail("asked again"))
    with again.asker() as asker:
        assert asker.each(QUESTION, asked, folder, REDUCTION) == first
    assert again.opened == 0


def test_killed_before_the_outcomes_were_written_starts_no_engine(model: Model, tmp_path: Path) -> None:
    asked, folder = problems(6), small_chunks(tmp_path / "out")
    with model.asker() as asker:
        first = asker.each(QUESTION, asked, folder, REDUCTION)
    (folder / "000001" / chunks.OUTCOMES).unlink()
    with model.asker() as asker:
        assert asker.each(QUESTION, asked, folder, REDUCTION) == first
    assert model.opened == 1


def test_other_reductions_read_the_record_and_more_samples_draw_only_those(model: Model, tmp_path: Path) -> None:
    asked, folder = problems(6), tmp_path / "out"
    with model.asker() as asker:
        asker.each(QUESTION, asked, folder, REDUCTION)
        twice = Reduction(Counts, lambda p, a, why: replace(counts(p, a, why), right=-1), {"other": 1})
        assert {one.right for one in asker.each(QUESTION, asked, folder, twice)} == {-1}
        assert len(model.requests) == 18
        more = asker.each(replace(QUESTION, samples=4), asked, folder, REDUCTION)
    assert [one.samples for one in more] == [4] * 6
    assert len(model.requests) == 24
    assert {key.rpartition("#")[2] for key in model.keys[18:]} == {"3"}


def test_only_what_is_asked_for_counts_as_on_record(model: Model, tmp_path: Path) -> None:
    asked, folder = problems(4), tmp_path / "out"
    with model.asker() as asker:
        asker.each(QUESTION, asked, folder, REDUCTION)
    chunk = chunks.Chunk(folder / "000000", {}, {})
    record = chunk.folder / "responses.jsonl"
    lines = record.read_text().splitlines(keepends=True)
    record.write_text("".join([line for line in lines if '"sample": 0' not in line] + lines[-1:]))
    assert [chunk.on_record(asked, samples) for samples in (1, 2, 3, 9)] == [0, 4, 8, 8]
    assert chunk.on_record(asked[:1], 3) == 2


@pytest.mark.parametrize(
    ("changed", "told"),
    [({"temperature": 0.5}, "temperature"), ({"prompt": "{problem}!"}, "prompt"), ({"max_tokens": 41}, "max_tokens")],
)
def test_other_settings_are_refused(model: Model, tmp_path: Path, changed: dict[str, Any], told: str) -> None:
    asked, folder = problems(3), tmp_path / "out"
    with model.asker() as asker:
        asker.each(QUESTION, asked, folder, REDUCTION)
        with pytest.raises(JournalError, match=rf"holds answers under other settings \({told}\); choose another --out"):
            asker.each(replace(QUESTION, **changed), asked, folder, REDUCTION)
        with pytest.raises(JournalError, match=r"other settings \(problems\)"):
            asker.each(QUESTION, problems(4)[1:], folder, REDUCTION)


def test_harm_to_the_record_is_one_line(model: Model, tmp_path: Path) -> None:
    asked, folder = problems(3), tmp_path / "out"
    with model.asker() as asker:
        asker.each(QUESTION, asked, folder, REDUCTION)
        path = folder / "000000" / chunks.OUTCOMES
        path.write_text(path.read_text().replace('"right"', '"wrong"'))
        with pytest.raises(JournalError, match=r"outcomes.jsonl: no file of outcomes \(.*\); remove it to go on"):
            asker.each(QUESTION, asked, folder, REDUCTION)
        path.unlink()
        assert asker.each(QUESTION, asked, folder, REDUCTION) == expected(3)
        with pytest.raises(ProblemError, match="occurs twice"):
            asker.each(QUESTION, [*asked, asked[0]], tmp_path / "twice", REDUCTION)


def test_what_cannot_be_asked_is_told_and_the_others_are_asked(model: Model, tmp_path: Path) -> None:
    long = Problem.ask("p7", "What is 7 + 1?" + " " * 300 + "Say.", "8", "math")
    broken = Problem.ask("p8", "What is \ud800?", "8", "math")
    with model.asker(longest=40) as asker:
        found = asker.each(QUESTION, [problems(2)[1], long, broken], tmp_path / "out", REDUCTION)
        assert asker.context == 512  # the model's own
        again = replace(QUESTION, max_tokens=500)
        assert [one.samples for one in asker.each(again, problems(1), tmp_path / "two", REDUCTION)] == [0]
    assert [one.samples for one in found] == [3, 3, 0]
    assert "lone surrogate" in found[2].why
    with Model(model.path, says, 512).asker(longest=40) as asker:
        asker.engine = asker.engine.model_copy(update={"max_model_len": 256})
        (one,) = asker.each(QUESTION, [long], tmp_path / "three", REDUCTION)
    assert one == Counts("p7", 0, 0, "the prompt has 334 tokens; the context of 256 leaves 216 beside a response of 40")


def test_a_box_is_asked_for_where_the_verifier_reads_one() -> None:
    maths, code = Problem.ask("a", "2?", "2", "math"), Problem.ask("b", "2?", "2", "code")
    assert QUESTION.put(maths) == "2? Use \\boxed{}."
    assert QUESTION.put(code) == "2?"
    assert replace(QUESTION, prompt="Now: {problem}").put(code) == "Now: 2?"


OFF = replace(QUESTION, thinking="off", prefix="So \\boxed{")


@pytest.mark.parametrize(
    ("template", "prompt", "written"),
    [
        (None, "<user>What is 0 + 1? Use \\boxed{}.<assistant>", "So \\boxed{"),
        (SWITCHED, "<user>What is 0 + 1? Use \\boxed{}.<assistant><think></think>", "So \\boxed{"),
        (ALWAYS, "<user>What is 0 + 1? Use \\boxed{}.<assistant><think>\n", "</think>\n\nSo \\boxed{"),
    ],
)
def test_thinking_is_off_by_the_switch_or_ended(
    tmp_path: Path, template: str | None, prompt: str, written: str
) -> None:
    model = Model(tmp_path / "model", lambda *_: "1}", template=template)
    with model.asker() as asker:
        (one,) = asker.each(OFF, problems(1), tmp_path / "out", REDUCTION)
        voice = Voice(OFF, asker.model)
        assert voice.written(Problem.ask("x", "y", "z", "exact")) == written.removesuffix("So \\boxed{")
    assert one == Counts("p0", 3, 3)
    tokens = model.requests[0].prompt.token_ids.tolist()
    tokenizer = asker.model.tokenizer
    assert tokenizer.decode(tokens) == prompt + written
    encoded = tokenizer(written, add_special_tokens=False)["input_ids"]
    assert tokens[-len(encoded) :] == encoded
    assert model.requests[0].max_new_tokens == 40
    (row, *_) = map(json.loads, (tmp_path / "out" / "000000" / "responses.jsonl").read_text().splitlines())
    assert row["response"] == written + "1}"
    assert row["token_ids"] == []


def test_thinking_that_the_template_begins_is_graded_with_its_tag(tmp_path: Path) -> None:
    texts = ["</think>\\boxed{1}", "\\boxed{1}"]
    model = Model(tmp_path / "model", lambda _, sample: texts[sample], template=ALWAYS)
    with model.asker() as asker:
        found = asker.each(replace(QUESTION, samples=2), problems(1), tmp_path / "out", REDUCTION)
    assert found == [Counts("p0", 1, 2)]


def test_a_model_without_a_template_is_one_error(tmp_path: Path) -> None:
    model = Model(tmp_path / "model", says)
    with model.asker() as asker:
        asker.model.tokenizer.chat_template = None
        with pytest.raises(PromptError, match="no chat template"):
            asker.each(QUESTION, problems(2), tmp_path / "out", REDUCTION)
    with pytest.raises(EvalError, match="no/such"):
        Asker("./no/such", EngineConfig(), RayConfig(), 0, 8)


def test_chunks_are_longer_where_many_engines_would_run_empty(model: Model, tmp_path: Path) -> None:
    with model.asker(count=3, max_concurrency=5000) as asker:
        assert asker._chunk_size(QUESTION, CHUNK) == CHUNK
        assert model.opened == 0
        assert asker._chunk_size(QUESTION, CHUNK + 1) == ROUNDS * 15_000 // 3
    with model.asker() as asker:
        assert asker._chunk_size(QUESTION, CHUNK + 1) == CHUNK
    folder = tmp_path / "out"
    assert chunks.chunk_size(folder, lambda: 7) == chunks.chunk_size(folder, lambda: pytest.fail("made anew")) == 7


def test_the_engines_of_the_command(tmp_path: Path) -> None:
    """A model of random weights, through transformers in this process."""
    model = Model(tmp_path / "model", says)
    engine = EngineConfig(kind="hf", max_model_len=128, threads=1)
    found = []
    for name in ("one", "two"):
        with Asker(str(model.path), engine, RayConfig(), 0, 12) as asker:
            found.append(asker.each(replace(QUESTION, max_tokens=12), problems(2), tmp_path / name, REDUCTION))
    assert found[0] == found[1]
    texts = [(tmp_path / name / "000000" / "responses.jsonl").read_text().splitlines() for name in ("one", "two")]
    assert sorted(texts[0]) == sorted(texts[1])
    assert len(texts[0]) == 6


def test_importing_loads_no_heavy_library() -> None:
    names = "asking, behaviours, chunks, config, difficulty, guess, warmup"
    heavy = ("torch", "vllm", "ray", "transformers", "sklearn", "pandas")
    code = f"import sys\nfrom recipes.curate import {names}\nprint([n for n in {heavy} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
