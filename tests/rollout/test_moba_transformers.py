"""MoBA inside transformers models: packing, padding, caches, layer and time hybrids, and the learner's own forward."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from factories import ids
from transformers import (
    AttentionInterface,
    DynamicCache,
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    StaticCache,
)

from kernels.moba import MobaConfig, moba_attention_reference, moba_mask_reference
from rl.config import RunConfig
from rl.learner.batch import cumulative
from rl.learner.config import ModelConfig
from rl.learner.forward import packed_logprobs
from rl.learner.host import LearnerHost
from rl.learner.learner import Learner
from rl.learner.policy import PolicyError, prepare
from rl.learner.spec import LearnerSpec, Receivers
from rollout.config import EngineConfig
from rollout.engine import Request, Sampling
from rollout.engines.hf import HfEngine
from rollout.models import moba
from rollout.models.attention import AttentionConfig, BlockAttentionConfig
from rollout.types import Prompt
from tests.tiny_models import tiny_llama

torch.set_num_threads(1)  # tiny tensors: a second thread only waits, for long on a busy machine
BLOCK = BlockAttentionConfig(block_size=16, top_k=2)
LENGTHS = [130, 1, 33, 15, 64, 97, 20]
CPU = ModelConfig(threads=1)


def truth(module: torch.nn.Module, query: Any, key: Any, value: Any, mask: Any, scaling: float, **_: Any) -> Any:
    """One unpadded sequence through the dense-mask reference; layers that stay full have more blocks than keys."""
    block = moba.read(module.config)
    full = block.is_full(module.layer_idx, module.config.num_hidden_layers)
    config = MobaConfig(block.block_size, 10_000 if full else block.top_k, block.full_below)
    q, k, v = (part[0].transpose(0, 1) for part in (query, key, value))
    ends = torch.tensor([0, len(q)])
    return moba_attention_reference(q, k, v, ends, config, ends, scaling)[None], None


AttentionInterface.register("test_truth", truth)


def model(block: BlockAttentionConfig | None = BLOCK, implementation: str = "moba", **changes: Any) -> LlamaForCausalLM:
    made = tiny_llama(**{"num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, **changes})
    if block is not None:
        moba.use(made, block, otherwise="sdpa")
        made.set_attn_implementation(implementation)
    return made


def sequences(lengths: list[int] = LENGTHS, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 32, (n,), generator=generator) for n in lengths]


def alone(made: LlamaForCausalLM, rows: list[torch.Tensor]) -> list[torch.Tensor]:
    """Logits of each sequence by itself under the reference."""
    reference = model(moba.read(made.config), "test_truth", num_hidden_layers=made.config.num_hidden_layers)
    reference.load_state_dict(made.state_dict())
    return [reference(row[None], use_cache=False).logits[0] for row in rows]


HYBRIDS = [BLOCK, BLOCK.model_copy(update={"full_last_layers": 1}), BLOCK.model_copy(update={"full_below": 48})]


@pytest.mark.parametrize("block", HYBRIDS, ids=["all", "layer hybrid", "full below"])
def test_the_learners_packed_pass_is_that_of_each_sequence_alone(
    block: BlockAttentionConfig,
) -> None:
    policy = prepare(model(None), CPU.model_copy(update={"attention": AttentionConfig(moba=block)}))
    reference = model(block, "test_truth")
    rows = [row for row in sequences() if len(row) > 1]
    tokens, cu_seqlens = torch.cat(rows), cumulative([len(row) for row in rows])
    follows = torch.ones(len(tokens), dtype=torch.bool)
    follows[cu_seqlens[:-1].long()] = False
    ours, _ = packed_logprobs(policy, tokens, cu_seqlens, follows.nonzero().flatten())
    logits = [reference(row[None], use_cache=False).logits[0, :-1].log_softmax(-1) for row in rows]
    theirs = torch.cat([part.gather(1, row[1:, None])[:, 0] for part, row in zip(logits, rows, strict=True)])
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=0)
    ours.square().sum().backward()
    theirs.square().sum().backward()
    for (name, a), b in zip(policy.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=2e-3, rtol=2e-4, msg=name)


def test_a_hybrid_is_neither_full_attention_nor_all_block_attention() -> None:
    row = sequences([200])[0][None]
    full, last, block = (model(part)(row).logits for part in (None, HYBRIDS[1], BLOCK))
    assert (full - block).abs().max() > 0.1
    assert (full - last).abs().max() > 0.1
    assert (block - last).abs().max() > 0.1


def test_as_many_blocks_as_the_sequence_has_are_full_attention() -> None:
    row = sequences([199])[0][None]
    for block in (
        BlockAttentionConfig(block_size=16, top_k=13),
        BlockAttentionConfig(block_size=16, top_k=1, full_below=208),
    ):
        torch.testing.assert_close(model(block)(row).logits, model(None)(row).logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_honoured(side: str) -> None:
    made, rows = model(HYBRIDS[1]), sequences()
    width = max(LENGTHS)
    inputs, mask = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width, dtype=torch.long)
    places = [slice(width - len(row), width) if side == "left" else slice(0, len(row)) for row in rows]
    for i, (row, place) in enumerate(zip(rows, places, strict=True)):
        inputs[i, place], mask[i, place] = row, 1
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    logits = made(inputs, attention_mask=mask, position_ids=positions, use_cache=False).logits
    assert logits.isfinite().all()
    for i, expected in enumerate(alone(made, rows)):
        torch.testing.assert_close(logits[i, places[i]], expected, atol=2e-5, rtol=0)


def test_packing_by_positions_that_start_again() -> None:
    made, rows = model(), sequences()
    positions = torch.cat([torch.arange(len(row)) for row in rows])
    logits = made(torch.cat(rows)[None], position_ids=positions[None], use_cache=False).logits[0]
    torch.testing.assert_close(logits, torch.cat(alone(made, rows)), atol=2e-5, rtol=0)


def test_rows_without_padding_are_sequences_of_their_own() -> None:
    made, rows = model(), sequences([70, 70, 70])
    logits = made(torch.stack(rows), use_cache=False).logits
    torch.testing.assert_close(logits, torch.stack(alone(made, rows)), atol=2e-5, rtol=0)


@pytest.mark.parametrize("static", [False, True])
def test_a_cache_filled_in_uneven_steps_changes_nothing(static: bool) -> None:
    """Prefill in chunks and decode token by token: q_len differs from kv_len, and the result is still sparse."""
    made = model(HYBRIDS[1])
    row = sequences([150])[0]
    cache = StaticCache(config=made.config, max_cache_len=180) if static else DynamicCache(config=made.config)
    logits = [made(part[None], past_key_values=cache).logits[0] for part in row.split([40, 1, 23, 50, *[1] * 36])]
    torch.testing.assert_close(torch.cat(logits), alone(made, [row])[0], atol=2e-5, rtol=0)


def test_generate_after_left_padding() -> None:
    made = model()
    rows = sequences([90, 41])
    inputs = torch.stack([rows[0], torch.nn.functional.pad(rows[1], (49, 0))])
    mask = torch.stack([torch.ones(90), torch.nn.functional.pad(torch.ones(41), (49, 0))]).long()
    drawn = made.generate(inputs, attention_mask=mask, max_new_tokens=40, do_sample=False, pad_token_id=0)
    for row, tokens in zip(rows, drawn[:, 90:], strict=True):
        expected = alone(made, [torch.cat([row, tokens])])[0][len(row) - 1 : -1].argmax(-1)
        assert tokens.tolist() == expected.tolist()


def test_bfloat16_autocast() -> None:
    made, row = model(), sequences([150])[0][None]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = made(row, use_cache=False).logits
    assert torch.corrcoef(torch.stack([low.float().flatten(), made(row).logits.flatten()]))[0, 1] > 0.98


def test_the_entry_is_saved_with_the_model(tmp_path: Path) -> None:
    made, row = model(HYBRIDS[1]), sequences([120])[0][None]
    made.save_pretrained(tmp_path)
    loaded = LlamaForCausalLM.from_pretrained(tmp_path, attn_implementation="moba")
    assert moba.read(loaded.config) == HYBRIDS[1]
    torch.testing.assert_close(loaded(row).logits, made(row).logits)
    with pytest.raises(PolicyError, match=r"trained with block attention.*set model.attention.moba"):
        prepare(LlamaForCausalLM.from_pretrained(tmp_path), CPU)


def test_what_would_change_the_result_is_refused() -> None:
    made, row = model(), sequences([40])[0][None]
    with pytest.raises(ValueError, match="padding mask"):
        made(row, attention_mask=torch.zeros(1, 1, 40, 40))
    with pytest.raises(ValueError, match=r"full_last_layers \(3\) leaves none of the 3 layers"):
        moba.use(made, BLOCK.model_copy(update={"full_last_layers": 3}), "sdpa")
    too_many = BLOCK.model_copy(update={"full_last_layers": 4})
    with pytest.raises(PolicyError, match="leaves none of the 3 layers"):
        prepare(model(None), CPU.model_copy(update={"attention": AttentionConfig(moba=too_many)}))
    del made.config.moba
    with pytest.raises(ValueError, match="finds no 'moba' entry"):
        made(row)
    sizes = {"vocab_size": 32, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    windowed = MistralForCausalLM(MistralConfig(**sizes, **heads, sliding_window=20))
    moba.use(windowed, BLOCK, "sdpa")
    with pytest.raises(ValueError, match="no sliding window"):
        windowed(row)
    capped = Gemma2ForCausalLM(Gemma2Config(**sizes, **heads))
    moba.use(capped, BLOCK, "sdpa")
    with pytest.raises(ValueError, match="softcap"):
        capped(row)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block_size": 0}, "block_size"),
        ({"top_k": 0}, "top_k"),
        ({"full_below": 20}, r"full_below \(20\) is not a multiple of block_size \(16\)"),
        ({"full_from": 0}, "full_from"),
    ],
)
def test_impossible_settings(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BlockAttentionConfig(**{"block_size": 16, "top_k": 2, **changes})


def run_config(block: BlockAttentionConfig | None, **changes: Any) -> RunConfig:
    sizes = {"layers": 3, "width": 32, "heads": 4, "kv_heads": 2, "mlp_width": 48, "context": 256}
    source = {"kind": "arithmetic", "steps": [2, 2]}
    return RunConfig.model_validate(
        {
            "model": {"base": {"kind": "scratch", **sizes}, "attention": {"moba": block}, "threads": 1},
            "problems": {"train": source, "heldout": source, "heldout_size": 2},
            "engine": {"kind": "hf", "max_model_len": 256, "threads": 1},
            "rollout": {"max_tokens": 60, "segment_tokens": 60, "groups": 2, "k": 2},
            "eval": {"every": 0, "samples": 1},
            "log": {"live": False},
            "ray": {"in_process": True},
            **changes,
        }
    )


def test_settings_across_sections() -> None:
    with pytest.raises(ValueError, match="leaves none of the 3 layers"):
        run_config(BLOCK.model_copy(update={"full_last_layers": 3}))
    with pytest.raises(ValueError, match="not a multiple of 32"):
        RunConfig.model_validate({"model": {"attention": {"moba": {"block_size": 48, "top_k": 3}}}})


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_llama(num_hidden_layers=3).save_pretrained(folder)
    return folder


def test_learner_and_hf_engine_agree_and_switch_together(saved: Path) -> None:
    """Time hybrid: block attention under versions 0 and 1, full attention from version 2 on, in both at once."""
    block = HYBRIDS[1].model_copy(update={"full_from": 2})
    host = LearnerHost(LearnerSpec.of(run_config(block)), saved, Receivers("local"))
    dense = Learner(LearnerSpec.of(run_config(None)), saved)
    rows = [row.tolist() for row in sequences([200, 150, 60])]
    request = Request("r", Prompt(tuple(rows[1])), 60, Sampling(), seed=3)

    async def work() -> list[tuple[float, float, float]]:
        engine = HfEngine(str(saved), EngineConfig(kind="hf", max_model_len=256), attention=AttentionConfig(moba=block))
        await engine.start()
        found = []
        for version in (1, 2):
            await engine.update_weights(host.publish(version))
            await engine.submit([dataclasses.replace(request, key=f"r{version}")])
            deltas = []
            while not any(delta.done for delta in deltas):
                deltas += await engine.poll(1.0)
            tokens = [token for delta in deltas for token in ids(delta.token_ids)]
            drawn = [value for delta in deltas for value in delta.logprobs]
            scored = host.score([rows[1] + tokens])[0][len(rows[1]) - 1 :]
            found.append(
                (
                    far(await engine.score(rows), host.score(rows)),
                    far([drawn], [scored]),
                    far(host.score(rows), dense.score(rows)),
                )
            )
        await engine.close()
        return found

    sparse, full = asyncio.run(work())
    assert max(sparse[:2]) < 1e-4
    assert max(full[:2]) < 1e-4
    assert sparse[2] > 0.1, "block attention is not what it says"
    assert full[2] < 1e-4


def far(a: list[list[float]], b: list[list[float]]) -> float:
    """Largest difference, NaN included."""
    x, y = (torch.tensor([value for row in part for value in row]) for part in (a, b))
    return (x - y).abs().max().item()


def test_shares_follow_from_the_mask() -> None:
    block, lengths = HYBRIDS[1], [10, 33, 129]
    made = BlockAttentionConfig(block_size=16, top_k=2, full_last_layers=1)
    pairs, seen, early = 0, 0, 0
    for length in lengths:
        q = torch.randn(length, 1, 8, generator=torch.Generator().manual_seed(length))
        mask = moba_mask_reference(q, q, moba.gate(made))[0]
        pairs, seen = pairs + length * (length + 1) // 2, seen + int(mask.sum())
        early += int((mask.sum(1) == torch.arange(1, length + 1)).sum())
    density, full_share = moba.shares(block, lengths, 3)
    assert density == pytest.approx((2 * seen / pairs + 1) / 3)
    assert full_share == pytest.approx(early / sum(lengths))
    assert moba.shares(None, lengths, 3) == (1.0, 1.0)


def test_a_run_in_one_process_reports_its_density(tmp_path: Path) -> None:
    from recipes.run.session import run
    from rl.record.log import read_metrics

    config = run_config(BLOCK.model_copy(update={"full_from": 2}), iterations=1)
    assert run(config, tmp_path / "run") == 0
    exported = LlamaForCausalLM.from_pretrained(tmp_path / "run" / "model").config
    assert moba.read(exported) == config.model.attention.moba
    assert run(config.model_copy(update={"iterations": 3}), tmp_path / "run") == 0
    rows = read_metrics(tmp_path / "run")
    assert 0 < rows[0]["attention/density"] < 1
    assert 0 < rows[0]["attention/full_share"] < 1
    assert rows[2]["attention/density"] == rows[2]["attention/full_share"] == 1
    assert all(row["probe/max_gap"] < 1e-4 and row["gap/max"] < 1e-4 for row in rows)
    exported = LlamaForCausalLM.from_pretrained(tmp_path / "run" / "model").config
    assert moba.read(exported) is None, "full attention from iteration 2 on, hence in the end"
