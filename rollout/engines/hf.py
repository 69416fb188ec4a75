"""Hugging Face transformers behind the ``Engine`` protocol: plain, slow, reproducible. For tests and for platforms
without vLLM.

Requests are batched in the order in which they were submitted, and a batch runs to its end. The noise of a token is a
function of its request's seed and its position alone, so on one machine the same submissions give the same bits.
"""

from __future__ import annotations

import asyncio
import functools
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from rollout.config import EngineConfig
from rollout.engine import CopyGone, Delta, EngineDead, EngineStats, Request, WeightUpdate
from rollout.engines.mailbox import Mailbox
from rollout.engines.rest import Rest
from rollout.models.architecture import own_attention
from rollout.models.attention import PLAIN, AttentionConfig
from rollout.seeds import seed_of
from rollout.transfer.weights import ShmReader
from rollout.types import WeightVersion

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from rollout.engines.hf_windows import Windows
    from rollout.offload import Offload

STREAM_INTERVAL = 16
"""Decoding steps between two deliveries to the mailbox."""


class HfEngine:
    """Runs one transformers model on a thread of its own. Requests without a seed get one from the engine's."""

    takes_in_flight = False

    def __init__(
        self,
        model_path: str,
        config: EngineConfig,
        seed: int = 0,
        attention: AttentionConfig | None = None,
        interval: int = STREAM_INTERVAL,
    ) -> None:
        """``attention`` of ``None`` becomes, at the start, what the model was trained with; ``interval``: decoding
        steps between two deliveries.
        """
        self.model_path = model_path
        self.config = config
        self.attention = PLAIN if attention is None else attention
        self._model_says = attention is None
        self.seed = seed
        self._interval = interval
        self._model: PreTrainedModel | None = None
        self._windows: Windows
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="hf-engine")
        self._queue: deque[Request] = deque()
        self._aborted: set[str] = set()
        self._pump: asyncio.Task[None] | None = None
        self._reader = ShmReader()
        self._rest = Rest()
        self._offload: Offload | None = None
        self._version = 0
        self._weight_bytes = 0
        self._closed = False
        self._dead = ""

    async def start(self) -> None:
        """See ``Engine``."""
        from rollout.engines.hf_windows import Windows
        from rollout.models import moba

        self._loop = asyncio.get_running_loop()
        self._mail = Mailbox()
        try:
            if self._model_says:
                self.attention = await self._in_thread(moba.trained_with, self.model_path)
            self._model = await self._in_thread(load, self.model_path, self.config, self.attention)
            plain = self.attention.moba is None
            self._windows = Windows(self._model, self.config.kv_cache_gib * 2**30 if plain else 0.0)
        except (OSError, ValueError, RuntimeError) as error:
            raise EngineDead(f"transformers could not load {self.model_path}: {error}") from error

    async def _in_thread(self, function: Callable[..., Any], *args: Any) -> Any:
        return await self._loop.run_in_executor(self._thread, function, *args)

    async def submit(self, requests: Sequence[Request]) -> None:
        """See ``Engine``."""
        self._check_alive()
        self._rest.awake()
        for request in requests:
            self._mail.open(request.key)
            if fault := self._fault(request):
                self._mail.end(request.key, self._version, error=fault)
            else:
                self._queue.append(request)
        if self._pump is None or self._pump.done():
            self._pump = asyncio.create_task(self._serve())

    def _fault(self, request: Request) -> str:
        """Return in one line why this engine cannot take a request; empty: it can."""
        if self.config.speculative is not None and (request.evidence or request.constraint):
            return "evidence and constraints are drawn one token at a time: leave engine.speculative out"
        return request.fault(self.config.max_model_len) or self._windows.fault(request)

    async def _serve(self) -> None:
        """Run batches until the queue is empty."""
        from rollout.engines import hf_drafting, hf_sampling

        guesses = self.config.speculative
        draw: Callable[..., None] = functools.partial(hf_sampling.sample, windows=self._windows)
        if guesses is not None:
            draw = functools.partial(hf_drafting.sample, guesses=guesses)
        while self._queue:
            batch = self._batch()
            seeds = [
                seed_of(self.seed, request.key, len(request.prompt)) if request.seed is None else request.seed
                for request in batch
            ]
            try:
                await self._in_thread(
                    draw, self._model, self._version, batch, seeds, self._deliver, self._aborted, self._interval
                )
            except RuntimeError as error:  # torch's: out of memory, a broken kernel
                self._dead = f"transformers failed while sampling: {error}"
                self._mail.wake()
                return

    def _batch(self) -> list[Request]:
        """Take the next requests from the queue; of those with evidence as many as the key-value cache has room for."""
        batch: list[Request] = []
        room = self.config.kv_cache_gib * 2**30
        while self._queue and len(batch) < self.config.max_concurrency:
            if any(request.evidence for request in (*batch, self._queue[0])):
                room -= self._windows.room_of(self._queue[0])
                if batch and room < 0:
                    break
            batch.append(self._queue.popleft())
        return batch

    def _deliver(self, pieces: Sequence[Delta]) -> None:
        """Put progress into the mailbox; called from the sampling thread."""
        self._loop.call_soon_threadsafe(self._post, pieces)

    def _post(self, pieces: Sequence[Delta]) -> None:
        for piece in pieces:
            if len(piece.token_ids):
                self._mail.put(piece.key, piece.token_ids, piece.logprobs, piece.version, piece.pointers)
            if piece.done:
                self._mail.end(piece.key, piece.version, piece.stop, piece.error)
                self._aborted.discard(piece.key)  # the next request of that name is another

    async def poll(self, wait_s: float) -> list[Delta]:
        """See ``Engine``."""
        deltas = await self._mail.take(wait_s)
        if not deltas:
            self._check_alive()
        return deltas

    async def abort(self, keys: Sequence[str]) -> None:
        """See ``Engine``; such requests end with the error ``aborted``."""
        self._check_alive()
        for request in [request for request in self._queue if request.key in keys]:
            self._queue.remove(request)
            self._mail.end(request.key, self._version, error="aborted")
        self._aborted |= set(keys) & self._mail.in_flight

    async def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """See ``Engine``."""
        from rollout.engines.hf_sampling import score

        self._check_alive()
        self._rest.awake()
        return await self._in_thread(score, self._model, sequences)

    async def update_weights(self, update: WeightUpdate) -> None:
        """See ``Engine``; reads the learner's shared memory. Keys and values live within a batch, and windows' go."""
        self._check_alive()
        self._rest.awake(bare=True)
        if self._mail.in_flight:
            raise ValueError(f"weights cannot change with {len(self._mail.in_flight)} requests in flight")
        self._windows.clear()
        try:
            await self._in_thread(load_weights, self._model, self._reader, update.payload)
            await self._in_thread(use_attention, self._model, self.attention, update.version)
        except FileNotFoundError as error:
            raise CopyGone(f"weight update {update.version} failed: {error}") from error
        except (OSError, KeyError, RuntimeError) as error:
            raise EngineDead(f"weight update {update.version} failed: {error}") from error
        self._rest.bare = False
        self._version = update.version
        self._weight_bytes = update.payload["size"]

    async def stats(self) -> EngineStats:
        """See ``Engine``."""
        self._check_alive()
        return self._mail.stats(self._version, self._weight_bytes)

    async def sleep(self, level: int) -> None:
        """See ``Engine``; at either level the weights go to host memory and come back."""
        from rollout.offload import Offload

        self._check_alive()
        if self._rest.level:
            return
        self._rest.fall_asleep(level, self._mail.in_flight)
        model = self._model
        assert model is not None
        self._windows.clear()
        if self._offload is None:
            self._offload = Offload(self.config.device, lambda: (*model.parameters(), *model.buffers()))
        await self._in_thread(self._offload.away)

    async def wake(self) -> None:
        """See ``Engine``."""
        self._check_alive()
        if self._offload is not None:
            await self._in_thread(self._offload.back)
        self._rest.level = 0

    async def close(self) -> None:
        """See ``Engine``."""
        if self._closed:
            return
        self._closed = True
        self._queue.clear()
        if self._model is not None:
            self._aborted |= self._mail.in_flight
        if self._pump is not None:
            await self._pump
        self._thread.shutdown(wait=False)
        self._reader.close()
        self._model = None

    def _check_alive(self) -> None:
        if self._model is None or self._closed:
            raise EngineDead("this transformers engine is not started, or closed")
        if self._dead:
            raise EngineDead(self._dead)


