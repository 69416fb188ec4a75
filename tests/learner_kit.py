"""A tiny policy and made-up training data for the learner's tests."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from rewards.score import Score
from rl.config import RunConfig
from rl.learner.batch import Batch, pack
from rl.learner.config import ScratchModel
from rl.learner.policy import create_model
from rl.learner.spec import LearnerSpec
from rollout.models.tokenizer import build_tokenizer
from rollout.types import Group, Problem, Prompt, Rollout, Segment, StopReason

torch.set_num_threads(1)  # tiny tensors: a second thread only waits, for long on a busy machine
VOCABULARY = 25
TINY = ScratchModel(layers=2, width=32, heads=4, kv_heads=2, mlp_width=48, context=256)


def run_config(**learner: object) -> RunConfig:
    """A run on the tiny model; ``learner`` overrides keys of its section."""
    return RunConfig.model_validate(
        {
            "model": {"base": TINY, "threads": 1},
            "engine": {"max_model_len": 256},
            "rollout": {"max_tokens": 128, "segment_tokens": 64, "groups": 6, "k": 4},
            "learner": {"updates": 2, "micro_batch_tokens": 200, **learner},
        }
    )


def learner_spec(**learner: object) -> LearnerSpec:
    """The learner of ``run_config``."""
    return LearnerSpec.of(run_config(**learner))


def save_tiny_model(folder: Path, seed: int = 0) -> Path:
    tokenizer = build_tokenizer([chr(97 + i) for i in range(VOCABULARY - 5)], 256)
    create_model(TINY, tokenizer, seed).save_pretrained(folder)
    return folder


def tiny_llama(seed: int = 0, **changes: object) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, num_key_value_heads=2, **sizes | changes))


def make_groups(groups: int = 6, k: int = 4, seed: int = 0, version: int = 3) -> list[Group]:
    """Finished groups; responses of 6 to 40 tokens, the first half drawn under the version before."""
    rng = random.Random(seed)
    made = []
    for g in range(groups):
        prompt = tuple(rng.randrange(5, VOCABULARY) for _ in range(rng.randint(3, 12)))
        rollouts = []
        for j in range(k):
            tokens = [rng.randrange(5, VOCABULARY) for _ in range(rng.randint(6, 40))]
            cut = len(tokens) // 2
            segments = (
                Segment(version - 1, tuple(tokens[:cut]), (-3.0,) * cut),
                Segment(version, tuple(tokens[cut:]), (-3.0,) * (len(tokens) - cut)),
            )
            score = Score.right() if j % 2 else Score.wrong("no")
            rollouts.append(Rollout(f"{g}/{j}", Prompt(prompt), segments, StopReason.EOS, score))
        made.append(Group(str(g), Problem.ask(f"p{g}", "q", "a", "v"), tuple(rollouts), version - 1))
    return made


def make_batch(loss_on: str = "current", groups: int = 6, seed: int = 0) -> Batch:
    made = make_groups(groups, seed=seed)
    advantages = [[-0.6, 0.5, -0.4, 0.5] for _ in made]
    return pack(made, advantages, version=3, loss_on=loss_on)


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}
