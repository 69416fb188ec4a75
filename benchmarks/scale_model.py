"""What training takes on more GPUs than anybody here has: a cost model, and how it does on published figures.

    python -m benchmarks.scale_model [--gpu H200] [--gpus 8,64,512,1024] [--markdown]

No GPU and no network; a minute on one core. JSON lines:

- `constant`: each number that is on no data sheet, with its source.
- `anchor`: a published figure, the model's own, and their ratio. `kind`: a constant was `fitted` to it, something that
  its source does not tell was `adjusted` with it in view, it was `held out`, or it is an `extra` that no goal asks for.
- `sensitivity`: speed-ups of asynchronous runs over the mean length of their responses, which nobody published.
- `plan`: a step of 8,192 responses (mean a quarter of the longest) for each model, length and number of GPUs: drawn and
  trained one after the other on the same GPUs, with whole and with partial rollouts, or at the same time on different
  ones; mesh, seconds, bytes.
- `largest`: the largest of some models that a number of GPUs trains.

Goals: every anchor within 30 %, and a plan or a reason for each cell. docs/scale.md explains all of it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.common import emit
from benchmarks.scale.anchors import ANCHORS, SENSITIVITY, SENSITIVITY_MEANS
from benchmarks.scale.hardware import DEFAULT, GIB, H20, H100, H200, H800, SOURCES, Gpu
from benchmarks.scale.models import LADDER, PLANNED
from benchmarks.scale.plan import Plan, Workload, fits, largest_state, memory, overlapped, synchronous, traffic
from benchmarks.scale.rollout import Lengths
from benchmarks.scale.tables import markdown

Row = dict[str, Any]

SIZES = (8, 64, 512, 1024)
CONTEXTS = (32_768, 131_072)
WITHIN = 0.30
GPUS = {gpu.name: gpu for gpu in (H100, H200, H800, H20)}


def constants() -> Iterator[Row]:
    """Yield every number that is on no data sheet."""
    for name, source in SOURCES.items():
        yield {"row": "constant", "name": name, "value": getattr(DEFAULT, name), "source": source}


def anchors() -> Iterator[Row]:
    """Yield published figures with the model's own."""
    for anchor in ANCHORS:
        predicted = anchor.predict()
        ratio = predicted / anchor.published
        yield {
            "row": "anchor",
            "what": anchor.what,
            "unit": anchor.unit,
            "kind": anchor.kind,
            "published": [anchor.low, anchor.high],
            "predicted": round(predicted, 2),
            "ratio": round(ratio, 2),
            "within": abs(ratio - 1) <= WITHIN,
            "source": anchor.source,
        }


def sensitivities() -> Iterator[Row]:
    """Yield speed-ups over the mean length."""
    for name, speed_up in SENSITIVITY.items():
        found = {str(mean): round(speed_up(mean), 2) for mean in SENSITIVITY_MEANS}
        yield {"row": "sensitivity", "what": name, "speed_up_by_mean_length": found}


def plans(gpu: Gpu, sizes: Sequence[int], contexts: Sequence[int] = CONTEXTS) -> Iterator[Row]:
    """Yield a row for every model, longest response, number of GPUs and way to train."""
    for model in PLANNED:
        for context in contexts:
            work = Workload(Lengths(context / 4, context))
            for gpus in sizes:
                key = {"row": "plan", "model": model.name, "longest": context, "gpus": gpus, "gpu": gpu.name}
                ways = {
                    "synchronous": synchronous(model, gpu, gpus, work, partial=False),
                    "partial": synchronous(model, gpu, gpus, work, partial=True),
                    "overlapped": overlapped(model, gpu, gpus, work),
                }
                for way, plan in ways.items():
                    cell = {"fits": False} if plan is None else numbers(plan)
                    if plan is not None:
                        gigabytes = {name: value / 1e9 for name, value in traffic(model, plan).items()}
                        gibibytes = {name: value / GIB for name, value in memory(model, plan, work).items()}
                        cell |= {"gb_received": rounded(gigabytes), "gib_per_gpu": rounded(gibibytes)}
                    yield key | {"way": way} | cell


