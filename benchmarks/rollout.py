"""How fast one vLLM engine draws on a CPU, against the engine as it was before.

    python -m benchmarks.rollout [--smoke] [--model PATH] [--rounds 7]

Engines stand side by side in one process, one core process each, and take turns, so that whatever else the machine does
meets them alike. 256 requests are in flight, of the quickstart's shape: prompts of 24 to 33 tokens shared by groups of
8, 40 to 240 tokens each, its watch for repetition. Without `--model` the model has the quickstart's architecture and
random weights; how long responses are is then given by their budgets, and both arms draw equally many tokens.

- `speed`: tokens per second (wall) and CPU seconds of core and front end per 1,000 tokens: one engine before, one now,
  and two of one thread and half the seats each, which two cores have room for.
- `speculative`: tokens per core step and tokens per second with guessed tokens (`engine.speculative`), on the model's
  own text and on text that repeats itself (temperature 0.2); the tokens must be the same as without.
- `prefix`: prompt tokens that were not computed, with vLLM's prefix cache and without: 32 groups of 8, then a second
  stretch of each.
- `order`: longest first against the order of the problems, where requests outnumber seats (simulated, with the step
  times of a CPU, linear in the width of the batch, and of a GPU, nearly constant; and on the engine).

Held equal: requests, seeds, budgets, threads. The last line has every goal's figure and whether it is met.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import os
import random
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil

from benchmarks.common import emit, environment, median, ratio, say, spread
from benchmarks.untrained import untrained_model
from benchmarks.vllm_before import BeforeEngine
from rollout.config import EngineConfig, SpeculativeConfig
from rollout.engine import Delta, Request, Sampling
from rollout.engines.vllm import VllmEngine
from rollout.ordering import expected
from rollout.types import Prompt

GOAL = 1.7
"""Times the tokens per second of before."""
SEATS, GROUP, CONTEXT = 256, 8, 384
WORDS = 100
SAMPLING = Sampling(repetition_min_pattern=8, repetition_max_pattern=64, repetition_count=4)
STEP_MS = {"cpu": (2.9, 0.075), "gpu": (8.0, 0.004)}
"""Milliseconds of a step: fixed, and for each response in it. The first as measured; the second for a simulation."""


@dataclass
class Round:
    """What one round of an arm took."""

    tokens: int
    wall_s: float
    core_s: float
    front_s: float
    drawn: dict[str, list[int]] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Tokens per second."""
        return self.tokens / self.wall_s

    @property
    def cpu_ms(self) -> float:
        """CPU milliseconds per token, of both processes."""
        return 1000 * (self.core_s + self.front_s) / self.tokens


