from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from rl.config import SamplingConfig
from rl.sampling import POOL_DRAWS, Sampler, build_sampler
from rollout.problems.build import build_source
from rollout.problems.config import JsonlSource
from rollout.problems.source import ProblemError
from rollout.types import Problem


@dataclass
class Source:
    """Problem i has difficulty i % levels; ``size`` None is an unlimited stream."""

    size: int | None
    levels: int = 10
    repeat: int = 1

    fingerprint = "test"

    def __getitem__(self, index: int) -> Problem:
        level = float(index % self.levels) if self.levels else None
        return Problem.ask(f"p{index // self.repeat}", "q", "a", "v", difficulty=level)


def build(kind, source, batch=8, seed=0, limit=None, **settings) -> Sampler:
    return build_sampler(SamplingConfig(kind=kind, **settings), source, batch, seed, limit)


def ids(problems):
    return [problem.id for problem in problems]


KINDS = ["uniform", "curriculum", "prioritized"]


@pytest.mark.parametrize("size", [40, None])
@pytest.mark.parametrize("kind", KINDS)
def test_batches_hold_different_problems_and_resume_where_they_were(kind, size):
    sampler = build(kind, Source(size), switch_iteration=3)
    drawn = []
    for iteration in range(6):
        if iteration == 3:
            state = json.loads(json.dumps(sampler.state_dict()))
        drawn.append(sampler.draw(8))
        assert len(set(ids(drawn[-1]))) == 8
        sampler.update({name: (int(name[1:]) % 3) / 2 for name in ids(drawn[-1])})
    resumed = build(kind, Source(size), seed=99, switch_iteration=3)
    resumed.load_state_dict(state)
    for expected in drawn[3:]:
        again = resumed.draw(8)
        assert ids(again) == ids(expected)
        resumed.update({name: (int(name[1:]) % 3) / 2 for name in ids(again)})


@pytest.mark.parametrize("kind", KINDS)
def test_seeds_matter(kind):
    draws = [ids(build(kind, Source(200), seed=seed).draw(8)) for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]


@pytest.mark.parametrize("kind", KINDS)
def test_too_few_problems_are_an_error_at_construction(kind):
    with pytest.raises(ProblemError, match="5 training problems cannot fill a batch of 8"):
        build(kind, Source(5))
    with pytest.raises(ProblemError, match="7 training problems"):
        build(kind, Source(None), limit=7)


def test_draw_is_bounded_by_the_batch_and_may_be_empty():
    sampler = build("uniform", Source(20))
    assert sampler.draw(0) == []
    with pytest.raises(ValueError, match="asked for 9"):
        sampler.draw(9)


def test_uniform_is_uniform_and_a_limit_is_kept():
    sampler = build("uniform", Source(1000), batch=5, limit=20)
    counts = Counter(name for _ in range(2000) for name in ids(sampler.draw(5)))
    assert len(counts) == 20
    # 500 expected each, standard deviation about 19: five of them.
    assert all(400 < count < 600 for count in counts.values())


def test_a_stream_is_read_in_order_without_repeats():
    sampler = build("uniform", Source(None))
    assert ids(sampler.draw(3)) + ids(sampler.draw(2)) == ["p0", "p1", "p2", "p3", "p4"]
    doubled = build("uniform", Source(None, repeat=2))
    assert ids(doubled.draw(3)) == ["p0", "p1", "p2"]


@pytest.mark.parametrize("size", [100, None])
def test_curriculum_switches_to_hard_problems(size):
    sampler = build("curriculum", Source(size), switch_iteration=3, hard_quantile=0.75)
    levels = [[problem.difficulty for problem in sampler.draw(8)] for _ in range(6)]
    assert min(min(row) for row in levels[:3]) < 7
    assert min(min(row) for row in levels[3:]) >= 7


def test_curriculum_errors():
    with pytest.raises(ProblemError, match="no difficulty"):
        build("curriculum", Source(20, levels=0))
    with pytest.raises(ProblemError, match="different difficulty; all have 0"):
        build("curriculum", Source(20, levels=1))
    with pytest.raises(ProblemError, match="only 2 of 20 problems are hard"):
        build("curriculum", Source(20), hard_quantile=0.9)


