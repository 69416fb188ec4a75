"""How vLLM draws under k15: the sampler and the check of guesses by themselves, then in real engines on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from factories import ids
from tiny_models import tiny_llama
from vllm_kit import Running, started

from rollout.config import EngineConfig, SpeculativeConfig
from rollout.engine import Delta, Request, Sampling
from rollout.engines.vllm import VllmEngine
from rollout.partial import repeats
from rollout.types import Prompt, StopReason
from tests.needs import needs_vllm

CONFIG = EngineConfig(max_model_len=256, max_concurrency=32, max_batched_tokens=64, kv_cache_gib=0.1, threads=1)
WORDS = 32
"""Vocabulary of the tiny model."""


def batch_of(sampler_params: list[dict[str, Any]], known: list[int]) -> tuple[Any, Any]:
    """The parts of vLLM's model runner and of its sampling metadata that the sampler reads."""
    keys = [f"r{i}" for i in range(len(known))]
    params = [SimpleNamespace(extra_args={"k15_seed": 100 + i}) for i in range(len(known))]
    runner = SimpleNamespace(
        input_batch=SimpleNamespace(req_ids=keys, num_tokens_no_spec=np.array(known, np.int32)),
        requests={key: SimpleNamespace(sampling_params=one) for key, one in zip(keys, params, strict=True)},
    )
    temperature = torch.tensor([one.get("temperature", 1.0) for one in sampler_params])
    top_p = torch.tensor([one.get("top_p", 1.0) for one in sampler_params])
    metadata = SimpleNamespace(
        temperature=None if (temperature == 0).all() else temperature,
        all_random=bool((temperature > 0).all()),
        top_p=None if (top_p == 1).all() else top_p,
        top_k=None,
    )
    return runner, metadata


@needs_vllm
def test_rows_keep_their_own_temperature_and_nucleus() -> None:
    from rollout.engines.vllm_sampling import PositionSampler

    logits = 2 * torch.randn(4, 50, generator=torch.Generator().manual_seed(0))
    settings = [{"temperature": 0.0}, {"temperature": 0.5}, {"top_p": 0.3}, {}]
    seen: list[set[int]] = [set() for _ in settings]
    for position in range(300):
        runner, metadata = batch_of(settings, [position] * 4)
        out = PositionSampler(runner)(logits.clone(), metadata)
        tokens = out.sampled_token_ids[:, 0].tolist()
        values = out.logprobs_tensors.logprobs[:, 0].tolist()
        cut = logits[2].clone()
        order = cut.argsort(descending=True)
        probs = cut[order].softmax(0)
        cut[order[1:][probs.cumsum(0)[:-1] >= 0.3]] = float("-inf")
        for row, (scaled, token, value) in enumerate(
            zip([logits[0], logits[1] / 0.5, cut, logits[3]], tokens, values, strict=True)
        ):
            assert value == pytest.approx(scaled.log_softmax(0)[token].item(), abs=1e-5)
            seen[row].add(token)
    assert seen[0] == {int(logits[0].argmax())}
    assert len(seen[1]) < len(seen[3])
    assert len(seen[3]) > 10
    assert seen[2] == set(torch.where(cut > float("-inf"))[0].tolist())


@needs_vllm
def test_guesses_change_no_token_and_are_kept_up_to_the_first_wrong_one() -> None:
    from rollout.engines.vllm_sampling import PositionSampler, Verifier

    rng = torch.Generator().manual_seed(3)
    counts, known = [3, 0, 2, 1], [10, 20, 30, 40]
    logits = 2 * torch.randn(sum(counts) + len(counts), 9, generator=rng)
    runner, metadata = batch_of([{}] * 4, known)
    sampler = PositionSampler(runner)
    one_by_one: list[list[tuple[int, float]]] = []
    row = 0
    for request, count in enumerate(counts):
        one_by_one.append([])
        for ahead in range(count + 1):
            alone, one = batch_of([{}] * 4, [n + ahead for n in known])
            out = PositionSampler(alone)(logits[row].expand(4, -1), one)
            one_by_one[-1].append((int(out.sampled_token_ids[request]), float(out.logprobs_tensors.logprobs[request])))
            row += 1
    right = [[token for token, _ in drawn] for drawn in one_by_one]
    guesses = [right[0][:3], [], [right[2][0], (right[2][1] + 1) % 9], [(right[3][0] + 1) % 9]]
    plan = SimpleNamespace(
        num_draft_tokens=counts,
        max_spec_len=3,
        draft_token_ids=torch.tensor([token for guess in guesses for token in guess], dtype=torch.int32),
    )
    out = Verifier(sampler)(plan, None, logits, metadata)
    assert out.sampled_token_ids.tolist() == [
        right[0],
        [right[1][0], -1, -1, -1],
        [right[2][0], right[2][1], -1, -1],
        [right[3][0], -1, -1, -1],
    ]
    kept = out.sampled_token_ids.flatten() >= 0
    expected = [value for drawn, n in zip(one_by_one, (4, 1, 2, 1), strict=True) for _, value in drawn[:n]]
    assert out.logprobs_tensors.logprobs[kept, 0].tolist() == pytest.approx(expected, abs=1e-6)
    with pytest.raises(ValueError, match="rejection sampling"):
        Verifier(sampler)(plan, logits, logits, metadata)


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("llama")
    tiny_llama().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def plain(model_path: Path) -> Iterator[Running]:
    with started(VllmEngine(str(model_path), CONFIG, 0)) as running:
        yield running


