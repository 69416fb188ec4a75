"""Configurations from YAML files and ``--dotted.key value`` pairs, and back. Imports no torch, vLLM or Ray.

Every mistake is a ``ConfigError`` whose lines each name a dotted key and what to do.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, get_args

import yaml
from pydantic import ValidationError

from rl.config import Config, RunConfig

Tree = Mapping[str, Any]
C = TypeVar("C", bound=Config)
"""A whole configuration: ``RunConfig``, or another command's."""


class ConfigError(ValueError):
    """What is wrong with a configuration: one or more lines, each complete in itself."""

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


class _Loader(yaml.SafeLoader):
    """Safe YAML in which ``1e-3`` is a number, as in YAML 1.2 and everywhere else."""


class _Dumper(yaml.SafeDumper):
    """Quotes the texts that ``_Loader`` would take for numbers."""


for _each in (_Loader, _Dumper):
    _each.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
    )


def parse_yaml(text: str) -> Any:
    """Plain Python data from YAML text. Raises ``yaml.YAMLError``."""
    return yaml.load(text, Loader=_Loader)


def dump(config: Config) -> str:
    """The resolved configuration as YAML; ``load`` reads it back to an equal one."""
    return yaml.dump(config.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, width=120)


def sections(annotation: Any) -> dict[str, type[Config]]:
    """Configuration sections that a field may hold, by ``kind`` (``""`` if there is only one); empty: a plain value."""
    found = [
        part for part in (annotation, *get_args(annotation)) if isinstance(part, type) and issubclass(part, Config)
    ]
    return {"" if len(found) == 1 else str(part.model_fields["kind"].default): part for part in found}


def paths(cls: type[Config] = RunConfig, prefix: str = "") -> Iterator[str]:
    """Every dotted key that some configuration can have, sections and all their kinds included."""
    for name, field in cls.model_fields.items():
        yield prefix + name
        for section in sections(field.annotation).values():
            yield from paths(section, f"{prefix}{name}.")


def unknown_key(path: str, cls: type[Config] = RunConfig) -> str:
    """One line on a key that does not exist, with the nearest one that does."""
    known = list(dict.fromkeys(paths(cls)))
    parent = path.rpartition(".")[0]
    if parent in known and not any(key.startswith(parent + ".") for key in known):
        return f"unknown key '{path}': '{parent}' is one value; give it whole, e.g. --{parent} '{{name: value}}'"
    near = difflib.get_close_matches(path, known, n=1, cutoff=0.6)
    if not near:  # the right name under another section
        leaf = path.rpartition(".")[2]
        near = [key for key in known if key.rpartition(".")[2] == leaf][:1]
    return f"unknown key '{path}'" + (f"; did you mean '{near[0]}'?" if near else "; k15 config RECIPE lists all keys")


def merge(cls: type[Config], base: Tree, update: Tree) -> dict[str, Any]:
    """``base`` with the values of ``update``, section by section; one of another ``kind`` starts from its defaults."""
    merged = dict(base)
    for key, value in update.items():
        old = merged.get(key)
        choices = sections(cls.model_fields[key].annotation) if key in cls.model_fields else {}
        if choices and isinstance(value, Mapping) and isinstance(old, Mapping):
            section = choices.get("") or choices.get(str(value.get("kind", old.get("kind"))))
            same_kind = "" in choices or value.get("kind", old.get("kind")) == old.get("kind")
            merged[key] = merge(section, old, value) if section and same_kind else dict(value)
        else:
            merged[key] = value
    return merged


def read_file(path: Path) -> dict[str, Any]:
    """A YAML configuration file as plain data, its keys unchecked. Raises ``ConfigError`` naming file and line."""
    try:
        data = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not a text file ({error.reason})") from error
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{path}{line}: not valid YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if data is None:
        return {}
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise ConfigError(f"{path}: expected 'key: value' lines, found {type(data).__name__}")
    return data


def nested(path: str, text: str) -> dict[str, Any]:
    """``a.b`` and ``3`` as ``{"a": {"b": 3}}``; the value is read as YAML."""
    try:
        value = parse_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--{path}: '{text}' is not a YAML value (quote it?)") from error
    for part in reversed(path.split(".")):
        value = {part: value}
    return value  # type: ignore[no-any-return]


def load(base: C, file: Tree | None = None, overrides: Sequence[tuple[str, str]] = ()) -> C:
    """``base``, then a file's values, then ``(dotted key, text)`` pairs; later pairs win. Raises ``ConfigError``.

    A pair that sets a ``kind`` acts before the others, so that the order of pairs does not matter to it.
    """
    cls = type(base)
    known = set(paths(cls))
    unknown = [unknown_key(path, cls) for path, _ in overrides if path not in known]
    if unknown:
        raise ConfigError(*unknown)
    tree = merge(cls, base.model_dump(), file or {})
    for path, text in sorted(overrides, key=lambda pair: not pair[0].endswith(".kind")):
        tree = merge(cls, tree, nested(path, text))
    return checked(cls, tree)


def validate(tree: Tree) -> RunConfig:
    """A run's configuration from plain data; see ``checked``."""
    return checked(RunConfig, tree)


def checked(cls: type[C], tree: Tree) -> C:
    """A configuration from plain data. Raises ``ConfigError`` with one line per mistake."""
    try:
        return cls.model_validate(tree)
    except ValidationError as error:
        lines: dict[str, list[str]] = {}
        for detail in error.errors(include_url=False):
            path = dotted(detail["loc"], cls)
            lines.setdefault(path, []).append(_explain(path, detail, cls))
        raise ConfigError(*(" or ".join(dict.fromkeys(texts)) for texts in lines.values())) from error


def dotted(location: Sequence[str | int], cls: type[Config] = RunConfig) -> str:
    """Pydantic's location of an error as the key that a user wrote: without the tags of unions."""
    names: list[str] = []
    choices: dict[str, type[Config]] = {"": cls}
    for part in location:
        if "" not in choices and str(part) in choices:  # the tag that says which kind was chosen
            choices = {"": choices[str(part)]}
        elif "" in choices and isinstance(part, str):
            names.append(part)
            field = choices[""].model_fields.get(part)
            choices = sections(field.annotation) if field else {}
        elif isinstance(part, int):
            names[-1] += f"[{part}]"
    return ".".join(names)


def _explain(path: str, detail: Mapping[str, Any], cls: type[Config]) -> str:
    """One mistake in one line."""
    kind, given = detail["type"], detail["input"]
    if kind == "extra_forbidden":
        if path in set(paths(cls)):
            return f"'{path}' does not go with the chosen {path.rpartition('.')[0]}.kind"
        return unknown_key(path, cls)
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        expected = detail["ctx"].get("expected_tags", "") or "a kind"
        return f"{path}.kind: {detail['ctx'].get('tag', 'missing')!r} is none of {expected}"
    message = str(detail["msg"]).removeprefix("Value error, ")
    if kind == "value_error":
        return f"{path}: {message}" if path else message
    if kind == "model_type":
        inner = next(key for key in paths(cls) if key.startswith(path + "."))
        return f"{path}: this is a section; set its keys, e.g. {inner}"
    if kind == "missing":
        return f"{path}: a value is required"
    shown = "" if isinstance(given, (Mapping, list, NoneType)) else f", got {given!r}"
    return f"{path}: {message[0].lower()}{message[1:]}{shown}"
