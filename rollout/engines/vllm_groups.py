"""Groups of rows inside vLLM: requests that draw the same tokens at the same steps, each from evidence of its own.

A request of ours with evidence is n + 1 of vLLM's. Each is sent without the last token of its prompt and begins by
"drawing" that: so every row has all of its prompt read, however long that took, before the first token that counts,
and from there on the scheduler (``vllm_scheduler``) lets rows of a group only go on together. The sampler merges their
logits, draws one token, and gives it to all of them. The first row reports its log-prob; in that place the others say
whether they spoke for the token.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rollout.constraints import Constraint, packed, unpacked
from rollout.engine import Request
from rollout.evidence.config import MergingConfig
from rollout.evidence.merge import merge
from rollout.types import TokenIds

ROW = "k15_row"
"""The entry of ``SamplingParams.extra_args`` that holds a row's group, its number, their number, the last token of its
prompt, the window that spoke last, and the merging."""
CONSTRAINT = "k15_constraint"
"""The entry that holds a constraint and the response so far."""
BROKEN = "a group of rows was torn apart: vLLM preempted one of them, for want of room in its key-value cache"


@dataclass(frozen=True)
class Row:
    """One row of a group."""

    group: str
    number: int
    """0: without evidence."""
    size: int
    forced: int
    """The last token of its prompt, which it "draws" first."""
    last: int
    merging: MergingConfig


def row_of(arguments: Mapping[str, Any] | None) -> Row | None:
    """Return what ``SamplingParams.extra_args`` say of a row; ``None``: a request by itself."""
    told = (arguments or {}).get(ROW)
    if told is None:
        return None
    group, number, size, forced, last, merging = told
    return Row(group, number, size, forced, last, MergingConfig.model_validate(merging))


def constraint_of(arguments: Mapping[str, Any] | None) -> tuple[Constraint, list[int]] | None:
    """Return the constraint in ``SamplingParams.extra_args`` and the response before this request."""
    told = (arguments or {}).get(CONSTRAINT)
    return None if told is None else (unpacked(told[0]), list(told[1]))


def arguments_of(request: Request) -> Iterator[tuple[TokenIds, dict[str, Any]]]:
    """Return the prompt of each of vLLM's requests for one of ours, and what goes into its ``extra_args``."""
    own: dict[str, Any] = {}
    if request.constraint is not None:
        own[CONSTRAINT] = [packed(request.constraint), request.response.tolist()]
    evidence = request.evidence
    if evidence is None:
        yield request.prompt.token_ids, own
        return
    assert evidence.merging != "parallel"
    rows = evidence.rows(request.prompt, request.begun)
    merging = evidence.merging.model_dump()
    for number, row in enumerate(rows):
        told = [request.key, number, len(rows), int(row[-1]), evidence.last, merging]
        yield row[:-1], {**own, ROW: told}


@dataclass
class _Group:
    """A group in the batch."""

    rows: list[int]
    """Where in the batch its rows are, in order."""
    merging: MergingConfig


class Groups:
    """The rows and constraints of a batch, in the sampler; one for each composition of the batch."""

    def __init__(self, arguments: Sequence[Mapping[str, Any] | None], pointers: dict[str, int]) -> None:
        """``arguments``: the ``extra_args`` of each request of the batch. ``pointers``: the window that spoke last, by
        group; kept from batch to batch.
        """
        self.rows = [row_of(each) for each in arguments]
        constraints = ((at, constraint_of(each)) for at, each in enumerate(arguments))
        self.constraints = {at: found for at, found in constraints if found is not None}
        self._groups: dict[str, _Group] = {}
        self._pointers = pointers
        there: dict[str, dict[int, int]] = {}
        for at, row in enumerate(self.rows):
            if row is not None:
                there.setdefault(row.group, {})[row.number] = at
        for row in self.rows:
            if row is None or row.number:
                continue
            found = there[row.group]
            if len(found) == row.size:
                self._groups[row.group] = _Group([found[k] for k in range(row.size)], row.merging)
                pointers.setdefault(row.group, row.last)
        for gone in pointers.keys() - there.keys():
            del pointers[gone]

        firsts = {at: group.rows[0] for group in self._groups.values() for at in group.rows}
        self.firsts = [firsts.get(at, at) for at in range(len(self.rows))]
        """For each request of the batch the one whose noise it draws with: its group's first."""

    def __bool__(self) -> bool:
        return bool(self.constraints) or any(self.rows)

    def restrict(self, logits: torch.Tensor, drawn: Sequence[Sequence[int]]) -> torch.Tensor:
        """Return the logits [n, V] with -inf for what constraints forbid; ``drawn``: what each request has drawn."""
        if not self.constraints:
            return logits
        logits = logits.clone()
        for at, (constraint, before) in self.constraints.items():
            row = self.rows[at]
            own = drawn[at] if row is None else drawn[at][1:]
            if row is not None and not len(drawn[at]):
                continue
            allowed = constraint.allowed([*before, *own])
            if allowed is not None:
                index = torch.as_tensor(allowed, dtype=torch.long, device=logits.device)
                kept = logits[at, index]
                logits[at] = -torch.inf
                logits[at, index] = kept
        return logits

    def merge(self, logits: torch.Tensor, drawn: Sequence[Sequence[int]]) -> tuple[torch.Tensor, dict[int, int]]:
        """Return the logits [n, V], of each complete group those that its rows merge to, and for each row that has a
        say 1 or 0: whether it had it.

        A row that has drawn nothing is about to draw the end of its prompt, and is left as it is.
        """
        spoke: dict[int, int] = {}
        for name, group in self._groups.items():
            steps = {len(drawn[at]) for at in group.rows}
            if 0 in steps:
                continue
            if len(steps) > 1:
                raise RuntimeError(f"rows of {name!r} are at different steps: {sorted(steps)}")
            index = torch.tensor(group.rows, device=logits.device)
            found = merge(logits[index], group.merging, self._pointers[name])
            self._pointers[name] = found.pointer
            logits = logits.index_copy(0, index, found.logits.expand(len(group.rows), -1).to(logits.dtype))
            spoke |= {at: int(number == found.pointer) for number, at in enumerate(group.rows) if number}
        return logits, spoke

    def settle(
        self, tokens: torch.Tensor, logprobs: torch.Tensor, spoke: Mapping[int, int], drawn: Sequence[Sequence[int]]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return tokens and log-probs [n] with the ends of prompts in their places, one token for all rows of a group,
        and what rows with evidence say of it in the place of their log-probs.
        """
        tokens, logprobs = tokens.clone(), logprobs.clone()
        for group in self._groups.values():
            tokens[group.rows] = tokens[group.rows[0]].clone()
        for at, said in spoke.items():
            logprobs[at] = float(said)
        for at, row in enumerate(self.rows):
            if row is not None and not len(drawn[at]):
                tokens[at], logprobs[at] = row.forced, 0.0
        return tokens, logprobs
