"""Plants one wrong number or name in a right solution. Knows nothing of ``rewards.quotes``: its numbers are found by
the calculator's notes of GSM8K (``<<48/2=24>>``), those of the prompt by digits and by words.
"""

from __future__ import annotations

import ast
import operator
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from rewards.math.words import CARDINALS, FACTORS

NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?|\.\d+")
NOTE = re.compile(r"<<([^<>\n]*)>>")
CALENDAR = re.compile(
    r"(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)days?|January|February|March|April|May|June|July|August|September|October"
    r"|November|December|Mrs?|Miss|Christmas"
)
KINDS = ("digit", "swap", "one", "ten", "other")
"""Another digit, two digits swapped, one more or less, times ten, a number of another solution."""
_OPERATIONS: dict[type, Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


@dataclass(frozen=True)
class Site:
    """Where a given number is an operand: in the visible text, and which note says so."""

    start: int
    end: int
    note: int
    """Index of the note."""


@dataclass(frozen=True)
class Planted:
    """A solution with one wrong piece."""

    kind: str
    text: str
    start: int
    end: int
    """Of the piece in ``text``."""


def value(text: str) -> float:
    """Return a written number, rounded as a key."""
    return float(f"{float(text.replace(',', '')):.9g}")


def stripped(rationale: str) -> str:
    """Return a solution without its notes, as models write it."""
    return NOTE.sub("", rationale)


def literal(prompt: str) -> set[float]:
    """Return the numbers that stand in a prompt, in digits or as a word."""
    words = re.findall(r"[a-z]+", prompt.lower())
    named = {float(CARDINALS[word]) for word in words if word in CARDINALS}
    return (
        {value(found) for found in NUMBER.findall(prompt)} | named | {float(FACTORS[w]) for w in words if w in FACTORS}
    )


def sites(prompt: str, rationale: str) -> list[Site]:
    """Return the operands of a solution that the prompt has; places are those of ``stripped(rationale)``.

    An operand is a number left of the equals sign of a note that computes; it is looked for between the note before and
    this one, on the same line.
    """
    given, plain = literal(prompt), stripped(rationale)
    found: list[Site] = []
    removed = begin = 0
    for index, note in enumerate(NOTE.finditer(rationale)):
        end = note.start() - removed
        left = note[1].rpartition("=")[0]
        begin = max(begin, plain.rfind("\n", 0, end) + 1)
        if re.search(r"[\d.)]\s*[-+*/]", left):
            wanted = {value(one) for one in NUMBER.findall(left)} & given
            for match in reversed(list(NUMBER.finditer(plain, begin, end))):
                alone = not match.start() or not (plain[match.start() - 1].isalnum() or plain[match.start() - 1] == ".")
                if alone and value(match[0]) in wanted:
                    wanted.discard(value(match[0]))
                    found.append(Site(*match.span(), index))
        removed += len(note[0])
        begin = end
    return found


def changed(kind: str, text: str, rng: random.Random, others: Sequence[str]) -> str | None:
    """Return another number of the wanted kind; ``None`` where there is none."""
    digits = [at for at, character in enumerate(text) if character.isdigit()]
    if kind == "digit":
        at = rng.choice(digits)
        new = rng.choice([d for d in "0123456789" if d != text[at] and not (d == "0" and at == 0)])
        return text[:at] + new + text[at + 1 :]
    if kind == "swap":
        pairs = [(a, b) for a, b in pairwise(digits) if text[a] != text[b] and not (a == 0 and text[b] == "0")]
        if not pairs:
            return None
        a, b = rng.choice(pairs)
        characters = list(text)
        characters[a], characters[b] = characters[b], characters[a]
        return "".join(characters)
    if kind == "other":
        return rng.choice(others)
    number = value(text)
    new_value = number * 10 if kind == "ten" else number + rng.choice([-1, 1])
    return f"{new_value if new_value > 0 else number + 1:.12g}"


def plant(kind: str, plain: str, site: Site, new: str) -> Planted:
    """Replace the number at one place, and nothing else."""
    return Planted(kind, plain[: site.start] + new + plain[site.end :], site.start, site.start + len(new))


def carried(rationale: str, site: Site, new: str) -> Planted | None:
    """Replace the number at one place and carry it through: each later result is computed anew, and replaced wherever
    it stands. ``None`` where a note cannot be computed, or a result equals a number that stands before it.
    """
    plain = stripped(rationale)
    replaced = {value(plain[site.start : site.end]): value(new)}
    results: dict[float, float] = {}
    removed = 0
    for index, note in enumerate(NOTE.finditer(rationale)):
        left, _, result = note[1].rpartition("=")
        if index >= site.note:
            terms = {**results, **(replaced if index == site.note else {})}
            old, now = _computed(left, {}), _computed(left, terms)
            if old is None or now is None or abs(old - now) < 1e-9 or not NUMBER.fullmatch(result.strip()):
                if index == site.note or (old != now):
                    return None
            elif value(result) in results:  # said once more
                pass
            elif value(result) in {value(n) for n in NUMBER.findall(plain[: note.start() - removed])}:
                return None
            else:
                results[value(result)] = float(f"{now:.6g}")
        removed += len(note[0])
    head, tail = plain[: site.start], plain[site.end :]
    text = NUMBER.sub(lambda m: f"{results[value(m[0])]:.12g}" if value(m[0]) in results else m[0], tail)
    return Planted("carried", head + new + text, site.start, site.start + len(new))


def _computed(expression: str, terms: dict[float, float]) -> float | None:
    """Return the value of a note's left side, with some of its numbers replaced."""
    text = re.sub(r"(?<![\d.])0+(?=\d)", "", expression.replace(",", ""))
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError):
        return None

    def walk(node: ast.AST) -> float | None:
        if isinstance(node, ast.Expression):
            return walk(node.body)
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            return terms.get(value(str(node.value)), float(node.value))
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
            left, right = walk(node.left), walk(node.right)
            if left is None or right is None or (isinstance(node.op, ast.Div) and not right):
                return None
            return _OPERATIONS[type(node.op)](left, right)
        return None

    return walk(tree)


def names_of(text: str) -> list[str]:
    """Return the names of a text: words with a capital letter inside a sentence that it never writes without; of the
    calendar none.
    """
    inside = re.findall(r"(?<=[a-z,] )[A-Z][a-z]{2,}\b", text)
    lower = set(re.findall(r"\b[a-z]+\b", text))
    return [name for name in dict.fromkeys(inside) if name.lower() not in lower and not CALENDAR.fullmatch(name)]


def rename(prompt: str, plain: str, rng: random.Random, others: Sequence[str]) -> Planted | None:
    """Replace a name of the prompt, at one place inside a sentence of the solution, by one of another problem."""
    places = [m for m in re.finditer(r"(?<=[a-z,] )[A-Z][a-z]{2,}\b", plain) if m[0] in names_of(prompt)]
    fresh = [name for name in others if name not in prompt]
    if not places or not fresh:
        return None
    place, new = rng.choice(places), rng.choice(fresh)
    return Planted("name", plain[: place.start()] + new + plain[place.end() :], place.start(), place.start() + len(new))
