"""The watch of a response's tail decides as the plain definition does, token by token."""

from __future__ import annotations

import random

from rollout.partial import repeats
from rollout.repetition import Repetition


def test_the_watch_decides_as_the_definition_at_every_token() -> None:
    draw = random.Random(0)
    seen = 0
    for _ in range(400):
        least = draw.randint(0, 6)
        most, count, words = draw.randint(max(least, 1), 12), draw.randint(2, 5), draw.choice([1, 2, 3, 5])
        watch, tokens = Repetition(least, most, count), []
        for _ in range(150):
            fresh = draw.random() < 0.4 or len(tokens) < 12
            tokens.append(draw.randrange(words) if fresh else tokens[-draw.choice([2, 3, 5, 12])])
            found = watch.add(tokens[-1])
            assert found == repeats(tokens, least, most, count), (tokens, least, most, count)
            seen += found
    assert seen > 1000


def test_any_token_id_is_a_character() -> None:
    watch = Repetition(1, 2, 2)
    assert [watch.add(token) for token in (0, 0xD800, 0xD800, 0x10FFFF, 0xD800, 0x10FFFF)] == [
        False, False, True, False, False, True,
    ]  # fmt: skip
