"""The supervised warm-up: its plan, its stages, and going on where it stopped."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from factories import ids
from rich.console import Console

from recipes.run.demonstrations import demonstrations
from recipes.run.setup import prepare
from rl.config import RunConfig, WarmupConfig, WarmupStage
from rl.state.checkpoint import Sum
from rl.stop import Interrupted, Stopper
from rl.warmup import Pair, Step, Taught, plan, warm_up
from rollout.progress import Lines, Progress, Track

STAGES = (
    WarmupStage(examples=40, epochs=2, batch_tokens=50, lr=1e-2),
    WarmupStage(examples=30, batch_tokens=30, lr=1e-3),
)
LENGTHS = ([5 + i % 7 for i in range(40)], [10] * 30)
PAIRS = [[((stage, i), (0,) * (size - 2)) for i, size in enumerate(sizes)] for stage, sizes in enumerate(LENGTHS)]


class Recorder:
    """A trainee whose state is the list of the steps that it has taken."""

    def __init__(self, stop_after: int = 10**9, stopper: Stopper | None = None) -> None:
        self.taken: list[str] = []
        self.stop_after, self.stopper = stop_after, stopper

    def sft(self, pairs: list[Pair], lr: float) -> Taught:
        self.taken.append(f"{[prompt for prompt, _ in pairs]} {lr:.6e}")
        if self.stopper and len(self.taken) == self.stop_after:
            self.stopper.signal = 15
        return Taught(1.0)

    def save(self, folder: Path) -> None:
        (folder / "taken").write_text("\n".join(self.taken))

    def saving(self) -> bool:
        return False

    def saved(self) -> dict[str, Sum]:
        return {}

    def load(self, folder: Path) -> None:
        self.taken = (folder / "taken").read_text().splitlines()


class Quiet(Track):
    def warn(self, text: str) -> None:
        raise AssertionError(text)


def run(trainee: Recorder, folder: Path, stopper: Stopper, watch: Progress | None = None) -> None:
    warm_up(STAGES, PAIRS, trainee, folder, watch or Quiet(), stopper, 3, lambda *_: None)


def of_stage(steps: list[Step], stage: int) -> list[Step]:
    return [step for step in steps if step.stage == stage]


def test_stages_follow_each_other_and_use_each_example_once_an_epoch() -> None:
    steps = plan(STAGES, LENGTHS, 0)
    assert [step.stage for step in steps] == sorted(step.stage for step in steps)
    for stage, config in enumerate(STAGES):
        used = sorted(index for step in of_stage(steps, stage) for index in step.examples)
        assert used == sorted(list(range(config.examples)) * config.epochs)
    assert [step.examples for step in of_stage(steps, 0)] != [tuple(range(40))]


def test_each_stage_has_its_own_schedule() -> None:
    for stage, config in enumerate(STAGES):
        rates = [step.lr for step in of_stage(plan(STAGES, LENGTHS, 0), stage)]
        assert max(rates) == pytest.approx(config.lr)
        assert rates[-1] < 0.2 * config.lr


def test_a_later_stage_leaves_the_first_as_it_was() -> None:
    both = plan(STAGES, LENGTHS, 5)
    assert of_stage(both, 0) == plan(STAGES[:1], LENGTHS[:1], 5)


@pytest.mark.parametrize("after_boundary", [-5, -1, 0, 1, 4])
def test_stopped_anywhere_it_goes_on_as_if_it_had_not(tmp_path: Path, after_boundary: int) -> None:
    whole = Recorder()
    run(whole, tmp_path / "whole", Stopper())
    at = len(of_stage(plan(STAGES, LENGTHS, 3), 0)) + after_boundary
    stopper = Stopper()
    with pytest.raises(Interrupted):
        run(Recorder(at, stopper), tmp_path / "cut", stopper)
    again = Recorder()
    run(again, tmp_path / "cut", Stopper())
    assert again.taken == whole.taken


def run_with_own(trainee: Recorder, folder: Path, stopper: Stopper, drawn: list[int]) -> None:
    """The second stage's demonstrations are drawn once, from the model as the first has left it."""

    def draw() -> list[Pair]:
        if not drawn:
            drawn.append(len(trainee.taken))
        return PAIRS[1]

    warm_up(STAGES, [PAIRS[0], draw], trainee, folder, Quiet(), stopper, 3, lambda *_: None)


@pytest.mark.parametrize("after_boundary", [-5, -1, 0, 1, 4])
def test_demonstrations_of_ones_own_are_drawn_between_the_stages_and_it_goes_on_as_if_they_were_not(
    tmp_path: Path, after_boundary: int
) -> None:
    whole = Recorder()
    run(whole, tmp_path / "whole", Stopper())
    boundary = len(of_stage(plan(STAGES, LENGTHS, 3), 0))
    stopper, drawn = Stopper(), list[int]()
    with pytest.raises(Interrupted):
        run_with_own(Recorder(boundary + after_boundary, stopper), tmp_path / "cut", stopper, drawn)
    again = Recorder()
    run_with_own(again, tmp_path / "cut", Stopper(), drawn)
    assert again.taken == whole.taken
    assert drawn == [boundary]


