"""Rules of judging: strictness and limits. No I/O."""

from __future__ import annotations

from dataclasses import dataclass

from rewards.code.languages import Language
from rewards.code.problem import Allowance
from rewards.code.types import MIB, Limits


@dataclass(frozen=True)
class Rules:
    """The judge's own settings."""

    stop_at_failure: bool = True
    """Skip the tests after the first that fails; the share of tests passed is then a lower bound."""
    workers: int = 1
    """Tests of one program that run at a time; programs are best judged side by side instead."""
    time_s: float = 6.0
    """CPU seconds of one test where the problem states no time limit."""
    memory_bytes: int = 512 * MIB
    """Memory where the problem states no limit, and the least that is given."""
    sleep_factor: float = 2.0
    """Seconds that a program may sleep, over its CPU limit."""
    wall_factor: float = 30.0
    """Wall limit over CPU limit: who meets it has neither run nor slept, but waited for a core. No verdict then."""
    processes: int = 64
    """Processes and threads of a program at one time."""

    def __post_init__(self) -> None:
        if self.workers < 1 or self.time_s <= 0 or self.sleep_factor < 0 or self.wall_factor < 2 + self.sleep_factor:
            raise ValueError("Rules: workers must be at least 1, time_s above 0, wall_factor above sleep_factor by 2")


DEFAULT = Rules()


def limits_of(allowance: Allowance, language: Language, rules: Rules) -> Limits:
    """Limits of one test. A stated time limit is scaled to the language; the other times follow from it."""
    stated = allowance.time_s
    cpu_s = language.startup_s + (rules.time_s if stated is None else stated * language.time_factor)
    memory = max(rules.memory_bytes, (allowance.memory_bytes or 0) + language.memory_extra)
    wall_s, sleep_s = rules.wall_factor * cpu_s, rules.sleep_factor * cpu_s
    return Limits(cpu_s, wall_s, sleep_s, memory_bytes=memory, processes=rules.processes)
