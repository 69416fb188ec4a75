"""The table: who is struck how, in which phase, in which loop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGKILL
from typing import Any

from tests.chaos.sameness import Sameness
from tests.chaos.strikes import Strike

REWARD = Path(__file__).with_name("reward.py")
"""Where the reward of all runs is."""
TURNS = "turns"
"""The loop in turn."""
LOOPS = (TURNS, "bound", "ahead", "streamed")
"""And the overlapped ones: bound to S = 0, one version ahead, and on-policy, groups streaming into the gradient."""
AS = {"bound": TURNS}
"""Loops that end as another one does."""
UNLIKE = ("ahead", "streamed", "vllm", "recomputed", "kept")
"""Loops of which no two runs are the same: when weights arrive, or groups, is a matter of the moment."""


@dataclass(frozen=True)
class Act:
    """One process of a run: started, struck, ended."""

    strikes: tuple[Strike, ...] = ()
    code: int = 0
    """Exit code that it must have; negative for a signal."""
    says: str = ""
    """Part of its output."""
    speechless: bool = False
    """Whether it ends without its last words: nobody would read them."""


@dataclass(frozen=True)
class Case:
    """A run, through as many processes as it takes."""

    name: str
    loop: str = TURNS
    acts: Sequence[Act] = (Act(),)
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Configuration that differs, by dotted key."""
    same: Sameness = "bits"
    """How it is as the undisturbed run."""
    nodes: int = 0
    """Of the Ray cluster on which it is played; 0: without Ray."""
    disk: bool = False
    """Whether the run has a small disk of its own."""
    known: str = ""
    """Why it is known to fail; it must."""

    @property
    def freezes(self) -> bool:
        """Whether somebody is frozen, so that limits have to run out."""
        return any(strike.fault == "freeze" for act in self.acts for strike in act.strikes)

    @property
    def whole(self) -> str:
        """The undisturbed case that it is compared with; empty: none."""
        loop = AS.get(self.loop, self.loop)
        return (
            "" if self.same == "no" or loop in UNLIKE or self.name == f"{loop}/undisturbed" else f"{loop}/undisturbed"
        )


def lived(name: str, *strikes: str, loop: str = TURNS, **more: Any) -> Case:
    """Return a case whose process lives through its strikes."""
    return Case(f"{loop}/{name}", loop, (Act(tuple(map(Strike.read, strikes))),), **more)


def resumed(name: str, strike: str, code: int, says: str = "", loop: str = TURNS, **more: Any) -> Case:
    """Return a case whose process ends by its strike; the same command goes on."""
    return Case(f"{loop}/{name}", loop, (Act((Strike.read(strike),), code, says), Act()), **more)


PHASES = {
    "warmup": "learner.sft#2",
    "publish": "learner.publish#6",
    "load": "engine.update_weights#6",
    "probe": "learner.score#7",
    "sample": "tokens#3",
    "grade": "collect#5",
    "train": "learner.train#4",
    "checkpoint": "learner.save#2",
    "evaluate": "evaluate#2",
    "end": "conclude#2",
    "export": "learner.export#3",
}
"""A moment of each phase, for whoever is struck in it: of iteration 3, the last checkpoint being that of 2."""
ENGINE = {"start": "engine.start#1", "submit": "engine.submit#5", "score": "engine.score#7", "draw": "engine.tokens#3"}
"""Moments of an engine's own."""
LEARNER = {"start": "learner.ready#1", "rehearsal": "learner.export#1", "saved": "learner.saved#2"}
"""Moments of a learner's own."""
DRIVER = {
    "launch": "launch#1",
    "drawn": "drawn#4",
    "store": "store#4",
    "metrics": "metrics#5",
    "state": "state#2",
    "manifest": "manifest#2",
    "answers": "answers#5",
    "evaluation": "evaluation#4",
    "summary": "summary#3",
    "report": "report#2",
    "restore": "restore#1",
}
"""Moments of the run's own process, most of them those of a file that is written."""
GRADER = {
    "worker": ("line#1", "line#4"),
    "nursery": ("fork#1", "line#2"),
    "sandbox": ("program#2", "outcome#3"),
}
"""The processes of graders, and moments in which they are at work."""
FILES = {
    "journal": PHASES["sample"],
    "learner": PHASES["checkpoint"],
    "warmup": PHASES["warmup"],
    "export": PHASES["export"],
    **{name: DRIVER[name] for name in DRIVER if name not in ("launch", "restore")},
}
"""A moment before each kind of file is written."""


