"""What the driver spends on token data: from an engine's progress to the packed batch, journal and Parquet included.

    python -m benchmarks.driver [--lengths 4096,16384,65536] [--tokens 16000000] [--large]

One process, the product's own pool, journal, store and `pack`, and an engine that hands out ready-made tokens: what is
left is the driver's work. A line per length of a response:

- `us_per_token`: wall time of everything over the response tokens; the parts stand beside it. `sample` is the pool with
  the journal, `store` the table and the Parquet file, `pack` the batch and its minibatches.
- `bytes_per_token`: memory that the finished rollouts hold.
- `peak_gib`: the most that this process had resident, libraries included.

Goals: 0.15 us and 12 bytes a token, the same within 20 % at every length; with `--large` 1,024 responses of 32,768
tokens in 10 s and 1.5 GiB. Not part of it: turning tokens into text, which is the tokenizer's work (`text` tells what
that costs with the tokenizer of the quickstart), and grading. `--chunk` is how many tokens of a request an engine hands
out at a time; vLLM gathers 64 (`rollout.engines.vllm.STREAM_INTERVAL`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.common import emit, environment, say
from recipes import quickstart
from rewards.score import Score
from rl.iteration import advantages_of
from rl.learner.batch import pack
from rl.objectives.build import build
from rl.objectives.config import MirrorDescentConfig
from rl.record.rollout_store import to_table, write_rollouts
from rl.rewarding import reward_group
from rl.state.journal import Journal
from rollout.config import EngineConfig, RolloutConfig
from rollout.engine import Delta, EngineStats, Request, WeightUpdate
from rollout.pool.pool import Pool
from rollout.types import Group, Problem, Prompt, Rollout, StopReason

LENGTHS = (4096, 16384, 65536)
LARGE = (1024, 32768)
"""Responses and tokens of each."""
K = 8
AT_ONCE = 256
"""Requests that an engine is at, the default of ``engine.max_concurrency``."""
PROMPT = 64
GOAL_US = 0.15
VOCABULARY = 32_000
SUPPLY = 2**23
"""Different tokens that the engine has to hand out."""


class ReadyMade:
    """An engine that draws nothing: every poll hands out the next ``chunk`` tokens of each request that it is at.

    As a real one it is at ``AT_ONCE`` requests at a time, in the order in which they came.
    """

    def __init__(self, length: int, chunk: int) -> None:
        rng = np.random.default_rng(0)
        self.length = length
        self.tokens = rng.integers(0, VOCABULARY, SUPPLY, dtype=np.int32)
        self.logprobs = -rng.exponential(0.3, SUPPLY).astype(np.float32)
        self.chunk = chunk
        self.open: dict[str, tuple[Request, int, int]] = {}
        self.queue: deque[tuple[Request, int]] = deque()

    async def start(self) -> None: ...

    async def submit(self, requests: Sequence[Request]) -> None:
        self.queue += [(request, n * 7919 * 64 % (SUPPLY - self.length)) for n, request in enumerate(requests)]

    async def poll(self, wait_s: float) -> list[Delta]:  # noqa: ARG002
        deltas = []
        while self.queue and len(self.open) < AT_ONCE:
            request, offset = self.queue.popleft()
            self.open[request.key] = (request, 0, offset)
        for key, (request, drawn, offset) in list(self.open.items()):
            count = min(self.chunk, request.max_new_tokens - drawn)
            part = slice(offset + drawn, offset + drawn + count)
            done = drawn + count == request.max_new_tokens
            stop = StopReason.EOS if done else None
            deltas.append(Delta(key, self.tokens[part], self.logprobs[part], 0, done, stop))
            if done:
                del self.open[key]
            else:
                self.open[key] = (request, drawn + count, offset)
        await asyncio.sleep(0)
        return deltas

    async def abort(self, keys: Sequence[str]) -> None: ...

    async def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        return [[0.0] * (len(sequence) - 1) for sequence in sequences]

    async def update_weights(self, update: WeightUpdate) -> None: ...

    async def stats(self) -> EngineStats:
        return EngineStats(0)

    async def close(self) -> None: ...


def new_groups(count: int) -> list[Group]:
    """Groups of ``K`` empty rollouts."""
    prompt = Prompt(np.arange(PROMPT))
    return [
        Group(f"{g}", Problem.ask(f"p{g}", "?", "1", "exact"), tuple(Rollout(f"{g}/{j}", prompt) for j in range(K)), 0)
        for g in range(count)
    ]


def held(groups: Sequence[Group]) -> int:
    """Bytes of the groups' token data, with what each array takes besides its elements."""
    arrays = [a for g in groups for r in g.rollouts for s in r.segments for a in (s.token_ids, s.logprobs)]
    return sum(array.nbytes + 112 + 64 for array in arrays)  # the array object, and the buffer's


