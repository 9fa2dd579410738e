"""Files of torch that attack: archives, legacy files and pickles with wrong sizes, names and places, and bombs."""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from hostile import Build, Read, assert_refused, built, file, nothing_happens_outside, outcome
from pickle_builder import call, number, shape_opcodes, text, under_many_names
from torch_builder import GOOD, GOOD_LEGACY, archive, legacy, pickled, replaced, storage, tensor

from bertc.weights_io import open_checkpoint
from bertc.weights_io.budget import MAX_MEMBERS
from bertc.weights_io.plain_pickle import read_plain_pickle
from bertc.weights_io.torch_legacy import read_torch_legacy
from bertc.weights_io.torch_zip import read_torch_zip


def test_the_builders_build(tmp_path: Path) -> None:
    for name, whole, read in (("zip", GOOD, read_torch_zip), ("legacy", GOOD_LEGACY, read_torch_legacy)):
        (tmp_path / name).write_bytes(whole)
        assert torch.load(tmp_path / name)["a"].tolist() == [[0, 0, 0], [0, 0, 0]]
        assert read(tmp_path / name)["a"].read().tolist() == [[0, 0, 0], [0, 0, 0]]
    (tmp_path / "pickle").write_bytes(embedded(storage_file(), storage_file()))
    assert pickle.loads((tmp_path / "pickle").read_bytes())["1"].tolist() == [[0, 0, 0], [0, 0, 0]]
    assert read_plain_pickle(tmp_path / "pickle")["1"].read().tolist() == [[0, 0, 0], [0, 0, 0]]


TENSORS = {
    "beyond_the_storage": tensor(shape=shape_opcodes(7), strides=shape_opcodes(1)),
    "first_beyond_the_storage": tensor(first=number(1)),
    "first_far_beyond_the_storage": tensor(first=number(2**62)),
    "first_of_70_bits": tensor(first=number(2**70)),
    "negative_first": tensor(first=number(-1)),
    "first_is_a_text": tensor(first=text("0")),
    "strides_beyond_the_storage": tensor(strides=shape_opcodes(4, 1)),
    "strides_that_overflow": tensor(strides=shape_opcodes(2**62, 2**62)),
    "negative_strides": tensor(strides=shape_opcodes(-3, -1)),
    "fewer_strides": tensor(strides=shape_opcodes(1)),
    "repeated_a_million_million_times": tensor(shape=shape_opcodes(10**12), strides=shape_opcodes(0)),
    "repeated_more_often_than_there_are_values": tensor(shape=shape_opcodes(7), strides=shape_opcodes(0)),
    "overflowing_shape": tensor(shape=shape_opcodes(2**40, 2**40), strides=shape_opcodes(0, 0)),
    "empty_with_overflowing_sizes": tensor(shape=shape_opcodes(0, 2**40, 2**40), strides=shape_opcodes(1, 1, 1)),
    "negative_shape": tensor(shape=shape_opcodes(-2, -3)),
    "rank": tensor(shape=shape_opcodes(*[1] * 40), strides=shape_opcodes(*[1] * 40)),
    "shape_of_a_list": tensor(shape=b"](K\x02K\x03e"),
    "shape_of_booleans": tensor(shape=b"(\x88K\x03t"),
    "no_arguments": call("torch._utils _rebuild_tensor_v2"),
    "one_argument": call("torch._utils _rebuild_tensor_v2", storage()),
    "storage_is_none": tensor(b"N"),
    "storage_is_a_call": tensor(call("os system", text("touch executed"))),
    "storage_is_embedded_elsewhere": tensor(call("torch.storage _load_from_bytes", b"C\x01a")),
    "identity_is_a_text": tensor(text("storage") + b"Q"),
    "identity_of_something_else": tensor(b"(" + text("module") + b"NNNtQ"),
    "identity_too_short": tensor(b"(" + text("storage") + b"tQ"),
    "key_is_a_number": tensor(storage(b"K\x00")),
    "key_outside": tensor(storage(text("../../../../etc/passwd"))),
    "key_absolute": tensor(storage(text("/etc/passwd"))),
    "key_of_no_storage": tensor(storage(text("1"))),
    "key_is_empty": tensor(storage(text(""))),
    "kind_of_a_function": tensor(storage(kind="os system")),
    "kind_of_torch_that_is_no_storage": tensor(storage(kind="torch load")),
    "count_too_small": tensor(storage(count=5)),
    "count_too_large": tensor(storage(count=7)),
    "count_negative": tensor(storage(count=-6)),
    "count_of_63_bits": tensor(storage(count=2**63 - 1)),
    "count_of_100_bits": tensor(storage(count=2**100)),
    "wider_values_than_stored": tensor(storage(kind="torch DoubleStorage")),
    "view_of_a_storage": tensor(storage(more=b"(" + text("v") + b"K\x00K\x06t")),
    "two_kinds_of_one_storage": tensor() + b"s" + text("b") + tensor(storage(kind="torch IntStorage", count=7)),
}

