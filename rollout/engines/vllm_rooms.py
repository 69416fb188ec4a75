"""Room for groups of rows in vLLM, counted before they are handed to it.

Rows that have read their prompt keep it while they wait for the rest of their group. Two groups that each have a part
of the room and wait for more would wait for ever; so a group gets all of its room or none.
"""

from __future__ import annotations

from typing import Any

from rollout.engine import Request


class Rooms:
    """The seats and the pages of the key-value cache that groups have. Windows that groups share count for each."""

    def __init__(self, cache: Any, seats: int) -> None:
        """``cache``: vLLM's ``CacheConfig`` of an engine that has started."""
        self._page = int(cache.block_size)
        self._pages = int(cache.num_gpu_blocks) - 1  # one is kept empty
        self._seats = seats
        self._taken: dict[str, tuple[int, int]] = {}

    def fault(self, request: Request) -> str:
        """Return in one line why a group could never get its room; empty: it can."""
        rows, pages = self._needed(request)
        if rows > self._seats:
            return f"{rows - 1} windows and the prompt need {rows} seats; engine.max_concurrency is {self._seats}"
        if pages > self._pages:
            return (
                f"{rows - 1} windows and the prompt take {pages * self._page} tokens of the key-value cache, which has "
                f"{self._pages * self._page}: raise engine.kv_cache_gib"
            )
        if request.evidence is not None:
            ends = {int(row[-1]) for row in request.evidence.rows(request.prompt, request.begun) if len(row) > 1}
            if ends & {*request.sampling.stop_token_ids}:
                return "the prompt ends in an end token, which a group of rows would stop at"
            if any(len(row) < 2 for row in request.evidence.rows(request.prompt, request.begun)):
                return "a group of rows needs prompts of two tokens and more"
        return ""

    def take(self, request: Request) -> bool:
        """Take the room of a request; False while there is not enough. One without evidence needs none here."""
        if request.evidence is None:
            return True
        rows, pages = self._needed(request)
        if sum(taken for taken, _ in self._taken.values()) + rows > self._seats:
            return False
        if sum(taken for _, taken in self._taken.values()) + pages > self._pages:
            return False
        self._taken[request.key] = rows, pages
        return True

    def give_back(self, request: Request) -> None:
        """Give back what a request had, if it had any."""
        self._taken.pop(request.key, None)

    def _needed(self, request: Request) -> tuple[int, int]:
        """Return seats and pages."""
        if request.evidence is None:
            return 0, 0
        sizes = [len(request.prompt), *(len(window) + request.begun for window in request.evidence.windows)]
        return len(sizes), sum(-(-(size + request.max_new_tokens) // self._page) for size in sizes)
