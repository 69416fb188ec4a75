"""The card of a judge, beside the weights of the run that trained it: it is asked in use as it was in training."""

from __future__ import annotations

from rewards.models.template import FIELDS
from rl.config import RunConfig
from rollout.problems.config import ClaimsSource, VerdictsSource
from rollout.reward_models.card import Card


def card_of(config: RunConfig) -> Card | None:
    """Return the card of the judge that a run trains; ``None`` for a run that trains none.

    Raises ``ValueError`` when the run asks it as no card can say.
    """
    source, problems = config.problems.train, config.problems
    if isinstance(source, ClaimsSource):
        from rollout.problems.claims import CARD

        card = CARD
    elif isinstance(source, VerdictsSource):
        from rollout.problems.verdicts import card_of as card_of_source

        card = card_of_source(source)
    else:
        return None
    if problems.shots:
        raise ValueError("problems.shots: a judge is asked without solved examples; put them into problems.system")
    if taken := [field for field in FIELDS if f"{{{field}}}" in problems.instruction]:
        raise ValueError(
            f"problems.instruction holds {{{taken[0]}}}, which would be filled in for a judge in use, and not in its "
            "training: leave it out, or put it into the template of problems.train"
        )
    instruction = f"\n\n{problems.instruction}" if problems.instruction else ""
    return Card.model_validate(
        {
            **card.model_dump(),
            "template": card.template + instruction,
            "system": problems.system,
            "arguments": problems.template,
            "max_tokens": config.engine.max_model_len - config.rollout.response_room,
        }
    )
