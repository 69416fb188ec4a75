"""What `benchmarks.judges` makes of verdicts, and the classic heads that it trains."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.judge_heads import RATES, Sequences, head_rights, train
from benchmarks.judges import Files, base_config, difference, estimate, judge_config, report, shows, verdicts
from rl.learner.config import PretrainedModel, ScratchModel
from rl.learner.policy import create_model
from rollout.models.tokenizer import build_tokenizer
from rollout.problems.claims import ALPHABET
from rollout.problems.verdicts import load_verdicts

TINY = ScratchModel(layers=1, width=16, heads=2, kv_heads=2, mlp_width=32, context=384)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files.write(tmp_path_factory.mktemp("data"), 0, 60, 90)


def share(names: list[str], right: int) -> dict[str, list[bool]]:
    return {name: [index % 10 < right] for index, name in enumerate(names)}


def test_a_seed_is_told_as_a_whole_and_by_kind_of_answer(files: Files) -> None:
    names = [problem.id for problem in load_verdicts(verdicts(files.test), "heldout")]
    assert len(names) == 90
    shares = {"base": 6, "own": 8, "judge": 10, "head": 5, "head 4x": 6}
    row, text = report(4, {name: share(names, right) for name, right in shares.items()}, files.test)
    assert row["seed"] == 4
    assert row["shown"] is True
    assert row["all"]["claims"] == 90 == row["plain numbers"]["claims"] + row["sums"]["claims"]
    assert row["all"]["accuracy"]["judge"][0] == 1
    assert row["all"]["ahead"]["head"]["difference"] == pytest.approx(0.5)
    assert "judge against head 4x" in text


def test_it_is_shown_only_with_intervals_apart_and_points_enough() -> None:
    names = [str(number) for number in range(100)]

    def shown(judge: int, head: int, more: int) -> bool:
        rights = {"judge": share(names, judge), "head": share(names, head), "head 4x": share(names, more)}
        arms = {name: estimate(one, names) for name, one in rights.items()}
        ahead = {name: difference(rights[name], rights["judge"], names) for name in ("head", "head 4x")}
        return shows(arms, ahead)

    assert shown(10, 5, 6)
    assert not shown(10, 5, 10)
    assert not shown(7, 6, 5)


def test_a_claim_without_a_verdict_counts_as_wrong() -> None:
    assert estimate({"a": [True], "b": []}, ["a", "b", "c", "d"]).mean == 0.25


def test_base_and_judge_share_nothing_but_the_labels(files: Files) -> None:
    base, judge = base_config(3, files, 90), judge_config(3, files, 90, Path("base"))
    assert base.iterations == 0
    assert base.warmup is not None
    assert judge.warmup is not None
    assert all(stage.sampled is None for stage in base.warmup.stages)
    assert [stage.sampled is None for stage in judge.warmup.stages] == [False]
    assert judge.model.base == PretrainedModel(path="base")
    assert base.problems.heldout == judge.problems.heldout


def test_a_head_is_trained_and_its_best_rate_is_kept(
    files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = tmp_path / "base"
    tokenizer = build_tokenizer(ALPHABET, 384)
    create_model(TINY, tokenizer, 0).save_pretrained(base)
    tokenizer.save_pretrained(base)
    sequences = Sequences.of(base, verdicts(files.labelled), verdicts(files.test))
    assert (len(sequences.train), len(sequences.validation), len(sequences.test)) == (54, 6, 90)
    tried = train(base, sequences, 1e-3, 2, 0)
    assert tried.epoch in (1, 2)
    assert len(tried.rights) == 90
    kept = tmp_path / "head.json"
    data = (verdicts(files.labelled), verdicts(files.test))
    first = head_rights(base, *data, kept, 0, 1, epochs=2)
    assert first[1] in RATES
    told = capsys.readouterr().err
    assert told.count("rate") == 3
    assert head_rights(base, *data, kept, 0, 1, epochs=2) == first
    assert capsys.readouterr().err == ""
