"""Decoding with a copy head or a constraint, on a tiny model with random weights."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from learner_kit import tiny_llama
from torch import nn

from rollout.copying.decode import Decoding, masked_decode, structured_decode
from rollout.copying.labels import B, I, O
from rollout.copying.spans import CopyBetween

PROMPTS = [[5, 6, 7, 8, 9, 6, 7, 10], [11, 12, 3], [13]]
STOP = 3


@pytest.fixture(scope="module")
def model():
    return tiny_llama().eval()


def head(bias: tuple[float, float, float], seed: int = 0, scale: float = 1.0) -> nn.Linear:
    torch.manual_seed(seed)
    made = nn.Linear(32, 3)
    made.weight.data *= scale
    made.bias.data = torch.tensor(bias, dtype=torch.float32)
    return made


def runs(tokens: list[int], tags: list[int]) -> list[list[int]]:
    """The spans of a response."""
    found: list[list[int]] = []
    for token, tag in zip(tokens, tags, strict=True):
        if tag == B:
            found.append([token])
        elif tag == I:
            found[-1].append(token)
    return found


def occurs(source: list[int], part: list[int]) -> bool:
    return any(source[i : i + len(part)] == part for i in range(len(source) - len(part) + 1))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_what_is_tagged_as_a_copy_is_one(model, temperature: float, seed: int) -> None:
    tagger = head((0.0, 0.3, 0.3), seed, scale=20)
    found = masked_decode(model, tagger, PROMPTS, PROMPTS, Decoding(30, (STOP,), temperature, seed))
    for decoded, source in zip(found, PROMPTS, strict=True):
        tokens, tags = decoded.token_ids.tolist(), decoded.tags.tolist()
        assert len(tokens) == len(tags)
        for span in runs(tokens, tags):
            assert occurs(source, span)
        assert all(tag != I or before != O for before, tag in pairwise([O, *tags]))
        for token, tag in zip(tokens, tags, strict=True):
            assert tag == O or token in source
            assert tag == O or token != STOP


def test_a_head_that_always_copies_falls_back_at_the_end_of_the_source(model) -> None:
    (found,) = masked_decode(model, head((-90, 0, 90)), [[5, 6]], [[7, 8, 9]], Decoding(12, (STOP,)))
    tokens, tags = found.token_ids.tolist(), found.tags.tolist()
    spans = runs(tokens, tags)
    assert len(tokens) == 12
    assert set(tags) == {B, I}
    assert all(occurs([7, 8, 9], span) for span in spans)
    assert found.fallbacks == len(spans) - 1 > 0
    assert not found.stopped


def test_a_head_that_never_copies_changes_nothing(model) -> None:
    """Against transformers' own greedy decoding."""
    (found,) = masked_decode(model, head((90, 0, 0)), [PROMPTS[0]], [PROMPTS[0]], Decoding(12, (STOP,)))
    (free,) = structured_decode(model, [None], [PROMPTS[0]], Decoding(12, (STOP,)))
    theirs = model.generate(
        torch.tensor([PROMPTS[0]]), max_new_tokens=12, do_sample=False, eos_token_id=STOP, pad_token_id=0
    )[0, len(PROMPTS[0]) :]
    assert found.token_ids.tolist() == free.token_ids.tolist() == theirs.tolist()
    assert not found.tags.any()


def test_a_row_is_the_same_alone_and_in_a_batch(model) -> None:
    tagger = head((0.0, 0.3, 0.3), 1, scale=20)
    together = masked_decode(model, tagger, PROMPTS, PROMPTS, Decoding(16, (STOP,)))
    for prompt, one in zip(PROMPTS, together, strict=True):
        (alone,) = masked_decode(model, tagger, [prompt], [prompt], Decoding(16, (STOP,)))
        assert alone.token_ids.tolist() == one.token_ids.tolist()
        assert alone.tags.tolist() == one.tags.tolist()


@pytest.mark.parametrize("seed", range(4))
def test_the_head_reads_the_state_that_predicts_the_token(model, seed: int) -> None:
    """Tags are those of the head on transformers' own states of prompt and response; I only within a span."""
    tagger = head((0.0, 0.0, 0.0), seed, scale=30)
    (found,) = masked_decode(model, tagger, [PROMPTS[0]], [PROMPTS[0]], Decoding(16, ()))
    with torch.no_grad():
        states = model.model(torch.tensor([[*PROMPTS[0], *found.token_ids.tolist()]])).last_hidden_state[0]
        logits = tagger(states[len(PROMPTS[0]) - 1 : -1])
    inside = False
    for tag, row in zip(found.tags.tolist(), logits, strict=True):
        wanted = int(row.argmax() if inside else row[:2].argmax())
        assert tag == wanted or (wanted == I and tag == B)
        inside = tag != O


class Opened:
    """Opens with a marker, and then holds to another constraint."""

    def __init__(self, inner: CopyBetween, marker: int) -> None:
        self.inner, self.marker = inner, marker

    def allowed(self, drawn):
        return np.array([self.marker], np.int32) if not drawn else self.inner.allowed(drawn)


@pytest.mark.parametrize("seed", range(4))
def test_between_markers_a_random_model_quotes(model, seed: int) -> None:
    source, marker = [7, 8, 9, 10, 7, 11], 20
    constraint = CopyBetween(tuple(source), (marker,), (21,), least=2, stops=(STOP,))
    rows = [Opened(constraint, marker), None]
    held, free = structured_decode(model, rows, [[5, 6], [8]], Decoding(60, (STOP,), 1.0, seed))
    tokens = held.token_ids.tolist()
    assert tokens[0] == marker
    end = tokens.index(21)
    assert end >= 3
    assert occurs(source, tokens[1:end])
    assert free.token_ids.tolist()[0] != marker


def test_prompts_and_sources_come_in_pairs(model) -> None:
    with pytest.raises(ValueError, match="2 prompts, and sources or constraints of 1"):
        masked_decode(model, head((0, 0, 0)), PROMPTS[:2], PROMPTS[:1], Decoding(4, ()))
