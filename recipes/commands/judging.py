"""A reward model at work in a command: its options, and one for all that the command judges."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from recipes.commands.usage import UsageError

if TYPE_CHECKING:
    from rl.config import RayConfig
    from rollout.config import EngineConfig
    from rollout.grading import Grader, Grading
    from rollout.reward_models.config import RewardModelConfig

MODEL_HELP = """\
a reward model (docs/reward_models.md)
  --judge PATH is a classic head, a chain-of-thought judge or a verifier, or the run that trained it. The rule judges
  first; its verdict stands wherever there is one, unless --judge-when says otherwise. The model judges all the rest
  and, for comparison, all others (--judge-set audit=0: only the rest). --judge-set KEY=VALUE sets any key of
  reward.model, as in `k15 config`: samples=4, threshold=0.7, engine.kind=hf.
"""


def add_judge_options(one: argparse._ActionsContainer) -> None:
    """Add the options of a reward model."""
    one.add_argument("--judge", metavar="PATH", help="reward model that judges what the rule cannot")
    one.add_argument(
        "--judge-when",
        choices=["undecided", "not_right", "always"],
        help="whose verdict is the model's: what no rule decides (default), also what it calls wrong, or all",
    )
    one.add_argument("--judge-set", action="append", default=[], metavar="KEY=VALUE", help="a key of reward.model")


def judge_of(arguments: argparse.Namespace, more: Mapping[str, Any] | None = None) -> RewardModelConfig | None:
    """Return the reward model that a command line asks for, with ``more`` keys; ``None``: none. Raises
    ``UsageError``.
    """
    if arguments.judge is None:
        if arguments.judge_when or arguments.judge_set:
            raise UsageError("--judge-when and --judge-set are of a reward model: name it with --judge PATH")
        return None
    from rl.config_io import ConfigError, load
    from rollout.models.pretrained import ModelPathError
    from rollout.reward_models.card import CardError
    from rollout.reward_models.config import RewardModelConfig
    from rollout.reward_models.load import find

    pairs = [tuple(one.partition("=")[::2]) for one in arguments.judge_set]
    if odd := [one for one in arguments.judge_set if "=" not in one]:
        raise UsageError(f"--judge-set {odd[0]}: KEY=VALUE is wanted, e.g. samples=4")
    if arguments.judge_when:
        pairs.append(("when", arguments.judge_when))
    defaults = {"path": arguments.judge, "audit": 1.0, "alarm": None, **(more or {})}
    try:
        found = load(RewardModelConfig.model_validate(defaults), overrides=pairs)
        find(found.path)  # a wrong path is said before anything is drawn
    except ConfigError as error:
        raise UsageError(*(f"--judge-set {line}" for line in error.lines)) from error
    except (ModelPathError, CardError) as error:
        raise UsageError(f"--judge {error}") from error
    return found


class JudgeError(ValueError):
    """The reward model of a command cannot be used; one line."""


def check_judge(config: RewardModelConfig, engine: EngineConfig, ray: RayConfig) -> None:
    """Raises ``JudgeError`` for a reward model that ``Judges`` would refuse for what its small files say."""
    from rl.reward_models import Site, check_model

    try:
        check_model(config, Site(engine, ray))
    except ValueError as error:
        raise JudgeError(f"--judge {config.path}: {error}") from error


class Judges:
    """A reward model that all graders of a command share."""

    def __init__(self, config: RewardModelConfig, engine: EngineConfig, ray: RayConfig, stack: ExitStack) -> None:
        """Open it. ``engine``: what a judge's engines are like; ``stack`` closes all. Raises ``JudgeError``."""
        from transformers.utils.logging import disable_progress_bar

        from rl.launch import LaunchError
        from rl.reward_models import Site, open_model
        from rollout.engine import EngineError
        from rollout.grading import Grading, VerifierGrader
        from rollout.reward_models.grader import RuleThenModel

        disable_progress_bar()  # loading bars of transformers are for nobody here
        kind = (config.engine or engine).kind
        self.config = config
        site = Site(engine, ray.model_copy(update={"in_process": kind == "hf"}))
        try:
            self._model = open_model(config, site)
        except (ValueError, LaunchError, EngineError) as error:
            raise JudgeError(f"--judge {config.path}: {error}") from error
        self._host = stack.enter_context(Grading(RuleThenModel(VerifierGrader(), self._model, config)))

    def grading(self, rule: Grader) -> Grading:
        """Return ``rule`` with the model behind it, at work; what it holds is closed by others."""
        from rollout.reward_models.grader import RuleThenModel

        return self._host.beside(RuleThenModel(rule, self._model, self.config))

    def settings(self) -> dict[str, object]:
        """Return what a record must not mix: the model's files, and how it is asked."""
        from rollout.evidence.files import texts_digest
        from rollout.reward_models.load import digest, find

        asked = ("when", "audit", "reward", "threshold", "samples", "vote", "temperature", "max_tokens", "seed")
        evidence = self.config.evidence
        read = {"evidence": [texts_digest(evidence.files), evidence.model_dump(mode="json")]} if evidence else {}
        return {
            **read,
            "path": self.config.path,
            "files": digest(find(self.config.path))[:16],
            **self.config.model_dump(mode="json", include=set(asked)),
        }


def own_site(address: str | None = None) -> tuple[EngineConfig, RayConfig]:
    """Return engine and Ray (at ``address``) of a judge where the command has none: vLLM, on a GPU if there is one."""
    import torch

    from rl.config import DEVICE, RayConfig
    from rollout.config import EngineConfig

    device = "cuda" if torch.cuda.is_available() else "cpu"
    engine = EngineConfig.model_validate({"device": device, "dtype": DEVICE.values[device]["engine.dtype"]})
    return engine, RayConfig(address=address)
