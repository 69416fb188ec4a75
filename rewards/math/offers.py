"""Text round a final box that takes it back, or offers another value beside it.

A response that hedges between two values answers neither. Prose that only explains, checks or rules something out
("because 7 is not possible", "the other root is rejected") offers nothing, so each pattern asks for words of doubt or
choice *and* a value that stands by itself.
"""

from __future__ import annotations

import re

from rewards.math.words import CARDINALS, number_of

AFTER = 400
"""Characters after a box in which other answers are looked for."""

_WORDS = re.compile(r"[A-Za-z]+(?:[-'][A-Za-z]+)?")
_AFTER = re.compile(
    r"[\s$.,;:)(\[\]\\*\u2013\u2014-]{0,12}(?:\\text\s*\{\s*)?"
    r"\b(?P<word>or|alternatively|otherwise|maybe|perhaps|possibly)\b"
    r"(?:\\?[\s,:}$(]"
    r"|(?:equivalently|(?:more )?simply|in short|rather|maybe|perhaps|possibly|else|alternatively|otherwise|also|even"
    r"|just|it is)\b)*"
    r"(?P<rest>[^\n]{0,200})",
    re.IGNORECASE,
)
"""A word after a box that may offer another answer, and what follows it."""
_AND = re.compile(
    r"[\s$,)\]*]{0,12}(?:\\text\s*\{\s*)?\band\b(?:\s+also\b)?[\s$\\(}]*(?P<rest>-?\\?[0-9$][^\s,;.]{0,40})(?=[\s$).\\]*(?:$|\n))",
    re.IGNORECASE,
)
"""The same for "and", where nothing but a value follows."""
_CASES = re.compile(
    r"[\s$,;)]{0,12}(?:(?:if|when|for)\b[^.\n]{0,80}?(?:[,;]|\b(?:and|or|but)\b)[\s$\\(]*(?P<one>-?[0-9][0-9./]*)"
    r"(?=[\s$)\\]*\b(?:if|when|for|otherwise|else)\b)"
    r"|\s?(?:(?:but|though|although)\s)?(?:(?:it|this)\s)?"
    r"\b(?:could|may|might)(?: also)? be[\s$\\(]*(?P<two>-?[0-9][0-9./]*))",
    re.IGNORECASE,
)
"""Another value in another case: "if n is even, 6 otherwise", "but it could be 6"."""
_CHUNK = re.compile(r"(?:\.(?![0-9])|[,;$\n](?![0-9])|\s[\u2013\u2014-]\s)")
_CONDITION = re.compile(r"\s*(?:if|when|for|in case|depending|where|unless|with)\b", re.IGNORECASE)
_ROUNDED = re.compile(r"\s*(?:approximately|about|roughly|around|\\approx)", re.IGNORECASE)
_OFFER = re.compile(
    r"[\s$({\\\[]*(?:(?:that|the|it|this|answer|value|result|x|y|n|is|was|be|could|may|might|can|would|equals|to|=)\b\s*|=\s*)*"
    r"[\s$({\\\[]*[-+]?\s?(?:[0-9.]*[0-9]|\\?(?:[dt]?frac|sqrt|pi|boxed)\b|\\\$[0-9])"
)
"""A value, maybe after words that only lead to it."""
_LAST = re.compile(r"\s\$?(-?[0-9][0-9.]*)\$?\s*$")
_MARKS = re.compile(r"\\[()\[\]]|[$]|\s*[).]+\s*$")
_VALUE = (
    r"(?<![0-9A-Za-z.])(?P<value>[-+]?\s?\\?\$?\s?(?:[0-9]+(?:,[0-9]{3})*(?:\.[0-9]+)?(?:\s?/\s?[0-9]+)?|\.[0-9]+"
    r"|[0-9]*\\[dt]?frac\s?(?:\{[^{}]*\}\s?\{[^{}]*\}|[0-9]{2})|[0-9]*\\sqrt\s?(?:\{[^{}]*\}|[0-9])|\\pi)%?"
    r"|[(\[]\s?-?[0-9][^()\[\]A-Za-z]{0,30},[^()\[\]A-Za-z]{1,30}[)\]]|[a-z]+(?:-[a-z]+)?)"
)
"""A number, fraction, root, or tuple of numbers; or one word, which seldom counts (``_counted``)."""
_NAME = r"(?:\\?[A-Za-z](?:_\{?\w\}?)?\s?=\s?)?"
_END = (
    r"(?![0-9A-Za-z^_({=+*/<>%]|\.[0-9]|\s?(?:[-+*/^=<>]|\\(?:cdot|times|pm|frac|sqrt|pi)\b))"
    r"(?=\s*(?:[.,;:!?)\]&|]|$|\n|(?:or|and|but|instead|too|as|also|when|if|for|depending|respectively|otherwise)\b))"
)
"""After a value: it is whole, and no noun or verb goes on with it."""
_LEAD = r"(?:(?:it|this|that|the (?:answer|value|result|solution|number)|[a-z])\s+)?"
_BECOMES = r"(?:(?:is|equals|becomes|would be|will be|could be|might be|may be|should be|gives)\s+|=\s?)?"
_JUDGED = (
    r"(?:possible|plausible|valid|acceptable|accepted|correct|right|fine|okay|conceivable|answer|solution|option"
    r"|possibility|candidate|alternative|works?|allowed)"
)
_KIND = r"(?:answer|solution|value|possibility|option|candidate|choice|result)"
_OTHERS = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        # A list that goes on: ", 43", "/ 43".
        rf"^[\s)]*[,;/|&]\s*\(?{_VALUE}{_END}",
        # "or B", "maybe no"
        r"^[\s.,;)(]*\b(?:or|maybe|perhaps|possibly|alternatively|otherwise)(?:,?\s(?:maybe|perhaps|possibly|else|even"
        rf"|also))*,?\s{_LEAD}{_BECOMES}{_NAME}\(?{_VALUE}{_END}",
        # "though it might be 43"
        rf"(?:^|[.,;:(!?\n-]\s*|\b(?:but|though|although|while|and|or|however|yet)\s+){_LEAD}(?:could|may|might|can)"
        rf"(?:\s(?:also|well|just|as|equally|possibly|perhaps|instead))*\s(?:be|equal)\s{_NAME}{_VALUE}{_END}",
        # "although 43 is possible", "43 is also acceptable"
        rf"\b(?:although|though|but|while|however|yet)[\s,]+{_NAME}\(?{_VALUE}\)?\s(?=[^.;\n]{{0,40}}\b{_JUDGED}\b)",
        rf"(?:^|[.,;(\n]|\band|\bor)\s*{_NAME}{_VALUE}\s(?=[^.;\n]{{0,20}}\b(?:also|equally|too|might|may|could|possibly"
        rf"|another)\b[^.;\n]{{0,20}}\b{_JUDGED}\b)",
        rf"\b(?:another|an?\s(?:alternative|second|different))(?:\s(?:possible|valid|plausible|acceptable|correct))*\s{_KIND}"
        rf"\s?(?:is|are|:|=|(?:could|may|might|would)\sbe)\s?{_NAME}{_VALUE}{_END}",
        # "otherwise 43"
        rf"\b(?:otherwise|else|if\snot|in\s(?:that|which|the\sother|any\sother)\scase)\b,?(?:\sthen)?\s{_LEAD}{_BECOMES}"
        rf"{_NAME}{_VALUE}{_END}",
    )
]
"""Ways to offer another value after a box, in plain text."""
_REJECTED = re.compile(
    r"\b(?:not|never|cannot|no|none|neither|rejected?|extraneous|invalid|impossible|discard(?:ed)?|exclud\w*|fails?"
    r"|contradict\w*|outside|wrong|incorrect|ignored?|violat\w*|too (?:small|large|big|high|low)|ruled out|we)\b|n't\b",
    re.IGNORECASE,
)
"""Words that rule a value out, in the clause that names it."""
_CLAUSE = re.compile(r"[.;\n](?![0-9])")
_SOME_VALUE = re.compile(rf"[0-9]|\\(?:[dt]?frac|sqrt|pi)|\b(?:{'|'.join(sorted(CARDINALS))})\b", re.IGNORECASE)
"""What every text has that offers one after a box."""

