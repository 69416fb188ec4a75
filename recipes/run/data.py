"""What a run trains on: the sampler of its problems and the demonstrations of its warm-up."""

from __future__ import annotations

from dataclasses import dataclass

from recipes.run.demonstrations import demonstrations
from recipes.run.setup import Setup
from rl.config import RunConfig
from rl.sampling import Sampler, build_sampler
from rl.state.run_dir import RunDir
from rl.warmup import Pair


@dataclass(frozen=True)
class Data:
    """The data of a run. It is complete before the run directory is: what is wrong with the data costs nothing,
    and a mended configuration is none that changed.
    """

    sampler: Sampler
    demonstrations: list[list[Pair] | None]
    """Demonstrations of each stage of the warm-up, ``None`` where the model makes them; empty without a warm-up."""
    notes: tuple[str, ...]
    """One line each on what was left out."""

    @classmethod
    def of(cls, setup: Setup, directory: RunDir) -> Data:
        """Load the data. Raises ``ProblemError`` or ``PromptError``."""
        config, size = setup.config, setup.config.problems.train_size
        sampler = build_sampler(config.sampling, setup.train, config.most_groups, config.seed, size, setup.screen.fits)
        pairs, notes = ([], []) if warmed(config, directory) else demonstrations(setup)
        return cls(sampler, pairs, (*setup.notes, *notes))


def warmed(config: RunConfig, directory: RunDir) -> bool:
    """Return whether the warm-up is done, or none is wanted."""
    target = directory.warmup
    return config.warmup is None or ((target / "model.safetensors").exists() and (target / "warmup.json").exists())
