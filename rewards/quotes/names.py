"""Names of a response that its prompt does not have: other people, and misspelt ones.

Which words are names depends on the response alone, so that a longer prompt can only support more of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rewards.math.words import words
from rewards.quotes.lines import prose_lines
from rewards.quotes.tokens import Kind, Token

WORD = re.compile(r"[^\W\d_]+")
SHORTEST = 3
"""Letters of the shortest name: ``Al`` looks like a variable or an abbreviation."""
LONGEST = 24
"""Letters of the longest word that is taken for a name."""
COMMON = words(
    "january february march april may june july august september october november december"
    " monday tuesday wednesday thursday friday saturday sunday mondays tuesdays wednesdays thursdays fridays saturdays"
    " sundays spring summer autumn winter christmas easter halloween thanksgiving new year eve day"
    " mr mrs miss ms dr sir madam god earth moon sun"
    " english french german spanish italian chinese japanese american european british latin greek roman arabic"
    " answer final solution step total note let given problem question case part equation formula thus therefore hence"
    " since because then first second third finally next now yes true false left right and the for with"
    " theorem lemma law rule inequality identity method algorithm principle pythagorean pythagoras euler euclid"
    " euclidean fibonacci vieta heron cauchy schwarz fermat gauss gaussian newton pascal descartes cartesian archimedes"
    " riemann taylor ptolemy menelaus ceva stewart chebyshev legendre bernoulli poisson lagrange wilson venn"
    " mon tue tues wed thu thur thurs fri sat sun jan feb mar apr jun jul aug sep sept oct nov dec"
    " these those this that there they number numbers each both kindergarten grade"
    " let it that he she there here what who how where when why one everyone everybody someone today tomorrow"
    " celsius fahrenheit kelvin joule watt volt ampere ohm hertz north south east west python"
)
"""Words with a capital letter that no problem needs to bring: calendar, titles, languages, mathematics."""


@dataclass(frozen=True)
class NameClaim:
    """A name that a response uses."""

    text: str
    start: int
    end: int
    supported: bool


def judge_names(prompt: str, response: str, lines: Sequence[Sequence[Token]]) -> list[NameClaim]:
    """Return the names of a response, each once with its first place.

    A name is a word with a capital letter inside a sentence, or with a possessive, that the response writes nowhere
    without the capital. ``lines``: the tokens of the response's lines.
    """
    known = {word.lower() for word in WORD.findall(prompt)}
    begins = {word[:length] for word in known for length in range(SHORTEST, min(len(word), LONGEST) + 1)}
    common = COMMON | {w for line in prose_lines(response) for w in WORD.findall(line) if w[0].islower()}
    found: dict[str, NameClaim] = {}
    for token, inside in _candidates(lines):
        text, *possessive = re.split("['’]", token.text)
        lower = text.lower()
        named = SHORTEST <= len(text) <= LONGEST and text[1:].islower() and lower not in common
        if not named or text in found or not (inside or possessive == ["s"]):
            continue
        forms = {lower, lower.removesuffix("s"), lower.removesuffix("es"), lower + "s"}
        longer = {lower[:length] for length in range(SHORTEST, len(lower))}  # Jennifer, where the prompt has Jen
        supported = bool(forms & known) or lower in begins or bool(longer & known)
        found[text] = NameClaim(text, token.start, token.start + len(text), supported)
    return list(found.values())


def _candidates(lines: Sequence[Sequence[Token]]) -> Iterator[tuple[Token, bool]]:
    """Yield the words with a capital letter, and whether each stands inside a sentence."""
    for line in lines:
        inside = False
        for token in line:
            if token.kind is Kind.WORD and token.text[0].isupper():
                yield token, inside
            inside = token.kind is not Kind.BREAK or (inside and token.text in ",-'’&")
