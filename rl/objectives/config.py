"""Configuration of the objectives. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from rollout.config import Config, UserCode

LengthNorm = Literal["none", "response", "max_tokens"]
"""What each sequence's loss is divided by."""

Weight = Annotated[float, Field(ge=0)]

Pooled = Literal["ends", "starts", "means"]
"""Which hidden state stands for a whole sequence (``rl.objectives.protocol.At``)."""


class ImportanceConfig(Config):
    """Truncated importance weights min(cap, pi_i / mu): engine and learner never have quite the same policy."""

    cap: float = Field(2.0, ge=1)
    """Largest weight; 2 is what the field uses."""
    level: Literal["token", "sequence"] = "token"
    """``token``: each token by its own ratio. ``sequence``: by the response's; unbiased below the cap, more noise."""


class MirrorDescentConfig(Config):
    """The k1.5 policy loss [2501.12599 §2.3]."""

    kind: Literal["mirror_descent"] = "mirror_descent"
    tau: float = Field(0.01, gt=0)
    """KL strength; not published, 0.01 is what third parties use."""
    baseline: Literal["mean", "exp_mean"] = "mean"
    """``mean``: the group's mean reward (the paper's). ``exp_mean``: tau log mean exp(r / tau), the exact form."""
    length_norm: LengthNorm = "max_tokens"
    """Divide each sequence's loss by nothing (the paper), by its own length, or by ``rollout.max_tokens``."""
    importance: ImportanceConfig | None = None
    """Weigh the gradient for what sampled the tokens; ``null``: not. For coarse engines, or ``loss_on: all``."""


class ReinforceConfig(Config):
    """REINFORCE with the group's mean reward as baseline [2402.14740]: no ratio, no clip, no regulariser."""

    kind: Literal["reinforce"] = "reinforce"
    length_norm: LengthNorm | Literal["tokens"] = "max_tokens"
    """Divide each sequence's loss by nothing (the formula), by its own length, or by ``rollout.max_tokens``;
    ``tokens``: the sum over all by the tokens of the minibatch."""
    importance: ImportanceConfig | None = None
    """Weigh the gradient for what sampled the tokens; ``null``: not."""


class GrpoConfig(Config):
    """GRPO's clipped ratio and group-normalised advantages [2402.03300 §4.1], without its KL term.

    DAPO [2503.14476]: ``clip_high`` 0.28, ``length_norm`` tokens. GSPO [2507.18071]: ``ratio`` sequence, ``clip_low``
    3e-4, ``clip_high`` 4e-4. Dr. GRPO [2503.20783]: ``scale`` none, ``length_norm`` max_tokens.
    """

    kind: Literal["grpo"] = "grpo"
    clip_low: float = Field(0.2, gt=0, le=1)
    """Ratios below 1 - this give no gradient to what the advantage is against."""
    clip_high: float = Field(0.2, gt=0)
    """Ratios above 1 + this give no gradient to what the advantage is for."""
    ratio: Literal["token", "sequence"] = "token"
    """pi / pi_i of each token, or of the whole response to the power 1 / its length (GSPO)."""
    scale: Literal["std", "none"] = "std"
    """Divide advantages by the standard deviation of the group's rewards, or not."""
    length_norm: LengthNorm | Literal["tokens"] = "response"
    """Divide each sequence's loss by its own length (GRPO), by nothing, or by ``rollout.max_tokens``; ``tokens``: the
    sum over all by the tokens of the minibatch (DAPO)."""
    importance: ImportanceConfig | None = None
    """Weigh the gradient for what sampled the tokens; ``null``: not."""


class CispoConfig(Config):
    """CISPO [2506.13585 §3.1]: log-probs weighed by the capped ratio, so that no token loses its gradient."""

    kind: Literal["cispo"] = "cispo"
    cap: float = Field(5.0, ge=1)
    """Largest ratio pi / pi_i, 1 + epsilon_high in the paper, which gives no value; 5 is that of [2510.13786]."""
    scale: Literal["std", "none"] = "std"
    """Divide advantages by the standard deviation of the group's rewards, or not."""
    importance: ImportanceConfig | None = None
    """Weigh the gradient for what sampled the tokens; ``null``: not."""


class RestConfig(Config):
    """ReST [2308.08998, 2312.06585]: the likelihood of the correct responses, and nothing of the others."""

    kind: Literal["rest"] = "rest"


class ClassesConfig(Config):
    """Classes of whole responses on a head: what reward models are trained on (`k15 train reward`), not a policy."""

    kind: Literal["classes"] = "classes"
    classes: int = Field(2, ge=2)
    """Number of classes."""
    at: Pooled = "ends"
    """What the head reads of a response: the state of its last token, of its first (for encoders), or their mean."""


class PythonObjectiveConfig(Config):
    """An objective of your own: docs/objectives.md has one in full."""

    kind: Literal["python"] = "python"
    path: UserCode
    """``my_file.py:name``, ``module:name``, or the name of an entry point of the group ``k15.objectives``: an
    ``rl.objectives.protocol.Objective``, or what returns one. Learners on other machines need the file, too."""
    options: dict[str, Any] = {}
    """Keyword arguments for what returns one."""


class CopyingConfig(Config):
    """An auxiliary loss in warm-up and RL: a head tells which response tokens are copied from the prompt
    [2109.12533]; given as a number it is ``weight``. See docs/copying.md.
    """

    shorthand: ClassVar[str] = "weight"
    weight: float = Field(0.5, ge=0)
    """Factor on its cross-entropy, mean over the loss tokens; the paper's is 2. 0: the head learns nothing."""
    mode: Literal["ngram", "lcs"] = "ngram"
    """What is a copy. ``ngram``: two tokens or more that are anywhere in the prompt, and single ones with a digit.
    ``lcs``: the paper's longest common subsequence, in the prompt's order, for short texts."""
    class_weights: tuple[Weight, Weight, Weight] = (1.0, 1.0, 1.0)
    """Factors on the cross-entropy of tokens that are not copied, that begin a copy, and that go on with one."""

    @field_validator("class_weights")
    @classmethod
    def _some(cls, value: tuple[float, float, float]) -> tuple[float, float, float]:
        if not any(value):
            raise ValueError(
                "class_weights are all 0: the head would learn nothing; set learner.copying to null instead"
            )
        return value


ObjectiveConfig = (
    MirrorDescentConfig
    | ReinforceConfig
    | GrpoConfig
    | CispoConfig
    | RestConfig
    | ClassesConfig
    | PythonObjectiveConfig
)
ChosenObjective = Annotated[ObjectiveConfig, Field(discriminator="kind")]
"""One of them, told by its ``kind``."""
