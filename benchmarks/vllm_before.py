"""The engine as it was before `rollout.engines.noise` and `vllm_wire`, for comparison in one run."""

from __future__ import annotations

import os
from typing import Any

from rollout.config import EngineConfig
from rollout.engines.guard import Guard
from rollout.engines.mailbox import Mailbox
from rollout.engines.vllm import VllmEngine
from rollout.engines.vllm_arguments import engine_arguments, environment
from rollout.engines.vllm_flight import Flight, ending
from rollout.seeds import seed_of
from rollout.types import StopReason

STREAM_INTERVAL = 64


def before_arguments(model_path: str, config: EngineConfig, seed: int) -> dict[str, Any]:
    """vLLM's own sampler, scheduler and messages; prefill in one piece, which its seeded requests need on a CPU."""
    arguments = engine_arguments(model_path, config, seed)
    del arguments["worker_extension_cls"]
    whole = max(config.max_batched_tokens, config.max_concurrency, config.max_model_len)
    return arguments | {
        "stream_interval": STREAM_INTERVAL,
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": whole,
    }


class BeforeEngine(VllmEngine):
    """A generator for each request, log-probs from vLLM's sampler, vLLM's watch for repetition, its own streaming."""

    async def start(self) -> None:
        """See ``Engine``."""
        os.environ.update(environment(self.config))
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        self._mail = Mailbox()
        self._guard = Guard()
        arguments = AsyncEngineArgs(**before_arguments(self.model_path, self.config, self.seed))
        self._llm = AsyncLLM.from_engine_args(arguments)

    async def _draw(self, flight: Flight) -> tuple[StopReason | None, str]:
        from vllm import SamplingParams
        from vllm.inputs.engine import tokens_input
        from vllm.sampling_params import RepetitionDetectionParams, RequestOutputKind

        request, s = flight.request, flight.request.sampling
        repetition = RepetitionDetectionParams(
            max_pattern_size=s.repetition_max_pattern,
            min_pattern_size=s.repetition_min_pattern,
            min_count=s.repetition_count,
        )
        params = SamplingParams(
            temperature=s.temperature,
            top_p=s.top_p,
            seed=seed_of(request.seed, len(request.prompt)),
            max_tokens=request.max_new_tokens,
            stop_token_ids=list(s.stop_token_ids),
            ignore_eos=True,
            logprobs=0,
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
            repetition_detection=repetition if s.repetition_max_pattern else None,
            skip_clone=True,
        )
        prompt = tokens_input(request.prompt.token_ids.tolist())
        async for output in self._llm.generate(prompt, params, request.key):
            piece = output.outputs[0]
            if piece.token_ids:
                self._mail.put(request.key, piece.token_ids, piece.logprobs.logprobs, 0)
        return ending(piece.finish_reason)
