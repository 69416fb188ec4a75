"""The groups of an overlapped run that were admitted and not trained yet [2501.12599 §2.6.2]. Pure: no engine, no time.

What the buffer holds is a function of the deltas that it received, in their order, and of nothing else. A run that was
killed reads them back from the journal and has the same buffer again, however they were cut.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from rollout.config import RolloutConfig
from rollout.engine import Delta, Sampling
from rollout.partial import Growth, Stretch, awaiting, grown, next_stretch, too_old
from rollout.tape import Tape
from rollout.types import Group, Problem, Rollout, StopReason, WeightVersion

ENOUGH = 0.75
"""Share of a full batch that is trained without waiting for more: the last groups of a batch take long, and until they
are there the learner idles and engines run empty. In turn a batch is what is finished, too."""


@dataclass(frozen=True)
class Rules:
    """What decides how far a rollout goes."""

    config: RolloutConfig
    context: int
    """Tokens of prompt and response."""
    sampling: Sampling
    seed: int
    """The run's."""
    turn_ends: tuple[int, ...] = ()
    """See ``rollout.partial.awaiting``."""
    beyond: bool = False
    """A rollout that has used up its stretch under a version goes on, behind the others; otherwise it rests until the
    next version."""


class _Draft:
    """An unfinished rollout, and what came in since it last came to rest."""

    __slots__ = ("failures", "rollout", "since", "tape", "under_way")

    def __init__(self, rollout: Rollout) -> None:
        self.rollout = rollout
        self.tape = Tape()
        self.failures = 0
        self.under_way = False
        """An engine or the environment has it."""
        self.since: WeightVersion | None = None
        """Version under which its present stretch began; ``None``: it goes on beyond its stretch."""

    def due(self, limit: WeightVersion) -> bool:
        """Return whether it is waited for: it is within a stretch that began under ``limit`` or before."""
        return self.under_way and self.since is not None and self.since <= limit

    def now(self) -> Rollout:
        """Return the rollout with all that came in; unfinished."""
        whole = self.rollout.append(self.tape.segments(), None) if self.tape.size else self.rollout
        return replace(whole, failures=whole.failures + self.failures) if self.failures else whole

    def settle(self) -> Rollout:
        """Count what came in as part of the rollout, and return it."""
        self.rollout, self.tape, self.failures = self.now(), Tape(), 0
        return self.rollout

    def add(self, delta: Delta, rules: Rules) -> Rollout | None:
        """Take a delta in; return the rollout if that finishes it.

        At the end of a request all stop rules hold; in the midst of one, those that nothing later can change.
        """
        self.tape.add(delta.version, delta.token_ids, delta.logprobs, delta.by)
        self.failures += bool(delta.error)
        if delta.done and not delta.error:
            growth = Growth((), delta.stop, 0, delta.score)
            self.rollout = grown(self.settle(), growth, rules.config, rules.context, rules.turn_ends)
        elif self.rollout.failures + self.failures >= rules.config.max_failures:
            self.rollout = replace(self.settle(), stop=StopReason.ABORTED)
        elif self._room(rules) < 1 and not awaiting(self.now(), rules.turn_ends):
            self.rollout = replace(self.settle(), stop=StopReason.LENGTH)
        return self.rollout if self.rollout.finished else None

    def _room(self, rules: Rules) -> int:
        before = self.rollout
        by_cap = rules.config.max_tokens - before.length - self.tape.drawn
        return min(by_cap, rules.context - len(before.prompt) - before.size - self.tape.size)


