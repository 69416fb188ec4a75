"""The choice of an iteration's problems: uniform, curriculum, prioritised [2501.12599 §2.3.4].

Sources are finite, or unlimited streams of problems by index. Every sampler draws without replacement inside a batch,
owns its random generator, and puts all of its state into ``state_dict`` (plain JSON values), so that a resumed run
draws the same problems.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rl.config import SamplingConfig
from rollout.problems.source import ProblemError, ProblemSource
from rollout.types import Problem

POOL_DRAWS = 4
"""Prioritised sampling of a stream remembers this many batches of problems; older ones are forgotten."""
PROBED = 1024
"""Problems of a stream whose difficulties set the curriculum's threshold."""
MAX_SKIPS = 10_000
"""Most problems of a stream that are skipped in search of a hard or a new one; beyond, the source is at fault."""

Fits = Callable[[int], bool]
"""Returns whether the problem at an index can be used; raises where an unusable one is an error."""


def _all_fit(_: int) -> bool:
    return True


class Sampler:
    """Uniform: every known problem with equal probability, a stream in its own order.

    ``batch``: the most problems one draw may ask for. ``limit``: only the first so many problems of the source.
    ``fits``: whether the problem at an index can be used at all; one that cannot is never drawn, and the draws before
    it would have come up are the same as without ``fits``. Raises ``ProblemError`` when a finite source has fewer
    usable problems than a batch.
    """

    def __init__(
        self, source: ProblemSource, batch: int, seed: int, limit: int | None = None, fits: Fits = _all_fit
    ) -> None:
        sizes = [size for size in (source.size, limit) if size is not None]
        self.source = source
        self.batch = batch
        self.size = min(sizes) if sizes else None
        """Problems to choose from; ``None``: an unlimited stream."""
        self.rng = np.random.default_rng([seed, 0x5A])
        self.draws = 0
        """Draws so far: one per iteration."""
        self.cursor = 0
        """Next unseen index of a stream."""
        self.fits = fits
        self.overlong: set[int] = set()
        """Problems that came up and did not fit; of a finite source, all that do not fit."""
        if self.size is not None:
            self.overlong = {index for index in range(self.size) if not fits(index)}
        if self.size is not None and (usable := self.size - len(self.overlong)) < batch:
            raise ProblemError(
                f"{usable} training problems cannot fill a batch of {batch} different ones; "
                "lower rollout.groups (or overlap.max_staleness), or give more problems"
            )

    def draw(self, n: int) -> list[Problem]:
        """Return n different problems; each call counts as an iteration, also with n = 0."""
        if not 0 <= n <= self.batch:
            raise ValueError(f"asked for {n} problems, the sampler was built for 0 to {self.batch} a draw")
        problems = [self.source[index] for index in self._choose(n)] if n else []
        self.draws += 1
        return problems

    def update(self, success: Mapping[str, float]) -> None:
        """Take the success rates in [0, 1] of finished groups, by problem id; only prioritised sampling uses them."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state as JSON values."""
        state = {"rng": self.rng.bit_generator.state, "draws": self.draws, "cursor": self.cursor}
        return state | ({"overlong": sorted(self.overlong)} if self.size is None and self.overlong else {})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self.rng.bit_generator.state = state["rng"]
        self.draws = state["draws"]
        self.cursor = state["cursor"]
        self.overlong |= set(state.get("overlong", ()))

    def _choose(self, n: int) -> list[int]:
        """Return the indices of the next batch."""
        if self.size is None:
            return self._next(n)
        return self._pick(range(self.size), n)

    def _pick(self, candidates: Sequence[int], n: int, weights: np.ndarray | None = None) -> list[int]:
        """Return n different ones of ``candidates`` that fit, with equal probability or by ``weights``.

        Drawn among all, and once more for each that does not fit: which ones do not may become known in the middle of a
        run, and must not change what was drawn before.
        """

        def draw(among: Sequence[int], count: int, by: np.ndarray | None) -> list[int]:
            shares = None if by is None else by / by.sum()
            picks = self.rng.choice(len(among), size=count, replace=False, p=shares)
            return [among[pick] for pick in picks]

        chosen = draw(candidates, n, weights)
        kept = [index for index in chosen if index not in self.overlong]
        if len(kept) == n:
            return kept
        left = [at for at, index in enumerate(candidates) if index not in self.overlong and index not in kept]
        rest = None if weights is None else weights[left]
        return kept + draw([candidates[at] for at in left], n - len(kept), rest)

    def _usable(self, index: int) -> bool:
        if index not in self.overlong and not self.fits(index):
            self.overlong.add(index)
        return index not in self.overlong

    def _next(self, n: int, skip: frozenset[str] = frozenset(), least: float = -np.inf) -> list[int]:
        """Return the next n indices of a stream with different ids, none in ``skip``, of difficulty ``least`` at
        least.
        """
        chosen: dict[str, int] = {}
        for index in range(self.cursor, self.cursor + n + MAX_SKIPS):
            problem = self.source[index]
            wanted = problem.id not in skip and (least == -np.inf or difficulty(problem) >= least)
            if wanted and self._usable(index):
                chosen.setdefault(problem.id, index)
            if len(chosen) == n:
                self.cursor = index + 1
                return list(chosen.values())
        raise ProblemError(
            f"the problem source has no {n} fitting problems among {n + MAX_SKIPS} ({len(self.overlong)} of them are "
            "held out, or too long for the context); widen its difficulty, or raise engine.max_model_len in a new run"
        )


