"""``k15 sample --evidence``: an answer from files, each of which is read in a window of its own (NBCE [2403.17552])."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from evals.votes import classes, same_text
from recipes.commands.sample import Chosen, Response, SampleError, streamer
from rewards.models.defusing import defused
from rollout.config import EngineConfig
from rollout.copying.labels import SEAM
from rollout.copying.spans import CopyBetween
from rollout.engine import Engine, EngineDead, Request, Sampling
from rollout.evidence.asking import before
from rollout.evidence.config import MergingConfig
from rollout.evidence.files import Piece
from rollout.evidence.splitting import split
from rollout.evidence.windows import Evidence, EvidenceError, shared_ending
from rollout.models.endings import end_tokens
from rollout.models.pretrained import ModelPathError, check_weights, context_of, loading
from rollout.models.prompts import PromptError, Transcript, render_chat
from rollout.plain import visible
from rollout.types import NO_POINTERS, Problem, Prompt, StopReason

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Beside = Literal["truncated", "parallel", "vote"]
SHOWN = 8
"""Most stretches of an answer that are named for one file."""


@dataclass(frozen=True)
class How:
    """How evidence is read."""

    merging: MergingConfig
    window: int | None
    """Most tokens of a file in one window; ``None``: files are not split."""
    beside: Beside | None
    """Another way to read the same, whose answer comes second."""
    quote: tuple[str, str] | None = None
    """Markers between which the answer copies the evidence (BioCopy's masked decoding); ``None``: it is free."""


@dataclass(frozen=True)
class Rows:
    """A question, rendered without evidence and with that of each window."""

    bare: Prompt
    windows: tuple[Prompt, ...]
    pieces: tuple[Piece, ...]
    room: int
    """Tokens that an answer may have."""


class Rendering:
    """Puts evidence and a question into a model's template."""

    def __init__(self, chosen: Chosen, question: str) -> None:
        """Reads all but the weights. Raises ``SampleError`` and ``PromptError``."""
        from transformers import AutoConfig, AutoTokenizer

        try:
            check_weights(chosen.path)
            with loading(chosen.path):
                self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(chosen.path)
                self.context = context_of(AutoConfig.from_pretrained(chosen.path))
        except ModelPathError as error:
            raise SampleError(str(error)) from error
        self.path, self._framing = chosen.path, chosen.framing
        self._problem = Problem.ask("prompt", question)
        end = end_tokens(self.tokenizer, chosen.path)
        self.transcript = Transcript(self.tokenizer, end, self._framing.system, self._framing.arguments)

    def prompt(self, evidence: str = "") -> Prompt:
        """Return the prompt of the question behind some evidence."""
        question = self._framing.question(self._problem)
        whole = before(question, [evidence] if evidence else [])
        return render_chat(self.tokenizer, self._framing.messages(self._problem, whole), **self._framing.arguments)

    def count(self, text: str) -> int:
        """Return the number of tokens of a text."""
        return len(self._ids(text))

    def harmless(self, piece: Piece) -> Piece:
        """Return evidence that writes no special token into the prompt; that it would have, is said."""
        found = self.tokenizer(piece.text, add_special_tokens=False, verbose=False)["input_ids"]
        special = set(self.tokenizer.all_special_ids) - {self.tokenizer.unk_token_id}
        if not special & set(found):
            return piece
        print(f"[{piece.name}: has text of special tokens, which is spelt out]", file=sys.stderr)
        return replace(piece, text=defused(piece.text))

    def rows(self, pieces: Sequence[Piece], window: int | None, max_tokens: int) -> Rows:
        """Return all rows. Raises ``SampleError`` for evidence that leaves the model no room for an answer."""
        bare = self.prompt()
        if self.context is not None and len(bare) >= self.context:
            raise SampleError(
                f"{self.path}: the prompt has {len(bare)} tokens without any evidence, the model's context "
                f"{self.context}; shorten it"
            )
        own = [part for piece in pieces for part in self._split(self.harmless(piece), window)]
        windows = tuple(self.prompt(piece.text) for piece in own)
        most = max(map(len, windows))
        if self.context is not None and most >= self.context:
            which = own[[len(row) for row in windows].index(most)]
            around = most - self.count(which.text)
            fits = max(1, self.context - around - min(max_tokens, self.context // 4))
            raise SampleError(
                f"{which.name}: {most} tokens with the question, the model's context is {self.context}: split it into "
                f"several files, or have it split: --window {fits}"
            )
        room = max_tokens if self.context is None else min(max_tokens, self.context - most)
        return Rows(bare, windows, tuple(own), room)

    def _split(self, piece: Piece, window: int | None) -> list[Piece]:
        if window is None:
            return [piece]
        try:
            parts = split(piece.text, window, self.count)
        except EvidenceError as error:
            raise SampleError(f"{piece.name}: {error}") from error
        if len(parts) == 1:
            return [Piece(piece.name, parts[0])]
        return [Piece(f"{piece.name} ({number}/{len(parts)})", part) for number, part in enumerate(parts, 1)]

    def quoting(self, rows: Rows, markers: tuple[str, str]) -> CopyBetween:
        """Return what holds an answer to copies of the evidence between two markers. Raises ``SampleError``."""
        opening, closing = (self._ids(marker) for marker in markers)
        if not opening or not closing or opening == closing:
            raise SampleError("--quote takes two different markers, such as '<quote>' '</quote>'")
        if {*opening, *closing} & {*self.transcript.end}:
            raise SampleError("--quote: a marker holds a token that ends the answer; take others")
        # A copy lies within one text: texts are parted.
        source = [token for piece in rows.pieces for token in (*self._ids(piece.text), SEAM)]
        return CopyBetween(tuple(source), tuple(opening), tuple(closing), stops=self.transcript.end)

    def _ids(self, text: str) -> list[int]:
        found: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return found

    def truncated(self, rows: Rows) -> Prompt:
        """Return the prompt with all evidence one after the other, cut at its end to leave room for an answer."""
        text = "\n\n".join(piece.text for piece in rows.pieces)
        if self.context is None:
            return self.prompt(text)
        low, high = 0, len(text)
        while low < high:
            middle = (low + high + 1) // 2
            if len(self.prompt(text[:middle])) + rows.room <= self.context:
                low = middle
            else:
                high = middle - 1
        return self.prompt(text[:low])


def sample_with_evidence(
    chosen: Chosen,
    prompt: str,
    pieces: Sequence[Piece],
    how: How,
    *,
    n: int = 1,
    temperature: float = 1.0,
    max_tokens: int = 1024,
    seed: int = 0,
) -> list[Response]:
    """Print ``n`` responses to a question that is read beside each piece of evidence: text to standard output; tokens,
    stop reasons and which file spoke to standard error.

    Response j is drawn with ``seed + j``. Raises ``SampleError``.
    """
    if not prompt.strip():
        raise SampleError("the prompt is empty")
    try:
        rendering = Rendering(chosen, prompt)
        rows = rendering.rows(pieces, how.window, max_tokens)
        sampling = Sampling(temperature=temperature, stop_token_ids=rendering.transcript.end)
        held = None if how.quote is None else rendering.quoting(rows, how.quote)
        requests = [
            Request(str(j), rows.bare, rows.room, sampling, seed + j, Evidence(rows.windows, how.merging), held)
            for j in range(n)
        ]
        if how.beside == "parallel":
            shared_ending([row.token_ids for row in rows.windows])  # before the model is asked
        work = _answered(_engine(chosen, rendering, rows), rendering, rows, requests, how)
        return asyncio.run(work)
    except (PromptError, EvidenceError) as error:
        raise SampleError(str(error)) from error
    except EngineDead as error:
        raise SampleError(f"{chosen.path}: {error}") from error


def _engine(chosen: Chosen, rendering: Rendering, rows: Rows) -> Engine:
    from transformers.utils import logging

    from rollout.engines.hf import HfEngine

    logging.disable_progress_bar()
    most = rendering.context or max(map(len, (rows.bare, *rows.windows))) + rows.room
    whole = sum(map(len, rows.windows)) + rows.room  # of all windows in one, where there is no limit
    config = EngineConfig(kind="hf", max_model_len=max(8, most if rendering.context else whole))
    return HfEngine(chosen.path, config, interval=1)


async def _answered(
    engine: Engine, rendering: Rendering, rows: Rows, requests: Sequence[Request], how: How
) -> list[Response]:
    responses = []
    await engine.start()
    try:
        for index, request in enumerate(requests):
            response, pointers = await drawn(engine, request, rendering.transcript, stream=True)
            told = f"[{index + 1}/{len(requests)}: {response.tokens} tokens, stopped by {response.stop}]"
            print(f"{told}\n{spoke(pointers, rows.pieces, how.merging)}", file=sys.stderr, flush=True)
            if how.quote is not None and how.quote[0] not in response.text:
                print(f"[no quote: the answer never writes {visible(how.quote[0])}]", file=sys.stderr, flush=True)
            responses.append(response)
            if how.beside is not None:
                responses.append(await _beside(engine, rendering, rows, request, how.beside))
    finally:
        await engine.close()
    return responses


async def _beside(engine: Engine, rendering: Rendering, rows: Rows, request: Request, beside: Beside) -> Response:
    """Print and return the answer to the same question by another way to read the evidence."""
    print(f"[{beside}:]", file=sys.stderr, flush=True)
    if beside == "vote":
        return await _vote(engine, rendering, rows, request)
    if beside == "parallel":
        other = replace(request, evidence=Evidence(rows.windows, "parallel"))
    else:
        other = replace(request, prompt=rendering.truncated(rows), evidence=None)
    response, _ = await drawn(engine, replace(other, key=f"{request.key} {beside}"), rendering.transcript, stream=True)
    print(f"[{beside}: {response.tokens} tokens, stopped by {response.stop}]", file=sys.stderr, flush=True)
    return response


async def _vote(engine: Engine, rendering: Rendering, rows: Rows, request: Request) -> Response:
    """Have each window answer by itself, and print the most frequent answer; of several the first."""
    found = []
    for number, window in enumerate(rows.windows):
        one = replace(request, key=f"{request.key} vote {number}", prompt=window, evidence=None)
        response, _ = await drawn(engine, one, rendering.transcript, stream=False)
        found.append(response)
    votes = classes([response.text for response in found], same_text)
    cast = Counter(vote for vote in votes if vote is not None)
    best, count = next(iter(cast.most_common(1)), (votes[0], 0))
    response = found[votes.index(best)]
    print(visible(response.text), flush=True)
    print(f"[vote: {count} of {len(found)} windows say so]", file=sys.stderr, flush=True)
    return response


async def drawn(
    engine: Engine, request: Request, transcript: Transcript, stream: bool
) -> tuple[Response, Sequence[int]]:
    """Return a response and which window spoke for each of its tokens; ``stream``: its text is printed as it comes.

    Raises ``SampleError`` for a request that the engine does not take.
    """
    put, ended = _printing(transcript, request.prompt) if stream else (lambda _: None, lambda: None)
    tokens: list[int] = []
    pointers = [NO_POINTERS]
    await engine.submit([request])
    while True:
        for delta in await engine.poll(1.0):
            tokens += delta.token_ids.tolist()
            pointers.append(delta.pointers)
            put(delta.token_ids.tolist())
            if not delta.done:
                continue
            if delta.error:
                raise SampleError(delta.error)
            ended()
            stop = delta.stop or StopReason.LENGTH
            text = transcript.decode(tokens)
            return Response(text, len(tokens), stop, tuple(tokens)), np.concatenate(pointers).tolist()


def _printing(transcript: Transcript, prompt: Prompt) -> tuple[Callable[[list[int]], None], Callable[[], None]]:
    """Return what prints tokens, and what ends the text."""
    import torch

    shown: Any = streamer(transcript.tokenizer, transcript.end, sys.stdout)
    shown.put(torch.from_numpy(prompt.token_ids))

    def put(tokens: list[int]) -> None:
        for token in tokens:
            shown.put(torch.tensor([token]))

    return put, shown.end


def spoke(pointers: Sequence[int], pieces: Sequence[Piece], merging: MergingConfig) -> str:
    """Return one line on which file spoke for which tokens of an answer, counted from 1; names are safe to print."""
    said = "spoke for" if merging.pooling == "entropy" else "was the surest of"
    parts = []
    for number, count in Counter(pointers).most_common():
        at = [index for index, pointer in enumerate(pointers, 1) if pointer == number]
        stretches = _stretches(at)
        more = f", and {len(stretches) - SHOWN} more" if len(stretches) > SHOWN else ""
        share = f"{100 * count / len(pointers):.0f} %"
        parts.append(f"{pieces[number - 1].name} {said} {share} (tokens {', '.join(stretches[:SHOWN])}{more})")
    return f"[{'; '.join(parts)}]"


def _stretches(places: Sequence[int]) -> list[str]:
    found: list[list[int]] = []
    for place in places:
        if found and found[-1][1] == place - 1:
            found[-1][1] = place
        else:
            found.append([place, place])
    return [f"{first}" if first == last else f"{first}-{last}" for first, last in found]
