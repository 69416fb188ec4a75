"""Text that writes no token of a conversation: what a policy wrote, as a part of its judge's prompt.

Tokenizers take ``<|im_end|>`` in a text for the token of that name, and so a response could end its judge's turn, or
open another one as the system. Behind each character with which such names begin a space is put in: ``< |im_end|>``. It
stays readable and visible, and needs no tokenizer, so a judge reads in use what it read in training; whether it is
enough for one tokenizer is checked when that is loaded (``rollout.reward_models.judge_prompts``).
"""

from __future__ import annotations

import re

_OPENER = re.compile(
    r"[<\uff1c](?![\s\d=])"  # <s>, </s>, <|im_end|>, <start_of_turn>, <<SYS>>; not x < y, x<5, x<=5
    r"|[\u25c1](?!\s)"  # Kimi's triangles
    r"|>(?=>[A-Za-z])"  # Falcon's >>TITLE<<
    r"|\[(?=/?[A-Za-z][A-Za-z_0-9-]{1,40}\])"  # [INST], [/INST], [gMASK], [control_7]; not [a] or [1, 2]
)


def defused(text: str) -> str:
    """Return ``text`` with a space behind what may open the name of a token; idempotent, and linear in its length."""
    return _OPENER.sub(lambda match: match.group() + " ", text)