class CurriculumSampler(Sampler):
    """Uniform first, only hard problems from iteration ``switch`` on, as in the paper's ablation [2501.12599 §2.3.4].

    Hard: at or above the ``quantile`` of difficulty. Raises ``ProblemError`` when difficulties are missing or all
    equal, or when fewer hard problems than a batch exist.
    """

    def __init__(
        self,
        source: ProblemSource,
        batch: int,
        seed: int,
        limit: int | None,
        fits: Fits,
        switch: int,
        quantile: float,
    ) -> None:
        super().__init__(source, batch, seed, limit, fits)
        self.switch = switch
        levels = [difficulty(source[index]) for index in range(PROBED if self.size is None else self.size)]
        if min(levels) == max(levels):
            raise ProblemError(f"curriculum sampling needs problems of different difficulty; all have {levels[0]:g}")
        self.threshold = float(np.quantile(levels, quantile, method="higher"))
        """Least difficulty that counts as hard."""
        self.hard = [index for index, level in enumerate(levels) if level >= self.threshold]
        """Hard problems of a finite source."""
        usable = sum(index not in self.overlong for index in self.hard)
        if self.size is not None and usable < batch:
            raise ProblemError(
                f"only {usable} of {self.size} problems are hard (>= {self.threshold:g}), fewer than "
                f"a batch of {batch}; lower sampling.hard_quantile or rollout.groups"
            )

    def _choose(self, n: int) -> list[int]:
        if self.draws < self.switch:
            return super()._choose(n)
        if self.size is None:
            return self._next(n, least=self.threshold)
        return self._pick(self.hard, n)


class PrioritizedSampler(Sampler):
    """P(i) proportional to 1 - s_i + floor, s_i a running success rate [2501.12599 §2.3.4].

    It begins with the problem's pass rate in curation, where that is known, else with ``initial``. Of a stream, the
    problems of the last ``POOL_DRAWS`` batches compete with a batch of unseen ones; what was not drawn for longer is
    forgotten.
    """

    def __init__(
        self,
        source: ProblemSource,
        batch: int,
        seed: int,
        limit: int | None,
        fits: Fits,
        ema: float,
        floor: float,
        initial: float,
    ) -> None:
        super().__init__(source, batch, seed, limit, fits)
        self.ema, self.floor, self.initial = ema, floor, initial
        self.success: dict[int, float] = {}
        """Index -> running success rate; of a stream, least recently drawn first."""
        self._index: dict[str, int] = {}
        self._first: dict[int, float] = {}
        """Index -> pass rate in curation, of a finite source where it is known."""
        if self.size is not None:
            rates = ((index, source[index].pass_rate) for index in range(self.size))
            self._first = {index: rate for index, rate in rates if rate is not None}
            self._index = {source[index].id: index for index in range(self.size)}

    def update(self, success: Mapping[str, float]) -> None:
        for name, rate in success.items():
            index = self._index.get(name)
            if index is None:  # forgotten while its rollouts were still running
                continue
            self.success[index] = (1 - self.ema) * self.rate(index) + self.ema * rate

    def rate(self, index: int) -> float:
        """Return the running success rate of a problem, or what it begins with."""
        known = self.success.get(index)
        if known is not None:
            return known
        first = self._first.get(index) if self.size is not None else self.source[index].pass_rate
        return self.initial if first is None else first

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"success": [[index, rate] for index, rate in self.success.items()]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.success = dict(state["success"])
        if self.size is None:
            self._index = {self.source[index].id: index for index in self.success}

    def _choose(self, n: int) -> list[int]:
        if self.size is not None:
            return self._weighted(range(self.size), n)
        unseen_from = self.cursor
        unseen = self._next(n, skip=frozenset(self._index))
        chosen = self._weighted([*self.success, *unseen], n)
        # Unseen problems that were not chosen stay unseen: the stream goes on behind the last one that was.
        self.cursor = max([unseen_from, *(index + 1 for index in chosen if index >= unseen_from)])
        for index in chosen:
            rate = self.rate(index)
            self.success.pop(index, None)  # to the end
            self.success[index] = rate
            self._index[self.source[index].id] = index
        for index in list(self.success)[: -POOL_DRAWS * self.batch]:
            del self.success[index]
            del self._index[self.source[index].id]
        return chosen

    def _weighted(self, candidates: Sequence[int], n: int) -> list[int]:
        weights = np.array([1.0 - self.rate(index) + self.floor for index in candidates])
        return self._pick(candidates, n, weights)


def difficulty(problem: Problem) -> float:
    """Return the problem's difficulty; raises ``ProblemError`` when its source gives none."""
    if problem.difficulty is None:
        raise ProblemError(f"problem {problem.id!r} has no difficulty, which sampling.kind curriculum needs")
    return problem.difficulty


def build_sampler(
    config: SamplingConfig,
    source: ProblemSource,
    batch: int,
    seed: int,
    limit: int | None = None,
    fits: Fits = _all_fit,
) -> Sampler:
    """Return the sampler that ``config`` names; see the classes for ``batch``, ``limit``, ``fits`` and errors."""
    if config.kind == "curriculum":
        return CurriculumSampler(source, batch, seed, limit, fits, config.switch_iteration, config.hard_quantile)
    if config.kind == "prioritized":
        return PrioritizedSampler(source, batch, seed, limit, fits, config.ema, config.floor, config.initial_success)
    return Sampler(source, batch, seed, limit, fits)
