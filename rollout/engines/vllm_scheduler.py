"""vLLM's scheduler, with three things of its own: it says when a response repeats itself (vLLM's check takes 6 % of the
time of a tiny model), it sends log-probs as ``rollout.engines.vllm_wire`` has them, and it keeps the rows of a group
together (``rollout.engines.vllm_groups``).
"""

from __future__ import annotations

import atexit
import gc
from collections import defaultdict
from dataclasses import replace
from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs, FinishReason
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus

from rollout.engines.vllm_groups import BROKEN, Row, row_of
from rollout.engines.vllm_wire import attach
from rollout.repetition import Repetition

REPETITION = "k15_repetition"
"""The entry of ``SamplingParams.extra_args`` that holds shortest and longest pattern and how many copies."""


class _Rollouts(Scheduler):
    """What both of vLLM's schedulers get."""

    running: list[Request]
    _torn: frozenset[str] = frozenset()
    """Groups of which a row was preempted since the last step."""

    def schedule(self, *args: Any, **kwargs: Any) -> SchedulerOutput:
        """See vLLM. A row that has read its prompt waits until all of its group have; such groups come first, so that
        no other's prompt takes the step's last tokens from some of their rows.
        """
        groups: defaultdict[str, list[Request]] = defaultdict(list)
        for request in self.running:
            row = _row(request)
            if row is not None and request.num_output_tokens + request.num_output_placeholders:
                groups[row.group].append(request)
        if groups:
            whole: list[Request] = []
            for rows in groups.values():
                row = _row(rows[0])
                complete = row is not None and len(rows) == row.size
                for request in rows:
                    request.next_decode_eligible_step = 0 if complete else self.current_step + 2
                whole += rows if complete else []
            first = {id(request) for request in whole}
            self.running = whole + [request for request in self.running if id(request) not in first]
        return super().schedule(*args, **kwargs)

    def _preempt_request(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """See vLLM. A group whose rows draw together cannot go on without one: it would come back at another step."""
        row = _row(request)
        if row is not None and request.num_output_tokens + request.num_output_placeholders:
            self._torn |= {row.group}
        super()._preempt_request(request, *args, **kwargs)

    def _give_up_torn(self) -> list[Request]:
        """Finish the rows of torn groups before any token is handed on that some of them drew without the others."""
        torn, self._torn = self._torn, frozenset()
        if not torn:
            return []
        rows = [each.request_id for each in self.requests.values() if (row := _row(each)) and row.group in torn]
        return self.finish_requests(rows, RequestStatus.FINISHED_ERROR)

    def update_from_output(
        self, scheduler_output: SchedulerOutput, model_runner_output: ModelRunnerOutput
    ) -> dict[int, EngineCoreOutputs]:
        """See vLLM: what each client hears of a step."""
        logprobs = model_runner_output.logprobs
        given_up = self._give_up_torn()
        messages = super().update_from_output(scheduler_output, replace(model_runner_output, logprobs=None))
        for request in given_up:
            message = messages.setdefault(request.client_index, EngineCoreOutputs())
            message.outputs.append(
                EngineCoreOutput(request.request_id, [], finish_reason=FinishReason.ERROR, stop_reason=BROKEN)
            )
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
        if watch is None or (_row(request) is not None and request.num_output_tokens == len(tokens)):
            return tokens, stopped  # of a row's first token is known beforehand that it is the prompt's last
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


def _row(request: Any) -> Row | None:
    """Return what a request is a row of."""
    if not hasattr(request, "k15_row"):
        request.k15_row = row_of(request.sampling_params and request.sampling_params.extra_args)
    row: Row | None = request.k15_row
    return row


def _watch(request: Any) -> Repetition | None:
    """Return what watches a request; it lives as long as the request."""
    if not hasattr(request, "k15_watch"):
        wanted = (request.sampling_params.extra_args or {}).get(REPETITION)
        request.k15_watch = None if wanted is None else Repetition(*wanted)
    return request.k15_watch
