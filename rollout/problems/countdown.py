"""Procedural countdown: reach a target from given numbers with ``+ - * /``, each number used at most once.

Every intermediate result of a demonstration is a positive integer (the verifier also accepts rationals). Problems
are solvable by construction, and the split of one is decided by a keyed hash of its numbers and target alone.

A demonstration is the trace of a real depth-first search, dead ends and returns included. Searches run in random orders
until one finds the target within ``tries`` visited states; should none do so, a search that starts with a known
solution is shown. That is rejection sampling of verified reasoning paths [k1.5 section 2.2].
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from rollout.problems.arithmetic import MAX_DRAWS
from rollout.problems.source import Split
from rollout.problems.splits import owner
from rollout.types import Problem

Number = tuple[int, str]
"""A value and the expression that makes it."""
Move = tuple[Number, Number, str]
"""Two numbers of a state and the operator between them."""

TOKENS: tuple[str, ...] = (
    *"0123456789+-*/()= ",
    *("Numbers", "\nTarget ", "<think>", "</think>", "\nAnswer: ", "\nplan: reach ", " with", ", "),
    *("\ntry ", ", left", "\n", " no, back to", "\ncheck ", " ok"),
)
"""Every prompt and demonstration is a concatenation of these; a tokenizer takes the longest match."""

ORDERS = 64
"""Random search orders tried before a demonstration falls back to a known solution."""


def split_of(numbers: tuple[int, ...], target: int) -> Split:
    """Return the split that owns these numbers (in any order) and target."""
    text = " ".join(map(str, sorted(numbers))) + f" -> {target}"
    return owner(text, "countdown")


def combine(a: int, b: int, op: str) -> int | None:
    """Return ``a op b`` where that is a positive integer, else ``None``."""
    if op == "+":
        return a + b
    if op == "*":
        return a * b
    if op == "-":
        return a - b if a > b else None
    return a // b if b and a % b == 0 else None


def moves(state: tuple[Number, ...]) -> list[Move]:
    """Return every way to combine two numbers of a state, the larger first; no result twice, no multiplication by 1."""
    found: dict[tuple[int, int, str], Move] = {}
    for i, first in enumerate(state):
        for second in state[i + 1 :]:
            large, small = (first, second) if first[0] >= second[0] else (second, first)
            for op in "+-*/":
                if combine(large[0], small[0], op) is not None and not (op in "*/" and small[0] == 1):
                    found.setdefault((large[0], small[0], op), (large, small, op))
    return list(found.values())


def after(state: tuple[Number, ...], move: Move) -> tuple[Number, ...]:
    """Return the state once the move is made; the new number comes last."""
    left, right, op = move
    rest = list(state)
    rest.remove(left)
    rest.remove(right)
    value = combine(left[0], right[0], op)
    assert value is not None
    return (*rest, (value, _wrap(left[1]) + op + _wrap(right[1])))


def _wrap(expression: str) -> str:
    return expression if expression.isdigit() else f"({expression})"


def _equation(move: Move) -> str:
    left, right, op = move
    return f"{left[0]}{op}{right[0]}={combine(left[0], right[0], op)}"


def _values(state: tuple[Number, ...]) -> str:
    return "".join(f" {value}" for value, _ in state)


def solve(state: tuple[Number, ...], target: int) -> list[Move] | None:
    """Return the moves of one solution, or ``None`` when there is none. Exhaustive: for at most five numbers or so."""
    for move in moves(state):
        reached = after(state, move)
        if reached[-1][0] == target:
            return [move]
        if len(reached) > 1 and (rest := solve(reached, target)) is not None:
            return [move, *rest]
    return None


class _Search:
    """A depth-first search that records its steps and gives up after ``tries`` states."""

    def __init__(self, target: int, tries: int, rng: random.Random, first: list[Move]) -> None:
        self.target, self.tries, self.rng, self.first = target, tries, rng, first
        self.trace: list[str] = []

    def order(self, state: tuple[Number, ...], depth: int) -> Iterator[Move]:
        """Yield the moves of a state in random order; a known solution first, where one was given."""
        found = moves(state)
        self.rng.shuffle(found)
        known = self.first[depth] if depth < len(self.first) else None
        return iter(sorted(found, key=lambda move: move != known))

    def run(self, state: tuple[Number, ...], depth: int = 0) -> str | None:
        """Return the expression found, or ``None``: dead end, or out of tries."""
        if len(state) == 2:
            return self._finish(state, depth)
        for move in self.order(state, depth):
            self.tries -= 1
            if self.tries < 0:
                return None
            reached = after(state, move)
            if reached[-1][0] == self.target:
                self.trace.append(f"\ntry {_equation(move)}")
                return reached[-1][1]
            self.trace.append(f"\ntry {_equation(move)}, left{_values(reached)}")
            if (found := self.run(reached, depth + 1)) is not None or self.tries < 0:
                return found
            self.trace.append(f" no, back to{_values(state)}")
        return None

    def _finish(self, state: tuple[Number, ...], depth: int) -> str | None:
        """Finish with the last two numbers: all results on one line, up to the target."""
        written: list[str] = []
        for move in self.order(state, depth):
            written.append(_equation(move))
            value, expression = after(state, move)[-1]
            if value == self.target:
                self.trace.append("\n" + ", ".join(written))
                return expression
        self.trace.append("\n" + ", ".join(written))
        return None


@dataclass(frozen=True)
class Countdown:
    """A source of problems; ``numbers`` is the difficulty dial."""

    numbers: tuple[int, int] = (3, 4)
    """Fewest and most given numbers, inclusive; from 2 to 5."""
    largest: int = 25
    """Given numbers lie in 1..largest."""
    target: tuple[int, int] = (10, 99)
    """Smallest and largest target, inclusive."""
    tries: int = 12
    """States that a demonstration's search may visit."""
    seed: int = 0
    """Another seed is another stream of problems with the same splits."""

    def __post_init__(self) -> None:
        if not 2 <= self.numbers[0] <= self.numbers[1] <= 5:
            raise ValueError(f"numbers must satisfy 2 <= fewest <= most <= 5, got {self.numbers}")
        if not 2 <= self.largest <= 999_999:
            raise ValueError(f"largest must lie in 2..999999, got {self.largest}")
        if not 1 <= self.target[0] <= self.target[1] <= 999_999_999:
            raise ValueError(f"target must satisfy 1 <= smallest <= largest <= 999999999, got {self.target}")
        if self.tries < self.numbers[1]:
            raise ValueError(f"tries must be at least the most numbers ({self.numbers[1]}), got {self.tries}")

    @property
    def alphabet(self) -> tuple[str, ...]:
        """Tokens of which every prompt and demonstration is a concatenation."""
        return TOKENS

    def problem(self, index: int, split: Split) -> Problem:
        """Return problem number ``index`` (0, 1, ...) of a split; the same numbers and target have the same id."""
        rng = random.Random(f"k15.countdown/{self.seed}/{split}/{index}")
        for _ in range(MAX_DRAWS):
            numbers, target = self._draw(rng)
            inside = self.target[0] <= target <= self.target[1] and target not in numbers
            if inside and split_of(numbers, target) == split:
                break
        else:
            raise ValueError(f"no {split} problem found: widen the numbers or the target range")
        text = " ".join(map(str, numbers))
        return Problem.ask(
            id=f"countdown:{text.replace(' ', ',')}:{target}",
            prompt=f"Numbers {text}\nTarget {target}",
            answer=f"{target} from {text}",
            verifier="countdown",
            source="countdown",
            difficulty=float(len(numbers)),
        )

    def demonstration(self, problem: Problem, rng: random.Random) -> str:
        """Return a verified response: a plan, a search with its dead ends, a check of what was found, the answer."""
        target_text, _, numbers = problem.answer.partition(" from ")
        target = int(target_text)
        state = tuple((int(number), number) for number in numbers.split())
        trace, expression = self._search(state, target, rng)
        plan = f"\nplan: reach {target} with {numbers}"
        return f"<think>{plan}{trace}\ncheck {expression}={target} ok</think>\nAnswer: {expression}"

    def _draw(self, rng: random.Random) -> tuple[tuple[int, ...], int]:
        """Return sorted numbers, and the value of a random combination of all of them."""
        numbers = tuple(sorted(rng.randint(1, self.largest) for _ in range(rng.randint(*self.numbers))))
        state: tuple[Number, ...] = tuple((number, str(number)) for number in numbers)
        while len(state) > 1:
            possible = moves(state)
            if not possible:
                break
            state = after(state, rng.choice(possible))
        return numbers, state[-1][0]

    def _search(self, state: tuple[Number, ...], target: int, rng: random.Random) -> tuple[str, str]:
        """Return trace and expression of a search that succeeded within the budget."""
        for _ in range(ORDERS):
            search = _Search(target, self.tries, rng, [])
            if (expression := search.run(state)) is not None:
                return "".join(search.trace), expression
        known = solve(state, target)
        if known is None:
            raise ValueError(f"no solution: {target} from{_values(state)}")
        search = _Search(target, self.tries, rng, known)
        expression = search.run(state)
        assert expression is not None, "a search that starts with a solution finds it"
        return "".join(search.trace), expression
