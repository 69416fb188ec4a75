"""The configuration of a run. Imports no torch, vLLM or Ray.

Where the k1.5 paper gives no value the key's docstring says so and the default is ours.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, JsonValue, field_validator, model_validator

from rl import placement
from rl.diversity_config import DiversityConfig
from rl.learner.config import LearnerConfig, ModelConfig, ScratchModel
from rl.learner.window import window_of
from rl.objectives.config import ClassesConfig
from rl.reward_config import LengthRewardConfig, RewardConfig
from rl.warmup_config import WarmupConfig, WarmupStage
from rollout.config import PAGE_TOKENS, Config, EngineConfig, Preset, RolloutConfig
from rollout.copying.labels import LCS_LONGEST
from rollout.environments.config import EnvironmentConfig
from rollout.models.attention import block_attention_fault
from rollout.models.framing import RESERVED, Framing
from rollout.problems.config import ArithmeticSource, Source, with_mixture

__all__ = [
    "Config",
    "EngineConfig",
    "LengthRewardConfig",
    "RewardConfig",
    "RolloutConfig",
    "RunConfig",
    "WarmupConfig",
    "WarmupStage",
]


Text = Annotated[str, Field(min_length=1)]


class ProblemsConfig(Config):
    """What the policy is trained and judged on."""

    train: Source = ArithmeticSource()
    """Training problems."""
    heldout: Source = ArithmeticSource()
    """Held-out problems; procedural sources serve a split that cannot overlap training."""
    heldout_size: int = Field(256, ge=1)
    """Held-out problems used by evaluation."""
    train_size: int | None = Field(None, ge=1)
    """Problems that the sampler knows; ``null``: a file's all rows, or an unlimited stream for procedural ones."""
    overlong: Literal["auto", "refuse", "drop"] = "auto"
    """Problems and demonstrations with more tokens than the context has room for. ``refuse``: the run stops and names
    the row. ``drop``: left out and counted. ``auto``: files are refused before anything is spent, streams drop. May
    change on resume."""
    instruction: str = ""
    """Text appended to every question (e.g. where to put the answer); part of the rendered prompt."""
    system: str = ""
    """System message, if the chat template takes one; empty: none. A problem's own wins."""
    shots: tuple[tuple[Text, Text], ...] = ()
    """Solved examples before every problem, as turns: ``[[question, answer], ...]``."""
    template: dict[str, JsonValue] = {}
    """Arguments of the chat template: ``{enable_thinking: false}``, ``{tools: [...]}``."""

    @field_validator("template")
    @classmethod
    def _ours(cls, value: dict[str, JsonValue]) -> dict[str, JsonValue]:
        if taken := sorted(RESERVED & value.keys()):
            raise ValueError(f"{taken[0]!r} is not an argument of chat templates: k15 sets it itself; leave it out")
        return value

    @property
    def framing(self) -> Framing:
        """How problems are put."""
        return Framing(self.system, self.shots, self.instruction, self.template)


class SamplingConfig(Config):
    """Which problems are drawn [2501.12599 §2.3.4]."""

    kind: Literal["uniform", "curriculum", "prioritized"] = "uniform"
    """``curriculum``: uniform, then only hard ones. ``prioritized``: P(i) proportional to 1 - success rate."""
    switch_iteration: int = Field(24, ge=0)
    """Curriculum: first iteration with hard problems only."""
    hard_quantile: float = Field(0.5, gt=0, lt=1)
    """Curriculum: problems at or above this quantile of difficulty are hard; not published."""
    ema: float = Field(0.5, gt=0, le=1)
    """Prioritised: weight of the newest success rate in the running one; not published."""
    floor: float = Field(0.05, gt=0)
    """Prioritised: added to 1 - s so that solved problems stay reachable; not published."""
    initial_success: float = Field(0.0, ge=0, le=1)
    """Prioritised: success rate assumed before a problem was first tried, where no pass rate of it is known (field
    ``pass_rate``, which ``k15 curate`` writes); not published."""


