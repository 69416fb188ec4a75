"""Resolve ``requirements.lock`` anew: ``make lock``.

One version of every package that the extras cpu and dev bring, for Linux on x86_64 and aarch64 and all Pythons that
k15 takes. Names no index and no file, so that it holds with any mirror.
"""

from __future__ import annotations

import sys
from itertools import product

import setup
from packaging.markers import Environment, Marker, default_environment

VERSIONS = ("3.11", "3.12", "3.13", "3.14")
MACHINES = ("x86_64", "aarch64")


def environments() -> list[Environment]:
    """Where k15 runs."""
    return [
        default_environment()
        | {"python_version": version, "python_full_version": f"{version}.0", "platform_machine": machine}
        for version, machine in product(VERSIONS, MACHINES)
    ]


def reduced(line: str) -> str | None:
    """A line of the lock without a marker that always holds; ``None`` for one that never does."""
    requirement, semicolon, marker = line.partition(" ; ")
    holds = [Marker(marker).evaluate(dict(one)) for one in environments()] if semicolon else [True]
    return requirement if all(holds) else line if any(holds) else None


def main() -> None:
    """Write the lock."""
    settings = list(setup.pip_settings())
    command = [setup.UV, "pip", "compile", "--universal", "--python-version", VERSIONS[0], "--upgrade", "--quiet"]
    command += ["--index-strategy", "unsafe-best-match", *setup.uv_options(settings)]
    command += ["--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links"]
    command += ["--extra", "cpu", "--extra", "dev", "pyproject.toml", "--output-file", setup.PINNED]
    setup.run(command, "resolving", setup.uv_variables(settings))
    lines = [reduced(line) for line in setup.PINNED.read_text().splitlines()]
    kept = [line for line in lines if line is not None]
    setup.PINNED.write_text("\n".join(["# What `make` installs, resolved by `make lock`.", *kept]) + "\n")
    print(f"{len(kept)} packages in {setup.PINNED.name}")


if __name__ == "__main__":
    try:
        main()
    except setup.SetupError as error:
        sys.exit(f"lock: {error}")
