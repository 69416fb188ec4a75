"""Configurations from YAML files and ``--dotted.key value`` pairs, and back. Imports no torch, vLLM or Ray.

Every mistake is a ``ConfigError`` whose lines each name a dotted key and what to do.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import ValidationError

from rl.config import Config, RunConfig

Tree = Mapping[str, Any]
C = TypeVar("C", bound=Config)
"""A whole configuration: ``RunConfig``, or another command's."""


class ConfigError(ValueError):
    """A configuration is wrong; the message is one or more lines, each complete in itself."""

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


class _Loader(yaml.SafeLoader):
    """Safe YAML with the numbers of YAML 1.2, and every key once.

    ``1e-3`` is a number; ``010``, ``1:30`` and ``2025-01-31`` are texts, not 8, 90 and a date.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuse a key that comes twice; PyYAML would silently take the last."""
        first: dict[str, int] = {}
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in first:
                problem = f"'{key.value}' is given twice, first in line {first[key.value]}; leave one out"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            first[key.value] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes the texts that ``_Loader`` would take for numbers."""


_NUMBERS = {
    "int": re.compile(r"^[-+]?(0|[1-9][0-9_]*|0b[01_]+|0o[0-7_]+|0x[0-9a-fA-F_]+)$"),
    "float": re.compile(
        r"^[-+]?(\d[\d_]*\.[\d_]*|\.\d[\d_]*)([eE][-+]?\d+)?$|^[-+]?\d+[eE][-+]?\d+$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$"
    ),
}
_REPLACED = {f"tag:yaml.org,2002:{name}" for name in (*_NUMBERS, "timestamp")}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _REPLACED]
    for first, resolvers in _Loader.yaml_implicit_resolvers.items()
}
for _name, _pattern in _NUMBERS.items():
    for _each in (_Loader, _Dumper):
        _each.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", _pattern, list("-+.0123456789"))


def parse_yaml(text: str) -> Any:
    """Parse YAML text into plain Python data. Raises ``yaml.YAMLError``."""
    return yaml.load(text, Loader=_Loader)


def dump(config: Config) -> str:
    """Return the resolved configuration as YAML; ``load`` reads it back to an equal one."""
    return yaml.dump(config.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, width=120)


def sections(annotation: Any) -> dict[str, type[Config]]:
    """Return the configuration sections that a field may hold, by ``kind`` (``""`` if there is only one); empty: a
    plain value.
    """
    found = [part for part in _alternatives(annotation) if isinstance(part, type) and issubclass(part, Config)]
    return {"" if len(found) == 1 else str(part.model_fields["kind"].default): part for part in found}


def _alternatives(annotation: Any) -> Iterator[Any]:
    """Yield the types that an annotation is made of: the members of unions, the elements of lists."""
    yield annotation
    of = get_args(annotation)
    for part in of[:1] if get_origin(annotation) is Annotated else of:
        yield from _alternatives(part)


def paths(cls: type[Config] = RunConfig, prefix: str = "") -> Iterator[str]:
    """Yield every dotted key that some configuration can have, sections and all their kinds included."""
    for name, field in cls.model_fields.items():
        yield prefix + name
        for section in () if get_origin(field.annotation) is dict else sections(field.annotation).values():
            yield from paths(section, f"{prefix}{name}.")


def named_sections(path: str, cls: type[Config]) -> dict[str, type[Config]]:
    """Return, by kind, what the field that a dotted key begins with maps names to; empty for one that maps none."""
    field = cls.model_fields.get(path.partition(".")[0])
    return sections(field.annotation) if field and get_origin(field.annotation) is dict else {}


def unknown_key(path: str, cls: type[Config] = RunConfig) -> str:
    """Return one line on an unknown key, with the key that replaced it or the nearest one."""
    if path in cls.MOVED:
        return f"'{path}' has moved: set {cls.MOVED[path]}"
    known = list(dict.fromkeys([*cls.presets, *paths(cls)]))
    parent, _, leaf = path.rpartition(".")
    if parent and (kinds := named_sections(path, cls)):
        inner = [name for kind in kinds.values() for name in kind.model_fields]
        if leaf not in inner and (near := difflib.get_close_matches(leaf, inner, n=1, cutoff=0.6)):
            return f"unknown key '{path}'; did you mean '{parent}.{near[0]}'?"
        head = path.partition(".")[0]
        return f"unknown key '{path}'; {head} is given whole: --{head} '{{name: {{kind: {next(iter(kinds))}, ...}}}}'"
    if parent in known and not any(key.startswith(parent + ".") for key in known):
        return f"unknown key '{path}': '{parent}' is one value; give it whole, e.g. --{parent} '{{name: value}}'"
    near = difflib.get_close_matches(path, known, n=1, cutoff=0.6)
    if not near:  # the right name under another section
        near = [key for key in known if key.rpartition(".")[2] == leaf][:1]
    return f"unknown key '{path}'" + (f"; did you mean '{near[0]}'?" if near else f"; {cls.listed} lists all keys")


def merge(cls: type[Config], base: Tree, update: Tree) -> dict[str, Any]:
    """Return ``base`` with the values of ``update``, section by section; one of another ``kind`` starts from its
    defaults.
    """
    merged = dict(base)
    for key, given in update.items():
        old = merged.get(key)
        choices = sections(cls.model_fields[key].annotation) if key in cls.model_fields else {}
        value = spelled_out(choices, given)
        if choices and isinstance(value, Mapping) and isinstance(old, Mapping):
            section = choices.get("") or choices.get(str(value.get("kind", old.get("kind"))))
            same_kind = "" in choices or value.get("kind", old.get("kind")) == old.get("kind")
            merged[key] = merge(section, old, value) if section and same_kind else dict(value)
        else:
            merged[key] = value
    return merged


def spelled_out(choices: Mapping[str, type[Config]], value: Any) -> Any:
    """Return ``value`` itself, or ``{key: value}`` for one text or number in the place of a section with a
    ``shorthand`` key; also for one of the wrong type, so that what is said of it names that key.
    """
    if "" not in choices or not choices[""].shorthand or not isinstance(value, str | int | float):
        return value
    return choices[""].spelled_out(value)


def read_file(path: Path) -> dict[str, Any]:
    """Read a YAML configuration file as plain data, without checking its keys. Raises ``ConfigError`` naming file and
    line.
    """
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


def types_of(cls: type[Config], path: str) -> Iterator[Any]:
    """Yield the types of a dotted key, one for each kind of section that has it."""
    name, _, rest = path.partition(".")
    if name in cls.model_fields:
        annotation = cls.model_fields[name].annotation
        if get_origin(annotation) is dict and rest:
            annotation, rest = get_args(annotation)[1], rest.partition(".")[2]
        if not rest:
            yield annotation
        for section in sections(annotation).values() if rest else ():
            yield from types_of(section, rest)


def takes(annotation: Any) -> set[type]:
    """Return the plain types of values that an annotation allows; ``object`` stands for anything but text and
    ``null``.
    """
    if annotation is str or annotation is NoneType:
        return {annotation}
    if get_origin(annotation) is Annotated:
        return takes(get_args(annotation)[0])
    if get_origin(annotation) is Literal:
        return {type(value) for value in get_args(annotation)}
    if get_origin(annotation) in (Union, UnionType):
        return set().union(*map(takes, get_args(annotation)))
    return {object}


def value_of(path: str, text: str, cls: type[Config]) -> Any:
    """Return the value that ``--path text`` gives: YAML, or the text itself where the key takes nothing else.

    So instructions and paths need no second pair of quotes; ``"..."`` and ``'...'`` are taken off where they are a
    whole YAML text. Raises ``ConfigError``.
    """
    types = set[type]().union(*map(takes, types_of(cls, path)))
    is_text = types <= {str, NoneType}
    if is_text and not text.startswith(("'", '"')):
        return None if NoneType in types and text in ("", "~", "null") else text
    try:
        value = parse_yaml(text)
    except yaml.YAMLError as error:
        if is_text:
            return text
        raise ConfigError(f"--{path}: '{text}' is not a YAML value (quote it?)") from error
    return value if not is_text or isinstance(value, str) else text


def _section_value(path: str, text: str, cls: type[Config]) -> Any:
    value = value_of(path, text, cls)
    choices = [sections(annotation) for annotation in types_of(cls, path)]
    if len(choices) != 1:
        return value
    if text.endswith(":") and isinstance(value, Mapping):  # "model:$EMPTY" would read as a key without a value
        return spelled_out(choices[0], text)
    return spelled_out(choices[0], value)


def check_agreement(overrides: Sequence[tuple[str, Any]], cls: type[Config]) -> None:
    """Raises ``ConfigError`` when two of the ``(dotted key, value)`` pairs contradict each other."""
    known = [*paths(cls)]
    given: list[tuple[str, str, Any]] = []
    for key, value in overrides:
        for leaf, one in _assignments(key, value, known):
            for before, at, other in given:
                above_or_below = at.startswith(leaf + ".") or leaf.startswith(at + ".")
                if above_or_below or (at == leaf and repr(other) != repr(one)):
                    what = f"--{key} is given twice" if key == before else f"--{before} and --{key} both set {leaf}"
                    raise ConfigError(f"{what}, to different values; leave one out")
            given.append((key, leaf, one))


def _assignments(key: str, value: Any, known: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Yield the assignments of a pair: a mapping for a section sets each of its keys."""
    if isinstance(value, Mapping) and any(path.startswith(key + ".") for path in known):
        for name, inner in value.items():
            yield from _assignments(f"{key}.{name}", inner, known)
    else:
        yield key, value


