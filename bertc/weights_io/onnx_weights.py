"""The weights in an ONNX model, without the onnx library: the initializers of its graph.

Exporters keep PyTorch's names, except for the matrix of a product, which they transpose to [in, out] and call
`onnx::MatMul_306`. The product's bias is called as before, and the product after its module:

    /bert/encoder/layer.0/attention/self/query/MatMul -> bert.encoder.layer.0.attention.self.query.weight

Initializers of equal values are stored once; `Identity` gives them their other names.
Source: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3 and docs/ExternalData.md beside it
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertc.errors import error
from bertc.weights_io.files import (
    STORAGE,
    FileBytes,
    Version,
    check_sharing,
    damaged,
    decoded,
    neighbour,
    open_file,
    tensor_at,
    version,
)
from bertc.weights_io.names import transposed
from bertc.weights_io.protobuf import Message, Stretch, WireError, parse_message
from bertc.weights_io.tensor import Element, Tensor, quoted
from bertc.weights_io.views import view

MAX_RANK = 32
MAX_VALUES = 2**56

VERSION_KEY, MAX_VERSION = 0x08, 0x40
FURTHER_KEYS = b"\x12\x1a\x22\x28\x32\x3a\x42\x72"
"""What the fields of a ModelProto start with: ir_version, then what stands after it."""

ELEMENTS: dict[int, Element] = {1: "f32", 10: "f16", 11: "f64", 16: "bf16"}
"""By their number in ONNX's TensorProto.DataType."""
TYPED_VALUES: dict[Element, int] = {"f32": 4, "f64": 10}
"""The fields that hold values where `raw_data` does not, of types whose values lie there as they do in memory."""
OTHER_ELEMENTS = range(17, 25)
"""Floating-point types of 8 bits and less."""

MAX_VARINT = 3
"""Bytes of a number of 16 bits."""
CHUNK = 1 << 16
"""Bytes decoded at once, each of which takes many times its size meanwhile."""

PARAMETER = re.compile(r"\w+(\.\w+)+")
"""A name that PyTorch gave, and not the exporter."""
DIGITS = re.compile(r"[0-9]{1,18}")
PRODUCTS = ("MatMul", "Gemm")


@dataclass(frozen=True)
class Node:
    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    has_transposed_right: bool


def recognises(head: bytes) -> bool:
    """Whether a file that starts with `head` is meant to be a model: first its version, then a further field of it."""
    return len(head) > 2 and head[0] == VERSION_KEY and 0 < head[1] < MAX_VERSION and head[2] in FURTHER_KEYS


def read_onnx_weights(path: Path) -> dict[str, Tensor]:
    """The floating-point arrays among the initializers of the model at `path`, by the names that PyTorch gave them.

    What the exporter named is left out when it holds one number or none. Raises B0401 when the file is damaged, B0403
    for an element type that is not read, B0404 for values outside the folder, B0413 for sparse initializers.
    """
    with open_file(path) as file:
        opened = version(file)
        try:
            return _parameters(path, opened, FileBytes(file, opened.size))
        except WireError as problem:
            raise damaged(path, str(problem)) from None


def _parameters(path: Path, opened: Version, whole: FileBytes) -> dict[str, Tensor]:
    graph = parse_message(whole).message(7)
    if any(True for _ in graph.stretches(15)):
        message = f"`{path}` holds sparse initializers"
        raise error("B0413", message, help="export the model with dense weights")
    tensors: dict[str, Tensor] = {}
    sizes = {path: opened.size}
    for initializer in graph.messages(5):
        tensor = _tensor(path, opened, sizes, initializer)
        if tensor is not None and tensors.setdefault(tensor.name, tensor) is not tensor:
            raise WireError(f"has two initializers called {quoted(tensor.name)}")
    named = _named(tensors, [_node(node) for node in graph.messages(1)])
    check_sharing(path, named.values(), sum(sizes.values()))
    return named


def _node(node: Message) -> Node:
    attributes = {attribute.text(1): attribute.number(3) for attribute in node.messages(5)}
    inputs, outputs = tuple(node.texts(1)), tuple(node.texts(2))
    return Node(node.text(4), node.text(3), inputs, outputs, attributes.get("transB") == 1)


def _named(tensors: Mapping[str, Tensor], nodes: Sequence[Node]) -> dict[str, Tensor]:
    """The tensors by the names that PyTorch gave them, as far as the nodes tell."""
    known = dict(tensors)
    for node in nodes:
        if node.op == "Identity" and node.inputs and node.outputs and node.inputs[0] in known:
            known[node.outputs[0]] = known[node.inputs[0]]
    weights, used = _weights_of_products(known, nodes)
    named = {name: replace(tensor, name=name) for name, tensor in known.items() if PARAMETER.fullmatch(name)}
    if twice := sorted(weights.keys() & named.keys()):
        raise WireError(f"has two arrays that are both {quoted(twice[0])}")
    left = tensors.keys() - named.keys() - used
    return named | weights | {name: tensors[name] for name in sorted(left) if math.prod(tensors[name].shape) > 1}


def _weights_of_products(known: Mapping[str, Tensor], nodes: Sequence[Node]) -> tuple[dict[str, Tensor], set[str]]:
    """What the exporter named among the matrices of products, by the names of their modules; and its names of them."""
    added = {
        value: node.inputs for node in nodes if node.op == "Add" and len(node.inputs) == 2 for value in node.inputs
    }
    weights: dict[str, Tensor] = {}
    used: dict[str, str] = {}
    for node in nodes:
        matrix = node.inputs[1] if node.op in PRODUCTS and len(node.inputs) > 1 else ""
        if matrix not in known or PARAMETER.fullmatch(matrix):
            continue
        beside = node.inputs[2:3] if node.op == "Gemm" else added.get(node.outputs[0], ()) if node.outputs else ()
        module = _module(node.name, [name for name in beside if name in known])
        if module is None:
            continue
        name = f"{module}.weight"
        if used.setdefault(name, matrix) != matrix:
            raise WireError(f"has two arrays that are both {quoted(name)}")
        weight = replace(known[matrix], name=name)
        weights[name] = weight if node.has_transposed_right else transposed(weight)
    return weights, set(used.values())


