"""The configuration that a command means: a recipe of ours, of an installed package or of a file, and its changes.

Loads nothing heavy.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes import RECIPES
from recipes.commands.usage import UsageError

if TYPE_CHECKING:
    from rl.config import Config, RunConfig
    from rl.pretraining_config import PretrainConfig

GROUP = "k15.recipes"
"""Entry points that name recipes of installed packages: a module with ``config()``, or such a function."""


def full_name(recipe: str) -> str:
    """Return a recipe as configurations record it: a file by its absolute path. Raises ``UsageError``."""
    from rollout.user_code import UserCodeError, absolute, is_file

    try:
        return absolute(recipe) if is_file(recipe) else recipe
    except UserCodeError as error:
        raise UsageError(str(error)) from error


def short_name(recipe: str) -> str:
    """Return a recipe's name as one word, for folders and pages: ``my_recipe`` for ``/a/my_recipe.py``."""
    from rollout.user_code import is_file

    return Path(recipe.rpartition(".py")[0]).name if is_file(recipe) else recipe


def recipe_config(name: str) -> Config:
    """Return the configuration of a recipe: a ``RunConfig``, ``PretrainConfig`` or ``ShortenConfig``.

    ``name`` is one of ours, an entry point of ``k15.recipes``, or a file with ``config()``. Raises ``UsageError``.
    """
    if name in RECIPES:
        config: Config = importlib.import_module(RECIPES[name]).config()
        return config
    from rollout.user_code import is_file, names_of

    if not is_file(name) and name not in names_of(GROUP):
        raise UsageError(_unknown(name, names_of(GROUP)))
    return _own_config(name)


def _unknown(name: str, installed: Sequence[str]) -> str:
    names = [*RECIPES, *installed]
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if Path(f"{name}.py").is_file():
        near = [f"{name}.py"]
    hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(names)}; or name a file: my_recipe.py"
    return f"unknown recipe '{name}'; {hint}"


def _own_config(name: str) -> Config:
    """Return the configuration of a recipe from a file or an installed package."""
    from pydantic import ValidationError

    from recipes.shorten.config import ShortenConfig
    from rl.config import RunConfig
    from rl.config_io import explained
    from rl.pretraining_config import PretrainConfig
    from rollout.user_code import UserCodeError, explain, load, source_of

    try:
        found = load(name, GROUP)
    except UserCodeError as error:
        raise UsageError(str(error)) from error
    file = source_of(name, found)[0] or name
    make = getattr(found, "config", found)
    if not callable(make):
        raise UsageError(f"{file}: a recipe has a function config() that returns a RunConfig")
    try:
        config = make()
    except ValidationError as error:
        kind = next((kind for kind in (RunConfig, PretrainConfig, ShortenConfig) if kind.__name__ == error.title), None)
        told = explained(error, kind).with_traceback(error.__traceback__) if kind else error
        raise UsageError(f"{explain(told, file)} (while it made its configuration)") from error
    except Exception as error:
        raise UsageError(f"{explain(error, file)} (while it made its configuration)") from error
    if isinstance(config, RunConfig | PretrainConfig):
        return config.model_copy(update={"recipe": full_name(name)})
    if isinstance(config, ShortenConfig):
        return config
    raise UsageError(f"{file}: config() returned {type(config).__name__}, not a RunConfig")


def described() -> Iterator[tuple[str, str]]:
    """Yield name and description of every recipe: ours, then those of installed packages."""
    from rollout.user_code import UserCodeError, load, names_of

    for name, module in RECIPES.items():
        yield name, importlib.import_module(module).DESCRIPTION
    for name in names_of(GROUP):
        try:
            yield name, getattr(load(name, GROUP), "DESCRIPTION", "(no DESCRIPTION)")
        except UserCodeError as error:  # one broken package must not hide the others
            yield name, f"cannot be loaded: {error}"


def training_recipe(name: str) -> RunConfig | PretrainConfig:
    """Return the configuration of a recipe for ``k15 train``. Raises ``UsageError`` for any other."""
    from rl.config import RunConfig
    from rl.pretraining_config import PretrainConfig

    config = recipe_config(name)
    if not isinstance(config, RunConfig | PretrainConfig):
        raise UsageError(f"recipe '{name}' shortens a trained model: k15 shorten MODEL_OR_RUN --recipe {name} ...")
    return config


def resolve(recipe: str | None, file: Path | None, pairs: Sequence[tuple[str, str]]) -> RunConfig | PretrainConfig:
    """Apply recipe, then file, then keys. Without a recipe the file's own ``recipe`` is the base, if it names one."""
    from rl.config_io import ConfigError, load, read_file

    try:
        tree = read_file(file) if file else {}
        named = full_name(recipe) if recipe is not None else None
        written_for = full_name(str(tree.get("recipe", named or "")))
        if named is None and file is None:
            raise UsageError(f"name a recipe ({', '.join(RECIPES)}, or a file: my_recipe.py) or a --config file")
        if named is not None and written_for != named:
            raise UsageError(
                f"{file} is for recipe '{written_for}', not '{named}'; leave the recipe out to use the file"
            )
        return load(_base(written_for, named is not None, tree), tree, pairs)
    except ConfigError as error:
        raise UsageError(*error.lines) from error


def _base(recipe: str, is_named: bool, tree: Mapping[str, Any]) -> RunConfig | PretrainConfig:
    """Return the configuration that a file's values change: its recipe's, unless the file is complete."""
    from rl.config import RunConfig
    from rl.pretraining_config import PretrainConfig
    from rollout.user_code import is_file, names_of

    if is_named or recipe in RECIPES:
        return training_recipe(recipe)
    kinds: tuple[type[RunConfig | PretrainConfig], ...] = (RunConfig, PretrainConfig)
    # As a run writes it: goes on without the recipe's file.
    complete = next((kind for kind in kinds if kind.model_fields.keys() <= tree.keys()), None)
    known = not complete and recipe and (is_file(recipe) or recipe in names_of(GROUP))
    return training_recipe(recipe) if known else (complete or RunConfig)()