def numbers(plan: Plan) -> Row:
    """Return a plan as plain values."""
    learning = plan.learning
    seconds = {
        "step": plan.step,
        "rollout": plan.rollout,
        "reference": learning.reference,
        "train": learning.train,
        "optimizer": learning.optimizer,
        "publish": plan.publish,
        "prefill_again": plan.again,
    }
    return {
        "fits": True,
        "mesh": [plan.mesh.replicate, plan.mesh.shard, plan.mesh.sequence],
        "engines": plan.engines,
        "tensor_parallel": plan.tensor_parallel,
        "seconds": rounded(seconds),
        "waste": round(learning.waste, 3),
        "tokens_per_second_and_gpu": round(plan.tokens / plan.step / plan.gpus, 1),
    }


def rounded(values: dict[str, float]) -> dict[str, float]:
    """Return three significant digits."""
    return {name: float(f"{value:.3g}") for name, value in values.items()}


def largest(gpu: Gpu, sizes: Sequence[int]) -> Iterator[Row]:
    """Yield the largest model of ``LADDER`` that each number of GPUs trains, and what the learner alone could hold."""
    for context in CONTEXTS:
        for gpus in sizes:
            fitting = [model for model in LADDER if fits(model, gpu, gpus, context)]
            yield {
                "row": "largest",
                "longest": context,
                "gpus": gpus,
                "gpu": gpu.name,
                "model": max(fitting, key=lambda model: model.parameters).name if fitting else None,
                "learner_alone_billions": round(largest_state(gpu, gpus) / 1e9),
            }


def verdict(rows: Sequence[Row]) -> Row:
    """Return the last line: goals with their figures."""
    asked = [row for row in rows if row["row"] == "anchor" and row["kind"] != "extra"]
    extra = [row for row in rows if row["row"] == "anchor" and row["kind"] == "extra"]
    held_out = [row for row in asked if row["kind"] == "held out"]
    cells = [row for row in rows if row["row"] == "plan"]
    worst = max(asked, key=lambda row: abs(row["ratio"] - 1))
    goals = {
        "anchors_within_30_percent": {
            "figure": f"{sum(row['within'] for row in asked)} of {len(asked)}",
            "worst": [worst["what"], worst["ratio"]],
            "met": all(row["within"] for row in asked),
        },
        "held_out_anchors_within_30_percent": {
            "figure": f"{sum(row['within'] for row in held_out)} of {len(held_out)}",
            "met": all(row["within"] for row in held_out),
        },
        "cells_planned": {
            "figure": f"{sum(row['fits'] for row in cells)} of {len(cells)} fit",
            "met": all(
                any(row["fits"] for row in cells if all(row[k] == cell[k] for k in ("model", "longest", "gpus")))
                for cell in cells
            ),
        },
    }
    beyond = f"{sum(row['within'] for row in extra)} of {len(extra)}"
    return {"goals": goals, "extra_within_30_percent": beyond, "met": all(goal["met"] for goal in goals.values())}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print rows, then the verdict; 0 where all goals are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu", choices=GPUS, default=H100.name)
    parser.add_argument("--gpus", type=lambda text: [int(part) for part in text.split(",")], default=list(SIZES))
    parser.add_argument("--markdown", action="store_true", help="the tables of docs/scale.md instead of JSON lines")
    options = parser.parse_args(arguments)
    gpu = GPUS[options.gpu]
    rows: list[Row] = []
    for part in (constants(), anchors(), sensitivities(), plans(gpu, options.gpus), largest(gpu, options.gpus)):
        for row in part:
            rows.append(row)
            if not options.markdown:
                emit(row)
    last = verdict(rows)
    if options.markdown:
        print(markdown(rows))
    else:
        emit(last)
    return 0 if last["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
