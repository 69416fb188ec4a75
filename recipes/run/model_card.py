"""README.md of an exported model: its kind, its origin, its results."""

from __future__ import annotations

import json

from recipes.commands.choose import short_name
from rl.config import RunConfig
from rl.record.log import Evaluation
from rl.state.run_dir import RunDir

CARD = """\
---
library_name: transformers
pipeline_tag: text-generation
tags: [k15, reinforcement-learning]
---
# {recipe} by k15

Post-trained with k15 (recipe `{recipe}`, seed {seed}, {iterations} RL iterations, git {revision}).

| held out | accuracy | 95 % interval | mean tokens |
|---|---|---|---|
{before}
{after}

{n} problems, {samples} responses each at temperature {temperature}. Loads with transformers and vLLM.
"""


def row(name: str, evaluation: Evaluation) -> str:
    """Return a line of the card's table."""
    accuracy = evaluation.accuracy
    interval = f"[{accuracy.low:.3f}, {accuracy.high:.3f}]"
    return f"| {name} | {accuracy.mean:.3f} | {interval} | {evaluation.tokens.mean:.1f} |"


def card(directory: RunDir, config: RunConfig, before: Evaluation, after: Evaluation) -> str:
    """Return the text of ``model/README.md``."""
    return CARD.format(
        recipe=short_name(config.recipe),
        seed=config.seed,
        iterations=config.iterations,
        revision=json.loads(directory.info.read_text())["git_revision"] or "unknown",
        before=row("before RL", before),
        after=row("after RL", after),
        n=after.accuracy.n,
        samples=after.samples,
        temperature=config.eval.temperature,
    )
