"""Engines in Ray actors: the host, and the proxy that makes it an ``Engine`` again."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Sequence
from typing import Any

from rollout.config import EngineConfig
from rollout.engine import (
    CopyGone,
    Delta,
    Engine,
    EngineDead,
    EngineError,
    EngineStats,
    EngineTimeout,
    Request,
    WeightUpdate,
)
from rollout.models.attention import AttentionConfig
from rollout.transfer.mirror import mirrored

CALLS_AT_ONCE = 16
"""Calls that the actor accepts at one time: a poll waits inside it while others come in."""
CLOSE_S = 15.0
"""Seconds that an engine has for closing; then its actor is killed."""


def build_engine(model_path: str, config: EngineConfig, seed: int, attention: AttentionConfig | None = None) -> Engine:
    """Return the engine that ``config.kind`` names, not yet started.

    ``attention`` is the learner's; ``None``, where there is no learner: what the model was trained with.
    """
    if config.kind == "vllm":
        from rollout.engines.vllm import VllmEngine

        return VllmEngine(model_path, config, seed, attention)
    from rollout.engines.hf import HfEngine

    return HfEngine(model_path, config, seed, attention)


def environment(config: EngineConfig) -> dict[str, str]:
    """Return the environment variables of the actor, which are set before any import."""
    if config.kind == "vllm":
        from rollout.engines.vllm_arguments import environment as vllm_environment

        return vllm_environment(config)
    return {"OMP_NUM_THREADS": str(config.threads or len(os.sched_getaffinity(0)))}


class RolloutWorker:
    """Hosts one engine; its methods are the engine's."""

    def __init__(
        self, model_path: str, config: EngineConfig, seed: int, attention: AttentionConfig | None = None
    ) -> None:
        self._engine = build_engine(model_path, config, seed, attention)

    async def start(self) -> int:
        """Start the engine and return this process's id."""
        await self._engine.start()
        return os.getpid()

    async def submit(self, requests: Sequence[Request]) -> None:
        """See ``Engine``."""
        await self._engine.submit(requests)

    async def poll(self, wait_s: float) -> list[Delta]:
        """See ``Engine``."""
        return await self._engine.poll(wait_s)

    async def abort(self, keys: Sequence[str]) -> None:
        """See ``Engine``."""
        await self._engine.abort(keys)

    async def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """See ``Engine``."""
        return await self._engine.score(sequences)

    async def update_weights(self, update: WeightUpdate) -> None:
        """See ``Engine``; from Ray's object store where the learner is on another machine."""
        import ray
        from ray.exceptions import ObjectLostError

        here = mirrored(update, ray.get)
        try:
            taken = await asyncio.to_thread(here.__enter__)
        except ObjectLostError as error:
            raise CopyGone(f"weight update {update.version} failed: {_first_line(error)}") from error
        try:
            await self._engine.update_weights(taken)
        finally:
            here.__exit__(None, None, None)

    async def stats(self) -> EngineStats:
        """See ``Engine``."""
        return await self._engine.stats()

    async def sleep(self, level: int) -> None:
        """See ``Engine``."""
        await self._engine.sleep(level)

    async def wake(self) -> None:
        """See ``Engine``."""
        await self._engine.wake()

    async def close(self) -> None:
        """See ``Engine``."""
        await self._engine.close()


class RayEngine:
    """An engine in an actor of its own, as an ``Engine``. Every call has a limit and a named error.

    ``options`` are Ray actor options (resources, placement); environment and concurrency are added here. The actor is
    not detached: it ends with the driver, and vLLM's child process with the actor.
    """

    def __init__(
        self,
        model_path: str,
        config: EngineConfig,
        seed: int = 0,
        options: dict[str, Any] | None = None,
        attention: AttentionConfig | None = None,
    ) -> None:
        self.model_path = model_path
        self.config = config
        self.seed = seed
        self.options = options or {}
        self.attention = attention
        self.pid: int | None = None
        """Process id of the actor, once started."""
        self._actor: Any = None

    @property
    def takes_in_flight(self) -> bool:
        """See ``Engine``."""
        return self.config.takes_in_flight

    async def start(self) -> None:
        """See ``Engine``: creates the actor and loads the model in it."""
        import ray

        runtime_env = dict(self.options.get("runtime_env", {}))
        runtime_env["env_vars"] = {**environment(self.config), **runtime_env.get("env_vars", {})}
        options = {"max_concurrency": CALLS_AT_ONCE, **self.options, "runtime_env": runtime_env}
        worker = ray.remote(RolloutWorker).options(**options)
        self._actor = worker.remote(self.model_path, self.config, self.seed, self.attention)
        self.pid = await self._call("start", timeout_s=self.config.start_timeout_s)

    async def submit(self, requests: Sequence[Request]) -> None:
        """See ``Engine``."""
        await self._call("submit", list(requests))

    async def poll(self, wait_s: float) -> list[Delta]:
        """See ``Engine``."""
        return await self._call("poll", wait_s, timeout_s=wait_s + self.config.call_timeout_s)

    async def abort(self, keys: Sequence[str]) -> None:
        """See ``Engine``."""
        await self._call("abort", list(keys))

    async def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """See ``Engine``."""
        return await self._call("score", sequences)

    async def update_weights(self, update: WeightUpdate) -> None:
        """See ``Engine``."""
        await self._call("update_weights", update)

    async def stats(self) -> EngineStats:
        """See ``Engine``."""
        return await self._call("stats")

    async def sleep(self, level: int) -> None:
        """See ``Engine``."""
        await self._call("sleep", level)

    async def wake(self) -> None:
        """See ``Engine``."""
        await self._call("wake")

    async def close(self) -> None:
        """See ``Engine``: asks the engine to stop, then kills the actor."""
        if self._actor is None:
            return
        import ray

        if self.pid is not None:
            with contextlib.suppress(EngineError):  # dead already, or too slow: killed either way
                await self._call("close", timeout_s=CLOSE_S)
        actor, self._actor = self._actor, None
        if ray.is_initialized():
            ray.kill(actor)

    async def _call(self, method: str, *args: Any, timeout_s: float | None = None) -> Any:
        from ray.exceptions import RayActorError, RayError, RayTaskError

        if self._actor is None:
            raise EngineDead("this engine's actor is not started, or closed")
        limit = timeout_s or self.config.call_timeout_s
        try:
            answer: Awaitable[Any] = getattr(self._actor, method).remote(*args)
            return await asyncio.wait_for(_result(answer), limit)
        except TimeoutError as error:
            raise EngineTimeout(f"engine actor did not answer {method} within {limit:.0f} s") from error
        except RayActorError as error:
            raise EngineDead(f"engine actor died during {method}: {_first_line(error)}") from error
        except RayTaskError as error:
            if isinstance(error.cause, EngineError | ValueError):
                raise error.cause from error
            raise EngineDead(f"{method} failed in the engine actor: {_first_line(error.cause)}") from error
        except RayError as error:
            raise EngineDead(f"engine actor is unreachable for {method}: {_first_line(error)}") from error


async def _result(answer: Awaitable[Any]) -> Any:
    return await answer


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
