"""What the fuzzer changes: for each format a few small files that are whole, and the ways to change them."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import h5py
import numpy as np
import torch
import yaml  # noqa: F401 - bertc imports it when it reads the first spec
from hostile import Read
from mutations import (
    Mutation,
    after_length,
    aligned,
    fields,
    json_values,
    lines,
    mutated,
    octets,
    opcodes,
    text,
)
from mxnet_builder import ONES, V1, V2, V3, params
from onnx_builder import HALF, external, model, node, tensor
from protobuf_builder import nested
from safetensors.torch import save
from tensorflow_builder import (
    GOOD,
    VALUES,
    data_block,
    entry,
    graph_of,
    graph_value,
    index_of,
    record,
    table,
    with_graph,
)

from bertc.spec import load_spec
from bertc.weights_io import Tensor
from bertc.weights_io.crc32c import masked_crc32c
from bertc.weights_io.hdf5 import read_hdf5
from bertc.weights_io.mxnet import read_mxnet
from bertc.weights_io.onnx_weights import read_onnx_weights
from bertc.weights_io.plain_pickle import read_plain_pickle
from bertc.weights_io.safetensors import read_safetensors
from bertc.weights_io.shards import read_shards
from bertc.weights_io.sstable import read_table
from bertc.weights_io.tensorflow import read_tensorflow
from bertc.weights_io.torch_legacy import read_torch_legacy
from bertc.weights_io.torch_zip import read_torch_zip

Files = Mapping[str, bytes]
"""By name; the first is the one to open."""

TINY = Path(__file__).parent / "fixtures" / "tiny_bert"
MODEL: dict[str, Any] = {
    "model": OrderedDict(a=torch.ones(2, 3), b=torch.ones(3, 2).T, c=torch.zeros(4).bfloat16()),
    "step": 1,
}
ARRAYS = {"a": np.arange(6.0).reshape(2, 3).T, "b": np.float32(1), "c": np.array([True, False])}


@dataclass(frozen=True)
class Format:
    read: Read
    seeds: Callable[[], Sequence[Files]]
    mutate: Callable[[Files, Random], Files]


def of_one_file(read: Read, seeds: Callable[[], Sequence[bytes]], *mutations: Mutation) -> Format:
    return of_first_file(read, lambda: [{"file": content} for content in seeds()], *mutations)


def of_first_file(read: Read, seeds: Callable[[], Sequence[Files]], *mutations: Mutation) -> Format:
    def mutate(files: Files, choose: Random) -> Files:
        first = next(iter(files))
        return {**files, first: mutated(files[first], mutations, choose)}

    return Format(read, cache(seeds), mutate)


def torch_file(content: object, is_zip: bool) -> bytes:
    with io.BytesIO() as written:
        torch.save(content, written, _use_new_zipfile_serialization=is_zip)
        return written.getvalue()


# zip: the pickle in it is changed and the archive written anew; or its records, by the numbers in them


def repacked(content: bytes, choose: Random) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        members = {name: file.read(name) for name in file.namelist()}
    name = choose.choice((*[next(name for name in members if name.endswith("data.pkl"))] * 4, *members))
    members[name] = opcodes(members[name], choose)
    if choose.random() < 0.1:
        other = choose.choice(list(members))
        members[choose.choice(("../a", "/a", "a", other.upper(), other + "/x"))] = members.pop(other)
    with io.BytesIO() as written:
        with zipfile.ZipFile(written, "w", choose.choice((*[zipfile.ZIP_STORED] * 9, zipfile.ZIP_DEFLATED))) as file:
            for member, data in members.items():
                file.writestr(zipfile.ZipInfo(member), data)
        return written.getvalue()


def records_of_zip(content: bytes, choose: Random) -> bytes:
    """Numbers behind a signature."""
    places = [at for at in range(len(content)) if content.startswith(b"PK", at)]
    start = choose.choice(places)
    return content[:start] + aligned(2)(content[start : start + 56], choose) + content[start + 56 :]


# TensorFlow: entries are changed and their table written anew, with its checksums


SHARD = "m.data-00000-of-00001"
GRAPH = b"_CHECKPOINTABLE_OBJECT_GRAPH"


def checkpoints() -> list[Files]:
    index, shard = with_graph(graph_of(b"x/kernel"))
    plain = index_of({"a": GOOD, "b": entry(offset=8, checksum=masked_crc32c(VALUES))})
    written = {path.name: path.read_bytes() for path in sorted((TINY / "tf1_snappy").glob("m*"), reverse=True)}
    return [{"m.index": index, SHARD: shard}, {"m.index": plain, SHARD: VALUES * 2}, written]


def checkpoint(files: Files, choose: Random) -> Files:
    (index_name, index), (shard_name, shard) = files.items()
    match choose.randrange(6):
        case 0:
            index = mutated(index, (octets,), choose)
        case 1:
            shard = octets(shard, choose)
        case 2:
            stored, checksum = graph_value(fields(graph_of(b"x/kernel"), choose))
            index = index_of({GRAPH.decode(): entry((), 7, 0, 8, len(stored), checksum), "a": GOOD})
            shard = shard[:8] + stored
        case _:
            index = rewritten(index, choose)
    return {index_name: index, shard_name: shard}


def rewritten(index: bytes, choose: Random) -> bytes:
    """The index with an entry or a key changed."""
    entries = {key: bytes(value) for key, value in read_table(index)}
    key = choose.choice(list(entries))
    if choose.random() < 0.1:
        entries[octets(key, choose)] = entries.pop(key)
    else:
        entries[key] = fields(entries[key], choose)
    records = b"".join(record(key, value) for key, value in sorted(entries.items()))
    return table(data_block(octets(records, choose) if choose.random() < 0.2 else records))


# shards: an index and two files


def sharded() -> list[Files]:
    parts = {
        "1.safetensors": save({"a": torch.zeros(1), "b": torch.ones(2)}),
        "2.bin": torch_file({"c": torch.ones(3)}, True),
    }
    weight_map = {"a": "1.safetensors", "b": "1.safetensors", "c": "2.bin"}
    return [{"model.safetensors.index.json": json.dumps({"metadata": {}, "weight_map": weight_map}).encode(), **parts}]


def index_or_shard(files: Files, choose: Random) -> Files:
    name = choose.choice((*[next(iter(files))] * 3, *files))
    mutations = (json_values, octets, text) if name.endswith(".json") else (octets,)
    return {**files, name: mutated(files[name], mutations, choose)}


def onnx_models() -> list[Files]:
    """Values in every place where they can be; and what an exporter wrote."""
    matrices = tensor(b"m"), tensor(b"n", kind=HALF, values=nested(5, bytes(range(6))))
    named = tensor(b"a.bias", (3,), values=nested(4, bytes(12)))
    elsewhere = tensor(b"e.weight", values=external(b"values.bin", offset=b"8", length=b"24"))
    product = node(b"MatMul", (b"x", b"m"), (b"y",)) + node(b"Add", (b"y", b"a.bias"), (b"z",), b"/a/Add")
    other = node(b"Identity", (b"a.bias",), (b"b.bias",)) + node(b"MatMul", (b"z", b"n"), (b"o",), b"/c/d/MatMul")
    whole = model(*matrices, named, elsewhere, nodes=product + other)
    return [{"model.onnx": whole, "values.bin": bytes(32)}, {"model.onnx": (TINY / "model.onnx").read_bytes()}]


# HDF5: numbers are changed where they stand, and the checksums of the newest form made right


def checked(mutation: Mutation) -> Mutation:
    """The superblock of version 2 and 3 and the first part of each object's header end in a checksum."""

    def mutated(content: bytes, choose: Random) -> bytes:
        changed = bytearray(mutation(content, choose))
        if changed[8:9] in (b"\2", b"\3"):
            changed[44:48] = lookup3(bytes(changed[:44])).to_bytes(4, "little")
        start = changed.find(b"OHDR")
        while start >= 0:
            flags = int.from_bytes(changed[start + 5 : start + 6], "little")
            at = start + 6 + 16 * (flags >> 5 & 1) + 4 * (flags >> 4 & 1)
            end = at + (1 << (flags & 3)) + int.from_bytes(changed[at : at + (1 << (flags & 3))], "little")
            if end + 4 <= len(changed):
                changed[end : end + 4] = lookup3(bytes(changed[start:end])).to_bytes(4, "little")
            start = changed.find(b"OHDR", start + 1)
        return bytes(changed)

    return mutated


