"""Rules for right outputs in a problem's statement: accepted errors, orders and letter cases that it leaves open.

Read from sentences, as contest statements write them, their superscripts lost at times. Whoever reads too much into a
statement accepts wrong programs, so a number counts only where the sentence is about the answer's error, and an order
only where it is about what is returned or printed. Pure functions.
"""

from __future__ import annotations

import re

from rewards.code.compare import Leeway, Order, Tolerance

MOST = 0.1
"""Largest error that is taken for one; a larger number in such a sentence means something else."""

_MINUS = r"\s*[-−–‐‑﹣－]\s*"
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_NUMBER = (
    r"[\s$({\\]*"
    r"(?:(?P<factor>\d(?:\.\d+)?)\s*(?:\\cdot|\\times|[·×⋅*])\s*)?"
    rf"(?:10\s*(?:\^|\*\*|<sup>)?\s*[{{(]*{_MINUS}(?P<power>\d{{1,2}})(?!\d)"
    rf"|(?P<float>\d+(?:\.\d+)?e{_MINUS}\d{{1,2}})(?!\d)"
    r"|(?P<decimal>0?\.0\d{0,15})(?!\d))"
)
"""An error as it is written: ``10^{-6}``, ``10 - 6`` (superscript lost), ``2 \\cdot 10^-7``, ``1e-6``, ``0.000001``."""
_BOUND = (
    r"(?:at most|(?:not|n't|n’t|cannot) exceed(?:s|ing)?|not exceeding|(?:less|smaller|lower) than(?: or equal to)?"
    r"|(?:no|not) (?:more|greater|larger|bigger|worse|higher) than|within|up to|below|under|bounded by|at least"
    r"|≤|⩽|<=|<|\\leq?(?:slant)?|of|is|by|to|:|=)"
)
_ERRORS = tuple(
    re.compile(pattern, re.I)
    for pattern in (
        rf"\berrors?\b(?! (?:probability|rate))(?:(?!\bprobability\b).){{0,160}}?{_BOUND}{_NUMBER}",
        rf"\bwithin{_NUMBER}[^a-z]{{0,5}}(?:</sup>)?\s*(?:of|from|absolute|relative|error)\b",
        rf"\b(?:precision|accuracy|tolerance)\b.{{0,40}}?(?:{_BOUND}(?: an?)?)?{_NUMBER}",
        rf"\b(?:differ|differs|difference|deviates?|deviation)\b.{{0,120}}?{_BOUND}{_NUMBER}",
    )
)
_ACCEPTED = re.compile(
    r"\b(?:accept|correct|consider|allow|tolerat|permit|judged|regarded|answers?\b|outputs?\b|print|results?\b"
    r"|solutions?\b|(?:its|your) (?:\w+ )?error|absolute or relative|relative or absolute)",
    re.I,
)
_TWO_ERRORS = re.compile(r"\b(?:absolute or relative|relative or absolute|absolute and relative)\b", re.I)
_UNRELATED = re.compile(r"\bprobability of (?:an? )?errors?\b", re.I)

_IN_ANY_ORDER = r"\bin (?:any|an arbitrary|any arbitrary|arbitrary|whatever) order\b"
_ORDERS = tuple(
    re.compile(pattern, re.I)
    for pattern in (
        rf"(?P<verb>\b(?:return|print|output)(?:s|ed|ted|ing)?\b)(?P<what>[^.;:!?]{{0,100}}?){_IN_ANY_ORDER}",
        rf"(?P<verb>\b(?:answers?|outputs?|results?|solutions?)\b)(?P<what>[^.;:!?]{{0,30}}?){_IN_ANY_ORDER}",
        r"\border (?P<verb>of|in which)(?P<what>[^.;:!?]{0,30}\b(?:answers?|outputs?|results?|return\w*|print\w*)\b"
        r"[^.;:!?]{0,60})(?:(?:does|do) ?n[o'’]t matter|(?:is|are) (?:not important|unimportant|irrelevant|arbitrary))",
    )
)
_OTHER_SUBJECT = re.compile(
    r"\b(?:if|whether|by|after|using|operations?|perform\w*|appl(?:y|ied|ying)|concatenat\w*|rearrang\w*|number of"
    r"|count|m(?:in|ax)im(?:um|al)|largest|smallest|longest|shortest|sum|formed|visit\w*|cost|ways?|probability|true|false)\b",
    re.I,
)
_PARTS = re.compile(
    r"\b(?:(?P<scalar>integers|numbers|elements|indices|indexes|values|vertices|digits|ids)|answers?|arrays?|lists?"
    r"|results?|outputs?|solutions?|pairs|triplets|quadruplets|tuples|combinations|permutations|subsets|groups|edges"
    r"|segments|intervals|paths|rows|strings|words|coordinates|points)\b",
    re.I,
)

