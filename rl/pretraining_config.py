"""The keys of pretraining: text, schedule, model. Imports no torch, vLLM or Ray."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from rl.config import CheckpointConfig, EngineConfig, LogConfig, RayConfig, RolloutConfig, RunConfig
from rl.learner.config import LearnerConfig, ModelConfig, ScratchModel
from rl.text.config import ProblemsText, PythonText, TextSource, TokenizerConfig
from rollout.config import Config, Preset


class PretrainStage(Config):
    """A stretch of pretraining with one mixture of text and one course of the learning rate."""

    steps: int = Field(ge=1)
    """Optimiser steps."""
    batch: int = Field(16, ge=1)
    """Sequences of a step."""
    grows: tuple[int, int] | None = None
    """``[step, batch]``: from that step of the stage on so many sequences; ``null``: it stays."""
    length: int | None = Field(None, ge=2)
    """Tokens of a sequence; ``null``: the model's context."""
    mixture: dict[str, Annotated[float, Field(ge=0)]] = {}
    """Share of each text, by its name in ``text``; empty: all of them alike."""
    lr: float = Field(gt=0)
    """Learning rate after the ramp."""
    ramp: int = Field(0, ge=0)
    """Steps over which it goes there in a line, from where the stage before ended, or from 0."""
    end: float | None = Field(None, ge=0)
    """Learning rate at the stage's end; ``null``: it stays."""
    shape: Literal["cosine", "linear"] = "linear"
    """How it goes to ``end``."""
    balance: float = Field(1e-3, ge=0)
    """Step of the experts' biases, which share the tokens out among experts; 0: they stay [2502.16982 App. C]."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.ramp > self.steps:
            raise ValueError(f"ramp ({self.ramp}) is longer than the stage's steps ({self.steps})")
        if self.grows is not None and not 0 < self.grows[0] < self.steps:
            raise ValueError(f"grows is at step {self.grows[0]}, which has to be one of 1 to {self.steps - 1}")
        if self.grows is not None and self.grows[1] < 1:
            raise ValueError(f"grows to {self.grows[1]} sequences; a step has one or more")
        return self

    @property
    def last_lr(self) -> float:
        """Learning rate at its end."""
        return self.lr if self.end is None else self.end

    def rate(self, step: int, before: float) -> float:
        """Return the learning rate of a step, from 0 on; ``before``: where the stage before ended."""
        if step < self.ramp:
            return before + (self.lr - before) * (step + 1) / self.ramp
        if self.end is None:
            return self.lr
        progress = (step - self.ramp) / max(1, self.steps - self.ramp)
        falling = 0.5 * (1 + math.cos(math.pi * progress)) if self.shape == "cosine" else 1 - progress
        return self.end + (self.lr - self.end) * falling

    def rows(self, step: int) -> int:
        """Return the sequences of a step, from 0 on."""
        return self.grows[1] if self.grows is not None and step >= self.grows[0] else self.batch


class _Plain(Config):
    """What schedules of one mixture share."""

    steps: int = Field(1000, ge=2)
    """Optimiser steps."""
    batch: int = Field(16, ge=1)
    """Sequences of a step."""
    length: int | None = Field(None, ge=2)
    """Tokens of a sequence; ``null``: the model's context."""
    mixture: dict[str, Annotated[float, Field(ge=0)]] = {}
    """Share of each text, by its name in ``text``; empty: all of them alike."""
    lr: float = Field(3e-3, gt=0)
    """Peak learning rate."""
    ramp: float = Field(0.02, ge=0, lt=1)
    """Share of the steps over which it rises from 0."""
    floor: float = Field(0.1, ge=0, le=1)
    """Share of the peak that it ends at."""
    balance: float = Field(1e-3, ge=0)
    """Step of the experts' biases [2502.16982 App. C]."""

    def _stage(self, **keys: Any) -> PretrainStage:
        shared = {key: getattr(self, key) for key in ("batch", "length", "mixture", "lr", "balance")}
        return PretrainStage(**shared, **keys)


class CosineSchedule(_Plain):
    """A ramp, then a cosine."""

    kind: Literal["cosine"] = "cosine"

    def stages(self) -> tuple[PretrainStage, ...]:
        """Return it as one stage."""
        ramp, end = round(self.ramp * self.steps), self.floor * self.lr
        return (self._stage(steps=self.steps, ramp=ramp, end=end, shape="cosine"),)


