"""The request for a generator program: CYaRon in brief, then the problem [2501.12599 §2.3.5]."""

from __future__ import annotations

USAGE = """\
CYaRon is a Python library that makes random test data. `from cyaron import *` brings:

- `io = IO(file_prefix="data", data_id=n)` opens `data<n>.in`; `io.input_write(...)` and `io.input_writeln(...)` write
  values, lists and nested lists separated by blanks, the second with a line end. Writing the input with `print` works
  as well. Outputs are not needed.
- `randint(a, b)`, `choice(items)`, `random()`, `uniform(a, b)` of Python's `random`, seeded from outside.
- `Vector.random(count, [(low, high), ...])` makes points, `Vector.random_unique_vector` different ones;
  `[x for (x,) in ...]` flattens vectors of one coordinate.
- `Graph.graph(points, edges, weight_limit=(1, 9), directed=False, self_loop=False, repeated_edges=False)`,
  `Graph.tree(points, chain, flower)` (shares that form a chain or a star), `Graph.chain`, `Graph.flower`, `Graph.DAG`,
  `Graph.UDAG`, `Graph.binary_tree`; `for edge in graph.iterate_edges()` gives `edge.start`, `edge.end`, `edge.weight`;
  `graph.to_str(output=...)` or writing the graph itself writes all edges.
- `String.random(length, charset="abc")`, `String.random_sentence(words)`.
- `Sequence(lambda i, f: ..., [first]).get(a, b)` for sequences defined by a formula.
- `Polygon.convex_hull(n)`, `Polygon.simple_polygon(points)` for geometry; both have `points`.
"""
_REQUEST = """\
Write a Python program that makes test inputs for the problem below with CYaRon. One run makes one input that keeps to
the problem's format and to all of its constraints; `int(sys.argv[1])` is the number of the run, from 0. Let the
first few be small and special (the least values, the greatest values, all equal, already sorted) and the later ones
random, with sizes growing up to the limits. The random generator is seeded before the program starts: do not seed it.
Answer with the program in one ```python block.
"""


def generator_prompt(problem: str) -> str:
    """Return the prompt that asks a model for a generator for ``problem`` (its statement)."""
    return f"{USAGE}\n{_REQUEST}\nProblem:\n\n{problem.strip()}\n"