def nested(path: str, value: Any) -> dict[str, Any]:
    """Return ``{"a": {"b": 3}}`` for ``a.b`` and ``3``."""
    for part in reversed(path.split(".")):
        value = {part: value}
    return value  # type: ignore[no-any-return]


def load(base: C, file: Tree | None = None, overrides: Sequence[tuple[str, str]] = ()) -> C:
    """Apply to ``base`` a file's values, then ``(dotted key, text)`` pairs, in any order. Raises ``ConfigError``.

    Pairs that contradict each other are refused. Presets act before the other values beside them, and so does a pair
    that sets a ``kind``.
    """
    cls = type(base)
    known = {*paths(cls), *cls.presets}
    unknown = [unknown_key(path, cls) for path, _ in overrides if path not in known]
    if unknown:
        raise ConfigError(*unknown)
    values = [(path, _section_value(path, text, cls)) for path, text in overrides]
    check_agreement(values, cls)
    tree = merge(cls, base.model_dump(), unfolded(cls, file or {}))
    for path, value in sorted(values, key=lambda pair: (pair[0] not in cls.presets, not pair[0].endswith(".kind"))):
        tree = merge(cls, tree, unfolded(cls, nested(path, value)))
    return checked(cls, tree)


def unfolded(cls: type[Config], tree: Tree) -> dict[str, Any]:
    """Return ``tree`` with the keys that its presets set, where it does not set them itself. Raises ``ConfigError``."""
    unfolded: dict[str, Any] = {}
    for name, preset in cls.presets.items():
        if name not in tree:
            continue
        if not isinstance(tree[name], str) or tree[name] not in preset.values:
            given = json.dumps(tree[name], ensure_ascii=False, default=repr)
            raise ConfigError(f"{name}: one of {', '.join(map(repr, preset.values))} is wanted, got {given}")
        for key, value in preset.values[tree[name]].items():
            unfolded = merge(cls, unfolded, nested(key, value))
    return merge(cls, unfolded, {key: value for key, value in tree.items() if key not in cls.presets})