def test_a_death_while_demonstrations_are_drawn_costs_no_step(tmp_path: Path) -> None:
    def dies() -> list[Pair]:
        raise RuntimeError("dead")

    with pytest.raises(RuntimeError, match="dead"):
        warm_up(STAGES, [PAIRS[0], dies], Recorder(), tmp_path, Quiet(), Stopper(), 3, lambda *_: None)
    again, steps = Recorder(), list[int]()
    warm_up(STAGES, [PAIRS[0], lambda: PAIRS[1]], again, tmp_path, Quiet(), Stopper(), 3, lambda n, _: steps.append(n))
    boundary = len(of_stage(plan(STAGES, LENGTHS, 3), 0))
    assert steps == [*range(boundary, len(plan(STAGES, LENGTHS, 3)))]
    assert len(again.taken) == len(plan(STAGES, LENGTHS, 3))


def test_a_warm_up_may_begin_with_the_models_own_responses(tmp_path: Path) -> None:
    trainee = Recorder()
    warm_up(STAGES[1:], [lambda: PAIRS[1]], trainee, tmp_path, Quiet(), Stopper(), 3, lambda *_: None)
    assert len(trainee.taken) == len(plan(STAGES[1:], LENGTHS[1:], 3))


class Slow(Recorder):
    """Takes four seconds a step."""

    def __init__(self, stop_after: int, stopper: Stopper) -> None:
        super().__init__(stop_after, stopper)
        self.seconds, self.out = 0.0, io.StringIO()
        self.view = Lines(Console(file=self.out, width=200), lambda: self.seconds)

    def sft(self, pairs: list[Pair], lr: float) -> Taught:
        for _ in range(4):
            self.seconds += 1
            self.view.tick()
        return super().sft(pairs, lr)


def test_a_log_hears_of_step_loss_and_time_left_also_when_the_warm_up_goes_on(tmp_path: Path) -> None:
    stopper = Stopper()
    first = Slow(7, stopper)
    with pytest.raises(Interrupted):
        run(first, tmp_path, stopper, first.view)
    assert first.out.getvalue().splitlines() == [
        "warm-up: 2/22, loss 1.000, 12 s, about 80 s left",
        "warm-up: 5/22, loss 1.000, 24 s, about 68 s left",
    ]
    second = Slow(99, Stopper())
    run(second, tmp_path, Stopper(), second.view)
    second.view.close()
    said = second.out.getvalue().splitlines()
    assert said[0] == "warm-up: 9/22, loss 1.000, 12 s, about 52 s left"
    assert said[-1] == "warm-up: 22/22, loss 1.000, 60 s"


SOURCE = {"kind": "arithmetic", "steps": [2, 3], "careful": 1.0, "mixed": 0.0, "jumps": 0.0, "checks": 0.0}


def config(warmup: WarmupConfig) -> RunConfig:
    return RunConfig.model_validate(
        {
            "problems": {"train": SOURCE, "heldout": SOURCE, "heldout_size": 4},
            "engine": {"kind": "hf", "max_model_len": 512},
            "rollout": {"max_tokens": 256, "segment_tokens": 64},
            "warmup": warmup.model_dump(),
        }
    )


def test_a_stage_draws_fresh_problems_with_its_own_mixture() -> None:
    warmup = WarmupConfig(examples=30, then=(WarmupStage(examples=20, mixture={"thorough": 1.0}),))
    setup = prepare(config(warmup))
    (first, second), _ = demonstrations(setup)
    assert (len(first), len(second)) == (30, 20)
    assert not any("check" in setup.transcript.decode(response) for _, response in first)
    assert all("check" in setup.transcript.decode(response) for _, response in second)
    alone = demonstrations(prepare(config(WarmupConfig(examples=50))))[0][0]
    assert [ids(prompt) for prompt, _ in first + second] == [ids(prompt) for prompt, _ in alone]


@pytest.mark.parametrize(
    ("mixture", "told"),
    [
        ({"thorogh": 1.0}, "arithmetic problems have no 'thorogh'; they have .*thorough"),
        ({"careful": 1.5}, "careful: .*less than or equal"),
    ],
)
def test_a_mixture_that_the_source_refuses_is_named(mixture: dict[str, float], told: str) -> None:
    with pytest.raises(ValueError, match=f"warmup mixture: {told}"):
        config(WarmupConfig(then=(WarmupStage(mixture=mixture),)))


def test_a_mixture_needs_a_procedural_source() -> None:
    with pytest.raises(ValueError, match="only procedural problems"):
        RunConfig.model_validate(
            {
                "problems": {"train": {"kind": "jsonl", "path": "a.jsonl"}},
                "warmup": {"response": "{answer}", "then": [{"mixture": {"thorough": 1}}]},
            }
        )
    with pytest.raises(ValueError, match=r"warmup.mixture is for demonstrations of a procedural source"):
        WarmupConfig(path="demos.jsonl", mixture={"thorough": 1})
