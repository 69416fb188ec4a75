"""The recipes. Each is a module with a ``DESCRIPTION`` and a ``config()``; importing one loads no torch."""

from __future__ import annotations

RECIPES: dict[str, str] = {
    "quickstart": "recipes.quickstart",
    "judge": "recipes.judge",
    "warmup": "recipes.warmup",
    "tool_math": "recipes.tool_math",
    "smollm2": "recipes.smollm2",
    "qwen3_math": "recipes.qwen3_math",
    "moonlight": "recipes.moonlight",
    "long2short": "recipes.long2short",
}
"""Recipe name -> module: ``DESCRIPTION: str`` (one line) and ``config()``, which returns a ``RunConfig``, a
``PretrainConfig`` or a ``ShortenConfig``."""