_FILLER = (
    r"(?:(?:be|been|equal|equals|to|the|answer|final|correct|is|simply|just|really|actually|a|an|value|result|of|exactly"
    r"|necessarily|number|integer|for|that|it|[xn]|=)\s+)"
)
_DENIED_BEFORE = re.compile(
    rf"(?:\bnot|n't|n’t|\bnever|\bcannot)\s+{_FILLER}{{0,5}}$",
    re.IGNORECASE,
)
"""Right before a box: it is what the answer is not."""
_DENIED_AFTER = re.compile(
    r"[\s).,*]*(?:(?:is|was|would be|seems|looks)(?: (?:clearly|obviously|definitely|certainly|of course|probably))?"
    r" (?:wrong|incorrect|false|invalid|impossible|rejected|extraneous|(?:not|n't) (?:the |a |an )?(?:\w+ )?"
    r"(?:answer|correct|right|possible|valid|solution|it)\b)"
    r"|isn't (?:the |a )?(?:\w+ )?(?:answer|correct|right|possible|valid)\b"
    r"|\?\s*(?:no|wrong|not)\b)",
    re.IGNORECASE,
)
"""Right after a box: it is taken back."""

_CHOICE = re.compile(r"[A-J]")
_OPPOSITES = [
    set(pair.split())
    for pair in (
        "yes no", "true false", "even odd", "positive negative", "increasing decreasing", "prime composite",
        "rational irrational", "convergent divergent", "converges diverges", "possible impossible", "left right",
    )
]  # fmt: skip
_MARKUP = re.compile(r"\\[()\[\]](?![A-Za-z])|(?<!\\)\$|\*\*|\\(?:[,;:! ]|quad|qquad)(?![A-Za-z])|~")
_OR = re.compile(r"\\(?:lor|vee)(?![A-Za-z])")
_TEXT = re.compile(r"\\(?:text|textbf|mathrm|mbox|textit)\s*\{([^{}]*)\}")


