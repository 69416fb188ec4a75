"""Procedural arithmetic: a ledger of additions and subtractions, with demonstrations that think in different depths.

Every problem is a pure function of (source, split, index); no file is read. The split of a problem is decided by a
keyed hash of its text alone, so a held-out text cannot be drawn for training, whatever the seed or the difficulty.

Demonstrations are the long-CoT warm-up data of k1.5 section 2.2 in miniature: they show planning (``plan``), evaluation
(``check``), reflection (``wait``) and exploration (``or``). They are a deliberate *mixture of efforts*, as the writing
that language models are pretrained on is: some work in columns, some write a step's result straight down, some skip
steps, some only state the answer. All end in the right answer, and a wrong step occurs only where the text then notices
and corrects it. A small model executes columns far more reliably than the hasty ways, so the outcome reward has
something to discover: that thinking pays.

A line repeats its term as the problem has it, and only then names the running total: ``b -45 from 58: ...``. Copying
what followed the same label before is what attention learns first, and it learns it in every run. With the total in
front (``b 58-45: ...``) the sign stood at a distance from its label that depends on the total; whether a model found it
was chance, and one that did not guessed the sign from the total's size, right three times in four (docs/log.md).
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import Literal

from rollout.problems.source import Split
from rollout.problems.splits import owner
from rollout.types import Problem

Style = Literal["careful", "quick", "thorough"]
Term = tuple[str, str]
"""Sign (``+`` or ``-``) and value text: a number (``48``) or a product of two digits (``6*4``)."""

MAX_DRAWS = 10_000
"""Most draws for a text of the wanted split; only absurdly small difficulties can exhaust them."""

LABELS = "abcdefghijklmnopqrstuvwxyz"
"""Line labels: the first number is line ``a``, step i is line i of the alphabet."""

JOINS = {"+": " to ", "-": " from "}
"""Between a term and the running total, as in speech: ``+12 to 30``, ``-45 from 58``."""

TOKENS: tuple[str, ...] = (
    *"0123456789+-*=",
    *("Compute", "<think>", "</think>", "\nAnswer: ", "\nplan: ", " steps", ": ", ", ", " -> "),
    *("\ncheck ", " ok", " not ", "\nwait, ", "\nor "),
    *JOINS.values(),
    *(f"\n{label} " for label in LABELS),
)
"""Every prompt and demonstration is a concatenation of these; a tokenizer takes the longest match."""


def split_of(text: str) -> Split:
    """Return the split that owns this text."""
    return owner(text, "arithmetic")


def value_of(text: str) -> int:
    """Return the value of a term's text: ``48`` or ``6*4``."""
    left, times, right = text.partition("*")
    return int(left) * int(right) if times else int(left)


def parse(prompt: str) -> list[Term]:
    """Return the lines of a prompt as signed terms; the first is positive."""
    return [(sign or "+", value) for sign, value in re.findall(r"\n[a-z] ([+-]?)([0-9*]+)", prompt)]


def render(terms: list[Term]) -> str:
    """Return the prompt of these terms, one labelled line each."""
    lines = (f"\n{label} {sign}{value}" for label, (sign, value) in zip(LABELS, terms, strict=False))
    return "Compute" + "".join(lines).replace("+", "", 1)


def apply(total: int, sign: str, value: int) -> int:
    """Return ``total`` plus or minus ``value``."""
    return total + value if sign == "+" else total - value


def columns(total: int, sign: str, value: int) -> str:
    """Return column arithmetic from the right, with carry or borrow: ``7+8=15, 3+4+1=8``."""
    width = max(len(str(total)), len(str(value)))
    carry, parts = 0, []
    for place in range(width):
        a, b = total // 10**place % 10, value // 10**place % 10
        extra = f"{sign}1" if carry else ""
        if sign == "+":
            result = a + b + carry
            carry = int(result > 9)
        else:
            carry_in, carry = carry, int(a - b - carry < 0)
            a += 10 * carry
            result = a - b - carry_in
        parts.append(f"{a}{sign}{b}{extra}={result}")
    return ", ".join(parts)


