"""vLLM's scheduler, with two things of its own: it says when a response repeats itself (vLLM's check takes 6 % of the
time of a tiny model), and it sends log-probs as ``rollout.engines.vllm_wire`` has them.
"""

from __future__ import annotations

import atexit
import gc
from dataclasses import replace
from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import EngineCoreOutputs
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus

from rollout.engines.vllm_wire import attach
from rollout.repetition import Repetition

REPETITION = "k15_repetition"
"""The entry of ``SamplingParams.extra_args`` that holds shortest and longest pattern and how many copies."""


class _Rollouts(Scheduler):
    """What both of vLLM's schedulers get."""

    def update_from_output(
        self, scheduler_output: SchedulerOutput, model_runner_output: ModelRunnerOutput
    ) -> dict[int, EngineCoreOutputs]:
        """See vLLM: what each client hears of a step."""
        logprobs = model_runner_output.logprobs
        messages = super().update_from_output(scheduler_output, replace(model_runner_output, logprobs=None))
        if logprobs is not None:
            for message in messages.values():
                attach(message.outputs, logprobs, model_runner_output.req_id_to_index)
        return messages

    def shutdown(self) -> None:
        """See vLLM; the core ends next. Python would first look for garbage among all that vLLM has imported, three
        seconds on a slow CPU, and a core that has not ended after five is killed.
        """
        super().shutdown()
        atexit.register(gc.freeze)

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


class RolloutScheduler(_Rollouts):
    """For engines that schedule a step when the one before has ended."""


class AsyncRolloutScheduler(_Rollouts, AsyncScheduler):
    """For engines that schedule the next step during the present one."""


def _watch(request: Any) -> Repetition | None:
    """Return what watches a request; it lives as long as the request."""
    if not hasattr(request, "k15_watch"):
        wanted = (request.sampling_params.extra_args or {}).get(REPETITION)
        request.k15_watch = None if wanted is None else Repetition(*wanted)
    return request.k15_watch
