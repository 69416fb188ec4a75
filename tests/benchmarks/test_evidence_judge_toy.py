"""The toy task of the judge with evidence: what is taught is so, and one text decides."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from benchmarks.evidence_judge import CONTEXT, FACTS, LABELS, TURNS, WORDS, compare, example, questions, text_of, train
from rollout.models.tokenizer import build_tokenizer


def test_verdicts_are_taught_on_claims_that_a_window_decides_and_guesses_on_others() -> None:
    ids = build_tokenizer(WORDS, CONTEXT).get_vocab()
    words = {number: word for word, number in ids.items()}
    draw = random.Random(0)
    decided = unknown = 0
    for _ in range(200):
        row, targets = example(draw, ids)
        assert len(row) == len(targets) <= CONTEXT
        text = "".join(words[token] for token in row)
        window, _, rest = text.removeprefix("<user>").partition("\n")
        known = {window[at]: window[at + 1] for at in range(0, len(window), 2)}
        turns = rest.split("<eos>")[:TURNS]
        assert len(turns) == TURNS
        for turn in turns:
            claim, _, label = turn.removeprefix("<user>").partition("<assistant>")
            (letter, digit), asked = claim[2:], claim[:2]
            assert asked == f"?{letter}"
            if letter in known:
                assert label == LABELS[known[letter] != digit]
            decided += letter in known
            unknown += letter not in known
    assert 0.4 < decided / (decided + unknown) < 0.7


def test_one_text_decides_each_question() -> None:
    for texts, at, answer, right in questions(50, 3, 0):
        letter = answer.problem.prompt[1]
        assert [letter in text_of(text)[::2] for text in texts] == [number == at for number in range(3)]
        assert (letter + dict(texts[at])[letter] == answer.text) == right
        assert len({one for text in texts for one, _ in text}) == 3 * FACTS


@pytest.mark.slow
def test_all_arms_judge_the_same_claims(tmp_path: Path) -> None:
    train(tmp_path / "judge", 2, 0, batch=4)
    rows = compare(tmp_path / "judge", 6, 3, 0)
    assert [one["arm"] for one in rows] == [
        "the text that decides", "windows, entropy", "windows, mean", "windows, exact", "vote of the windows",
        "cut to one window", "all in one window",
    ]  # fmt: skip
    assert all(one["n"] == 6 for one in rows)
    assert rows[1]["pointer"] == rows[2]["pointer"]  # the surest window is the same, however they are pooled
