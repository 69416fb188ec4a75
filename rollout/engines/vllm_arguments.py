"""vLLM as k15 runs it: environment of its processes, engine arguments, and the parameters of one stretch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rollout.config import PAGE_TOKENS, EngineConfig, SpeculativeConfig
from rollout.engine import Sampling
from rollout.models.attention import PLAIN, AttentionConfig, block_attention_fault
from rollout.transfer.weights import RECEIVER

if TYPE_CHECKING:
    from vllm import SamplingParams

SCORE_SEATS = 4
"""Sequences scored at a time beside requests in flight."""


def environment(config: EngineConfig) -> dict[str, str]:
    """Return the environment variables of a process that hosts a ``VllmEngine``, set before vLLM is imported."""
    env = {"VLLM_NO_USAGE_STATS": "1", "VLLM_CONFIGURE_LOGGING": "1"}
    env["VLLM_LOGGING_LEVEL"] = os.environ.get("VLLM_LOGGING_LEVEL", "WARNING")
    if config.speculative is not None or config.windows:
        # The newer one draws guessed tokens and others from different noise, and has no place for our sampler.
        env["VLLM_USE_V2_MODEL_RUNNER"] = "0"
    if config.device == "cpu":
        threads = config.threads or len(os.sched_getaffinity(0))
        env |= {
            # Without this the CPU platform puts the model into a further process behind the core: a tiny model then
            # starts three times slower and decodes a third slower. The thread count is then ours to set.
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "OMP_NUM_THREADS": str(threads),
            # Threads that wait for each other must sleep, not spin: learner and engine share the cores.
            "OMP_WAIT_POLICY": "PASSIVE",
            # A handful of small functions would be compiled with g++ at the first step: 6 s (three times that on a slow
            # CPU), a compiler to have, and code kept for another CPU to trip over; a wide step is no faster for it.
            "TORCH_COMPILE_DISABLE": "1",
            # Each publish frees and allocates the whole model; keeping that memory in the heap spares the page faults,
            # a third of the time of a publish.
            "MALLOC_MMAP_MAX_": "0",
            "MALLOC_TRIM_THRESHOLD_": str(2**33),
            # Attention reads the whole key-value cache at every step; huge pages spare most of the address look-ups,
            # 10 to 20 % of its time.
            "THP_MEM_ALLOC_ENABLE": "1",
            # Latent attention on CPUs is for DeepSeek's own sizes and for bfloat16 only; expanded to keys and values it
            # is attention like any other.
            "VLLM_MLA_DISABLE": "1",
        }
    else:
        env["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"  # CUDA IPC handles reach vLLM's own child process pickled
    return env


def engine_arguments(
    model_path: str, config: EngineConfig, seed: int, attention: AttentionConfig = PLAIN
) -> dict[str, Any]:
    """Return the keyword arguments of vLLM's ``AsyncEngineArgs``, where ``config.extra`` overrides all others.

    Block attention becomes an entry of the model's configuration, which is how it reaches each of vLLM's processes;
    where the engine cannot compute it, ``ValueError``.
    """
    arguments: dict[str, Any] = {
        "model": model_path,
        "skip_tokenizer_init": True,
        "generation_config": "vllm",
        "dtype": config.dtype,
        "seed": seed % 2**32,
        "max_model_len": config.max_model_len,
        "max_num_seqs": config.max_concurrency,
        "max_num_batched_tokens": max(config.max_batched_tokens, config.max_concurrency),
        "tensor_parallel_size": config.tensor_parallel,
        "logprobs_mode": "processed_logprobs",
        "enable_prefix_caching": True,
        "disable_log_stats": True,
        "enable_log_requests": False,
        "weight_transfer_config": {"backend": RECEIVER},  # takes weights whichever way they come
        "worker_extension_cls": "rollout.engines.vllm_worker.WorkerExtension",
    }
    if config.speculative is not None:
        arguments["speculative_config"] = _guessing(config.speculative)
    if config.takes_in_flight:
        # The probe that follows an update must not wait for a response to end.
        arguments |= {"max_num_seqs": config.max_concurrency + SCORE_SEATS, "scheduling_policy": "priority"}
    if config.device == "cpu":
        arguments |= {
            "enforce_eager": True,  # compiling takes 25 s for 5 % more tokens per second on a tiny model
            "block_size": PAGE_TOKENS,
            "kv_cache_memory_bytes": int(config.kv_cache_gib * 2**30),
        }
    else:
        if config.gpu_memory_utilization is not None:
            arguments["gpu_memory_utilization"] = config.gpu_memory_utilization
        if config.tensor_parallel > 1:
            # Inside a placement group vLLM would choose Ray, which wants bundles of one GPU; all of this engine's are
            # here, in one bundle.
            arguments["distributed_executor_backend"] = "mp"
    overrides: dict[str, Any] = {}
    if attention.moba is not None:
        if fault := block_attention_fault(config):
            raise ValueError(fault)
        overrides["moba"] = attention.moba.model_dump()
        if config.device == "cuda":
            arguments |= {"attention_backend": "CUSTOM", "block_size": PAGE_TOKENS}  # rollout.engines.moba_vllm_gpu
    if attention.rotary:
        overrides["max_position_embeddings"] = config.max_model_len  # beyond what the model was trained for
    if overrides:
        arguments["hf_overrides"] = overrides
    return arguments | config.extra


def _guessing(config: SpeculativeConfig) -> dict[str, Any]:
    """Return vLLM's section for guessed tokens; whether they are right is told by ``vllm_sampling.Verifier``.

    For ``span`` vLLM makes ready for its n-grams, and ``WorkerExtension.draft_spans`` puts ours in their place.
    """
    if config.method == "suffix":
        return {"method": "suffix", "num_speculative_tokens": config.longest}
    return {
        "method": "ngram",
        "num_speculative_tokens": config.longest,
        "prompt_lookup_min": config.min_ngram,
        "prompt_lookup_max": max(config.min_ngram, config.max_ngram),
    }


def sampling_params(
    sampling: Sampling, max_tokens: int, seed: int, by_position: bool, arguments: Mapping[str, Any] | None = None
) -> SamplingParams:
    """Return vLLM's parameters for one stretch: only the sampled token's log-prob, under the sampling distribution.

    ``by_position``: the seed is for ``PositionSampler``; vLLM would make a generator of its own from it.
    ``arguments``: of a row of a group, or of a request with a constraint (``rollout.engines.vllm_groups``).
    """
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    s = sampling
    own: dict[str, Any] = {**(arguments or {})}  # read by rollout.engines.vllm_sampling and vllm_scheduler
    if by_position:
        own["k15_seed"] = seed
    if s.repetition_max_pattern:
        own["k15_repetition"] = [s.repetition_min_pattern, s.repetition_max_pattern, s.repetition_count]
    return SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        seed=None if by_position else seed,
        extra_args=own,
        max_tokens=max_tokens,
        stop_token_ids=list(sampling.stop_token_ids),
        ignore_eos=True,  # only the request's own end tokens end it
        logprobs=0,
        flat_logprobs=True,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
        skip_clone=True,
    )
