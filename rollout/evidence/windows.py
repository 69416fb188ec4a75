"""Evidence in several windows: what a request carries beside its prompt. Plain data, which crosses process borders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from rollout.evidence.config import MergingConfig
from rollout.types import Pointers, Prompt, TokenIds

MOST_WINDOWS = 4096


class EvidenceError(ValueError):
    """Evidence that cannot be used as it is; one line."""


@dataclass(frozen=True)
class Evidence:
    """Windows beside a request's own prompt, which holds the question and no evidence: row 0 of the merge."""

    windows: tuple[Prompt, ...]
    """Rows 1 to n: each a window's evidence and the question, up to where the answer begins."""
    merging: MergingConfig | Literal["parallel"] = field(default_factory=MergingConfig)
    """``parallel``: parallel context windows [2212.10947], one row that attends to all windows at the same positions;
    of the ``hf`` engine alone."""
    last: int = 0
    """The window that spoke for the last token of the answer so far; 0: none did."""

    def __post_init__(self) -> None:
        if not self.windows:
            raise EvidenceError("no window of evidence")
        if len(self.windows) > MOST_WINDOWS:
            raise EvidenceError(
                f"{len(self.windows)} windows of evidence; at most {MOST_WINDOWS} are taken: make them larger"
            )
        for number, window in enumerate(self.windows, 1):
            if not len(window):
                raise EvidenceError(f"window {number} of {len(self.windows)} is empty")

    def rows(self, prompt: Prompt, begun: int) -> list[TokenIds]:
        """Return the tokens of all rows: the request's own prompt, then each window with the response so far, the
        prompt's last ``begun`` tokens, behind it.
        """
        answer = prompt.token_ids[len(prompt) - begun :]
        return [prompt.token_ids, *(np.concatenate([window.token_ids, answer]) for window in self.windows)]

    def fault(self, begun: int, new_tokens: int, context: int) -> str:
        """Return in one line which window has no room for the response in the context; empty: all have.

        ``begun`` tokens of it are there, and ``new_tokens`` may come.
        """
        for number, window in enumerate(self.windows, 1):
            if len(window) + begun + new_tokens > context:
                return (
                    f"window {number} of {len(self.windows)} has {len(window)} tokens, and with {begun + new_tokens} "
                    f"of the response it exceeds the context of {context}: take more and smaller windows"
                )
        if self.merging == "parallel":
            try:
                shared_ending([window.token_ids for window in self.windows])
            except EvidenceError as error:
                return str(error)
        return ""

    def after(self, pointers: Pointers) -> Evidence:
        """Return it for a request that goes on behind tokens with these pointers."""
        return replace(self, last=int(pointers[-1])) if len(pointers) else self


def shared_ending(rows: Sequence[TokenIds]) -> int:
    """Return how many tokens all rows end with alike: the question, behind a window each. Less than the shortest row.

    Raises ``EvidenceError`` where they share none.
    """
    least = min(len(row) for row in rows)
    ends = np.stack([row[len(row) - least :] for row in rows])
    differ = np.flatnonzero((ends != ends[0]).any(0))
    shared = min(least - 1 - int(differ[-1]) if len(differ) else least, least - 1)
    if shared < 1:
        raise EvidenceError("the windows do not end in one question, which parallel windows need")
    return shared