class EvalConfig(Config):
    """Held-out evaluation inside the run."""

    every: int = Field(10, ge=0)
    """Iterations between evaluations; 0: only before and after RL."""
    samples: int = Field(4, ge=1)
    """Responses per problem at ``temperature`` (avg@n)."""
    temperature: float = Field(1.0, ge=0)
    """Sampling temperature; 0 is greedy."""
    interim_problems: int = Field(64, ge=1)
    """Held-out problems in the evaluations between; before and after use all."""
    greedy: bool = True
    """Also one greedy response per problem before and after."""


class PromiseConfig(Config):
    """What a recipe promises of its end, on held-out problems; judged when the run is finished (`recipes/README.md`).

    The 95 % intervals of the accuracies before and after RL must be apart, too.
    """

    gain: float = Field(0.0, ge=0, le=1)
    """Least gain in accuracy."""
    final: float = Field(0.0, ge=0, le=1)
    """Least accuracy after RL."""


class LogConfig(Config):
    """Where metrics go besides ``metrics.jsonl``."""

    sinks: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    """Optional trackers; each must be installed."""
    project: str = "k15"
    """Project name at wandb / trackio."""
    live: bool = True
    """Live terminal view; falls back to plain lines when the output is no terminal."""


class CheckpointConfig(Config):
    """Checkpoints of the run [invariant 6]."""

    every: int = Field(5, ge=1)
    """Iterations between checkpoints."""
    keep: int = Field(2, ge=2)
    """Verified checkpoints kept; at least 2, so that a corrupt one has a predecessor."""


class OverlapConfig(Config):
    """Sampling and training at the same time (docs/overlap.md); given as a number it is ``max_staleness``."""

    shorthand: ClassVar[str] = "max_staleness"
    mode: Literal["window", "on_policy"] = "window"
    """``window``: engines sample on while the learner trains, and take its weights in flight. ``on_policy``: every
    token is drawn under the weights that are trained; finished groups enter the gradient while others are drawn."""
    max_staleness: int = Field(1, ge=0)
    """S: versions that a group's oldest token may lie behind the weights that train on it, unless one of its responses
    is longer than ``rollout.segment_tokens``. (S + 1) x ``rollout.groups`` groups are on their way. 0: in turn, as
    without overlap. Mode ``window`` only."""


class RayConfig(Config):
    """Where Ray runs."""

    address: str | None = None
    """``null``: $RAY_ADDRESS, or a local cluster of this process; ``auto``: the running cluster."""
    deployment: Literal["auto", "split", "shared", "hybrid"] = "auto"
    """Who has which GPUs. ``split``: learner and engines each their own. ``shared``: parts of one, at the same time.
    ``hybrid``: the same ones in turn, all of their memory each time: the learner's state is in host memory while
    engines sample, and they sleep while it trains (docs/gpu.md). ``auto``: ``shared`` on a cluster's only GPU, or with
    parts given below, else ``split``. On CPUs ``hybrid`` takes turns, too, and gains nothing."""
    learner_gpus: float | None = Field(None, ge=0, le=1)
    """GPUs of each rank of the learner when ``model.device`` is cuda; below 1: shared with the engines. ``null``: 1, or
    half of a cluster's only GPU."""
    engine_gpus: float | None = Field(None, ge=0, le=1)
    """GPUs of each engine and tensor-parallel rank when ``engine.device`` is cuda; ``null``: as ``learner_gpus``."""
    in_process: bool = False
    """No Ray at all: learner and engines in this process (``hf`` engines; tests)."""


DEVICE = Preset(
    "Learner and engines on the CPU in float32, or on GPUs in bfloat16: they share a cluster's only one; of more the "
    "learner has its own and the engines have the rest.",
    {
        device: {
            "model.device": device,
            "model.compute_dtype": dtype,
            "engine.device": device,
            "engine.dtype": dtype,
            "engine.count": count,
        }
        for device, dtype, count in (("cpu", "float32", 1), ("cuda", "bfloat16", 0))
    },
)