def plain(text: str) -> str:
    r"""A text without marks of mathematics and layout; ``\text{...}`` is its content, typed newlines are lines."""
    text = _MARKUP.sub("", _OR.sub(" or ", _TEXT.sub(r"\1", text))).replace("\\&", "&")
    return re.sub(r"[ \t]+", " ", text)


def denied(text: str, start: int, end: int) -> bool:
    """Return whether the words round a box from ``start`` to ``end`` say that it is not the answer."""
    before, after = plain(text[max(0, start - 80) : start]), plain(text[end : end + 80])
    return _DENIED_BEFORE.search(before) is not None or _DENIED_AFTER.match(after) is not None


def offered_elsewhere(text: str, end: int, answer: str) -> list[str]:
    """Return the values that the words after a box, which ends at ``end``, offer in place of the ``answer`` in it."""
    found = []
    after = plain(text[end : end + AFTER])
    if _SOME_VALUE.search(after) or _is_word(answer):
        for pattern in _OTHERS:
            for match in pattern.finditer(after):
                if not _ruled_out(after, match):
                    found.append(_counted(match["value"], answer))
    return [value for value in dict.fromkeys(found) if value]


def offered_after(text: str, start: int) -> list[str]:
    """Return the value that a word such as "or" offers beside the last box, in the same sentence; none for a rounded
    one.
    """
    text = text[start : start + AFTER]
    joined = _AND.match(text)
    if joined:
        return [joined["rest"].strip("$ ")]
    cases = _CASES.match(text)
    if cases:
        return [(cases["one"] or cases["two"]).rstrip(".")]
    after = _AFTER.match(text)
    if after is None or (after["word"].lower() == "otherwise" and _REJECTED.search(_CLAUSE.split(after["rest"])[0])):
        return []
    for chunk in _CHUNK.split(after["rest"]):
        if _ROUNDED.match(chunk):
            return []
        if _OFFER.match(chunk):
            return [_MARKS.sub("", chunk).strip()]
        number = next((word for word in _WORDS.findall(chunk)[:3] if number_of(word) is not None), "")
        if number and (number.lower() != "one" or chunk.strip(" .)").lower() == "one"):
            return [str(number_of(number))]
        if not chunk.strip():
            continue
        if not _CONDITION.match(chunk):
            return []
        last = _LAST.search(chunk)
        if last:
            return [last[1]]
    return []


def _ruled_out(text: str, match: re.Match[str]) -> bool:
    """Return whether the clause that offers a value goes on to rule it out."""
    return _REJECTED.search(_CLAUSE.split(text[match.end("value") :], maxsplit=1)[0]) is not None


def _said(answer: str) -> str:
    """Return the word or choice that an answer is."""
    return _TEXT.sub(r"\1", answer).strip(" .()")


def _is_word(answer: str) -> bool:
    """Return whether an answer is a choice, or a word that has an opposite."""
    said = _said(answer)
    return _CHOICE.fullmatch(said) is not None or any(said.lower() in pair for pair in _OPPOSITES)


def _counted(value: str, answer: str) -> str:
    """Return a value as it is compared; empty when it is none beside the answer.

    Of words count those that name a number (but for "one"), another choice beside a choice, and the opposite of the
    answer; tuples beside tuples.
    """
    value = value.strip()
    if value[0] in "([":
        return value if answer.lstrip("\\left ").startswith(("(", "[")) else ""
    if not (value.isascii() and value.replace("-", "").isalpha()):
        return value
    said = _said(answer)
    if _CHOICE.fullmatch(said):
        return value if _CHOICE.fullmatch(value) else ""
    if any({said.lower(), value.lower()} == pair for pair in _OPPOSITES):
        return value
    number = number_of(value)
    return "" if number is None or value.lower() == "one" else str(number)
