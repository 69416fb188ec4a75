"""From texts to the tokens that an encoder reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

Ids = list[int]


class Tokens:
    """A tokenizer with the number of tokens that are read of a text."""

    def __init__(self, tokenizer: Any, max_tokens: int, *, special: bool) -> None:
        """``tokenizer``: of transformers; ``special``: whether it adds the tokens that its model begins and ends texts
        with.
        """
        self._tokenizer = tokenizer
        self._most = max_tokens
        self._special = special
        self._own = self._ids([""])[0]

    def __call__(self, texts: Sequence[str]) -> list[Ids]:
        """Return each text's tokens, of the longer ones the first half and the last half; none for a text of which no
        token is left but those that begin and end every text.
        """
        return [[] if ids == self._own else cut(ids, self._most) for ids in self._ids(texts)]

    def _ids(self, texts: Sequence[str]) -> list[Ids]:
        # Models write lone surrogates, which are no text to the tokenizer's UTF-8.
        clean = [text.encode(errors="replace").decode() for text in texts]
        found: list[Ids] = self._tokenizer(
            clean, add_special_tokens=self._special, padding=False, truncation=False, return_attention_mask=False,
            return_token_type_ids=False, verbose=False,
        )["input_ids"]  # fmt: skip
        return found


def cut(ids: Ids, most: int) -> Ids:
    """Return the first half and the last half of ``most`` tokens; all where they are no more."""
    return ids if len(ids) <= most else ids[: most - most // 2] + ids[len(ids) - most // 2 :]


def batches(ids: Sequence[Ids], batch_tokens: int) -> Iterator[list[int]]:
    """Yield the indices of texts that go through a model together: of similar length, so that little of it is padding,
    and at most ``batch_tokens`` with it, or one text. Texts without tokens are left out.
    """
    batch: list[int] = []
    for index in sorted(
        (index for index, found in enumerate(ids) if found), key=lambda index: (-len(ids[index]), index)
    ):
        if batch and (len(batch) + 1) * len(ids[batch[0]]) > batch_tokens:  # the first is the longest
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
