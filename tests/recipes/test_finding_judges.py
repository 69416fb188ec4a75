"""Every finding of the papers is judged, whatever its trials came to: hours of them are behind it by then."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from evidence_kit import BROKEN, invent_all

from recipes.evidence import FINDINGS
from recipes.evidence.bench.drawing import png
from recipes.evidence.bench.finding import Bench, Judgement, Results
from recipes.evidence.bench.page import markdown, write_page
from recipes.evidence.bench.session import entry, load
from recipes.evidence.bench.trial import Trial
from recipes.shorten.config import ShortenConfig
from rl.pretraining_config import PretrainConfig

SEEDS = (0, 1, 2)
RULINGS = ("holds", "does not", "cannot tell")


@pytest.fixture(scope="module", params=FINDINGS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def results(name: str, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """All trials of a finding are done and well."""
    bench = Bench(tmp_path_factory.mktemp(name), SEEDS)
    invent_all(load(name), bench)
    return results_of(name, bench)


def seed_of(trial: Trial) -> int:
    return trial.config.run.seed if isinstance(trial.config, ShortenConfig) else trial.config.seed


def results_of(name: str, bench: Bench) -> Results:
    arms = {arm: [bench.outcome(trial) for trial in trials] for arm, trials in load(name).arms(bench).items()}
    return Results({arm: [one for one in each if one is not None] for arm, each in arms.items()}, bench)


def failing(results: Results, folder: Path, fails: Callable[[str, int], bool]) -> Results:
    """The same with nothing left of some trials, by arm and place."""
    arms = {
        arm: [replace(one, failed=BROKEN, folder=folder) if fails(arm, at) else one for at, one in enumerate(each)]
        for arm, each in results.arms.items()
    }
    return Results(arms, results.bench)


def judged(name: str, results: Results) -> Judgement:
    judgement = load(name).judge(results)
    assert judgement.ruling in RULINGS
    assert judgement.text
    assert "nan" not in judgement.text
    assert judgement.rows
    assert png(judgement, "a title").startswith(b"\x89PNG")
    return judgement


def test_it_says_what_the_paper_says(name: str) -> None:
    finding = load(name)
    for said in (finding.TITLE, finding.PAPER, finding.CLAIM, finding.PUBLISHED, finding.SCALE):
        assert isinstance(said, str)
        assert said.strip()


def test_its_first_arms_are_trials_that_can_be_made(name: str, tmp_path: Path) -> None:
    arms = load(name).arms(Bench(tmp_path, SEEDS))
    trials = [trial for each in arms.values() for trial in each]
    assert trials
    for trial in trials:
        for part in trial.chain:
            placed = part.placed(tmp_path)
            assert type(placed).model_validate(placed.model_dump()) == placed
            if isinstance(placed, PretrainConfig):
                assert placed.measure.bins > 1


def test_each_arm_has_a_trial_for_every_seed(name: str, results: Results) -> None:
    for arm, outcomes in results.arms.items():
        if "tuning" in arm:
            continue
        assert [seed_of(one.trial) for one in outcomes] == list(SEEDS), arm
        assert len({one.trial.key for one in outcomes}) == len(SEEDS), arm


def test_trials_that_are_well_are_judged(name: str, results: Results) -> None:
    judgement = judged(name, results)
    assert any(np.isfinite(row.estimate.low) for row in judgement.rows)


def test_one_failed_trial_of_any_arm_is_left_out(name: str, results: Results, tmp_path: Path) -> None:
    for lost in results.arms:
        for place in range(len(SEEDS)):
            some = failing(results, tmp_path, lambda arm, at, lost=lost, place=place: (arm, at) == (lost, place))
            judged(name, some)
            assert any(text.startswith(f"{lost}: 1 of ") for text in some.failed)


def test_an_arm_that_failed_altogether_holds_nothing_up(name: str, results: Results, tmp_path: Path) -> None:
    for lost in results.arms:
        judged(name, failing(results, tmp_path, lambda arm, _, lost=lost: arm == lost))


def test_another_seed_lost_in_each_arm(name: str, results: Results, tmp_path: Path) -> None:
    """No seed has all arms: nothing can be paired."""
    arms = list(results.arms)
    judged(name, failing(results, tmp_path, lambda arm, at: at == arms.index(arm) % len(SEEDS)))


def test_nothing_left_cannot_tell(name: str, results: Results, tmp_path: Path) -> None:
    assert judged(name, failing(results, tmp_path, lambda *_: True)).ruling == "cannot tell"


def test_one_seed_never_holds(name: str, tmp_path: Path) -> None:
    bench = Bench(tmp_path, (0,))
    invent_all(load(name), bench)
    assert judged(name, results_of(name, bench)).ruling != "holds"


def test_it_is_on_the_page_when_a_seed_has_failed(name: str, tmp_path: Path) -> None:
    """From files alone, and where what others start from has failed."""
    bench = Bench(tmp_path, SEEDS)
    invent_all(load(name), bench, fails=lambda trial: seed_of(trial) == 1)
    one = entry(name, bench)
    assert one.left == 0
    assert one.failed
    assert one.minutes > 0
    write_page(tmp_path / "page.html", [one], [])
    assert one.finding.TITLE in markdown([one], [])


def test_tuning_that_failed_altogether_goes_on(name: str, tmp_path: Path) -> None:
    bench = Bench(tmp_path, SEEDS)
    invent_all(load(name), bench, fails=lambda trial: seed_of(trial) == 100)
    assert entry(name, bench).left == 0