OVERLAPPED = {"chose": "chose#4"}
"""Moments of the run's own process where it overlaps: it records what an iteration trains on."""
STREAMED = {"accumulate": "learner.accumulate#4", "train": "learner.close_iteration#4"}
"""What the loop has in the place of training, in which groups stream into the gradient."""
FAULTS = {
    TURNS: ("kill", "freeze", "pause", "cut"),
    "bound": ("kill",),
    "ahead": ("kill", "freeze", "cut"),
    "streamed": ("kill",),
}
"""What processes suffer in each loop; what two of them do alike is not shown in all."""
LATE = ("load", "sample", "train", "checkpoint")
"""Phases in which an engine or a learner stands still for less than the limits: it is only late, in any of them."""


WHOLE = (TURNS, "ahead")
"""Loops in which graders, disk and clock are struck, too, and moments that are just over: the others grade and write as
the loop ahead does."""


def phases(loop: str) -> dict[str, str]:
    """Return a moment of each phase of a loop."""
    return PHASES | (STREAMED if loop == "streamed" else {})


def faults(loop: str, phase: str) -> Iterator[str]:
    """Yield what an engine or a learner suffers in a phase."""
    return (fault for fault in FAULTS[loop] if fault != "pause" or phase in LATE)


def of_engine(loop: str) -> Iterator[Case]:
    """Yield the cases of an engine that the run loses, or does not notice."""
    for phase, moment in (phases(loop) | ENGINE).items():
        for fault in faults(loop, phase):
            kept = "rounding" if phase in ("sample", "draw") and fault != "pause" else "bits"
            yield lived(f"engine-{fault}-{phase}", f"engine:{fault}@{moment}", loop=loop, same=kept)
    yield lived("engine-slow", "engine:slow@engine.start#1", loop=loop)
    yield lived("engine-kill-update-done", "engine:kill@engine.update_weights#6+", loop=loop)
    for fault in ("kill", "freeze", "cut"):
        yield lived(f"engine-{fault}-part", f"engine:{fault}@engine.part#3", loop=loop, same="rounding")
        two = {"engine.count": 2}
        yield lived(f"engine-{fault}-of-two", f"engine:{fault}@engine.part#3", loop=loop, changes=two, same="no")
    again = [f"engine:kill@engine.part#{version}" for version in (1, 3, 4)]
    yield lived("engine-kill-thrice", *again, loop=loop, same="rounding")


def of_learner(loop: str) -> Iterator[Case]:
    """Yield the cases of a learner that another one replaces, or that is only late."""
    for phase, moment in (phases(loop) | LEARNER).items():
        for fault in faults(loop, phase):
            strike = f"learner:{fault}@{moment}"
            if phase == "start" and fault in ("kill", "cut"):
                yield resumed(f"learner-{fault}-{phase}", strike, 1, "during ready", loop=loop)
            else:
                yield lived(f"learner-{fault}-{phase}", strike, loop=loop)
    yield lived("learner-slow", "learner:slow@learner.ready#1", loop=loop)
    for phase in ("publish", "train", "checkpoint", "saved", "export", "warmup") if loop in WHOLE else ():
        moment = (phases(loop) | LEARNER)[phase]
        yield lived(f"learner-kill-{phase}-done", f"learner:kill@{moment}+", loop=loop)
    train = phases(loop)["train"]
    yield lived("learner-and-engine", f"learner:kill@{train}", f"engine:kill@{train}", loop=loop)


def of_driver(loop: str) -> Iterator[Case]:
    """Yield the cases of the run's own process: another goes on where it was killed."""
    own = phases(loop) | DRIVER | ({} if loop == TURNS else OVERLAPPED)
    for phase, moment in own.items():
        kept = "rounding" if phase == "sample" else "bits"
        yield resumed(f"driver-kill-{phase}", f"driver:kill@{moment}", -SIGKILL, loop=loop, same=kept)
        if loop in WHOLE:
            yield resumed(f"driver-kill-{phase}-done", f"driver:kill@{moment}+", -SIGKILL, loop=loop, same=kept)
    for phase, moment in phases(loop).items():
        kept = "rounding" if phase == "sample" else "bits"
        if "freeze" in FAULTS[loop]:
            yield lived(f"driver-freeze-{phase}", f"driver:freeze@{moment}", loop=loop, same=kept)
    cut = Act((Strike.read("driver:cut@tokens#3"),), 1, speechless=True)
    yield Case(f"{loop}/driver-cut", loop, (cut, Act()), same="rounding")
    yield lived("driver-slow", "driver:slow@drawn#1", loop=loop)
    thrice = [Act((Strike.read(one),), -SIGKILL) for one in ("driver:kill@tokens#1+", "driver:kill@store#2")]
    yield Case(f"{loop}/driver-kill-again", loop, (*thrice, Act()), same="rounding")


