"""Which behaviours of long reasoning show in a response: planning, evaluation, reflection and exploration
[2501.12599 §2.2].

Rules on English words in their context, linear in the text's length; text is hostile input. They find what is said
aloud: a plan carried out without a word, and whatever is said in another language, is missed.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Behaviour = Literal["planning", "evaluation", "reflection", "exploration"]
BEHAVIOURS: tuple[Behaviour, ...] = ("planning", "evaluation", "reflection", "exploration")

_WORDS = {
    "US": r"(let's|let me|let us|(i|we)('ll| will| should| can| could| must| need to| have to| want to))",
    "OWN": r"(our|my|the|this|that|these|each|every|all|both)",
    "WORK": r"(answers?|results?|calculations?|computations?|work(ing)?|solutions?|steps?|arithmetic|reasoning|logic"
    r"|guess(es)?|claims?|sums?|totals?|values?|derivation|algebra|counts?)",
    "ANOTHER": r"(an?other|an? (alternative|different|easier|simpler|faster|quicker|better|cleaner|neater)|a second)",
    "WAY": r"(approach|method|strategy|idea|technique)",
}
"""What a word in capitals stands for in the rules. ``US``: whoever reasons says what to do."""
_ANYWHERE: dict[Behaviour, tuple[str, ...]] = {
    "planning": (
        r"(my|our) (plan|strategy|approach|game plan)(?! (view|costs?|charges?|b\b))",
        r"(here's|here is) (the|a|my|our) (plan|strategy|game plan)",
        r"the (plan|strategy|game plan) (is|here is|would be|will be) (to|as follows)",
        r"US (first )?(make a plan|plan (this|it|the (solution|steps|approach)|out|how|first)|outline (the|a|my|our))",
        r"(follow|take|go through) (these|the following) (\w+ )?steps",
        r"break(ing)? (this|it|things|(this|the) (problem|task|question|solution|process|calculation)) (down|up|into)",
        r"(the|our|my) (idea|approach|strategy) (here )?(is|will be) to",
        r"first(ly)?,? US [^.\n]{3,160}[.,;:] (and )?(then|next|after that|second(ly)?|finally),? US ",
        r"US first [^.\n]{3,120} (and )?(then|before we|before i|after that|and finally) ",
    ),
    "evaluation": (
        r"(double|sanity)[- ]?check(ing|ed|s)?",
        r"US ((just|also|now|quickly) )?(re-?)?(check|verify|confirm|validate|test) OWN (\w+ )?WORK",
        r"US ((just|also|now|quickly) )?(check|verify|confirm|validate|test) (this|that|it|these|by)"
        r"(?! (is|equation|inequality|condition|box|bag|bill|number|point))",
        r"US ((just|also) )?((check|verify|confirm|see|test) (if|whether)|(check|verify) that) "
        r"(this|that|it|we|i|our|the (answer|result|sum|solution)) ",
        r"US (check|verify|confirm|make sure)\s*[:.,!\u2014]",
        r"US make sure (that )?(OWN|we|i|it|there|nothing|everything)",
        r"(plug(ging|ged)?|substitut(e|ing|ed)|put(ting)?)( [^.\n]{0,60})? back in(to)? [^.\n]{0,80}"
        r"(check|verify|confirm|holds|works|satisfied|as required|as expected)",
        r"(this|that|it|which|answer|result) (\w+ ){0,2}(makes? sense|checks out"
        r"|(seems?|looks?|sounds?|is) (right|reasonable|plausible|off|suspicious|too (large|small|big|high|low)))",
        r"does (this|that|it|the answer) (make sense|work|hold|look right|match)",
        r"(this|that|which|it) (matches|agrees with|confirms)",
        r"(this|which|it) (contradicts|is (indeed )?consistent with)",
        r"(i|we) (have )?(checked|verified|confirmed) (that|this|it|the|our|my)",
    ),
    "reflection": (
        r"on second thoughts?",
        r"(i|we)('ve| have)? (just )?(made (a|an|some) (\w+ )?(mistakes?|errors?|slips?)|overlooked|messed up"
        r"|mis(read|calculated|counted|understood|interpreted|stated|applied|took)|(over|under)counted"
        r"|forgot(ten)? (to|that|the|about)|(was|were) wrong)",
        r"(that|this|it)( is|'s| was| must be) ((clearly|obviously|also|still|probably|definitely) )?"
        r"(wrong|incorrect|a mistake|an error|not (right|correct))"
        r"(?! (angles?|triangles?|order|side|way|answers?))",
        r"(that|this|it) (can't be|cannot be|can not be|couldn't be|isn't|doesn't (seem|look|sound)"
        r"|does not (seem|look|sound)) (quite )?(right|correct)(?! (angles?|triangles?|order|side))",
        r"US (re-?(think|consider|do|calculate|compute|examine|evaluate|read|visit|trace|assess|count|start|work|check)"
        r"|go back|backtrack|(correct|fix) (this|that|my|our|the|it)|start over|try again|look again)",
        r"(looking|thinking) back (at|on|over)",
        r"(going|coming) back to (the|my|our) "
        r"(original|first|previous|last|earlier|problem|question|equation|definition)",
        r"there (is|was|must be|seems to be) an? (mistake|error|misunderstanding|contradiction|discrepancy)",
        r"my (mistake|error)",
        r"my (earlier|previous|first|initial) (\w+ )?(was|answer|attempt|assumption|calculation)",
        r"i apologi[sz]e",
    ),
    "exploration": (
        r"[,;] (or )?alternatively,",
        r"ANOTHER (\w+ )?WAY",
        r"ANOTHER way (to (solve|do|approach|see|look|think|check|verify|compute|calculate|find|get|count|tackle|go)"
        r"|of (solving|doing|approaching|looking|seeing|thinking|counting|getting)|is to|would be|might be)",
        r"what if (i|we|instead)",
        r"US ((also|instead) )?(try|explore|experiment)(?! (on|out for))",
        r"US (also )?(consider|look at|think about|use) (ANOTHER|this from another|it from another|it differently)",
        r"(i|we) ((could|might) (also|instead|alternatively)|can (instead|alternatively)) "
        r"(use|try|do|solve|write|count|compute|work|think|consider|approach|set|look|find|get|apply|take|go)",
        r"(maybe|perhaps) (i|we) (can|could|should|need|might|try|just)",
        r"(maybe|perhaps) there(('s| is) (a|an|another)) (\w+ )?(way|approach|method|trick)",
        r"is there (a|an|another|any other) (\w+ )?(way|approach|method|trick|shortcut)",
        r"(suppose|assume|try) instead",
    ),
}
_AT_START: dict[Behaviour, tuple[str, ...]] = {
    "planning": (r"(\d\. )?plan(\*\*)?\s*[:\n]",),
    "evaluation": (
        r"(quick )?(check(ing)?|verification|verify(ing)?)\s*(\*\*)?\s*:",
        r"(checking|verifying|confirming) (OWN WORK|this|that|it|with|by)",
        r"(to (check|verify|confirm)|as a check)(?! (if|whether|marks?|that an?))[^.\n]{0,60}[,:]",
    ),
    "reflection": (
        r"(wait|hold on|hang on|oops|whoops)\s*[,.!:;\u2026\u2014\u2013-]",
        r"(wait|hold on|hang on) (a (minute|second|moment)\s*[,.!:\u2014-]|no|that('s)?|this|i|maybe|actually|but|why)",
        r"h+m+\s*[,.!:\u2026\u2014\u2013-]",
        r"actually\s*,",
    ),
    "exploration": (
        r"alternatively(\s*[,:]| (we|i|one|you|use|using|consider|note|let|since|by))",
        r"instead,? US",
    ),
}
"""At the beginning of a sentence."""
_HEAD = r"[ \t*_>(\"#-]{0,6}(?:(?:but|oh|so|and|ok|okay|hmm+|now|well|no),?\s+)?"
"""What may stand before the first word of a sentence that says something."""


def _compiled(rule: str, head: str) -> re.Pattern[str]:
    """Return the pattern of a rule: spaces stand for any white space, apostrophes for either kind, no group counts."""
    for word in ("ANOTHER", "WORK", "OWN", "WAY", "US"):
        rule = rule.replace(word, _WORDS[word])
    rule = re.sub(r"(?<!\\)\((?!\?)", "(?:", rule.replace("'", "['\u2019]"))
    spaced = re.sub(r" (?![^\[\]]*\])", r"\\s+", rule)
    return re.compile(rf"{head}\b{spaced}(?:\b|(?<=\W))")


_FIND = {behaviour: tuple(_compiled(rule, "") for rule in rules) for behaviour, rules in _ANYWHERE.items()}
_BEGIN = {behaviour: tuple(_compiled(rule, _HEAD) for rule in rules) for behaviour, rules in _AT_START.items()}
_LOWER = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}
"""Lower case that moves no character; rules without regard to case would be three times as slow."""
_CODE = re.compile(r"^[ \t]*```.*?(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)
_ENDS = re.compile(r"[.!?:;\u2026]\s+|\n\s*")


@dataclass(frozen=True)
class Hit:
    """A place where a behaviour shows."""

    behaviour: Behaviour
    start: int
    end: int
    """Characters of the response."""


def hits(response: str, prompt: str = "") -> list[Hit]:
    """Return where behaviours show, in the order of the text, one per behaviour and sentence.

    A sentence that also stands in ``prompt`` is a quotation, and code is none of the model's reasoning: neither counts.
    """
    quoted, text = _plain(prompt), response.translate(_LOWER)
    code = [match.span() for match in _CODE.finditer(text)]
    begins = [0, *(match.end() for match in _ENDS.finditer(text))]
    found: dict[tuple[Behaviour, int], Hit] = {}
    for behaviour, match in _matches(text, begins):
        start = match.start() + len(match.group()) - len(match.group().lstrip())
        number = bisect_right(begins, start) - 1
        after = begins[number + 1] if number + 1 < len(begins) else len(text)
        sentence = _plain(text[begins[number] : max(after, match.end())])
        if any(a <= start < b for a, b in code) or (quoted and sentence and sentence in quoted):
            continue
        known = found.get((behaviour, number))
        if known is None or start < known.start:
            found[behaviour, number] = Hit(behaviour, start, match.end())
    return sorted(found.values(), key=lambda hit: (hit.start, BEHAVIOURS.index(hit.behaviour)))


def _matches(text: str, begins: Sequence[int]) -> Iterator[tuple[Behaviour, re.Match[str]]]:
    """Yield what the rules find, in no order; ``begins``: where sentences do."""
    for behaviour in BEHAVIOURS:
        for rule in _FIND[behaviour]:
            for match in rule.finditer(text):
                yield behaviour, match
        for rule in _BEGIN[behaviour]:
            for begin in begins:
                if found := rule.match(text, begin):
                    yield behaviour, found


def shown(response: str, prompt: str = "") -> tuple[Behaviour, ...]:
    """Return the behaviours that show in a response, in the order of ``BEHAVIOURS``."""
    there = {hit.behaviour for hit in hits(response, prompt)}
    return tuple(behaviour for behaviour in BEHAVIOURS if behaviour in there)


def _plain(text: str) -> str:
    """Return the words of a text, for finding one in another."""
    return " ".join(re.findall(r"\w+", text.casefold()))
