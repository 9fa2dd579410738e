"""MXNet's lists of arrays, put together here byte by byte as MXNet's source writes them; MXNet itself is retired."""

from __future__ import annotations

import random
import struct
import tracemalloc
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile import assert_refused, nothing_happens_outside, outcome
from numpy.typing import NDArray

from bertc.errors import BertcError
from bertc.weights_io import canonical_names, open_checkpoint, weights_hash
from bertc.weights_io.mxnet import read_mxnet, recognises
from bertc.weights_io.names import name_table

TINY = Path(__file__).parent / "fixtures" / "tiny_bert"

KINDS = {"<f4": 0, "<f8": 1, "<f2": 2, "|u1": 3, "<i4": 4, "|i1": 5, "<i8": 6}
V1, V2, V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA


def array(values: NDArray[Any], magic: int = V2, **fields: Any) -> bytes:
    """One array; `fields` says what is written instead of what is right."""
    shape = fields.get("shape", values.shape)
    storage = b"" if magic == V1 else struct.pack("<i", fields.get("storage", 0))
    sizes = struct.pack("<I", fields.get("rank", len(shape))) + struct.pack(f"<{len(shape)}Q", *shape)
    kind = struct.pack("<iii", 1, 0, fields.get("kind", KINDS[values.dtype.str]))
    return struct.pack("<I", magic) + storage + sizes + kind + values.tobytes()


def names(texts: Iterable[str], count: int | None = None) -> bytes:
    encoded = [text.encode() for text in texts]
    body = b"".join(struct.pack("<Q", len(text)) + text for text in encoded)
    return struct.pack("<Q", len(encoded) if count is None else count) + body


def arrays(content: Iterable[bytes], count: int | None = None) -> bytes:
    content = list(content)
    return struct.pack("<QQQ", 0x112, 0, len(content) if count is None else count) + b"".join(content)


def params(values: Mapping[str, NDArray[Any]], magic: int = V2) -> bytes:
    return arrays(array(value, magic) for value in values.values()) + names(values)


def write(folder: Path, content: bytes) -> Path:
    path = folder / "net.params"
    path.write_bytes(content)
    return path


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


# what it refuses

ONES = np.ones(2, "<f4")
GOOD = array(ONES)

BAD = {
    "only the magic number": struct.pack("<QQ", 0x112, 0),
    "2**64 arrays": arrays([GOOD], (1 << 64) - 1) + names("a"),
    "more arrays than there are": arrays([GOOD], 3) + names("a"),
    "fewer arrays than there are": arrays([GOOD, GOOD], 1) + names("ab"),
    "2**64 names": arrays([GOOD]) + names("a", (1 << 64) - 1),
    "more names than arrays": arrays([GOOD]) + names("ab"),
    "fewer names than arrays": arrays([GOOD, GOOD]) + names("a"),
    "a name twice": arrays([GOOD, GOOD]) + names("aa"),
    "the same name behind two prefixes": arrays([GOOD, GOOD]) + names(["arg:a", "aux:a"]),
    "a name of 2**63 bytes": arrays([GOOD]) + struct.pack("<QQ", 1, 1 << 63),
    "a name of more bytes than are left": arrays([GOOD]) + struct.pack("<QQ", 1, 9) + b"a",
    "a very long name": arrays([GOOD]) + names(["a" * 5000]),
    "another magic number": arrays([array(ONES, 0xDEADBEEF)]) + names("a"),
    "the oldest layout": arrays([struct.pack("<IIiii", 1, 2, 1, 0, 0) + ONES.tobytes()]) + names("a"),
    "a shape of 2**31 sizes": arrays([array(ONES, rank=1 << 31)]) + names("a"),
    "a shape of 33 sizes": arrays([array(ONES, shape=(1,) * 33)]) + names("a"),
    "a negative size": arrays([array(ONES, shape=((1 << 64) - 1,))]) + names("a"),
    "sizes whose product overflows": arrays([array(ONES, shape=(1 << 40, 1 << 40))]) + names("a"),
    "an empty shape that overflows": arrays([array(ONES, shape=(0, 1 << 62, 1 << 62))]) + names("a"),
    "more values than there are": arrays([array(ONES, shape=(1 << 30,))]) + names("a"),
    "fewer values than there are": arrays([array(ONES, shape=(1,))]) + names("a"),
    "bytes after the end": arrays([GOOD]) + names("a") + b"\0",
}


@pytest.mark.parametrize("name", BAD)
def test_bad_lists(name: str, tmp_path: Path) -> None:
    assert_refused(read_mxnet, write(tmp_path, BAD[name]))


def test_a_list_cut_short_anywhere(tmp_path: Path) -> None:
    whole = params({"a": ONES, "b": ONES})
    for size in range(len(whole)):
        path = write(tmp_path, whole[:size])
        refused = outcome(read_mxnet, path)
        assert refused is not None, size
        assert refused.exit_code == 3


@pytest.mark.parametrize(("field", "value", "code"), [("storage", 1, "B0413"), ("kind", 9, "B0403")])
def test_what_the_format_has_and_weights_do_not(field: str, value: int, code: str, tmp_path: Path) -> None:
    path = write(tmp_path, arrays([array(ONES, **{field: value})]) + names("a"))
    with pytest.raises(BertcError) as caught:
        read_mxnet(path)
    assert caught.value.diagnostics[0].code == code


def test_the_sentence(tmp_path: Path) -> None:
    path = write(tmp_path, BAD["another magic number"])
    assert str(assert_refused(read_mxnet, path)).replace(str(tmp_path), "FOLDER") == (
        "error[B0401]: `FOLDER/net.params` has 0xdeadbeef before array 0, "
        "where an array's magic number should stand\n"
        "  = help: the file is damaged or incomplete: fetch or export it again"
    )


@pytest.mark.parametrize("seed", range(2))
def test_mutated_lists(seed: int, tmp_path: Path) -> None:
    choose = random.Random(seed)
    whole = params({"a": ONES, "arg:b": np.ones((2, 2), "<f2")})
    refused = 0
    for _ in range(300):
        changed = bytearray(whole)
        changed[choose.randrange(16, len(whole))] = choose.choice((0, 1, 2, 0x7F, 0x80, 0xFF))
        path = write(tmp_path, bytes(changed))
        with nothing_happens_outside(tmp_path):
            refused += outcome(read_mxnet, path) is not None
    assert 100 < refused < 300
