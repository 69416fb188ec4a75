"""vLLM behind the ``Engine`` protocol: AsyncLLM, token ids in and out, no tokenizer.

On CPUs vLLM's front end stays in this process and its core runs in one child (``vllm_arguments.environment`` says why).
The child ends with this process, however that ends (``rollout.engines.guard``).
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from rollout.config import EngineConfig
from rollout.engine import (
    CopyGone,
    Delta,
    EngineDead,
    EngineError,
    EngineStats,
    Request,
    WeightsLost,
    WeightUpdate,
)
from rollout.engines.guard import Guard
from rollout.engines.mailbox import Mailbox
from rollout.engines.rest import Rest
from rollout.engines.vllm_arguments import SCORE_SEATS, engine_arguments, environment
from rollout.engines.vllm_flight import Flight, ending, scored
from rollout.engines.vllm_rooms import Rooms
from rollout.models.attention import PLAIN, AttentionConfig
from rollout.seeds import seed_of
from rollout.transfer.weights import GONE, LOST
from rollout.types import StopReason, WeightVersion

WEIGHTS, KV_CACHE = "weights", "kv_cache"
"""What vLLM calls the parts of an engine that sleep."""
SHUTDOWN_S = 5.0
"""Seconds that vLLM's core has for stopping; then it is killed."""


