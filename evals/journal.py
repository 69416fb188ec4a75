"""The record of an evaluation: every response is on disk when it is complete, every score when it is given.

``settings.json``     what is evaluated; another setting needs another folder
``responses.jsonl``   one line per response; also a file that ``--predictions`` reads
``scores.jsonl``      one line per score

A process killed at any point loses at most the responses that were being drawn.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from evals.evaluate import Key, Response
from rewards.score import Score
from rollout.files import replace_file
from rollout.strict_json import dumps
from rollout.types import StopReason

Json = dict[str, Any]


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
        self._lock = threading.Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._guard = (folder / ".lock").open("w")
            fcntl.flock(self._guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._guard.close()
            raise JournalError(f"another process is writing to {folder}; wait for it or choose another --out") from None
        except OSError as error:
            raise JournalError(f"{folder} cannot be written: {error.strerror}; choose another --out") from error
        try:
            self._check_settings(settings)
            self._responses = {_key(row): response_from_json(row) for row in _rows(folder / "responses.jsonl")}
            self._scores = {_key(row): score_from_json(row) for row in _rows(folder / "scores.jsonl")}
        except JournalError:
            self._guard.close()
            raise
        self._files: dict[str, IO[str]] = {
            name: (folder / name).open("a", encoding="utf-8") for name in ("responses.jsonl", "scores.jsonl")
        }

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
        self._append("responses.jsonl", {"id": key[0], "sample": key[1], **response_to_json(response)})

    def keep_score(self, key: Key, score: Score) -> None:
        """See ``Record``."""
        self._append("scores.jsonl", {"id": key[0], "sample": key[1], **score_to_json(score)})

    def _append(self, name: str, row: Json) -> None:
        line = dumps(row) + "\n"  # ASCII, so lone surrogates of hostile text survive
        with self._lock:
            try:
                self._files[name].write(line)
                self._files[name].flush()
            except OSError as error:
                raise JournalError(
                    f"{self.folder / name} cannot be written: {error.strerror}; make room, the same command goes on"
                ) from error

    def close(self) -> None:
        """Close the files. Idempotent."""
        for file in self._files.values():
            file.close()
        self._guard.close()


@contextmanager
def opened(folder: Path, settings: Json) -> Iterator[Journal]:
    """A ``Journal`` for the length of a block."""
    journal = Journal(folder, settings)
    try:
        yield journal
    finally:
        journal.close()


def response_to_json(response: Response) -> Json:
    """The response as in ``responses.jsonl``; token ids last, they are long."""
    return {
        "response": response.text,
        "stop": response.stop,
        "tokens": response.tokens,
        "error": response.error,
        "token_ids": list(response.token_ids),
    }


def response_from_json(row: Json) -> Response:
    """Inverse of ``response_to_json``."""
    stop = None if row["stop"] is None else StopReason(row["stop"])
    return Response(row["response"], stop, row["tokens"], tuple(row["token_ids"]), row["error"])


def score_to_json(score: Score) -> Json:
    """The score as in ``scores.jsonl``."""
    return {
        "verdict": score.verdict,
        "score": score.reward,
        "extracted": score.extracted,
        "reason": score.reason,
        "parts": dict(score.parts),
    }


def score_from_json(row: Json) -> Score:
    """Inverse of ``score_to_json``."""
    return Score(row["score"], row["verdict"] == "correct", row["parts"], row["reason"], row["extracted"])


def _key(row: Json) -> Key:
    return row["id"], row["sample"]


def _rows(path: Path) -> Iterator[Json]:
    """The rows of a journal file; a last line torn by a crash is cut off, any other broken one is an error."""
    if not path.exists():
        return
    whole = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                break
            whole += len(line)
            try:
                row = json.loads(line)
                _key(row)
            except (ValueError, KeyError, TypeError) as error:
                raise JournalError(f"{path}:{number}: no line of this record ({error}); remove it to go on") from error
            yield row
    if whole < path.stat().st_size:
        os.truncate(path, whole)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
