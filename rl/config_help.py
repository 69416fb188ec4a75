"""The keys of a configuration as help text. Imports no torch, vLLM or Ray."""

from __future__ import annotations

import inspect
import json
import textwrap
from collections.abc import Iterator
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from rl.config import Config
from rl.config_io import sections

_BOUNDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


def type_text(annotation: Any) -> str:
    """Return a type in plain words: ``int``, ``a | b | null``, ``list of float``."""
    if annotation is NoneType:
        return "null"
    if get_origin(annotation) is Literal:
        return " | ".join(map(str, get_args(annotation)))
    parts = get_args(annotation)
    if get_origin(annotation) is Annotated:
        return type_text(parts[0])
    if get_origin(annotation) is tuple:
        return f"list of {type_text(parts[0])}" if Ellipsis in parts else f"[{', '.join(map(type_text, parts))}]"
    if get_origin(annotation) is dict:
        return "{name: value}"
    return " | ".join(dict.fromkeys(map(type_text, parts))) if parts else annotation.__name__


def value_text(value: Any) -> str:
    """Return a value as a user would type it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(value_text, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {value_text(item)}" for key, item in value.items()) + "}"
    return str(value) if value != "" else '""'


def _line(path: str, field: FieldInfo, value: str) -> Iterator[str]:
    bounds = " ".join(
        f"{sign} {getattr(item, name)}"
        for item in field.metadata
        for name, sign in _BOUNDS.items()
        if hasattr(item, name)
    )
    shown = json.dumps(value, ensure_ascii=False) if "\n" in value else value
    yield f"  --{path}  {type_text(field.annotation)}{' ' + bounds if bounds else ''}  = {shown}"
    yield from _wrapped(" ".join((field.description or "").replace("``", "`").split()))


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 108, initial_indent=" " * 8, subsequent_indent=" " * 8)


def _section(path: str, cls: type[Config], values: Config | None, note: str) -> Iterator[str]:
    """Yield the lines of one section: its title, its own keys, then the sections inside it."""
    title = (inspect.getdoc(cls) or "").splitlines()[0]
    yield ""
    yield f"{path or 'run'}: {title}{note}"
    for name, preset in cls.presets.items():
        yield f"  --{name}  {' | '.join(preset.values)}  (sets several keys; each of them given itself wins)"
        keys = ", ".join(dict.fromkeys(key for values in preset.values.values() for key in values))
        yield from _wrapped(f"{preset.meaning} Sets {keys}.")
    inner = []
    for name, field in cls.model_fields.items():
        key = f"{path}.{name}" if path else name
        if sections(field.annotation):
            inner.append((key, name, field))
            continue
        default = "(required)" if field.is_required() else value_text(field.default)
        yield from _line(key, field, value_text(getattr(values, name)) if values is not None else default)
    for key, name, field in inner:
        value = getattr(values, name) if values is not None else field.default
        if isinstance(value, dict):
            yield ""
            yield f"{key}: as chosen"
            yield from (f"  {each}: {value_text(one.model_dump())}" for each, one in value.items())
        for kind, section in sections(field.annotation).items():
            active = isinstance(value, section)
            state = "" if active else f" (off; any of its keys switches it on, --{key} null off)"
            if get_origin(field.annotation) is dict:
                whole = f" [kind {kind}] (given whole, by names: --{key} '{{NAME: {{kind: {kind}, ...}}}}')"
                yield from _section(f"{key}.NAME", section, None, whole)
                continue
            if get_origin(field.annotation) is tuple:
                yield from _section(f"{key}[i]", section, None, f" (a list of these: --{key} '[{{...}}, ...]')")
                continue
            if kind:
                state = f" [kind {kind}, chosen]" if active else f" [kind {kind}, not chosen]"
            yield from _section(key, section, value if active else None, state)


def describe(config: Config) -> str:
    """Return every key with its type, bounds, value in ``config`` and meaning; sections in the order of the file."""
    return "\n".join(_section("", type(config), config, "")).lstrip("\n")
