"""Lines of a batch for a transformers model, and the keys and values of windows, computed once and read by many.

A line is what one row of the batch reads: tokens behind keys and values that may be there already. Requests with
evidence are several lines each (NBCE), or one behind the keys and values of all windows (parallel context windows).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rollout.engine import Request
from rollout.evidence.windows import shared_ending
from rollout.types import TokenIds

if TYPE_CHECKING:
    from transformers import DynamicCache, PreTrainedModel

LEAST = 16
"""Fewest tokens of a window that are worth keeping."""
PREFILL_TOKENS = 16_384
"""Padded tokens of windows read at a time."""

Layers = tuple[tuple[torch.Tensor, torch.Tensor], ...]
"""Of each layer keys and values [H, n, d]."""


@dataclass(frozen=True)
class Past:
    """Keys and values of n tokens."""

    layers: Layers
    size: int

    def first(self, count: int) -> Past:
        """Return those of the first ``count`` tokens."""
        if count == self.size:
            return self
        return Past(tuple((keys[:, :count], values[:, :count]) for keys, values in self.layers), count)


@dataclass(frozen=True)
class Line:
    """What one row of the batch reads."""

    tokens: TokenIds
    """Those that have no keys and values yet; at least one."""
    past: Past | None = None
    position: int = 0
    """Of the first of ``tokens``: behind parallel windows less than the number of tokens before it."""


@dataclass
class Read:
    """A batch behind its first forward pass."""

    logits: torch.Tensor
    """[R, V] behind the last token of each line."""
    cache: DynamicCache
    mask: torch.Tensor
    """[R, past + new]; 0: padding."""
    positions: torch.Tensor
    """[R, new] of the tokens read."""


def full_attention(model: PreTrainedModel) -> bool:
    """Return whether every layer keeps keys and values of all tokens, so that a part of them can be used again."""
    from transformers.cache_utils import DynamicCache, DynamicLayer

    layers = DynamicCache(config=model.config).layers
    return all(type(layer) is DynamicLayer for layer in layers)


def read(model: PreTrainedModel, lines: Sequence[Line]) -> Read:
    """Read the tokens of all lines in one forward pass, padded on the left."""
    from transformers import DynamicCache

    cache = DynamicCache(config=model.config)
    width = max(len(line.tokens) for line in lines)
    before = max(line.past.size if line.past else 0 for line in lines)
    if before:
        _lay(cache, [line.past for line in lines], before, model.device)
    inputs = torch.zeros(len(lines), width, dtype=torch.long)
    mask = torch.zeros(len(lines), before + width, dtype=torch.long)
    positions = torch.zeros(len(lines), width, dtype=torch.long)
    for row, line in enumerate(lines):
        size = len(line.tokens)
        inputs[row, width - size :] = torch.from_numpy(np.asarray(line.tokens, np.int64))
        mask[row, before + width - size :] = 1
        mask[row, before - (line.past.size if line.past else 0) : before] = 1
        positions[row, width - size :] = torch.arange(line.position, line.position + size)
    inputs, mask, positions = inputs.to(model.device), mask.to(model.device), positions.to(model.device)
    logits = model(
        input_ids=inputs, attention_mask=mask, position_ids=positions, past_key_values=cache, logits_to_keep=1
    ).logits[:, -1]
    return Read(logits, cache, mask, positions)


def _lay(cache: DynamicCache, pasts: Sequence[Past | None], width: int, device: Any) -> None:
    """Lay keys and values into an empty cache, padded on the left to ``width``."""
    some = next(past for past in pasts if past is not None)
    for layer, (one, _) in enumerate(some.layers):
        shape = (len(pasts), one.shape[0], width, one.shape[2])
        keys = torch.zeros(shape, dtype=one.dtype, device=device)
        values = torch.zeros(shape, dtype=one.dtype, device=device)
        for row, past in enumerate(pasts):
            if past is not None:
                keys[row, :, width - past.size :], values[row, :, width - past.size :] = past.layers[layer]
        cache.layers[layer].update(keys, values)


class Windows:
    """The keys and values of windows, by their tokens, the oldest forgotten first. To be cleared when weights
    change.
    """

    def __init__(self, model: PreTrainedModel, room: float) -> None:
        """``room``: bytes to keep; 0, as for a model with layers that do not keep every token: nothing is kept."""
        self._model = model
        self._full = full_attention(model)
        self.room = room if self._full else 0.0
        self.computed = 0
        """Tokens of windows that were computed."""
        self._kept: OrderedDict[bytes, tuple[TokenIds, Past]] = OrderedDict()

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()

    def bytes_of(self, tokens: int) -> float:
        """Return the room that keys and values of so many tokens take."""
        text = self._model.config.get_text_config()
        heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
        size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        return 2.0 * tokens * text.num_hidden_layers * heads * size * self._model.dtype.itemsize

    def room_of(self, request: Request) -> float:
        """Return the bytes that the keys and values of a request's rows take at its end."""
        rows = _rows(request)
        return self.bytes_of(sum(map(len, rows)) + len(rows) * request.max_new_tokens)

    def fault(self, request: Request) -> str:
        """Return in one line why this model cannot take a request; empty: it can."""
        rows = _rows(request)
        highest, vocabulary = max(int(row.max()) for row in rows), self._model.config.get_text_config().vocab_size
        if highest >= vocabulary:
            return f"token {highest} is none of this model's {vocabulary}: the text was made with another tokenizer"
        if request.evidence is not None and request.evidence.merging == "parallel" and not self._full:
            return "parallel windows need a model in which every layer attends to all tokens"
        return ""

    def lines(self, requests: Sequence[Request]) -> list[list[Line]]:
        """Return the lines of each request, none of which has a ``fault``."""
        if not any(request.evidence for request in requests):
            return [[Line(request.prompt.token_ids)] for request in requests]
        rows = [_rows(request) for request in requests]
        heads = [
            self._heads(request, rows[at], [*rows[max(at - 1, 0) : at], *rows[at + 1 : at + 2]])
            for at, request in enumerate(requests)
        ]
        known = self._compute([head for own in heads for head in own])
        return [_laid(*each, known) for each in zip(requests, rows, heads, strict=True)]

    def _heads(self, request: Request, own: Sequence[TokenIds], beside: Sequence[Sequence[TokenIds]]) -> list[TokenIds]:
        """Return for each window the tokens whose keys and values are to be had apart from those behind them.

        ``beside``: rows of the requests before and behind this one, which mostly are about the same windows.
        """
        if request.evidence is None:
            return []
        windows = own[1:]
        if request.evidence.merging == "parallel":
            question = shared_ending(windows)
            return [row[: len(row) - question] for row in windows]
        return [
            row[: self._worth(row, [other[k] for other in beside if len(other) > k])] for k, row in enumerate(own) if k
        ]

    def _worth(self, row: TokenIds, others: Sequence[TokenIds]) -> int:
        """Return how many of the first tokens of a window's row are had already, or worth to be computed by themselves
        because ``others`` share them. Of a row without others all are: later ones may.
        """
        if not self.room:
            return 0
        most = len(row) - 1
        had = max((min(common(row, tokens), most) for tokens, _ in self._kept.values()), default=0)
        shared = max((min(common(row, other), most) for other in others), default=0)
        if not others and 2 * had < len(row):
            shared = most
        worth = max(had, shared)
        return worth if worth >= LEAST else 0

    def _compute(self, heads: Sequence[TokenIds]) -> dict[bytes, Past]:
        """Return keys and values by tokens, and compute those that are not there."""
        known: dict[bytes, Past] = {}
        missing: dict[bytes, TokenIds] = {}
        for head in heads:
            key = head.tobytes()
            if not len(head) or key in known or key in missing:
                continue
            found = next((name for name, (kept, _) in self._kept.items() if common(head, kept) == len(head)), None)
            if found is None:
                missing[key] = head
            else:
                self._kept.move_to_end(found)
                known[key] = self._kept[found][1].first(len(head))
        for batch in _batches(sorted(missing.values(), key=len)):
            for head, past in zip(batch, self._read(batch), strict=True):
                known[head.tobytes()] = past
                self._keep(head, past)
        return known

    def _read(self, batch: Sequence[TokenIds]) -> list[Past]:
        layers = read(self._model, [Line(head) for head in batch]).cache.layers
        self.computed += sum(map(len, batch))
        found = []
        for row, head in enumerate(batch):
            end = slice(-len(head), None)
            own = tuple((layer.keys[row, :, end].clone(), layer.values[row, :, end].clone()) for layer in layers)
            found.append(Past(own, len(head)))
        return found

    def _keep(self, head: TokenIds, past: Past) -> None:
        if not self.room:
            return
        self._kept[head.tobytes()] = (head, past)
        while self.bytes_of(sum(past.size for _, past in self._kept.values())) > self.room:
            self._kept.popitem(last=False)


