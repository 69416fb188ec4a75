"""How busy a judge's engine is while a policy samples, and what grading beside sampling saves.

    python -m benchmarks.judging [--rounds 3] [--responses 512] [--judge PATH] [--policy PATH]

A policy's vLLM engine draws groups of eight responses; another engine is the judge's, as in a run: each group is handed
to the grader as soon as it has finished, and the judge's verdicts go through one stream that stays open. Two arms, in
turn, on the same requests and seeds:

- `turn`: all responses are sampled, and then all are graded: the judge's engine has everything at once, which is as
  fast as it can be, and each engine waits for the other.
- `beside`: graded while others are still sampled.

Per round: wall seconds; the judge's tokens a second while it had work handed in; its `busy` share, of the time from the
first response handed in to the last verdict; the seconds in which the policy's engine was at work, and both were, and
the `overlap`, the share that the second is of the first. Without `--judge` and `--policy` both are models of random
weights, whose verdicts cannot be read, so that each is asked for twice. Each engine has half of the cores. The last
line says by how much `beside` was faster, and whether it kept the judge's engine at least 80 % busy and overlapped at
least half of the sampling.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.common import emit, environment, median, say
from rewards.score import Score
from rl.alone import open_judge, open_pool
from rl.config import RayConfig
from rl.record.timeline import Piece, between, pieces, read_timeline
from rollout.config import EngineConfig
from rollout.engine import Request, Sampling
from rollout.grading import Answered, Grading, VerifierGrader
from rollout.models.prompts import Transcript, render_chat
from rollout.pool.board import Completion
from rollout.pool.pool import Pool
from rollout.reward_models.asking import judge_card
from rollout.reward_models.card import Card
from rollout.reward_models.config import RewardModelConfig
from rollout.reward_models.grader import RuleThenModel
from rollout.reward_models.judge import JudgeFiles, JudgeModel
from rollout.reward_models.load import find
from rollout.seeds import seed_of
from rollout.timeline import ENGINE, FILE, GRADER, JUDGE, add, engine_lane, recording
from rollout.types import Problem, StopReason

GOAL = 0.8
"""Share of the time in which the judge's engine has to be at work."""
GOAL_OVERLAP = 0.5
"""Share of the sampling beside which it has to be: before the first group has finished it cannot."""
GROUP, SEATS, CONTEXT = 8, 64, 2048
LONGEST = 240
"""Tokens of a response at most."""
VERDICT = 160
"""Tokens of a verdict at most."""
TEMPLATE = "{question}\nReference: {reference}\n{response}\nVerdict: "
"""Short: tokens are characters here."""
ARMS = ("turn", "beside")
WHOLE = "all of it"
"""From the first response handed in to the last verdict, in the timeline."""


@dataclass(frozen=True)
class Round:
    """What one round of an arm took."""

    arm: str
    wall_s: float
    graded_s: float
    """From the first response handed in to the last verdict."""
    busy: float
    """Share of that time in which the judge's engine was at work, in [0, 1]."""
    sampled_s: float
    """In which the policy's engine was at work."""
    together_s: float
    """In which both engines were."""
    responses: int
    judge_tokens: float
    opinions: int
    """Responses on which the judge had one."""

    @property
    def overlap(self) -> float:
        """Share of the sampling beside which the judge's engine was at work, in [0, 1]."""
        return self.together_s / self.sampled_s

    @property
    def rate(self) -> float:
        """The judge's tokens a second."""
        return self.judge_tokens / self.graded_s


def untrained(folder: Path, seed: int) -> str:
    """Save a model of the quickstart's shape, with random weights and a tokenizer of characters, and return where."""
    from recipes import quickstart
    from rl.learner.config import ScratchModel
    from rl.learner.policy import create_model
    from rollout.models.export import save_model, save_tokenizer
    from rollout.models.tokenizer import build_tokenizer

    base = quickstart.config().model.base
    assert isinstance(base, ScratchModel)
    tokenizer = build_tokenizer([*map(chr, range(32, 127)), "\n"], CONTEXT)
    folder.mkdir()
    save_tokenizer(tokenizer, folder)
    save_model(create_model(base.model_copy(update={"context": CONTEXT}), tokenizer, seed), folder)
    return str(folder)


