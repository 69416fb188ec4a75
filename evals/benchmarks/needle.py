"""Needle in a haystack: one sentence hidden in a long text, over context length and depth.

The haystack is generated: reports of a harbour, one a line, no two alike, among them decoys that give numbers to other
ships. A model has to find the one line about the ship that is asked for; it cannot guess, and the text is in no
training set.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from random import Random

from evals.benchmark import Benchmark, Divided, Needs
from evals.votes import same_text
from rewards.response import after_thinking
from rewards.score import Score
from rollout.seeds import seed_of
from rollout.types import Problem

_ADJECTIVES = ("Amber", "Bitter", "Calm", "Distant", "Early", "Faded", "Gentle", "Hollow", "Iron", "Lucky", "Olden")
_NOUNS = ("Anchor", "Beacon", "Compass", "Dolphin", "Ember", "Falcon", "Harbor", "Island", "Kestrel", "Lantern")
_CARGOES = ("barley", "copper", "dates", "flour", "glass", "linen", "marble", "oil", "paper", "rope", "salt", "wool")
_PLACES = ("Arno", "Basra", "Cadiz", "Delft", "Essen", "Genoa", "Haifa", "Izmir", "Jaffa", "Kiel", "Lagos", "Narva")
_ACTS = ("unloaded", "waited for", "took on", "weighed", "was fined over", "traded", "insured", "guarded", "counted")
DECOYS = 4
"""Ships with numbers of their own that are not asked for."""
_NUMBER = re.compile(r"\d{7}")


def _ship(random: Random) -> str:
    return f"{random.choice(_ADJECTIVES)} {random.choice(_NOUNS)}"


def _line(random: Random) -> str:
    return (
        f"On day {random.randint(1, 365)} the {_ship(random)} from {random.choice(_PLACES)} {random.choice(_ACTS)} "
        f"{random.randint(2, 99)} loads of {random.choice(_CARGOES)} for {random.choice(_PLACES)}."
    )


def _secret(ship: str, number: int) -> str:
    return f"The registration number of the {ship} is {number}."


def haystack(
    random: Random, length: int, depth: int, count: Callable[[str], int]
) -> tuple[Sequence[str], int, str, int]:
    """Return the lines of a text of about ``length`` tokens, the needle's at ``depth`` per cent of them, its ship and
    number.
    """
    ships: dict[str, int] = {}
    while len(ships) < 1 + DECOYS:
        ships[_ship(random)] = random.randrange(10**6, 10**7)
    (ship, number), *decoys = ships.items()
    sample = [_line(random) for _ in range(50)]
    per_line = count("\n".join(sample)) / len(sample)
    lines = [_line(random) for _ in range(max(1, int(length / per_line) - 1 - DECOYS))]
    for decoy in decoys:
        lines.insert(random.randrange(len(lines) + 1), _secret(*decoy))
    at = round(depth / 100 * len(lines))
    lines.insert(at, _secret(ship, number))
    return lines, at, ship, number


def make(needs: Needs) -> Sequence[Problem]:
    """Return one problem per length, depth and trial."""
    problems = []
    for length in needs.lengths:
        for depth in needs.depths:
            for trial in range(needs.trials):
                random = Random(seed_of(needs.seed, "needle", length, depth, trial))
                lines, at, ship, number = haystack(random, length, depth, needs.count)
                question = f"What is the registration number of the {ship}? Answer with the number only."
                problems.append(
                    Problem.ask(
                        id=f"needle-{length}-{depth}-{trial}",
                        prompt=Divided(tuple(lines), question).text(lines),
                        answer=str(number),
                        verifier="exact",
                        source="needle",
                        extra={"length": length, "depth": depth, "line": at},
                    )
                )
    return problems


def divide(problem: Problem) -> Divided:
    """Return the reports, and the question about one of them."""
    text, _, question = problem.prompt.rpartition("\n\n")
    return Divided(tuple(text.split("\n")), question, int(problem.extra["line"]))


def verify(problem: Problem, response: str) -> Score:
    """Right when the seven-digit numbers after the thinking are the one asked for and no other."""
    found = dict.fromkeys(_NUMBER.findall(after_thinking(response).replace(",", "")))
    shown = ", ".join(found)[:200]
    if not found:
        return Score.wrong("no seven-digit number")
    return Score.right(shown) if list(found) == [problem.answer] else Score.wrong("another number", shown)


BENCHMARK = Benchmark(
    name="needle",
    title="Needle in a haystack",
    published=(
        "Kamradt's test hides one sentence in essays; RULER's multi-key form adds decoys, as here. No common protocol: "
        "compare only runs of this file. --lengths and --depths choose the grid, --trials the problems in each cell."
    ),
    make=make,
    verify=verify,
    verifier="exact",
    same=same_text,
    evidence=divide,
    max_tokens=256,
    breakdown=("length", "depth"),
)
