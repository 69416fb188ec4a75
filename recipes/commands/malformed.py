"""Report of the lines of a file that were left out, by kind instead of one by one."""

from __future__ import annotations

from dataclasses import dataclass, field

MAX_KINDS = 20
"""Most kinds that are reported."""


@dataclass
class Malformed:
    """The lines of one file that were left out."""

    name: str
    """The file, as the command named it."""
    total: int = 0
    """Number of lines so far."""
    kinds: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    """Of each kind the first line, with what is particular to it, and the last one."""
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, number: int, kind: str, detail: str = "") -> None:
        """Count one more line: ``kind`` is the same text for every line with this fault, ``detail`` may differ."""
        self.total += 1
        self.counts[kind] = self.counts.get(kind, 0) + 1
        self.kinds[kind] = [*self.kinds.get(kind, [])[:1], (number, detail)]

    def lines(self) -> list[str]:
        """Return the report, a line for each kind: where it is first, and how many more there are up to where."""
        told = []
        for kind, ends in list(self.kinds.items())[:MAX_KINDS]:
            (first, detail), (last, _) = ends[0], ends[-1]
            more = self.counts[kind] - 1
            again = f" (and {more} more line{'s' if more > 1 else ''} up to {last})" if more else ""
            told.append(f"{self.name}:{first}: {kind}{'; ' if detail else ''}{detail}{again}")
        if len(self.kinds) > MAX_KINDS:
            told.append(f"{self.name}: and {len(self.kinds) - MAX_KINDS} other kinds of malformed lines")
        return told
