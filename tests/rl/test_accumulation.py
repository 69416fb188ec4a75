"""An iteration whose groups come one after the other, against one that is trained on all of them at once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rl.learner.accumulation import filling
from rl.learner.batch import Batch, concatenated, pack
from rl.learner.config import LoraConfig, ModelConfig, RanksConfig
from rl.learner.host import LearnerHost
from rl.learner.learner import Learner, whole
from rl.learner.passes import Passed, Passes
from rl.learner.ranks import Ranks
from rl.learner.spec import Receivers
from rl.learner.stats import IterationStats
from tests.learner_kit import TINY, learner_spec, make_batch, make_groups, save_tiny_model, weights
from tests.rank_kit import run_ranks

OWN = """
from dataclasses import dataclass

from rl.objectives.protocol import Head, Loss, Needs, Objective
from rl.objectives.sequences import reference_of, sequence_sums
from rl.objectives.tally import Mean

class Hinged(Objective):
    '''Needs a reference pass of its own.'''

    def loss(self, outputs, batch):
        moved = sequence_sums(outputs.logprobs - reference_of(batch), batch.sequence, len(batch))
        left = (5 - batch.advantages.sign() * moved).relu()
        return Loss((batch.advantages.abs() * left).sum(), {"objective/done": Mean.of(left == 0)})

class Critic(Objective):
    '''Needs none, has a head, and is averaged over tokens.'''
    needs = Needs(reference=False, head=Head(1, "tokens"))
    per = "token"

    def loss(self, outputs, batch):
        right = batch.advantages[batch.sequence]
        return Loss((outputs.head[:, 0] - right).square().sum() - (right * outputs.logprobs).sum())