FAR = struct.pack("<L", 0xFFFFFFF0)
ENTRY = b"PK\1\2"
END = b"PK\5\6"


def in_entry(at: int, data: bytes, entry: int = 1) -> bytes:
    """GOOD with `data` at a place in the directory's entry of the storage."""
    start = [place for place in range(len(GOOD)) if GOOD.startswith(ENTRY, place)][entry] + at
    return GOOD[:start] + data + GOOD[start + len(data) :]


def in_end(at: int, data: bytes) -> bytes:
    start = GOOD.index(END) + at
    return GOOD[:start] + data + GOOD[start + len(data) :]


def member(name: str) -> bytes:
    return archive(pickled(tensor()), {"m/data/0": bytes(24), name: b"#!/bin/sh"})


def one_in_another() -> bytes:
    """Two storages, the second of which lies, with its header, in the values of the first."""
    name = b"m/data/1"
    inner = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 0, 0, 0, 0, 24, 24, len(name), 0) + name + bytes(26)
    count = len(inner) // 4
    content = pickled(tensor(storage(count=count), shape=shape_opcodes(count), strides=shape_opcodes(1)))
    whole = archive(content, {"m/data/0": inner, "m/data/1": bytes(24)})
    entry = whole.rindex(ENTRY, 0, whole.rindex(b"m/data/1"))
    return whole[: entry + 42] + struct.pack("<L", whole.index(inner)) + whole[entry + 46 :]


BOMB = archive(pickled(tensor(storage(count=25_000_000))), {"m/data/0": bytes(100_000_000)}, zipfile.ZIP_DEFLATED)
MANY = archive(pickled(tensor()), {f"m/data/{number}": b"" for number in range(MAX_MEMBERS)})
WIDE_END = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 2, 2, 2**40, 2**40)
ARCHIVES = {
    "bomb": BOMB,
    "compressed_pickle": archive(pickled(tensor()), compression=zipfile.ZIP_DEFLATED),
    "other_compression": archive(pickled(tensor()), compression=zipfile.ZIP_LZMA),
    "no_pickle": replaced(GOOD, b"m/data.pkl", b"m/data.txt", 2),
    "member_above": member("m/../../executed"),
    "member_of_the_root": member("/executed"),
    "member_of_windows": member("m\\..\\executed"),
    "folder": member("m/folder/"),
    "two_folders": member("other/executed"),
    "no_folder": member("executed"),
    "two_of_one_name": replaced(member("m/data/1"), b"m/data/1", b"m/data/0", 2),
    "name_not_utf8": replaced(GOOD, b"m/data/0", b"m/data/\xff", 2),
    "names_that_differ": replaced(GOOD, b"m/data/0", b"m/data/1"),
    "byte_order": archive(pickled(tensor()), {"m/data/0": bytes(24), "m/byteorder": b"middle"}),
    "long_byte_order": archive(pickled(tensor()), {"m/data/0": bytes(24), "m/byteorder": b"little" * 1000}),
    "storage_too_small": archive(pickled(tensor()), {"m/data/0": bytes(23)}),
    "storage_too_large": archive(pickled(tensor()), {"m/data/0": bytes(25)}),
    "storage_missing": archive(pickled(tensor()), {"m/data/1": bytes(24)}),
    "encrypted": in_entry(8, b"\1"),
    "encrypted_in_its_header": replaced(GOOD, b"PK\3\4\x14\0\0", b"PK\3\4\x14\0\1"),
    "sizes_differ": in_entry(20, FAR),
    "size_beyond_the_end": in_entry(20, FAR + FAR),
    "size_in_the_extra_field_that_is_not_there": in_entry(20, b"\xff" * 8),
    "size_into_the_directory": in_entry(20, struct.pack("<2L", 40, 40)),
    "header_beyond_the_end": in_entry(42, FAR),
    "header_is_that_of_another": in_entry(42, bytes(4)),
    "storage_in_another": one_in_another(),
    "header_inside_another": in_entry(42, struct.pack("<L", 20)),
    "name_beyond_the_directory": in_entry(28, b"\xff\xff"),
    "extra_field_beyond_the_directory": in_entry(30, b"\xff\xff"),
    "comment_beyond_the_directory": in_entry(32, b"\xff\xff"),
    "entry_without_signature": in_entry(0, b"PK\0\0"),
    "pickle_over_the_storage": in_entry(20, struct.pack("<2L", 400, 400), entry=0),
    "more_entries": in_end(8, struct.pack("<2H", 4, 4)),
    "fewer_entries": in_end(8, struct.pack("<2H", 1, 1)),
    "no_entries": in_end(8, struct.pack("<2H", 0, 0)),
    "most_entries": in_end(8, b"\xff\xff\xff\xff"),
    "too_many_members": MANY,
    "directory_beyond_the_end": in_end(16, FAR),
    "directory_too_long": in_end(12, FAR),
    "directory_at_the_start": in_end(16, bytes(4)),
    "comment": GOOD + b"more",
    "comment_that_is_not_there": in_end(20, b"\1"),
    "only_an_end": END + bytes(18),
    "only_a_start": b"PK\3\4",
    "wide_end_beyond_the_end": GOOD[:-22] + struct.pack("<4sLQL", b"PK\6\7", 0, 2**50, 1) + GOOD[-22:],
    "wide_end_without_signature": GOOD[:-22] + struct.pack("<4sLQL", b"PK\6\7", 0, 0, 1) + GOOD[-22:],
    "wide_directory_beyond_the_end": GOOD[:-22]
    + WIDE_END
    + struct.pack("<4sLQL", b"PK\6\7", 0, len(GOOD) - 22, 1)
    + GOOD[-22:],
    "pickle_in_a_pickle": archive(pickle.dumps(pickled(tensor()), 4)),
    "pickle_without_end": archive(pickled(tensor())[:-1]),
}