def of_graders(loop: str) -> Iterator[Case]:
    """Yield the cases of the processes that grade."""
    for victim, moments in GRADER.items():
        for moment in moments:
            for fault in ("kill", "pause", "freeze"):
                name = f"{victim}-{fault}-{moment.replace('#', '')}"
                yield lived(name, f"{victim}:{fault}@{moment}", loop=loop)
    yield lived("grader-slow", loop=loop, changes={"reward.function": f"{REWARD}:slow"})
    stuck = {"reward.function": f"{REWARD}:stuck", "reward.timeout_s": 2.0}
    yield lived("grader-stuck", loop=loop, changes=stuck, same="no")


def of_the_world(loop: str) -> Iterator[Case]:
    """Yield the cases of a full disk and of a clock that jumps."""
    for name, moment in (FILES | ({} if loop == TURNS else OVERLAPPED)).items():
        kept = "rounding" if name == "journal" else "bits"
        yield resumed(f"disk-{name}", f"disk:fill@{moment}", 1, loop=loop, same=kept, disk=True)
    for moment in ("launch#1", "drawn#2", "tokens#3", "evaluate#2"):
        for fault in ("forwards", "backwards"):
            yield lived(f"clock-{fault}-{moment.partition('#')[0]}", f"clock:{fault}@{moment}", loop=loop)


def on_ray() -> Iterator[Case]:
    """Yield the cases that Ray or vLLM alone can show; those of one run come one after the other in it."""
    engine = (
        "engine:freeze@engine.submit#4",
        "engine:kill@engine.update_weights#5",
        "engine:pause@engine.score#7",
        "engine:kill@learner.train#4",
    )
    yield lived("ray-engine", *engine, nodes=1)
    learner = ("learner:freeze@learner.train#2", "driver:freeze@engine.submit#4", "learner:kill@learner.publish#6")
    yield lived("ray-learner-driver", *learner, nodes=1)
    yield Case("ranks/undisturbed", "ranks", nodes=1)
    yield lived("node-kill", "node:kill@learner.train#3", loop="ranks", nodes=2)
    yield lived("node-freeze", "node:freeze@learner.train#3", loop="ranks", nodes=2)
    core = ("core:freeze@engine.submit#3", "core:kill@engine.submit#6")
    yield lived("core", *core, loop="vllm", nodes=1)
    both = ("engine:kill@learner.train#3", "learner:kill@learner.train#4")
    yield lived("ray", *both, loop="ahead", nodes=1)
    two = {"learner.ranks.shard": 2}
    yield lived("node-kill", "node:kill@tokens#4", loop="ahead", nodes=2, changes=two)
    for loop in ("recomputed", "kept"):
        yield lived("core", "core:kill@engine.update_weights#5", "core:kill@tokens#4", loop=loop, nodes=1)
    yield resumed("driver-kill", "driver:kill@learner.train#3", -SIGKILL, loop="kept", nodes=1)


def cases(loop: str) -> Iterator[Case]:
    """Yield the cases of one loop."""
    yield Case(f"{loop}/undisturbed", loop)
    for part in (of_engine, of_learner, of_driver):
        yield from part(loop)
    if loop in WHOLE:
        yield from of_graders(loop)
        yield from of_the_world(loop)


SHORT = {
    "bound/driver-kill-train",
    "ahead/engine-kill-part",
    "ahead/learner-kill-train",
    "ahead/driver-kill-sample",
    "streamed/learner-kill-accumulate",
} | {
    f"{TURNS}/{name}"
    for name in (
        *("undisturbed", "engine-kill-part", "engine-cut-load", "engine-kill-train"),
        *("learner-kill-train", "learner-kill-load", "learner-kill-checkpoint-done"),
        *(
            "driver-kill-sample",
            "driver-kill-train",
            "driver-kill-store-done",
            "driver-kill-manifest",
            "driver-freeze-load",
        ),
        *("worker-kill-line1", "sandbox-kill-outcome3", "disk-journal", "disk-state", "clock-backwards-tokens"),
    )
}
"""Names of the cases of the short form."""
CASES = [*(case for loop in LOOPS for case in cases(loop)), *on_ray()]
