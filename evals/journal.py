"""The record of an evaluation: every response is on disk when it is complete, every score when it is given.

``settings.json``     what is evaluated; another setting needs another folder
``responses.jsonl``   one line per response; also a file that ``--predictions`` reads
``scores.jsonl``      one line per score

A process killed at any point loses at most the responses that were being drawn.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evals.evaluate import Key, Response, Spoke
from rewards.score import Score
from rollout.files import replace_file
from rollout.lines import BrokenLine, LineWriter, read_lines
from rollout.lock import locked
from rollout.types import StopReason

Json = dict[str, Any]
RESPONSES = "responses.jsonl"


class JournalError(RuntimeError):
    """The record cannot be read, written or continued; the message says why and what to do."""


class Journal:
    """The record of one benchmark in one folder; implements ``evals.evaluate.Record``. Close it, or use ``opened``."""

    def __init__(self, folder: Path, settings: Json) -> None:
        """Open the record in ``folder``, new or to be continued.

        Raises ``JournalError`` when the folder holds the record of other settings (which ones is said), is in use by
        another process, or cannot be written.
        """
        self.folder = folder
        with ExitStack() as stack:
            stack.enter_context(locked(folder, JournalError, "--out"))
            self._check_settings(settings)
            self._responses = {_key(row): response_from_json(row) for row in _rows(folder / RESPONSES)}
            self._scores = {_key(row): score_from_json(row) for row in _rows(folder / "scores.jsonl")}
            self._files: dict[str, LineWriter] = {}
            for name in (RESPONSES, "scores.jsonl"):
                self._files[name] = LineWriter(folder / name)
                stack.callback(self._files[name].close)
            self._stack = stack.pop_all()

    def _check_settings(self, settings: Json) -> None:
        path = self.folder / "settings.json"
        new = json.loads(json.dumps(settings))
        if path.exists():
            old = json.loads(path.read_bytes())
            changed = [
                f"{k}: {_short(old.get(k))} -> {_short(new.get(k))}" for k in {**old, **new} if old.get(k) != new.get(k)
            ]
            if changed:
                raise JournalError(
                    f"{self.folder} holds answers under other settings ({'; '.join(changed)}); "
                    "choose another --out, or remove this one"
                )
        else:
            replace_file(path, (json.dumps(new, indent=1) + "\n").encode())

    @property
    def responses(self) -> Mapping[Key, Response]:
        """See ``Record``."""
        return self._responses

    @property
    def scores(self) -> Mapping[Key, Score]:
        """See ``Record``."""
        return self._scores

    def keep_response(self, key: Key, response: Response) -> None:
        """See ``Record``; a later line replaces an earlier one of the same sample."""
        self._append(RESPONSES, {"id": key[0], "sample": key[1], **response_to_json(response)})

    def keep_score(self, key: Key, score: Score) -> None:
        """See ``Record``."""
        self._append("scores.jsonl", {"id": key[0], "sample": key[1], **score_to_json(score)})

    def _append(self, name: str, row: Json) -> None:
        try:
            self._files[name].append(row)
        except OSError as error:
            raise JournalError(
                f"{self.folder / name} cannot be written: {error.strerror}; make room, the same command goes on"
            ) from error

    def close(self) -> None:
        """Close the files. Idempotent."""
        self._stack.close()


@contextmanager
def opened(folder: Path, settings: Json) -> Iterator[Journal]:
    """Open a ``Journal`` for the length of a ``with`` block."""
    journal = Journal(folder, settings)
    try:
        yield journal
    finally:
        journal.close()


def drawn(folder: Path) -> set[Key]:
    """Return the samples whose responses are on record. Raises ``JournalError``."""
    return {_key(row) for row in _rows(folder / RESPONSES)}


def response_to_json(response: Response) -> Json:
    """Return the response as in ``responses.jsonl``; token ids come last, because they are long."""
    return {
        "response": response.text,
        "stop": response.stop,
        "tokens": response.tokens,
        "error": response.error,
        **({} if response.score is None else {"judged": score_to_json(response.score)}),
        **({} if response.spoke is None else {"windows": asdict(response.spoke)}),
        "token_ids": list(response.token_ids),
    }


def response_from_json(row: Json) -> Response:
    """Inverse of ``response_to_json``."""
    stop = None if row["stop"] is None else StopReason(row["stop"])
    score = score_from_json(row["judged"]) if "judged" in row else None
    said = row.get("windows")
    spoke = None if said is None else Spoke(said["first"], tuple(said["shares"]), said["holder"])
    return Response(row["response"], stop, row["tokens"], tuple(row["token_ids"]), row["error"], score, spoke)


def score_to_json(score: Score) -> Json:
    """Return the score as in ``scores.jsonl``."""
    return {
        "verdict": score.verdict,
        "score": score.reward,
        "extracted": score.extracted,
        "reason": score.reason,
        "parts": dict(score.parts),
        **({"opinion": score.opinion} if score.opinion else {}),
    }


def score_from_json(row: Json) -> Score:
    """Inverse of ``score_to_json``."""
    texts = row["reason"], row["extracted"], row.get("opinion", "")
    return Score(row["score"], row["verdict"] == "correct", row["parts"], *texts)


def _key(row: Json) -> Key:
    return row["id"], row["sample"]


def _rows(path: Path) -> Iterator[Json]:
    """Yield the rows of a journal file. A last one torn by a crash is left out; any other broken one is an error."""
    try:
        for number, row in read_lines(path):
            try:
                _key(row)
            except (KeyError, TypeError) as error:
                raise BrokenLine(number, error) from error
            yield row
    except BrokenLine as error:
        raise JournalError(
            f"{path}:{error.number}: no line of this record ({error.reason}); remove it to go on"
        ) from error


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
