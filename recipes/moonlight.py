"""Pretraining after Moonlight [2502.16982 §3], in small: a mixture of experts, Muon, three stages, on two CPU cores.

The text is what any machine has: the documentation that Python's standard library carries, its source code, and sums
with their solutions, which the last stage has most of. From its model supervised fine-tuning and RL go on by the same
command line (docs/pretraining.md).
"""

from __future__ import annotations

from rl.learner.config import ExpertsConfig, LearnerConfig, ModelConfig, OptimizerConfig, ScratchModel
from rl.pretraining_config import MoonlightSchedule, PretrainConfig
from rl.text.config import ProblemsText, PythonText

DESCRIPTION = "pretrains a small mixture of experts with Muon in Moonlight's three stages on a CPU, in some ten minutes"


def config() -> PretrainConfig:
    """Return a DeepSeek-V3 of 4 layers, 64 wide, over bytes, on 7.1 million of them.

    Muon's learning rate and the shares of the stages are the paper's, scaled to so few steps: 176,000 steps of
    millions of tokens take a peak of 4.2e-4.
    """
    return PretrainConfig(
        recipe="moonlight",
        model=ModelConfig(
            base=ScratchModel(
                layers=4,
                width=64,
                heads=2,
                kv_heads=2,
                mlp_width=192,
                context=384,
                tied=False,
                experts=ExpertsConfig(routed=8, active=2, shared=1, width=64, dense_layers=1, latent=32),
            ),
        ),
        text={
            "prose": PythonText(part="prose"),
            "code": PythonText(part="code"),
            "sums": ProblemsText(),
        },
        schedule=MoonlightSchedule(
            steps=600,
            batch=16,
            lr=6e-3,
            mixture={"prose": 0.5, "code": 0.3, "sums": 0.2},
            best={"prose": 0.2, "code": 0.1, "sums": 0.7},
        ),
        learner=LearnerConfig(optimizer=OptimizerConfig(kind="muon", weight_decay=0.1)),
    )