@pytest.fixture(scope="module", params=["ngram", "span"])
def guessing(model_path: Path, request: pytest.FixtureRequest) -> Iterator[Running]:
    guesses = SpeculativeConfig(method=request.param, tokens=5, min_ngram=1, max_ngram=4)
    with started(VllmEngine(str(model_path), CONFIG.model_copy(update={"speculative": guesses}), 0)) as running:
        yield running


def requests(count: int, tokens: int = 60, **sampling: Any) -> list[Request]:
    prompts = [Prompt([(3 * i + j) % 29 + 1 for j in range(5 + i % 7)]) for i in range(count)]
    return [Request(f"r{i}", prompt, tokens, Sampling(**sampling), 900 + i) for i, prompt in enumerate(prompts)]


def continued(request: Request, drawn: Delta, tokens: int) -> Request:
    return Request(request.key, request.prompt.followed_by(drawn.token_ids), tokens, request.sampling, request.seed)


@pytest.mark.slow
@needs_vllm
def test_neither_company_nor_cuts_change_what_a_request_draws(plain: Running) -> None:
    work = requests(24)
    together = plain.finish(work)
    for request in work[::6]:
        alone = plain.finish([request])[request.key]
        assert ids(alone.token_ids) == ids(together[request.key].token_ids)
        first = plain.finish([Request(request.key, request.prompt, 13, request.sampling, request.seed)])[request.key]
        rest = plain.finish([continued(request, first, 47)])[request.key]
        assert ids(first.token_ids) + ids(rest.token_ids) == ids(alone.token_ids)
    assert len({tuple(ids(delta.token_ids)[-8:]) for delta in together.values()}) == len(work)


@pytest.mark.slow
@needs_vllm
@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.6}, {"top_p": 0.7}])
def test_first_tokens_are_spread_as_the_model_says(plain: Running, sampling: dict[str, float]) -> None:
    prompt, count = Prompt([5, 9, 2, 7]), 3000
    drawn = plain.finish([Request(f"{i}", prompt, 1, Sampling(**sampling), i) for i in range(count)])
    counts = np.bincount([int(delta.token_ids[0]) for delta in drawn.values()], minlength=WORDS)
    with torch.no_grad():
        logits = tiny_llama()(torch.tensor([ids(prompt.token_ids)])).logits[0, -1]
    probs = (logits / sampling.get("temperature", 1.0)).softmax(-1)
    if "top_p" in sampling:
        order = probs.argsort(descending=True)
        out = order[1:][probs[order].cumsum(0)[:-1] >= sampling["top_p"]]
        probs[out] = 0
        assert counts[out.numpy()].sum() == 0
        probs /= probs.sum()
    for token, delta in enumerate(probs.tolist()):
        assert abs(counts[token] - count * delta) < 4.5 * (count * delta * (1 - delta)) ** 0.5 + 1
    for delta in list(drawn.values())[:50]:
        assert delta.logprobs[0] == pytest.approx(probs[int(delta.token_ids[0])].log().item(), abs=1e-4)


@pytest.mark.slow
@needs_vllm
def test_guesses_leave_tokens_log_probs_and_ends_as_they_are(plain: Running, guessing: Running) -> None:
    pattern = {"repetition_min_pattern": 1, "repetition_max_pattern": 8, "repetition_count": 4}
    steps = [plain.engine._wire.steps, guessing.engine._wire.steps]
    for sampling in ({}, {"temperature": 0.4}, {"temperature": 0.0}, {"top_p": 0.8}, {"temperature": 0.3, **pattern}):
        work = requests(20, 90, stop_token_ids=(3,), **sampling)
        one_by_one, guessed = plain.finish(work), guessing.finish(work)
        for key, delta in one_by_one.items():
            assert ids(guessed[key].token_ids) == ids(delta.token_ids)
            assert guessed[key].logprobs == pytest.approx(delta.logprobs, abs=1e-4)
            assert guessed[key].stop is delta.stop
        if "repetition_count" in sampling:
            looped = [delta for delta in guessed.values() if delta.stop is StopReason.REPETITION]
            assert looped
            assert all(repeats(ids(delta.token_ids), 1, 8, 4) for delta in looped)
            assert not any(repeats(ids(delta.token_ids)[:-1], 1, 8, 4) for delta in looped)
    assert guessing.engine._wire.steps - steps[1] < plain.engine._wire.steps - steps[0]


@pytest.mark.slow
@needs_vllm
def test_text_that_repeats_itself_takes_fewer_steps_up_to_the_end_of_the_context(
    plain: Running, guessing: Running
) -> None:
    """Near it vLLM guesses nothing for a whole batch, but has to verify zeros."""
    work = [replace(one, max_new_tokens=256 - len(one.prompt)) for one in requests(4, temperature=0.0)]
    expected = plain.finish(work)
    before = guessing.engine._wire.steps
    drawn = guessing.finish(work)
    assert {key: ids(delta.token_ids) for key, delta in drawn.items()} == {
        key: ids(delta.token_ids) for key, delta in expected.items()
    }
    assert guessing.engine._wire.steps - before < 160
