"""TensorFlow's checkpoints: what TensorFlow wrote is read to the bit."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from protobuf_builder import nested, number
from tensorflow_builder import (
    GOOD,
    VALUES,
    data_block,
    entry,
    graph_of,
    header,
    index_of,
    record,
    table,
    with_graph,
    write,
)

from bertc.errors import BertcError
from bertc.weights_io import Tensor, canonical_names, open_checkpoint, weights_hash
from bertc.weights_io.crc32c import CHUNK, crc32c, masked_crc32c
from bertc.weights_io.protobuf import WireError
from bertc.weights_io.snappy import decompress
from bertc.weights_io.tensorflow import find_index, read_tensorflow, recognises

TINY = Path(__file__).parent / "fixtures" / "tiny_bert"
WRITTEN_BY_TENSORFLOW = ("tf1", "tf1_sharded", "tf1_snappy", "tf2", "tf2_unnamed", "tf2_transformers")


# what it reads


@pytest.mark.parametrize("folder", WRITTEN_BY_TENSORFLOW)
def test_the_same_weights_to_the_bit(folder: str) -> None:
    expected, _ = canonical_names(open_checkpoint(TINY / "model.safetensors"))
    index = next((TINY / folder).glob("*.index"))
    assert recognises(index.read_bytes()[:64])
    assert find_index(TINY / folder) == index
    for path in (TINY / folder, index, index.with_suffix("")):
        found, unknown = canonical_names(open_checkpoint(path))
        assert unknown == []
        assert weights_hash(found) == weights_hash(expected)


def test_a_kernel_is_turned_without_being_read() -> None:
    tensors = read_tensorflow(TINY / "tf1" / "model.ckpt-8144.index")
    kernel = tensors["bert/encoder/layer_0/intermediate/dense/kernel"]
    weight = canonical_names({kernel.name: Tensor(kernel.name, kernel.shape, "f32", pytest.fail)})[0]
    assert kernel.shape == (12, 20)
    assert weight["encoder.0.ffn.up.weight"].shape == (20, 12)


def test_a_folder_names_its_checkpoint(tmp_path: Path) -> None:
    for step in (1, 2):
        (tmp_path / f"model.ckpt-{step}.index").touch()
    assert find_index(tmp_path) is None
    for where in ("model.ckpt-2", "/results/run 3/model.ckpt-2", "../elsewhere/model.ckpt-2"):
        (tmp_path / "checkpoint").write_text(f'model_checkpoint_path: "{where}"\nall_model_checkpoint_paths: "x"\n')
        assert find_index(tmp_path) == tmp_path / "model.ckpt-2.index"
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-3"\n')
    assert find_index(tmp_path) is None
    (tmp_path / "model.ckpt-1.index").unlink()
    assert find_index(tmp_path) == tmp_path / "model.ckpt-2.index"


def test_a_path_that_names_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "file.index").touch()
    assert find_index(tmp_path / "file") is None
    assert find_index(tmp_path / "absent") is None


def test_checksums_of_rfc_3720() -> None:
    vectors = {
        bytes(32): 0x8A9136AA,
        b"\xff" * 32: 0x62A8AB43,
        bytes(range(32)): 0x46DD794E,
        bytes(range(31, -1, -1)): 0x113FDB5C,
        b"123456789": 0xE3069283,
        b"": 0,
    }
    assert {data: crc32c(data) for data in vectors} == vectors


@pytest.mark.parametrize("size", [*range(1, 10), 1001, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 5])
def test_checksums_of_any_length(size: int) -> None:
    data = np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8).tobytes()
    register = 0xFFFFFFFF
    table = [crc_of_byte(byte) for byte in range(256)]
    for byte in data:
        register = table[(register ^ byte) & 0xFF] ^ register >> 8
    assert crc32c(data) == register ^ 0xFFFFFFFF


def crc_of_byte(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    return byte


SNAPPY = {
    "a literal": (b"\x03\x08abc", b"abc"),
    "a long literal": (b"\x64\xf0\x63" + b"x" * 100, b"x" * 100),
    "a copy with one byte of distance": (b"\x08\x0cabcd\x01\x04", b"abcdabcd"),
    "a copy with two": (b"\x07\x08abc\x0e\x03\x00", b"abcabca"),
    "a copy with four": (b"\x07\x08abc\x0f\x03\x00\x00\x00", b"abcabca"),
    "a copy of itself": (b"\x0b\x00a\x26\x01\x00", b"a" * 11),
    "nothing": (b"\x00", b""),
}


@pytest.mark.parametrize("name", SNAPPY)
def test_snappy_elements(name: str) -> None:
    packed, expected = SNAPPY[name]
    assert decompress(memoryview(packed), 1000) == expected


BAD_SNAPPY = {
    "a bomb": b"\xff\xff\xff\xff\x0f\x00a",
    "more than the limit": b"\xe9\x07" + b"\x00a" * 1001,
    "less than it claims": b"\x04\x08abc",
    "more than it claims": b"\x02\x08abc",
    "a literal without its bytes": b"\x04\x0cab",
    "a copy from nowhere": b"\x08\x01\x04",
    "a copy of distance zero": b"\x08\x0cabcd\x01\x00",
    "a copy from before the start": b"\x08\x0cabcd\x01\x05",
    "a copy without its distance": b"\x08\x0cabcd\x0e",
    "a length of eleven bytes": b"\xff" * 11,
    "no length": b"",
}


@pytest.mark.parametrize("name", BAD_SNAPPY)
def test_snappy_that_is_refused(name: str) -> None:
    with pytest.raises(WireError):
        decompress(memoryview(BAD_SNAPPY[name]), 1000)


def test_the_writer_writes_what_is_read(tmp_path: Path) -> None:
    """So that what is refused below is refused for what is wrong with it."""
    index = index_of({"a": GOOD, "b": entry(offset=8, checksum=masked_crc32c(VALUES))})
    tensors = read_tensorflow(write(tmp_path, index, VALUES * 2))
    assert {name: tensor.read().tolist() for name, tensor in tensors.items()} == {"a": [1, 2], "b": [1, 2]}


@pytest.mark.parametrize(("full_name", "name"), [(b"x/kernel", "x/kernel"), (b"", "kernel")])
def test_a_variable_has_its_name_or_its_path(full_name: bytes, name: str, tmp_path: Path) -> None:
    assert list(read_tensorflow(write(tmp_path, *with_graph(graph_of(full_name))))) == [name]


def test_names_that_two_variables_share_are_not_used(tmp_path: Path) -> None:
    children = nested(1, number(1, 1) + nested(2, b"left")) + nested(1, number(1, 2) + nested(2, b"right"))
    values = [nested(1, nested(2, nested(2, b"Variable") + nested(3, key))) for key in (b"a", b"b")]
    index, shard = with_graph(nested(1, children) + b"".join(values), b=entry((), 1, 0, 1 << 10, 4))
    assert len(read_tensorflow(write(tmp_path, index, shard.ljust(2000)))) == 1
    index, shard = with_graph(nested(1, children) + b"".join(values), b=entry(offset=1 << 10))
    assert list(read_tensorflow(write(tmp_path, index, shard.ljust(2000)))) == ["left", "right"]


def test_what_only_the_optimizer_leads_to_is_training(tmp_path: Path) -> None:
    children = nested(1, number(1, 1) + nested(2, b"model")) + nested(1, number(1, 2) + nested(2, b"optimizer"))
    values = [nested(1, nested(2, nested(3, key))) for key in (b"a", b"b")]
    index, shard = with_graph(nested(1, children) + b"".join(values), b=entry(offset=1 << 10))
    assert list(read_tensorflow(write(tmp_path, index, shard.ljust(2000)))) == ["model"]


def test_what_belongs_to_training_is_left_out(tmp_path: Path) -> None:
    kept = {"a/kernel": entry(), "Adam/kernel": entry(offset=8)}
    slots = ("a/kernel/adam_m", "a/kernel/Adam_1", "a/kernel/.OPTIMIZER_SLOT/optimizer/m/.ATTRIBUTES/VARIABLE_VALUE")
    others = {name: entry(offset=16 + 8 * place) for place, name in enumerate(slots)}
    others |= {"global_step": entry((), 9, 0, 40, 8), "good_steps": entry((2,), 3, 0, 48, 8)}
    others |= {"loss_scale": entry((), 1, 0, 56, 4)}
    assert read_tensorflow(write(tmp_path, index_of(kept | others), bytes(60))).keys() == kept.keys()


@pytest.mark.parametrize(
    ("kind", "element", "stored", "expected"),
    [
        (1, "f32", np.array([1.5, -2], "<f4").tobytes(), [1.5, -2]),
        (2, "f64", np.array([1.5, -2], "<f8").tobytes(), [1.5, -2]),
        (19, "f16", np.array([1.5, -2], "<f2").tobytes(), [1.5, -2]),
        (14, "bf16", b"\xc0\x3f\x00\xc0", [1.5, -2]),
    ],
)
def test_element_types(kind: int, element: str, stored: bytes, expected: list[float], tmp_path: Path) -> None:
    value = entry(kind=kind, size=len(stored), checksum=masked_crc32c(stored))
    tensor = read_tensorflow(write(tmp_path, index_of({"a": value}), stored))["a"]
    assert tensor.element == element
    assert tensor.read().tolist() == expected


def test_an_index_of_bert_large_opens_at_once(tmp_path: Path) -> None:
    """391 parameters with two slots each, whose values take 4 GB: under 100 MB; for seconds see benchmarks."""
    names = [f"bert/encoder/layer_{n}/part_{part}/kernel" for n in range(24) for part in range(16)]
    slots = [name + slot for name in names for slot in ("", "/adam_m", "/adam_v")]
    size = 4 * 1024 * 1024
    entries = {name: entry((1024, 1024), 1, 0, place * size, size) for place, name in enumerate(slots)}
    path = write(tmp_path, index_of(entries), b"")
    with (tmp_path / "m.data-00000-of-00001").open("r+b") as file:
        file.truncate(size * len(slots))
    tracemalloc.start()
    assert read_tensorflow(path).keys() == set(names)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6


# what it refuses


@pytest.mark.parametrize(
    ("index", "code"),
    [
        (index_of({"a": entry(kind=8)}), "B0403"),
        (index_of({"a": GOOD + nested(7, b"")}), "B0413"),
        (index_of({"\0a": GOOD}), "B0413"),
        (table(data_block(record(b"", header() + number(2, 1)))), "B0413"),
    ],
    ids=["complex numbers", "slices", "a slice", "highest byte first"],
)
def test_what_the_format_has_and_weights_do_not(index: bytes, code: str, tmp_path: Path) -> None:
    with pytest.raises(BertcError) as caught:
        read_tensorflow(write(tmp_path, index, VALUES))
    assert caught.value.diagnostics[0].code == code
    assert caught.value.exit_code == 4
