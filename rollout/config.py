"""Configuration of engines and sampling. Imports no torch, vLLM or Ray."""

from __future__ import annotations

from importlib.util import find_spec
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from rollout.evidence.config import TrainedMergingConfig
from rollout.settings import Config, Preset, UserCode

__all__ = ["Config", "EngineConfig", "Preset", "RepetitionConfig", "RolloutConfig", "SpeculativeConfig", "UserCode"]

PAGE_TOKENS = 32
"""Tokens per page of vLLM's key-value cache: as fast as larger pages on a CPU, and siblings share short prompts."""


class RepetitionConfig(Config):
    """When to stop a rollout that repeats itself
    [2501.12599 §2.6.2]; the paper names no detector, so all of it is a key.
    """

    min_pattern: int = Field(8, ge=1)
    """Shortest repeated pattern looked for, in tokens."""
    max_pattern: int = Field(64, ge=1)
    """Longest repeated pattern looked for, in tokens."""
    count: int = Field(4, ge=2)
    """Consecutive copies of the pattern that stop the rollout."""

    @model_validator(mode="after")
    def _pattern_range(self) -> Self:
        if self.min_pattern > self.max_pattern:
            raise ValueError(f"min_pattern ({self.min_pattern}) is above max_pattern ({self.max_pattern})")
        return self


class SpeculativeConfig(Config):
    """Tokens guessed from text that repeats itself, and drawn together: the tokens of a response stay the same, in
    fewer steps.
    """

    shorthand: ClassVar[str] = "method"
    method: Literal["ngram", "span", "suffix"] = "ngram"
    """``ngram``: what followed the latest tokens where they stood before in prompt or response. ``span``: the same for
    as long as the response copies, as many as have agreed so far, and fewer where they were wrong: for long quotations
    and large batches; either kind of engine. ``suffix``: also in earlier responses, as many as are likely to be right;
    needs the package ``arctic-inference``."""
    tokens: int | None = Field(None, ge=1, le=64)
    """Tokens guessed at a time, at most; ``null``: 4, with ``span`` 16."""
    min_ngram: int = Field(3, ge=1)
    """Of ``ngram`` and ``span``: fewest latest tokens that must have stood there before."""
    max_ngram: int = Field(8, ge=1)
    """Of ``ngram``: most latest tokens that are looked for."""

    @property
    def longest(self) -> int:
        """``tokens``, or what stands for it."""
        return self.tokens or (16 if self.method == "span" else 4)

    @model_validator(mode="after")
    def _range(self) -> Self:
        if self.min_ngram > self.max_ngram and self.method != "span":
            raise ValueError(f"min_ngram ({self.min_ngram}) is above max_ngram ({self.max_ngram})")
        return self


class EngineConfig(Config):
    """One rollout engine and how many of them."""

    kind: Literal["vllm", "hf"] = "vllm"
    """``vllm``: AsyncLLM in a Ray actor. ``hf``: transformers generation, bitwise reproducible."""
    count: int = Field(1, ge=0)
    """Number of engines (Ray actors); 0: as many as there are GPUs for beside the learner's, one on CPUs."""
    most: int | None = Field(None, ge=1)
    """Engines may join a run while it goes on, up to this number, wherever the Ray cluster has room for one, and leave
    with their nodes; ``null``: none."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the engine runs."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Weights and activations. CPUs without native bfloat16 are about 4 times faster in float32; GPUs want bfloat16."""
    tensor_parallel: int = Field(1, ge=1)
    """GPUs per engine, all of one machine."""
    max_model_len: int = Field(2048, ge=8)
    """Context: prompt plus response, in tokens."""
    max_concurrency: int = Field(256, ge=1)
    """Requests in flight per engine."""
    kv_cache_gib: float = Field(1.0, gt=0)
    """KV cache per engine on CPU, in GiB."""
    gpu_memory_utilization: float | None = Field(None, gt=0, le=1)
    """Share of the GPU that vLLM may take; ``null``: 0.9 of the engine's part of it (``ray.engine_gpus``)."""
    threads: int = Field(0, ge=0)
    """CPU threads per engine; 0: all cores that the process may use."""
    max_batched_tokens: int = Field(8192, ge=16)
    """Tokens per engine step at most (prefill is chunked to it)."""
    extra: dict[str, str | int | float | bool] = {}
    """Further vLLM engine arguments by name, passed on as they are."""
    weight_transfer: Literal["auto", "shm", "ipc", "nccl", "local"] = "auto"
    """How weights reach the engines. ``auto``: ``ipc`` where learner and vLLM share a GPU, ``nccl`` from GPU to GPU,
    ``shm``, through the memory of one machine, otherwise (``local`` in one process)."""
    in_flight: Literal["abort", "recompute", "keep"] = "abort"
    """What becomes of responses on their way when weights change beneath them (``overlap``). ``abort``: they are taken
    back and asked for again behind the tokens that they have, so every token is drawn from one version alone.
    ``recompute``: vLLM pauses, and computes their keys and values anew; as exact. ``keep``: it keeps those of the older
    weights: fastest, and the tokens that follow are of neither version."""

    speculative: SpeculativeConfig | None = None
    """Guess tokens ahead and draw them together; ``null``: one token a step."""

    windows: bool = False
    """Have vLLM on a GPU take requests with evidence in windows, or with constraints: by its older model runner, whose
    sampler k15 has in its hands. On CPUs, and of kind hf, they are always taken."""

    start_timeout_s: float = Field(300.0, gt=0)
    """Limit for loading the model; then the engine counts as dead."""
    call_timeout_s: float = Field(120.0, gt=0)
    """Limit for one call (weights, scoring, health)."""
    stall_timeout_s: float = Field(120.0, gt=0)
    """An engine that has work and hands out no token for this long counts as dead."""
    max_restarts: int = Field(3, ge=0)
    """Restarts in a row without a finished request in between, or iterations in a row each of which lost an engine;
    beyond, the engine is given up."""

    @property
    def takes_in_flight(self) -> bool:
        """Whether the engine takes new weights while it draws, rather than its requests being taken back first."""
        return self.in_flight != "abort"

    @model_validator(mode="after")
    def _only_vllm_takes_in_flight(self) -> Self:
        if self.takes_in_flight and self.kind != "vllm":
            raise ValueError(f"in_flight {self.in_flight} is of kind vllm; kind {self.kind} needs abort")
        return self

    @model_validator(mode="after")
    def _guesses_known(self) -> Self:
        if self.speculative is None:
            return self
        if self.kind != "vllm" and self.speculative.method != "span":
            raise ValueError(f"speculative {self.speculative.method} is of kind vllm; kind {self.kind} has span")
        if self.speculative.method == "suffix" and find_spec("arctic_inference") is None:
            raise ValueError(
                "speculative.method suffix needs a package that is not installed: pip install arctic-inference"
            )
        return self


