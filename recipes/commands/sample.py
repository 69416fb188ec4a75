"""``k15 sample``: a trained or pretrained model answers a prompt in the terminal."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import numpy as np

from rollout.models.endings import end_tokens
from rollout.models.framing import Framing
from rollout.models.pretrained import ModelPathError, context_of, loading, resolve_model
from rollout.models.prompts import PromptError, Transcript, render_chat
from rollout.plain import visible
from rollout.types import Author, Problem, Prompt, Rollout, Segment, StopReason
from rollout.user_code import UserCodeError

if TYPE_CHECKING:
    from rl.config import RunConfig
    from rollout.environments.episodes import Episodes

T = TypeVar("T")
PRETRAINING = "pretraining.yaml"
"""Marks the folder of a pretraining, whose model has no run behind it."""
EXPORTS = ("model", "warmup")
"""Exports of a run by preference: after RL, after the warm-up."""


class SampleError(ValueError):
    """The model or the prompt cannot be used; one line."""


@dataclass(frozen=True)
class Chosen:
    """A model to sample from, with the framing of its prompts in training."""

    path: str
    run: RunConfig | None = None
    """Of a run, its configuration."""

    @property
    def framing(self) -> Framing:
        """How prompts are put."""
        return self.run.problems.framing if self.run else Framing()


@dataclass(frozen=True)
class Response:
    """One response."""

    text: str
    tokens: int
    """Sampled tokens, the end token included."""
    stop: StopReason
    """``EOS`` or ``LENGTH``."""
    token_ids: tuple[int, ...] = ()


def find_model(name: str) -> Chosen:
    """Find the model that ``name`` means: a run's latest export, a directory, a hub name, ``package:...``.

    Raises ``SampleError`` when there is none.
    """
    run = Path(name).expanduser()
    if (run / PRETRAINING).is_file():
        if not (run / EXPORTS[0] / "config.json").is_file():
            raise SampleError(f"{run} has exported no model yet; let the pretraining finish, or resume it")
        return Chosen(str(run / EXPORTS[0]))
    if (run / "config.yaml").is_file():
        from rl.config_io import ConfigError, read_file, validate

        if (run / "summary.json").is_file() and not (run / EXPORTS[0] / "config.json").is_file():
            raise SampleError(
                f"{run} is finished, but its model is not exported; the command that trained it does that"
            )
        for export in EXPORTS:
            if (run / export / "config.json").is_file():
                break
        else:
            raise SampleError(
                f"{run} has exported no model yet (neither {' nor '.join(EXPORTS)}); let the run finish, or resume it"
            )
        try:
            config = validate(read_file(run / "config.yaml"))
        except ConfigError as error:
            raise SampleError(f"{run / 'config.yaml'}: {error.lines[0]}") from error
        return Chosen(str(run / export), config)
    try:
        return Chosen(resolve_model(name))
    except ModelPathError as error:
        raise SampleError(str(error)) from error


def load(chosen: Chosen) -> tuple[Any, Any]:
    """Load model and tokenizer in float32 on the CPU. Raises ``SampleError`` when they cannot be loaded."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    from rollout.models import moba

    logging.disable_progress_bar()
    try:
        with loading(chosen.path):
            tokenizer = AutoTokenizer.from_pretrained(chosen.path)
            model = AutoModelForCausalLM.from_pretrained(chosen.path, dtype=torch.float32).eval()
            block = moba.read(model.config.get_text_config())
            if block is not None:  # trained with block attention
                moba.use(model, block, otherwise="sdpa")
    except ModelPathError as error:
        raise SampleError(str(error)) from error
    return model, tokenizer


def streamer(tokenizer: Any, end: Sequence[int], out: TextIO) -> Any:
    """Return a streamer that writes text as it is sampled, without codes that would steer the terminal."""
    from transformers import TextStreamer

    class Visible(TextStreamer):
        def put(self, value: Any) -> None:
            if self.next_tokens_are_prompt or value.numel() != 1 or int(value) not in end:
                super().put(value)

        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            out.write(visible(text) + ("\n" if stream_end else ""))
            out.flush()

    return Visible(tokenizer, skip_prompt=True, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def respond(
    model: Any,
    transcript: Transcript,
    prompt: Sequence[int],
    *,
    temperature: float,
    max_tokens: int,
    seed: int,
    out: TextIO,
) -> Response:
    """Sample one response to rendered prompt tokens, streaming its text to ``out``. Temperature 0 is greedy.

    Models without a limit on their context take any prompt. Raises ``SampleError`` when there is no room for a token.
    """
    import torch

    context, end = context_of(model.config), transcript.end
    if context is not None and len(prompt) >= context:
        raise SampleError(
            f"{model.name_or_path}: the prompt has {len(prompt)} tokens, the model's context {context}; shorten it"
        )
    ids = torch.tensor([list(prompt)])
    draw: dict[str, Any] = {"do_sample": False}
    if temperature > 0:
        draw = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    torch.manual_seed(seed)
    with torch.inference_mode():
        output = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_tokens if context is None else min(max_tokens, context - len(prompt)),
            eos_token_id=list(end),
            pad_token_id=end[0],
            streamer=streamer(transcript.tokenizer, end, out),
            **draw,
        )
    tokens = output[0, len(prompt) :].tolist()
    stop = StopReason.EOS if tokens[-1] in end else StopReason.LENGTH
    return Response(transcript.decode(tokens), len(tokens), stop, tuple(tokens))


