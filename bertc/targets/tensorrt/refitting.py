"""Weights into an engine that was built for it: their record beside the plan, and TensorRT's refitter.

`refit.json` says for each name that the engine knows which value of the graph it is, in which type and shape. Constants
that are no weights, such as scales and sizes, lie in `constants.npz`, byte by byte: a stripped plan lacks them too.
https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/advanced.html#refitting-an-engine
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bertc.errors import error
from bertc.graph import Graph
from bertc.ops import Array
from bertc.reference import Weights, constant
from bertc.targets.tensorrt.build import BuildOptions, load
from bertc.targets.tensorrt.features import Features
from bertc.targets.tensorrt.log import constructed, demand, make_log
from bertc.targets.tensorrt.network import ELEMENTS, Network

RECORD, CONSTANTS = "refit.json", "constants.npz"


@dataclass(frozen=True)
class Entry:
    """A named array of an engine."""

    value: str | None
    """Of the graph; None for one that lies in CONSTANTS."""
    element: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Record:
    stripped: bool
    """The plan has no weights yet."""
    only_for: str | None
    """The hash of the weights that it was built for, where it takes no others."""
    entries: Mapping[str, Entry]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)


def write_record(network: Network, options: BuildOptions, weights_hash: str, folder: Path) -> None:
    """Write what refitting will need, for an engine that can be refitted."""
    if not options.refittable:
        return
    elements = {np.dtype(dtype): element for element, (_, dtype) in ELEMENTS.items()}
    entries = {
        name: Entry(network.sources.get(name), elements[array.dtype], array.shape)
        for name, array in network.arrays.items()
    }
    record = Record(options.strip_weights, None if options.refit else weights_hash, entries)
    (folder / RECORD).write_text(record.to_json(), "utf-8")
    others = {name: _bytes(array) for name, array in network.arrays.items() if name not in network.sources}
    np.savez_compressed(folder / CONSTANTS, allow_pickle=False, **others)


def is_stripped(folder: Path) -> bool:
    """Whether a bundle's plan has no weights yet."""
    return (folder / RECORD).is_file() and _read_record(folder).stripped


def refit_plan(
    trt: Any, graph: Graph, weights: Weights, old: Path, folder: Path, file: str, hashes: Mapping[str, str]
) -> None:
    """Write the plan `file` of the bundle `old` with other weights into a folder, and its record.

    Raises BertcError B0516 for an engine that takes no weights, or no others; B0513 and B0515 with TensorRT's own words
    when it does not load the engine, or does not take them.
    """
    if not (old / RECORD).is_file():
        message = f"the engine of `{old}` was built without `--refit`, so that its weights cannot be replaced"
        raise error("B0516", message, None, "build the bundle again from the new checkpoint, with `--refit`")
    record = _read_record(old)
    if record.only_for not in (None, hashes["weights_hash"]):
        message = f"the engine of `{old}` takes back the weights it was built for, but these are others"
        raise error("B0516", message, None, "build with `--refit --strip-weights` for an engine that takes any")
    arrays = _arrays(record, graph, weights, old)
    (folder / file).write_bytes(_refitted(trt, (old / file).read_bytes(), arrays))
    (folder / RECORD).write_text(replace(record, stripped=False).to_json(), "utf-8")


def _refitted(trt: Any, plan: bytes, arrays: Mapping[str, Array]) -> bytes:
    log = make_log(trt)
    engine = load(trt, plan, log)
    if not engine.refittable:
        message = "the engine takes no more weights: TensorRT before 10.14 keeps none refittable that was refitted"
        raise error("B0516", message, None, "build the bundle again from the new checkpoint, with `--refit`")
    required = partial(demand, code="B0515", trt=trt, log=log)
    refitter = constructed(trt.Refitter, engine, log)
    required(refitter is not None, what="make a refitter")
    types = {np.dtype(dtype): getattr(trt, name) for name, dtype in ELEMENTS.values()}
    for name in refitter.get_all_weights():
        if name in arrays:
            array = arrays[name]
            given = trt.Weights(types[array.dtype], array.ctypes.data, array.size)
            required(refitter.set_named_weights(name, given), what=f"take `{name}`")
    missing = refitter.get_missing_weights()
    if missing:
        raise error("B0516", f"the engine needs {len(missing)} weights that its record has not, such as `{missing[0]}`")
    required(refitter.refit_cuda_engine(), what="refit the engine")
    config = engine.create_serialization_config()
    if Features.of(trt).refit_again:
        config.set_flag(trt.SerializationFlag.INCLUDE_REFIT)
    refitted = engine.serialize_with_config(config)
    required(refitted is not None, what="write the engine")
    return bytes(refitted)


def _arrays(record: Record, graph: Graph, weights: Weights, folder: Path) -> dict[str, Array]:
    """What each name stands for, as the engine stores it."""
    found: dict[str, Array] = {}
    with np.load(folder / CONSTANTS, allow_pickle=False) as constants:
        for name, entry in record.entries.items():
            dtype = np.dtype(ELEMENTS[entry.element][1])
            if entry.value is None:
                found[name] = constants[name].view(dtype).reshape(entry.shape)
            else:
                array = constant(graph, entry.value, weights).astype(dtype)
                found[name] = np.ascontiguousarray(array).reshape(entry.shape)
    return found


def _bytes(array: Array) -> Array:
    return array.reshape(-1).view(np.uint8)


def _read_record(folder: Path) -> Record:
    """The record of a bundle, whose hashes vouch for it."""
    content = json.loads((folder / RECORD).read_text("utf-8"))
    entries = {name: Entry(of["value"], of["element"], tuple(of["shape"])) for name, of in content["entries"].items()}
    return Record(content["stripped"], content["only_for"], entries)
