"""Signs that a run cannot work, or has not worked, with advice in plain words. Pure functions.

Policy-gradient RL learns from groups that hold right *and* wrong responses; in all others every advantage is 0 (but
for the length reward, which also ranks responses that are all right).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypedDict

from rewards.stats import Estimate
from rl.config import PromiseConfig, RunConfig
from rl.diversity_config import CollapseConfig
from rl.record.collapse import collapsed
from rl.record.finding import Finding, percent, span
from rl.record.log import Evaluation
from rl.record.metrics import Row
from rollout.reward_models.config import AlarmConfig

FEWEST_MIXED = 0.5
"""Share of groups with right and wrong responses below which a start is called too weak."""
FLAT = 0.9
"""Share of groups without a signal from which an iteration counts as one without."""
FLAT_ITERATIONS = 5
"""Number of such iterations in a row that is reported."""
UNGRADABLE = 0.5
"""Share of finished rollouts without a verdict from which an iteration counts as ungradable; as many in a row."""
MORE_SIGNAL = "easier problems, a longer warm-up, or more responses per problem (rollout.k)"


@dataclass(frozen=True)
class Course:
    """The data of a run so far."""

    iterations: int
    """Iterations planned."""
    k: int
    """Responses per problem."""
    rows: Sequence[Row] = ()
    """The iterations done, in order."""
    before: Evaluation | None = None
    """Held-out evaluation before RL."""
    after: Evaluation | None = None
    """Held-out evaluation after RL; ``None`` while it goes on."""
    change: Estimate | None = None
    """Difference of their accuracies, paired by problem, with its 95 % interval; ``None`` when unknown."""
    promise: PromiseConfig | None = None
    """The recipe's promise; ``None``: none."""
    alarm: AlarmConfig | None = None
    """The watch over a reward model; ``None``: none."""
    collapse: CollapseConfig | None = None
    """The watch over how different responses are; ``None``: none."""

    @classmethod
    def so_far(cls, config: RunConfig, rows: Sequence[Row], before: Evaluation | None = None) -> Course:
        """Return the course of a run that goes on."""
        return cls(config.iterations, config.rollout.k, rows, before, **alarms(config))


class Alarms(TypedDict):
    """The watches of a run, as keywords of its ``Course``."""

    alarm: AlarmConfig | None
    collapse: CollapseConfig | None


def alarms(config: RunConfig) -> Alarms:
    """Return the watches that a configuration has."""
    model, diversity = config.reward.model, config.diversity
    return {"alarm": model.alarm if model else None, "collapse": diversity.alarm if diversity else None}


def findings(course: Course) -> list[Finding]:
    """Return all findings, in the order in which they appear."""
    found = [
        weak_start(course),
        ungradable(course.rows),
        flat_groups(course.rows),
        hacked(course.rows, course.alarm),
        collapsed(course.rows, course.collapse),
        *ending(course),
    ]
    return [finding for finding in found if finding]


def most_mixed(rate: float, k: int) -> float:
    """Return the largest share of groups of ``k`` responses with right and wrong ones, at a mean accuracy of ``rate``.

    1 - p^k - (1 - p)^k is concave in p: problems that differ in difficulty only make such groups rarer.
    """
    return 1.0 - rate**k - (1.0 - rate) ** k


def weak_start(course: Course) -> Finding | None:
    """Return a finding when the policy is right so rarely that most groups of its responses are all wrong."""
    if course.before is None or not course.iterations or course.before.goes_by_reward:
        return None
    rate = course.before.accuracy.mean
    mixed = most_mixed(rate, course.k)
    if rate > 0.5 or mixed >= FEWEST_MIXED:
        return None
    return Finding(
        "weak-start",
        f"before RL only {percent(rate)} of the held-out responses are right: at most {100 * mixed:.0f} % of the "
        f"groups of {course.k} can hold right and wrong ones, which alone teach anything",
        f"what helps: {MORE_SIGNAL}",
    )


