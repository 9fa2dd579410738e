"""MXNet's lists of arrays, byte by byte as its source writes them; what it wrote itself is among the fixtures."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mxnet_builder import KINDS, ONES, V1, V2, V3, array, arrays, names, params, write
from numpy.typing import NDArray

from bertc.errors import BertcError
from bertc.weights_io import canonical_names, open_checkpoint, weights_hash
from bertc.weights_io.mxnet import read_mxnet, recognises
from bertc.weights_io.names import name_table

TINY = Path(__file__).parent / "fixtures" / "tiny_bert"


def test_the_same_weights_to_the_bit(tmp_path: Path) -> None:
    expected, _ = canonical_names(open_checkpoint(TINY / "model.safetensors"))
    table = name_table("bert.gluonnlp")
    values: dict[str, NDArray[Any]] = {}
    for name, tensor in expected.items():
        called = table.checkpoint_name(name)
        assert called is not None
        prefix = "" if name.startswith("question_answering") else "bert."
        values[prefix + called] = tensor.read()
    assert "bert.encoder.transformer_cells.1.attention_cell.proj_key.weight" in values
    assert "span_classifier.bias" in values
    for magic in (V1, V2, V3):
        path = write(tmp_path, params(values, magic))
        assert recognises(path.read_bytes()[:64])
        found, unknown = canonical_names(open_checkpoint(path))
        assert unknown == []
        assert weights_hash(found) == weights_hash(expected)


def test_the_next_sentence_head_is_no_classifier(tmp_path: Path) -> None:
    two = np.zeros((2, 3), "<f4")
    values = {"word_embed.0.weight": two, "classifier.weight": two, "pooler.weight": two}
    found, unknown = canonical_names(read_mxnet(write(tmp_path, params(values))))
    assert list(found) == ["embeddings.word.weight", "pooler.weight"]
    assert unknown == []


@pytest.mark.parametrize("dtype", KINDS)
def test_element_types(dtype: str, tmp_path: Path) -> None:
    values = np.array([[1, 2], [3, 4]], dtype)
    read = read_mxnet(write(tmp_path, params({"arg:a": values, "aux:b": values})))
    assert list(read) == ["a", "b"]
    assert read["b"].read().dtype == values.dtype
    assert read["b"].read().tolist() == values.tolist()


def test_bf16_bool_and_scalars(tmp_path: Path) -> None:
    contents = [
        array(np.array([0x3FC0, 0xC000], "<u2").view("<f2"), kind=12),
        array(np.array([0, 2], "|u1"), kind=7),
        array(np.array(7, "<f4"), V3),
    ]
    tensors = read_mxnet(write(tmp_path, arrays(contents) + names("abc")))
    assert [tensor.read().tolist() for tensor in tensors.values()] == [[1.5, -2], [False, True], 7]


def test_an_array_without_values_is_left_out(tmp_path: Path) -> None:
    never_set = struct.pack("<IiI", V2, 0, 0)
    content = arrays([never_set, array(np.ones(2, "<f4"))]) + names("ab")
    assert list(read_mxnet(write(tmp_path, content))) == ["b"]


def test_nothing_is_read_before_it_is_asked_for(tmp_path: Path) -> None:
    """Values of 4 GiB that the disk need not hold."""
    path, size = tmp_path / "net.params", 4 << 30
    start = array(np.zeros(0, "<f4"), shape=(size // 4,))
    with path.open("wb") as file:
        file.write(arrays([], 1) + start)
        file.seek(size, 1)
        file.write(names("a"))
    tracemalloc.start()
    tensor = read_mxnet(path)["a"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert tensor.shape == (size // 4,)
    assert peak < 1 << 20
    assert tensor.read()[-1] == 0


@pytest.mark.parametrize(("field", "value", "code"), [("storage", 1, "B0413"), ("kind", 9, "B0403")])
def test_what_the_format_has_and_weights_do_not(field: str, value: int, code: str, tmp_path: Path) -> None:
    path = write(tmp_path, arrays([array(ONES, **{field: value})]) + names("a"))
    with pytest.raises(BertcError) as caught:
        read_mxnet(path)
    assert caught.value.diagnostics[0].code == code