class RolloutConfig(Config):
    """How responses are drawn [2501.12599 §2.3.2, §2.6.2]."""

    groups: int = Field(64, ge=1)
    """Groups (problems) in flight per iteration; unfinished ones from before are counted in."""
    k: int = Field(8, ge=2)
    """Responses per problem; k = 1 would make every mean-baseline advantage 0 [2501.12599 §2.3.2]."""
    temperature: float = Field(1.0, gt=0)
    """Sampling temperature of training rollouts; the learner's log-probs use it too."""
    segment_tokens: int = Field(256, ge=1)
    """Output-token budget per rollout per iteration; what is unfinished continues in a later iteration."""
    max_tokens: int = Field(1024, ge=1)
    """Total response length; a rollout that reaches it stops with ``length`` and scores 0."""
    min_response_tokens: int | None = Field(None, ge=1)
    """Tokens of the context that a prompt must leave for its response; ``problems.overlong`` says what becomes of
    longer prompts. ``null``: half of ``max_tokens``."""
    max_age: int = Field(4, ge=0)
    """Versions that a group may lie behind; older unfinished rollouts are force-finished as ``aborted``."""
    loss_on: Literal["current", "all"] = "current"
    """Tokens that carry loss: those of the current version and of the ``overlap.max_staleness`` before it, or all. The
    reference is recomputed for either."""
    repetition: RepetitionConfig | None = RepetitionConfig()
    """Early stop of repeated text; ``null`` switches it off."""
    evidence: TrainedMergingConfig | None = None
    """Problems with a field ``evidence`` (a list of texts) are asked once with each of them, and every token is drawn
    from what these windows say together (NBCE [2403.17552]); the learner computes log-probs alike. ``null``: such
    problems are refused."""
    max_failures: int = Field(5, ge=1)
    """Engine failures after which a rollout is given up as ``aborted`` (masked and counted). Above
    engine.max_restarts + 1 an engine that only dies ends the run, not its rollouts."""
    parity_mean: float | None = Field(None, gt=0)
    """Largest mean |engine - learner| log-prob of the probe after each publish, in nats a token; above it the run
    stops. ``null``: 0.002 in float32; in float16 and bfloat16 three times what the same weights showed when the engine
    was loaded, and at most 0.02 and 0.15."""
    parity_high: float | None = Field(None, gt=0)
    """The same for all but the 1 % of tokens that differ most. ``null``: 0.01, at most 0.15, at most 1."""
    parity_probes: int = Field(4, ge=1)
    """Sequences in the probe."""

    @property
    def response_room(self) -> int:
        """``min_response_tokens``, or what stands for it."""
        return min(self.min_response_tokens or -(-self.max_tokens // 2), self.max_tokens)