def _module(product: str, added: Iterable[str]) -> str | None:
    """The module that a product belongs to, by the bias that is added to it, else by the product's own name."""
    for name in added:
        if PARAMETER.fullmatch(name) and name.endswith(".bias"):
            return name.removesuffix(".bias")
    module = product.removeprefix("/").rpartition("/")[0].replace("/", ".")
    return module if re.fullmatch(r"\w+(\.\w+)*", module) else None


def _tensor(path: Path, opened: Version, sizes: dict[Path, int], initializer: Message) -> Tensor | None:
    """The initializer, or None where it holds something else than floating-point numbers.

    The size of a file that its values are in is added to `sizes`.
    """
    name, kind, shape = initializer.text(8), initializer.number(2), tuple(initializer.numbers(1))
    if kind in OTHER_ELEMENTS:
        read = ", ".join(ELEMENTS.values())
        message = f"`{path}` holds {quoted(name)} as ONNX's type {kind}; weights are read as {read}"
        raise error("B0403", message, help="export the model in float32, float16 or bfloat16")
    if kind not in ELEMENTS:
        return None
    # Counted without sizes of 0: NumPy refuses an empty array whose other sizes overflow.
    if len(shape) > MAX_RANK or math.prod(max(size, 1) for size in shape) > MAX_VALUES:
        raise WireError(f"gives {quoted(name)} a shape beyond {MAX_RANK} sizes or {MAX_VALUES} values")
    element = ELEMENTS[kind]
    if initializer.number(14):
        return _external(path, sizes, initializer, name, shape, element)
    raw = initializer.stretch(9)
    if raw is None and element not in TYPED_VALUES:
        return _from_varints(path, opened, initializer.stretch(5), name, shape, element)
    stretch = raw if raw is not None else initializer.stretch(TYPED_VALUES[element])
    size = stretch.size if stretch else 0
    needed = math.prod(shape) * STORAGE[element].itemsize
    if size != needed:
        raise WireError(f"gives {quoted(name)} {size} bytes; {element} of shape {list(shape)} takes {needed}")
    return tensor_at(path, opened, stretch.start if stretch else 0, name=name, shape=shape, element=element)


def _external(
    path: Path, sizes: dict[Path, int], initializer: Message, name: str, shape: tuple[int, ...], element: Element
) -> Tensor:
    """The tensor whose values are in another file of the folder."""
    place = {entry.text(1): entry.text(2) for entry in initializer.messages(13)}
    file = neighbour(path, place.get("location", "").removeprefix("./"))
    needed = math.prod(shape) * STORAGE[element].itemsize
    offset, length = place.get("offset", "0"), place.get("length", str(needed))
    if not DIGITS.fullmatch(offset) or length != str(needed):
        raise WireError(
            f"gives {quoted(name)} the place {quoted(offset)} and {quoted(length)} bytes, expected {needed}"
        )
    with open_file(file) as opened:
        found = version(opened)
    sizes[file] = found.size
    if int(offset) + needed > found.size:
        raise damaged(file, f"has {found.size} bytes, but {quoted(name)} ends at byte {int(offset) + needed}")
    return tensor_at(file, found, int(offset), name=name, shape=shape, element=element)


def _from_varints(
    path: Path, opened: Version, stretch: Stretch | None, name: str, shape: tuple[int, ...], element: Element
) -> Tensor:
    """The tensor of 16-bit numbers that are written as varints."""
    start, size = (stretch.start, stretch.size) if stretch else (0, 0)
    wanted = math.prod(shape)
    if not wanted <= size <= MAX_VARINT * wanted:
        raise WireError(f"gives {quoted(name)} {size} bytes; {wanted} numbers take {wanted} to {MAX_VARINT * wanted}")
    octets = tensor_at(path, opened, start, name=name, shape=(size,), element="u8")

    def numbers(packed: NDArray[Any]) -> NDArray[Any]:
        values = np.empty(wanted, "<u2")
        count = start = 0
        while start < size:
            found, used = _varints(packed[start : start + CHUNK])
            if not 0 < len(found) <= wanted - count:
                break
            values[count : count + len(found)] = found
            count, start = count + len(found), start + used
        if start < size or count < wanted:
            raise damaged(path, f"does not give {quoted(name)} {wanted} numbers of 16 bits")
        return decoded(values.view(STORAGE[element]), element).reshape(shape)

    return view(octets, numbers, name=name, shape=shape, element=element)


def _varints(chunk: NDArray[np.uint8]) -> tuple[NDArray[np.uint32], int]:
    """The numbers that `chunk` holds whole and how many bytes they take; none where one has more than 16 bits."""
    ends = np.flatnonzero(chunk < 0x80)
    lengths = np.diff(ends, prepend=-1)
    if not len(ends) or np.any(lengths > MAX_VARINT):
        return np.empty(0, np.uint32), 0
    digits = (chunk & 0x7F).astype(np.uint32)
    values = digits[ends]
    for place in range(1, MAX_VARINT):
        is_longer = lengths > place
        values[is_longer] = values[is_longer] << 7 | digits[ends[is_longer] - place]
    return values if np.all(values <= 0xFFFF) else values[:0], int(ends[-1]) + 1
