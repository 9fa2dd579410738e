"""Checkpoints as users see them: what is in one, what it is called here, and one format made of all of them."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bertc.elaborate import elaborate
from bertc.errors import error
from bertc.spec import Spec
from bertc.spec_fields import QkvLayout
from bertc.weights_io import Tensor, bind, canonical_names, open_checkpoint
from bertc.weights_io.files import STORAGE
from bertc.weights_io.megatron import is_megatron, megatron_tensors, separate_names
from bertc.weights_io.names import likely_family
from bertc.weights_io.quantisation import apart, is_for_quantisation
from bertc.weights_io.safetensors_writer import write_safetensors
from bertc.writing import replacing


@dataclass(frozen=True)
class Weights:
    """What a network takes from a checkpoint."""

    parameters: dict[str, Tensor]
    """By canonical name."""
    quantisation: dict[str, Tensor]
    """Ranges and masks, by the checkpoint's own names."""
    unknown: tuple[str, ...] = ()
    """Names of what is neither, where no network says that this must not be."""


def read_weights(path: Path, spec: Spec, required: Mapping[str, tuple[int, ...]]) -> Weights:
    """The tensor of each parameter that is `required`, with its shape, by a spec's network. No values are read.

    Raises BertcError as `open_checkpoint`, `megatron_tensors` and `bind` do.
    """
    return read_parameters(path, required, family=spec.family, heads=spec.sizes["heads"], layout=spec.qkv_layout)


def read_parameters(
    path: Path, required: Mapping[str, tuple[int, ...]], *, family: str | None, heads: int, layout: QkvLayout | None
) -> Weights:
    """The same where no spec is known: of the family whose names the checkpoint has, where none is given."""
    source = str(path)
    tensors, quantisation = apart(open_checkpoint(path))
    if is_megatron(tensors):
        family = "megatron"
        tensors = megatron_tensors(tensors, required, source=source, heads=heads, layout=layout)
    return Weights(bind(required, tensors, source=source, family=family or likely_family(tensors)), quantisation)


@dataclass(frozen=True)
class Entry:
    """One tensor of a checkpoint; `canonical` has bertc's names for it, several where it is several parameters."""

    name: str
    shape: tuple[int, ...]
    element: str
    bytes: int
    canonical: tuple[str, ...]
    is_for_quantisation: bool

    @property
    def purpose(self) -> str:
        return "for quantisation" if self.is_for_quantisation else ", ".join(self.canonical) or "?"


@dataclass(frozen=True)
class Listing:
    entries: tuple[Entry, ...]
    missing: tuple[str, ...]
    """Canonical names that the spec's network has and the checkpoint has not."""
    unexpected: tuple[str, ...]
    """Canonical names the other way round."""


def list_weights(path: Path, spec: Spec | None = None) -> Listing:
    """What a checkpoint holds, beside what a spec's network needs when one is given. No values are read.

    Raises BertcError as `open_checkpoint` and `canonical_names` do.
    """
    tensors = open_checkpoint(path)
    named = _canonical_names(tensors, spec)
    entries = tuple(
        Entry(name, tensor.shape, tensor.element, _bytes(tensor), tuple(named.get(name, ())), is_for_quantisation(name))
        for name, tensor in tensors.items()
    )
    if spec is None:
        return Listing(entries, (), ())
    found, required = {name for names in named.values() for name in names}, _required(spec).keys()
    return Listing(entries, tuple(sorted(required - found)), tuple(sorted(found - required)))


def convert_weights(path: Path, output: Path, spec: Spec | None = None) -> Weights:
    """Write a checkpoint's parameters as safetensors under their canonical names; what was written, and what was not.

    With a spec, those that its network needs, checked as a build checks them. What the checkpoint has for quantisation
    keeps its names; what is unknown is left out. Raises BertcError B0003 when `output` is there, B0411 for Megatron's
    projections without a spec, B0605 when it cannot be written, and as `read_weights` does.
    """
    if os.path.lexists(output):
        raise error("B0003", f"`{output}` exists", None, "choose another place")
    weights = _all_weights(path) if spec is None else read_weights(path, spec, _required(spec))
    tensors = weights.quantisation | weights.parameters
    with replacing(output) as beside:
        write_safetensors(beside, tensors)
    return weights


def _canonical_names(tensors: Mapping[str, Tensor], spec: Spec | None) -> dict[str, list[str]]:
    """The canonical names of each tensor that has some, by its own name."""
    separate = {part: tensor for name, tensor in tensors.items() for part in (separate_names(name).values() or (name,))}
    named: dict[str, list[str]] = {}
    for canonical, tensor in canonical_names(separate, _family(tensors, spec))[0].items():
        named.setdefault(tensor.name, []).append(canonical)
    return named


def _all_weights(path: Path) -> Weights:
    """What can be named without a spec."""
    tensors, quantisation = apart(open_checkpoint(path))
    if is_megatron(tensors):
        message = f"`{path}` has query, key and value in one tensor, which is not known without the number of heads"
        raise error("B0411", message, None, "give `--spec`, the network that the checkpoint is of")
    parameters, unknown = canonical_names(tensors, _family(tensors, None))
    return Weights(parameters, quantisation, tuple(unknown))


def _family(tensors: Mapping[str, Tensor], spec: Spec | None) -> str:
    if is_megatron(tensors):
        return "megatron"
    return likely_family(tensors) if spec is None else spec.family


def _required(spec: Spec) -> Mapping[str, tuple[int, ...]]:
    graph = elaborate(spec)
    return {node.key: tuple(int(size) for size in node.types[0].shape) for node in graph.weights}


def _bytes(tensor: Tensor) -> int:
    return math.prod(tensor.shape) * STORAGE[tensor.element].itemsize
