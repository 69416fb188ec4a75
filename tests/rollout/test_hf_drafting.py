"""Drafts in the transformers engine: the same tokens, log-probs and ends, in fewer steps; and who cannot have them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from factories import ids, joined
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import tiny_llama

from rollout.config import EngineConfig, SpeculativeConfig
from rollout.engine import Delta, EngineDead, Request, Sampling
from rollout.engines import hf_drafting, hf_sampling
from rollout.engines.hf import HfEngine
from rollout.engines.hf_windows import Windows
from rollout.models.attention import AttentionConfig, BlockAttentionConfig
from rollout.types import Prompt, StopReason

GUESSES = SpeculativeConfig(method="span", tokens=8, min_ngram=1)
CONFIG = EngineConfig(kind="hf", max_model_len=256, max_concurrency=16, speculative=GUESSES)


def requests(count: int, tokens: int = 60, **sampling: Any) -> list[Request]:
    prompts = [Prompt([(3 * i + j) % 29 + 1 for j in range(5 + i % 7)]) for i in range(count)]
    return [Request(f"r{i}", prompt, tokens + i, Sampling(**sampling), 900 + i) for i, prompt in enumerate(prompts)]


class Counted(torch.nn.Module):
    """A model that counts its calls, how many tokens were drafted for each, and the share of holes in its cache."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.config, self.device = model, model.config, model.device
        self.calls, self.holes, self.drafted = 0, 0.0, list[int]()

    def forward(self, **arguments: Any) -> Any:
        self.calls += 1
        mask, width = arguments["attention_mask"], arguments["input_ids"].shape[1]
        if mask.shape[1] > width:
            longest = int(mask[:, :-width].sum(1).max())
            self.holes = max(self.holes, (mask.shape[1] - width) / longest - 1)
            self.drafted.append(width - 1)
        return self.model(**arguments)


def drawn(work: list[Request], guesses: SpeculativeConfig | None) -> tuple[dict[str, Delta], Counted]:
    model, found = Counted(tiny_llama()), dict[str, Delta]()

    def deliver(pieces: Any) -> None:
        for piece in pieces:
            before = found.get(piece.key, replace(piece, token_ids=(), logprobs=()))
            found[piece.key] = joined(before, piece)

    seeds = [request.seed or 0 for request in work]
    if guesses is None:
        hf_sampling.sample(model, 0, work, seeds, deliver, (), 16, windows=Windows(model, 0))
    else:
        hf_drafting.sample(model, 0, work, seeds, deliver, (), 16, guesses=guesses)
    return found, model


PATTERN = {"repetition_min_pattern": 1, "repetition_max_pattern": 8, "repetition_count": 4}


@pytest.mark.parametrize("count", [1, 12])
@pytest.mark.parametrize(
    "sampling", [{"temperature": 0.0}, {}, {"temperature": 0.4}, {"top_p": 0.8}, {"temperature": 0.3, **PATTERN}]
)
def test_drafts_leave_tokens_log_probs_and_ends_as_they_are(count: int, sampling: dict[str, Any]) -> None:
    work = requests(count, stop_token_ids=(3,), **sampling)
    (one_by_one, plain), (guessed, drafting) = drawn(work, None), drawn(work, GUESSES)
    assert one_by_one.keys() == guessed.keys()
    for key, delta in one_by_one.items():
        assert ids(guessed[key].token_ids) == ids(delta.token_ids)
        assert guessed[key].logprobs == pytest.approx(delta.logprobs, abs=1e-4)
        assert guessed[key].stop is delta.stop
    if count == 12:
        assert drafting.calls <= plain.calls
        if "repetition_count" in sampling:
            assert any(delta.stop is StopReason.REPETITION for delta in guessed.values())


def test_greedy_text_that_repeats_itself_takes_fewer_steps() -> None:
    work = [[request] for request in requests(4, tokens=150, temperature=0.0)]
    plain, drafting = (sum(drawn(one, guesses)[1].calls for one in work) for guesses in (None, GUESSES))
    assert drafting < 0.7 * plain


def test_holes_are_squeezed_out_of_the_cache() -> None:
    """Rows that are right at different times leave holes: a column for each step's longest draft."""
    _, model = drawn(requests(12, tokens=150, temperature=0.4), GUESSES)
    assert model.holes <= 0.25
    assert max(model.drafted) > 0


@given(st.lists(st.integers(0, 16), min_size=1, max_size=32))
def test_a_step_is_as_wide_as_is_worth_it(lengths: list[int]) -> None:
    def rate(longest: int) -> float:
        gained = len(lengths) + sum(min(length, longest) for length in lengths)
        return gained / (hf_drafting.STEP_TOKENS + len(lengths) * (1 + longest))

    chosen = hf_drafting.worthwhile(lengths)
    assert 0 <= chosen <= max(lengths)
    assert rate(chosen) == max(map(rate, range(17)))
    assert hf_drafting.worthwhile([0] * 31 + [16]) == 0, "one row is not worth the padding of 31"
    assert hf_drafting.worthwhile([16]) == 16


def test_the_engine_drafts_and_resumes(tmp_path: Path) -> None:
    tiny_llama().save_pretrained(tmp_path)

    async def main(config: EngineConfig) -> dict[str, list[int]]:
        engine = HfEngine(str(tmp_path), config)
        await engine.start()
        work, found = requests(4), dict[str, list[int]]()
        await engine.submit(work)
        left = len(work)
        while left:
            for delta in await engine.poll(1.0):
                found.setdefault(delta.key, []).extend(ids(delta.token_ids))
                left -= delta.done
        await engine.close()
        return found

    without = CONFIG.model_copy(update={"speculative": None})
    assert asyncio.run(main(CONFIG)) == asyncio.run(main(without))


def test_caches_that_forget_are_refused(tmp_path: Path) -> None:
    from transformers import MistralConfig, MistralForCausalLM

    sizes = {"vocab_size": 32, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "sliding_window": 16}
    model = MistralForCausalLM(MistralConfig(**sizes, **heads))
    model.save_pretrained(tmp_path)
    with pytest.raises(EngineDead, match=r"engine\.speculative: wrong guesses .* MistralForCausalLM .*SlidingWindow"):
        asyncio.run(HfEngine(str(tmp_path), CONFIG).start())
    blocks = AttentionConfig(moba=BlockAttentionConfig(block_size=8, top_k=2))
    with pytest.raises(ValueError, match=r"LlamaForCausalLM \(block attention\); leave engine\.speculative out"):
        hf_drafting.check(tiny_llama(), blocks)