def lookup3(data: bytes) -> int:
    """Bob Jenkins' hash, http://burtleburtle.net/bob/c/lookup3.c, as HDF5 uses it."""
    a = b = c = 0xDEADBEEF + len(data) & ONES_32
    words = struct.unpack(f"<{-(-len(data) // 12) * 3}I", data.ljust(-(-len(data) // 12) * 12, b"\0"))
    for at in range(0, len(words), 3):
        a, b, c = (old + new & ONES_32 for old, new in zip((a, b, c), words[at : at + 3], strict=True))
        if at + 3 < len(words):
            for turn in (4, 6, 8, 16, 19, 4):
                a = a - c & ONES_32 ^ turned(c, turn)
                a, b, c = b, c + b & ONES_32, a
    for turn in (14, 11, 25, 16, 4, 14, 24):
        c = (c ^ b) - turned(b, turn) & ONES_32
        a, b, c = b, c, a
    return b


ONES_32 = 0xFFFFFFFF


def turned(value: int, bits: int) -> int:
    return (value << bits | value >> 32 - bits) & ONES_32


def h5_seeds() -> list[bytes]:
    """As Keras writes them, and in the newest form."""
    return [_h5(libver=version, track_order=order) for version in ("earliest", "latest") for order in (False, True)]


def _h5(**options: Any) -> bytes:
    with io.BytesIO() as written:
        with h5py.File(written, "w", **options) as file:
            for name in ("d/d/kernel:0", "d/d/bias:0", "layers/dense/vars/0", "step"):
                file[name] = np.ones(3 if name != "step" else (), "<f4")
            file.attrs["layer_names"] = ["d"]
            file["half"] = np.ones(2, "<f2")
        return written.getvalue()


def read_spec(path: Path) -> Mapping[str, Tensor]:
    load_spec(str(path))
    return {}


def read_config(path: Path) -> Mapping[str, Tensor]:
    load_spec(str(path.parent))
    return {}


SPEC = b"""\
base: bert-base
sizes: {layers: 0x2, hidden: 64, "heads": 4, head_size: 16, inner: 128, labels: 2}
norm_eps: 1e-5
network: {head: token_classification, encoder: {block: pre_norm, repeat: layers}, final: final_norm}
shapes:
  - {batch: [1, 8, 32], seq: [16, 128, 384]}
  - batch: 1
    seq: 510
weights: 'it''s here/model.safetensors'   # a comment
labels: [no, "y\\u00e9s"]
"""
CONFIG = {
    "architectures": ["BertForSequenceClassification"],
    "hidden_act": "gelu",
    "hidden_size": 24,
    "id2label": {"0": "no", "1": "yes"},
    "intermediate_size": 40,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 19,
    "model_type": "bert",
    "num_attention_heads": 3,
    "num_hidden_layers": 2,
    "type_vocab_size": 2,
    "vocab_size": 53,
}


def configurations() -> list[Files]:
    return [{"config.json": json.dumps(CONFIG).encode()}]


def configuration(files: Files, choose: Random) -> Files:
    return {name: mutated(content, (json_values, json_values, text), choose) for name, content in files.items()}


FORMATS: Mapping[str, Format] = {
    "safetensors": of_one_file(
        read_safetensors,
        lambda: [save({"a.b": torch.ones(2, 3), "c": torch.zeros(3).bool(), "d": torch.zeros(0, 4)}, {"format": "pt"})],
        *(octets, after_length(octets), after_length(json_values), after_length(text)),
    ),
    "shards": Format(read_shards, cache(sharded), index_or_shard),
    "zip": of_one_file(
        read_torch_zip, lambda: [torch_file(MODEL, True)], octets, repacked, repacked, repacked, records_of_zip
    ),
    "legacy": of_one_file(read_torch_legacy, lambda: [torch_file(MODEL, False)], octets, opcodes, opcodes),
    "pickle": of_one_file(
        read_plain_pickle,
        lambda: [pickle.dumps(MODEL, 4), *(pickle.dumps(ARRAYS, protocol) for protocol in range(6))],
        *(octets, opcodes, opcodes),
    ),
    "tensorflow": Format(read_tensorflow, cache(checkpoints), checkpoint),
    "hdf5": of_one_file(read_hdf5, h5_seeds, octets, aligned(8), aligned(8), checked(aligned(4)), checked(octets)),
    "onnx": of_first_file(read_onnx_weights, onnx_models, octets, fields, fields, fields),
    "mxnet": of_one_file(
        read_mxnet,
        lambda: [params({"a": ONES, "arg:b": np.ones((2, 2), "<f2")}, magic) for magic in (V1, V2, V3)],
        *(octets, aligned(4), aligned(8)),
    ),
    "yaml": of_first_file(read_spec, lambda: [{"my.yaml": SPEC}], text, text, lines, octets),
    "config": Format(read_config, cache(configurations), configuration),
}