"""
WEIGHED = {"importance": {"cap": 1.1}}
ARMS: dict[str, dict[str, Any]] = {
    "mirror descent": {"kind": "mirror_descent"},
    "mirror descent, weighed": {"kind": "mirror_descent", "length_norm": "response", **WEIGHED},
    "reinforce per token, weighed": {"kind": "reinforce", "length_norm": "tokens", **WEIGHED},
    "grpo": {"kind": "grpo"},
    "dapo, weighed": {"kind": "grpo", "clip_high": 0.28, "length_norm": "tokens", **WEIGHED},
    "gspo": {"kind": "grpo", "ratio": "sequence", "clip_low": 3e-4, "clip_high": 4e-4},
    "cispo": {"kind": "cispo"},
    "rest": {"kind": "rest"},
    "own, with a reference pass": {"kind": "python", "path": "own.py:Hinged"},
    "own, without a reference": {"kind": "python", "path": "own.py:Critic"},
}
VALUES = [[0.0] * 4, [-0.6, 0.5, -0.4, 0.5], [None] * 4, [0.3, None, -0.3, 0.0], [0.0] * 4, [1.0, -1.0, 0.5, -0.5]]
"""Advantages: the first group that comes has none, one is too small, some rollouts are masked."""


@dataclass(frozen=True)
class Given:
    """Groups in the order in which they come, and how many of them at a time."""

    values: list[list[float | None]]
    at_once: int = 1

    def batches(self, loss_on: str = "current") -> list[Batch]:
        groups = make_groups(len(self.values))
        starts = range(0, len(groups), self.at_once)
        return [
            pack(groups[at : at + self.at_once], self.values[at : at + self.at_once], 3, loss_on)  # type: ignore[arg-type]
            for at in starts
        ]


@dataclass(frozen=True)
class After:
    """A learner after an iteration."""

    stats: IterationStats
    gradients: dict[str, torch.Tensor]
    weights: dict[str, torch.Tensor]

    @classmethod
    def of(cls, learner: Learner, stats: IterationStats) -> After:
        named = {name: p for name, p in learner.policy.named_parameters() if p.requires_grad}
        return cls(
            stats,
            {name: whole(p.grad).clone() for name, p in named.items() if p.grad is not None},
            {name: whole(p.detach()).clone() for name, p in named.items()},
        )


def at_once(learner: Learner, batches: list[Batch]) -> After:
    return After.of(learner, learner.train_iteration(concatenated(batches), (0, 3)))


def one_by_one(learner: Learner, batches: list[Batch]) -> After:
    for batch in batches:
        learner.accumulate(batch)
    return After.of(learner, learner.close_iteration())


def assert_same(found: After, wanted: After) -> None:
    assert found.gradients.keys() == wanted.gradients.keys()
    scale = max((gradient.abs().max().item() for gradient in wanted.gradients.values()), default=0.0)
    for name, gradient in wanted.gradients.items():
        torch.testing.assert_close(found.gradients[name], gradient, rtol=0, atol=2e-6 * scale + 1e-12)
    for name, weight in wanted.weights.items():
        torch.testing.assert_close(found.weights[name], weight, rtol=0, atol=2e-5)  # a learning rate of 1e-3
    ours, theirs = (
        {n: v for n, v in each.stats.metrics.items() if n != "train/reference_s"} for each in (found, wanted)
    )
    assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)
    assert len(found.stats.steps) == len(wanted.stats.steps)
    for step, expected in zip(found.stats.steps, wanted.stats.steps, strict=True):
        assert (step.sequences, step.tokens, step.skipped, step.lr) == (
            expected.sequences,
            expected.tokens,
            expected.skipped,
            expected.lr,
        )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def _own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(OWN)


def learner_of(arm: str, folder: Path, model: dict[str, Any] | None = None, **keys: Any) -> Learner:
    keys = {"optimizer": {"lr": 1e-3}, "updates": 1} | keys
    spec = learner_spec(objective=ARMS[arm], **keys)
    return Learner(replace(spec, model=ModelConfig(base=TINY, threads=1, **model or {})), folder)


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("loss_on", ["current", "all"])
def test_group_by_group_is_the_step_on_all_of_them(arm: str, loss_on: str, folder: Path) -> None:
    given = Given(VALUES)
    found = one_by_one(learner_of(arm, folder), given.batches(loss_on))
    wanted = at_once(learner_of(arm, folder), given.batches(loss_on))
    assert wanted.gradients
    assert_same(found, wanted)
    assert found.stats.metrics["sequences/small_groups"] == 4
    assert found.stats.metrics["sequences/masked"] == 1


@pytest.mark.parametrize("size", [1, 60, 400, 10**6])
@pytest.mark.parametrize("groups_at_once", [1, 2, 6])
def test_neither_arrival_nor_micro_batches_matter(size: int, groups_at_once: int, folder: Path) -> None:
    given = Given(VALUES, groups_at_once)
    found = one_by_one(learner_of("dapo, weighed", folder, micro_batch_tokens=size), given.batches())
    assert_same(found, at_once(learner_of("dapo, weighed", folder), given.batches()))


@pytest.mark.parametrize(
    "model", [{"lora": LoraConfig(rank=2)}, {"gradient_checkpointing": True}], ids=["lora", "checkpointing"]
)
def test_adapters_and_checkpointing(model: dict[str, Any], folder: Path) -> None:
    given = Given(VALUES)
    found = one_by_one(learner_of("mirror descent, weighed", folder, model), given.batches())
    assert_same(found, at_once(learner_of("mirror descent, weighed", folder, model), given.batches()))


def test_the_same_micro_batches_and_a_divisor_that_rounds_nothing_give_the_same_bits(folder: Path) -> None:
    batch = make_batch("all")
    first = {length: index for index, length in enumerate(batch.lengths.tolist())}  # equals would be cut by their order
    batch = replace(batch.select(list(first.values())[:16]), total=16)
    assert len(batch) == 16
    found = one_by_one(learner_of("mirror descent", folder, micro_batch_tokens=10**6), [batch])
    wanted = at_once(learner_of("mirror descent", folder, micro_batch_tokens=10**6), [batch])
    assert all(torch.equal(found.gradients[name], gradient) for name, gradient in wanted.gradients.items())
    assert all(torch.equal(found.weights[name], weight) for name, weight in wanted.weights.items())


@pytest.mark.parametrize("arm", ["mirror descent", "reinforce per token, weighed", "own, with a reference pass"])
def test_without_any_advantage_the_step_still_decays_the_weights(arm: str, folder: Path) -> None:
    given = Given([[0.0] * 4] * 3)
    found, wanted = (run(learner_of(arm, folder), given.batches()) for run in (one_by_one, at_once))
    assert_same(found, wanted)
    assert found.stats.steps[0].grad_norm == 0
    assert found.stats.metrics["sequences/trained"] == 12


@pytest.mark.parametrize("values", [[], [[None] * 4, [None] * 4]], ids=["nothing came", "nothing was trainable"])
def test_with_nothing_to_train_there_is_no_step(values: list[list[float | None]], folder: Path) -> None:
    learner = learner_of("mirror descent", folder)
    before = weights(learner.model)
    found = one_by_one(learner, Given(values).batches())
    assert_same(found, at_once(learner_of("mirror descent", folder), Given(values).batches()))
    assert found.stats.steps == ()
    assert all(torch.equal(before[name], weight) for name, weight in weights(learner.model).items())


def ranked(rank: int, arm: str, folder: Path, mesh: RanksConfig, values: list[list[float | None]]) -> list[After]:
    """Both ways on ranks, in two iterations: the second is on the optimiser's state of the first."""
    spec = learner_spec(
        objective=ARMS[arm], ranks=mesh.model_dump(), optimizer={"lr": 1e-3, "reset_each_iteration": False}, updates=1
    )
    found = []
    for run in (one_by_one, at_once):
        learner = Learner(spec, folder, Ranks(mesh, "cpu"))
        found += [run(learner, Given(values).batches()) for _ in range(2)]
    return found


