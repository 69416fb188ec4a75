"""One long sequence trained by several ranks that share it: ``python -m benchmarks.ulysses``.

Forward and backward pass of a small random Llama on one sequence, by 1, 2, ... processes (gloo) of one thread each; one
JSON line for each length and number of ranks, figures of the rank with the most:

- `peak_mib`: memory beyond what the process had before, at most: activations and gradients. Weights are not cut here.
- `seconds`: wall time, of the fastest of some rounds; `cpu_seconds`: processor time of all ranks.
- `exchanges`, `sent_mib`: of all layers together, and what one rank sends to others by them.
- `gap`: largest difference of a log-prob to that of one rank, in nats.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import multiprocessing

from benchmarks.common import emit, environment, ratio
from rl.learner.batch import Batch, pack_demonstrations
from rl.learner.config import ModelConfig
from rl.learner.forward import PolicyModel
from rl.learner.policy import prepare
from rl.objectives.protocol import Needs
from rollout.models.attention import AttentionConfig, BlockAttentionConfig

LAYERS, HEADS, KEY_HEADS, WIDTH, VOCABULARY = 4, 8, 2, 256, 1024
BLOCKS = BlockAttentionConfig(block_size=256, top_k=4)


@dataclass(frozen=True)
class Work:
    """What all ranks do."""

    tokens: int
    ranks: int
    blocks: bool
    checkpointing: bool
    rounds: int


def policy_of(work: Work) -> PolicyModel:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    settings = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=704,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KEY_HEADS,
        max_position_embeddings=work.tokens,
    )
    attention = AttentionConfig(moba=BLOCKS if work.blocks else None)
    config = ModelConfig(threads=1, gradient_checkpointing=work.checkpointing, attention=attention)
    policy = prepare(LlamaForCausalLM(settings), config, sequence=work.ranks)
    return PolicyModel(policy, torch.float32, sequence=dist.group.WORLD if work.ranks > 1 else None)


def batch_of(work: Work) -> Batch:
    tokens = torch.randint(VOCABULARY, (work.tokens,), generator=torch.Generator().manual_seed(1)).tolist()
    return pack_demonstrations([(tokens[:1], tokens[1:])])


def peak_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


class Traffic:
    """Counts the exchanges of a process, and the bytes that it sends to others by them."""

    def __init__(self, ranks: int) -> None:
        self.calls, self.bytes, self.share = 0, 0, (ranks - 1) / ranks
        self._swap = dist.all_to_all_single
        dist.all_to_all_single = self

    def __call__(self, received: torch.Tensor, sent: torch.Tensor, **options: Any) -> Any:
        self.calls += 1
        self.bytes += int(sent.nbytes * self.share)
        return self._swap(received, sent, **options)


def run(rank: int, work: Work, folder: str) -> None:
    """One rank; leaves its figures in ``folder``."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=work.ranks)
    policy, batch, traffic = policy_of(work), batch_of(work), Traffic(work.ranks)
    before, seconds, spent = peak_kib(), [], []
    for _ in range(work.rounds):
        policy.zero_grad(set_to_none=True)
        dist.barrier()
        began, processor = time.perf_counter(), time.process_time()
        logprobs = policy(batch, Needs()).logprobs
        logprobs.mean().backward()
        dist.barrier()
        seconds.append(time.perf_counter() - began)
        spent.append(time.process_time() - processor)
    figures = {
        "peak_mib": (peak_kib() - before) / 1024,
        "seconds": min(seconds),
        "cpu_seconds": min(spent),
        "exchanges": traffic.calls // work.rounds,
        "sent_mib": traffic.bytes / work.rounds / 2**20,
    }
    torch.save({"figures": figures, "logprobs": logprobs.detach()}, Path(folder) / f"{rank}.pt")
    dist.barrier()


def measured(work: Work) -> tuple[dict[str, float], torch.Tensor]:
    """Figures over all ranks, and the log-probs that rank 0 found."""
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(run, (work, folder), nprocs=work.ranks)  # fresh processes: a peak never falls
        found = [torch.load(Path(folder) / f"{rank}.pt") for rank in range(work.ranks)]
    rows = [each["figures"] for each in found]
    most = {name: round(max(row[name] for row in rows), 2) for name in rows[0]}
    return most | {"cpu_seconds": round(sum(row["cpu_seconds"] for row in rows), 2)}, found[0]["logprobs"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[8192, 16384])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2], help="the first is what others are compared to")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--blocks", action="store_true", help="block attention (MoBA)")
    parser.add_argument("--checkpointing", action="store_true", help="recompute layers in the backward pass")
    arguments = parser.parse_args()
    emit({"environment": environment()})
    for tokens in arguments.tokens:
        first: tuple[dict[str, float], torch.Tensor] | None = None
        for ranks in arguments.ranks:
            work = Work(tokens, ranks, arguments.blocks, arguments.checkpointing, arguments.rounds)
            figures, logprobs = measured(work)
            first = first or (figures, logprobs)
            shares = {f"{name}_ratio": ratio(figures[name], first[0][name]) for name in ("peak_mib", "seconds")}
            gap = (logprobs - first[1]).abs().max().item()
            emit({"tokens": tokens, "ranks": ranks, "blocks": work.blocks, **figures, **shares, "gap": gap})


if __name__ == "__main__":
    main()
