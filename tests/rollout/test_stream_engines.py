"""Streams over real engines: every token has the log-prob of the weights that it names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from factories import ids
from stream_kit import Heard, all_rest, stretches, until
from tiny_models import log_probs, tiny_llama

from rollout.config import EngineConfig, RolloutConfig
from rollout.engine import Engine
from rollout.engines.actor import build_engine
from rollout.pool.pool import Pool
from rollout.transfer.weights import ShmSender
from tests.needs import needs_vllm

PROBE = [[1, 2, 3, 4, 5, 6, 7, 8], [9, 10, 11]]
LAST = 4
TOKENS = 480
HF = EngineConfig(kind="hf", max_model_len=512, max_concurrency=8, weight_transfer="shm")
VLLM = EngineConfig(
    max_model_len=512, max_concurrency=16, max_batched_tokens=64, kv_cache_gib=0.1, threads=1, weight_transfer="shm"
)
SLOW = [pytest.mark.slow, needs_vllm]


@pytest.fixture
def same_environment() -> Iterator[None]:
    """vLLM's engine sets variables of its process."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(HF, id="hf"),
        pytest.param(VLLM, id="vllm-abort", marks=SLOW),
        pytest.param(VLLM.model_copy(update={"in_flight": "recompute"}), id="vllm-recompute", marks=SLOW),
    ],
)
@pytest.mark.usefixtures("same_environment")
def test_every_token_has_the_log_prob_of_the_weights_that_it_names(tmp_path: Path, config: EngineConfig) -> None:
    models = [tiny_llama(seed=version, max_position_embeddings=512) for version in range(LAST + 1)]
    models[0].save_pretrained(tmp_path)

    def spawn(index: int) -> Engine:
        return build_engine(str(tmp_path), config, seed=index)

    heard, work = Heard(), stretches(8, TOKENS)

    def seen(version: int) -> bool:
        """Whether tokens of these weights came; a machine that has drawn all it had before then gets more to draw."""
        if any(version in heard.versions(each.request.key) for each in work):
            return True
        if all_rest(heard, work)():
            more = stretches(8, TOKENS, f"v{version}-")
            work.extend(more)
            stream.submit(more)
        return False

    sender = ShmSender(names="module" if config.kind == "hf" else "checkpoint")
    with Pool(spawn, config, RolloutConfig(repetition=None)) as pool, pool.stream() as stream:
        stream.submit(work)
        for version in range(1, LAST + 1):
            until(stream, heard, lambda version=version: seen(version - 1))
            reference = [log_probs(models[version], sequence) for sequence in PROBE]
            stream.publish(sender.send(models[version], version), PROBE, reference)
        until(stream, heard, lambda: seen(LAST) and all_rest(heard, work)())
        assert pool.stats().failures == 0
    sender.close()

    assert heard.failures() == 0
    spread = set()
    for each in work:
        done, prompt = heard.done[each.request.key], len(each.request.prompt)
        assert [segment.version for segment in done.segments] == sorted({s.version for s in done.segments})
        tokens = [*ids(each.request.prompt.token_ids), *ids(done.token_ids)]
        assert len(tokens) == prompt + TOKENS
        at = prompt
        for segment in done.segments:
            expected = log_probs(models[segment.version], tokens)[at - 1 : at - 1 + len(segment)]
            assert segment.logprobs == pytest.approx(expected, abs=1e-4)
            at += len(segment)
        spread |= {segment.version for segment in done.segments}
    assert spread == set(range(LAST + 1))
    assert any(len(heard.done[each.request.key].segments) > 1 for each in work)
