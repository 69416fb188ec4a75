"""vLLM's scheduler, which also says when a response repeats itself: its own check costs 6 % of a tiny model's step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import Request, RequestStatus

from rollout.repetition import Repetition

REPETITION = "k15_repetition"
"""The entry of ``SamplingParams.extra_args`` that holds shortest and longest pattern and how many copies."""

if TYPE_CHECKING:
    _Base = Scheduler
else:
    _Base = object


class _Watching(_Base):
    """Mixed into vLLM's schedulers."""

    def _update_request_with_output(
        self, request: Request, new_token_ids: list[int], is_stale: bool = False
    ) -> tuple[list[int], bool]:
        """See vLLM: adds the tokens to the request, cuts them behind the one that ends it, and says whether one did."""
        tokens, stopped = super()._update_request_with_output(request, new_token_ids, is_stale)
        watch = _watch(request)
        if watch is None:
            return tokens, stopped
        for count, token in enumerate(tokens, 1):
            # A last token that ends the response or its budget is that first, as in vLLM.
            if watch.add(token) and not (stopped and count == len(tokens)):
                request.status = RequestStatus.FINISHED_REPETITION
                request.stop_reason = "repetition_detected"
                del tokens[count:]
                return tokens, True
        return tokens, stopped


class RolloutScheduler(_Watching, Scheduler):
    """For engines that schedule a step when the one before has ended."""


class AsyncRolloutScheduler(_Watching, AsyncScheduler):
    """For engines that schedule the next step during the present one."""


def _watch(request: Any) -> Repetition | None:
    """Return what watches a request; it lives as long as the request."""
    if not hasattr(request, "k15_watch"):
        wanted = (request.sampling_params.extra_args or {}).get(REPETITION)
        request.k15_watch = None if wanted is None else Repetition(*wanted)
    return request.k15_watch