class WsdSchedule(_Plain):
    """Warm-up, stable, decay: a ramp, the peak, then a line down. What was trained up to the decay can go on."""

    kind: Literal["wsd"] = "wsd"
    decay: float = Field(0.2, gt=0, lt=1)
    """Share of the steps over which it falls."""
    floor: float = Field(0.0, ge=0, le=1)
    """Share of the peak that it ends at."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.ramp + self.decay > 1:
            raise ValueError(f"ramp ({self.ramp}) and decay ({self.decay}) are more than all steps; lower one")
        return self

    def stages(self) -> tuple[PretrainStage, ...]:
        """Return ramp and peak as one stage, the decay as another."""
        last = min(self.steps - 1, max(1, round(self.decay * self.steps)))
        first = self.steps - last
        return (
            self._stage(steps=first, ramp=min(first, round(self.ramp * self.steps))),
            self._stage(steps=last, end=self.floor * self.lr),
        )


class MoonlightSchedule(Config):
    """The three stages of Moonlight [2502.16982 §3.3]: a ramp, a cosine to a tenth, and a cooldown on the best text.

    The paper's: 33 billion tokens with a ramp of 2,000 steps; to 5.2 trillion, the batch doubled at 200 billion; 0.5
    trillion with 0.24 of the peak after 100 steps, then a line to 0: some 176,000 steps. The shares below are close to
    these, and the first stage is longer, since a short run needs more than a hundredth of its steps to warm up.
    """

    kind: Literal["moonlight"] = "moonlight"
    steps: int = Field(1500, ge=10)
    """Optimiser steps of the three together."""
    batch: int = Field(16, ge=1)
    """Sequences of a step at first; twice as many once ``grown`` of the steps are done."""
    length: int | None = Field(None, ge=2)
    """Tokens of a sequence; ``null``: the model's context."""
    lr: float = Field(3e-3, gt=0)
    """Peak learning rate (4.2e-4)."""
    first: float = Field(0.02, gt=0, lt=1)
    """Share of the steps in the first stage, all of it ramp (the paper: 2,000 of some 176,000)."""
    grown: float = Field(0.075, ge=0, lt=1)
    """Share of the steps after which the batch doubles (12,000 of some 176,000)."""
    cooldown: float = Field(0.1, gt=0, lt=1)
    """Share of the steps in the third stage (0.5 of 5.7 trillion tokens)."""
    mixture: dict[str, Annotated[float, Field(ge=0)]] = {}
    """Share of each text in the first two stages; empty: all of them alike."""
    best: dict[str, Annotated[float, Field(ge=0)]] = {}
    """Share of each text in the cooldown: mathematics, code, reasoning of the highest quality."""
    balance: float = Field(1e-3, ge=0)
    """Step of the experts' biases in the first two stages; 0 in the cooldown [2502.16982 App. C]."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self._steps[1] < 1:
            raise ValueError(f"first ({self.first}) and cooldown ({self.cooldown}) leave no step in between; lower one")
        return self

    @property
    def _steps(self) -> tuple[int, int, int]:
        """Of each stage."""
        first, last = (max(1, round(share * self.steps)) for share in (self.first, self.cooldown))
        return first, self.steps - first - last, last

    def stages(self) -> tuple[PretrainStage, ...]:
        """Return the three."""
        first, main, last = self._steps
        grown = min(main - 1, max(1, round(self.grown * self.steps) - first))
        whole = PretrainStage(
            steps=first,
            ramp=first,
            lr=self.lr,
            batch=self.batch,
            length=self.length,
            mixture=self.mixture,
            balance=self.balance,
        )
        falling = {"steps": main, "ramp": 0, "end": 0.1 * self.lr, "shape": "cosine"}
        growing = {"grows": (grown, 2 * self.batch) if grown > 0 else None}
        cool = {"steps": last, "ramp": max(1, round(0.1 * last)), "lr": 0.24 * self.lr, "end": 0.0}
        other = {"batch": 2 * self.batch, "mixture": self.best, "balance": 0.0}
        return (whole, whole.model_copy(update=falling | growing), whole.model_copy(update=cool | other))


class StagesSchedule(Config):
    """Stages of one's own."""

    kind: Literal["stages"] = "stages"
    list: tuple[PretrainStage, ...] = Field(min_length=1)
    """One after the other."""

    def stages(self) -> tuple[PretrainStage, ...]:
        """Return them."""
        return self.list


Schedule = Annotated[CosineSchedule | WsdSchedule | MoonlightSchedule | StagesSchedule, Field(discriminator="kind")]


