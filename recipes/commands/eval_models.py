"""Models on disk, as an evaluation needs them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evals.benchmark import Benchmark
from evals.data import Choice, Loaded, choose
from evals.votes import same_maths, same_text
from recipes.commands.eval_options import HELDOUT, EvalError, Options
from recipes.commands.sample import SampleError, find_model
from rl.config import DEVICE, RayConfig, RunConfig
from rollout.config import EngineConfig
from rollout.models.endings import end_tokens
from rollout.models.framing import Framing
from rollout.models.prompts import PromptError

STALL_S = 900.0
"""Seconds without a token after which an engine counts as hung; long prompts take long on CPUs."""
WEIGHTS = ("*.safetensors", "*.bin", "config.json", "tokenizer.json", "chat_template.jinja")


@dataclass(frozen=True)
class LocalModel:
    """A model with its tokenizer; of a run, its configuration too."""

    path: str
    """Hugging Face directory or hub name."""
    tokenizer: Any
    end: tuple[int, ...]
    context: int
    """Most positions that the model can take."""
    vocabulary: int
    """Rows of its embedding."""
    fingerprint: str
    run: RunConfig | None = None
    cached_values: int = 0
    """Numbers that a token's keys and values are, over all layers; 0: not known."""

    @property
    def framing(self) -> Framing:
        """How the run asked its problems; plainly for other models."""
        return self.run.problems.framing if self.run else Framing()

    @property
    def seed(self) -> int:
        """The run's seed, which repeats its own evaluation; 0 for other models."""
        return self.run.seed if self.run else 0

    def without_reward_model(self) -> LocalModel:
        """Return it without the run's reward model, in whose place another judges."""
        if self.run is None:
            return self
        reward = self.run.reward.model_copy(update={"model": None})
        return replace(self, run=self.run.model_copy(update={"reward": reward}))

    def count(self, text: str) -> int:
        """Return the number of tokens of a text."""
        return len(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def counts(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text."""
        encoded = self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        return [len(tokens) for tokens in encoded]

    @classmethod
    def find(cls, name: str) -> LocalModel:
        """Find the model that ``name`` means; see ``recipes.commands.sample.find_model``. Raises ``EvalError``."""
        from transformers import AutoConfig, AutoTokenizer

        from rollout.models.pretrained import ModelPathError, check_weights, context_of, embedded, loading

        try:
            path = find_model(name).path
            check_weights(path)
            with loading(path):
                tokenizer = AutoTokenizer.from_pretrained(path)
                config = AutoConfig.from_pretrained(path)
            context = context_of(config)
            vocabulary = embedded(config, tokenizer)
            end = end_tokens(tokenizer, path, vocabulary)
        except (SampleError, PromptError, ModelPathError) as error:
            raise EvalError(str(error)) from error
        file = Path(name).expanduser() / "config.yaml"
        if context is None:
            raise EvalError(f"{name}: its config.json does not say how long its context is (max_position_embeddings)")
        return cls(
            path=path,
            tokenizer=tokenizer,
            end=end,
            context=context,
            vocabulary=vocabulary,
            cached_values=cached_values(config),
            fingerprint=files_fingerprint(Path(path)) if Path(path).is_dir() else path,
            run=_read_run(file) if file.is_file() else None,
        )


def cached_values(config: Any) -> int:
    """Return how many numbers the keys and values of a token are, over all layers of a model with this config; 0 where
    it does not say.
    """
    text = config.get_text_config()
    attending = getattr(text, "num_attention_heads", 0)
    if not attending:
        return 0
    heads = getattr(text, "num_key_value_heads", None) or attending
    size = getattr(text, "head_dim", None) or text.hidden_size // attending
    return int(2 * text.num_hidden_layers * heads * size)


def _read_run(file: Path) -> RunConfig:
    from rl.config_io import ConfigError, read_file, validate

    try:
        return validate(read_file(file))
    except ConfigError as error:
        raise EvalError(f"{file}: {error.lines[0]}") from error


def heldout(model: LocalModel, choice: Choice) -> tuple[Benchmark, Loaded]:
    """Return the run's own held-out problems, asked, drawn and judged as in the run. Raises ``EvalError`` without a
    run.
    """
    from recipes.run.setup import choose_heldout, judging_code
    from rollout.models.pretrained import ModelPathError
    from rollout.problems.build import build_source
    from rollout.problems.fit import Limits
    from rollout.problems.source import ProblemList
    from rollout.reward_models.card import CardError

    if model.run is None:
        raise EvalError(f"{HELDOUT!r} are the held-out problems of a run directory; name one with --model")
    config, problems = model.run, model.run.problems
    limits = Limits(config.engine.max_model_len, config.rollout.response_room, model.vocabulary, model.path)
    found, _ = choose_heldout(config, build_source(problems.heldout, "heldout"), model.tokenizer, limits)
    source = ProblemList(found, "held-out problems")
    try:
        code = judging_code(config)
    except (ModelPathError, CardError) as error:
        raise EvalError(f"{HELDOUT}: the run's reward model: {error}; --judge PATH takes another") from error
    benchmark = Benchmark(
        name=HELDOUT,
        title=f"Held-out problems of {config.recipe}",
        published="The run's own evaluation: same problems, prompts, seeds and engine settings.",
        ask=problems.framing.question,
        system=problems.system,
        same=same_maths if source[0].verifier in ("math", "gsm8k") else same_text,
        samples=config.eval.samples,
        temperature=config.eval.temperature,
        max_tokens=config.rollout.max_tokens,
        code=" ".join(code.values()),
    )
    return benchmark, choose(source, "the run's held-out problems", choice)


def engine_config(
    model: LocalModel, options: Options, needed: int, windows: bool = False
) -> tuple[EngineConfig, RayConfig]:
    """Return engine and Ray settings: the run's own where there is a run, with what the command line changes.

    ``needed``: tokens of the longest prompt and answer. ``windows``: there will be evidence, or constraints.
    """
    if model.run is not None:
        base, ray = model.run.engine, model.run.ray
        length = max(needed, base.max_model_len) if HELDOUT in options.benchmarks else needed
    else:
        base, ray, length = EngineConfig(), RayConfig(), needed
    device = options.device or (base.device if model.run is not None else _device())
    if device != base.device:  # in the type that suits it, unless --dtype names another
        base = base.model_copy(update={"device": device, "dtype": DEVICE.values[device]["engine.dtype"]})
    changes: dict[str, Any] = {
        "kind": options.engine,
        "dtype": options.dtype,
        "tensor_parallel": options.tensor_parallel,
        "kv_cache_gib": options.kv_cache_gib,
        "windows": windows or None,
    }
    changes = {key: value for key, value in changes.items() if value is not None}
    tree = {**base.model_dump(), **changes, "max_model_len": max(8, min(length, model.context))}
    engine = EngineConfig.model_validate({**tree, "stall_timeout_s": max(base.stall_timeout_s, STALL_S)})
    changed = {"in_process": engine.kind == "hf", **({"address": options.ray_address} if options.ray_address else {})}
    return engine, ray.model_copy(update=changed)


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def files_fingerprint(folder: Path) -> str:
    """Return a text that changes when a model's files do: names, sizes and times of weights, configuration and
    tokenizer.
    """
    digest = hashlib.sha256()
    for path in sorted({path for pattern in WEIGHTS for path in folder.glob(pattern)}):
        state = path.stat()
        digest.update(f"{path.name} {state.st_size} {state.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]
