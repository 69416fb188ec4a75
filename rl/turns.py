"""Learner and engines that have the same devices in turn [2501.12599 §2.6.3].

Whoever is to be used has the turn. Engines sleep before the learner comes back to the devices, and the learner is in
host memory before they wake; its published weights are there, too, in shared memory, and each engine takes them as it
serves again. Both tell by ``claim`` that they are about to be used, so that nobody who uses them knows of turns.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from typing import Protocol


class Trains(Protocol):
    """The learner, as far as turns go."""

    claim: Callable[[], None]

    def offload(self) -> None:
        """Leave the devices; idempotent."""

    def onload(self) -> None:
        """Come back to them; idempotent."""


class Samples(Protocol):
    """The engines, as far as turns go."""

    claim: Callable[[], None]

    def sleep(self) -> None:
        """Leave the devices; idempotent."""

    def wake(self) -> None:
        """Come back to them; idempotent."""


class Turn(Enum):
    """Who has the devices."""

    LEARNER = auto()
    ENGINES = auto()
    NEITHER = auto()
    """Nobody for sure: it did not change hands to the end, because one of them died or a signal came."""


class Turns:
    """Hands the devices over. Each side joins when it exists; one alone has them all the time.

    A hand-over that was cut short is begun again by the next claim, whoever claims: all of its steps are idempotent.
    """

    def __init__(self) -> None:
        self.turn = Turn.NEITHER
        self._trains: Trains | None = None
        self._samples: Samples | None = None

    def join_learner(self, learner: Trains) -> None:
        """Take a learner in, which has just come up on devices that ``to_learner`` cleared."""
        self._trains, self.turn = learner, Turn.LEARNER
        learner.claim = self.to_learner

    def join_engines(self, engines: Samples) -> None:
        """Take engines in, which have just come up on devices that ``to_engines`` cleared."""
        self._samples, self.turn = engines, Turn.ENGINES
        engines.claim = self.to_engines

    def to_learner(self) -> None:
        """Give the devices to the learner. Raises ``LearnerDead`` and ``EngineError``."""
        if self.turn is Turn.LEARNER:
            return
        self.turn = Turn.NEITHER
        if self._samples is not None:
            self._samples.sleep()
        if self._trains is not None:
            self._trains.onload()
        self.turn = Turn.LEARNER

    def to_engines(self) -> None:
        """Give the devices to the engines. Raises ``LearnerDead`` and ``EngineError``."""
        if self.turn is Turn.ENGINES:
            return
        self.turn = Turn.NEITHER
        if self._trains is not None:
            self._trains.offload()
        if self._samples is not None:
            self._samples.wake()
        self.turn = Turn.ENGINES