class Arm:
    """Engines, among which groups are dealt in turn, and the processes that they started."""

    def __init__(self, *engines: VllmEngine) -> None:
        self.engines = engines
        self._cores: list[psutil.Process] = []

    async def start(self) -> Arm:
        """Start the engines, and warm them up."""
        before = set(psutil.Process().children(recursive=True))
        for engine in self.engines:
            await engine.start()
        self._cores = [child for child in psutil.Process().children(recursive=True) if child not in before]
        await self.draw(requests(-1, 8 * len(self.engines), 16))
        return self

    async def close(self) -> None:
        """End the engines."""
        for engine in self.engines:
            await engine.close()

    @property
    def wire(self) -> Any:
        """What counts steps and prompt tokens, of the only engine."""
        (engine,) = self.engines
        return engine._wire

    async def draw(self, work: Sequence[Request]) -> Round:
        """Take the requests to their end."""
        drawn: dict[str, list[int]] = {request.key: [] for request in work}
        start, front, core = time.monotonic(), time.process_time(), self._core_s()
        await asyncio.gather(*(self._take(n, work, drawn) for n in range(len(self.engines))))
        wall, front = time.monotonic() - start, time.process_time() - front
        return Round(sum(map(len, drawn.values())), wall, self._core_s() - core, front, drawn)

    async def _take(self, number: int, work: Sequence[Request], drawn: dict[str, list[int]]) -> None:
        engine, count = self.engines[number], len(self.engines)
        mine = [request for index, request in enumerate(work) if index // GROUP % count == number]
        left = len(mine)
        await engine.submit(mine)
        while left:
            for delta in await engine.poll(1.0):
                left -= _note(delta, drawn)

    def _core_s(self) -> float:
        total = 0.0
        for process in self._cores:
            try:
                times = process.cpu_times()
            except psutil.Error:
                continue
            total += times.user + times.system
        return total


def _note(delta: Delta, drawn: dict[str, list[int]]) -> bool:
    if delta.error:
        raise RuntimeError(f"request {delta.key} failed: {delta.error}")
    drawn[delta.key].extend(delta.token_ids.tolist())
    return delta.done


def requests(number: int, count: int = SEATS, most: int = 240, sampling: Sampling = SAMPLING) -> list[Request]:
    """Return round ``number``'s requests."""
    draw = random.Random(number)
    work = []
    for index in range(count):
        group = random.Random(f"{number} {index // GROUP}")
        prompt = Prompt([group.randrange(3, WORDS) for _ in range(group.randrange(24, 34))])
        budget = draw.randint(min(40, most), most)
        work.append(Request(f"{number}-{index}", prompt, budget, sampling, 1_000_003 * (number + 2) + index))
    return work


def engine_config(**changes: Any) -> EngineConfig:
    """Return the quickstart's engine with ``changes``."""
    return EngineConfig(**{"max_model_len": CONTEXT, "max_concurrency": SEATS, "kv_cache_gib": 0.5, **changes})


async def speed(arms: Mapping[str, Arm], rounds: int, most: int) -> dict[str, float]:
    """Print the arms' figures; returns how many times faster each is than the first, the median over rounds."""
    seen: dict[str, list[Round]] = {name: [] for name in arms}
    for number in range(rounds):
        for name in list(arms)[:: 1 if number % 2 else -1]:
            seen[name].append(await arms[name].draw(requests(number, most=most)))
    for name, found in seen.items():
        emit(
            {
                "part": "speed",
                "arm": name,
                "tokens_per_s": spread([one.rate for one in found], 0),
                "core_cpu_s_per_1000": spread([1000 * one.core_s / one.tokens for one in found]),
                "front_cpu_s_per_1000": spread([1000 * one.front_s / one.tokens for one in found]),
            }
        )
    before = seen.pop("before")
    times = {}
    for name, found in seen.items():
        faster = [b.rate / a.rate for a, b in zip(before, found, strict=True)]
        cheaper = [a.cpu_ms / b.cpu_ms for a, b in zip(before, found, strict=True)]
        emit({"part": "speed", "arm": name, "times_faster": spread(faster), "times_less_cpu": spread(cheaper)})
        times[name] = round(median(faster), 2)
    return times


async def speculative(plain: Arm, guessing: Arm, rounds: int, most: int) -> dict[str, Any]:
    """Print what guesses save; returns for each kind of text the ratio of tokens per second and of steps, and how many
    responses are the same.
    """
    found = {}
    for text, temperature in (("own", 1.0), ("repetitive", 0.2)):
        sampling = replace(Sampling(), temperature=temperature)  # nothing stops what repeats itself
        rates: list[list[float]] = [[], []]
        steps = [0, 0]
        same = total = 0
        for number in range(rounds):
            pair = []
            for place, arm in enumerate((plain, guessing)):
                wire = arm.wire
                before = wire.steps
                one = await arm.draw(requests(100 + number, most=most, sampling=sampling))
                steps[place] += wire.steps - before
                rates[place].append(one.rate)
                pair.append(one.drawn)
            same += sum(pair[0][key] == pair[1][key] for key in pair[0])
            total += len(pair[0])
        row = {
            "text": text,
            "times_faster": ratio(median(rates[1]), median(rates[0])),
            "times_fewer_steps": ratio(steps[0], steps[1]),
            "responses_equal": f"{same}/{total}",
        }
        emit({"part": "speculative", **row})
        found[text] = row
    return found


async def prefix(arms: Mapping[str, Arm], most: int) -> float:
    """Print prompt tokens computed with and without prefix caching; returns the share that the cache saved."""
    computed = {}
    for name, arm in arms.items():
        wire = arm.wire
        row: dict[str, Any] = {"part": "prefix", "arm": name}
        work = requests(500, most=min(96, most))
        cached = asked = 0
        for stretch in ("first", "second"):
            before = (wire.prompt_tokens, wire.cached_tokens)
            one = await arm.draw(work)
            tokens, hits = wire.prompt_tokens - before[0], wire.cached_tokens - before[1]
            row |= {f"{stretch}_prompt_tokens": tokens, f"{stretch}_computed": tokens - hits}
            asked, cached = asked + tokens, cached + hits
            work = [replace(r, prompt=r.prompt.followed_by(one.drawn[r.key])) for r in work]  # type: ignore[arg-type]
        computed[name] = asked - cached
        emit(row)
    return 1 - computed["cached"] / computed["uncached"]


def makespan(lengths: Sequence[int], seats: int, fixed_ms: float, each_ms: float) -> float:
    """Return the milliseconds until all responses are drawn, begun in the order given."""
    waiting, running = list(reversed(lengths)), []
    total = drawn = 0.0
    while waiting or running:
        while waiting and len(running) < seats:
            heapq.heappush(running, drawn + waiting.pop())
        until = running[0]
        total += (until - drawn) * (fixed_ms + each_ms * len(running))
        drawn = until
        while running and running[0] == drawn:
            heapq.heappop(running)
    return total


def lengths_and_guesses(seed: int, groups: int, cap: int) -> tuple[list[int], list[float]]:
    """Return log-normal lengths (between problems sigma 1, within one 0.6), and what earlier responses foretell."""
    draw = random.Random(seed)
    lengths, guesses = [], []
    for _ in range(groups):
        centre = draw.gauss(6.0, 1.0)

        def one(centre: float = centre) -> int:
            return min(cap, 1 + int(draw.lognormvariate(centre, 0.6)))

        earlier = [one() for _ in range(GROUP)]
        lengths += [one() for _ in range(GROUP)]
        guesses += [expected(0, earlier)] * GROUP
    return lengths, guesses


def order_simulated() -> float:
    """Print and return the gain of longest first with predicted lengths, GPU step times, four requests a seat."""
    gain = 0.0
    for device, (fixed, each) in STEP_MS.items():
        for waves in (1, 2, 4):
            predicted, known = [], []
            for seed in range(20):
                lengths, guesses = lengths_and_guesses(seed, waves * SEATS // GROUP, 8192)
                by_guess = [lengths[i] for i in sorted(range(len(lengths)), key=lambda i: -guesses[i])]
                plain = makespan(lengths, SEATS, fixed, each)
                predicted.append(plain / makespan(by_guess, SEATS, fixed, each))
                known.append(plain / makespan(sorted(lengths, reverse=True), SEATS, fixed, each))
            row = {"device": device, "requests_per_seat": waves, "predicted": spread(predicted), "known": spread(known)}
            emit({"part": "order", **row})
            if (device, waves) == ("gpu", 4):
                gain = median(predicted)
    return gain


async def order_real(arm: Arm, rounds: int, most: int) -> float:
    """Print and return the gain of longest first with known budgets, twice as many requests as seats."""
    gains = []
    for number in range(rounds):
        work = requests(700 + number, 2 * SEATS, most)
        longest = sorted(work, key=lambda request: request.max_new_tokens, reverse=True)
        plain, sorted_ = await arm.draw(work), await arm.draw(longest)
        gains.append(sorted_.rate / plain.rate)
    emit({"part": "order", "engine": "real", "known_budgets": spread(gains)})
    return median(gains)


async def run(model: str, rounds: int, most: int) -> dict[str, Any]:
    """Run all parts; returns the figures. The engines end together, since a guard ends all of this process's."""
    half = engine_config(threads=1, max_concurrency=SEATS // 2)
    guesses = SpeculativeConfig(tokens=4, min_ngram=3, max_ngram=8)
    arms = {
        "before": Arm(BeforeEngine(model, engine_config())),
        "now": Arm(VllmEngine(model, engine_config())),
        "two of one thread": Arm(*(VllmEngine(model, half, seed) for seed in range(2))),
        "guessing": Arm(VllmEngine(model, engine_config(speculative=guesses))),
        "uncached": Arm(VllmEngine(model, engine_config(extra={"enable_prefix_caching": False}))),
    }
    for name, arm in arms.items():
        say(f"engine: {name}")
        await arm.start()
    now = arms["now"]
    times = await speed({name: arms[name] for name in ("before", "now", "two of one thread")}, rounds, most)
    guessed = await speculative(now, arms["guessing"], max(1, rounds // 2), most)
    saved = await prefix({"cached": now, "uncached": arms["uncached"]}, most)
    real = await order_real(now, max(1, rounds // 2), most)
    for arm in arms.values():
        await arm.close()
    return {
        "times_faster": times,
        "speculative": {text: row["times_faster"] for text, row in guessed.items()},
        "speculative_equal": {text: row["responses_equal"] for text, row in guessed.items()},
        "prefix_saved": round(saved, 3),
        "longest_first_simulated": round(order_simulated(), 3),
        "longest_first_real": round(real, 3),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few tokens; the figures mean nothing")
    parser.add_argument("--model", default="", help="a model directory of a vocabulary of 100 or more")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each arm")
    options = parser.parse_args(arguments)
    environ = dict(os.environ)
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # vLLM's log goes to stdout
    emit({"environment": environment()})
    rounds, most = (1, 12) if options.smoke else (options.rounds, 240)
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or str(untrained_model(Path(folder), WORDS, 0.15))
        goals = asyncio.run(run(model, rounds, most))
    os.environ.clear()
    os.environ.update(environ)
    emit({"goals": goals, "met": max(goals["times_faster"].values()) >= GOAL})
    return 0


if __name__ == "__main__":
    sys.exit(main())
