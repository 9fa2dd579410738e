"""The safetensors reader: what it reads, what it refuses, and that nothing a file holds can do more than that."""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file
from safetensors_builder import entry, file_of

from bertc.errors import BertcError
from bertc.weights_io import Tensor, open_checkpoint
from bertc.weights_io.safetensors import ELEMENTS, OTHER_ELEMENTS

TORCH = {
    "f64": torch.float64,
    "f32": torch.float32,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "i64": torch.int64,
    "i32": torch.int32,
    "i16": torch.int16,
    "i8": torch.int8,
    "u8": torch.uint8,
    "bool": torch.bool,
}


def opened(folder: Path, content: bytes) -> dict[str, Tensor]:
    path = folder / "w.safetensors"
    path.write_bytes(content)
    return open_checkpoint(path)


def refusal(folder: Path, content: bytes) -> str:
    with pytest.raises(BertcError) as caught:
        opened(folder, content)
    return str(caught.value).replace(str(folder), "FOLDER")


def small_file() -> bytes:
    """A few tensors of several types, one of them empty and one a scalar."""
    tensors = {
        "a.weight": torch.arange(6, dtype=torch.float32).reshape(2, 3),
        "a.bias": torch.ones(3, dtype=torch.float16),
        "scalar": torch.tensor(7),
        "empty": torch.zeros((0, 4)),
    }
    return save(tensors, metadata={"format": "pt"})


# what it reads


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_reads_what_the_reference_library_writes(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    names = data.draw(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=9), unique=True, max_size=5))
    written: dict[str, Any] = {}
    for name in set(names) - {"__metadata__"}:
        element = data.draw(st.sampled_from(sorted(TORCH)))
        shape = data.draw(st.lists(st.integers(0, 4), max_size=4))
        raw = torch.from_numpy(np.random.default_rng(len(name)).integers(-100, 100, shape))
        written[name] = raw.to(TORCH[element])
    folder = tmp_path_factory.mktemp("file")
    read = opened(folder, save(written, metadata=data.draw(st.sampled_from([None, {"format": "pt"}]))))
    assert read.keys() == written.keys()
    for name, tensor in read.items():
        expected = written[name]
        assert (tensor.name, tensor.shape) == (name, tuple(expected.shape))
        assert TORCH[tensor.element] == expected.dtype
        values = tensor.read()
        wanted = (expected.float() if tensor.element == "bf16" else expected).numpy()
        assert values.dtype == wanted.dtype
        np.testing.assert_array_equal(values, wanted)


def test_every_dtype_of_the_format_is_decided_upon() -> None:
    assert set(ELEMENTS.values()) == set(TORCH)
    assert not ELEMENTS.keys() & OTHER_ELEMENTS


@pytest.mark.parametrize("count", [3, 300_000], ids=["copied", "mapped"])
@pytest.mark.parametrize("padding", range(4))
def test_values_need_no_alignment(count: int, padding: int, tmp_path: Path) -> None:
    values = np.arange(count, dtype=np.float32)
    header = json.dumps({"x": entry(shape=[count], offsets=[0, 4 * count])}).encode() + b" " * padding
    read = opened(tmp_path, file_of(header, values.tobytes()))["x"].read()
    assert read.flags.aligned
    assert not read.flags.writeable
    np.testing.assert_array_equal(read, values)


def test_order_of_values_may_differ_from_order_of_names(tmp_path: Path) -> None:
    header = {"b": entry(offsets=[8, 16]), "e": entry(shape=[0], offsets=[8, 8]), "a": entry(offsets=[0, 8])}
    tensors = opened(tmp_path, file_of(header, np.arange(4, dtype="<f4").tobytes()))
    assert list(tensors) == ["b", "e", "a"]
    assert [tensor.read().tolist() for tensor in tensors.values()] == [[2, 3], [], [0, 1]]


def test_any_stored_byte_is_a_bool(tmp_path: Path) -> None:
    read = opened(tmp_path, file_of({"x": entry("BOOL", [3], [0, 3])}, b"\x00\x01\x02"))["x"].read()
    assert read.dtype == bool
    assert read.tobytes() == b"\x00\x01\x01"