def validate(tree: Tree) -> RunConfig:
    """Return a run's configuration from plain data; see ``checked``."""
    return checked(RunConfig, tree)


def checked(cls: type[C], tree: Tree) -> C:
    """Return a configuration from plain data. Raises ``ConfigError`` with one line per mistake.

    Values have their key's own type: ``true`` is no number, ``1`` no switch, ``"3"`` no number, ``2.0`` no whole
    number. As JSON, in which lists stand for tuples, pydantic checks just that.
    """
    try:
        text = json.dumps(tree)
    except (ValueError, TypeError) as error:  # an anchor inside of itself, a key that is no text
        raise ConfigError(f"a value is no plain data: {error}") from error
    try:
        return cls.model_validate_json(text, strict=True)
    except ValidationError as error:
        raise explained(error, cls) from error


def explained(error: ValidationError, cls: type[Config]) -> ConfigError:
    """Return pydantic's error on a configuration of ``cls`` with one line per mistake."""
    lines: dict[str, list[str]] = {}
    for detail in error.errors(include_url=False):
        path = dotted(detail["loc"], cls)
        lines.setdefault(path, []).append(_explain(path, detail, cls))
    return ConfigError(*(" or ".join(dict.fromkeys(texts)) for texts in lines.values()))


def dotted(location: Sequence[str | int], cls: type[Config] = RunConfig) -> str:
    """Return pydantic's location of an error as the key that a user wrote, without the tags of unions."""
    names: list[str] = []
    choices: dict[str, type[Config]] = {"": cls}
    is_name = False
    for part in location:
        if is_name:  # of an entry in a mapping
            names.append(str(part))
            is_name = False
        elif "" not in choices and str(part) in choices:  # the tag that says which kind was chosen
            choices = {"": choices[str(part)]}
        elif "" in choices and isinstance(part, str):
            names.append(part)
            field = choices[""].model_fields.get(part)
            choices = sections(field.annotation) if field else {}
            is_name = bool(choices) and field is not None and get_origin(field.annotation) is dict
        elif isinstance(part, int):
            names[-1] += f"[{part}]"
    return ".".join(names)