def sample_responses(
    chosen: Chosen, prompt: str, *, n: int = 1, temperature: float = 1.0, max_tokens: int = 1024, seed: int = 0
) -> list[Response]:
    """Print ``n`` responses to a question: text to standard output, tokens and stop reasons to standard error.

    Response j is drawn with ``seed + j``. Raises ``SampleError``.
    """
    if not prompt.strip():
        raise SampleError("the prompt is empty")
    model, tokenizer = load(chosen)
    responses = []
    try:
        framing = chosen.framing
        problem = Problem.ask("prompt", prompt)
        chat = framing.messages(problem)
        tokens = render_chat(tokenizer, chat, **framing.arguments).token_ids.tolist()
        transcript = Transcript(tokenizer, end_tokens(tokenizer, chosen.path), framing.system, framing.arguments)
        if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in tokens:
            print("[the prompt has text that this model's vocabulary lacks; do not trust the answer]", file=sys.stderr)
        turn = partial(respond, model, transcript, temperature=temperature, max_tokens=max_tokens, out=sys.stdout)
        with conversing(chosen.run, transcript) as converse:
            for j in range(n):
                response = turn(tokens, seed=seed + j)
                told = f"[{j + 1}/{n}: {response.tokens} tokens, stopped by {response.stop}]"
                print(told, file=sys.stderr, flush=True)
                responses += [response, *converse(problem, tokens, response, partial(turn, seed=seed + j))]
    except (PromptError, UserCodeError) as error:
        raise SampleError(str(error)) from error
    return responses


Turn = Callable[[Sequence[int]], Response]
"""``tokens`` -> the policy's response to them."""


@contextmanager
def conversing(
    run: RunConfig | None, transcript: Transcript
) -> Iterator[Callable[[Problem, Sequence[int], Response, Turn], list[Response]]]:
    """Yield what makes the turns that follow a response; there are none without a run's environment.

    Raises ``UserCodeError``.
    """
    from recipes.run.setup import open_episodes
    from rl.rewarding import build_grader

    episodes = open_episodes(run, transcript, lambda: build_grader(run.reward)) if run is not None else None
    if run is None or episodes is None:
        yield lambda *_: []
        return
    try:
        yield partial(converse, episodes, run.engine.max_model_len)
    finally:
        episodes.close()


async def answered(reply: Awaitable[T]) -> T:
    """``reply`` as a coroutine, which ``asyncio.run`` wants."""
    return await reply


def converse(
    episodes: Episodes, context: int, problem: Problem, prompt: Sequence[int], response: Response, turn: Turn
) -> list[Response]:
    """Return the turns that follow ``response`` while the environment answers; its answers are printed too.

    Where it fails, as one does that wants a verdict on a question without a known answer, that is said, and is the end.
    """
    rollout = Rollout("sample", Prompt(np.array(prompt, np.int32)))
    answer = episodes.turns_of(lambda _: (problem, rollout))
    segments: list[Segment] = []
    turns: list[Response] = []
    while True:
        drawn = np.array(response.token_ids, np.int32)
        segments.append(Segment(0, drawn, np.zeros(len(drawn), np.float32)))
        if response.stop is not StopReason.EOS:
            return turns
        left = context - len(prompt) - sum(map(len, segments))
        reply = asyncio.run(answered(answer("sample", segments, left)))
        if reply.score is not None and not reply.score.gradable:
            print(f"[{reply.score.reason}]", file=sys.stderr, flush=True)
        if not len(reply.token_ids):
            return turns
        print(visible(episodes.transcript.decode(reply.token_ids)), flush=True)
        segments.append(Segment(0, reply.token_ids, by=Author.ENVIRONMENT))
        read = rollout.prompt.followed_by(*(segment.token_ids for segment in segments))
        response = turn(read.token_ids.tolist())
        told = f"[turn {len(turns) + 2}: {response.tokens} tokens, stopped by {response.stop}]"
        print(told, file=sys.stderr, flush=True)
        turns.append(response)
