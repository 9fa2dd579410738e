"""Keras' weights in HDF5: `tf_model.h5` and others of before Keras 3, and Keras 3's `.weights.h5`.

    bert/tf_bert_model/bert/encoder/layer_._0/intermediate/dense/kernel:0      before: layer, then name of the variable
    layers/dense_1/vars/0                                                      Keras 3: path of the object, then number

Only the shape, type and place of datasets are asked of the HDF5 library, for no link but those within the file; the
values are then read as they lie. So a file cannot make it open another one, or unpack anything.

Source: https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html; keras/src/legacy/saving/legacy_h5_format.py
and keras/src/saving/saving_lib.py of https://github.com/keras-team/keras
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bertc.errors import BertcError, error
from bertc.types import FLOATS
from bertc.weights_io.files import STORAGE, Version, check_sharing, damaged, open_file, tensor_at, version
from bertc.weights_io.tensor import Element, Tensor, quoted

MAGIC = b"\x89HDF\r\n\x1a\n"
MAX_OBJECTS = 6_000
"""BERT large has 800, and with the two slots that Adam has for each parameter three times as many."""
MAX_PATH = 1000
"""Bytes; the groups in a path are bounded by it too, since a group can be in itself."""
MAX_RANK = 32
MAX_VALUES = 2**56

ELEMENTS: dict[np.dtype[Any], Element] = {STORAGE["f64"]: "f64", STORAGE["f32"]: "f32", STORAGE["f16"]: "f16"}
TRAINING = ("optimizer/", "optimizer_weights/")
"""What the paths of an optimizer's variables start with."""
OUTPUT = ":0"
"""What ends the name of a variable in TensorFlow."""
WHOLE_MODEL = "model_weights/"
"""The group that holds the weights where a whole model was saved."""


def recognises(head: bytes) -> bool:
    """Whether a file that starts with `head` is meant to be HDF5."""
    return head.startswith(MAGIC)


def read_hdf5(path: Path) -> dict[str, Tensor]:
    """The parameters of the file at `path`, by the names that Keras' variables had.

    What belongs to training is left out: an optimizer's variables, scalars and whole numbers. Raises B0401 when the
    file is damaged, B0403 for an element type that is not read, B0404 for a link or values in another file, B0413 for
    values in chunks, B0414 without h5py.
    """
    with open_file(path) as file:
        opened = version(file)
    h5py = _library()
    try:
        with h5py.File(path, "r", locking=False) as file:
            tensors = [
                tensor
                for name, dataset in _datasets(path, h5py, file)
                if (tensor := _tensor(path, h5py, opened, name, dataset)) is not None
            ]
    except BertcError:
        raise
    except Exception as problem:  # the library reports damage as OSError, KeyError, RuntimeError, ValueError and more
        raise damaged(path, f"is not what HDF5 allows: {str(problem).splitlines()[0][:200]}") from None
    check_sharing(path, tensors, opened.size)
    by_name = {tensor.name: tensor for tensor in tensors}
    if len(by_name) < len(tensors):
        raise damaged(path, "has two variables of the same name")
    return by_name


def _library() -> Any:
    try:
        return importlib.import_module("h5py")
    except ImportError:
        message = "weights in HDF5 are read with h5py, which is not installed"
        raise error("B0414", message, help="run `pip install bertc[h5]`") from None


def _datasets(path: Path, h5py: Any, file: Any) -> Iterator[tuple[str, Any]]:
    """Each dataset that hard links lead to, with its path."""
    count = 0
    waiting: list[tuple[str, Any]] = [("", file)]
    while waiting:
        prefix, group = waiting.pop()
        names = _names(path, group, prefix, MAX_OBJECTS - count)
        count += len(names)
        for name in names:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                message = f"`{path}` has {quoted(prefix + name)} as a link to another place"
                raise error("B0404", message, help="save the weights again, all in one file")
            member = group[name]
            if isinstance(member, h5py.Group):
                waiting.append((f"{prefix}{name}/", member))
            elif isinstance(member, h5py.Dataset):
                yield prefix + name, member


def _names(path: Path, group: Any, prefix: str, most: int) -> list[str]:
    """The names in a group. The library is stopped at the first one too many: all of them may not fit into memory."""
    names: list[str] = []

    def take(name: bytes) -> str | None:
        if len(names) == most:
            return f"has more than {MAX_OBJECTS} groups and datasets"
        if len(prefix) + len(name) > MAX_PATH:
            return f"has a path of more than {MAX_PATH} bytes"
        try:
            names.append(name.decode())
        except UnicodeDecodeError:
            return "has a name that is not UTF-8"
        return None

    reason, _ = group.id.links.iterate(take)
    if reason is not None:
        raise damaged(path, reason)
    return names


def _tensor(path: Path, h5py: Any, opened: Version, name: str, dataset: Any) -> Tensor | None:
    """The dataset as a tensor; None where it is no parameter."""
    _check_storage(path, h5py, name, dataset)
    shape: tuple[int, ...] = dataset.shape or ()
    if name.startswith(TRAINING) or not shape or dataset.dtype.kind in "iub":
        return None
    element = _element(path, name, dataset.dtype)
    if len(shape) > MAX_RANK or math.prod(max(size, 1) for size in shape) > MAX_VALUES:
        raise damaged(path, f"gives {quoted(name)} a shape beyond {MAX_RANK} sizes or {MAX_VALUES} values")
    offset, size = dataset.id.get_offset(), math.prod(shape) * STORAGE[element].itemsize
    if size == 0:
        offset = 0
    if offset is None or offset + size > opened.size:
        raise damaged(path, f"has no {size} bytes of values for {quoted(name)}")
    return tensor_at(path, opened, offset, name=_variable(name), shape=shape, element=element)


def _check_storage(path: Path, h5py: Any, name: str, dataset: Any) -> None:
    plan = dataset.id.get_create_plist()
    if plan.get_layout() == h5py.h5d.VIRTUAL or plan.get_external_count():
        message = f"`{path}` has the values of {quoted(name)} in another file"
        raise error("B0404", message, help="save the weights again, all in one file")
    if plan.get_layout() != h5py.h5d.CONTIGUOUS and dataset.shape:
        message = f"`{path}` has the values of {quoted(name)} in chunks"
        raise error("B0413", message, help="save the weights again without compression")


def _element(path: Path, name: str, dtype: np.dtype[Any]) -> Element:
    if dtype not in ELEMENTS:
        message = f"`{path}` holds {quoted(name)} as {dtype.str}; weights are read as {', '.join(FLOATS)}"
        raise error("B0403", message, help="save the weights as float32")
    return ELEMENTS[dtype]


def _variable(path: str) -> str:
    """What the variable at `path` was called, from the name of its layer on.

    `bert/tf_bert_model/bert/pooler/dense/bias:0` -> `bert/pooler/dense/bias`. Keras 3 has no names, and the path stays.
    """
    if not path.endswith(OUTPUT):
        return path
    layer, _, rest = path.removeprefix(WHOLE_MODEL).partition("/")
    _, repeated, name = f"/{rest}".partition(f"/{layer}/")
    return (f"{layer}/{name}" if repeated else rest).removesuffix(OUTPUT)
