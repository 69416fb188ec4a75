"""vLLM behind the ``Engine`` protocol: AsyncLLM, token ids in and out, no tokenizer.

On CPUs vLLM's front end stays in this process and its core runs in one child (``environment`` says why). The child
ends with this process, however that ends (``rollout.engines.guard``).
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

from rollout.config import PAGE_TOKENS, EngineConfig
from rollout.engine import (
    CopyGone,
    Delta,
    EngineDead,
    EngineError,
    EngineStats,
    Request,
    Sampling,
    WeightsLost,
    WeightUpdate,
)
from rollout.engines.guard import Guard
from rollout.engines.mailbox import Mailbox
from rollout.engines.rest import Rest
from rollout.engines.vllm_flight import Flight, ending, scored
from rollout.models.attention import PLAIN, AttentionConfig, block_attention_fault
from rollout.seeds import seed_of
from rollout.transfer.weights import GONE, LOST, RECEIVER
from rollout.types import StopReason, WeightVersion

if TYPE_CHECKING:
    from vllm import SamplingParams

STREAM_INTERVAL = 64
"""Tokens of a request that vLLM gathers before it streams them (the first and the last come at once)."""
SCORE_SEATS = 4
"""Sequences scored at a time beside requests in flight."""
WEIGHTS, KV_CACHE = "weights", "kv_cache"
"""What vLLM calls the parts of an engine that sleep."""
SHUTDOWN_S = 5.0
"""Seconds that vLLM's core has for stopping; then it is killed."""


