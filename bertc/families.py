"""What the configurations of a family mean: specs/families/*.toml, of which bert.toml says how one is written."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from bertc.spec_fields import FAMILIES
from bertc.tree import Value

_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
}
"""What transformers calls an activation -> what bertc does."""


@dataclass(frozen=True)
class Every:
    """A list that is spelt out by how often its first name comes, by the key of that number."""

    key: str
    value: int
    names: tuple[str, str]


@dataclass(frozen=True)
class Source:
    """Where a field of the spec comes from: the first of `keys` that is there, else `value`.

    `plus` is added to a number, `names` translates a name or each of a list, whose first has names of its own in
    `first`; a field is left out when the two keys of `unless_equal` are equal.
    """

    field: str
    keys: tuple[str, ...]
    value: Value = None
    required: bool = False
    plus: int = 0
    names: Mapping[str, str] | None = None
    first: Mapping[str, str] | None = None
    every: Every | None = None
    unless_equal: tuple[str, ...] = ()


@dataclass(frozen=True)
class Refusal:
    """A key that must be absent (unless `required`), null, an empty mapping, or one of `harmless`."""

    name: str
    harmless: tuple[object, ...]
    reason: str
    required: bool = False


@dataclass(frozen=True)
class Family:
    """How one model type's config.json is read."""

    name: str
    sources: tuple[Source, ...]
    heads: Mapping[str, str]
    """The full name of a class -> the block of its head."""
    refusals: tuple[Refusal, ...]


@cache
def model_types() -> dict[str, str]:
    """Each `model_type` -> its family."""
    return {model: family for family in FAMILIES for model in _file(family).get("models", {})}


@cache
def family_of(model_type: str) -> Family:
    """The family's file over BERT's: what it leaves out is as there. A KeyError for what is not in `model_types`."""
    name = model_types()[model_type]
    bert, own = _file("bert"), _file(name)
    sections = {section: bert[section] | own.get(section, {}) for section in bert}
    prefix = own["models"][model_type]
    return Family(
        name,
        tuple(_source(field, entry) for field, entry in sections["config"].items()),
        {f"{prefix}{suffix}": block for suffix, block in sections["heads"].items()},
        tuple(_refusal(key, **entry) for key, entry in sections["only"].items()),
    )


@cache
def _file(family: str) -> dict[str, dict[str, Any]]:
    """The sections of a family's file; a family that has none is not Hugging Face's."""
    path = files("bertc").joinpath(f"specs/families/{family}.toml")
    return tomllib.loads(path.read_text("utf-8")) if path.is_file() else {}


def _source(field: str, entry: Mapping[str, Any]) -> Source:
    keys: list[str] = entry.get("key", [])
    given = {name: value for name, value in entry.items() if name != "key"}
    if field == "activation":
        given["names"] = _ACTIVATIONS
    if "every" in given:
        given["every"] = Every(**given["every"])
    return Source(field, (keys,) if isinstance(keys, str) else tuple(keys), **given)


def _refusal(key: str, *, reason: str, required: bool = False, **values: Any) -> Refusal:
    """From `value`, one value, or `any`, a list of them."""
    harmless = tuple(values.get("any", [values["value"]] if "value" in values else []))
    return Refusal(key, harmless, reason, required)