class VllmEngine:
    """One vLLM engine.

    Noise is a function of a request's seed and a token's position (``rollout.engines.noise``): other requests, the cut
    into stretches and restarts do not change it. The floating-point sums behind the logits depend on what else is in
    the batch, so single tokens may still differ between runs.
    """

    def __init__(
        self, model_path: str, config: EngineConfig, seed: int = 0, attention: AttentionConfig | None = None
    ) -> None:
        """``attention`` of ``None`` becomes, at the start, what the model was trained with."""
        self.model_path = model_path
        self.config = config
        self.attention = PLAIN if attention is None else attention
        self._model_says = attention is None
        self.seed = seed
        self._by_position = False
        self._rooms: Rooms
        self._llm: Any = None
        self._wire: Any = None
        self._guard: Guard | None = None
        self._version = 0
        self._weight_bytes = 0
        self._queue: deque[Flight] = deque()
        self._flights: dict[str, Flight] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._updating = asyncio.Lock()
        self._rest = Rest()
        self._whole = True
        self._updates = 0
        self._salt: str | None = None
        self._dead = ""

    @property
    def takes_in_flight(self) -> bool:
        """See ``Engine``."""
        return self.config.takes_in_flight

    async def start(self) -> None:
        """See ``Engine``. Blocks its event loop while the model loads: vLLM's sockets must be made on the loop."""
        os.environ.update(environment(self.config))
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.async_llm import AsyncLLM

        from rollout.engines.vllm_wire import Wire
        from rollout.models import moba

        self._mail = Mailbox()
        self._guard = Guard()
        try:
            if self._model_says:
                self.attention = moba.trained_with(self.model_path)
            arguments = AsyncEngineArgs(**engine_arguments(self.model_path, self.config, self.seed, self.attention))
            settings = arguments.create_engine_config(UsageContext.ENGINE_CONTEXT)
            kind = "Async" if settings.scheduler_config.async_scheduling else ""
            settings.scheduler_config.scheduler_cls = f"rollout.engines.vllm_scheduler.{kind}RolloutScheduler"
            self._llm = AsyncLLM.from_vllm_config(
                settings,
                disable_log_stats=arguments.disable_log_stats,
                enable_log_requests=arguments.enable_log_requests,
            )
            self._wire = Wire(self._llm)
            with _core("it started"):
                await self._llm.update_weight_version("0")
                self._by_position = all(await self._llm.collective_rpc("sample_by_position"))
                self._rooms = Rooms(settings.cache_config, self.config.max_concurrency)
                guesses = self.config.speculative
                if guesses is not None and guesses.method == "span":
                    await self._llm.collective_rpc("draft_spans", args=(guesses.longest, guesses.min_ngram))
                await self._enter(0)  # as the learner computes the weights that both are loaded with
        except (RuntimeError, ValueError, OSError, TypeError) as error:
            raise EngineDead(f"vLLM did not start on {self.model_path}: {error}") from error

    async def submit(self, requests: Sequence[Request]) -> None:
        """See ``Engine``."""
        self._check_alive()
        self._rest.awake()
        for request in requests:
            self._mail.open(request.key)
            if fault := self._fault(request):
                self._mail.end(request.key, self._version, error=fault)
            else:
                self._queue.append(Flight(request))
        self._seat()

    def _fault(self, request: Request) -> str:
        """Return in one line why this engine cannot take a request that vLLM would not refuse itself."""
        if request.evidence is None and request.constraint is None:
            return ""
        if request.evidence is not None and request.evidence.merging == "parallel":
            return "parallel windows are read by the transformers engine alone: set engine.kind to hf"
        if not self._by_position:
            return "on a GPU vLLM takes evidence and constraints with engine.windows alone: set it to true"
        if self.config.speculative is not None:
            return "evidence and constraints are drawn one token at a time: leave engine.speculative out"
        return request.fault(self.config.max_model_len) or self._rooms.fault(request)

    def _seat(self) -> None:
        """Hand requests to vLLM: all of them, or, beside which the probe must find seats, as many as may run. Of
        groups as many as have room: they hold theirs while they wait for their last rows.
        """
        most = self.config.max_concurrency if self.takes_in_flight else len(self._flights) + len(self._queue)
        while self._queue and len(self._flights) < most and self._rooms.take(self._queue[0].request):
            flight = self._queue.popleft()
            self._flights[flight.request.key] = flight
            self._tasks[flight.request.key] = asyncio.create_task(self._follow(flight))

    async def _follow(self, flight: Flight) -> None:
        """Move one request's output into the mailbox until it ends."""
        from vllm.v1.engine.exceptions import EngineDeadError

        key = flight.request.key
        try:
            stop, error = await self._draw(flight)
            while error == "aborted" and not flight.recalled:  # it starts anew: _part_from_older
                stop, error = await self._draw(flight)
            self._mail.end(key, self._version, stop, error)
        except EngineDeadError as failure:
            self._die(f"vLLM's core died: {failure}")
        except Exception as failure:  # noqa: BLE001 - the request fails alone, and its caller is told
            self._mail.end(key, self._version, error=f"{type(failure).__name__}: {failure}")
            if flight.ids:  # of a group other rows may still be there
                await self._llm.abort(flight.ids, internal=True)
        finally:
            self._flights.pop(key, None)
            self._tasks.pop(key, None)
            self._rooms.give_back(flight.request)
            self._seat()

    async def _draw(self, flight: Flight) -> tuple[StopReason | None, str]:
        """Take a request through vLLM; returns how it ended, as (stop reason, error)."""
        request = flight.request
        seed = seed_of(self.seed, request.key) if request.seed is None else request.seed
        await flight.begin(self._llm, seed, self._by_position, self._salt)
        if flight.recalled or flight.salt != self._salt:  # meanwhile
            await self._llm.abort(flight.ids, internal=True)
        finished = False
        while not finished:
            output = await flight.output(self._wire)
            finished = output.finished
            for piece in output.pieces:
                self._mail.put(request.key, piece.token_ids, piece.logprobs, piece.version, piece.pointers)
        flight.forget(self._wire)
        return ending(output.last)

    async def poll(self, wait_s: float) -> list[Delta]:
        """See ``Engine``."""
        deltas = await self._mail.take(wait_s)
        if not deltas:
            self._check_alive()
        return deltas

    async def abort(self, keys: Sequence[str]) -> None:
        """See ``Engine``; such requests end with the error ``aborted``.

        Between two steps, so that no token is lost that was drawn for them: vLLM's front end drops what comes in later.
        """
        self._check_alive()
        for flight in [flight for flight in self._queue if flight.request.key in keys]:
            self._queue.remove(flight)
            self._mail.end(flight.request.key, self._version, error="aborted")
        recalled = [self._flights[key] for key in keys if key in self._flights]
        for flight in recalled:
            flight.recalled = True
        if not recalled:
            return
        with _core("it stopped requests"):
            async with self._standing_still(clear_cache=False):
                await self._llm.abort([name for flight in recalled for name in flight.ids], internal=True)

    async def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """See ``Engine``. Sequences must leave room for one more token in the context. With requests in flight they
        have seats of their own, and come first.
        """
        self._check_alive()
        self._rest.awake()
        seats = asyncio.Semaphore(SCORE_SEATS if self.takes_in_flight else max(1, len(sequences)))
        with _core("it scored"):
            calls = (scored(self._llm, n, sequence, self._salt, seats) for n, sequence in enumerate(sequences))
            return list(await asyncio.gather(*calls))

    async def update_weights(self, update: WeightUpdate) -> None:
        """See ``Engine``; vLLM's own weight transfer, whatever the backend.

        With requests in flight the core stands still meanwhile, and after a failure until it has whole weights.
        """
        self._check_alive()
        if self._mail.in_flight and not self.takes_in_flight:
            raise ValueError(f"weights cannot change with {len(self._mail.in_flight)} requests in flight")
        try:
            with _core("it took new weights"):
                if self.takes_in_flight:
                    async with self._standing_still(clear_cache=self.config.in_flight == "recompute"):
                        await self._take(update)
                else:
                    async with self._updating:  # an update whose caller gave up waiting goes on
                        await self._take(update)
                        await self._llm.reset_prefix_cache()
        except EngineError:
            raise
        except Exception as failure:
            # What a worker raised arrives as a plain Exception with its text.
            for sign, kind in ((LOST, WeightsLost), (GONE, CopyGone)):
                _, found, reason = str(failure).partition(sign)
                if found:
                    raise kind(reason) from failure
            raise

    @asynccontextmanager
    async def _standing_still(self, clear_cache: bool) -> AsyncIterator[None]:
        """Keep the core between two steps, with all that it drew before handed over.

        ``clear_cache``: keys and values are dropped, those of running requests too, which are computed anew then.
        """
        async with self._updating:
            await self._llm.pause_generation(mode="keep", clear_cache=clear_cache)
            self._wire.flush()
            try:
                yield
            finally:
                if self._whole:
                    await self._llm.resume_generation()

    async def _take(self, update: WeightUpdate) -> None:
        from vllm.distributed.weight_transfer.base import WeightTransferInitRequest, WeightTransferUpdateRequest

        self._rest.awake(bare=True)
        init, info = _transfer_of(update)
        self._whole = False
        await self._llm.init_weight_transfer_engine(WeightTransferInitRequest(init_info=init))
        await self._llm.start_weight_update()
        await self._llm.update_weights(WeightTransferUpdateRequest(update_info=info))
        await self._llm.finish_weight_update(str(update.version))
        await self._enter(update.version)
        if self._rest.bare:
            await self._llm.wake_up([KV_CACHE])
            self._rest.bare = False
        self._whole = True
        self._version = update.version
        self._weight_bytes = update.payload["size"]
        if self.config.in_flight == "keep":
            await self._part_from_older()

    async def _part_from_older(self) -> None:
        """Let what begins from now on share no keys and values with what began before; a request of which no token is
        drawn yet begins from now on.
        """
        self._updates += 1
        self._salt = f"weights {self._updates}"
        waiting = [name for flight in self._flights.values() if not flight.drawn for name in flight.ids]
        await self._llm.abort(waiting, internal=True)

    async def _enter(self, version: WeightVersion) -> None:
        """Set the attention of weights ``version``."""
        if self.attention.moba is not None:
            on = self.attention.block(version) is not None
            await self._llm.collective_rpc("switch_moba", args=(on,))
        stage = self.attention.stage(version)
        if stage is not None:
            await self._llm.collective_rpc("set_rotary", args=(stage.model_dump(),))

    async def stats(self) -> EngineStats:
        """See ``Engine``."""
        self._check_alive()
        return self._mail.stats(self._version, self._weight_bytes)

    async def sleep(self, level: int) -> None:
        """See ``Engine``; vLLM's own sleep, which on a CPU frees nothing. The key-value cache is forgotten."""
        self._check_alive()
        async with self._updating:
            if not self._rest.level:
                self._rest.fall_asleep(level, self._mail.in_flight)
                with _core("it fell asleep"):
                    await self._llm.sleep(level)

    async def wake(self) -> None:
        """See ``Engine``. Where weights are still to come, the key-value cache has to wait for them: loading takes room
        of its own.
        """
        self._check_alive()
        async with self._updating:
            if self._rest.level:
                with _core("it woke up"):
                    await self._llm.wake_up([WEIGHTS] if self._rest.bare else None)
            self._rest.level = 0

    async def close(self) -> None:
        """See ``Engine``."""
        llm, self._llm = self._llm, None
        self._queue.clear()
        for task in list(self._tasks.values()):
            task.cancel()
        if llm is not None:
            if llm.output_handler is not None:
                llm.output_handler.cancel()  # else it reports the end of the core as an error
            await asyncio.to_thread(llm.shutdown, SHUTDOWN_S)
        if self._guard is not None:
            await asyncio.to_thread(self._guard.close)

    def _die(self, reason: str) -> None:
        self._dead = self._dead or reason
        self._mail.wake()

    def _check_alive(self) -> None:
        if self._llm is None:
            raise EngineDead("this vLLM engine is not started, or closed")
        if self._llm.errored:
            self._die("vLLM's core process is gone")
        if self._dead:
            raise EngineDead(self._dead)


def _transfer_of(update: WeightUpdate) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what vLLM's receiving end is initialised with and what it loads."""
    payload = update.payload
    direct = payload.get("direct", {})
    info = {name: payload[name] for name in ("path", "machine", "size", "tensors")}
    if "nccl" in direct:
        return {"meeting": direct["nccl"], "engine": payload["engine"], "roster": payload["roster"]}, info
    return {}, {**info, "handles": direct.get("ipc")}


@contextmanager
def _core(doing: str) -> Iterator[None]:
    """Name the death of vLLM's core."""
    from vllm.v1.engine.exceptions import EngineDeadError

    try:
        yield
    except EngineDeadError as failure:
        raise EngineDead(f"vLLM's core died while {doing}: {failure}") from failure