class MeasureConfig(Config):
    """Held-out loss."""

    every: int = Field(200, ge=0)
    """Steps between measurements, from before the first step on; 0: at the end only."""
    tokens: int = Field(32_768, ge=1)
    """Held-out tokens of each text."""
    bins: int = Field(8, ge=1)
    """Stretches of positions that the loss is told for; the last one is the trailing loss [2502.13189 §3.1]."""


class PretrainConfig(Config):
    """Pretraining from scratch, or on from a model: next-token prediction on packed text."""

    presets: ClassVar = {
        "device": Preset(
            "On the CPU in float32, or on GPUs in bfloat16.",
            {
                device: {"model.device": device, "model.compute_dtype": dtype}
                for device, dtype in (("cpu", "float32"), ("cuda", "bfloat16"))
            },
        )
    }

    recipe: str = "custom"
    """Name of the recipe it came from."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Seeds weights, and the order of the text."""
    model: ModelConfig = ModelConfig()
    """What is trained; ``base`` from scratch takes its vocabulary from ``tokenizer``."""
    tokenizer: TokenizerConfig = TokenizerConfig()
    text: dict[str, TextSource] = {"prose": PythonText(), "sums": ProblemsText()}
    """The texts, by names that mixtures use."""
    cache: str | None = None
    """Folder for the texts as tokens, which several trainings may share; ``null``: in the run's own."""
    documents: Literal["together", "apart"] = "together"
    """Whether a token may attend to the documents before its own in a packed sequence."""
    schedule: Schedule = CosineSchedule()
    """Steps, batches, learning rate and mixtures: ``cosine``, ``wsd``, ``moonlight``, or ``stages`` of one's own."""
    learner: LearnerConfig = LearnerConfig()
    measure: MeasureConfig = MeasureConfig()
    checkpoint: CheckpointConfig = CheckpointConfig(every=200)
    """``every``: steps between checkpoints."""
    log: LogConfig = LogConfig()
    ray: RayConfig = RayConfig()
    """A learner of one rank on a CPU runs without Ray, unless ``ray.address`` is given."""

    @property
    def stages(self) -> tuple[PretrainStage, ...]:
        """All stages in order."""
        return self.schedule.stages()

    @property
    def steps(self) -> int:
        """Optimiser steps of all stages."""
        return sum(stage.steps for stage in self.stages)

    def length(self, stage: PretrainStage) -> int:
        """Return the tokens of a sequence of a stage."""
        base = self.model.base
        if stage.length is not None:
            return stage.length
        if not isinstance(base, ScratchModel):
            raise ValueError("schedule: give length, the tokens of a sequence, for a model that exists already")
        return base.context

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return max(map(self.length, self.stages))

    def mixture(self, stage: PretrainStage) -> dict[str, float]:
        """Return the weight of every text in a stage."""
        return {name: stage.mixture.get(name, 0.0) if stage.mixture else 1.0 for name in self.text}

    @model_validator(mode="after")
    def _across(self) -> Self:
        if not self.text:
            raise ValueError("text: name at least one")
        for name in self.text:
            if not re.fullmatch(r"\w[\w.-]*", name, re.ASCII):
                raise ValueError(f"text: {name!r} names files and metrics; use letters, digits, '_', '-' and '.'")
        for stage in self.stages:
            if unknown := sorted(stage.mixture.keys() - self.text.keys()):
                raise ValueError(f"schedule: mixture names {unknown[0]!r}; text has: {', '.join(self.text)}")
            if not any(self.mixture(stage).values()):
                raise ValueError("schedule: a mixture has no text with a share above 0")
            self.length(stage)
        base = self.model.base
        if isinstance(base, ScratchModel) and self.longest > base.context and not self.model.attention.rotary:
            raise ValueError(
                f"schedule: length ({self.longest}) is above model.base.context ({base.context}), and "
                "model.attention.rotary does not extend it"
            )
        self.run()  # what is wrong with the learner's keys is said now
        return self

    def run(self) -> RunConfig:
        """Return the run whose learner trains it: no iteration, and no engine is started."""
        alone = self.learner.ranks.size == 1 and self.model.device == "cpu" and self.ray.address is None
        return RunConfig(
            recipe=self.recipe,
            seed=self.seed,
            iterations=0,
            model=self.model,
            learner=self.learner.model_copy(update={"updates": 1}),
            engine=EngineConfig(kind="hf", max_model_len=self.longest),
            rollout=RolloutConfig(max_tokens=1, segment_tokens=1),
            checkpoint=self.checkpoint,
            log=self.log,
            ray=self.ray.model_copy(update={"in_process": alone or self.ray.in_process}),
        )
