"""A tiny model that quotes: two layers, taught in a minute to write random text again behind a sign."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from benchmarks.common import say
from rollout.engine import Request, Sampling
from rollout.types import Prompt

VOCABULARY, WORDS, AGAIN, LONGEST, CONTEXT = 128, 64, 0, 64, 768


def lines(rng: np.random.Generator, count: int, length: int) -> np.ndarray:
    """Return ``count`` lines of random words, the sign, and the same words again; [count, 2 length + 1]."""
    text = rng.integers(1, WORDS, (count, length))
    return np.concatenate([text, np.full((count, 1), AGAIN), text], 1)


def taught(folder: Path, steps: int = 1500) -> str:
    """Teach the model, and return the directory of its weights; one that is there already is taken."""
    from transformers import LlamaConfig, LlamaForCausalLM

    if (folder / "config.json").exists():
        return str(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
    ends = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None, "tie_word_embeddings": False}
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=CONTEXT, num_key_value_heads=4, **sizes, **ends)
    )
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, betas=(0.9, 0.98))
    rng = np.random.default_rng(0)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1.0, step / 100, (steps - step) / (0.3 * steps))
        length = int(rng.integers(4, 17 + int((LONGEST - 16) * min(1.0, 1.5 * step / steps))))
        batch = torch.from_numpy(lines(rng, 512 // length, length))
        logits = model(batch[:, :-1]).logits[:, length:]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, length + 1 :].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 250 == 0:
            say(f"copyist: step {step}, loss {loss.item():.3f}")
    model.save_pretrained(folder)
    return str(folder)


def requests(count: int, temperature: float) -> list[Request]:
    """Return requests to write ``LONGEST`` words again."""
    prompts = lines(np.random.default_rng(1), count, LONGEST)[:, : LONGEST + 1].tolist()
    sampling = Sampling(temperature=temperature)
    return [Request(f"r{n}", Prompt(prompt), LONGEST, sampling, 1000 + n) for n, prompt in enumerate(prompts)]
