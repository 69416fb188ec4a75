"""The choice of the records that a page shows when there are very many: always the same ones, with rare kinds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

T = TypeVar("T")


def evenly(items: Sequence[T], count: int) -> list[T]:
    """Return at most ``count`` of ``items``, in order, at even distances from the first one on."""
    if count >= len(items):
        return list(items)
    return [items[i * len(items) // count] for i in range(max(0, count))]


def choose(items: Sequence[T], kinds: Callable[[T], Iterable[object]], limit: int) -> list[T]:
    """Return at most ``limit`` items, in order: of every kind an even spread first, then of the rest.

    ``kinds`` of an item may be several; those of all items share half of the places.
    """
    if len(items) <= limit:
        return list(items)
    members: dict[object, list[int]] = {}
    for index, item in enumerate(items):
        for kind in kinds(item):
            members.setdefault(kind, []).append(index)
    picked: set[int] = set()
    for own in members.values():
        picked.update(evenly(own, max(1, limit // (2 * len(members)))))
    rest = [index for index in range(len(items)) if index not in picked]
    picked.update(evenly(rest, limit - len(picked)))
    return [items[index] for index in sorted(picked)]
