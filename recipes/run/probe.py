"""The sequences on which engine and learner are compared before there are rollouts."""

from __future__ import annotations

from collections.abc import Sequence

from recipes.run.setup import Setup
from rl.config import RunConfig
from rl.learner.config import ScratchModel
from rollout.models import architecture
from rollout.models.pretrained import resolve_model


def first_probe(setup: Setup) -> list[list[int]]:
    """Return held-out prompts with their answers, and one that goes beyond the sliding windows that rollouts will
    exceed.
    """
    config, encode = setup.config, setup.tokenizer
    found = [
        [*setup.render(problem).token_ids.tolist(), *encode(problem.answer, add_special_tokens=False)["input_ids"]]
        for problem in setup.heldout[: config.rollout.parity_probes]
    ]
    long = beyond_windows(config)
    if long and found:
        found.append((found[0] * (1 + long // len(found[0])))[:long])
    return scorable(found, config.engine.max_model_len)


def scorable(sequences: Sequence[Sequence[int]], context: int) -> list[list[int]]:
    """Return ``sequences`` cut to what an engine can score: vLLM wants room for one more token in the context."""
    return [list(sequence[: context - 1]) for sequence in sequences]


def beyond_windows(config: RunConfig) -> int:
    """Return the length of a sequence that no sliding window of the policy spans; 0 where none is as short as the
    context.
    """
    base, context = config.model.base, config.engine.max_model_len
    if isinstance(base, ScratchModel):
        return 0
    from transformers import AutoConfig

    text = AutoConfig.from_pretrained(resolve_model(base.path)).get_text_config()
    narrow = [window for window in architecture.windows(text) if window < context]
    return min(context, narrow[-1] + 64) if narrow else 0