def environment(config: EngineConfig) -> dict[str, str]:
    """Return the environment variables of a process that hosts a ``VllmEngine``, set before vLLM is imported."""
    env = {"VLLM_NO_USAGE_STATS": "1", "VLLM_CONFIGURE_LOGGING": "1"}
    env["VLLM_LOGGING_LEVEL"] = os.environ.get("VLLM_LOGGING_LEVEL", "WARNING")
    if config.device == "cpu":
        threads = config.threads or len(os.sched_getaffinity(0))
        env |= {
            # Without this the CPU platform puts the model into a further process behind the core: a tiny model then
            # starts three times slower and decodes a third slower. The thread count is then ours to set.
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "OMP_NUM_THREADS": str(threads),
            # Threads that wait for each other must sleep, not spin: learner and engine share the cores.
            "OMP_WAIT_POLICY": "PASSIVE",
            # A handful of small functions would be compiled with g++ at the first step: 6 s (three times that on a slow
            # CPU), a compiler to have, and code kept for another CPU to trip over; a wide step is no faster for it.
            "TORCH_COMPILE_DISABLE": "1",
            # Each publish frees and allocates the whole model; keeping that memory in the heap spares the page faults,
            # a third of the time of a publish.
            "MALLOC_MMAP_MAX_": "0",
            "MALLOC_TRIM_THRESHOLD_": str(2**33),
        }
    else:
        env["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"  # CUDA IPC handles reach vLLM's own child process pickled
    return env


def engine_arguments(
    model_path: str, config: EngineConfig, seed: int, attention: AttentionConfig = PLAIN
) -> dict[str, Any]:
    """Return the keyword arguments of vLLM's ``AsyncEngineArgs``, where ``config.extra`` overrides all others.

    Block attention becomes an entry of the model's configuration, which is how it reaches each of vLLM's processes;
    where the engine cannot compute it, ``ValueError``.
    """
    arguments: dict[str, Any] = {
        "model": model_path,
        "skip_tokenizer_init": True,
        "generation_config": "vllm",
        "dtype": config.dtype,
        "seed": seed % 2**32,
        "max_model_len": config.max_model_len,
        "max_num_seqs": config.max_concurrency,
        "max_num_batched_tokens": max(config.max_batched_tokens, config.max_concurrency),
        "tensor_parallel_size": config.tensor_parallel,
        "logprobs_mode": "processed_logprobs",
        "enable_prefix_caching": True,
        "stream_interval": STREAM_INTERVAL,
        "disable_log_stats": True,
        "enable_log_requests": False,
        "weight_transfer_config": {"backend": RECEIVER},  # takes weights whichever way they come
        "worker_extension_cls": "rollout.engines.vllm_worker.WorkerExtension",
    }
    if config.takes_in_flight:
        # The probe that follows an update must not wait for a response to end.
        arguments |= {"max_num_seqs": config.max_concurrency + SCORE_SEATS, "scheduling_policy": "priority"}
    if config.device == "cpu":
        arguments |= {
            "enforce_eager": True,  # compiling takes 25 s for 5 % more tokens per second on a tiny model
            "block_size": PAGE_TOKENS,
            "kv_cache_memory_bytes": int(config.kv_cache_gib * 2**30),
        }
    else:
        if config.gpu_memory_utilization is not None:
            arguments["gpu_memory_utilization"] = config.gpu_memory_utilization
        if config.tensor_parallel > 1:
            # Inside a placement group vLLM would choose Ray, which wants bundles of one GPU; all of this engine's are
            # here, in one bundle.
            arguments["distributed_executor_backend"] = "mp"
    overrides: dict[str, Any] = {}
    if attention.moba is not None:
        if fault := block_attention_fault(config):
            raise ValueError(fault)
        overrides["moba"] = attention.moba.model_dump()
        if config.device == "cuda":
            arguments |= {"attention_backend": "CUSTOM", "block_size": PAGE_TOKENS}  # rollout.engines.moba_vllm_gpu
    if attention.rotary:
        overrides["max_position_embeddings"] = config.max_model_len  # beyond what the model was trained for
    if overrides:
        arguments["hf_overrides"] = overrides
    return arguments | config.extra


def sampling_params(sampling: Sampling, max_tokens: int, seed: int, by_position: bool) -> SamplingParams:
    """Return vLLM's parameters for one stretch: only the sampled token's log-prob, under the sampling distribution.

    ``by_position``: the seed is for ``PositionSampler``; vLLM would make a generator of its own from it.
    """
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    s = sampling
    own: dict[str, Any] = {}  # read by rollout.engines.vllm_sampling and vllm_scheduler
    if by_position:
        own["k15_seed"] = seed
    if s.repetition_max_pattern:
        own["k15_repetition"] = [s.repetition_min_pattern, s.repetition_max_pattern, s.repetition_count]
    return SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        seed=None if by_position else seed,
        extra_args=own,
        max_tokens=max_tokens,
        stop_token_ids=list(sampling.stop_token_ids),
        ignore_eos=True,  # only the request's own end tokens end it
        logprobs=0,
        flat_logprobs=True,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
        skip_clone=True,
    )


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
        self._llm: Any = None
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
            self._llm = AsyncLLM.from_vllm_config(settings, disable_log_stats=True)
            await self._llm.update_weight_version("0")
            self._by_position = all(await self._llm.collective_rpc("sample_by_position"))
            await self._enter(0)  # as the learner computes the weights that both are loaded with
        except (RuntimeError, ValueError, OSError, TypeError) as error:
            raise EngineDead(f"vLLM did not start on {self.model_path}: {error}") from error

    async def submit(self, requests: Sequence[Request]) -> None:
        """See ``Engine``."""
        self._check_alive()
        self._rest.awake()
        for request in requests:
            self._mail.open(request.key)
            self._queue.append(Flight(request))
        self._seat()

    def _seat(self) -> None:
        """Hand requests to vLLM: all of them, or, beside which the probe must find seats, as many as may run."""
        most = self.config.max_concurrency if self.takes_in_flight else len(self._flights) + len(self._queue)
        while self._queue and len(self._flights) < most:
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
            self._mail.end(key, self._version, error=str(failure) or type(failure).__name__)
        finally:
            self._flights.pop(key, None)
            self._tasks.pop(key, None)
            self._seat()

    async def _draw(self, flight: Flight) -> tuple[StopReason | None, str]:
        """Take a request through vLLM; returns how it ended, as (stop reason, error)."""
        request = flight.request
        seed = seed_of(self.seed, request.key) if request.seed is None else request.seed
        params = sampling_params(request.sampling, request.max_new_tokens, seed, self._by_position)
        await flight.begin(self._llm, params, self._salt)
        if flight.recalled or flight.salt != self._salt:  # meanwhile
            await self._llm.abort(flight.id, internal=True)
        finished = False
        while not finished:
            output, finished = await flight.output()
            for version, part in flight.pieces(output):
                self._mail.put(request.key, output.token_ids[part], output.logprobs.logprobs[part], version)
        return ending(output.finish_reason)

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
                await self._llm.abort([flight.id for flight in recalled if flight.id], internal=True)

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
        waiting = [flight.id for flight in self._flights.values() if flight.id and not flight.drawn]
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
