"""Groups of rows in real vLLM on a CPU, beside the transformers engine: the same tokens from the same windows."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_kit import finish, run
from factories import ids
from test_evidence_hf import request
from tiny_models import tiny_llama
from vllm_kit import Running, started

from rollout.config import EngineConfig
from rollout.constraints import OneOf
from rollout.engine import Delta, Request, Sampling
from rollout.engines.hf import HfEngine
from rollout.engines.vllm import VllmEngine
from rollout.evidence.config import MergingConfig
from rollout.types import Prompt
from tests.needs import needs_vllm

pytestmark = [pytest.mark.slow, needs_vllm]

CONFIG = EngineConfig(
    max_model_len=256, max_concurrency=12, max_batched_tokens=64, kv_cache_gib=0.001, threads=1, weight_transfer="shm"
)
END = 30


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("llama")
    tiny_llama().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def running(model_path: Path) -> Iterator[Running]:
    with started(VllmEngine(str(model_path), CONFIG, 0)) as running:
        yield running


def by_hf(model_path: Path, work: Sequence[Request]) -> dict[str, Delta]:
    config = EngineConfig(kind="hf", max_model_len=256, max_concurrency=4)
    return run(HfEngine(str(model_path), config), lambda engine: finish(engine, work))


def like(number: int, merging: MergingConfig | None = None, **changes: Any) -> Request:
    one = request(number, size=60, new=12, **changes)
    return replace(one, evidence=replace(one.evidence, merging=merging or MergingConfig()))


@pytest.mark.parametrize("pooling", ["entropy", "mean", "exact"])
def test_greedy_tokens_are_those_of_the_transformers_engine(running: Running, model_path: Path, pooling: str) -> None:
    """Prompts are read in pieces (64 tokens a step), more groups than seats, plain requests among them."""
    work = [like(number, MergingConfig(pooling=pooling)) for number in range(7)]
    plain = [replace(request(number), key=f"plain{number}", evidence=None, max_new_tokens=30) for number in range(6)]
    expected = by_hf(model_path, [*work, *plain])
    found = running.finish([*work[:4], *plain, *work[4:]])
    for one in (*work, *plain):
        assert not found[one.key].error
        assert ids(found[one.key].token_ids) == ids(expected[one.key].token_ids)
        assert found[one.key].pointers.tolist() == expected[one.key].pointers.tolist()
        assert found[one.key].logprobs == pytest.approx(expected[one.key].logprobs, abs=1e-4)
    assert len({int(k) for one in work for k in found[one.key].pointers}) > (pooling == "entropy")


def test_sampling_is_by_seed_and_end_tokens_end_all_rows(running: Running) -> None:
    work = [like(number, sampling=Sampling(stop_token_ids=(3, 4, 5))) for number in range(5)]
    first, second = running.finish(work), running.finish([replace(one, key=f"again{one.key}") for one in work])
    for one in work:
        assert ids(first[one.key].token_ids) == ids(second[f"again{one.key}"].token_ids)
        assert first[one.key].pointers.tolist() == second[f"again{one.key}"].pointers.tolist()
        ends = [token in (3, 4, 5) for token in ids(first[one.key].token_ids)]
        assert not any(ends[:-1])
        assert ends[-1] == bool(first[one.key].stop)
    assert len({ids(first[one.key].token_ids) for one in work}) == len(work)
    assert any(delta.stop for delta in first.values())


def test_labels_with_and_without_windows(running: Running, model_path: Path) -> None:
    labels = OneOf(((5, END), (5, 6, END), (9, 2, 2, END)))
    sampling = Sampling(temperature=0.0, stop_token_ids=(END,))
    work = [like(number, sampling=sampling, constraint=labels) for number in range(4)]
    work += [replace(one, key=f"alone{one.key}", evidence=None) for one in work]
    expected, found = by_hf(model_path, work), running.finish(work)
    for one in work:
        assert ids(found[one.key].token_ids) == ids(expected[one.key].token_ids) in labels.labels
        assert found[one.key].logprobs == pytest.approx(expected[one.key].logprobs, abs=1e-4)


def test_windows_are_cached_once_and_read_by_later_queries(running: Running) -> None:
    wire = running.engine._wire
    running.finish([like(20)])
    prompts, cached = wire.prompt_tokens, wire.cached_tokens
    running.finish([like(21)])
    share = (wire.cached_tokens - cached) / (wire.prompt_tokens - prompts)
    assert share > 0.4  # whole pages of 32 tokens of windows with 60 and more; the row without evidence has none


def test_a_stopped_group_leaves_no_row_behind(running: Running) -> None:
    async def work() -> list[Delta]:
        engine = running.engine
        await engine.submit([replace(like(30), max_new_tokens=150)])
        found = await engine.poll(5.0)
        await engine.abort(["q30"])
        while not any(delta.done for delta in found):
            found += await engine.poll(1.0)
        return found

    found = running(work())
    assert found[-1].error == "aborted"
    tokens = np.concatenate([delta.token_ids for delta in found])
    assert 0 < len(tokens) == sum(len(delta.pointers) for delta in found) < 150
    assert not running.engine._llm.output_processor.request_states
    whole = running.finish([replace(like(30), max_new_tokens=len(tokens))])["q30"]
    assert ids(whole.token_ids) == ids(tokens)


def test_a_group_torn_apart_by_preemption_fails_by_name(running: Running) -> None:
    """What vLLM does for want of room, done here to every running request: keys and values are dropped."""

    async def work() -> list[Delta]:
        engine = running.engine
        await engine.submit([replace(like(40), max_new_tokens=150)])
        found = await engine.poll(5.0)
        await engine._llm.pause_generation(mode="keep", clear_cache=True)
        await engine._llm.resume_generation()
        while not any(delta.done for delta in found):
            found += await engine.poll(1.0)
        return found

    found = running(work())
    assert "torn apart" in found[-1].error
    kept = np.concatenate([delta.token_ids for delta in found])
    assert 0 < len(kept) < 150
    whole = running.finish([replace(like(40), max_new_tokens=len(kept))])["q40"]
    assert ids(whole.token_ids) == ids(kept)  # no token of a lone row among them


def test_what_has_no_room_is_refused_in_one_line(running: Running) -> None:
    many = request(50, windows=12)
    long = like(51)
    long = replace(long, evidence=replace(long.evidence, windows=(Prompt([1] * 250), *long.evidence.windows)))
    big = request(52, windows=11, size=180, new=20)
    parallel = request(53)
    parallel = replace(parallel, evidence=replace(parallel.evidence, merging="parallel"))
    ended = like(54, sampling=Sampling(stop_token_ids=tuple(range(1, 30))))
    found = running.finish([many, long, big, parallel, ended])
    assert "need 13 seats; engine.max_concurrency is 12" in found["q50"].error
    assert "window 1 of 4 has 250 tokens" in found["q51"].error
    assert "raise engine.kv_cache_gib" in found["q52"].error
    assert "engine.kind to hf" in found["q53"].error
    assert "ends in an end token" in found["q54"].error


def test_two_groups_that_each_could_have_half_the_room_do_not_wait_for_ever(running: Running) -> None:
    work = [like(60 + number) for number in range(6)]
    found = running(asyncio.wait_for(_all(running.engine, work), 60))
    assert all(not delta.error for delta in found.values())


async def _all(engine: VllmEngine, work: Sequence[Request]) -> dict[str, Delta]:
    return await finish(engine, work)