def _explain(path: str, detail: Mapping[str, Any], cls: type[Config]) -> str:
    """Return one line on a mistake."""
    kind, given = detail["type"], detail["input"]
    if kind == "extra_forbidden":
        named = named_sections(path, cls).values()
        if path in set(paths(cls)) or any(path.rpartition(".")[2] in kind.model_fields for kind in named):
            return f"'{path}' does not go with the chosen {path.rpartition('.')[0]}.kind"
        return unknown_key(path, cls)
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        expected = ", ".join(repr(name) for annotation in types_of(cls, path) for name in sections(annotation))
        tag = detail["ctx"].get("tag")
        return f"{path}.kind: {'a value is required: one' if tag is None else f'{tag!r} is none'} of {expected}"
    message = str(detail["msg"]).removeprefix("Value error, ")
    if kind == "value_error":
        return f"{path}: {message}" if path else message
    if kind in ("model_type", "model_attributes_type", "dict_type") and (inner := _inner_key(path, cls)):
        return f"{path}: this is a section; set its keys, e.g. {inner}"
    if kind == "missing":
        return f"{path}: a value is required"
    shown = "" if isinstance(given, (Mapping, list)) else f", got {json.dumps(given, ensure_ascii=False, default=repr)}"
    return f"{path}: {message[0].lower()}{message[1:]}{shown}{_hint(kind, given)}"


def _inner_key(path: str, cls: type[Config]) -> str:
    """Return the key of a section that tells most, its ``kind`` or else the first; empty for a plain value."""
    section = re.sub(r"\[\d+\]", "", path) + "."
    inner = [key for key in paths(cls) if key.startswith(section)]
    return section + "kind" if section + "kind" in inner else next(iter(inner), "")


def _hint(kind: str, given: Any) -> str:
    """Return a hint on how to write a value of the right type."""
    if kind == "int_type" and isinstance(given, float) and given.is_integer():
        return f"; write {int(given)}"
    if kind in ("int_type", "float_type", "bool_type") and isinstance(given, str):
        return "; leave out the quotes" if not isinstance(parse_scalar(given), str) else ""
    if kind == "string_type" and not isinstance(given, (Mapping, list, NoneType)):
        return "; put texts in quotes"
    return ""


def parse_scalar(text: str) -> Any:
    """Return the YAML value of a text, or the text itself when it is not YAML."""
    try:
        return parse_yaml(text)
    except yaml.YAMLError:
        return text