@dataclass
class Setting:
    """Engines that are up, and the work: the same in each round."""

    pool: Pool
    judge: JudgeModel
    transcript: Transcript
    problems: Sequence[Problem]
    requests: Sequence[Sequence[Request]]
    """[groups][GROUP]"""
    grading: Grading

    @classmethod
    def open(cls, policy: str, judge: str, card: Card, responses: int, stack: ExitStack) -> Setting:
        """Start both engines on one local cluster; ``stack`` closes all."""
        threads = max(1, len(os.sched_getaffinity(0)) // 2)
        engine = EngineConfig(max_model_len=CONTEXT, max_concurrency=SEATS, kv_cache_gib=0.5, threads=threads)
        files = JudgeFiles.read(policy, card)
        pool = open_pool(policy, engine, RayConfig(), files.end, 0, 1, stack, ENGINE)
        pool.wait()
        asked = RewardModelConfig(path=judge, when="always", max_tokens=VERDICT, timeout_s=3600)
        model = open_judge(judge, card, asked, engine, RayConfig())
        grading = stack.enter_context(Grading(RuleThenModel(VerifierGrader(_no_rule), model, asked)))
        problems = [Problem.ask(f"p{index}", f"What is {index}?", str(index)) for index in range(responses // GROUP)]
        sampling = Sampling(stop_token_ids=files.end)
        requests = []
        for problem in problems:
            prompt = render_chat(files.tokenizer, [{"role": "user", "content": problem.prompt}])
            keys = [f"{problem.id}/{number}" for number in range(GROUP)]
            requests.append([Request(key, prompt, LONGEST, sampling, seed_of(key)) for key in keys])
        return cls(pool, model, Transcript(files.tokenizer, files.end), problems, requests, grading)


def _no_rule(_: Problem, __: str) -> Score:
    return Score.ungradable("no rule")


def sampled(setting: Setting, beside: bool) -> tuple[list[Future[list[Score]]], float]:
    """Sample all responses; return what is being graded, and when its first was handed in."""
    texts: list[list[Answered]] = [[] for _ in setting.problems]
    place = {request.key: index for index, group in enumerate(setting.requests) for request in group}
    handed: list[Future[list[Score]]] = []
    first = 0.0

    def hand_in(group: Sequence[Answered]) -> None:
        nonlocal first
        first = first or time.monotonic()
        handed.append(setting.grading.submit(lambda: group))

    def rested(done: Completion) -> None:
        index = place[done.key]
        text = setting.transcript.decode(done.token_ids)
        texts[index].append(Answered(setting.problems[index], text, StopReason.EOS))  # judged, however it ended
        if beside and len(texts[index]) == GROUP:
            hand_in(texts[index])

    setting.pool.generate([request for group in setting.requests for request in group], on_rest=rested)
    if not beside:
        for group in texts:
            hand_in(group)
    return handed, first


def at_work(lane: Sequence[Piece], start: float, end: float) -> float:
    """Return the seconds at work between two times."""
    return sum(piece.within(start, end) for piece in between(lane, start, end))


def measured(setting: Setting, arm: str, folder: Path) -> Round:
    """Return one round."""
    before = setting.judge.counts()
    folder.mkdir()
    with recording(folder / FILE, say):
        began = time.monotonic()
        handed, first = sampled(setting, arm == "beside")
        scores = [score for future in handed for score in future.result()]
        end = time.monotonic()
        add(GRADER, WHOLE, first, end)
    after = setting.judge.counts()
    (process,) = read_timeline(folder)
    policy, judge = (pieces(process, engine_lane(0, name)) for name in (ENGINE, JUDGE))
    (window,) = (span for span in process.spans if span.what == WHOLE)
    return Round(
        arm,
        end - began,
        end - first,
        at_work(judge, window.start, window.end) / (window.end - window.start),
        sum(piece.within(piece.start, piece.end) for piece in policy),
        sum(at_work(judge, piece.start, piece.end) * piece.share for piece in policy),
        len(scores),
        after["tokens"] - before["tokens"],
        sum(score.gradable for score in scores),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; see the module docstring."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.judging", description="Grading beside sampling.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--responses", type=int, default=512)
    parser.add_argument("--policy", help="a model; default: one with random weights")
    parser.add_argument("--judge", help="a judge; default: one with random weights")
    given = parser.parse_args(arguments)
    emit(environment())
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        folder = Path(temporary)
        policy = given.policy or untrained(folder / "policy", 0)
        found = find(given.judge) if given.judge else None
        card = found.card if found else judge_card(TEMPLATE, max_tokens=CONTEXT - VERDICT)
        judge = found.path if found else untrained(folder / "judge", 1)
        say("starting the engines of policy and judge")
        setting = Setting.open(policy, judge, card, given.responses, stack)
        measured(setting, "turn", folder / "warm")  # compiles, and fills caches
        rounds = []
        for number in range(given.rounds):
            for arm in ARMS if number % 2 else ARMS[::-1]:
                rounds.append(done := measured(setting, arm, folder / f"{arm}{number}"))
                emit({**asdict(done), "overlap": done.overlap, "judge_tokens_per_s": done.rate})
    turn, beside = ([one for one in rounds if one.arm == arm] for arm in ARMS)
    faster = median([a.wall_s / b.wall_s for a, b in zip(turn, beside, strict=True)])
    busy, overlap = median([one.busy for one in beside]), median([one.overlap for one in beside])
    summary = {
        "busy": busy,
        "times_faster": faster,
        "overlap": overlap,
        "judge_tokens_per_s": {
            name: median([one.rate for one in of]) for name, of in zip(ARMS, (turn, beside), strict=True)
        },
        "met": busy >= GOAL and overlap >= GOAL_OVERLAP,
    }
    emit(summary)
    return 0 if summary["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
