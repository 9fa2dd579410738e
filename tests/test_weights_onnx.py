"""ONNX models as sources of weights: names found again, ways of storing values, and values in other files."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import small_spec
from hostile import assert_refused, nothing_happens_outside, outcome
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from bertc.checkpoints import list_weights
from bertc.compiler import build
from bertc.errors import BertcError
from bertc.weights_io import READERS, Tensor, bind, canonical_names, open_checkpoint, weights_hash
from bertc.weights_io.onnx_weights import read_onnx_weights, recognises

TINY = Path(__file__).parent / "fixtures" / "tiny_bert"
VALUES = np.arange(6, dtype=np.float32).reshape(2, 3) - 2.5


def model(initializers: Sequence[Any], nodes: Sequence[Any] = ()) -> onnx.ModelProto:
    return helper.make_model(helper.make_graph(nodes, "graph", [], [], initializers))


def write(folder: Path, content: onnx.ModelProto | bytes) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
    return path


def opened(folder: Path, initializers: Sequence[Any], nodes: Sequence[Any] = ()) -> dict[str, NDArray[Any]]:
    tensors = open_checkpoint(write(folder, model(initializers, nodes)))
    assert all(name == tensor.name for name, tensor in tensors.items())
    return {name: tensor.read() for name, tensor in tensors.items()}


def array(name: str, values: NDArray[Any] = VALUES) -> TensorProto:
    return numpy_helper.from_array(values, name)


# what it reads


@pytest.mark.parametrize("file", ["model.onnx", "external.onnx"])
def test_the_same_weights_to_the_bit(file: str) -> None:
    expected, _ = canonical_names(open_checkpoint(TINY / "model.safetensors"))
    required = {name: tensor.shape for name, tensor in expected.items()}
    with nothing_happens_outside(TINY):
        bound = bind(required, open_checkpoint(TINY / file), source=file)
        assert weights_hash(bound) == weights_hash(expected)


def test_no_other_reader_takes_it() -> None:
    for file in ("model.onnx", "external.onnx"):
        head = (TINY / file).read_bytes()[:64]
        assert [reader.format for reader in READERS if reader.recognises(head)] == ["ONNX"]
    others = [path for path in TINY.rglob("*") if path.is_file() and path.suffix != ".onnx"]
    assert len(others) > 10
    assert not any(recognises(path.read_bytes()[:64]) for path in others)
    assert not any(recognises(head) for head in (b"", b"\x08", b"\x08\x09", b"\x08\x00\x12", b"\x08\x09\x00"))


def test_what_bertc_built_is_listed(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    build(small_spec(), bundle, "onnx", random_seed=0)
    entries = {entry.name: entry for entry in list_weights(bundle / "model.onnx", small_spec()).entries}
    assert entries["embeddings.word.weight"].canonical == ("embeddings.word.weight",)
    assert entries["encoder.1.ffn.up.transpose"].shape == (24, 40)


# names


def test_a_product_is_named_by_its_module(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "onnx::MatMul_1"], ["y"], name="/bert/layer.0/dense/MatMul")]
    found = opened(tmp_path, [array("onnx::MatMul_1")], nodes)
    assert found.keys() == {"bert.layer.0.dense.weight"}
    np.testing.assert_array_equal(found["bert.layer.0.dense.weight"], VALUES.T)


def test_a_product_is_named_by_the_bias_that_is_added_to_it(tmp_path: Path) -> None:
    """Also when the products themselves have no names, or other ones."""
    nodes = [
        helper.make_node("MatMul", ["x", "1"], ["y"], name="/elsewhere/MatMul"),
        helper.make_node("Add", ["bert.dense.bias", "y"], ["z"]),
    ]
    found = opened(tmp_path, [array("1"), array("bert.dense.bias", VALUES[0])], nodes)
    assert found.keys() == {"bert.dense.bias", "bert.dense.weight"}


@pytest.mark.parametrize("transposed", [0, 1])
def test_a_gemm_is_named_by_its_bias(transposed: int, tmp_path: Path) -> None:
    nodes = [helper.make_node("Gemm", ["x", "7", "qa_outputs.bias"], ["y"], alpha=1.0, transB=transposed)]
    found = opened(tmp_path, [array("7"), array("qa_outputs.bias", VALUES[0])], nodes)
    np.testing.assert_array_equal(found["qa_outputs.weight"], VALUES if transposed else VALUES.T)


def test_a_gemm_of_a_named_matrix(tmp_path: Path) -> None:
    nodes = [helper.make_node("Gemm", ["x", "pooler.dense.weight", "pooler.dense.bias"], ["y"], transB=1)]
    found = opened(tmp_path, [array("pooler.dense.weight"), array("pooler.dense.bias", VALUES[0])], nodes)
    np.testing.assert_array_equal(found["pooler.dense.weight"], VALUES)


def test_equal_values_are_stored_once(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Identity", ["bert.0.norm.bias"], ["bert.1.norm.bias"]),
        helper.make_node("Identity", ["bert.1.norm.bias"], ["bert.2.norm.bias"]),
        helper.make_node("MatMul", ["x", "5"], ["y"], name="/bert/query/MatMul"),
        helper.make_node("MatMul", ["x", "5"], ["z"], name="/bert/key/MatMul"),
    ]
    found = opened(tmp_path, [array("bert.0.norm.bias"), array("5")], nodes)
    assert found.keys() == {*(f"bert.{n}.norm.bias" for n in range(3)), "bert.query.weight", "bert.key.weight"}


def test_what_cannot_be_named_is_listed_as_it_is(tmp_path: Path) -> None:
    """But for numbers that the exporter put there by itself."""
    nodes = [helper.make_node("MatMul", ["x", "onnx::MatMul_1"], ["y"], name="MatMul_3")]
    scale, ids = array("scale", np.array(8.0, np.float32)), array("bert.position_ids", np.arange(5))
    assert opened(tmp_path, [array("onnx::MatMul_1"), scale, ids], nodes).keys() == {"onnx::MatMul_1"}


# ways of storing values

BF16 = (VALUES.view(np.uint32) >> 16).astype(np.uint16)
STORED: Mapping[str, Callable[[], TensorProto]] = {
    "f32 raw": lambda: helper.make_tensor("a.b", TensorProto.FLOAT, (2, 3), VALUES.tobytes(), raw=True),
    "f32": lambda: helper.make_tensor("a.b", TensorProto.FLOAT, (2, 3), VALUES.ravel()),
    "f64": lambda: helper.make_tensor("a.b", TensorProto.DOUBLE, (2, 3), VALUES.ravel().astype(np.float64)),
    "f16 raw": lambda: helper.make_tensor("a.b", TensorProto.FLOAT16, (2, 3), VALUES.astype("<f2").tobytes(), raw=True),
    "f16": lambda: helper.make_tensor("a.b", TensorProto.FLOAT16, (2, 3), VALUES.ravel().astype(np.float16)),
    "bf16 raw": lambda: helper.make_tensor("a.b", TensorProto.BFLOAT16, (2, 3), BF16.tobytes(), raw=True),
    "bf16": lambda: TensorProto(name="a.b", data_type=16, dims=(2, 3), int32_data=BF16.ravel().tolist()),
}


@pytest.mark.parametrize("name", STORED)
def test_element_types(name: str, tmp_path: Path) -> None:
    """The values are such that every type has them exactly; some take one byte as varints, some three."""
    tensor = open_checkpoint(write(tmp_path, model([STORED[name]()])))["a.b"]
    assert tensor.element == name.split()[0]
    assert tensor.shape == (2, 3)
    np.testing.assert_array_equal(tensor.read(), VALUES)


def test_every_half_as_a_varint(tmp_path: Path) -> None:
    every = np.arange(1 << 16, dtype=np.uint16)
    tensor = TensorProto(name="a.b", data_type=10, dims=(1 << 16,), int32_data=every.tolist())
    assert opened(tmp_path, [tensor])["a.b"].view(np.uint16).tolist() == every.tolist()


def test_other_types(tmp_path: Path) -> None:
    float8 = TensorProto(name="a.b", data_type=TensorProto.FLOAT8E4M3FN, dims=(2,), raw_data=b"ab")
    sparse = helper.make_sparse_tensor(array("v", VALUES[0]), array("i", np.arange(3)), [9])
    graph = helper.make_graph([], "graph", [], [], sparse_initializer=[sparse])
    for content, code in ((model([float8]), "B0403"), (helper.make_model(graph), "B0413")):
        refused = outcome(read_onnx_weights, write(tmp_path, content))
        assert refused is not None
        assert refused.diagnostics[0].code == code


# values in other files


def external(location: str, offset: str | None = None, length: str | None = None) -> TensorProto:
    tensor = TensorProto(name="a.b", data_type=1, dims=(2, 3), data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        if value is not None:
            tensor.external_data.add(key=key, value=value)
    return tensor


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a model may lie: beside it a file of values, and one outside that it must not reach."""
    (tmp_path / "outside.bin").write_bytes(VALUES.tobytes())
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights.bin").write_bytes(bytes(8) + VALUES.tobytes())
    return tmp_path / "model"


