"""``k15 eval --nbce``: one benchmark becomes several results, which use the same evidence in different ways."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING, Any, Literal

from evals.labels import LabelError, one_of
from evals.pooled import PoolResponder, Reading
from evals.prompting import Renderer
from evals.votes import same_text
from evals.voting import VoteResponder
from evals.windows import WindowRenderer
from recipes.commands.eval_fit import Item
from recipes.commands.eval_options import EvalError, Options, Windowing, warn
from rollout.evidence.config import MergingConfig
from rollout.evidence.windows import Evidence
from rollout.types import Problem

if TYPE_CHECKING:
    from evals.evaluate import Responder
    from recipes.commands.eval_models import LocalModel
    from rollout.config import EngineConfig
    from rollout.constraints import OneOf
    from rollout.models.prompts import Transcript

ALONE = MergingConfig(beta=0.0, top_p=1.0)
"""Under which one window of evidence says what it says by itself."""


@dataclass(frozen=True)
class Arm:
    """One way to use a benchmark's evidence."""

    item: Item
    """Its benchmark has the arm's name and title."""
    responder: Responder
    settings: dict[str, Any]
    """Beside those of every evaluation."""
    first: str
    """The first problem's prompt as text."""
    against: str = ""
    """See ``evals.offline.Task``."""


def arms_of(
    item: Item, renderer: Renderer | WindowRenderer, drawing: PoolResponder, options: Options, cached: bool
) -> list[Arm]:
    """Return the ways in which an item is evaluated: one, or NBCE first and then what is to stand beside it.

    ``drawing``: how a response is drawn. ``cached``: the engine keeps keys and values of windows of evidence, so that a
    window by itself is cheaper as evidence than as a prompt.
    """
    problem = item.loaded.problems[0]
    labels = {"labels": list(item.benchmark.labels)} if item.benchmark.labels else {}
    if isinstance(renderer, Renderer):
        return [Arm(item, replace(drawing, render=renderer), labels, renderer.text(problem))]
    windowing = options.windows
    assert windowing is not None
    count = windowing.count

    def arm(word: str, title: str, responder: Responder, merging: Any) -> Arm:
        name = f"{item.benchmark.name} {word}" if word else item.benchmark.name
        own = item.changed(replace(item.benchmark, name=name, title=f"{item.benchmark.title}, {title}"))
        settings = {**labels, "windows": count, "merging": merging}
        first = renderer.text(problem, 1) if word == "truncated" else renderer.text(problem)
        return Arm(own, responder, settings, first, item.benchmark.name if word else "")

    nbce = replace(drawing, render=_together(renderer, windowing.merging))
    found = [arm("", f"{count} windows by NBCE", nbce, written(windowing))]
    for way in windowing.beside:
        if way == "truncated":
            one = replace(drawing, render=lambda problem: _alone(renderer, problem, cached)[0])
            found.append(arm(way, f"the first of {count} windows", one, way))
        elif way == "parallel":
            one = replace(drawing, render=_together(renderer, "parallel"))
            found.append(arm(way, f"{count} windows in parallel", one, way))
        else:
            vote = VoteResponder(
                drawing,
                lambda problem: _alone(renderer, problem, cached),
                item.benchmark.verify,
                item.benchmark.same or same_text,
            )
            found.append(arm(way, f"vote of {count} windows", vote, way))
    return found


def _together(renderer: WindowRenderer, merging: MergingConfig | Literal["parallel"]) -> Callable[[Problem], Reading]:
    def read(problem: Problem) -> Reading:
        found = renderer(problem)
        return Reading(found.question, Evidence(found.windows, merging), found.holder)

    return read


def _alone(renderer: WindowRenderer, problem: Problem, cached: bool) -> list[Reading]:
    """Return each window of a problem by itself."""
    found = renderer(problem)
    if not cached:
        return [Reading(window, holder=found.holder) for window in found.windows]
    return [Reading(found.question, Evidence((window,), ALONE), found.holder) for window in found.windows]


def written(windowing: Windowing) -> dict[str, Any]:
    """Return how windows are merged, as settings."""
    merging = windowing.merging
    of_entropy = {"eta": merging.eta} if merging.pooling == "entropy" else {}
    return {
        "pooling": merging.pooling,
        "beta": merging.weight(windowing.count),
        **of_entropy,
        "top_p": merging.nucleus,
    }


def check_windows(item: Item, renderer: WindowRenderer, options: Options, engine: str, context: int) -> None:
    """Raises ``EvalError`` for what cannot stand beside NBCE here."""
    windowing = options.windows
    assert windowing is not None
    if "vote" in windowing.beside and item.benchmark.same is None:
        raise EvalError(f"{item.benchmark.name}: its answers cannot be compared, so there is no vote; leave vote out")
    if "parallel" not in windowing.beside:
        return
    if engine != "hf":
        raise EvalError("--beside parallel: only the transformers engine reads windows in parallel; add --engine hf")
    windows = renderer(item.loaded.problems[0]).windows
    if fault := Evidence(windows, "parallel").fault(0, item.benchmark.max_tokens, context):
        raise EvalError(f"{item.benchmark.name}: --beside parallel: {fault}")


def warn_of_room(item: Item, renderer: WindowRenderer, model: LocalModel, engine: EngineConfig) -> None:
    """Say when the transformers engine cannot keep the windows that all questions share, and would read them again."""
    if engine.kind != "hf" or renderer.spread.own:
        return
    tokens = sum(map(len, renderer(item.loaded.problems[0]).windows))
    size = tokens * model.cached_values * (4 if engine.dtype == "float32" else 2) / 2**30
    if size > engine.kv_cache_gib:
        warn(
            f"{item.benchmark.name}: keys and values of the windows take {size:.1f} GiB, of which the engine keeps "
            f"{engine.kv_cache_gib:g}, so it reads windows again for every question; --kv-cache-gib {ceil(2 * size)} "
            "holds them and a question's own copy"
        )


def labelled(item: Item, model: LocalModel, transcript: Transcript, options: Options) -> tuple[Item, OneOf | None]:
    """Return the item with room for its longest label, and the constraint to them; ``None`` where anything may be said.

    Raises ``EvalError``.
    """
    benchmark = item.benchmark
    if not benchmark.labels:
        return item, None
    try:
        found = one_of(model.tokenizer, benchmark.labels, model.end[0])
    except LabelError as error:
        raise EvalError(f"{benchmark.name}: {error}") from error
    longest = max(map(len, found.labels))
    if options.max_tokens is not None and options.max_tokens < longest:
        raise EvalError(
            f"{benchmark.name}: its longest label has {longest} tokens with the end token; leave --max-tokens out"
        )
    if transcript.begun():
        raise EvalError(
            f"{benchmark.name}: answers are labels alone, and the chat template opens a thinking; --thinking off, or "
            "another model"
        )
    return item.changed(replace(benchmark, max_tokens=longest)), found
