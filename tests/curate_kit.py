"""Models that answer by a script, for the stages of curation that ask one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from eval_kit import write_model
from fake_engine import FakeEngine

from recipes.commands.eval_models import LocalModel
from recipes.curate.asking import Asker
from rl.config import RayConfig
from rl.stop import Interrupted
from rollout.config import EngineConfig, RolloutConfig
from rollout.engine import Request
from rollout.pool.board import Completion, Turns
from rollout.pool.pool import Pool
from rollout.types import Problem

Says = Callable[[str, int], str]
"""``(problem id, sample)`` -> the response; one that ends in ``+`` goes on without an end, one that is ``!`` fails."""


def problems(count: int, verifier: str = "math", **more: Any) -> list[Problem]:
    return [Problem.ask(f"p{i}", f"What is {i} + 1?", str(i + 1), verifier, "sums", **more) for i in range(count)]


def right(number: int) -> str:
    return rf"It is \boxed{{{number + 1}}}."


class Model:
    """A model on disk whose engines say what they are told; counts engines and requests."""

    def __init__(self, folder: Path, says: Says, context: int = 512, template: str | None = None) -> None:
        self.path = folder if folder.exists() else write_model(folder, context, template)
        self.says = says
        self.opened = 0
        self.requests: list[Request] = []
        self.responses = 0
        self.cut_after: int | None = None
        """Responses after which asking is interrupted."""

    def asker(self, seed: int = 0, longest: int = 64, **engine: Any) -> Asker:
        config = EngineConfig.model_validate({"kind": "hf", "max_model_len": 256, **engine})
        return Asker(str(self.path), config, RayConfig(), seed, longest, self.open)

    @property
    def keys(self) -> list[str]:
        return [request.key for request in self.requests]

    def open(self, model: LocalModel, engine: EngineConfig, ray: RayConfig, seed: int, stack: ExitStack) -> Any:
        assert ray.in_process
        self.opened += 1
        tokenizer = model.tokenizer

        def script(request: Request) -> list[int]:
            problem, _, sample = request.key.rpartition("#")
            said = self.says(problem, int(sample))
            if said == "!":
                return []
            tokens = [*tokenizer(said.removesuffix("+"), add_special_tokens=False)["input_ids"]]
            if said.endswith("+"):
                return (tokens + tokenizer(" ")["input_ids"] * request.max_new_tokens)[: request.max_new_tokens]
            return [*tokens, model.end[0]]

        one = RolloutConfig(segment_tokens=1, max_tokens=1, max_failures=2)
        engines = {"count": engine.count, "kind": "hf"}
        pool = Pool(lambda _: FakeEngine(script, chunk=64), engine.model_copy(update=engines), one, model.end, seed)
        return _Counted(stack.enter_context(pool), self)


class _Counted:
    """A pool whose requests are counted, and which can be interrupted."""

    def __init__(self, pool: Pool, model: Model) -> None:
        self._pool, self._model = pool, model

    @property
    def members(self) -> list[int]:
        return self._pool.members

    def generate(
        self,
        requests: Sequence[Request],
        *,
        on_rest: Callable[[Completion], None],
        turns: Turns | None = None,
    ) -> list[Completion]:
        self._model.requests += requests

        def rest(completion: Completion) -> None:
            if self._model.responses == self._model.cut_after:
                raise Interrupted("stopped")
            self._model.responses += 1
            on_rest(completion)

        return self._pool.generate(requests, on_rest=rest, turns=turns)
