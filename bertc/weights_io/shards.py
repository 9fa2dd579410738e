"""A checkpoint cut into several files, of safetensors or of torch, found through an index.

    {"metadata": {...}, "weight_map": {NAME: FILE, ...}}

Source: https://huggingface.co/docs/safetensors/torch_shared_tensors and transformers' `save_pretrained`, which writes
it as model.safetensors.index.json or pytorch_model.bin.index.json.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from bertc.weights_io import torch_legacy, torch_zip
from bertc.weights_io.budget import MAX_HEADER, Budgets
from bertc.weights_io.files import damaged, neighbour, open_file
from bertc.weights_io.safetensors import read_safetensors
from bertc.weights_io.strict_json import JsonError, parse_json_within
from bertc.weights_io.tensor import Tensor, quoted
from bertc.weights_io.torch_legacy import read_torch_legacy
from bertc.weights_io.torch_zip import read_torch_zip

MAX_SHARDS = 256
HEAD = 64
"""Bytes of a shard that are enough to recognise it."""


def recognises(head: bytes) -> bool:
    """Whether a file that starts with `head` is meant to be an index: a JSON object."""
    return head.lstrip()[:1] == b"{"


def read_shards(index: Path) -> dict[str, Tensor]:
    """The tensors of every shard that `index` names, each of which lies in the folder of `index`.

    Raises B0401 when the index is damaged or does not list exactly what its shards hold, B0404 for a shard elsewhere,
    and what the reader of the shards raises.
    """
    budgets = Budgets()
    weight_map = _weight_map(index, budgets)
    listed: defaultdict[str, set[str]] = defaultdict(set)
    for name, file in weight_map.items():
        listed[file].add(name)
    if len(listed) > MAX_SHARDS:
        raise damaged(index, f"names {len(listed)} shards; at most {MAX_SHARDS} are read")
    shards = {file: _read_shard(neighbour(index, file), budgets) for file in sorted(listed)}
    for file, tensors in shards.items():
        if strays := sorted(listed[file] ^ tensors.keys()):
            where, not_where = ("the index", file) if strays[0] in listed[file] else (file, "the index")
            raise damaged(index, f"does not fit its shards: {quoted(strays[0])} is in {where} and not in {not_where}")
    return {name: shards[file][name] for name, file in weight_map.items()}


def _read_shard(path: Path, budgets: Budgets) -> dict[str, Tensor]:
    """A shard that is not one of torch's files is held to be safetensors, also when nothing of it is left."""
    with open_file(path) as file:
        head = file.read(HEAD)
    for recognised, read in ((torch_zip.recognises, read_torch_zip), (torch_legacy.recognises, read_torch_legacy)):
        if recognised(head):
            return read(path, budgets)
    return read_safetensors(path, budgets)


def _weight_map(index: Path, budgets: Budgets) -> dict[str, str]:
    with open_file(index) as file:
        text = file.read(MAX_HEADER + 1)
    if not budgets.header.spend(len(text)):
        raise damaged(index, f"is longer than {MAX_HEADER} bytes")
    try:
        content = parse_json_within(text, budgets.punctuation)
    except JsonError as problem:
        raise damaged(index, str(problem)) from None
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise damaged(index, "has no `weight_map` from the names of tensors to the files that hold them")
    files = {name: file for name, file in weight_map.items() if isinstance(file, str)}
    if len(files) < len(weight_map):
        raise damaged(index, "has a `weight_map` with something else than file names in it")
    return files
