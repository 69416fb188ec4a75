"""One path from tokens to a verdict (invariant 10): training, evaluation and stored rollouts, over chat templates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from eval_kit import CHARACTERS
from hypothesis import given, settings
from hypothesis import strategies as st

from evals.evaluate import asks_of, evaluate
from evals.pooled import PoolResponder
from recipes.commands.cli import main
from recipes.commands.regrade import Stored, as_graded, told
from rewards.reference import Reference
from rewards.response import after_thinking
from rewards.score import Score
from rewards.verify import get_verifier
from rl.record.rollout_store import to_table, write_rollouts
from rl.rewarding import answered, reward_group
from rollout.engine import Sampling
from rollout.grading import Grading, verdict
from rollout.models.framing import Framing
from rollout.models.prompts import Transcript, render_chat
from rollout.models.tokenizer import build_tokenizer
from rollout.pool.board import Completion
from rollout.types import Group, Problem, Rollout, Segment, StopReason

TAGS = ("<think>", "</think>", "<reasoning>", "</reasoning>")
HEADS = {
    "": False,
    "Answer:\n": False,
    "<think>": True,
    "<think>\n": True,
    '<THINK mode="x">\n\n': True,
    "<seed:think>": True,
    "[THINK]": True,
    "\u25c1think\u25b7\n": True,
    "<think>\nOkay, so ": True,
    "<think>\n\n</think>\n\n": False,
    "<think>a</think><think>\n": True,
    "<think>a</think><reasoning>b</reasoning>": False,
    "</think>": False,
}
"""What a template writes in front of an answer -> whether that leaves the thinking open."""
QUESTIONS = ("What is 3?", "What does <think> mean?", "Say </think>", "End with <think>", "a <think>b</think> c")
PIECES = ("so it is", "<think>", "</think>", "<reasoning>", "</reasoning>\n", " 7", "7", "\n", "8")


def transcript(head: str, tags_are_tokens: bool, system: str = "") -> Transcript:
    """Tags are tokens of their own, or cut into characters."""
    tokenizer = build_tokenizer([*CHARACTERS, "\u25c1", "\u25b7", *(TAGS if tags_are_tokens else ())], 512)
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "{{ '<assistant>' }}", "{{ " + json.dumps("<assistant>" + head) + " }}"
    )
    return Transcript(tokenizer, (tokenizer.eos_token_id,), system)


def answer_of(opened: bool, pieces: list[str]) -> str | None:
    """The text after the thinking by the structure of the pieces; ``None`` while the thinking goes on."""
    text = ""
    for piece in pieces:
        if piece.strip() in TAGS:
            opened = opened if piece.startswith("</") else True
            if piece.startswith("</"):
                opened, text = False, piece[len(piece.strip()) :]
        else:
            text += piece
    return None if opened else text


class OneAnswer:
    """A pool that gives the same tokens to each request."""

    def __init__(self, tokens: tuple[int, ...], stop: StopReason) -> None:
        self.tokens, self.stop = tokens, stop

    def generate(self, requests: Any, *, on_rest: Any, turns: Any) -> None:
        for request in requests:
            parts = (Segment(0, self.tokens, (0.0,) * len(self.tokens)),) if self.tokens else ()
            on_rest(Completion(request.key, parts, self.stop))


def verify(problem: Problem, text: str) -> Score:
    return get_verifier(problem.verifier)(text, Reference(problem.answer, problem.prompt, problem.extra))


GRADING = Grading.by(verify)


def scored_by_training(problem: Problem, rollout: Rollout, reader: Transcript) -> Score:
    (answer,) = answered(problem, [rollout], reader.graded)
    if isinstance(answer, Score):
        return answer
    return verdict(answer, verify)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(sorted(HEADS)),
    st.booleans(),
    st.sampled_from(QUESTIONS),
    st.sampled_from(["", "Put your thoughts after <think>."]),
    st.lists(st.sampled_from(PIECES), max_size=6),
    st.sampled_from([StopReason.EOS, StopReason.LENGTH]),
    st.integers(0, 5),
)
def test_the_same_tokens_get_the_same_verdict_everywhere(
    head: str, split: bool, question: str, system: str, pieces: list[str], stop: StopReason, cut: int
) -> None:
    reader = transcript(head, not split, system)
    problem = Problem.ask("p", question, "7", "exact")
    prompt = render_chat(reader.tokenizer, Framing(system).messages(problem))
    said = reader.tokenizer("".join(pieces), add_special_tokens=False)["input_ids"]
    tokens = (*said, *(reader.end if stop is StopReason.EOS else ()))

    expected = answer_of(HEADS[head], pieces)
    graded = reader.graded(prompt.token_ids, tokens)
    assert after_thinking(graded) == (expected or "")
    right = stop is StopReason.EOS and (expected or "").strip() == "7"

    parts = tuple(Segment(i, p, (0.0,) * len(p)) for i, p in enumerate((tokens[:cut], tokens[cut:])) if p)
    rollout = Rollout("g/0", prompt, parts, stop)
    in_training = scored_by_training(problem, rollout, reader)
    responder = PoolResponder(OneAnswer(tokens, stop), lambda _: prompt, reader.graded, Sampling(), 64, 512)
    (in_evaluation,) = evaluate(responder, asks_of([problem], 1, 0), GRADING)
    assert in_training == in_evaluation.score
    assert in_training.correct == right

    scored = reward_group(Group("g", problem, (rollout,), 0), [in_training], 0.0, 0.0)
    (row,) = to_table(0, [scored], {}, 0.0, reader.graded).to_pylist()
    assert row["opening"] + "".join(row["segment_texts"]) == graded == in_evaluation.response.text
    stored = Stored((), None)
    again = told(row, GRADING.submit(lambda: [as_graded(row, stored)]).result()[0])
    assert (again["verdict"], again["stored"]) == (in_training.verdict, in_training.verdict)


def test_a_text_that_is_continued_may_end_in_the_tag() -> None:
    """A base model's template is the bare message; TinyZero's instruction ends in the tag."""
    reader = transcript("", False)
    reader.tokenizer.chat_template = "{{ messages[-1]['content'] }}"
    for text, opening in {"Solve it.\n<think>": "<think>", "Use <think> or not: <think> \n": "<think> \n"}.items():
        assert reader.opening(render_chat(reader.tokenizer, [{"role": "user", "content": text}]).token_ids) == opening
    for text in ("Use <think> tags.", "<think>a</think>", "plain"):
        assert reader.opening(render_chat(reader.tokenizer, [{"role": "user", "content": text}]).token_ids) == ""


def test_a_templates_switch_closes_the_thinking() -> None:
    """Qwen3: with enable_thinking off the template writes empty thinking; R1: it always opens one."""
    qwen = transcript("", True)
    closed = "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
    qwen.tokenizer.chat_template += closed
    off = Transcript(qwen.tokenizer, qwen.end, arguments={"enable_thinking": False})
    chat = [{"role": "user", "content": "What is <think>?"}]
    for reader, arguments in ((qwen, {}), (off, {"enable_thinking": False})):
        prompt = render_chat(qwen.tokenizer, chat, **arguments)
        assert reader.opening(prompt.token_ids) == ""


@pytest.mark.parametrize("given_as", ["run", "file", "copy"])
def test_stored_rollouts_are_graded_again(given_as: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reader = transcript("<think>\n", False)
    problem = Problem.ask("p", "What is 3?", "7", "exact")
    prompt = render_chat(reader.tokenizer, Framing().messages(problem))
    rollouts = []
    for j, text in enumerate(("7", "so</think>7", "so</think>8")):
        tokens = (*reader.tokenizer(text, add_special_tokens=False)["input_ids"], *reader.end)
        rollouts.append(Rollout(f"g/{j}", prompt, (Segment(0, tokens, (0.0,) * len(tokens)),), StopReason.EOS))
    rollouts.append(Rollout("g/3", prompt, (), StopReason.ABORTED))
    scores = [scored_by_training(problem, rollout, reader) for rollout in rollouts]
    scores[2] = Score.right("8")  # as a grader with a fault would have stored it
    scored = reward_group(Group("g", problem, tuple(rollouts), 0), scores, 0.0, 0.0)
    run = tmp_path / "run"
    file = write_rollouts(run, 0, to_table(0, [scored], {}, 0.0, reader.graded))
    (run / "config.yaml").write_text("recipe: custom\n")
    if given_as == "copy":
        file = file.rename(tmp_path / "copy.parquet")
    out = tmp_path / "out.jsonl"
    assert main(["grade", str(run if given_as == "run" else file), "--out", str(out)]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(row["rollout"], row["verdict"], row["stored"]) for row in rows] == [
        ("g/0", "wrong", "wrong"),
        ("g/1", "correct", "correct"),
        ("g/2", "wrong", "correct"),
        ("g/3", "ungradable", "ungradable"),
    ]
    assert "4 rollouts: 1 correct, 2 wrong, 1 ungradable; 1 other than stored" in capsys.readouterr().err
    assert main(["grade", str(file if file.exists() else run), "--bare"]) == 2
    assert "rollouts bring their own verifier" in capsys.readouterr().err