def common(one: TokenIds, other: TokenIds) -> int:
    """Return how many first tokens two rows share."""
    least = min(len(one), len(other))
    differ = np.flatnonzero(one[:least] != other[:least])
    return int(differ[0]) if len(differ) else least


def _rows(request: Request) -> list[TokenIds]:
    if request.evidence is None:
        return [request.prompt.token_ids]
    return request.evidence.rows(request.prompt, request.begun)


def _batches(heads: Sequence[TokenIds]) -> Iterator[list[TokenIds]]:
    """Split heads, the shortest first, into batches of at most ``PREFILL_TOKENS`` padded tokens."""
    batch: list[TokenIds] = []
    for head in heads:
        if batch and len(head) * (len(batch) + 1) > PREFILL_TOKENS:
            yield batch
            batch = []
        batch.append(head)
    if batch:
        yield batch


def _laid(
    request: Request, rows: Sequence[TokenIds], heads: Sequence[TokenIds], known: dict[bytes, Past]
) -> list[Line]:
    """Return the lines of one request: without evidence one, and with it one for each row or, in parallel, one."""
    if request.evidence is None:
        return [Line(rows[0])]
    if request.evidence.merging == "parallel":
        pasts = [known[head.tobytes()] for head in heads]
        return [Line(rows[1][len(heads[0]) :], beside(pasts), max(past.size for past in pasts))]
    behind = [
        Line(row[len(head) :], known.get(head.tobytes()), len(head)) for row, head in zip(rows[1:], heads, strict=True)
    ]
    return [Line(rows[0]), *behind]


def beside(pasts: Sequence[Past]) -> Past:
    """Return the keys and values of windows one after the other; each keeps its positions, which all begin at 0."""
    layers = tuple(
        (torch.cat([keys for keys, _ in same], 1), torch.cat([values for _, values in same], 1))
        for same in zip(*(past.layers for past in pasts), strict=True)
    )
    return Past(layers, sum(past.size for past in pasts))