@dataclass(frozen=True)
class Arithmetic:
    """A source of problems. ``steps`` and ``digits`` are the difficulty dial."""

    steps: tuple[int, int] = (2, 5)
    """Fewest and most additions and subtractions of a problem, inclusive; at most 25."""
    digits: int = 2
    """Operands and running totals have exactly this many digits (no leading zero)."""
    products: float = 0.0
    """Chance that an operand is written as a product of two digits, where a fitting one exists."""
    careful: float = 0.25
    """Share of demonstrations that work every step out in columns."""
    mixed: float = 0.15
    """Share of demonstrations that choose between columns and writing the result down, step by step."""
    jumps: float = 0.1
    """Share of demonstrations that only state the answer. The remaining share is hasty throughout."""
    skips: float = 0.2
    """Chance that a hasty step takes the next one along."""
    checks: float = 0.1
    """Chance that a step is checked: a quick one by the inverse operation, a careful one by another way."""
    thorough: float = 0.0
    """Share of careful demonstrations that do every step twice: as right as once, and twice as long."""
    slips: float = 0.06
    """Chance that a quick step goes wrong, is caught by a check, and is done again in columns."""
    seed: int = 0
    """Another seed is another stream of problems with the same splits."""

    def __post_init__(self) -> None:
        if not 1 <= self.steps[0] <= self.steps[1] < len(LABELS):
            raise ValueError(f"steps must satisfy 1 <= fewest <= most < {len(LABELS)}, got {self.steps}")
        if not 1 <= self.digits <= 12:
            raise ValueError(f"digits must lie in 1..12, got {self.digits}")
        if min(self.careful, self.mixed, self.jumps) < 0 or self.careful + self.mixed + self.jumps > 1:
            raise ValueError("careful, mixed and jumps are shares: non-negative, together at most 1")
        if not 0 <= self.thorough <= 1:
            raise ValueError(f"thorough is a share, got {self.thorough}")

    @property
    def low(self) -> int:
        """Smallest operand and running total."""
        return 10 ** (self.digits - 1)

    @property
    def top(self) -> int:
        """Largest operand and running total."""
        return 10**self.digits - 1

    @property
    def alphabet(self) -> tuple[str, ...]:
        """Tokens of which every prompt and demonstration is a concatenation."""
        return TOKENS

    def problem(self, index: int, split: Split) -> Problem:
        """Return problem number ``index`` (0, 1, ...) of a split; the same text has the same id wherever it is
        drawn.
        """
        rng = random.Random(f"k15.arithmetic/{self.seed}/{split}/{index}")
        for _ in range(MAX_DRAWS):
            terms, total = self._draw(rng)
            text = render(terms)
            if split_of(text) == split:
                break
        else:
            raise ValueError(f"no {split} text found at steps={self.steps}, digits={self.digits}: widen the difficulty")
        return Problem.ask(
            id="arithmetic:" + "".join(sign + value for sign, value in terms)[1:],
            prompt=text,
            answer=str(total),
            verifier="arithmetic",
            source="arithmetic",
            difficulty=float(len(terms) - 1),
        )

    def demonstration(self, problem: Problem, rng: random.Random) -> str:
        """Return a verified response, from ``<think>`` to the answer; its effort is drawn from the mixture."""
        terms = parse(problem.prompt)
        draw = rng.random()
        plan = f"\nplan: {len(terms) - 1} steps" if rng.random() < 0.5 else ""
        if draw < self.jumps:
            body = ""
        elif draw < self.jumps + self.careful:
            style: Style = "thorough" if self.thorough and rng.random() < self.thorough else "careful"
            body = plan + self._work(terms, [style] * len(terms), rng)
        elif draw < self.jumps + self.careful + self.mixed:
            body = plan + self._work(terms, [rng.choice(("careful", "quick")) for _ in terms], rng)
        else:
            body = self._work(terms, ["quick"] * len(terms), rng)
        return f"<think>{body}</think>\nAnswer: {problem.answer}"

    def _draw(self, rng: random.Random) -> tuple[list[Term], int]:
        """Return the terms of one problem and its value."""
        total = rng.randint(self.low, self.top)
        terms: list[Term] = [("+", str(total))]
        for _ in range(rng.randint(*self.steps)):
            room = {"+": self.top - total, "-": total - self.low}
            sign = rng.choice([sign for sign in "+-" if room[sign] >= self.low])
            products = [(a, b) for a in range(2, 10) for b in range(2, 10) if self.low <= a * b <= room[sign]]
            if products and rng.random() < self.products:
                a, b = rng.choice(products)
                text = f"{a}*{b}"
            else:
                text = str(rng.randint(self.low, room[sign]))
            terms.append((sign, text))
            total = apply(total, sign, value_of(text))
        return terms, total

    def _work(self, terms: list[Term], styles: list[Style], rng: random.Random) -> str:
        """Return the thinking: one labelled line a step; ``styles[i]`` is how term i is added."""
        total, at, lines = value_of(terms[0][1]), 1, []
        while at < len(terms):
            sign, text = terms[at]
            hasty = styles[at] == "quick"
            if hasty and at + 1 < len(terms) and styles[at + 1] == "quick" and rng.random() < self.skips:
                next_sign, next_text = terms[at + 1]
                result = apply(apply(total, sign, value_of(text)), next_sign, value_of(next_text))
                lines.append(f"\n{LABELS[at]} {sign}{text}")
                lines.append(f"\n{LABELS[at + 1]} {next_sign}{next_text}{JOINS[next_sign]}{total}={result}")
                total, at = result, at + 2
                continue
            line = self._quick(total, sign, text, rng) if hasty else self._careful(total, sign, text, styles[at], rng)
            lines.append(f"\n{LABELS[at]} {sign}{text}{line}")
            total, at = apply(total, sign, value_of(text)), at + 1
        return "".join(lines)

    def _careful(self, total: int, sign: str, text: str, style: Style, rng: random.Random) -> str:
        """Return what follows a term whose step is done in columns; a thorough step is done twice, in columns both
        times.

        A careful one is now and then confirmed another way, through the next round number.
        """
        value, result = value_of(text), apply(total, sign, value_of(text))
        product = f"={value}" if "*" in text else ""
        columned = f"{JOINS[sign]}{total}: {columns(total, sign, value)} -> {result}"
        if style == "thorough":
            return f"{product}{columned}\ncheck {sign}{value}{columned} ok"
        line = product + columned
        gap = -value % 10
        middle = apply(total, sign, value + gap)
        if gap and self._fits(middle) and value + gap <= self.top and rng.random() < self.checks:
            back = "-" if sign == "+" else "+"
            line += f"\nor {total}{sign}{value + gap}={middle}, {middle}{back}{gap}={result}"
        return line

    def _quick(self, total: int, sign: str, text: str, rng: random.Random) -> str:
        """Return what follows a term whose result is written straight down.

        Now and then it is checked; now and then it is wrong, which the check notices, and it is corrected.
        """
        value = value_of(text)
        result = apply(total, sign, value)
        back = "-" if sign == "+" else "+"
        draw = rng.random()
        wrong = result + rng.choice((-10, -1, 1, 10)) if draw < self.slips else result
        seen = apply(wrong, back, value)
        joined = f"{JOINS[sign]}{total}"
        if not self._fits(wrong) or not self._fits(seen) or draw > self.slips + self.checks:
            return f"{joined}={result}"
        line = f"{joined}={wrong}\ncheck {wrong}{back}{value}={seen}"
        if wrong == result:
            return f"{line} ok"
        return f"{line} not {total}\nwait, {sign}{value}{joined}: {columns(total, sign, value)} -> {result}"

    def _fits(self, number: int) -> bool:
        """Return True for numbers with exactly ``digits`` digits."""
        return self.low <= number <= self.top