@pytest.mark.parametrize("mesh", [{"shard": 2}, {"replicate": 2}, {"sequence": 2}], ids=str)
@pytest.mark.parametrize("arm", ["mirror descent, weighed", "dapo, weighed"])
def test_ranks_accumulate_their_shares(arm: str, mesh: dict[str, int], folder: Path) -> None:
    learner = learner_of(arm, folder, optimizer={"lr": 1e-3, "reset_each_iteration": False})
    alone = [at_once(learner, Given(VALUES).batches()) for _ in range(2)]
    one, other = run_ranks(2, ranked, arm, folder, RanksConfig(**mesh), VALUES)
    for first, second in zip(one, other, strict=True):
        assert first.stats.steps == second.stats.steps
    for found, wanted in zip(one[:2], one[2:], strict=True):
        assert_same(found, wanted)
    assert_same(one[0], alone[0])


def quiet_ranks(rank: int, folder: Path, mesh: RanksConfig) -> list[After]:
    return ranked(rank, "mirror descent", folder, mesh, [[0.0] * 4, [None] * 4])


def test_ranks_without_advantages(folder: Path) -> None:
    for found in run_ranks(2, quiet_ranks, folder, RanksConfig(shard=2)):
        assert_same(found[0], found[2])


def host_of(folder: Path, **keys: Any) -> LearnerHost:
    spec = learner_spec(updates=1, optimizer={"lr": 1e-3, **keys})
    return LearnerHost(spec, folder, Receivers("local"))


def test_hosts_take_groups_and_forget_what_was_never_closed(folder: Path, tmp_path: Path) -> None:
    groups = make_groups(len(VALUES))
    straight, disturbed = host_of(folder), host_of(folder)
    straight.publish(3)
    wanted = After.of(straight.learner, straight.train(groups, VALUES, 3))
    disturbed.publish(3)
    disturbed.accumulate(groups[:2], VALUES[:2], 3)
    disturbed.publish(3)  # the iteration was cut short, and begins again
    for group, values in zip(groups, VALUES, strict=True):
        disturbed.accumulate([group], [values], 3)
        disturbed.score([[5, 6, 7]])
    assert_same(After.of(disturbed.learner, disturbed.close_iteration(3)), wanted)