@pytest.mark.parametrize("location", ["weights.bin", "./weights.bin"])
@pytest.mark.parametrize("length", [None, "24"])
def test_values_beside_the_model(location: str, length: str | None, folder: Path) -> None:
    with nothing_happens_outside(folder):
        found = read_onnx_weights(write(folder, model([external(location, "8", length)])))
        np.testing.assert_array_equal(found["a.b"].read(), VALUES)


OUTSIDE = {
    "above": "../outside.bin",
    "above, after a dot": "./../outside.bin",
    "through another folder": "folder/../../outside.bin",
    "an absolute path": "FOLDER/outside.bin",
    "backwards": "..\\outside.bin",
    "the folder": ".",
    "nothing": "",
    "a zero": "weights.bin\0",
    "a link": "link.bin",
    "a link to a link": "link2.bin",
    "in a linked folder": "linked/outside.bin",
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_values_elsewhere_are_not_opened(name: str, folder: Path) -> None:
    (folder / "link.bin").symlink_to(folder.parent / "outside.bin")
    (folder / "link2.bin").symlink_to("link.bin")
    (folder / "linked").symlink_to("..")
    path = write(folder, model([external(OUTSIDE[name].replace("FOLDER", str(folder.parent)))]))
    refused = assert_refused(read_onnx_weights, path)
    assert [problem.code for problem in refused.diagnostics] == ["B0404"]


def test_a_link_that_comes_later(folder: Path) -> None:
    """The place is checked when the model is opened, the file itself when it is read."""
    tensor = read_onnx_weights(write(folder, model([external("weights.bin", "8")])))["a.b"]
    (folder / "weights.bin").unlink()
    (folder / "weights.bin").symlink_to(folder.parent / "outside.bin")
    with pytest.raises(BertcError) as caught:
        tensor.read()
    assert caught.value.diagnostics[0].code == "B0407"


PLACES = {
    "beyond the end": external("weights.bin", "9"),
    "far beyond the end": external("weights.bin", "999999999999999999"),
    "before the start": external("weights.bin", "-1"),
    "no number": external("weights.bin", "eight"),
    "other digits": external("weights.bin", "٨"),
    "too long a number": external("weights.bin", "9" * 5000),
    "another length": external("weights.bin", "8", "20"),
}


@pytest.mark.parametrize("name", PLACES)
def test_places_that_are_refused(name: str, folder: Path) -> None:
    refused = assert_refused(read_onnx_weights, write(folder, model([PLACES[name]])))
    assert refused.diagnostics[0].code == "B0401"


def test_a_file_that_is_not_there(folder: Path) -> None:
    refused = assert_refused(read_onnx_weights, write(folder, model([external("absent.bin")])))
    assert refused.diagnostics[0].code == "B0002"


# files that are damaged

DAMAGED: Mapping[str, Sequence[Any]] = {
    "values short": [TensorProto(name="a.b", data_type=1, dims=(2, 3), raw_data=bytes(23))],
    "values long": [TensorProto(name="a.b", data_type=1, dims=(2, 3), raw_data=bytes(25))],
    "no values": [TensorProto(name="a.b", data_type=1, dims=(2, 3))],
    "varints short": [TensorProto(name="a.b", data_type=10, dims=(2, 3), int32_data=[1] * 5)],
    "varints long": [TensorProto(name="a.b", data_type=10, dims=(2, 3), int32_data=[1] * 7)],
    "varints large": [TensorProto(name="a.b", data_type=10, dims=(1,), int32_data=[1 << 16])],
    "varints negative": [TensorProto(name="a.b", data_type=10, dims=(1,), int32_data=[-1])],
    "a huge shape": [TensorProto(name="a.b", data_type=1, dims=(1 << 62, 1 << 62, 0))],
    "a negative shape": [TensorProto(name="a.b", data_type=1, dims=(-2, -3), raw_data=bytes(24))],
    "many sizes": [TensorProto(name="a.b", data_type=1, dims=[1] * 99, raw_data=bytes(4))],
    "one name twice": [array("a.b"), array("a.b")],
}


@pytest.mark.parametrize("name", DAMAGED)
def test_bad_initializers(name: str, tmp_path: Path) -> None:
    assert assert_refused(read_onnx_weights, write(tmp_path, model(DAMAGED[name]))).diagnostics[0].code == "B0401"


def test_a_number_that_is_written_long(tmp_path: Path) -> None:
    """A thousand bytes that say no more than go on, and one that says 1."""
    tensor = TensorProto(name="a.b", data_type=10, dims=(1,), int32_data=[1] * 1001)
    content = model([tensor]).SerializeToString().replace(b"\1" * 1001, b"\x80" * 1000 + b"\1")
    assert assert_refused(read_onnx_weights, write(tmp_path, content)).diagnostics[0].code == "B0401"


def test_one_weight_of_two_matrices(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", str(n)], [f"y{n}"], name="/dense/MatMul") for n in range(2)]
    with pytest.raises(BertcError, match=r"has two arrays that are both `dense\.weight`"):
        opened(tmp_path, [array("0"), array("1", VALUES + 1)], nodes)
    with pytest.raises(BertcError, match=r"has two arrays that are both `dense\.weight`"):
        opened(tmp_path, [array("0"), array("dense.weight")], nodes[:1])


def test_a_model_cut_short(tmp_path: Path) -> None:
    """Where it still reads, what is left of it are whole tensors."""
    whole = (TINY / "model.onnx").read_bytes()
    original: Mapping[str, Tensor] = read_onnx_weights(TINY / "model.onnx")
    for length in range(0, len(whole), len(whole) // 60):
        path = write(tmp_path, whole[:length])
        refused = outcome(read_onnx_weights, path)
        if refused is None:
            assert read_onnx_weights(path).keys() <= original.keys()
        else:
            assert refused.exit_code == 3


def test_opening_reads_no_values(tmp_path: Path) -> None:
    path = write(tmp_path, model([array("a.b")]))
    tensor = open_checkpoint(path)["a.b"]
    os.utime(path, ns=(0, 0))
    with pytest.raises(BertcError) as caught:
        tensor.read()
    assert caught.value.diagnostics[0].code == "B0407"
