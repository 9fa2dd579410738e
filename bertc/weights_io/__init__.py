"""Weights: one reader per checkpoint format, one table of names per model family, one binding of both to a network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bertc.errors import BertcError, error
from bertc.weights_io import (
    hdf5,
    mxnet,
    onnx_weights,
    plain_pickle,
    safetensors,
    shards,
    tensorflow,
    torch_legacy,
    torch_zip,
)
from bertc.weights_io.binding import bind
from bertc.weights_io.files import open_file
from bertc.weights_io.names import canonical_names
from bertc.weights_io.random_init import random_weights
from bertc.weights_io.tensor import Element, Tensor, weights_hash

__all__ = ["Element", "Tensor", "bind", "canonical_names", "open_checkpoint", "random_weights", "weights_hash"]


@dataclass(frozen=True)
class Reader:
    """One checkpoint format: `recognises` looks at the first bytes of a file, `read` finds the tensors in it."""

    format: str
    recognises: Callable[[bytes], bool]
    read: Callable[[Path], dict[str, Tensor]]


READERS = (
    Reader("safetensors", safetensors.recognises, safetensors.read_safetensors),
    Reader("PyTorch's zip format", torch_zip.recognises, torch_zip.read_torch_zip),
    Reader("PyTorch's older format", torch_legacy.recognises, torch_legacy.read_torch_legacy),
    Reader("a pickled dict", plain_pickle.recognises, plain_pickle.read_plain_pickle),
    Reader("HDF5", hdf5.recognises, hdf5.read_hdf5),
    Reader("MXNet's parameters", mxnet.recognises, mxnet.read_mxnet),
    Reader("ONNX", onnx_weights.recognises, onnx_weights.read_onnx_weights),
    Reader("an index of shards", shards.recognises, shards.read_shards),
    Reader("a TensorFlow checkpoint", tensorflow.recognises, tensorflow.read_tensorflow),
)
"""Asked in this order. A new format is a module with `recognises` and a reading function, and a line here."""

DIRECTORY_FILES = (
    *("model.safetensors", "model.safetensors.index.json"),
    *("pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5"),
)
"""What a directory of a model keeps its weights in; the first that is there is read."""

HEAD = 64
"""Bytes of a file that are enough to recognise it."""


def open_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors at `path`, a file or a model's directory, under the names they have there. No values are read.

    The format is recognised by content. Raises B0002 when there is nothing to read, B0401 when the file is damaged,
    B0402 when its format is not known, B0403 for an element type that is not read, B0404 for a shard out of bounds.
    """
    file = _in_directory(path) if path.is_dir() else tensorflow.find_index(path) or path
    with open_file(file) as opened:
        head = opened.read(HEAD)
    for reader in READERS:
        if reader.recognises(head):
            return reader.read(file)
    raise _not_recognised(file, head)


def _in_directory(folder: Path) -> Path:
    for name in DIRECTORY_FILES:
        if (folder / name).is_file():
            return folder / name
    if (index := tensorflow.find_index(folder)) is not None:
        return index
    wanted = ", ".join(f"`{name}`" for name in DIRECTORY_FILES)
    message = f"`{folder}` holds none of {wanted}, and no TensorFlow checkpoint"
    raise error("B0002", message, help="name the file of weights itself")


def _not_recognised(path: Path, head: bytes) -> BertcError:
    found = f"starts with the bytes {head[:9].hex(' ')}" if head else "is empty"
    *formats, last = (reader.format for reader in READERS)
    if head.startswith(b"version https://git-lfs"):
        found, what_to_do = "is a Git LFS pointer", "fetch what it points to with `git lfs pull`"
    else:
        what_to_do = "save the model as safetensors, or fetch the file again if it should be that already"
    return error("B0402", f"`{path}` is not {', '.join(formats)} or {last}: it {found}", help=what_to_do)
