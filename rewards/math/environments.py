"""Contents of LaTeX environments: matrices, systems of statements, values with their conditions."""

from __future__ import annotations

from abc import ABC, abstractmethod

from rewards.math.numerals import Numerals
from rewards.math.tree import Listing, Matrix, Node, Piecewise, Text, Unreadable

_MATRICES = frozenset({"pmatrix", "bmatrix", "matrix", "Bmatrix", "array"})
_SYSTEMS = frozenset({"cases", "aligned", "align", "gathered", "dcases"})
_CONDITIONS = frozenset({"if", "when", "for", "where"})


class Environments(Numerals, ABC):
    """Reads environments; what stands in their cells is read by the methods that a subclass adds."""

    @abstractmethod
    def statement(self) -> Node:
        """Return a value, or values with relation signs between them."""

    @abstractmethod
    def item(self) -> Node:
        """Statements with signs of logic between them."""

    def matrix(self, kind: str) -> Node:
        """Return a matrix environment, a system of statements, or values with their conditions."""
        if kind not in _MATRICES and kind not in _SYSTEMS:
            raise Unreadable(f"a {kind[:20]!r}")
        rows: list[tuple[Node, ...]] = []
        row: list[Node] = []
        while True:
            row.append(self.cell(bool(row)) if kind in _SYSTEMS else self.statement())
            self.take(",", ";")
            if self.take("&"):
                continue
            rows.append(tuple(row))
            row = []
            ended = self.take("newline")
            if self.take(f"end {kind}"):
                break
            if not ended:
                raise Unreadable("a broken matrix")
        if kind in _MATRICES:
            return Matrix(tuple(rows))
        if all(len(cells) == 1 for cells in rows):
            return Listing(tuple(cells[0] for cells in rows))
        if all(len(cells) == 2 for cells in rows):
            return Piecewise(tuple(rows))
        raise Unreadable("a system with rows of different lengths")

    def cell(self, condition: bool) -> Node:
        """Return a statement; as a condition it may begin with "if"."""
        if condition and self.kind() == "text":
            words = self.tokens[self.at].value.lower().strip(" ,.:")
            if words in _CONDITIONS:
                self.at += 1
            elif words in ("otherwise", "else"):
                self.at += 1
                return Text("otherwise")
        return self.item()
