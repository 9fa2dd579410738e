"""Pickles that NumPy and Python write, read to the bit, and what the machine makes of calls."""

from __future__ import annotations

import os
import pickle
import pickletools
from collections import OrderedDict, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bertc.weights_io.budget import MAX_OPCODES, Budget
from bertc.weights_io.pickle_machine import read_pickle
from bertc.weights_io.pickle_stack import Global, Persistent, Stretch
from bertc.weights_io.plain_pickle import read_plain_pickle, recognises

LARGE = np.random.default_rng(0).standard_normal((600, 500)).astype(np.float32)
ARRAYS: Mapping[str, Any] = {
    "matrix": np.arange(6, dtype=np.float32).reshape(2, 3) / 3,
    "column_major": np.asfortranarray(np.arange(24, dtype=np.float64).reshape(2, 3, 4)),
    "transposed": np.arange(6, dtype=np.float16).reshape(2, 3).T,
    "strided": np.arange(9, dtype=np.int64)[::2],
    "large": LARGE,
    "large_column_major": np.asfortranarray(LARGE),
    "empty": np.zeros((0, 3), np.float32),
    "of_no_dimensions": np.array(0.1),
    "scalar": np.float32(0.1),
    "bytes": np.arange(256, dtype=np.uint8),
    "booleans": np.array([True, False]),
    **{name: np.array([-1, 2], name) for name in ("int8", "int16", "int32")},
}


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_of_every_protocol(protocol: int, tmp_path: Path) -> None:
    """Up to protocol 2 the values are texts; from 5 on, buffers."""
    path = tmp_path / "file"
    arrays = {name: array for name, array in ARRAYS.items() if protocol > 0 or array.nbytes < 100_000}
    path.write_bytes(pickle.dumps(arrays, protocol))
    assert recognises(path.read_bytes()[:64])
    found = read_plain_pickle(path)
    assert found.keys() == arrays.keys()
    for name, tensor in found.items():
        values, wanted = tensor.read(), arrays[name]
        assert (tensor.name, tensor.shape, values.shape) == (name, wanted.shape, wanted.shape)
        assert values.dtype == wanted.dtype
        assert values.tobytes() == wanted.tobytes(), name
        assert not values.flags.writeable, name


def test_names_of_numpy_1(tmp_path: Path) -> None:
    written = pickle.dumps({"a": ARRAYS["matrix"]}, 3).replace(b"numpy._core", b"numpy.core")
    (tmp_path / "file").write_bytes(written)
    assert read_plain_pickle(tmp_path / "file")["a"].read().tolist() == ARRAYS["matrix"].tolist()


def machine(pickled: bytes, folder: Path) -> Any:
    path = folder / "file"
    path.write_bytes(pickled)
    with path.open("rb") as file:
        return read_pickle(path, file, len(pickled), Budget(MAX_OPCODES)).value


PLAIN: Any = [
    *(None, True, False, 0, 1, 255, 256, 65536, -1, 2**31, -(2**31), 2**63, -(2**63) - 1, 2**200, 0.1, -1e300),
    *("", "a", "\x00", "é", "𝄞" * 300, "line\nbreak\\", (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), [], [1, [2]]),
    *({}, {"a": {"b": 1}, 2: "c"}, {i: i for i in range(1500)}, list(range(1500))),
]


@pytest.mark.parametrize("protocol", range(6))
def test_plain_data_of_every_protocol(protocol: int, tmp_path: Path) -> None:
    assert machine(pickle.dumps(PLAIN, protocol), tmp_path) == PLAIN
    assert machine(pickletools.optimize(pickle.dumps(PLAIN, protocol)), tmp_path) == PLAIN


@pytest.mark.parametrize("protocol", range(2, 6))
def test_containers_of_the_library(protocol: int, tmp_path: Path) -> None:
    ordered: OrderedDict[str, int] = OrderedDict(b=1, a=2)
    ordered.attribute = 3  # type: ignore[attr-defined]
    content = [ordered, defaultdict(list, {"a": [1]})]
    assert machine(pickle.dumps(content, protocol), tmp_path) == [{"b": 1, "a": 2}, {"a": [1]}]


def test_sets_are_lists(tmp_path: Path) -> None:
    assert machine(pickle.dumps([{1}, frozenset({2})], 4), tmp_path) == [[1], [2]]


def test_a_tuple_that_contains_itself(tmp_path: Path) -> None:
    """The pickler takes a mark off the stack with POP, or all above it with POP_MARK."""
    inner: list[Any] = []
    for content in ((inner,), (inner, 1, 2, 3)):
        inner[:] = [content]
        for protocol in (1, 2, 4):
            found = machine(pickle.dumps(content, protocol), tmp_path)
            assert found[0][0] is found or found[0][0] == found
            assert len(found) == len(content)


class Remembered:
    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("touch executed",), {"a": 1}


def test_calls_stay_records(tmp_path: Path) -> None:
    found = machine(pickle.dumps(Remembered(), 4), tmp_path)
    assert (found.function, found.arguments, found.state) == (Global("posix.system"), ("touch executed",), {"a": 1})
    found = machine(b"\x80\x04ctorch\nstorage\n)\x81N\x94}\x92K\x05Q.", tmp_path)
    assert isinstance(found, Persistent)
    assert found.identity == 5


def test_bytes_and_long_texts_stay_in_the_file(tmp_path: Path) -> None:
    found = machine(pickle.dumps([b"abc", bytearray(b"de"), "é" * 40_000], 5), tmp_path)
    assert [(stretch.size, stretch.kind) for stretch in found] == [(3, "bytes"), (2, "bytes"), (80_000, "text")]
    whole = (tmp_path / "file").read_bytes()
    assert [whole[stretch.offset :][: stretch.size] for stretch in found] == [b"abc", b"de", ("é" * 40_000).encode()]
    assert all(isinstance(stretch, Stretch) for stretch in found)


def test_keys_that_name_nothing_are_left_out(tmp_path: Path) -> None:
    content = {"a": 1, (1, 2): 2, 1.5: 3, 2**64: 4, None: 5, 2: 6, b"b": 7}
    assert machine(pickle.dumps(content, 4), tmp_path) == {"a": 1, 2: 6}
