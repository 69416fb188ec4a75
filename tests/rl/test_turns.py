"""Who has the devices when learner and engines have them in turn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rl.turns import Turn, Turns


class Device:
    """One that holds only one of them at a time, and a diary of what was done on it."""

    def __init__(self) -> None:
        self.there: set[str] = set()
        self.diary: list[str] = []
        self.fail = ""
        """The step that fails once, in its middle."""

    def step(self, name: str, who: str, comes: bool) -> None:
        self.diary.append(name)
        if not comes:
            self.there.discard(who)
        if self.fail == name:
            self.fail = ""
            raise KeyboardInterrupt
        if comes:
            self.there.add(who)
        assert len(self.there) < 2, "both are on the device"


class Learner:
    def __init__(self, device: Device) -> None:
        self.claim: Callable[[], None] = lambda: None
        self.device = device
        device.step("made", "learner", True)

    def offload(self) -> None:
        self.device.step("offload", "learner", False)

    def onload(self) -> None:
        self.device.step("onload", "learner", True)


class Engines:
    def __init__(self, device: Device) -> None:
        self.claim: Callable[[], None] = lambda: None
        self.device = device
        device.step("started", "engines", True)

    def sleep(self) -> None:
        self.device.step("sleep", "engines", False)

    def wake(self) -> None:
        self.device.step("wake", "engines", True)


def both() -> tuple[Device, Turns, Learner, Engines]:
    device, turns = Device(), Turns()
    engines = Engines(device)
    turns.join_engines(engines)
    turns.to_learner()
    learner = Learner(device)
    turns.join_learner(learner)
    return device, turns, learner, engines


def test_whoever_claims_has_the_device_and_the_other_has_left_it_before() -> None:
    device, _, learner, engines = both()
    assert device.diary == ["started", "sleep", "made"]
    device.diary.clear()
    for claim in (learner.claim, engines.claim, engines.claim, learner.claim, learner.claim, engines.claim):
        claim()
    assert device.diary == ["offload", "wake", "sleep", "onload", "offload", "wake"]
    assert device.there == {"engines"}


@pytest.mark.parametrize("step", ["offload", "wake", "sleep", "onload"])
@pytest.mark.parametrize("then", ["learner", "engines"])
def test_a_hand_over_cut_short_ends_with_whoever_claims_next(step: str, then: str) -> None:
    device, turns, learner, engines = both()
    device.fail = step
    with pytest.raises(KeyboardInterrupt):
        for claim in (engines.claim, learner.claim):
            claim()
    assert turns.turn is Turn.NEITHER
    (learner if then == "learner" else engines).claim()
    assert device.there == {then}
    assert turns.turn is (Turn.LEARNER if then == "learner" else Turn.ENGINES)


@pytest.mark.parametrize("make", [Learner, Engines])
def test_one_alone_always_has_the_device(make: Callable[[Device], Any]) -> None:
    device, turns = Device(), Turns()
    alone = make(device)
    (turns.join_learner if make is Learner else turns.join_engines)(alone)
    alone.claim()
    turns.to_engines()
    alone.claim()
    assert len(device.there) == 1
