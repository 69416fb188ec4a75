"""How a reward model compares with the rule, response by response. Pure functions, deterministic.

Problems are the independent units: several responses to one problem are not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rewards.score import Score
from rewards.stats import Estimate, mean_ci

RESAMPLES = 2000


@dataclass(frozen=True)
class Verdicts:
    """Both verdicts on one response."""

    problem: str
    """Id: responses to one problem are not independent."""
    rule: bool | None
    """Whether it is right by the rule; ``None``: that gave no verdict."""
    model: bool | None
    """Whether it is right by the model; ``None``: not asked, or no opinion."""
    probability: float | None = None
    """Of being right, as the model has it."""

    @property
    def compared(self) -> bool:
        """Whether both have a verdict."""
        return self.rule is not None and self.model is not None

    @property
    def kind(self) -> str:
        """``agree``, ``false right`` (right by the model alone), ``false wrong``, ``only rule``, ``only model``,
        ``neither``.
        """
        if self.rule is None:
            return "neither" if self.model is None else "only model"
        if self.model is None:
            return "only rule"
        return "agree" if self.rule == self.model else "false right" if self.model else "false wrong"


def verdicts(problem: str, correct: bool | None, parts: Mapping[str, float]) -> Verdicts:
    """Return both verdicts on a response from its score's parts (``rollout.reward_models.grader``); ``correct`` is the
    verdict that counted, ``None`` for an ungradable response.
    """
    rule = bool(parts["rule"]) if "rule" in parts else None
    probability = parts.get("model")
    if probability is None:
        return Verdicts(problem, rule, None)
    said = correct if rule is None else rule == bool(parts.get("agrees", 0.0))
    return Verdicts(problem, rule, said, probability)


def of_score(problem: str, score: Score) -> Verdicts:
    """Return both verdicts on a response from its score."""
    return verdicts(problem, score.correct if score.gradable else None, score.parts)


def judged(all_: Iterable[Verdicts]) -> bool:
    """Return whether a reward model had a say at all."""
    return any(one.model is not None for one in all_)


@dataclass(frozen=True)
class Agreement:
    """Reward model against rule, over some responses."""

    responses: int
    both_right: int
    both_wrong: int
    false_right: int
    """Right by the model alone."""
    false_wrong: int
    """Right by the rule alone."""
    only_rule: int
    """With the rule's verdict alone: the model was not asked, or had no opinion."""
    only_model: int
    """With the model's verdict alone: no rule decides them."""
    neither: int
    agreement: Estimate | None
    """Share of the compared responses on which both say the same; problems are its clusters. ``None``: none are."""
    kappa: float | None
    """Cohen's: agreement beyond that of two who say right as often, and otherwise by chance; ``None``: undefined."""
    kappa95: tuple[float, float] | None
    """Its interval, by a bootstrap over problems."""

    @property
    def compared(self) -> int:
        """Responses that both have judged."""
        return self.both_right + self.both_wrong + self.false_right + self.false_wrong

    @property
    def lines(self) -> list[str]:
        """Return it in words, for a terminal."""
        if self.agreement is None:
            return [
                f"rule and model have no response in common; judged by the model alone {self.only_model}, by the rule "
                f"alone {self.only_rule}, by neither {self.neither}"
            ]
        low, high = self.agreement.low, self.agreement.high
        kappa = f"{self.kappa:.2f}" if self.kappa is not None else "undefined"
        between = f" [{self.kappa95[0]:.2f}, {self.kappa95[1]:.2f}]" if self.kappa95 else ""
        return [
            f"rule and model agree on {100 * self.agreement.mean:.1f} % [{100 * low:.1f}, {100 * high:.1f}] of "
            f"{self.compared} responses, kappa {kappa}{between}",
            f"right by both {self.both_right}, by the rule alone {self.false_wrong}, by the model alone "
            f"{self.false_right}, by neither {self.both_wrong}; judged by the model alone {self.only_model}, by the "
            f"rule alone {self.only_rule}",
        ]


def agreement(all_: Sequence[Verdicts]) -> Agreement:
    """Compare both verdicts on some responses."""
    kinds = [one.kind for one in all_]
    both = [one for one in all_ if one.compared]
    rows: dict[str, list[float]] = {}
    tables: dict[str, np.ndarray] = {}
    for one in both:
        rows.setdefault(one.problem, []).append(float(one.rule == one.model))
        tables.setdefault(one.problem, np.zeros((2, 2)))[int(bool(one.rule)), int(bool(one.model))] += 1
    counts = np.array([*tables.values()]) if tables else np.zeros((0, 2, 2))
    whole = counts.sum(0)
    kappa = _kappa(whole[None])[0] if both else np.nan
    return Agreement(
        responses=len(all_),
        both_right=int(whole[1, 1]),
        both_wrong=int(whole[0, 0]),
        false_right=int(whole[0, 1]),
        false_wrong=int(whole[1, 0]),
        only_rule=kinds.count("only rule"),
        only_model=kinds.count("only model"),
        neither=kinds.count("neither"),
        agreement=mean_ci([*rows.values()]) if rows else None,
        kappa=None if np.isnan(kappa) else float(kappa),
        kappa95=_kappa95(counts) if not np.isnan(kappa) else None,
    )


def _kappa(tables: np.ndarray) -> np.ndarray:
    """Return Cohen's kappa [n] of tables [n, rule, model]; NaN where both always say the same one thing."""
    totals = tables.sum((1, 2))
    observed = (tables[:, 0, 0] + tables[:, 1, 1]) / totals
    rule, model = tables.sum(2) / totals[:, None], tables.sum(1) / totals[:, None]
    chance = (rule * model).sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(chance < 1, (observed - chance) / (1 - chance), np.nan)  # type: ignore[no-any-return]


def _kappa95(counts: np.ndarray) -> tuple[float, float] | None:
    """Return the percentile interval of kappa over redrawn problems; ``counts``: [problems, rule, model]."""
    n = len(counts)
    if n < 2:
        return None
    draws = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
    found = _kappa(np.tensordot(draws, counts, 1))
    found = found[~np.isnan(found)]
    if not len(found):
        return None
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)