def ungradable(rows: Sequence[Row]) -> Finding | None:
    """Return a finding on the first stretch of iterations in which most responses got no verdict."""
    stretch = _stretch(rows, "rollouts/finished", _ungradable, UNGRADABLE)
    if not stretch:
        return None
    lost, finished = (
        round(sum(row.get(f"rollouts/{key}", 0.0) for row in stretch)) for key in ("ungradable", "finished")
    )
    return Finding(
        "ungradable",
        f"{span(stretch)}: {lost} of {finished} responses could not be graded, and were left out of training",
        "mend the reward or the environment; `k15 grade RUN` lists the reasons",
    )


def _ungradable(row: Row) -> float:
    return row.get("rollouts/ungradable", 0.0) / row["rollouts/finished"]


def _stretch(rows: Sequence[Row], counted: str, share: Callable[[Row], float], least: float) -> list[Row]:
    """Return the first ``FLAT_ITERATIONS`` or more iterations in a row with a ``share`` of ``least``, or none.

    Iterations without any ``counted`` say nothing either way.
    """
    stretch: list[Row] = []
    for row in rows:
        if not row.get(counted):
            continue
        if share(row) >= least:
            stretch.append(row)
        elif len(stretch) >= FLAT_ITERATIONS:
            break
        else:
            stretch = []
    return stretch if len(stretch) >= FLAT_ITERATIONS else []


def flat_groups(rows: Sequence[Row]) -> Finding | None:
    """Return a finding on the first stretch of ``FLAT_ITERATIONS`` or more iterations in which nearly no group had a
    signal.
    """
    stretch = _stretch(rows, "groups/finished", _flat, FLAT)
    if not stretch:
        return None
    finished, wrong, right = (
        round(sum(row.get(key, 0.0) for row in stretch))
        for key in ("groups/finished", "groups/all_wrong", "groups/all_right")
    )
    where = span(stretch)
    if wrong >= right:
        return Finding(
            "groups-all-wrong",
            f"{where}: {wrong} of {finished} groups have no right response, and nothing to learn from",
            f"what helps: {MORE_SIGNAL}",
        )
    return Finding(
        "groups-all-right",
        f"{where}: {right} of {finished} groups have no wrong response, and nothing to learn from",
        "what helps: harder problems, sampling.kind prioritized, or a length reward (reward.length)",
    )


def _flat(row: Row) -> float:
    """Return the share of an iteration's groups that teach nothing; rewards may differ where all are right, or
    wrong.
    """
    wrong, right = row.get("groups/all_wrong", 0.0), row.get("groups/all_right", 0.0)
    flat = min(row.get("groups/flat", wrong + right), wrong + right)
    return max(0.0, flat - (right if row.get("length_weight") else 0.0)) / row["groups/finished"]


REFEREES = {"": "the rule", "labelled_": "the labels"}
"""Whom the reward model is compared with, by the prefix of the metrics."""


def hacked(rows: Sequence[Row], alarm: AlarmConfig | None) -> Finding | None:
    """Return a finding on the first window of iterations in which the reward model agreed too rarely with the rule, or
    with held-out labels.
    """
    found = [
        (window[-1]["iteration"], kind, window, why)
        for kind in REFEREES
        if alarm and (first := _first_fall(rows, kind, alarm))
        for window, why in (first,)
    ]
    if not found:
        return None
    _, kind, window, why = min(found)
    agreed, compared = _agreement(window, kind)
    false_right = sum(row.get(f"reward/{kind}false_right", 0.0) * row[f"reward/{kind}compared"] for row in window)
    return Finding(
        "reward-hacked",
        f"{span(window)}: the reward model agrees with {REFEREES[kind]} on {percent(agreed)} of {compared:.0f} "
        f"responses, {why}; {percent(false_right / compared)} are right by the model alone",
        "the policy may have learnt to please the model: read where they disagree in the report, and train the model "
        "on such responses",
    )


