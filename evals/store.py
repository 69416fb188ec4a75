"""All answers of an evaluation as Parquet, one row per response.

``datasets.load_dataset("parquet", data_files="OUT/samples.parquet")`` reads it, as does any Parquet tool.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa

from evals.evaluate import Answer
from rewards.score import Score
from rollout.parquet import read_table, storable, write_tables
from rollout.strict_json import dumps

VERSION = b"1"
"""Raised when a column changes its meaning; stored in the file's metadata under ``k15.samples``."""

SCHEMA = pa.schema(
    [
        ("benchmark", pa.string()),
        ("problem", pa.string()),  # problem id
        ("sample", pa.int32()),  # which of the problem's responses
        ("question", pa.string()),  # the problem, before instruction and template
        ("answer", pa.string()),  # reference
        ("response", pa.string()),
        ("token_ids", pa.list_(pa.int32())),  # empty where unknown
        ("tokens", pa.int32()),  # null where unknown
        ("stop", pa.string()),  # eos, length, repetition, aborted; null where unknown
        ("verdict", pa.string()),  # correct, wrong, ungradable
        ("score", pa.float64()),  # null: ungradable
        ("extracted", pa.string()),  # answer read out of the response
        ("reason", pa.string()),  # why wrong or ungradable
        ("rule", pa.string()),  # verdict of the rule alone: correct, wrong; null: it gave none
        ("model", pa.float64()),  # probability of being right by the reward model; null: not asked, or no opinion
        ("opinion", pa.string()),  # what the reward model wrote of it last
        ("window", pa.int32()),  # window of evidence that spoke for the first token, from 1; null: not from several
        ("windows", pa.list_(pa.float64())),  # share of the tokens that each window spoke for
        ("holder", pa.int32()),  # the window that holds the answer; null: not known
        ("fields", pa.string()),  # the problem's further fields without its tests, as JSON
    ],
    metadata={b"k15.samples": VERSION},
)
_LATER = {"rule": None, "model": None, "opinion": "", "window": None, "windows": None, "holder": None}
"""Columns that files of the same version may lack, with their values then."""
_LARGE = ("tests", "test", "test_list", "challenge_test_list", "solution", "rationale", "statement", "evidence")
"""Fields that would multiply the file's size."""


def to_rows(benchmark: str, answers: Sequence[Answer]) -> Iterable[dict[str, object]]:
    """Yield one row of ``SCHEMA`` per answer."""
    for answer in answers:
        problem, response, score = answer.problem, answer.response, answer.score
        spoke = response.spoke
        fields = {key: value for key, value in problem.extra.items() if key not in _LARGE}
        yield {
            "benchmark": benchmark,
            "problem": storable(problem.id),
            "sample": answer.sample,
            "question": storable(problem.prompt),
            "answer": storable(problem.answer),
            "response": storable(response.text),
            "token_ids": list(response.token_ids),
            "tokens": response.tokens,
            "stop": response.stop,
            "verdict": score.verdict,
            "score": score.reward,
            "extracted": storable(score.extracted),
            "reason": storable(score.reason),
            "rule": rule_of(score),
            "model": score.parts.get("model"),
            "opinion": storable(score.opinion),
            "window": spoke.first if spoke else None,
            "windows": list(spoke.shares) if spoke else None,
            "holder": spoke.holder or None if spoke else None,
            "fields": dumps(fields, default=str),
        }


def rule_of(score: Score) -> str | None:
    """Return the rule's verdict on a response, where it gave one: its part of the score, or all of it where no reward
    model was asked.
    """
    rule = score.parts.get("rule")
    if rule is None:
        return None if "model" in score.parts or not score.gradable else score.verdict
    return "correct" if rule else "wrong"


def write_samples(path: Path, answers: Sequence[tuple[str, Sequence[Answer]]]) -> None:
    """Write the answers of each benchmark, aside first and then renamed. Raises ``OSError``."""
    write_tables(path, SCHEMA, (pa.Table.from_pylist(list(to_rows(name, own)), schema=SCHEMA) for name, own in answers))


def read_rights(path: Path) -> dict[str, list[bool]]:
    """Return whether each response is correct, by problem id; ungradable ones are left out. Raises ``FormatError``."""
    table = read_table(path, SCHEMA, ["problem", "verdict"])
    rights: dict[str, list[bool]] = {}
    for name, verdict in zip(table["problem"].to_pylist(), table["verdict"].to_pylist(), strict=True):
        own = rights.setdefault(name, [])
        if verdict != "ungradable":
            own.append(verdict == "correct")
    return rights