class Buffer:
    """Groups in order of age, oldest first."""

    def __init__(self, rules: Rules, groups: Iterable[Group] = ()) -> None:
        self.rules = rules
        self._groups: dict[str, Group] = {}
        self._drafts: dict[str, _Draft] = {}
        self._home: dict[str, str] = {}
        """Id of the group of each unfinished rollout."""
        self._open: dict[str, int] = {}
        """Unfinished rollouts of each group."""
        self.admit(groups)

    def __len__(self) -> int:
        return len(self._groups)

    def admit(self, groups: Iterable[Group]) -> None:
        """Take groups in, younger ones than those that are there."""
        for group in groups:
            drafts = {rollout.id: _Draft(rollout) for rollout in group.rollouts if not rollout.finished}
            self._groups[group.id] = group
            self._drafts |= drafts
            self._home |= dict.fromkeys(drafts, group.id)
            self._open[group.id] = len(drafts)

    def wants(self, delta: Delta) -> bool:
        """Return whether the rollout of ``delta`` is one of these and unfinished; nobody misses what others get."""
        return delta.key in self._drafts

    def receive(self, deltas: Iterable[Delta]) -> list[Group]:
        """Take progress in; return the groups that are finished by it.

        Raises ``ValueError`` for progress on a rollout that is not here, or finished.
        """
        finished = []
        for delta in deltas:
            if delta.key not in self._drafts:
                raise ValueError(f"progress on rollout {delta.key}, which is not in flight")
            rollout = self._drafts[delta.key].add(delta, self.rules)
            if rollout is not None:
                finished += self._close(rollout)
        return finished

    def _close(self, rollout: Rollout) -> list[Group]:
        """Take a finished rollout into its group; return the group if it was the last one."""
        del self._drafts[rollout.id]
        home = self._home.pop(rollout.id)
        group = self._groups[home]
        self._groups[home] = group.with_rollouts(rollout if each.id == rollout.id else each for each in group.rollouts)
        self._open[home] -= 1
        return [] if self._open[home] else [self._groups[home]]

    def expire(self, version: WeightVersion) -> tuple[list[str], list[Group]]:
        """Abort the unfinished rollouts of groups above ``rollout.max_age``; return their ids, and the groups that are
        finished by it.
        """
        old = [key for key, home in self._home.items() if too_old(self._groups[home], version, self.rules.config)]
        ended = [replace(self._drafts[key].settle(), stop=StopReason.ABORTED) for key in old]
        return old, [group for rollout in ended for group in self._close(rollout)]

    def stretches(self, version: WeightVersion) -> list[Stretch]:
        """Return the next stretch of every rollout that rests and has budget left under ``version``, oldest first; they
        are under way from here on.
        """
        found = (self.stretch(key, version) for key, draft in self._drafts.items() if not draft.under_way)
        return [stretch for stretch in found if stretch is not None]

    def stretch(self, key: str, version: WeightVersion) -> Stretch | None:
        """Return the next stretch of a rollout that has come to rest, which then is under way; ``None``: it rests, or
        is finished.
        """
        draft, rules = self._drafts.get(key), self.rules
        if draft is None:
            return None
        how = (version, rules.config, rules.context, rules.sampling, rules.seed, rules.turn_ends)
        found = next_stretch(draft.settle(), *how)
        first = draft.rollout.length < rules.config.segment_tokens  # also if another process began it
        draft.since = min(draft.rollout.drawn_under, default=version) if first else version
        if found is None and rules.beyond:
            found, draft.since = next_stretch(draft.rollout, *how, beyond=True), None
        draft.under_way = found is not None
        return found

    def asked_about(self, key: str) -> tuple[Problem, Rollout] | None:
        """Return problem and rollout as they were when its present request was made, for the environment; ``None`` when
        nobody waits for it any more. From any thread.
        """
        draft, home = self._drafts.get(key), self._home.get(key, "")
        group = self._groups.get(home)
        return None if draft is None or group is None else (group.problem, draft.rollout)

    @property
    def finished(self) -> list[Group]:
        """Groups all of whose rollouts are."""
        return [group for name, group in self._groups.items() if not self._open[name]]

    @property
    def under_way(self) -> int:
        """Rollouts that an engine or the environment has."""
        return sum(draft.under_way for draft in self._drafts.values())

    def batch(
        self, version: WeightVersion, staleness: int, size: int, grading: Collection[str], enough: float = ENOUGH
    ) -> list[str] | None:
        """Return the ids of the groups that ``version`` trains on, or ``None`` while it must wait for more.

        A rollout is due when its stretch began ``staleness`` versions ago or earlier: nothing is trained while it is
        within it, or is ``grading``. Otherwise the oldest ``size`` finished groups are a batch, or as many as there are
        if they are the share ``enough`` of that, or nothing can move any more. All groups with tokens that old are
        among them, if it takes more than ``size``: no group is trained whose oldest token is more than ``staleness``
        versions old, unless one of its responses was longer than a stretch.
        """
        limit = version - staleness
        if any(draft.due(limit) for draft in self._drafts.values()):
            return None
        finished = self.finished
        due = {group.id for group in finished if oldest(group) <= limit}
        ready = [group.id for group in finished if group.id not in grading]
        moving = self.under_way or len(ready) < len(finished)
        if due.intersection(grading) or (len(ready) < math.ceil(enough * size) and moving):
            return None
        return ready[:size] + [name for name in ready[size:] if name in due]

    def remove(self, names: Iterable[str]) -> None:
        """Let finished groups go: they are trained."""
        for name in names:
            if self._open.pop(name):
                raise ValueError(f"group {name} is not finished")
            del self._groups[name]

    def snapshot(self) -> tuple[Group, ...]:
        """Return all groups with every token that came in."""
        return tuple(
            group.with_rollouts(self._drafts[r.id].now() if r.id in self._drafts else r for r in group.rollouts)
            for group in self._groups.values()
        )


def oldest(group: Group) -> WeightVersion:
    """Return the version of the oldest token of a group; without tokens, that under which it was drawn."""
    return min((min(r.drawn_under) for r in group.rollouts if r.drawn_under), default=group.born)
