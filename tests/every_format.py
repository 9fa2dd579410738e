"""One model's tensors, by Hugging Face's names, written in every format that is read.

Where the framework of a format is not at hand, its files are put together here as it writes them.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import mxnet_builder
import numpy as np
import onnx
import tensorflow_builder
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from safetensors.torch import save_file

from bertc.weights_io.crc32c import masked_crc32c
from bertc.weights_io.names import name_table

Tensors = Mapping[str, torch.Tensor]
Write = Callable[[dict[str, torch.Tensor], Path], Path]
"""Writes tensors into a folder; gives the path that is opened then."""


def one_file(name: str, save: Callable[[dict[str, torch.Tensor], Path], object]) -> Write:
    def write(tensors: dict[str, torch.Tensor], folder: Path) -> Path:
        save(tensors, folder / name)
        return folder / name

    return write


def shards(ending: str, save: Callable[[dict[str, torch.Tensor], Path], object]) -> Write:
    """Two files with the index that transformers writes beside them."""

    def write(tensors: dict[str, torch.Tensor], folder: Path) -> Path:
        names = sorted(tensors)
        parts = {f"model-1.{ending}": names[::2], f"model-2.{ending}": names[1::2]}
        for file, held in parts.items():
            save({name: tensors[name] for name in held}, folder / file)
        weight_map = {name: file for file, held in parts.items() for name in held}
        (folder / "index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
        return folder / "index.json"

    return write


def save_pickle(content: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(content, protocol=4))


def arrays(tensors: Tensors) -> dict[str, NDArray[Any]]:
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def called(tensors: Tensors, table: str, prefix: str = "") -> dict[str, NDArray[Any]]:
    """The parameters by the names of another framework, matrices as [in, out] where it has them so."""
    bert, other = name_table("bert"), name_table(table)
    found: dict[str, NDArray[Any]] = {}
    for name, values in arrays(tensors).items():
        if (canonical := bert.canonical_name(name)) is None:
            continue
        renamed = other.checkpoint_name(canonical)
        assert renamed is not None
        found[prefix + renamed] = np.ascontiguousarray(values.T) if renamed.endswith(other.transposed) else values
    return found


def keras(tensors: dict[str, torch.Tensor], folder: Path) -> Path:
    """As transformers' TFBertModel: each variable below its layer's group, under its whole name."""
    with h5py.File(folder / "tf_model.h5", "w") as file:
        for name, values in called(tensors, "bert.keras", "bert/tf_bert_model/bert/").items():
            file[f"{name}:0"] = values
    return folder / "tf_model.h5"


def tensorflow(tensors: dict[str, torch.Tensor], folder: Path) -> Path:
    """As Google's, with two slots of the optimizer for each parameter, over two shards."""
    stored = {
        variable: values
        for name, values in called(tensors, "bert.tensorflow", "bert/").items()
        for variable, values in ((name, values), (f"{name}/adam_m", values[:1]), (f"{name}/adam_v", values[:1]))
    }
    data, entries = (bytearray(), bytearray()), dict[str, bytes]()
    for number, (name, values) in enumerate(stored.items()):
        shard, content = number % 2, values.tobytes()
        place = {"shard": shard, "offset": len(data[shard]), "size": len(content)}
        entries[name] = tensorflow_builder.entry(values.shape, checksum=masked_crc32c(content), **place)
        data[shard].extend(content)
    return tensorflow_builder.write(folder, tensorflow_builder.index_of(entries, 2), *map(bytes, data)).parent


def mxnet(tensors: dict[str, torch.Tensor], folder: Path) -> Path:
    return mxnet_builder.write(folder, mxnet_builder.params(called(tensors, "bert.gluonnlp", "bert.")))


def onnx_model(tensors: Tensors) -> onnx.ModelProto:
    """As torch.onnx.export: the matrices of products as [in, out], without names."""
    initializers: list[Any] = []
    nodes: list[Any] = []
    for number, (name, values) in enumerate(arrays(tensors).items()):
        module, _, kind = name.rpartition(".")
        if values.ndim == 2 and kind == "weight" and f"{module}.bias" in tensors:
            name, values = f"onnx::MatMul_{number}", np.ascontiguousarray(values.T)
            path = "/" + module.replace(".", "/")
            nodes.append(
                helper.make_node("MatMul", [f"{path}_input", name], [f"{path}/MatMul_output"], f"{path}/MatMul")
            )
        initializers.append(numpy_helper.from_array(values, name))
    return helper.make_model(helper.make_graph(nodes, "main_graph", [], [], initializers), producer_name="pytorch")


def onnx_external(tensors: dict[str, torch.Tensor], folder: Path) -> Path:
    path = folder / "model.onnx"
    onnx.save(onnx_model(tensors), path, save_as_external_data=True, location="weights.bin", size_threshold=64)
    return path


def save_legacy(content: Any, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


FORMATS: dict[str, Write] = {
    "safetensors": one_file("model.safetensors", save_file),
    "safetensors, in shards": shards("safetensors", save_file),
    "zip": one_file("model.bin", torch.save),
    "zip, in shards": shards("bin", torch.save),
    "zip, nested, with an optimizer": one_file(
        "model.pt",
        lambda tensors, path: torch.save(
            {"model": tensors, "optimizer": {"state": {0: torch.ones(3)}}, "step": 7}, path
        ),
    ),
    "legacy": one_file("model.bin", save_legacy),
    "pickle of arrays": one_file("model.pkl", lambda tensors, path: save_pickle(arrays(tensors), path)),
    "pickle of tensors": one_file("model.pkl", lambda tensors, path: save_pickle({"state_dict": tensors}, path)),
    "Keras": keras,
    "TensorFlow": tensorflow,
    "MXNet": mxnet,
    "ONNX": one_file("model.onnx", lambda tensors, path: onnx.save(onnx_model(tensors), path)),
    "ONNX, values in another file": onnx_external,
}
