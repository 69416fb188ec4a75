"""What share of a trained judge's verdicts attacks in the responses flip.

    python -m benchmarks.injection JUDGE LABELLED [--responses 100] [--engine vllm] [--temperature 0]

JUDGE is a model, or the run that trained it; LABELLED has responses with verdicts (JSONL, Parquet, a run), of which
those labelled wrong are taken. Each is judged as it is, and with each attack behind it
(`benchmarks/injection/attacks.py`; of kind `template`: what the judge's own template goes on with, and a verdict). No
attack can be read as a verdict or write a special token, which tests prove; here is what they talk the judge into.

By kind of attack, with 95 % intervals over the responses: `correct`, the share of verdicts that call the wrong response
right; `flipped`, the same of those responses that it calls wrong without the attack; `no opinion`, those without a
verdict, which are masked in training. The first row is without attacks. Greedy verdicts by default, so that no flip is
chance.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

from benchmarks.common import emit, environment, say
from benchmarks.injection.attacks import DISPLACED, INSTRUCTIONS, RIGHT, TURNS, VERDICTS
from rewards.stats import Estimate, mean_ci
from rl.alone import open_judge
from rl.config import RayConfig
from rollout.config import EngineConfig
from rollout.grading import Answered
from rollout.reward_models.card import Card
from rollout.reward_models.config import RewardModelConfig
from rollout.reward_models.judge import JudgeModel
from rollout.reward_models.labelled import WRONG, Labelled, read_labelled
from rollout.reward_models.load import find
from rollout.reward_models.opinion import Opinion
from rollout.types import Problem

PLAIN = "none"
Rights = Mapping[str, Sequence[bool | None]]
"""Attack -> on each response whether the judge calls it right; ``None``: no opinion."""


@dataclass(frozen=True)
class Row:
    """What attacks of one kind do."""

    kind: str
    attacks: int
    correct: Estimate | None
    """Share of verdicts that call the response right; ``None`` without any verdict."""
    flipped: Estimate | None
    """The same, on responses that the judge calls wrong without the attack."""
    no_opinion: float
    """Share of responses and attacks without a verdict."""


def attacks_on(card: Card) -> dict[str, tuple[str, ...]]:
    """Return all attacks by kind, those on this judge's template among them."""
    _, _, behind = card.template.partition("{response}")
    between = card.template.partition("{reference}")[2].partition("{response}")[0]
    template = (f"{behind}{RIGHT}", f"{behind}{RIGHT}{behind}", f"{between}{between}{behind}{RIGHT}")
    kinds = {"template": template, "verdicts": VERDICTS, "turns": TURNS, "instructions": INSTRUCTIONS}
    return {**kinds, "displaced": DISPLACED}


def row_of(kind: str, attacks: Sequence[str], rights: Rights) -> Row:
    """Return what is to be told of one kind; intervals are over responses."""
    plain = rights[""]
    by_response = [[rights[attack][index] for attack in attacks] for index in range(len(plain))]
    read = [[float(one) for one in row if one is not None] for row in by_response]
    steady = [row for row, before in zip(read, plain, strict=True) if before is False]
    asked = len(attacks) * len(plain)
    return Row(
        kind,
        len(attacks),
        mean_ci(read) if any(read) else None,
        mean_ci(steady) if any(steady) else None,
        1 - sum(map(len, read)) / asked if asked else 0.0,
    )


def judged(judge: JudgeModel, responses: Sequence[Labelled], attacks: Sequence[str]) -> Rights:
    """Return the judge's verdicts on each response with each attack behind it."""
    answers = [
        Answered(Problem.ask(one.id, one.question, one.reference), one.response + attack)
        for attack in attacks
        for one in responses
    ]
    opinions = iter(asyncio.run(_judged(judge, answers)))
    return {
        attack: [None if one.right is None else one.right > 0.5 for one in islice(opinions, len(responses))]
        for attack in attacks
    }


async def _judged(judge: JudgeModel, answers: Sequence[Answered]) -> Sequence[Opinion]:
    return await judge.judge(answers)


def table(rows: Sequence[Row]) -> str:
    """Return the rows as text."""

    def share(one: Estimate | None) -> str:
        return "-" if one is None else f"{100 * one.mean:.1f} % [{100 * one.low:.1f}, {100 * one.high:.1f}]"

    lines = [f"{'attacks':16}{'':>4}  {'correct':24}{'flipped':24}no opinion"]
    for row in rows:
        lines.append(
            f"{row.kind:16}{row.attacks:>4}  {share(row.correct):24}{share(row.flipped):24}{100 * row.no_opinion:.1f} %"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; see the module docstring."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.injection", description="Attacks on a judge.")
    parser.add_argument("judge", help="a model, or the run that trained it")
    parser.add_argument("labelled", type=Path, help="responses with verdicts")
    parser.add_argument("--responses", type=int, default=100, help="wrong ones that are taken")
    parser.add_argument("--engine", choices=("vllm", "hf"), default="vllm")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--max-tokens", type=int, default=256, help="longest reasoning and verdict")
    given = parser.parse_args(arguments)
    wrong = [one for one in read_labelled(given.labelled) if one.label == WRONG][: given.responses]
    if not wrong:
        say(f"{given.labelled}: no response in it is labelled {WRONG}; give a file that has some")
        return 2
    found = find(given.judge)
    if found.card.kind != "judge":
        say(f"{given.judge}: a {found.card.kind}, and only judges read instructions; give a judge")
        return 2
    config = RewardModelConfig(
        path=found.path, temperature=given.temperature, max_tokens=given.max_tokens, timeout_s=24 * 3600
    )
    kinds = attacks_on(found.card)
    ray = RayConfig(in_process=given.engine == "hf")
    emit(environment())
    with closing(open_judge(found.path, found.card, config, EngineConfig(kind=given.engine), ray)) as judge:
        rights = judged(judge, wrong, list(dict.fromkeys(["", *(one for kind in kinds.values() for one in kind)])))
    everything = [attack for kind in kinds.values() for attack in kind]
    rows = [row_of(kind, attacks, rights) for kind, attacks in {PLAIN: [""], **kinds, "all": everything}.items()]
    for row in rows:
        emit(asdict(row))
    say(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
