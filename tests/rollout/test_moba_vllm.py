"""MoBA in vLLM: engine and learner compute the same sparse attention, however the engine cuts up the work."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from kernels.moba import MobaConfig, moba_attention
from rl.config import RunConfig
from rl.learner.learner import Learner
from rl.learner.spec import LearnerSpec
from rollout.config import EngineConfig
from rollout.engine import EngineDead, Request, Sampling
from rollout.engines.vllm import VllmEngine
from rollout.engines.vllm_arguments import engine_arguments, environment
from rollout.models import moba
from rollout.models.attention import AttentionConfig, BlockAttentionConfig, RotaryStage
from rollout.transfer.weights import ShmSender
from rollout.types import Prompt
from tests.needs import needs_vllm
from tests.tiny_models import tiny_llama

pytestmark = [pytest.mark.slow, needs_vllm]

torch.set_num_threads(1)
FULL = 100
"""First version with full attention (time hybrid)."""
BLOCK = BlockAttentionConfig(block_size=32, top_k=2, full_last_layers=1, full_from=FULL)
CONTEXT = 512
TRAINED = 128
STAGES = (
    RotaryStage(iteration=50, base=50_000.0),
    RotaryStage(iteration=51, scaling="yarn", factor=4, trained=TRAINED),
)
PAGES = 40
"""Of 32 tokens: 2.5 full contexts."""
LAYERS, HEADS, KV_HEADS, HEAD_DIM = 3, 4, 2, 32
CONFIG = EngineConfig(
    max_model_len=CONTEXT,
    max_concurrency=16,
    threads=1,
    weight_transfer="shm",
    kv_cache_gib=PAGES * 32 * 2 * KV_HEADS * HEAD_DIM * 4 * LAYERS / 2**30,
    # Prompts are cut into chunks that end inside of blocks and pages.
    extra={"enable_chunked_prefill": True, "max_num_batched_tokens": 75},
)
TIGHT = 1e-4
"""Largest gap in nats; the dense model is held to the same."""
LENGTHS = [500, 333, 200, 129, 97, 65, 64, 33, 2]


class Pair:
    """An engine, a learner on the same weights, and dense learners for comparison."""

    def __init__(self, path: Path) -> None:
        self.engine = VllmEngine(str(path), CONFIG, 0, AttentionConfig(moba=BLOCK, rotary=STAGES))
        self.sparse = Learner(LearnerSpec.of(settings(BLOCK)), path)
        self.dense = Learner(LearnerSpec.of(settings(None)), path)
        self.sender = ShmSender()
        self.runner = asyncio.Runner()

    def __call__(self, work: Awaitable[Any]) -> Any:
        async def waited() -> Any:
            return await work

        return self.runner.run(waited())

    def publish(self, version: int, seed: int) -> None:
        """New weights everywhere."""
        weights = policy(seed)
        for learner in (self.sparse, self.dense):
            learner.model.load_state_dict(weights.state_dict())
        self.sparse.enter(version)
        self.dense.enter(version)
        self(self.engine.update_weights(self.sender.send(weights, version)))

    def sample(self, prompts: list[list[int]], tokens: int, **sampling: Any) -> list[tuple[list[int], list[float]]]:
        """Responses with the engine's log-probs, all prompts at once; unseeded, since chunks and seeds do not mix."""
        requests = [Request(f"r{i}", Prompt(tuple(p)), tokens, Sampling(**sampling)) for i, p in enumerate(prompts)]

        async def work() -> list[tuple[list[int], list[float]]]:
            await self.engine.submit(requests)
            drawn: dict[str, tuple[list[int], list[float]]] = {request.key: ([], []) for request in requests}
            done = 0
            while done < len(requests):
                for delta in await self.engine.poll(1.0):
                    drawn[delta.key][0].extend(delta.token_ids.tolist())
                    drawn[delta.key][1].extend(delta.logprobs)
                    done += delta.done
                    assert not delta.error
            return [drawn[request.key] for request in requests]

        return self(work())


def settings(block: BlockAttentionConfig | None) -> RunConfig:
    model = {"attention": {"moba": block, "rotary": STAGES}, "threads": 1}
    return RunConfig.model_validate(
        {"model": model, "engine": {"max_model_len": CONTEXT}, "rollout": {"max_tokens": 400}}
    )


def policy(seed: int, positions: int = TRAINED) -> torch.nn.Module:
    return tiny_llama(
        seed=seed,
        num_hidden_layers=LAYERS,
        hidden_size=HEADS * HEAD_DIM,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        max_position_embeddings=positions,
    )


