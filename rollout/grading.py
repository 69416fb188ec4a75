"""How a response's end decides its verdict, before any verifier is asked. Training and evaluation share it."""

from __future__ import annotations

from collections.abc import Callable

from rewards.score import Score
from rollout.types import StopReason


def verdict(stop: StopReason | None, verify: Callable[[], Score]) -> Score:
    """The verdict on a finished response; ``verify`` judges its text, when the text is to be judged at all.

    A truncated response is wrong even if the right answer stands in it
    [2501.12599 §2.3.3]; an aborted one was never answered and
    is ungradable. An exception inside a verifier is the grader's failure, not the policy's: ungradable, with its text.
    """
    if stop is StopReason.ABORTED:
        return Score.ungradable("aborted")
    if stop is StopReason.LENGTH:
        return Score.wrong("truncated at the length cap")
    if stop is StopReason.REPETITION:
        return Score.wrong("stopped for repetition")
    try:
        return verify()
    except Exception as error:  # noqa: BLE001  the named boundary to graders: counted as ungradable
        return Score.ungradable(f"{type(error).__name__}: {error}")