class RunConfig(Config):
    """A whole run: warm-up, RL, evaluation."""

    presets: ClassVar = {"device": DEVICE}

    recipe: str = "custom"
    """Name of the recipe it came from."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Seeds weights, problems, sampling and minibatches."""
    iterations: int = Field(100, ge=0)
    """RL iterations; 0: warm-up and evaluation only."""
    model: ModelConfig = ModelConfig()
    problems: ProblemsConfig = ProblemsConfig()
    warmup: WarmupConfig | None = None
    """Supervised warm-up before RL; ``null``: none."""
    engine: EngineConfig = EngineConfig()
    rollout: RolloutConfig = RolloutConfig()
    learner: LearnerConfig = LearnerConfig()
    overlap: OverlapConfig | None = None
    """Sampling and training at the same time: ``--overlap 1``; ``null``: in turn."""
    reward: RewardConfig = RewardConfig()
    environment: EnvironmentConfig | None = None
    """What answers when the policy has ended a turn; ``null``: nothing, the end token ends the response."""
    diversity: DiversityConfig | None = None
    """A watch over how different the responses are; ``null``: none."""
    sampling: SamplingConfig = SamplingConfig()
    eval: EvalConfig = EvalConfig()
    promise: PromiseConfig | None = None
    """What the end has to be like for exit code 0; ``null``: anything. A recipe's own is void once its keys change."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    log: LogConfig = LogConfig()
    ray: RayConfig = RayConfig()

    @property
    def most_groups(self) -> int:
        """Groups that are drawn and not trained yet, at most."""
        return self.rollout.groups * (1 + window_of(self.overlap))

    @model_validator(mode="after")
    def _across(self) -> Self:
        rollout, engine = self.rollout, self.engine
        if rollout.segment_tokens > rollout.max_tokens:
            raise ValueError(
                f"rollout.segment_tokens ({rollout.segment_tokens}) is above rollout.max_tokens ({rollout.max_tokens})"
            )
        if rollout.max_tokens >= engine.max_model_len:
            raise ValueError(
                f"rollout.max_tokens ({rollout.max_tokens}) leaves no room for a prompt in "
                f"engine.max_model_len ({engine.max_model_len})"
            )
        base = self.model.base
        extended = self.model.attention.rotary
        if isinstance(base, ScratchModel) and engine.max_model_len > base.context and not extended:
            raise ValueError(
                f"engine.max_model_len ({engine.max_model_len}) is above model.base.context ({base.context}), and "
                "model.attention.rotary does not extend it"
            )
        for stage in self.warmup.stages if self.warmup else ():
            with_mixture(self.problems.train, stage.mixture)
            if stage.sampled is not None and self.environment is not None:
                raise ValueError("warmup.sampled draws responses of one turn: it does not go with an environment")
        self._check_moba()
        if extended and 0 < extended[-1].trained * extended[-1].factor < engine.max_model_len:
            covered = extended[-1].trained * extended[-1].factor
            raise ValueError(
                f"the last stage of model.attention.rotary covers {covered:.0f} tokens (trained x factor), and "
                f"engine.max_model_len is {engine.max_model_len}"
            )
        if rollout.groups * rollout.k % self.learner.updates:
            raise ValueError(
                f"rollout.groups x rollout.k ({rollout.groups * rollout.k}) is not divisible by "
                f"learner.updates ({self.learner.updates})"
            )
        if self.ray.in_process and engine.kind == "vllm":
            raise ValueError("ray.in_process works with engine.kind hf; vllm engines live in Ray actors")
        if self.ray.in_process and self.reward.judges:
            raise ValueError("reward.judges are Ray actors, and ray.in_process is without Ray; set one of them to 0")
        judge = self.reward.model.engine if self.reward.model else None
        if self.ray.in_process and judge is not None and judge.kind == "vllm":
            raise ValueError(
                "reward.model.engine.kind vllm lives in Ray actors, and ray.in_process is without Ray: set it to hf"
            )
        ranks = self.learner.ranks
        if self.ray.in_process and ranks.size > 1:
            raise ValueError(f"learner.ranks are {ranks.size} Ray actors, and ray.in_process is without Ray")
        if ranks.offload and (self.model.device == "cpu" or ranks.size == 1):
            raise ValueError(
                "learner.ranks.offload keeps the shards of several ranks out of their GPUs: it needs model.device cuda "
                "and two ranks or more"
            )
        if isinstance(base, ScratchModel) and base.heads % ranks.sequence:
            raise ValueError(
                f"learner.ranks.sequence ({ranks.sequence}) does not divide model.base.heads ({base.heads}), which "
                "these ranks exchange"
            )
        if engine.kind != "vllm" and engine.device == "cuda" and engine.tensor_parallel > 1:
            raise ValueError("engine.tensor_parallel needs engine.kind vllm")
        if self.iterations and isinstance(self.learner.objective, ClassesConfig):
            raise ValueError(
                "learner.objective classes trains reward models (k15 train reward), not a policy: choose another kind"
            )
        self._check_evidence()
        self._check_overlap()
        self._check_copying()
        placement.check(self)
        return self

    def _check_evidence(self) -> None:
        if self.rollout.evidence is None:
            return
        others = {
            "an environment": self.environment is not None,
            "a warm-up (--warmup null)": self.warmup is not None,
            "engine.speculative": self.engine.speculative is not None,
            "learner.ranks.sequence above 1": self.learner.ranks.sequence > 1,
            "learner.copying, which knows no windows": self.learner.copying is not None,
        }
        if found := [name for name, there in others.items() if there]:
            raise ValueError(f"rollout.evidence does not go with {found[0]}: leave one of them out")
        if self.engine.kind == "vllm" and self.engine.device == "cuda" and not self.engine.windows:
            raise ValueError("rollout.evidence on a GPU needs engine.windows: set it to true")

    def _check_overlap(self) -> None:
        if self.engine.takes_in_flight and (self.overlap is None or self.overlap.mode != "window"):
            raise ValueError(
                f"engine.in_flight {self.engine.in_flight} is for responses that are on their way when weights change, "
                "which only overlap.mode window has: leave it abort"
            )
        if self.overlap is None:
            return
        changes = self.model.attention.changes()
        if self.engine.in_flight == "keep" and changes is not None:
            raise ValueError(
                f"engine.in_flight keep would mix two attentions where model.attention changes (iteration {changes}): "
                "set it to recompute or abort"
            )
        if self.overlap.mode == "window":
            if self.overlap.max_staleness > self.rollout.max_age:
                raise ValueError(
                    f"overlap.max_staleness ({self.overlap.max_staleness}) is above rollout.max_age "
                    f"({self.rollout.max_age}): groups would be given up before they may be trained; raise "
                    "rollout.max_age or lower it"
                )
            return
        if self.overlap.max_staleness not in (0, OverlapConfig().max_staleness):  # a written file has the default
            raise ValueError("overlap.max_staleness is of the mode window; on_policy has no stale token: leave it out")
        if self.learner.updates > 1:
            raise ValueError(
                f"overlap.mode on_policy takes one optimiser step an iteration, and learner.updates is "
                f"{self.learner.updates}: set it to 1"
            )

    def _check_copying(self) -> None:
        copying, longest = self.learner.copying, self.engine.max_model_len
        if copying is None:
            return
        if self.overlap is not None and self.overlap.mode == "on_policy":
            raise ValueError(
                "learner.copying is divided by an iteration's loss tokens, which overlap.mode on_policy does not know "
                "while it adds up gradients: set one of them to null, or overlap.mode to window"
            )
        if copying.mode == "lcs" and longest > LCS_LONGEST:
            raise ValueError(
                f"learner.copying.mode lcs costs prompt x response, too much beyond {LCS_LONGEST} tokens, and "
                f"engine.max_model_len is {longest}: set it to ngram"
            )

    def _check_moba(self) -> None:
        moba, base, engine = self.model.attention.moba, self.model.base, self.engine
        if moba is None:
            return
        if isinstance(base, ScratchModel) and moba.full_last_layers >= base.layers:
            raise ValueError(
                f"model.attention.moba.full_last_layers ({moba.full_last_layers}) leaves none of the {base.layers} "
                "layers of model.base with block attention; set model.attention.moba to null for full attention"
            )
        if engine.kind == "vllm" and moba.block_size % PAGE_TOKENS:
            raise ValueError(
                f"model.attention.moba.block_size ({moba.block_size}) is not a multiple of {PAGE_TOKENS}, the tokens "
                "of a page of vLLM's cache"
            )
        if fault := block_attention_fault(engine):
            raise ValueError(fault)
