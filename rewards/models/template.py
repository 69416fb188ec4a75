"""What a reward model reads of a response: its template with question, reference and response filled in.

The response is hostile text. It is put in as it is, once, and is not looked at for further fields.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import Literal

from rewards.response import after_thinking

Sees = Literal["whole", "answer"]
FIELDS = ("question", "reference", "response")
_WORD = re.compile(r"\{(\w+)\}")
_FIELD = re.compile(r"\{(" + "|".join(FIELDS) + r")\}")


def shown(response: str, sees: Sees) -> str:
    """Return the part of a response that a model reads: all of it, or what follows its thinking, stripped.

    Empty when the thinking never ended: there is no answer then.
    """
    return response if sees == "whole" else after_thinking(response).strip()


def fill(template: str, question: str, reference: str, response: str) -> str:
    """Return ``template`` with each of its fields replaced; other braces stay."""
    given = {"question": question, "reference": reference, "response": response}
    return _FIELD.sub(lambda match: given[match.group(1)], template)


def check(template: str) -> None:
    """Raises ``ValueError`` for a template that shows no response, or with a field that is likely misspelt."""
    if "{response}" not in template:
        raise ValueError("template has no {response}: every response would look the same to the model; add it")
    for word in _WORD.findall(template):
        if word not in FIELDS and (meant := get_close_matches(word.lower(), FIELDS, 1, 0.8)):
            raise ValueError(f"template has {{{word}}}, which stands for nothing: did you mean {{{meant[0]}}}?")