def test_prioritised_probabilities():
    sampler = build("prioritized", Source(10), batch=1, ema=1.0, floor=0.05, initial_success=0.5)
    sampler.update({"p0": 1.0, "p1": 0.0, "p2": 0.75})
    counts = Counter(name for _ in range(20_000) for name in ids(sampler.draw(1)))
    weights = np.array([0.05, 1.05, 0.30, *[0.55] * 7])
    expected = 20_000 * weights / weights.sum()
    for index, mean in enumerate(expected):
        assert abs(counts[f"p{index}"] - mean) < 5 * np.sqrt(mean)  # five standard deviations


def test_prioritised_uses_an_ema_and_stays_defined_when_all_is_solved():
    sampler = build("prioritized", Source(8), ema=0.25, initial_success=0.4)
    sampler.update({"p3": 1.0})
    sampler.update({"p3": 0.0})
    assert sampler.success == {3: pytest.approx(0.75 * (0.75 * 0.4 + 0.25))}
    for _ in range(60):
        sampler.update({f"p{i}": 1.0 for i in range(8)})
    assert len(set(ids(sampler.draw(8)))) == 8


def curated(folder: Path, *rates: float | None) -> JsonlSource:
    """A file as ``k15 curate`` writes it."""
    rows = [
        {"id": f"p{index}", "problem": f"q{index}", "answer": "1"}
        | ({} if rate is None else {"pass_rate": rate, "difficulty": 1 - rate})
        for index, rate in enumerate(rates)
    ]
    path = folder / "curated.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return JsonlSource(path=str(path))


def test_prioritised_begins_with_the_pass_rates_of_the_file(tmp_path):
    rates = [0.9, 0.0, 1.0, None, 0.4]
    source = build_source(curated(tmp_path, *rates), "train")
    sampler = build("prioritized", source, batch=1, ema=0.25, floor=0.05, initial_success=0.5)
    counts = Counter(name for _ in range(20_000) for name in ids(sampler.draw(1)))
    weights = np.array([0.15, 1.05, 0.05, 0.55, 0.65])
    expected = 20_000 * weights / weights.sum()
    for index, mean in enumerate(expected):
        assert abs(counts[f"p{index}"] - mean) < 5 * np.sqrt(mean)  # five standard deviations
    sampler.update({"p0": 0.0, "p3": 1.0})
    assert sampler.success == {0: pytest.approx(0.75 * 0.9), 3: pytest.approx(0.75 * 0.5 + 0.25)}
    resumed = build("prioritized", source, batch=1, ema=0.25, floor=0.05, initial_success=0.5)
    resumed.load_state_dict(json.loads(json.dumps(sampler.state_dict())))
    assert [resumed.rate(index) for index in range(5)] == [sampler.rate(index) for index in range(5)]
    assert ids(resumed.draw(1)) == ids(sampler.draw(1))


def test_curriculum_goes_by_the_difficulties_of_the_file(tmp_path):
    rates = [index / 15 for index in range(16)]
    source = build_source(curated(tmp_path, *rates), "train")
    sampler = build("curriculum", source, batch=8, switch_iteration=0, hard_quantile=0.5)
    assert sorted(ids(sampler.draw(8))) == sorted(f"p{index}" for index in range(8))


def test_prioritised_stream_begins_with_the_pass_rates_of_its_problems():
    @dataclass
    class Rated(Source):
        def __getitem__(self, index: int) -> Problem:
            return replace(super().__getitem__(index), pass_rate=float(index % 2))

    sampler = build("prioritized", Rated(None), floor=0.01)
    first = [int(name[1:]) for name in ids(sampler.draw(8))]
    assert [sampler.success[index] for index in first] == [float(index % 2) for index in first]


def test_prioritised_stream_forgets_the_oldest_and_prefers_the_unsolved():
    sampler = build("prioritized", Source(None), ema=1.0, floor=0.01)
    seen = Counter()
    for _ in range(40):
        drawn = ids(sampler.draw(8))
        seen.update(drawn)
        sampler.update({name: float(int(name[1:]) % 2) for name in drawn})
        assert len(sampler.success) <= POOL_DRAWS * 8
        assert len(sampler.state_dict()["success"]) == len(sampler.success)
    unsolved = [count for name, count in seen.items() if int(name[1:]) % 2 == 0]
    solved = [count for name, count in seen.items() if int(name[1:]) % 2 == 1]
    assert np.mean(unsolved) > 1.5 * np.mean(solved)
    sampler.update({"p999999": 1.0, "p0": 0.5})  # unknown and forgotten problems are ignored
