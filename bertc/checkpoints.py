"""Checkpoints as users see them: what is in one, what it is called here, and one format made of all of them."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bertc.elaborate import elaborate
from bertc.errors import error
from bertc.spec import load_spec
from bertc.weights_io import Tensor, bind, canonical_names, open_checkpoint
from bertc.weights_io.files import STORAGE
from bertc.weights_io.safetensors_writer import write_safetensors


@dataclass(frozen=True)
class Entry:
    """One tensor of a checkpoint; `canonical` is bertc's name for it, or None where it has none."""

    name: str
    shape: tuple[int, ...]
    element: str
    bytes: int
    canonical: str | None


@dataclass(frozen=True)
class Listing:
    entries: tuple[Entry, ...]
    missing: tuple[str, ...]
    """Canonical names that the spec's network has and the checkpoint has not."""
    unexpected: tuple[str, ...]
    """Canonical names the other way round."""


def list_weights(path: Path, spec: str | None = None) -> Listing:
    """What a checkpoint holds, beside what a spec's network needs when one is named. No values are read.

    Raises BertcError as `open_checkpoint` and `canonical_names` do.
    """
    tensors = open_checkpoint(path)
    found, _ = canonical_names(tensors)
    canonical = {tensor.name: name for name, tensor in found.items()}
    entries = tuple(
        Entry(name, tensor.shape, tensor.element, _bytes(tensor), canonical.get(tensor.name))
        for name, tensor in tensors.items()
    )
    if spec is None:
        return Listing(entries, (), ())
    required = _required(spec)
    return Listing(entries, tuple(sorted(required.keys() - found)), tuple(sorted(found.keys() - required)))


def convert_weights(path: Path, output: Path, spec: str | None = None) -> int:
    """Write a checkpoint's parameters as safetensors under their canonical names; how many there were.

    With a spec, those that its network needs, checked as a build checks them. Raises BertcError B0003 when `output` is
    there, B0605 when it cannot be written, and as `open_checkpoint` and `bind` do.
    """
    if os.path.lexists(output):
        raise error("B0003", f"`{output}` exists", None, "choose another place")
    tensors = open_checkpoint(path)
    found = canonical_names(tensors)[0] if spec is None else bind(_required(spec), tensors, source=str(path))
    beside = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        try:
            write_safetensors(beside, found)
            beside.replace(output)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as problem:
        message = f"`{output}` cannot be written: {problem.strerror}"
        raise error("B0605", message, None, "is the folder there, and may you write in it?") from None
    return len(found)


def _required(spec: str) -> Mapping[str, tuple[int, ...]]:
    graph = elaborate(load_spec(spec))
    return {node.key: tuple(int(size) for size in node.types[0].shape) for node in graph.weights}


def _bytes(tensor: Tensor) -> int:
    return math.prod(tensor.shape) * STORAGE[tensor.element].itemsize