def test_until_it_is_closed_an_iteration_changes_nothing_that_is_saved(folder: Path, tmp_path: Path) -> None:
    host, batches = host_of(folder, reset_each_iteration=False), Given(VALUES).batches()
    one_by_one(host.learner, batches)
    saved = {}
    for name in ("before", "meanwhile"):
        (tmp_path / name).mkdir()
        host.save(tmp_path / name)
        host.saved()
        saved[name] = {file.name: file.read_bytes() for file in (tmp_path / name).iterdir()}
        host.learner.accumulate(batches[1])
    assert saved["before"] == saved["meanwhile"]
    host.load(tmp_path / "before")
    found = one_by_one(host.learner, batches)
    fresh = host_of(folder, reset_each_iteration=False)
    fresh.load(tmp_path / "before")
    assert_same(found, at_once(fresh.learner, batches))


def test_no_other_step_comes_between(folder: Path) -> None:
    learner = learner_of("mirror descent", folder)
    learner.accumulate(Given(VALUES).batches()[1])
    for other in (
        lambda: learner.train_iteration(make_batch(), 0),
        lambda: learner.step(learner.reference(make_batch())),
    ):
        with pytest.raises(RuntimeError, match="close_iteration or abandon it first"):
            other()
    learner.abandon()
    assert all(parameter.grad is None for parameter in learner.parameters)
    learner.train_iteration(make_batch(), 0)


def test_micro_batches_are_full_before_they_are_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, batches = [], Given([[-0.5, 0.5, 1.0, -1.0]] * 12).batches()
    backward = Passes.backward

    def noted(self: Passes, minibatch: Batch, *args: Any, **keys: Any) -> Passed:
        sizes.append(int(minibatch.lengths.sum()))
        return backward(self, minibatch, *args, **keys)

    monkeypatch.setattr(Passes, "backward", noted)
    one_by_one(learner_of("mirror descent", folder, micro_batch_tokens=300), batches)
    longest = max(int(batch.lengths.max()) for batch in batches)
    assert sum(sizes) == sum(int(batch.lengths.sum()) for batch in batches)
    assert all(300 - longest < size <= 300 for size in sizes[:-1])
    assert len(sizes) > 3


@given(st.lists(st.integers(1, 120), max_size=30), st.integers(1, 4), st.integers(20, 100))
def test_units_fill_a_micro_batch_of_every_share(sizes: list[int], shares: int, limit: int) -> None:
    count = filling(sizes, shares, limit)
    if count == 0:
        assert sum(min(size, limit) for size in sizes) <= shares * limit
        return
    assert 0 < count < len(sizes), "what does not fit any more waits"
    assert sum(min(size, limit) for size in sizes[:count]) <= shares * limit
    assert filling(sizes[:count], shares, limit) == 0
    assert filling(sizes[: count + 1], shares, limit) == count, "the next one is what does not fit"


def test_concatenated_batches_are_the_batch_of_all_groups() -> None:
    parts = Given(VALUES).batches()
    whole_batch = pack(make_groups(len(VALUES)), VALUES, 3)
    found = concatenated(parts)
    for name in ("tokens", "cu_seqlens", "loss_mask", "current", "sampler_logprobs", "advantages"):
        assert torch.equal(getattr(found, name), getattr(whole_batch, name)), name
    for name in ("groups", "total", "counts", "ages"):
        assert getattr(found, name) == getattr(whole_batch, name), name
    assert found.reference_logprobs is None
    marked = [replace(part, reference_logprobs=part.tokens[part.loss_mask].float()) for part in parts]
    assert torch.equal(concatenated(marked).reference_logprobs, found.tokens[found.loss_mask].float())
    assert len(concatenated([])) == 0
