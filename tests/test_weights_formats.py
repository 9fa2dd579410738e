"""One model in every format: the same canonical weights, bit for bit."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from every_format import FORMATS, tensorflow
from safetensors.torch import load_file

from bertc.checkpoints import convert_weights, list_weights, read_weights
from bertc.compiler import build
from bertc.elaborate import elaborate
from bertc.engine import open as open_bundle
from bertc.errors import BertcError
from bertc.spec import load_spec
from bertc.weights_io import canonical_names, open_checkpoint, weights_hash
from bertc.weights_io.quantisation import is_for_quantisation

TINY = Path(__file__).parent / "fixtures" / "tiny_bert"


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that is gone after the test: what is written there has 90 MB."""
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


@pytest.mark.parametrize("name", FORMATS)
def test_real_weights_in_every_format(name: str, minilm: Path, folder: Path) -> None:
    """What a build takes of them: every parameter of the network, and nothing that it has no use for."""
    spec = load_spec(str(minilm))
    required = {node.key: tuple(map(int, node.types[0].shape)) for node in elaborate(spec).weights}
    original = read_weights(minilm, spec, required).parameters
    path = FORMATS[name](load_file(minilm / "model.safetensors"), folder)
    found = read_weights(path, spec, required)
    assert len(found.parameters) == 103
    assert found.quantisation == {}
    assert weights_hash(found.parameters) == weights_hash(original)


def test_real_weights_give_the_same_embeddings(minilm: Path, folder: Path) -> None:
    """Of the two formats that are farthest apart; equal hashes stand for equal engines in the others."""
    spec = load_spec(str(minilm))
    path = tensorflow(load_file(minilm / "model.safetensors"), folder)
    bundles = (
        build(spec, folder / "original", "onnx", weights=minilm),
        build(spec, folder / "resaved", "onnx", weights=path),
    )
    assert bundles[0].manifest.weights_hash == bundles[1].manifest.weights_hash
    assert bundles[0].manifest.files == bundles[1].manifest.files
    ids = np.random.default_rng(0).integers(1000, 30000, (3, 17))
    batch = {"input_ids": ids, "attention_mask": np.arange(17) < np.array([[17], [9], [2]])}
    results = [open_bundle(str(folder / name)).run(batch)["last_hidden_state"] for name in ("original", "resaved")]
    assert results[0].shape == (3, 17, 384)
    assert results[0].tobytes() == results[1].tobytes()


def test_a_conversion_keeps_every_bit(minilm: Path, folder: Path) -> None:
    original, _ = canonical_names(open_checkpoint(minilm))
    torch.save(load_file(minilm / "model.safetensors"), folder / "model.bin")
    written = convert_weights(folder / "model.bin", folder / "out.safetensors")
    assert (written.parameters.keys(), written.unknown) == (original.keys(), ())
    converted = open_checkpoint(folder / "out.safetensors")
    assert weights_hash(converted) == weights_hash(original)
    again, unknown = canonical_names(converted)
    assert unknown == []
    assert weights_hash(again) == weights_hash(original)


def test_what_is_there_for_quantisation_is_no_parameter(tmp_path: Path) -> None:
    """Nor is it unexpected: ranges of values, as NVIDIA's quantisation leaves them in a state dict."""
    tensors = load_file(TINY / "model.safetensors")
    name = "bert.encoder.layer.0.attention.self.query._input_quantizer._amax"
    torch.save(tensors | {name: torch.tensor(2.5)}, tmp_path / "model.bin")
    original, _ = canonical_names(open_checkpoint(TINY / "model.safetensors"))
    required = {name: tensor.shape for name, tensor in original.items()}
    found = read_weights(tmp_path / "model.bin", load_spec("bert-base"), required)
    assert weights_hash(found.parameters) == weights_hash(original)
    assert found.quantisation[name].read() == 2.5
    (entry,) = (entry for entry in list_weights(tmp_path / "model.bin").entries if entry.name == name)
    assert (entry.canonical, entry.purpose) == ((), "for quantisation")


@pytest.mark.parametrize(
    ("name", "is_so"),
    [
        *(("layer.0.query._input_quantizer._amax", True), ("layer.0.weight_mask", True), ("layer.0.scale", True)),
        *(("mask", True), ("layer.0.mask.weight", False), ("layer.0.amask", False), ("layer_mask.0", False)),
    ],
)
def test_the_last_word_says_what_is_for_quantisation(name: str, is_so: bool) -> None:
    assert is_for_quantisation(name) == is_so


WRITTEN = (
    *("tf1", "tf1_sharded", "tf1_snappy", "tf2", "tf2_transformers", "tf2_unnamed", "tf_model.h5"),
    *("model.onnx", "external.onnx", "gluonnlp.params"),
)
"""What fixtures/make_fixtures.py had TensorFlow, Keras, torch, transformers and GluonNLP write of one model."""


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
