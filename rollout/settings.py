"""The base of every configuration section. Imports no torch, vLLM or Ray."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict

from rollout.user_code import absolute


@dataclass(frozen=True)
class Preset:
    """A name on the command line and in files that sets several keys at once; any of them that is given itself wins."""

    meaning: str
    values: Mapping[str, Mapping[str, Any]]
    """For each of its values the dotted keys that it sets."""

    def under(self, section: str) -> Preset:
        """Return the preset of a configuration that holds this one's as ``section``."""
        values = {value: {f"{section}.{key}": one for key, one in keys.items()} for value, keys in self.values.items()}
        return Preset(self.meaning, values)


class Config(BaseModel):
    """Base of every configuration section: immutable, unknown keys rejected, docstrings are the help text."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )
    MOVED: ClassVar[Mapping[str, str]] = {}
    """Of a whole configuration: dotted keys that it no longer has, and what to set instead."""
    listed: ClassVar[str] = "k15 config RECIPE"
    """Of a whole configuration: what lists its keys."""
    presets: ClassVar[Mapping[str, Preset]] = {}
    """Of a whole configuration, by name."""
    shorthand: ClassVar[str] = ""
    """The key that one text or number in the place of the section means, in files and on the command line; empty:
    none."""

    @classmethod
    def spelled_out(cls, value: str | float) -> dict[str, Any]:
        """Return the keys that one text or number in the place of the section sets."""
        return {cls.shorthand: value}


UserCode = Annotated[str, AfterValidator(absolute)]
"""Code of the user's own (``rollout.user_code``); a relative path is looked up from the working directory and recorded
absolute."""