def use_attention(model: PreTrainedModel, attention: AttentionConfig, version: WeightVersion) -> None:
    """Set the attention of weights ``version``."""
    from rollout.models import moba, rotary

    rotary.use(model, attention.stage(version))
    if attention.moba is not None:
        moba.use(model, attention.block(version), otherwise=own_attention(model.config.get_text_config()) or "sdpa")


def load(model_path: str, config: EngineConfig, attention: AttentionConfig = PLAIN) -> PreTrainedModel:
    """Return the model for inference, on the device and in the type that ``config`` names."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=getattr(torch, config.dtype))
    if own := own_attention(model.config.get_text_config()):
        model.set_attn_implementation(own)
    if config.speculative is not None:
        from rollout.engines.hf_drafting import check

        check(model, attention)
    use_attention(model, attention, version=0)
    return model.to(config.device).eval()


def load_weights(model: PreTrainedModel, reader: ShmReader, payload: dict[str, Any]) -> None:
    """Copy an update into the model. Raises ``KeyError`` naming a tensor that the model lacks or that did not come."""
    import torch

    targets: dict[str, torch.Tensor] = model.state_dict(keep_vars=True)  # parameters and persistent buffers
    missing = {name for name, _ in (*model.named_parameters(), *model.named_buffers()) if name in targets}
    with torch.no_grad():
        for name, tensor in reader.read(payload):
            if name not in targets:
                raise KeyError(f"the update has a tensor {name!r} that {type(model).__name__} does not have")
            targets[name].copy_(tensor)
            missing.discard(name)  # a tied head may come as well, and need not
    if missing:
        raise KeyError(f"the update lacks {len(missing)} tensors of {type(model).__name__}, e.g. {min(missing)!r}")