def test_nothing_is_read_before_it_is_asked_for(tmp_path: Path) -> None:
    """A tensor of 64 GiB opens at once, one of 64 MiB is mapped, and of a small one only its own bytes are read."""
    path, huge, large = tmp_path / "w.safetensors", 64 << 30, 64 << 20
    sizes = {"huge": huge, "large": large, "small": 3}
    ends = dict(zip(sizes, itertools.accumulate(sizes.values()), strict=True))
    header = {name: entry("U8", [size], [ends[name] - size, ends[name]]) for name, size in sizes.items()}
    path.write_bytes(file_of(header))
    with path.open("r+b") as file:
        file.seek(huge + large, os.SEEK_END)
        file.write(b"abc")
    tracemalloc.start()
    tensors = open_checkpoint(path)
    values = tensors["small"].read()
    mapped = tensors["large"].read()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert values.tobytes() == b"abc"
    assert (mapped[0], mapped.shape, tensors["huge"].shape) == (0, (large,), (huge,))
    assert peak < 1 << 20


def test_a_file_that_changed_is_noticed(tmp_path: Path) -> None:
    tensors = opened(tmp_path, small_file())
    assert tensors["scalar"].read() == 7
    (tmp_path / "other").write_bytes(small_file())
    (tmp_path / "other").replace(tmp_path / "w.safetensors")
    with pytest.raises(BertcError, match=r"B0407.* changed after it was opened"):
        tensors["scalar"].read()
    (tmp_path / "w.safetensors").unlink()
    with pytest.raises(BertcError, match=r"B0002.*No such file"):
        tensors["scalar"].read()


# what it refuses

EIGHT = b"\0" * 8
HELP = "\n  = help: the file is damaged or incomplete: fetch or export it again"