LEGACY = {
    "magic": b"\x80\x02\x8a\x0a" + bytes(10) + b"." + GOOD_LEGACY[15:],
    "format": replaced(GOOD_LEGACY, b"M\xe9\x03", b"M\xe8\x03"),
    "no_byte_order": replaced(GOOD_LEGACY, b"little_endian", b"little_italian"[:13]),
    "byte_order_is_a_number": replaced(GOOD_LEGACY, b"\x88s.", b"K\x01s."),
    "no_keys": legacy(pickled(tensor()), ()),
    "other_keys": legacy(pickled(tensor()), ("1",)),
    "more_keys": legacy(pickled(tensor()), ("0", "1")),
    "key_twice": legacy(pickled(tensor()), ("0", "0")),
    "keys_that_are_lists": legacy(pickled(tensor()), ([],)),
    "keys_are_a_dict": legacy(pickled(tensor()), {"0": 1}),
    "keys_are_a_number": legacy(pickled(tensor()), 1),
    "count_differs": legacy(pickled(tensor()), values=struct.pack("<q", 5) + bytes(24)),
    "count_negative": legacy(pickled(tensor()), values=struct.pack("<q", -6) + bytes(24)),
    "count_huge": legacy(pickled(tensor(storage(count=2**56))), values=struct.pack("<q", 2**56) + bytes(24)),
    "values_cut": GOOD_LEGACY[:-1],
    "values_missing": legacy(pickled(tensor()), values=b""),
    "magic_is_a_call": b"\x80\x02cos\nsystem\n" + text("touch executed") + b"\x85R." + GOOD_LEGACY[15:],
}


def whole_storage(values: int) -> bytes:
    """The opcodes of a tensor that is all of a storage."""
    return tensor(storage(count=values), shape=shape_opcodes(values), strides=shape_opcodes(1))


def with_arguments(count: int) -> bytes:
    """The opcodes of a tensor with that many arguments too many."""
    layout = storage() + number(0) + shape_opcodes(2, 3) + shape_opcodes(3, 1)
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + layout + b"N" * count + b"tR"


def storage_file(opcodes: bytes = b"") -> bytes:
    """What lies in a plain pickle for a storage of six values."""
    return legacy(b"\x80\x02" + opcodes + storage(more=b"N") + b".")


def embedded(*contents: bytes) -> bytes:
    """A pickle of tensors whose storages are files of torch's in byte strings."""
    values = (call("torch.storage _load_from_bytes", b"B" + struct.pack("<L", len(part)) + part) for part in contents)
    entries = b"".join(text(str(at)) + tensor(value) for at, value in enumerate(values))
    return b"\x80\x04}(" + entries + b"u."


