"""Mixed into vLLM's worker (``worker_extension_cls``): how it samples, and what attention computes between versions."""

from __future__ import annotations

from typing import Any

from vllm.model_executor.layers.rotary_embedding.base import RotaryEmbeddingBase

from rollout.engines.vllm_sampling import PositionSampler, Verifier
from rollout.engines.vllm_spans import SpanProposer
from rollout.models import rotary
from rollout.models.attention import RotaryStage
from rollout.models.moba_layer import BlockLayer


class WorkerExtension:
    """Called by ``VllmEngine`` with no request in flight, before the prefix cache is dropped."""

    def sample_by_position(self) -> bool:
        """Draw tokens by ``PositionSampler`` from now on. False where vLLM's newer model runner (on GPUs) is at work:
        its noise is a hash of seed, position and token by itself.
        """
        worker: Any = self
        if worker.use_v2_model_runner:
            return False
        runner = worker.model_runner
        runner.sampler = PositionSampler(runner)
        if runner.speculative_config is not None:
            runner.rejection_sampler = Verifier(runner.sampler)
        return True

    def draft_spans(self, longest: int, least: int) -> None:
        """Let ``SpanProposer`` guess tokens from now on, in the place of vLLM's search for n-grams."""
        worker: Any = self
        runner = worker.model_runner
        runner.drafter = SpanProposer(runner, longest, least)
        # vLLM guesses nothing for the whole batch (and verifies zeros) as soon as one request is this near to the end
        # of the context; ours minds the end for each.
        runner.effective_drafter_max_model_len = runner.max_model_len + longest

    def switch_moba(self, on: bool) -> int:
        """Switch block attention on or off (time hybrid [2502.13189 §2.2, §3.2]) and return the number of its
        layers.
        """
        worker: Any = self
        layers = worker.vllm_config.compilation_config.static_forward_context.values()
        impls = [layer.impl for layer in layers if isinstance(getattr(layer, "impl", None), BlockLayer)]
        blocks = [impl for impl in impls if impl.own_gate is not None]
        for impl in blocks:
            impl.switch(on)
        return len(blocks)

    def set_rotary(self, stage: dict[str, Any]) -> int:
        """Set the rotary embedding of a stage (the fields of ``RotaryStage``) and return the number of tables."""
        worker: Any = self
        modules = {id(m): m for m in worker.get_model().modules() if isinstance(m, RotaryEmbeddingBase)}
        wanted = RotaryStage.model_validate(stage)
        for module in modules.values():
            rotary.fill(module.cos_sin_cache, rotary.rotary_of(wanted, module.rotary_dim, module.base))
        return len(modules)
