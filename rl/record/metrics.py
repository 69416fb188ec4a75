"""The metrics of an iteration: every name in ``metrics.jsonl`` and at the trackers, its unit and its meaning.

The one list of them. A number travels as ``dict[str, float]`` from where it is made to the file; what does not exist in
an iteration (no finished rollout, no evaluation) is absent from its row. ``docs/metrics.md`` is made of this table.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

Row = dict[str, float]
"""One line of ``metrics.jsonl``: finite numbers by name."""

PHASES = {
    "generate": "sample",
    "score": "grade",
    "train": "train",
    "store": "store",
    "diversity": "compare",
    "publish": "publish",
    "eval": "eval",
    "checkpoint": "save",
}
"""Phases of an iteration whose wall time is recorded, as ``time/<phase>``, and what the timeline calls them."""


@dataclass(frozen=True)
class Metric:
    """Unit and meaning of a metric."""

    unit: str
    """``nats``, ``tokens``, ``share`` (in [0, 1]), ``s`` ...; empty: a number without one."""
    meaning: str
    """One sentence, Markdown."""


METRICS = {
    "iteration": Metric("", "RL iteration, from 0."),
    "version": Metric("", "Weight version that sampled this iteration's tokens."),
    "nonfinite": Metric("metrics", "Values of this row that were NaN or infinite and are therefore absent."),
    # Correctness and reward of the groups that finished.
    "accuracy": Metric("share", "Mean correctness of the finished, graded training rollouts."),
    "accuracy/low": Metric("share", "Lower end of its 95 % interval, groups as clusters."),
    "accuracy/high": Metric("share", "Upper end of its 95 % interval."),
    "reward/mean": Metric("", "Mean training reward (verifier, length reward and penalties) of the unmasked rollouts."),
    "reward/length_mean": Metric("", "Mean length reward of the same rollouts, weight included [2501.12599 §2.3.3]."),
    # A reward model, where there is one, against what is known to be true.
    "reward/compared": Metric("rollouts", "Finished rollouts that both the rule and the reward model judged."),
    "reward/agreement": Metric("share", "Of these, those on which they say the same (`docs/reward_models.md`)."),
    "reward/false_right": Metric("share", "Of these, those that are right by the model and wrong by the rule."),
    "reward/false_wrong": Metric("share", "Of these, those that are wrong by the model and right by the rule."),
    "reward/labelled_compared": Metric(
        "responses", "Responses of `reward.model.labelled` that the model judged in this iteration."
    ),
    "reward/labelled_silent": Metric("responses", "Others of them, on which it had no opinion."),
    "reward/labelled_agreement": Metric("share", "Of those judged, those on which it says what their label says."),
    "reward/labelled_false_right": Metric(
        "share", "Of those judged, those that are right by the model and labelled wrong."
    ),
    "length_weight": Metric("", "Weight w of the length reward; 0 during its warm-up [2501.12599 §2.3.3]."),
    # How different responses are, in runs that watch it.
    "diversity/effective_rank": Metric(
        "responses",
        "Effective number of different responses in a group, mean over groups: from 1, all are alike, to k "
        "(`docs/diversity.md`).",
    ),
    "diversity/spread": Metric("share", "The same as a share: 0, all are alike; 1, all differ in everything."),
    "diversity/right_spread": Metric("share", "Of the right responses, over the groups with two of them or more."),
    "diversity/wrong_spread": Metric("share", "Of the wrong responses, over the groups with two of them or more."),
    "diversity/wrong_groups": Metric("groups", "Groups with two wrong responses or more."),
    "diversity/identical": Metric("share", "Groups whose responses are all the same, token for token."),
    "diversity/across": Metric("share", "Spread of one response each to up to 32 problems."),
    # Length of responses, and why they ended.
    "length/mean": Metric("tokens", "Mean response length of the finished rollouts."),
    "length/low": Metric("tokens", "Lower end of the mean's 95 % interval (bootstrap over groups)."),
    "length/high": Metric("tokens", "Upper end of the mean's 95 % interval."),
    "length/median": Metric("tokens", "Median response length of the finished rollouts."),
    "length/max": Metric("tokens", "Longest finished response."),
    "stop/eos": Metric("rollouts", "Finished by themselves."),
    "stop/length": Metric("rollouts", "Cut at the total length cap."),
    "stop/repetition": Metric("rollouts", "Stopped for repeating themselves [2501.12599 §2.6.2]."),
    "stop/aborted": Metric("rollouts", "Given up (failures, age cap); masked."),
    # Rollouts, groups and problems.
    "rollouts/finished": Metric("rollouts", "Rollouts of the groups that completed in this iteration."),
    "rollouts/unfinished": Metric("rollouts", "Go to the replay buffer and continue later."),
    "rollouts/resumed": Metric("rollouts", "Taken from the replay buffer and continued [2501.12599 §2.6.2]."),
    "rollouts/ungradable": Metric(
        "rollouts", "Finished, but the grader failed on them (aborted ones not counted); masked, never reward 0."
    ),
    "rollouts/dropped_old": Metric("rollouts", "Ended by force because their group was older than the age cap."),
    "rollouts/versions_mean": Metric("versions", "Mean number of weight versions inside a finished rollout."),
    "rollouts/versions_max": Metric("versions", "Most weight versions inside one finished rollout."),
    "groups/finished": Metric("groups", "Groups all of whose rollouts have stopped."),
    "groups/trainable": Metric("groups", "Groups with at least one rollout that carried loss."),
    "groups/all_right": Metric("groups", "Groups whose graded rollouts are all correct: no signal but length."),
    "groups/all_wrong": Metric("groups", "Groups whose graded rollouts are all wrong."),
    "groups/flat": Metric("groups", "Groups whose rewards before length are all equal: no signal but length."),
    "problems/overlong": Metric(
        "problems", "Training problems left out so far because their prompts do not fit the context."
    ),
    "staleness/mean": Metric(
        "versions", "Mean over the finished rollouts' tokens of (current version - version that drew the token)."
    ),
    "staleness/loss_mean": Metric("versions", "The same over the tokens that carried loss."),
    "staleness/loss_max": Metric("versions", "Of the oldest of them."),
    "staleness/oldest_mean": Metric(
        "versions", "Mean over the trained rollouts of the age of their oldest token, whether it carried loss or not."
    ),
    "staleness/oldest_max": Metric("versions", "Of the oldest of all their tokens."),
    # The policy's update.
    "loss": Metric("", "Mean of the minimised objective over the iteration's steps that were not skipped."),
    "loss/first": Metric("", "The objective at the first such step, where the policy is its own reference."),
    "loss/last": Metric("", "The objective at its last such step."),
    "grad_norm": Metric("", "Mean global gradient norm before clipping, over the steps that were not skipped."),
    "entropy": Metric("nats", "Mean entropy of the policy's next-token distribution on trained tokens, last step."),
    "lr": Metric("", "Learning rate of the iteration's last step."),
    "logratio/mean": Metric(
        "nats", "Mean over sequences of log pi / pi_i at the forward pass of the last step [2501.12599 eq. 3]."
    ),
    "logratio/std": Metric("nats", "Standard deviation over sequences."),
    "logratio/max": Metric("nats", "Largest absolute value over sequences."),
    "logratio/per_token": Metric("nats", "Mean absolute log-ratio per trained token."),
    "saturated": Metric(
        "share", "Sequences on which the regulariser outweighs the advantage, over the steps (mirror descent)."
    ),
    "clip_share": Metric(
        "share", "Tokens (GSPO: sequences) whose ratio was clipped or capped, over the steps (GRPO and its kin, CISPO)."
    ),
    # The copy head, with learner.copying (`docs/copying.md`); in a warm-up they are in `warmup/warmup.json`.
    "copying/loss": Metric("nats", "Cross-entropy of the copy labels of trained tokens, without any weight."),
    "copying/f1_outside": Metric("share", "F1 of the tokens that are not copied from the prompt."),
    "copying/f1_begin": Metric("share", "F1 of those that begin a copy."),
    "copying/f1_inside": Metric("share", "F1 of those that go on with one."),
    "copying/probability": Metric("share", "Mean probability of a copy, as the head has it."),
    "copying/share": Metric("share", "Trained tokens that are copied."),
    "copying/without": Metric("share", "Trained sequences that copy nothing."),
    "steps/done": Metric("steps", "Optimiser steps that changed the weights."),
    "steps/skipped": Metric("steps", "Optimiser steps skipped for NaN or infinite gradients (invariant 7)."),
    "update_rms/muon": Metric("", "RMS of Muon's parameter update over the learning rate [2502.16982 §2.2]."),
    "update_rms/adamw": Metric("", "RMS of AdamW's parameter update over the learning rate."),
    "importance/mean": Metric(
        "", "Mean truncated importance weight of the trained tokens; only with `learner.objective.importance`."
    ),
    "importance/ess": Metric("share", "Effective sample size of these weights over their number."),
    "importance/truncated": Metric("share", "Tokens whose weight was cut off at `cap`."),
    "off_policy/ess": Metric(
        "share",
        "Effective sample size, over their number, that the trained tokens' weights pi_i / mu would have without a "
        "cap: 1 where sampler and learner agree; where it is low, `learner.objective.importance` is worth a try.",
    ),
    "attention/density": Metric(
        "share",
        "Part of full causal attention that was computed for the trained sequences, over all layers; only with block "
        "attention.",
    ),
    "attention/full_share": Metric(
        "share", "Their tokens that saw their whole past in block layers too, as early positions do; likewise."
    ),
    "attention/largest_logit": Metric(
        "", "Largest attention logit of the steps' forward passes; only with a bound on them (`learner.qk_clip`)."
    ),
    "attention/clipped_heads": Metric(
        "heads", "Heads that were above the bound, over all layers and steps, and got shorter queries and keys."
    ),
    # What the learner was given.
    "sequences/trained": Metric("rollouts", "In the batch."),
    "sequences/masked": Metric("rollouts", "Left out of it: ungradable or aborted, in groups that were kept."),
    "sequences/stale": Metric(
        "rollouts", "Left out of it: without a token that may carry loss (`rollout.loss_on`, `overlap.max_staleness`)."
    ),
    "sequences/small_groups": Metric(
        "rollouts", "Left out: in groups with fewer than two rewards (ReST: without a correct one)."
    ),
    "tokens/sampled": Metric("tokens", "Response tokens drawn in this iteration."),
    "tokens/trained": Metric("tokens", "Response tokens that carried loss."),
    "tokens/saved_by_repetition": Metric(
        "tokens", "Tokens up to the length cap that stopping repeated text left undrawn."
    ),
    # The environment, where there is one.
    "turns/mean": Metric("turns", "Mean turns of the policy in a finished rollout."),
    "turns/max": Metric("turns", "Most turns of the policy in one finished rollout."),
    "tokens/fed": Metric("tokens", "Tokens in the finished rollouts that the environment wrote; never trained on."),
    "environment/answers": Metric("turns", "Turns that the environment answered, since this process began."),
    "environment/failures": Metric(
        "rollouts", "Its answers that failed or took too long, since this process began; ungradable, never reward 0."
    ),
    "environment/clipped": Metric(
        "rollouts", "Ended because its answer did not fit the context, since this process began."
    ),
    # Engines, and how far they and the learner agree.
    "gap/mean": Metric("nats", "Mean |engine - learner| log-prob over this iteration's sampled tokens."),
    "gap/max": Metric("nats", "Largest |engine - learner| log-prob over this iteration's sampled tokens."),
    "probe/max_gap": Metric(
        "nats", "Largest |engine - learner| log-prob of the parity probe after the publish (invariant 1)."
    ),
    "probe/mean_gap": Metric("nats", "Mean of the same probe, of the engine where it is largest."),
    "publish/seconds": Metric(
        "s", "Transfer, loading and probe on all engines; `time/publish` also has what the learner spends on it."
    ),
    "publish/bytes": Metric("bytes", "Size of the weights published."),
    "engines/alive": Metric("engines", "Engines that serve at the end of the iteration."),
    "engines/failures": Metric("engines", "Engines lost since this process began; each was restarted or given up."),
    "engines/given_up": Metric("engines", "Of the slots for engines, those whose engine could not be kept alive."),
    # Learner and engines on the same devices in turn.
    "hybrid/offload_s": Metric(
        "s", "The learner's state into host memory, before sampling; with `ray.deployment: hybrid`"
    ),
    "hybrid/wake_s": Metric("s", "Engines waking up after that, without their weights, which the publish brings."),
    "hybrid/sleep_s": Metric("s", "Engines falling asleep, before training."),
    "hybrid/onload_s": Metric("s", "The learner's state back to its devices after that."),
    "hybrid/bytes": Metric("bytes", "Size of the learner's state in host memory, of its first rank."),
    # Held-out evaluation at the start of the iteration.
    "eval/accuracy": Metric("share", "Held-out accuracy under the weights that this iteration starts from."),
    "eval/low": Metric("share", "Lower end of its 95 % interval."),
    "eval/high": Metric("share", "Upper end of its 95 % interval."),
    "eval/reward": Metric("", "Mean reward of its responses; the accuracy itself where verifiers grade."),
    "eval/n": Metric("problems", "Held-out problems in it."),
    "eval/tokens": Metric("tokens", "Mean length of its responses."),
    # Time and memory.
    "time/generate": Metric("s", "Sampling; in an overlapped run: waiting for a batch."),
    "time/score": Metric("s", "Grading of the finished groups."),
    "time/train": Metric("s", "Reference log-probs and updates."),
    "time/store": Metric(
        "s", "Writing the rollouts; in an overlapped run the rest of it, since that goes on beside the training."
    ),
    "time/diversity": Metric("s", "Comparing the responses, in runs that watch their diversity."),
    "time/publish": Metric("s", "New weights into the engines, parity probe included."),
    "time/eval": Metric("s", "Held-out evaluation."),
    "time/checkpoint": Metric(
        "s",
        "Waiting for checkpoints: that of the state that this iteration starts from, where there is one. The learner "
        "goes on while it writes.",
    ),
    "time/total": Metric("s", "Sum of the phases."),
    "idle/engines": Metric(
        "share",
        "Part of the wall time since the row before in which an engine had nothing to do, mean over the engines that "
        "were there all the time (`docs/timeline.md`).",
    ),
    "idle/judges": Metric("share", "The same of the engines of a reward model that is a judge."),
    "idle/learner": Metric("share", "Part of it in which the learner had nothing to do."),
    "train/reference_s": Metric("s", "Part of `time/train`: the reference passes that no first step saved."),
    "throughput/sampled": Metric(
        "tokens/s",
        "Tokens sampled by this process over `time/generate`, in an overlapped run over the whole iteration but its "
        "evaluation; absent when all came from a journal.",
    ),
    "throughput/trained": Metric("tokens/s", "Trained tokens over `time/train`."),
    "memory/rss": Metric("bytes", "Resident memory of the driver process."),
}
"""Every metric but those of ``FAMILIES``, in the order of the docs."""

FAMILIES = {
    "staleness/share/": Metric("share", "Of the tokens that carried loss, those that are `<name>` versions old."),
    "reward/part/": Metric("", "Mean of the part `<name>` of the verifier's score, over the rollouts that have it."),
    "grader/": Metric("", "What the grader counted in this iteration: calls, failures, seconds (`docs/rewards.md`)."),
    "objective/": Metric("", "What an objective of one's own reports under `<name>`."),
}
"""Metrics whose names are not known beforehand, by prefix."""


def about(name: str) -> Metric | None:
    """What ``name`` stands for; ``None`` for a name that k15 does not write."""
    family = next((metric for prefix, metric in FAMILIES.items() if name.startswith(prefix)), None)
    return METRICS.get(name, family)


def unknown(names: Iterable[str]) -> list[str]:
    """Return those of ``names`` that are in no table, sorted."""
    return sorted(name for name in set(names) if about(name) is None)


def page() -> str:
    """Return the text of ``docs/metrics.md``."""
    families = {f"{prefix}<name>": metric for prefix, metric in FAMILIES.items()}
    lines = [f"| `{name}` | {metric.unit} | {metric.meaning} |" for name, metric in {**METRICS, **families}.items()]
    return "\n".join([_HEAD, *lines, ""])


_HEAD = """# Metrics

One line per iteration in `metrics.jsonl`, the same names at TensorBoard, Weights & Biases and Trackio (`log.sinks`),
and all of them at the end of `report.html`. What does not exist in an iteration (no finished rollout, no evaluation)
is absent from its row. A share is in [0, 1]. Numbers of single rollouts are in `rollouts/*.parquet`, those of
evaluations in `eval/`. Written by `python -m rl.record.metrics > docs/metrics.md` from the table in
`rl/record/metrics.py`.

| name | unit | meaning |
| --- | --- | --- |"""

if __name__ == "__main__":
    print(page(), end="")