def byte_string(values: int) -> bytes:
    """The opcodes of a tensor whose storage is in a byte string."""
    content = b"\x80\x02" + storage(count=values, more=b"N") + b"."
    whole = legacy(content, values=struct.pack("<q", values) + bytes(4 * values))
    loaded = call("torch.storage _load_from_bytes", b"B" + struct.pack("<L", len(whole)) + whole)
    return tensor(loaded, shape=shape_opcodes(values), strides=shape_opcodes(1))


BOMBS = {
    "zip_of_thousands_of_views": archive(under_many_names(whole_storage(1_000_000)), {"m/data/0": bytes(4_000_000)}),
    "legacy_of_thousands_of_views": legacy(
        under_many_names(whole_storage(1_000_000)), values=struct.pack("<q", 1_000_000) + bytes(4_000_000)
    ),
    "arguments_repeated": archive(under_many_names(with_arguments(60_000))),
    "identities_repeated": archive(under_many_names(tensor(storage(more=b"N" * 60_000)))),
    "one_byte_string_under_thousands_of_names": under_many_names(byte_string(250_000)),
    "opcodes_in_byte_strings": embedded(*[storage_file(b"N0" * 45_000)] * 60),
}
EMBEDDED = {
    "garbage": bytes(40),
    "cut": storage_file()[:-1],
    "itself": pickled(tensor()),
    "state_dict": GOOD_LEGACY,
    "magic_only": storage_file()[:15],
}


HOSTILE: dict[str, Build] = {
    **{f"{case}_in_a_zip": file(archive(pickled(value))) for case, value in TENSORS.items()},
    **{f"{case}_in_a_legacy_file": file(legacy(pickled(value))) for case, value in TENSORS.items()},
    **{f"{case}_in_a_pickle": file(pickled(value)) for case, value in TENSORS.items()},
    **{case: file(content) for case, content in (ARCHIVES | LEGACY | BOMBS).items()},
    **{f"{case}_in_a_byte_string": file(embedded(content)) for case, content in EMBEDDED.items()},
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused(case: str, tmp_path: Path) -> None:
    path = built(HOSTILE[case], tmp_path)
    assert_refused(open_checkpoint, path)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("case", TENSORS)
def test_hostile_tensors_are_refused_by_each_reader(case: str, tmp_path: Path) -> None:
    for read, content in (
        (read_torch_zip, archive(pickled(TENSORS[case]))),
        (read_torch_legacy, legacy(pickled(TENSORS[case]))),
        (read_plain_pickle, pickled(TENSORS[case])),
    ):
        assert_refused(read, file(content)(tmp_path))


@pytest.mark.parametrize("format", ["zip", "legacy"])
def test_big_endian_values_are_refused(format: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    wholes = {
        "zip": archive(pickled(tensor()), {"m/data/0": bytes(24), "m/byteorder": b"big"}),
        "legacy": replaced(GOOD_LEGACY, b"\x88s.", b"\x89s."),
    }
    path.write_bytes(wholes[format])
    refused = outcome({"zip": read_torch_zip, "legacy": read_torch_legacy}[format], path)
    assert str(refused) == (
        f"error[B0403]: `{path}` holds big-endian values\n"
        "  = help: load and save it again with torch on a little-endian machine"
    )


def torch_zip(path: Path) -> None:
    torch.save(MODEL, path)


def torch_legacy(path: Path) -> None:
    torch.save(MODEL, path, _use_new_zipfile_serialization=False)


def torch_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(MODEL, 4))


def numpy_pickle(path: Path) -> None:
    arrays = {"a": np.arange(6.0).reshape(2, 3).T, "b": np.float32(1), "c": np.array([True, False])}
    path.write_bytes(pickle.dumps(arrays, 4))


MODEL = {"model": OrderedDict(a=torch.ones(2, 3), b=torch.ones(3, 2).T, c=torch.zeros(4).bfloat16()), "step": 1}
WRITERS: Mapping[str, tuple[Callable[[Path], None], Read]] = {
    "zip": (torch_zip, read_torch_zip),
    "legacy": (torch_legacy, read_torch_legacy),
    "torch_pickle": (torch_pickle, read_plain_pickle),
    "numpy_pickle": (numpy_pickle, read_plain_pickle),
}


@pytest.mark.parametrize("format", WRITERS)
def test_files_cut_short(format: str, tmp_path: Path) -> None:
    write, read = WRITERS[format]
    path = tmp_path / "file"
    write(path)
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with nothing_happens_outside(tmp_path):
            refused = outcome(read, path)
        assert refused is not None, length
        assert refused.exit_code == 3, length
