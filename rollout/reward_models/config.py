"""Configuration of a reward model at work. Imports no torch, vLLM or Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from rewards.models.template import check
from rollout.config import Config, EngineConfig
from rollout.evidence.config import MergingConfig

When = Literal["undecided", "not_right", "always"]


class AlarmConfig(Config):
    """When a policy has learnt to please the model instead of solving problems: agreement with what is known to be
    true falls.
    """

    shorthand: ClassVar[str] = "then"
    then: Literal["warn", "stop"] = "warn"
    """``warn``: say so, and go on. ``stop``: end the run with a checkpoint and a message."""
    least: float = Field(0.8, ge=0, le=1)
    """Agreement below which the alarm sounds."""
    fall: float = Field(0.1, gt=0, le=1)
    """Or: so far below the highest mean of ``window`` iterations before, and further than chance goes (two standard
    errors)."""
    window: int = Field(3, ge=1)
    """Iterations that agreement is averaged over."""
    verdicts: int = Field(50, ge=1)
    """Fewest compared verdicts in a window: with fewer, nothing is said."""


TextFile = Annotated[str, AfterValidator(lambda file: str(Path(file).expanduser().absolute()))]


class VerdictMerging(MergingConfig):
    """NBCE on one token of two: nothing is cut off, and no window has spoken before."""

    eta: float = Field(0.0, ge=0)
    """Nats taken off the entropy of the window that spoke for the token before: of labels that begin alike."""
    top_p: float | None = Field(1.0, gt=0, le=1)
    """Nucleus that each window keeps of the labels; below 1 a sure window is certain."""


class EvidenceConfig(Config):
    """A judge that reads long evidence in windows beside one another and says one word (docs/long_evidence.md).

    Each is a window of its own: the reference answer, the texts of a row's field ``evidence``, and the files.
    """

    shorthand: ClassVar[str] = "files"
    files: tuple[TextFile, ...] = ()
    """Text files that all responses are judged by: a rubric, a specification. Recorded with their absolute paths."""
    window: int | None = Field(None, ge=1)
    """Tokens from which on a text is split into several windows; ``null``: none is, and a longer one is not read."""
    labels: tuple[str, str] = ("correct", "incorrect")
    """What it may say: that a response is right, and that it is wrong."""
    template: str | None = None
    """What it reads, with the evidence of one window as {reference}; ``null``: what its card says, or ours."""
    merging: VerdictMerging = VerdictMerging()
    """How windows become one verdict."""
    each: bool = False
    """Have each window judge by itself, too: as many more requests as there are windows."""

    @classmethod
    def spelled_out(cls, value: str | float) -> dict[str, Any]:
        """Return the keys that one text in the place of the section sets: one file."""
        return {cls.shorthand: [value]}

    @model_validator(mode="after")
    def _different(self) -> Self:
        if not all(label.strip() for label in self.labels) or len(set(self.labels)) < 2:
            raise ValueError("labels are two different words, for right and for wrong")
        if self.template is not None:
            check(self.template)
            if "{reference}" not in self.template:
                raise ValueError("template has no {reference}, in whose place the evidence is put; add it")
        return self


class RewardModelConfig(Config):
    """A model that judges responses: a classic head, a chain-of-thought judge, or a verifier from few labels
    (docs/reward_models.md); given as one text it is the ``path``.
    """

    shorthand: ClassVar[str] = "path"
    path: str = Field(min_length=1)
    """Directory of the model, of the run that trained it, or a hub name. What kind it is, its files say."""
    when: When = "undecided"
    """Whose responses are the model's to judge. ``undecided``: those that no rule decides: problems without a verifier,
    and what the verifier could not grade. ``not_right``: those, too, that the rule calls wrong, as it may for an
    unusual form. ``always``: all; the rule's verdicts are only compared.
    In evaluations the rule's verdict stands wherever there is one."""
    audit: float = Field(0.1, ge=0, le=1)
    """Share of the responses that the rule decides which the model judges, too, without a consequence but the
    comparison; in evaluations as well."""
    reward: Literal["verdict", "probability"] = "verdict"
    """``verdict``: 1 from ``threshold`` on, else 0. ``probability``: that of being right, as the model has it."""
    threshold: float = Field(0.5, gt=0, lt=1)
    """Probability from which on a response is right."""
    samples: int = Field(1, ge=1)
    """Verdicts that a judge gives on each response."""
    vote: Literal["majority", "mean"] = "majority"
    """``majority``: what most of them say; a tie is undecided. ``mean``: the share that says right."""
    temperature: float = Field(1.0, ge=0)
    """Of a judge's verdicts; 0 is greedy."""
    max_tokens: int = Field(1024, ge=1)
    """Longest reasoning and verdict of a judge."""
    evidence: EvidenceConfig | None = None
    """Have a judge say one word by long evidence in windows, instead of reasoning; ``null``: no."""
    timeout_s: float = Field(300.0, gt=0)
    """Longest time that a judge writes on one verdict, from its first token; then it says nothing."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Seeds a judge's verdicts."""
    engine: EngineConfig | None = None
    """Engines of a judge of its own, or the device and threads of a head's; ``null``: like the run's."""
    place: Literal["auto", "beside", "own"] = "auto"
    """Of a judge's engines on GPUs. ``beside``: on those of the policy's engines, which leave them a part
    (``ray.engine_gpus`` below 1). ``own``: on others. ``auto``: beside where there is such a part, else own. CPUs are
    shared anyhow."""
    labelled: str | None = None
    """Responses with verdicts that were never trained on (``docs/reward_models.md``): the model judges some of them in
    each iteration, and the alarm looks at that agreement, too. For problems that no rule decides."""
    labelled_size: int = Field(64, ge=1)
    """Of those, how many in an iteration."""
    alarm: AlarmConfig | None = AlarmConfig()
    """Watch over the agreement of model and rule, or labels; ``null``: none."""

    @model_validator(mode="after")
    def _votes(self) -> Self:
        if self.samples > 1 and self.temperature == 0:
            raise ValueError(f"samples {self.samples} at temperature 0 are all the same: raise one or lower the other")
        return self
