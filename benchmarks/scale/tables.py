"""Rows of the scale model as the Markdown tables of docs/scale.md."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

Row = dict[str, Any]


def markdown(rows: Sequence[Row]) -> str:
    """Return all tables, separated by empty lines."""

    def named(name: str) -> list[Row]:
        return [row for row in rows if row["row"] == name]

    tables = (
        constants(named("constant")),
        anchors(named("anchor")),
        sensitivities(named("sensitivity")),
        plans(named("plan")),
        largest(named("largest")),
    )
    return "\n\n".join("\n".join(table) for table in tables)


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(str(cell) for cell in line) + " |" for line in lines]


def constants(rows: Sequence[Row]) -> list[str]:
    """Numbers that are on no data sheet."""
    return _table(("constant", "value", "source"), [(row["name"], f"{row['value']:g}", row["source"]) for row in rows])


def anchors(rows: Sequence[Row]) -> list[str]:
    """Published figures against predicted ones."""

    def line(row: Row) -> tuple[object, ...]:
        low, high = (f"{value:,g}" for value in row["published"])
        ratio = f"{row['ratio']:.2f}" if row["within"] else f"**{row['ratio']:.2f}**"
        published = low if low == high else f"{low} to {high}"
        return row["what"], row["unit"], published, f"{row['predicted']:,g}", ratio, row["kind"], row["source"]

    return _table(("figure", "unit", "published", "model", "ratio", "kind", "source"), map(line, rows))


def sensitivities(rows: Sequence[Row]) -> list[str]:
    """Speed-ups over mean lengths."""
    means = list(rows[0]["speed_up_by_mean_length"]) if rows else []
    head = ("synchronous to asynchronous", *(f"mean {int(mean):,}" for mean in means))
    return _table(head, [(row["what"], *row["speed_up_by_mean_length"].values()) for row in rows])


def plans(rows: Sequence[Row]) -> list[str]:
    """A line for each model, length and number of GPUs: seconds of a step in all three ways, mesh and engines of the
    fastest but for whole rollouts.
    """
    cells: dict[tuple[str, int, int], dict[str, Row]] = {}
    for row in rows:
        cells.setdefault((row["model"], row["longest"], row["gpus"]), {})[row["way"]] = row
    head = ("model", "longest", "GPUs", "synchronous", "partial", "overlapped", "fastest", "mesh", "engines",
            "tokens/s/GPU", "state + activations, GiB")  # fmt: skip

    def line(key: tuple[str, int, int], ways: dict[str, Row]) -> tuple[object, ...]:
        seconds = [f"{row['seconds']['step']:,.0f} s" if row["fits"] else "does not fit" for row in ways.values()]
        fitting = [row for row in ways.values() if row["fits"]]
        if not fitting:
            return (*key, *seconds, "", "", "", "", "")
        best = min(fitting, key=lambda row: row["seconds"]["step"])
        memory = best["gib_per_gpu"]
        return (
            key[0],
            f"{key[1] // 1024}K",
            key[2],
            *seconds,
            best["way"],
            " x ".join(str(size) for size in best["mesh"]),
            f"{best['engines']} of {best['tensor_parallel']}",
            f"{best['tokens_per_second_and_gpu']:,.0f}",
            f"{memory['state']:.1f} + {memory['activations']:.1f}",
        )

    return _table(head, [line(key, ways) for key, ways in cells.items()])


def largest(rows: Sequence[Row]) -> list[str]:
    """The largest model for each number of GPUs."""
    return _table(
        ("longest", "GPUs", "largest model tried that fits", "what the learner alone could hold, billions"),
        [
            (f"{row['longest'] // 1024}K", row["gpus"], row["model"] or "none", f"{row['learner_alone_billions']:,}")
            for row in rows
        ],
    )
