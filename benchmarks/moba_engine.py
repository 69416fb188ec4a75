"""Block against full attention in the real vLLM engine: ``python -m benchmarks.moba_engine [--lengths 4096,16384]``.

One JSON line per attention, length and number of sequences: seconds until the first token of prompts of that length
(prefill), and milliseconds per decoding step, which is the difference between responses of 1 and of ``--new`` tokens
whose prompts lie in the prefix cache. The model: a Llama of 4 layers, 8 heads x 64, random weights, float32.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time

import torch

from benchmarks.common import emit, environment, median
from rollout.config import EngineConfig
from rollout.engine import Request, Sampling
from rollout.engines.vllm import VllmEngine
from rollout.models.attention import PLAIN, AttentionConfig, BlockAttentionConfig
from rollout.types import Prompt

VOCABULARY = 128
REPEATS = 3


async def seconds(engine: VllmEngine, prompts: list[list[int]], new: int) -> float:
    """Wall time of one response of ``new`` tokens to each prompt."""
    requests = [Request(f"r{i}", Prompt(prompt), new, Sampling(), 5) for i, prompt in enumerate(prompts)]
    began = time.perf_counter()
    await engine.submit(requests)
    done = 0
    while done < len(requests):
        done += sum(delta.done for delta in await engine.poll(5.0))
    return time.perf_counter() - began


async def measure(
    path: str, attention: AttentionConfig, lengths: list[int], sequences: list[int], new: int, gib: float
) -> None:
    context = max(lengths) + new + 1
    config = EngineConfig(
        max_model_len=context, max_concurrency=max(sequences), max_batched_tokens=context, kv_cache_gib=gib
    )
    engine = VllmEngine(path, config, 0, attention)
    await engine.start()
    for length in lengths:
        for count in sequences:
            generator = torch.Generator().manual_seed(length + count)
            prompts = torch.randint(0, VOCABULARY, (count, length), generator=generator).tolist()
            prefill = await seconds(engine, prompts, 1)
            short = median([await seconds(engine, prompts, 1) for _ in range(REPEATS)])
            long = median([await seconds(engine, prompts, new) for _ in range(REPEATS)])
            emit(
                {
                    "attention": "block" if attention.moba else "full",
                    "length": length,
                    "sequences": count,
                    "prefill_s": round(prefill, 3),
                    "decode_ms": round(1e3 * (long - short) / (new - 1), 2),
                }
            )
    await engine.close()


def save_model(path: str, context: int) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 8}
    ends = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None, "tie_word_embeddings": True}
    LlamaForCausalLM(
        LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=context, num_key_value_heads=8, **sizes, **ends)
    ).save_pretrained(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", default="4096,8192,16384")
    parser.add_argument("--sequences", default="1,4")
    parser.add_argument("--block-size", type=int, default=512)
    parser.add_argument("--top-k", type=int, default=3)
    parser.add_argument("--new", type=int, default=49, help="tokens per response")
    parser.add_argument("--kv-cache-gib", type=float, default=3.0)
    arguments = parser.parse_args()
    lengths, sequences = ([int(part) for part in text.split(",")] for text in (arguments.lengths, arguments.sequences))
    block = BlockAttentionConfig(block_size=arguments.block_size, top_k=arguments.top_k)
    emit({"environment": environment()})
    with tempfile.TemporaryDirectory() as path:
        save_model(path, max(lengths) + arguments.new + 1)
        for attention in (PLAIN, AttentionConfig(moba=block)):
            asyncio.run(measure(path, attention, lengths, sequences, arguments.new, arguments.kv_cache_gib))


if __name__ == "__main__":
    main()