def tokens(length: int, seed: int = 0) -> list[int]:
    return torch.randint(0, 32, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    path, before = tmp_path_factory.mktemp("llama"), dict(os.environ)
    policy(0).save_pretrained(path)
    pair = Pair(path)
    pair(pair.engine.start())
    yield pair
    pair(pair.engine.close())
    pair.runner.close()
    pair.sender.close()
    os.environ.clear()
    os.environ.update(before)


def gaps(a: list[list[float]], b: list[list[float]]) -> torch.Tensor:
    assert [len(row) for row in a] == [len(row) for row in b]
    x, y = (torch.tensor([value for row in part for value in row], dtype=torch.float64) for part in (a, b))
    return (x - y).abs()


def far(a: list[list[float]], b: list[list[float]]) -> float:
    """Largest difference, NaN included."""
    return gaps(a, b).max().item()


def typical(a: list[list[float]], b: list[list[float]]) -> float:
    """Median difference, NaN included."""
    return gaps(a, b).median().item()


def test_parity_gate_beyond_block_size_times_top_k(pair: Pair) -> None:
    """As tight as the dense model on the same weights and sequences, and far apart when only one side is sparse."""
    rows = [tokens(n, n) for n in LENGTHS]
    pair.publish(1, seed=1)
    engine, learner, dense = pair(pair.engine.score(rows)), pair.sparse.score(rows), pair.dense.score(rows)
    assert far(engine, learner) < TIGHT
    assert far(engine, dense) > 0.1, "with block attention in the engine only, the gate must fail"
    assert far(learner, dense) > 0.1
    beyond = [row[BLOCK.dense_tokens - 1 :] for row in engine]
    within = [row[: BLOCK.dense_tokens - 1] for row in engine]
    assert far(within, [row[: BLOCK.dense_tokens - 1] for row in dense]) < TIGHT, "early positions see everything"
    assert far(beyond, [row[BLOCK.dense_tokens - 1 :] for row in learner]) < TIGHT


@pytest.mark.parametrize("temperature", [1.0, 0.0])
def test_decoded_tokens_have_the_learners_logprobs(pair: Pair, temperature: float) -> None:
    pair.publish(2, seed=2)
    prompts = [tokens(n, n) for n in (3, 60, 64, 120, 222)]
    drawn = pair.sample(prompts, 250, temperature=temperature)
    whole = pair.sparse.score([prompt + row for prompt, (row, _) in zip(prompts, drawn, strict=True)])
    theirs = [row[len(prompt) - 1 :] for prompt, row in zip(prompts, whole, strict=True)]
    assert far([values for _, values in drawn], theirs) < TIGHT


def test_prefix_cache_hits_are_sparse_too(pair: Pair) -> None:
    from vllm import SamplingParams
    from vllm.inputs.engine import tokens_input

    pair.publish(3, seed=3)
    shared = tokens(300, 5)

    async def cached(name: str, row: list[int]) -> int:
        params = SamplingParams(max_tokens=1, detokenize=False)
        async for output in pair.engine._llm.generate(tokens_input(row), params, name):
            last = output
        return last.num_cached_tokens

    rows = [shared, shared + tokens(30, 6), shared[:200]]
    hits = [pair(cached(f"cached-{n}", row)) for n, row in enumerate(rows)]
    assert hits[0] == 0
    assert hits[1] >= 288, "the prefix cache was not used"
    assert hits[2] >= 160, "the prefix cache was not used"
    for row, (drawn, values) in zip(rows, pair.sample(rows, 40), strict=True):
        assert far([values], [pair.sparse.score([row + drawn])[0][len(row) - 1 :]]) < TIGHT


def test_preempted_requests_are_recomputed_to_the_same(pair: Pair) -> None:
    """Twelve responses need more pages than there are, so some lose theirs halfway, and others take them over."""
    pair.publish(4, seed=4)
    prompts = [tokens(40 + n, 50 + n) for n in range(12)]
    needed = sum(-(-(len(prompt) + 150) // 32) for prompt in prompts)
    assert needed > 1.5 * PAGES
    assert sum(-(-len(prompt) // 32) for prompt in prompts) < PAGES, "all of them start at once"
    drawn = pair.sample(prompts, 150)
    whole = pair.sparse.score([prompt + row for prompt, (row, _) in zip(prompts, drawn, strict=True)])
    theirs = [row[len(prompt) - 1 :] for prompt, row in zip(prompts, whole, strict=True)]
    assert all(len(row) == 150 for row, _ in drawn)
    assert far([values for _, values in drawn], theirs) < TIGHT


def test_context_stages_change_the_rotary_embedding_on_both_sides(pair: Pair) -> None:
    """Own embedding, then a larger base, then YaRN on that base: far beyond the trained length, and under MoBA."""
    rows = [tokens(n, n) for n in LENGTHS[:3]]
    scores = []
    for version in (8, 50, 51, 52):
        pair.publish(version, seed=10)
        scores.append(pair(pair.engine.score(rows)))
        assert far(scores[-1], pair.sparse.score(rows)) < TIGHT
    assert far(scores[0], scores[1]) > 0.1
    assert far(scores[1], scores[2]) > 0.1
    assert far(scores[2], scores[3]) == 0


def test_publishes_and_switches_leave_nothing_behind(pair: Pair) -> None:
    """Time hybrid. Neither keys nor page sums of earlier weights, nor the other layout of the cache, survive."""
    rows = [tokens(n, n) for n in LENGTHS]
    for version, seed in ((60, 5), (FULL, 6), (61, 7), (FULL + 1, 8), (62, 9)):
        pair.publish(version, seed)
        for _ in range(2):
            scores = pair(pair.engine.score(rows))
            assert far(scores, pair.sparse.score(rows)) < TIGHT
            assert (far(scores, pair.dense.score(rows)) < TIGHT) == (version >= FULL), "full attention is vLLM's own"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("groups", "dim"), [(4, 64), (1, 128), (2, 96)])
def test_block_attention_over_vllms_own_cpu_pages(dtype: torch.dtype, groups: int, dim: int) -> None:
    """Chunks and decode in every dtype, whatever order vLLM keeps a page's keys in, against one-shot prefill."""
    from vllm import _custom_ops as ops
    from vllm.platforms import current_platform
    from vllm.v1.attention.backends.cpu_attn import _get_attn_isa

    from rollout.engines import moba_pages

    current_platform.import_kernels()
    gate, isa = MobaConfig(32, 3, 128), _get_attn_isa(dtype, 32, dim, "auto")
    kernel = moba_pages.Kernel(HEADS, groups, dim, dtype, isa)
    q, k, v = (torch.randn(300, heads, dim, dtype=dtype) for heads in (HEADS, groups, groups))
    cache = torch.zeros(11, groups, 32, 2 * dim, dtype=dtype)
    sums = torch.full((11, groups, dim), float("nan"))
    table = torch.randperm(11)[None].int()
    out, start = torch.empty_like(q), 0
    for size in (75, 1, 90, 16, *[1] * 10, 64, *[1] * 44):
        rows = torch.arange(start, start := start + size)
        slots = table[0, rows // 32].long() * 32 + rows % 32
        ops.cpu_attn_reshape_and_cache(k[rows], v[rows], *moba_pages.halves(cache), slots, isa)
        moba_pages.add_to_sums(sums, k[rows], slots, 32)
        work = moba_pages.plan(kernel, gate, [0, size], [start], table)
        part = torch.empty(size, HEADS, dim, dtype=dtype)
        step = (q[rows], k[rows], v[rows])
        moba_pages.attend(work, gate, dim**-0.5, isa, step, cache, sums, table, part)
        out[rows] = part
    keys, values = moba_pages.gather(cache, table[0], 300, isa)
    assert torch.equal(keys, k)
    assert torch.equal(values, v)
    expected = moba_attention(q, k, v, torch.tensor([0, 300]), 32, 3, full_below=128)
    torch.testing.assert_close(out, expected, atol=2e-2 if dtype.itemsize == 2 else 1e-5, rtol=0)


def test_a_gpu_block_layer_shares_flashattentions_cache_layout() -> None:
    """The layer's own code on CPU tensors: uneven chunks, then decode, equal one-shot prefill."""
    from types import SimpleNamespace

    from rollout.engines.moba_vllm_gpu import MobaFlashImpl

    layer = object.__new__(MobaFlashImpl)  # its constructor asks for a GPU
    layer.gate, layer.scale = MobaConfig(32, 2), HEAD_DIM**-0.5
    q, k, v = (torch.randn(200, heads, HEAD_DIM) for heads in (HEADS, KV_HEADS, KV_HEADS))
    cache = torch.full((9, KV_HEADS, 32, 2 * HEAD_DIM), float("nan"))
    table = torch.randperm(9)[None].int()
    out, start = torch.empty_like(q), 0
    for size in (75, 1, 90, *[1] * 34):
        rows = torch.arange(start, start := start + size)
        slots = table[0, rows // 32].long() * 32 + rows % 32
        layer.do_kv_cache_update(torch.nn.Identity(), k[rows], v[rows], cache, slots)
        lengths = {"seq_lens": torch.tensor([start]), "query_start_loc": torch.tensor([0, size])}
        lengths["on_host"] = [start], [0, size]
        step = SimpleNamespace(num_actual_tokens=size, max_query_len=size, causal=True, block_table=table, **lengths)
        part = torch.empty(size, HEADS, HEAD_DIM)
        layer.forward(torch.nn.Identity(), q[rows], k[rows], v[rows], cache, step, part)
        out[rows] = part
    expected = moba_attention(q, k, v, torch.tensor([0, 200]), 32, 2)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=0)
    first = table[0, 0]
    torch.testing.assert_close(cache[first, :, 0, :HEAD_DIM], k[0])
    torch.testing.assert_close(cache[first, :, 0, HEAD_DIM:], v[0])


@pytest.mark.gpu
def test_parity_on_a_gpu(tmp_path: Path) -> None:
    """As above with vLLM's CUDA build, in bfloat16, in which FlashAttention computes.

    Rounding makes some queries choose another block, which moves their tokens by nats; the median tells (0.04 on a CPU,
    0.5 where only one side is sparse).
    """
    path = tmp_path / "llama"
    policy(0, positions=CONTEXT).save_pretrained(path)
    config = EngineConfig(
        device="cuda",
        dtype="bfloat16",
        max_model_len=CONTEXT,
        gpu_memory_utilization=0.2,
        extra={"max_num_batched_tokens": 96},
    )
    engine = VllmEngine(str(path), config, 0, AttentionConfig(moba=BLOCK))
    rows = [tokens(n, n) for n in LENGTHS]

    async def work() -> list[list[float]]:
        await engine.start()
        scores = await engine.score(rows)
        await engine.close()
        return scores

    scores = asyncio.run(work())
    assert typical(scores, Learner(LearnerSpec.of(settings(BLOCK)), path).score(rows)) < 0.15
    assert typical(scores, Learner(LearnerSpec.of(settings(None)), path).score(rows)) > 0.3


def test_the_models_entry_reaches_vllm_as_its_configuration() -> None:
    arguments = engine_arguments("m", EngineConfig(), 0, AttentionConfig(moba=BLOCK))
    half = EngineConfig(device="cuda", dtype="bfloat16")
    gpu = engine_arguments("m", half, 0, AttentionConfig(moba=BLOCK))
    assert gpu["attention_backend"] == "CUSTOM", "FlashAttention itself stays as it is"
    assert BlockAttentionConfig.model_validate(arguments["hf_overrides"]["moba"]) == BLOCK
    assert "hf_overrides" not in engine_arguments("m", EngineConfig(), 0)
    with pytest.raises(ValueError, match=r"engine.dtype float32 does not go with block attention on cuda"):
        engine_arguments("m", EngineConfig(device="cuda"), 0, AttentionConfig(moba=BLOCK))


def test_a_model_that_was_trained_with_block_attention_is_opened_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ``k15 eval`` opens it: no attention given. What vLLM is then started with computes it: ``pair``."""
    from vllm.engine.arg_utils import AsyncEngineArgs

    model, started = policy(0), []
    moba.use(model, BLOCK, otherwise="sdpa")
    model.save_pretrained(tmp_path)

    def stop(arguments: Any, *_: Any) -> None:
        started.append(arguments)
        raise RuntimeError("seen enough")

    monkeypatch.setattr(AsyncEngineArgs, "create_engine_config", stop)
    for name in environment(CONFIG):
        monkeypatch.setenv(name, os.environ.get(name, ""))  # so that what the start sets goes again
    engine = VllmEngine(str(tmp_path), CONFIG)

    async def start() -> None:
        with pytest.raises(EngineDead, match="seen enough"):
            await engine.start()
        await engine.close()

    asyncio.run(start())
    assert engine.attention.moba == BLOCK
    expected = engine_arguments(str(tmp_path), CONFIG, 0, AttentionConfig(moba=BLOCK))
    assert {name: getattr(started[0], name) for name in ("hf_overrides", "worker_extension_cls")} == {
        name: expected[name] for name in ("hf_overrides", "worker_extension_cls")
    }
