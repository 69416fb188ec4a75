"""AIME 1983 to 2023: large enough for narrow intervals, old enough to be in most training data."""

from __future__ import annotations

from evals.benchmark import BOXED, Benchmark, Row, followed_by
from rollout.problems.config import HubSource


def convert(row: Row) -> Row:
    """Convert a row of gneubig/aime-1983-2024."""
    year = int(row["Year"])
    return {
        "id": f"aime-{row['ID']}",
        "problem": row["Question"],
        "answer": str(row["Answer"]),
        "year": year,
        "decade": decade(year),
    }


def decade(year: int) -> str:
    """Return the decade of a year, e.g. ``1980s``."""
    return f"{year // 10 * 10}s"


BENCHMARK = Benchmark(
    name="aime1983_2023",
    title="AIME 1983\N{EN DASH}2023",
    published=(
        "No usual protocol. Many of these problems stand in common training sets (MATH's training half has at least "
        "313): read the score as an upper bound. The hub's copy has 933 problems up to 2024, the local file 975."
    ),
    file="aime_1983_2023.jsonl",
    hub=HubSource(path="gneubig/aime-1983-2024", split="train"),
    convert=convert,
    keep=lambda row: int(row.get("year") or 0) <= 2023,
    ask=followed_by(BOXED),
    temperature=0.6,
    top_p=0.95,
    breakdown=("year",),
)
