"""What new weights cost an engine that is at work, and what they leave of its tokens.

    python -m benchmarks.inflight [--smoke] [--model PATH] [--step 0.01] [--publishes 6]

One vLLM engine keeps 256 responses in flight and takes weights again and again, each of the three ways of
`engine.in_flight`:

- `abort`: the responses are taken back, the weights loaded, the responses asked for again behind what they have.
- `recompute`: vLLM stands still between two steps, loads, and computes keys and values anew.
- `keep`: the same, with keys and values kept.

Reported for each: seconds to a standstill (`stop_s`), of loading (`load_s`) and until requests run again (`go_s`);
tokens per second with the publishes counted in; and for 24 responses how far the engine's log-probs are from the
learner's under the version that each token names, before the weights first changed beneath a response (`whole`) and
after (`moved`). In `abort` and `recompute` both must be rounding; in `keep` the second is the price of the kept keys
and values.

Without `--model` the model has the quickstart's shape and random weights. Held equal: requests, seeds, the publishes
and the number of tokens between them, the moves of the weights (`--step` of each tensor's standard deviation), threads.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import emit, environment, ratio, say, spread
from benchmarks.untrained import untrained_model
from rollout.config import EngineConfig
from rollout.engine import Delta, Request, Sampling
from rollout.engines.vllm import VllmEngine
from rollout.tape import Tape
from rollout.types import Prompt

WAYS = ("abort", "recompute", "keep")
EXACT = 1e-4
"""Nats between engine and learner that are rounding in float32."""
PROMPT, BUDGET, CHECKED = 16, 240, 24
CONTEXT = 384


@dataclass
class Costs:
    """Seconds of each publish."""

    stop: list[float] = field(default_factory=list)
    load: list[float] = field(default_factory=list)
    go: list[float] = field(default_factory=list)


@dataclass
class Response:
    """A response on its way."""

    request: Request
    tape: Tape = field(default_factory=Tape)

    @property
    def rest(self) -> Request:
        """The request for what is left."""
        prompt = self.request.prompt.followed_by(*self.tape.token_ids())
        return replace(self.request, prompt=prompt, max_new_tokens=self.request.max_new_tokens - self.tape.drawn)


class Load:
    """Keeps ``at_once`` responses in flight on one engine."""

    def __init__(self, engine: VllmEngine, vocabulary: int, at_once: int) -> None:
        self.engine = engine
        self.at_once = at_once
        self.flying: dict[str, Response] = {}
        self.ended: list[Response] = []
        self.tokens = 0
        self._new = endless(vocabulary)

    async def fill(self) -> None:
        """Submit new requests for those that ended."""
        new = list(itertools.islice(self._new, self.at_once - len(self.flying)))
        self.flying |= {request.key: Response(request) for request in new}
        await self.engine.submit(new)

    def take(self, deltas: Sequence[Delta]) -> int:
        """Note progress; returns how many requests are done."""
        for delta in deltas:
            self.flying[delta.key].tape.add(delta.version, delta.token_ids, delta.logprobs)
            self.tokens += len(delta.token_ids)
            if delta.done and not delta.error:
                self.ended.append(self.flying.pop(delta.key))
        return sum(delta.done for delta in deltas)

    async def draw(self, tokens: int) -> None:
        """Go on until so many more have come."""
        until = self.tokens + tokens
        while self.tokens < until:
            await self.fill()
            self.take(await self.engine.poll(1.0))

    async def publish(self, update: Any, costs: Costs) -> None:
        """New weights, with requests in flight or with all of them taken back."""
        if self.engine.takes_in_flight:
            await self.engine.update_weights(update)
            return
        stopped = await timed(costs.stop, self._recall)
        await timed(costs.load, lambda: self.engine.update_weights(update))
        await timed(costs.go, lambda: self.engine.submit([self.flying[key].rest for key in stopped]))

    async def _recall(self) -> list[str]:
        keys, left = list(self.flying), len(self.flying)
        await self.engine.abort(keys)
        while left:
            left -= self.take(await self.engine.poll(1.0))
        return [key for key in keys if key in self.flying]


async def timed(into: list[float], work: Callable[[], Awaitable[Any]]) -> Any:
    """Await ``work`` and note its seconds."""
    began = time.perf_counter()
    try:
        return await work()
    finally:
        into.append(time.perf_counter() - began)


def endless(vocabulary: int) -> Iterator[Request]:
    """The same requests in the same order for every arm."""
    for n in itertools.count():
        draw = np.random.default_rng(n)
        prompt = Prompt(draw.integers(0, vocabulary, PROMPT))
        yield Request(f"r{n}", prompt, BUDGET, Sampling(), n)


def watch(engine: VllmEngine, costs: Costs) -> None:
    """Note how long vLLM takes to stand still, to load and to go on."""
    llm = engine._llm
    pause, take, resume = llm.pause_generation, engine._take, llm.resume_generation
    llm.pause_generation = lambda **how: timed(costs.stop, lambda: pause(**how))
    engine._take = lambda update: timed(costs.load, lambda: take(update))  # type: ignore[method-assign]
    llm.resume_generation = lambda: timed(costs.go, resume)


async def fly(
    path: str, way: str, models: Callable[[int], Any], shape: argparse.Namespace
) -> tuple[Load, Costs, float]:
    """Draw with a publish after every so many tokens; returns the responses, the costs and the seconds."""
    from rollout.transfer.weights import ShmSender

    config = EngineConfig(max_model_len=CONTEXT, max_concurrency=shape.at_once, kv_cache_gib=0.5, in_flight=way)
    engine, sender, costs = VllmEngine(path, config, 0), ShmSender(), Costs()
    await engine.start()
    try:
        load = Load(engine, models(0).config.vocab_size, shape.at_once)
        for version in (1, 2):  # fill both buffers and the engine's heap
            await engine.update_weights(sender.send(models(version), version))
        if engine.takes_in_flight:
            watch(engine, costs)
        began = time.perf_counter()
        for version in range(3, 3 + shape.publishes):
            await load.draw(shape.at_once * shape.tokens)
            await load.publish(sender.send(models(version), version), costs)
        await load.draw(shape.at_once * shape.tokens)
        return load, costs, time.perf_counter() - began
    finally:
        await engine.close()
        sender.close()


def gaps(responses: Sequence[Response], models: Callable[[int], Any]) -> dict[str, list[float]]:
    """|engine - learner| of each token under the version it names, by whether another drew an earlier one; nats."""
    import torch

    found: dict[str, list[float]] = {"whole": [], "moved": []}
    for response in responses:
        tokens = response.request.prompt.token_ids.tolist()
        for place, segment in enumerate(response.tape.segments()):
            tokens += segment.token_ids.tolist()
            with torch.no_grad():
                logits = models(segment.version)(torch.tensor([tokens])).logits[0, -len(segment) - 1 : -1].float()
            ours = logits.log_softmax(-1)[range(len(segment)), tokens[-len(segment) :]].numpy()
            found["moved" if place else "whole"] += np.abs(ours - segment.logprobs).tolist()
    return found


def moved(model: Any, step: float, version: int) -> Any:
    """Return the model with each tensor moved by ``step`` of its standard deviation, another way for each version."""
    import copy

    import torch

    other = copy.deepcopy(model)
    draw = torch.Generator().manual_seed(version)
    with torch.no_grad():
        for parameter in other.parameters():
            scale = parameter.std(correction=0).nan_to_num() if parameter.numel() > 1 else 0.0
            parameter.add_(step * scale * torch.randn(parameter.shape, generator=draw))
    return other


def measure(path: str, way: str, models: Callable[[int], Any], shape: argparse.Namespace) -> dict[str, Any]:
    """One arm, as a row."""
    load, costs, seconds = asyncio.run(fly(path, way, models, shape))
    changed = [response for response in load.ended if len(response.tape.segments()) > 1]
    found = gaps(changed[:: max(1, len(changed) // CHECKED)][:CHECKED], models)
    row: dict[str, Any] = {"benchmark": "inflight", "way": way, "in_flight": shape.at_once}
    row |= {f"{name}_s": spread(getattr(costs, name)) for name in ("stop", "load", "go")}
    row |= {"tokens": load.tokens, "seconds": round(seconds, 2), "tokens_per_s": round(load.tokens / seconds, 1)}
    for name, values in found.items():
        if not values:  # no such response has ended
            continue
        row[name] = {
            "tokens": len(values),
            "mean": float(f"{np.mean(values):.3g}"),
            "p99": float(f"{np.quantile(values, 0.99):.3g}"),
            "largest": float(f"{max(values):.3g}"),
        }
    return row


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure every way; returns the exit code."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m benchmarks.inflight", description=__doc__, formatter_class=raw)
    parser.add_argument("--smoke", action="store_true", help="8 responses and two publishes: does it run at all?")
    parser.add_argument("--model", help="directory of a Llama; without it: the quickstart's shape, random")
    parser.add_argument("--step", type=float, default=0.01, help="how far each publish moves the weights (0.01)")
    parser.add_argument("--publishes", type=int, default=6, help="publishes per arm (6)")
    parser.add_argument("--tokens", type=int, default=40, help="tokens per response between publishes (40)")
    shape = parser.parse_args(arguments)
    shape.at_once = 8 if shape.smoke else 256
    shape.publishes = 2 if shape.smoke else shape.publishes
    from transformers import AutoModelForCausalLM

    facts = environment()
    with tempfile.TemporaryDirectory() as folder:
        path = shape.model or str(untrained_model(Path(folder), 128, 0.08))
        first = AutoModelForCausalLM.from_pretrained(path, dtype="float32").eval()
        known = {version: moved(first, shape.step, version) for version in range(3 + shape.publishes)}
        rows = []
        for way in WAYS:
            say(f"{way}: {shape.publishes} publishes with {shape.at_once} responses in flight")
            rows.append(measure(path, way, known.__getitem__, shape))
            emit(rows[-1])
    emit(summary(rows, shape, facts))
    return 0


def summary(rows: Sequence[dict[str, Any]], shape: argparse.Namespace, facts: dict[str, Any]) -> dict[str, Any]:
    """Compare the ways; ``met``: where keys and values are computed anew every token is exact."""
    by_way = {row["way"]: row for row in rows}
    exact = [by_way[way][part]["largest"] for way in ("abort", "recompute") for part in ("whole", "moved")]
    publish = {row["way"]: sum(row[f"{name}_s"]["median"] for name in ("stop", "load", "go")) for row in rows}
    return {
        "benchmark": "inflight",
        "measure": "summary",
        "smoke": shape.smoke,
        "step": shape.step,
        "publish_s": {way: round(seconds, 4) for way, seconds in publish.items()},
        "faster_than_abort": {
            way: ratio(by_way[way]["tokens_per_s"], by_way["abort"]["tokens_per_s"]) for way in WAYS[1:]
        },
        "largest_gap": max(exact),
        "met": max(exact) < EXACT and by_way["keep"]["whole"]["largest"] < EXACT,
        "environment": facts,
    }


if __name__ == "__main__":
    sys.exit(main())
