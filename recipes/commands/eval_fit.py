"""Whether prompts and answers fit the model's context, before the first token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from evals.benchmark import Benchmark
from evals.data import Loaded
from evals.prompting import Conversation, Renderer
from evals.windows import Spread, Windowed, WindowError, WindowRenderer
from recipes.commands.eval_options import EvalError, Options, warn
from rollout.models.templates import PromptError
from rollout.problems.fit import Limits
from rollout.types import Problem

if TYPE_CHECKING:
    from recipes.commands.eval_models import LocalModel


@dataclass(frozen=True)
class Item:
    """A benchmark with its problems and the conversation that asks them."""

    benchmark: Benchmark
    loaded: Loaded
    conversation: Conversation

    def changed(self, benchmark: Benchmark) -> Item:
        """Return it with other settings of the benchmark."""
        return replace(self, benchmark=benchmark, conversation=replace(self.conversation, benchmark=benchmark))


@dataclass(frozen=True)
class Longest:
    """The longest prompt of a benchmark."""

    problem: str
    """Its id."""
    tokens: int
    window: int = 0
    """Which of the problem's windows it is, counted from 1; 0: the whole."""


def longest_prompt(item: Item, renderer: Renderer | WindowRenderer, model: LocalModel) -> Longest:
    """Render all prompts and return the longest. Raises ``PromptError`` naming the problem that cannot be asked."""
    limits = Limits(model.context, 1, model.vocabulary, model.path)
    found: list[Longest] = []
    for problem in item.loaded.problems:
        what = f"{item.loaded.origin}: problem {problem.id!r}"
        try:
            rendered = renderer(problem)
        except PromptError as error:
            raise PromptError(f"{what}: {error}") from error
        if isinstance(rendered, Windowed):
            window = rendered.windows[rendered.longest - 1]
            for prompt in rendered.windows:
                limits.check_vocabulary(prompt.token_ids, f"{what}: the prompt")
            found.append(Longest(problem.id, len(window), rendered.longest))
        else:
            limits.check_vocabulary(rendered.token_ids, f"{what}: the prompt")
            found.append(Longest(problem.id, len(rendered)))
    return max(found, key=lambda one: one.tokens)


def fit(item: Item, longest: Longest, context: int, options: Options, hint: Callable[[], str] | None = None) -> Item:
    """Return the item with ``max_tokens`` within the model's context.

    The benchmark's own limit gives way, and that is said. Raises ``EvalError`` when ``--max-tokens`` was given and does
    not fit, or a prompt leaves no room at all; ``hint`` says what else would help.
    """
    room, wanted = context - longest.tokens, item.benchmark.max_tokens
    place = f"window {longest.window} with " if longest.window else ""
    fixed = options.max_tokens is not None or bool(item.benchmark.labels)
    if room < 1 or (fixed and wanted > room):
        what = f"{'--max-tokens' if options.max_tokens is not None else 'a label of'} {wanted}"
        helps = [f"use --max-tokens {room} or less"] if room >= 1 and options.max_tokens is not None else []
        helps += [found] if hint and (found := hint()) else []
        raise EvalError(
            f"{item.benchmark.name}: the model's context of {context} tokens has no room for "
            f"{what if room >= 1 else 'an answer'} after the longest prompt, {place}{longest.tokens} tokens of problem "
            f"{longest.problem!r} of {item.loaded.origin}; "
            + (", or ".join(helps) or "use a model with a longer context")
        )
    if wanted > room:
        warn(
            f"{item.benchmark.name}: at most {room} tokens per answer instead of {wanted}: the context is {context}, "
            f"the prompt of problem {longest.problem!r} {place}{longest.tokens}"
        )
        return item.changed(replace(item.benchmark, max_tokens=room))
    return item


def more_windows(renderer: WindowRenderer, problem: Problem, room: int) -> str:
    """Return how many windows would each have at most ``room`` tokens for this problem, as a hint; empty: no number
    would do.
    """
    spread = renderer.spread
    whole = len(WindowRenderer(renderer.tokenizer, replace(spread, windows=1))(problem).windows[0])
    alone = len(renderer(problem).question)
    share = max(1, room - alone)
    count = max(spread.windows + 1, -(-(whole - alone) // share))
    while room > alone:
        try:
            found = WindowRenderer(renderer.tokenizer, replace(spread, windows=count))(problem)
        except WindowError:
            break
        if len(found.windows[found.longest - 1]) <= room:
            return f"spread it over more windows: --nbce {count}"
        count += max(1, count // 16)
    return ""


def spread_of(item: Item, windows: int, model: LocalModel) -> Spread:
    """Return how an item's evidence is spread. Raises ``EvalError`` where there is none."""
    benchmark, shots = item.benchmark, item.conversation.shots
    if benchmark.evidence is None and not shots:
        what = (
            f"{benchmark.name}: --nbce spreads solved examples over windows; add --shots N, at least {windows}"
            if benchmark.shots
            else f"{benchmark.name} has neither solved examples nor evidence of its own for --nbce; leave that out"
        )
        raise EvalError(what)
    return Spread(item.conversation, windows, model.counts)