def _first_fall(rows: Sequence[Row], kind: str, alarm: AlarmConfig) -> tuple[Sequence[Row], str] | None:
    """Return the first window whose agreement is too low, and why it is."""
    judged = [row for row in rows if row.get(f"reward/{kind}compared")]
    best, support = 0.0, 0.0
    for end in range(alarm.window, len(judged) + 1):
        window = judged[end - alarm.window : end]
        agreed, compared = _agreement(window, kind)
        if compared < alarm.verdicts:
            continue
        if agreed < alarm.least:
            return window, f"fewer than {percent(alarm.least)}"
        chance = 2 * (best * (1 - best) / support + agreed * (1 - agreed) / compared) ** 0.5 if support else 0.0
        if support and best - agreed > max(alarm.fall, chance):
            return window, f"after {percent(best)} at best"
        if agreed > best:
            best, support = agreed, compared
    return None


def _agreement(window: Sequence[Row], kind: str) -> tuple[float, float]:
    """Return the share of a window's compared responses on which both say the same, and their number."""
    compared = sum(row[f"reward/{kind}compared"] for row in window)
    return sum(row[f"reward/{kind}agreement"] * row[f"reward/{kind}compared"] for row in window) / compared, compared


def halted(course: Course) -> str:
    """Return why a run is to end before its iterations are done, as one line; empty when it may go on."""
    if len(course.rows) >= course.iterations:
        return ""
    for key, alarm, finding in (
        ("reward.model.alarm", course.alarm, hacked(course.rows, course.alarm)),
        ("diversity.alarm", course.collapse, collapsed(course.rows, course.collapse)),
    ):
        if alarm is not None and alarm.then == "stop" and finding is not None:
            return (
                f"stopped after iteration {len(course.rows)} of {course.iterations} by {key}: {finding.text}; "
                f"`--{key}.then warn` goes on all the same, another `least` or `fall` where it is not reached"
            )
    return ""


def ending(course: Course) -> list[Finding]:
    """Return the findings of a finished run."""
    if course.after is None or course.before is None or not course.iterations:
        return []
    found = [no_gain(course.before, course.after, course.change, _shortens(course.rows))]
    if course.promise:
        found.append(broken_promise(course.promise, course.before, course.after))
    return [finding for finding in found if finding]


def _shortens(rows: Sequence[Row]) -> bool:
    return any(row.get("length_weight") for row in rows)


def no_gain(before: Evaluation, after: Evaluation, change: Estimate | None, shortens: bool) -> Finding | None:
    """Return a finding when accuracy fell, or did not move further than chance does.

    Where the length reward was on (``shortens``), clearly shorter responses are a gain too; so are clearly higher
    rewards where they say more than what is right.
    """
    if change is None or change.low > 0:
        return None
    moved = f"{100 * change.mean:+.1f} points [{100 * change.low:+.1f}, {100 * change.high:+.1f}] held out"
    if change.high < 0:
        return Finding(
            "accuracy-fell",
            f"RL made the policy worse: {moved}",
            "try a lower learner.optimizer.lr or a larger learner.objective.tau, and read rollouts in the report",
        )
    if shortens and after.tokens.high < before.tokens.low:
        return None
    if before.reward and after.reward and after.goes_by_reward and after.reward.low > before.reward.high:
        return None
    return Finding(
        "no-gain",
        f"RL ended without a gain that chance could not explain: {moved}",
        "try more iterations or a higher learner.optimizer.lr; more held-out problems (problems.heldout_size) or "
        "eval.samples show smaller gains",
    )


def broken_promise(promise: PromiseConfig, before: Evaluation, after: Evaluation) -> Finding | None:
    """Return a finding when the end of the run is not what its recipe promises."""
    a, b = before.accuracy, after.accuracy
    missing = []
    if b.mean - a.mean < promise.gain:
        missing.append(f"gained {100 * (b.mean - a.mean):+.1f} points, not {100 * promise.gain:.0f}")
    if a.high >= b.low:
        missing.append("95 % interval not above that before RL")
    if b.mean < promise.final:
        missing.append(f"ended at {percent(b.mean)}, not {percent(promise.final)}")
    if not missing:
        return None
    return Finding(
        "promise-broken",
        f"the recipe's promise is broken: {'; '.join(missing)}",
        "please report summary.json and run.json; --seed N --run-dir DIR tries another draw",
    )