DAMAGED = {
    "metadata_not_strings": (
        file_of({"__metadata__": {"a": 1}}),
        "has a `__metadata__` that is not an object of strings",
    ),
    "metadata_not_object": (file_of({"__metadata__": []}), "has a `__metadata__` that is not an object of strings"),
    "header_too_long": (
        (8_000_001).to_bytes(8, "little") + b"{}",
        "announces a header of 8000001 bytes; at most 8000000 are read of a checkpoint",
    ),
    "header_cut": ((99).to_bytes(8, "little") + b"{}", "ends at byte 10, inside its header of 8 + 99 bytes"),
    "header_not_json": (file_of(b"{'a': 1}"), "has a header that is not JSON: "),
    "header_empty": ((0).to_bytes(8, "little") + b"{}", "has a header that does not start with `{`"),
    "header_not_utf8": (file_of(b'{"\xff": 1}'), "has a header that is not UTF-8 at byte 2"),
    "header_utf16": (file_of('{"a": 1}'.encode("utf-16-le")), "has a header that is not JSON: "),
    "key_twice": (
        file_of(b'{"a": ' + json.dumps(entry()).encode() + b', "a": ' + json.dumps(entry()).encode() + b"}", EIGHT),
        "has a header that has the key `a` twice",
    ),
    "key_of_an_entry_twice": (
        file_of(b'{"a": {"dtype": 1, "dtype": 1}}'),
        "has a header that has the key `dtype` twice",
    ),
    "surrogate": (
        file_of(rb'{"\ud800": 1}'),
        "has a header that has half a surrogate pair in or under the key `\N{REPLACEMENT CHARACTER}`",
    ),
    "not_a_number": (file_of(b'{"a": NaN}'), "has a header that has NaN, which is not JSON"),
    "huge_number": (file_of(b'{"a": ' + b"9" * 5000 + b"}"), "has a header that has an integer of 5000 digits"),
    "entry_not_object": (
        file_of({"a": []}),
        "describes `a` by something else than dtype, shape and data_offsets",
    ),
    "entry_short": (
        file_of({"a": {"dtype": "F32", "shape": [2]}}),
        "describes `a` by something else than dtype, shape and data_offsets",
    ),
    "entry_long": (
        file_of({"a": {**entry(), "strides": [1]}}, EIGHT),
        "describes `a` by something else than dtype, shape and data_offsets",
    ),
    "dtype_unknown": (file_of({"a": entry("float32")}, EIGHT), "gives `a` a dtype that the format does not have"),
    "dtype_not_text": (file_of({"a": entry([])}, EIGHT), "gives `a` a dtype that the format does not have"),
    "shape_negative": (
        file_of({"a": entry(shape=[-1, -2])}, EIGHT),
        "gives `a` a shape that is not a list of at most 32 sizes",
    ),
    "shape_of_bools": (
        file_of({"a": entry(shape=[True, 2])}, EIGHT),
        "gives `a` a shape that is not a list of at most 32 sizes",
    ),
    "shape_of_floats": (
        file_of({"a": entry(shape=[2.0])}, EIGHT),
        "gives `a` a shape that is not a list of at most 32 sizes",
    ),
    "shape_not_list": (
        file_of({"a": entry(shape="2")}, EIGHT),
        "gives `a` a shape that is not a list of at most 32 sizes",
    ),
    "shape_too_deep": (
        file_of({"a": entry(shape=[1] * 33, offsets=[0, 4])}, EIGHT[:4]),
        "gives `a` a shape that is not a list of at most 32 sizes",
    ),
    "shape_overflows": (
        file_of({"a": entry(shape=[2**62, 2**62, 0], offsets=[0, 0])}),
        f"gives `a` the shape {[2**62, 2**62, 0]}, of more than {2**56} values",
    ),
    "size_wraps_to_64_bits": (
        file_of({"a": entry(shape=[2**32, 2**31], offsets=[0, 0])}),
        f"gives `a` the shape {[2**32, 2**31]}, of more than {2**56} values",
    ),
    "size_wrong": (
        file_of({"a": entry(shape=[3])}, EIGHT),
        "gives `a` 8 bytes; F32 of shape [3] takes 12",
    ),
    "size_too_large": (file_of({"a": entry(shape=[1])}, EIGHT), "gives `a` 8 bytes; F32 of shape [1] takes 4"),
    "offsets_reversed": (
        file_of({"a": entry(offsets=[8, 0])}, EIGHT),
        "gives `a` -8 bytes; F32 of shape [2] takes 8",
    ),
    "offsets_three": (
        file_of({"a": entry(offsets=[0, 8, 8])}, EIGHT),
        "gives `a` data_offsets that are not two positions",
    ),
    "hole": (
        file_of({"a": entry(), "b": entry(offsets=[9, 17])}, EIGHT * 3),
        "leaves a hole before `b`, which starts at byte 9 and not at 8",
    ),
    "hole_at_the_start": (
        file_of({"a": entry(offsets=[8, 16])}, EIGHT * 2),
        "leaves a hole before `a`, which starts at byte 8 and not at 0",
    ),
    "overlap": (
        file_of({"a": entry(), "b": entry(offsets=[4, 12])}, EIGHT * 2),
        "overlaps what is before `b`, which starts at byte 4 and not at 8",
    ),
    "values_cut": (file_of({"a": entry()}, EIGHT[:7]), "has 7 bytes of values, but its header accounts for 8"),
    "values_after_the_last": (
        file_of({"a": entry()}, EIGHT + b"x"),
        "has 9 bytes of values, but its header accounts for 8",
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_file(case: str, tmp_path: Path) -> None:
    content, reason = DAMAGED[case]
    found = refusal(tmp_path, content)
    expected = f"error[B0401]: `FOLDER/w.safetensors` {reason}"
    if reason.endswith(": "):  # the rest are the words of the json module
        assert re.fullmatch(re.escape(expected) + r"[a-z' -]+ at character \d+" + re.escape(HELP), found)
    else:
        assert found == expected + HELP


@pytest.mark.parametrize("dtype", sorted(OTHER_ELEMENTS))
def test_element_types_of_no_network(dtype: str, tmp_path: Path) -> None:
    with pytest.raises(BertcError) as caught:
        opened(tmp_path, file_of({"a": entry(dtype)}, EIGHT))
    assert caught.value.exit_code == 4
    assert str(caught.value).replace(str(tmp_path), "FOLDER") == (
        f"error[B0403]: `FOLDER/w.safetensors` holds `a` as {dtype}; "
        "weights are read as F64, F32, F16, BF16, I64, I32, I16, I8, U8, BOOL\n"
        "  = help: convert the checkpoint to F32, F16 or BF16"
    )


def test_names_are_made_fit_for_a_terminal(tmp_path: Path) -> None:
    assert "gives `\N{REPLACEMENT CHARACTER}[2J` a dtype" in refusal(tmp_path, file_of({"\x1b[2J": entry("x")}, EIGHT))
    assert f"gives `{'n' * 99}…` a dtype" in refusal(tmp_path, file_of({"n" * 10**6: entry("x")}, EIGHT))


# fuzz


def reads_like_the_reference(path: Path, tensors: dict[str, Tensor]) -> None:
    """Whatever is accepted is accepted by the format's own library, with the same names, types and values."""
    with safetensors.safe_open(path, "pt") as reference:
        assert tensors.keys() == set(reference.keys())
        for name, tensor in tensors.items():
            expected = reference.get_tensor(name)
            assert TORCH[tensor.element] == expected.dtype
            wanted = expected.float() if tensor.element == "bf16" else expected
            np.testing.assert_array_equal(tensor.read(), wanted.numpy())


def test_cut_at_every_byte(tmp_path: Path) -> None:
    whole = small_file()
    for length in range(len(whole)):
        with pytest.raises(BertcError) as caught:
            opened(tmp_path, whole[:length])
        assert caught.value.exit_code == 3, length
        assert len(caught.value.diagnostics) == 1
    reads_like_the_reference(tmp_path / "w.safetensors", opened(tmp_path, whole))


def test_any_byte_changed(tmp_path: Path) -> None:
    """Every byte, three ways: the file is refused, or read as the format's own library reads it."""
    whole, chance = small_file(), random.Random(20)
    accepted = refused = 0
    for position, _ in itertools.product(range(len(whole)), range(3)):
        content = bytearray(whole)
        content[position] ^= chance.randrange(1, 256)
        try:
            tensors = opened(tmp_path, bytes(content))
        except BertcError as problem:
            assert problem.exit_code in (3, 4)  # noqa: PT017 - both outcomes are right
            refused += 1
        else:
            reads_like_the_reference(tmp_path / "w.safetensors", tensors)
            accepted += 1
    assert accepted > 100
    assert refused > 500


def test_pieces_moved_about(tmp_path: Path) -> None:
    """Slices cut out, doubled, swapped: as above."""
    whole, chance = small_file(), random.Random(21)
    for _ in range(500):
        first, second, third = sorted(chance.randrange(len(whole) + 1) for _ in range(3))
        head, left, right, tail = whole[:first], whole[first:second], whole[second:third], whole[third:]
        content = chance.choice([head + right + tail, head + right + left + tail, head + left + left + right + tail])
        try:
            tensors = opened(tmp_path, content)
        except BertcError:
            continue
        reads_like_the_reference(tmp_path / "w.safetensors", tensors)


# what is no safetensors file


def test_files_that_are_something_else(tmp_path: Path) -> None:
    formats = (
        "is not safetensors, PyTorch's zip format, PyTorch's older format, a pickled dict, HDF5, MXNet's parameters, "
        "ONNX, an index of shards or a TensorFlow checkpoint: it"
    )
    save_it = "save the model as safetensors, or fetch the file again if it should be that already"
    expected = {
        b"": f"{formats} is empty\n  = help: {save_it}",
        b"GIF89a": f"{formats} starts with the bytes 47 49 46 38 39 61\n  = help: {save_it}",
        b"PK\x05\x06\0\0\0\0\0\0\0": f"{formats} starts with the bytes 50 4b 05 06 00 00 00 00 00\n  = help: {save_it}",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0": (
            f"{formats} is a Git LFS pointer\n  = help: fetch what it points to with `git lfs pull`"
        ),
    }
    for content, message in expected.items():
        assert refusal(tmp_path, content) == f"error[B0402]: `FOLDER/w.safetensors` {message}"


def test_nothing_to_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    cases = {
        tmp_path / "absent": "error[B0002]: `FOLDER/absent` cannot be read: No such file or directory\n"
        "  = help: check the path and its permissions",
        tmp_path / "pipe": "error[B0002]: `FOLDER/pipe` is not a regular file\n"
        "  = help: name a file or a directory of weights",
        tmp_path / "folder": "error[B0002]: `FOLDER/folder` holds none of `model.safetensors`, "
        "`model.safetensors.index.json`, `pytorch_model.bin`, `pytorch_model.bin.index.json`, `tf_model.h5`, and no "
        "TensorFlow checkpoint\n  = help: name the file of weights itself",
        tmp_path / "a\0b": "error[B0002]: `FOLDER/a\0b` cannot be read: not a path\n"
        "  = help: check the path and its permissions",
    }
    for path, message in cases.items():
        with pytest.raises(BertcError) as caught:
            open_checkpoint(path)
        assert str(caught.value).replace(str(tmp_path), "FOLDER") == message


def test_directory_and_links(tmp_path: Path) -> None:
    """A hub's cache: the directory that the user names holds links into another one."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    save_file({"x": torch.ones(2)}, tmp_path / "blobs" / "0123")
    (tmp_path / "snapshot" / "model.safetensors").symlink_to("../blobs/0123")
    for path in (tmp_path / "snapshot", tmp_path / "snapshot" / "model.safetensors"):
        assert open_checkpoint(path)["x"].read().tolist() == [1, 1]
