"""Write a safetensors file, one tensor in memory at a time; bertc.weights_io.safetensors has the format."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from bertc.weights_io.files import STORAGE
from bertc.weights_io.safetensors import ELEMENTS
from bertc.weights_io.tensor import Tensor

_DTYPES = {element: dtype for dtype, element in ELEMENTS.items()}


def write_safetensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors, in the element types they have, under the names that `tensors` gives them. Raises OSError."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + math.prod(tensor.shape) * STORAGE[tensor.element].itemsize
        header[name] = {"dtype": _DTYPES[tensor.element], "shape": tensor.shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            file.write(_stored(tensor))


def _stored(tensor: Tensor) -> bytes:
    values = np.ascontiguousarray(tensor.read())
    if tensor.element == "bf16":  # read as float32, whose upper half it is
        return (values.view(np.uint32) >> 16).astype("<u2").tobytes()
    return values.astype(STORAGE[tensor.element], copy=False).tobytes()