_SEVERAL = re.compile(r"\btest ?cases?\b", re.I)

_ANY_CASE = tuple(
    re.compile(pattern, re.I)
    for pattern in (
        r"\b(?:output|print|write|answers?|letters?)\b(?:(?!\b(?:if|not)\b)[^.;!?]){0,80}?"
        r"(?:\bin any (?:letter )?(?:case|register)\b|\bin (?:either|upper|lower)(?:case| case)? or (?:upper|lower))",
        r"\b(?:judge|checker|output|answers?|verdict|print\w*)\b[^.;!?]{0,60}"
        r"(?:\bcase[- ]?insensitive|\bnot case[- ]?sensitive)",
        r"\bcase (?:of (?:the )?letters?|of the (?:output|answer))[^.;!?]{0,40}(?:not matter|n't matter|ignored)",
    )
)
_WHOLE_OUTPUT = re.compile(
    r"\b(?:each|every|all|any) letters?\b|\b(?:the|this|your) (?:answer|output)\b|\bjudge\b|checker|output is"
)
_WORD = re.compile(r"[A-Za-z]+")


def leeway(statement: str, tolerance: Tolerance = None, printed: bool = False) -> Leeway:
    """Return all that a statement leaves open; ``tolerance``, where it is known, instead of the stated one.

    Items are ``printed`` one a line: with several test cases in an input nothing says whose a line is.
    """
    error = stated_tolerance(statement) if tolerance is None else tolerance
    order = stated_order(statement)
    if printed and order is Order.ITEMS and _SEVERAL.search(statement):
        order = Order.FIXED
    return Leeway(error or None, order, stated_words(statement) if printed else frozenset())


def sentences(statement: str) -> list[str]:
    """Return the sentences of a statement, each on one line."""
    parts = re.split(r"(?<=[.!?])\s+(?=[^\sa-z])|\n\s*\n|\n(?=\s*[-*•])", statement)
    return [" ".join(part.split()) for part in parts]


def stated_tolerance(statement: str) -> Tolerance:
    """Return the error that a statement says it accepts ("absolute or relative error of at most 10^{-6}"), if it says
    so.
    """
    found = sentences(statement)
    for i, sentence in enumerate(found):
        # "... if the absolute or relative error is small. Formally, it is accepted when ... <= 10^{-6}."
        text = " ".join(found[i : i + 3]) if _TWO_ERRORS.search(sentence) else sentence
        text = text.translate(_SUPERSCRIPTS)
        if not _ACCEPTED.search(text) or _UNRELATED.search(text):
            continue
        for pattern in _ERRORS:
            for match in pattern.finditer(text):
                error = _error(match)
                if 0 < error <= MOST:
                    return error
    return None


def _error(match: re.Match[str]) -> float:
    factor, power, number, decimal = match.group("factor", "power", "float", "decimal")
    if power:
        return float(f"{factor or 1}e-{power}")
    return float(re.sub(_MINUS, "-", number)) if number else float(decimal)


def stated_order(statement: str) -> Order:
    """Return whether a statement lets its answer come in any order, and which part of it."""
    for sentence in sentences(statement):
        for pattern in _ORDERS:
            match = pattern.search(sentence)
            if match and not _OTHER_SUBJECT.search(match.group("what")):
                part = _PARTS.search(match.group("what")) or _PARTS.search(sentence[: match.start()])
                return Order.INNER if part and part.group("scalar") else Order.ITEMS
    return Order.FIXED


def stated_words(statement: str) -> frozenset[str]:
    """Words, in lower case, that a statement lets a program print in any case: those that the sentence names and, where
    it speaks of the whole output, those that the statement writes with a capital.
    """
    found: set[str] = set()
    for sentence in sentences(statement):
        if any(pattern.search(sentence) for pattern in _ANY_CASE):
            found |= set(_WORD.findall(re.sub(r"\\text\w*", " ", sentence)))
            if _WHOLE_OUTPUT.search(sentence):
                found |= {word for word in _WORD.findall(statement) if not word.islower()}
    return frozenset(word.lower() for word in found)
