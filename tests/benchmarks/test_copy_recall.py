"""The task of copying, and what is counted of its responses."""

from __future__ import annotations

import random

import numpy as np
import pytest

from benchmarks.copy_task import CLOSE, END, EOS, IDS, NAMES, OPEN, VERBS, Recall, item, recall, slots, tokenizer
from rollout.copying.labels import O, copy_labels


@pytest.mark.parametrize("seed", range(20))
def test_spans_are_marked_in_the_text_and_asked_for_in_order(seed: int) -> None:
    rng = random.Random(seed)
    lengths = [rng.randint(3, 14) for _ in range(3)]
    made = item(rng, lengths)
    assert len(made.prompt) == 60 + 6 + 1
    for opening, closing, span, length in zip(OPEN, CLOSE, made.spans, lengths, strict=True):
        begin, end = made.prompt.index(IDS[opening]), made.prompt.index(IDS[closing])
        assert made.prompt[begin + 1 : end] == span
        assert len(span) == length
    assert slots(made.response) == [[*span] for span in made.spans]
    assert recall(made, made.response) == Recall(
        3, 3, sum(lengths), sum(lengths), *[recall(made, made.response).rare] * 2
    )


def test_the_spans_are_what_the_labels_call_copies() -> None:
    rng = random.Random(0)
    for _ in range(20):
        made = item(rng, [5, 5, 5])
        labels = copy_labels(np.array(made.prompt), np.array(made.response)).target
        template = {IDS[token] for token in (*NAMES, *VERBS, END)} | {EOS}
        assert [token in template for token in made.response] == (labels == O).tolist()


def test_the_tokenizer_has_the_ids_of_the_task() -> None:
    words = tokenizer()
    made = item(random.Random(3), [3, 4, 5])
    text = words.decode(made.response)  # type: ignore[attr-defined]
    assert words(text, add_special_tokens=False)["input_ids"] == [*made.response]  # type: ignore[operator]


def test_what_is_too_long_short_or_missing_is_counted() -> None:
    made = item(random.Random(1), [3, 3, 3])
    x, y, z = made.spans
    said = [IDS["X"], IDS[VERBS[0]], *x, x[0], IDS[END], IDS["Y"], IDS[VERBS[1]], *y[:2], EOS]
    found = recall(made, said)
    assert (found.spans, found.exact, found.tokens, found.right) == (3, 0, 9, 5)
    assert recall(made, []).right == 0
    assert len(z) == 3