def one(rollouts: int, length: int, chunk: int, folder: Path) -> dict[str, float]:
    """One iteration's token data through the driver."""
    engine = EngineConfig(max_model_len=PROMPT + length + 1)
    limits = RolloutConfig(segment_tokens=length, max_tokens=length + 1, repetition=None)
    groups = new_groups(rollouts // K)
    journal = Journal(folder / "journal")
    journal.open(0)
    with Pool(lambda _: ReadyMade(length, chunk), engine, limits, (2,)) as pool:
        pool.score([[0, 0]])  # the engine is up
        began, cpu_began = time.perf_counter(), time.process_time()
        grown = pool.extend(groups, 0, on_progress=journal.append)
        sampled = time.perf_counter()
    objective = build(MirrorDescentConfig(), length)
    scores = [[Score.right() if j % 2 else Score.wrong("no") for j in range(K)] for _ in grown]
    scored = [reward_group(group, row, 0.0, 0.0) for group, row in zip(grown, scores, strict=True)]
    values = [advantages_of(item, objective) for item in scored]
    graded = time.perf_counter()
    table = to_table(0, scored, {}, 0.0, lambda _before, _turn: "")
    path = write_rollouts(folder, 0, table)
    del table
    stored = time.perf_counter()
    batch = pack([item.group for item in scored], values, 0)
    parts = batch.minibatches(2, 0)
    packed = time.perf_counter()
    tokens = sum(rollout.length for item in scored for rollout in item.group.rollouts)
    assert sum(int(part.loss_mask.sum()) for part in parts) == tokens == rollouts * length
    seconds = {"sample": sampled - began, "store": stored - graded, "pack": packed - stored}
    cpu = time.process_time() - cpu_began
    return {
        "tokens": tokens,
        "seconds": sum(seconds.values()),
        **{f"{name}_us": 1e6 * spent / tokens for name, spent in seconds.items()},
        "us_per_token": 1e6 * sum(seconds.values()) / tokens,
        "cpu_us_per_token": 1e6 * cpu / tokens,
        "bytes_per_token": held([item.group for item in scored]) / tokens,
        "journal_bytes": (folder / "journal" / "000000.arrow").stat().st_size / tokens,
        "parquet_bytes": path.stat().st_size / tokens,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def text_us(tokens: int = 200_000) -> float:
    """What a tokenizer of the ``tokenizers`` library takes for a token of text, in microseconds."""
    from rollout.models.tokenizer import build_tokenizer
    from rollout.problems.build import build_generator

    tokenizer = build_tokenizer(build_generator(quickstart.config().problems.train).alphabet, 512)
    ids = np.random.default_rng(0).integers(5, len(tokenizer), tokens).tolist()
    began = time.perf_counter()
    tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return 1e6 * (time.perf_counter() - began) / tokens


def measure(rollouts: int, length: int, settings: argparse.Namespace) -> dict[str, float]:
    """The fastest of some rounds, each in a process of its own, so that each has its own peak of memory."""
    command = [sys.executable, "-m", "benchmarks.driver", "--chunk", str(settings.chunk)]
    rows = []
    for _ in range(settings.rounds):
        done = subprocess.run([*command, "--only", f"{rollouts}x{length}"], capture_output=True, text=True, check=True)
        rows.append(json.loads(done.stdout))
    return min(rows, key=lambda row: row["us_per_token"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", default=",".join(map(str, LENGTHS)), help="response tokens, several by commas")
    parser.add_argument("--tokens", type=int, default=16_777_216, help="response tokens of each measurement")
    parser.add_argument("--chunk", type=int, default=64, help="tokens of a request that the engine hands out at a time")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each length; the fastest counts")
    parser.add_argument("--large", action="store_true", help="also 1,024 responses of 32,768 tokens")
    parser.add_argument("--only", help="one measurement, RESPONSESxTOKENS, in this process")
    settings = parser.parse_args()
    if settings.only:
        rollouts, length = map(int, settings.only.split("x"))
        for number, (count, tokens) in enumerate([(K, 256), (rollouts, length)]):  # the first loads what is loaded late
            with tempfile.TemporaryDirectory() as folder:
                row = one(count, tokens, settings.chunk, Path(folder))
            if number:
                emit(row)
        return
    emit({"benchmark": "driver", **environment(), "chunk": settings.chunk, "text_us": round(text_us(), 3)})
    jobs = [(max(K, settings.tokens // length // K * K), length) for length in map(int, settings.lengths.split(","))]
    costs: list[float] = []
    for rollouts, length in [*jobs, *([LARGE] if settings.large else [])]:
        say(f"{rollouts} responses of {length} tokens")
        row = measure(rollouts, length, settings)
        emit({"responses": rollouts, "response_tokens": length, **{name: round(v, 4) for name, v in row.items()}})
        costs.append(row["us_per_token"])
    costs = costs[: len(jobs)]
    emit({"goal_us": GOAL_US, "met": max(costs) <= GOAL_US, "spread": round(max(costs) / min(costs), 2)})


if __name__ == "__main__":
    main()
