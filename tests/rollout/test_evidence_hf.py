"""Evidence in windows behind the transformers engine, against rows computed anew at every step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine_kit import finish, run
from factories import ids, joined
from tiny_models import tiny_llama

from rollout.config import EngineConfig
from rollout.constraints import OneOf, packed, unpacked
from rollout.copying.spans import CopyBetween
from rollout.engine import Delta, Engine, Request, Sampling
from rollout.engines.hf import HfEngine
from rollout.evidence.config import MergingConfig
from rollout.evidence.merge import merge
from rollout.evidence.windows import Evidence, EvidenceError, shared_ending
from rollout.transfer.weights import ShmSender
from rollout.types import Prompt

CONFIG = EngineConfig(kind="hf", max_model_len=128, max_concurrency=4)
GREEDY = Sampling(temperature=0.0)


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("llama")
    tiny_llama().save_pretrained(path)
    return path


def tokens(seed: int, count: int) -> list[int]:
    return np.random.default_rng(seed).integers(1, 29, count).tolist()


def request(number: int = 0, windows: int = 3, size: int = 24, new: int = 8, **changes: Any) -> Request:
    """Windows of different lengths that are the same for every ``number``, and a question of its own."""
    question = tokens(1000 + number, 5)
    evidence = Evidence(tuple(Prompt(tokens(k, size + 3 * k) + question) for k in range(windows)), MergingConfig())
    return replace(Request(f"q{number}", Prompt(question), new, GREEDY, 7 + number, evidence=evidence), **changes)


def by_hand(
    request: Request, merging: MergingConfig | None = None, allowed: OneOf | None = None
) -> tuple[list[int], list[int], list[float]]:
    """Greedy tokens, pointers and log-probs: every row by itself, unpadded and without a cache."""
    assert request.evidence is not None
    model, drawn, pointers, logprobs, last = tiny_llama(), [], [], [], 0
    rows = [request.prompt, *request.evidence.windows]
    for _ in range(request.max_new_tokens):
        with torch.inference_mode():
            logits = torch.stack(
                [model(torch.tensor([[*row.token_ids.tolist(), *drawn]])).logits[0, -1] for row in rows]
            )
        if allowed is not None:
            keep = torch.tensor(allowed.allowed(drawn))
            forbidden = torch.ones(logits.shape[1], dtype=torch.bool).index_fill(0, keep.long(), False)
            logits = logits.masked_fill(forbidden, -torch.inf)
        step = merge(logits, merging or MergingConfig(), last)
        last = step.pointer
        drawn.append(int(step.logits.argmax()))
        pointers.append(last)
        logprobs.append(float(step.logits.log_softmax(-1)[drawn[-1]]))
        if allowed is not None and drawn[-1] in request.sampling.stop_token_ids:
            break
    return drawn, pointers, logprobs


@pytest.mark.parametrize("pooling", ["entropy", "mean", "exact"])
def test_all_rows_get_the_token_that_they_merge_to(model_path: Path, pooling: str) -> None:
    merging = MergingConfig(pooling=pooling)
    work = [request(number) for number in range(3)]
    work = [replace(one, evidence=replace(one.evidence, merging=merging)) for one in work]
    drawn = run(HfEngine(str(model_path), CONFIG), lambda engine: finish(engine, work))
    for one in work:
        expected, pointers, logprobs = by_hand(one, merging)
        assert ids(drawn[one.key].token_ids) == tuple(expected)
        assert drawn[one.key].pointers.tolist() == pointers
        assert drawn[one.key].logprobs == pytest.approx(logprobs, abs=1e-4)


def test_plain_requests_share_a_batch_with_groups(model_path: Path) -> None:
    plain = [replace(request(number), evidence=None) for number in range(2)]
    alone = run(HfEngine(str(model_path), CONFIG), lambda engine: finish(engine, plain))
    mixed = run(HfEngine(str(model_path), CONFIG), lambda engine: finish(engine, [request(5, new=3), *plain]))
    for one in plain:
        assert ids(mixed[one.key].token_ids) == ids(alone[one.key].token_ids)
        assert not len(mixed[one.key].pointers)
    assert ids(mixed["q5"].token_ids) == tuple(by_hand(request(5, new=3))[0])


def test_one_window_without_contrast_is_the_window_itself(model_path: Path) -> None:
    one = request(windows=1)
    neutral = replace(one.evidence, merging=MergingConfig(beta=0, top_p=1))
    plain = replace(one, prompt=one.evidence.windows[0], evidence=None)
    for temperature in (0.0, 1.0):
        sampling = Sampling(temperature=temperature)
        pair = [replace(one, evidence=neutral, sampling=sampling), replace(plain, sampling=sampling)]
        # The noise belongs to the position in the prompt, which differs; greedily there is none.
        found = [run(HfEngine(str(model_path), CONFIG), lambda engine, r=r: finish(engine, [r]))["q0"] for r in pair]
        if not temperature:
            assert ids(found[0].token_ids) == ids(found[1].token_ids)
            assert found[0].logprobs == pytest.approx(found[1].logprobs, abs=1e-5)


def test_seeded_sampling_is_reproducible_and_cut_responses_go_on_as_uncut(model_path: Path) -> None:
    whole = [request(number, new=10, sampling=Sampling()) for number in range(2)]

    async def in_two(engine: Engine) -> dict[str, Delta]:
        head = await finish(engine, [replace(one, max_new_tokens=4) for one in whole])
        rest = [
            replace(
                one,
                prompt=one.prompt.followed_by(head[one.key].token_ids),
                begun=4,
                max_new_tokens=6,
                evidence=one.evidence.after(head[one.key].pointers),
            )
            for one in whole
        ]
        tail = await finish(engine, rest)
        return {key: joined(head[key], tail[key]) for key in head}

    first, second = (run(HfEngine(str(model_path), CONFIG), lambda engine: finish(engine, whole)) for _ in range(2))
    assert first == second
    pieces = run(HfEngine(str(model_path), CONFIG), in_two)
    for key, delta in first.items():
        assert ids(pieces[key].token_ids) == ids(delta.token_ids)
        assert pieces[key].pointers.tolist() == delta.pointers.tolist()
        assert pieces[key].logprobs == pytest.approx(delta.logprobs, abs=1e-5)
    assert len({ids(delta.token_ids) for delta in first.values()}) == 2


def test_windows_are_computed_once_and_read_by_all_queries(model_path: Path) -> None:
    async def work(engine: HfEngine) -> tuple[dict[str, Delta], list[int]]:
        found: dict[str, Delta] = {}
        computed = []
        for batch in ([request(0), request(1)], [request(2)], [request(3), request(4)]):
            found |= await finish(engine, batch)
            computed.append(engine._windows.computed)
        return found, computed

    found, computed = run(HfEngine(str(model_path), CONFIG), work)
    windows = request().evidence.windows
    assert computed == [sum(map(len, windows)) - 3 * 5] * 3  # without the questions, and never again
    for number in range(5):
        assert ids(found[f"q{number}"].token_ids) == tuple(by_hand(request(number))[0])


def test_new_weights_forget_the_windows(model_path: Path) -> None:
    other = tiny_llama(seed=5)
    sender = ShmSender()

    async def work(engine: HfEngine) -> tuple[Delta, Delta]:
        before = await finish(engine, [request()])
        await engine.update_weights(sender.send(other, 1))
        return before["q0"], (await finish(engine, [request()]))["q0"]

    before, after = run(HfEngine(str(model_path), CONFIG), work)
    fresh_path = model_path.parent / "other"
    other.save_pretrained(fresh_path)
    fresh = run(HfEngine(str(fresh_path), CONFIG), lambda engine: finish(engine, [request()]))["q0"]
    sender.close()
    assert ids(after.token_ids) == ids(fresh.token_ids) != ids(before.token_ids)
    assert after.logprobs == pytest.approx(fresh.logprobs, abs=1e-5)


def test_labels_are_all_that_can_be_drawn_and_the_vote_is_over_them(model_path: Path) -> None:
    end = 30
    labels = OneOf(((5, end), (5, 6, end), (9, 2, 2, end)))  # the first begins the second
    sampling = Sampling(temperature=0.0, stop_token_ids=(end,))
    work = [request(number, sampling=sampling, constraint=labels) for number in range(4)]
    drawn = run(HfEngine(str(model_path), CONFIG), lambda engine: finish(engine, work))
    for one in work:
        expected, pointers, logprobs = by_hand(one, allowed=labels)
        found = drawn[one.key]
        assert ids(found.token_ids) == tuple(expected) in labels.labels
        assert found.pointers.tolist() == pointers
        assert found.logprobs == pytest.approx(logprobs, abs=1e-4)
    sampled = [
        replace(one, sampling=Sampling(stop_token_ids=(end,)), evidence=None, key=f"s{n}", seed=n)
        for n, one in enumerate(work * 5)
    ]
    found = run(HfEngine(str(model_path), CONFIG), lambda engine: finish(engine, sampled))
    assert {ids(delta.token_ids) for delta in found.values()} <= set(labels.labels)


def test_a_copy_between_markers_is_a_span_of_the_source_also_in_windows(model_path: Path) -> None:
    source, opening, closing = tokens(77, 12), (3,), (4,)
    held = CopyBetween(tuple(source), opening, closing, least=2, stops=(30,))
    work = [request(number, new=40, sampling=Sampling(), constraint=held) for number in range(6)]
    work += [replace(one, key=f"alone{one.key}", evidence=None) for one in work]
    found = run(HfEngine(str(model_path), CONFIG), lambda engine: finish(engine, work))
    spans = {tuple(source[i:j]) for i in range(12) for j in range(i + 1, 13)}
    copies = 0
    for delta in found.values():
        drawn = ids(delta.token_ids)
        at = 0
        while 3 in drawn[at:]:
            begin = drawn.index(3, at) + 1
            end = drawn.index(4, begin) if 4 in drawn[begin:] else len(drawn)
            assert drawn[begin:end] in spans | {()}
            copies += end > begin
            at = end + 1
    assert copies > 5
    assert unpacked(packed(held)) == held


def test_parallel_windows_are_one_row_that_sees_them_all_at_the_same_positions(model_path: Path) -> None:
    one = request(new=4)
    work = [replace(one, evidence=replace(one.evidence, merging="parallel"))]
    found = run(HfEngine(str(model_path), CONFIG), lambda engine: finish(engine, work))["q0"]
    windows = [window.token_ids[:-5].tolist() for window in one.evidence.windows]
    question, drawn = one.prompt.token_ids.tolist(), []
    model = tiny_llama()
    for _ in range(4):
        behind = [*question, *drawn]
        stream = [token for window in windows for token in window] + behind
        positions = [at for window in windows for at in range(len(window))]
        positions += list(range(max(map(len, windows)), max(map(len, windows)) + len(behind)))
        block = [k for k, window in enumerate(windows) for _ in window] + [-1] * len(behind)
        sees = torch.tensor(
            [
                [j <= i and (block[i] < 0 or block[i] == block[j]) for j in range(len(stream))]
                for i in range(len(stream))
            ]
        )
        mask = torch.zeros(sees.shape).masked_fill(~sees, torch.finfo(torch.float32).min)[None, None]
        with torch.inference_mode():
            logits = model(torch.tensor([stream]), attention_mask=mask, position_ids=torch.tensor([positions])).logits
        drawn.append(int(logits[0, -1].argmax()))
    assert ids(found.token_ids) == tuple(drawn)
    assert not len(found.pointers)


def test_what_cannot_be_read_is_refused_in_one_line(model_path: Path) -> None:
    long = request(0, size=130)
    foreign = request(1)
    foreign = replace(foreign, evidence=replace(foreign.evidence, windows=(Prompt([1, 2, 5000]),)))
    apart = replace(request(2), evidence=Evidence((Prompt([1, 2, 3]), Prompt([1, 2, 4])), "parallel"))
    astray = replace(request(3), prompt=Prompt([1, 2, 3]), begun=1, constraint=OneOf(((5, 30),)))
    found = run(HfEngine(str(model_path), CONFIG), lambda engine: finish(engine, [long, foreign, apart, astray]))
    assert "window 1 of 3 has 135 tokens" in found["q0"].error
    assert "another tokenizer" in found["q1"].error
    assert "do not end in one question" in found["q2"].error
    assert "begin none of the labels" in found["q3"].error


def test_empty_windows_are_refused() -> None:
    with pytest.raises(EvidenceError, match="no window"):
        Evidence(())
    with pytest.raises(EvidenceError, match="window 2 of 2 is empty"):
        Evidence((Prompt([1]), Prompt([])))


def test_what_windows_share_at_their_end() -> None:
    rows = [np.array(row, np.int32) for row in ([1, 2, 3, 7, 8], [9, 7, 8], [5, 5, 7, 8])]
    assert shared_ending(rows) == 2
    assert shared_ending([rows[0], rows[0]]) == 4  # a window keeps at least a token
