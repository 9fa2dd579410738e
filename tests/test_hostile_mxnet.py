"""MXNet's lists of arrays that attack: counts, sizes, names and shapes that no list has."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hostile import Build, assert_refused, built, file, outcome
from mxnet_builder import GOOD, ONES, V2, array, arrays, names, params, write

from bertc.weights_io.mxnet import MAX_ARRAYS, read_mxnet

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

EMPTY = struct.pack("<IiI", V2, 0, 0)
"""An array that was never given values."""
BAD |= {
    "a negative rank": arrays([array(ONES, rank=(1 << 32) - 1)]) + names("a"),
    "a negative name": arrays([GOOD]) + struct.pack("<Qq", 1, -1),
    "values of a name": arrays([array(ONES, shape=(4,))]) + names("a"),
    "no names": arrays([GOOD]),
    "reserved bits": struct.pack("<QQQ", 0x112, 0, 1) + GOOD[:-1],
    "one array more than are read": arrays([EMPTY] * (MAX_ARRAYS + 1)) + names(map(str, range(MAX_ARRAYS + 1))),
    "one name more than are read": arrays([EMPTY]) + names(map(str, range(MAX_ARRAYS + 1))),
    "a million arrays of nothing": arrays([EMPTY] * 1_000_000),
    "a million names of nothing": arrays([]) + names([""] * 1_000_000),
    "names of control characters, twice": arrays([GOOD, GOOD]) + names(["\x1b[2J"] * 2),
    "a scalar beyond the end": arrays([array(np.array(7, "<f4"), 0xF993FACA)[:-1]]),
    "empty arrays of 2**56 rows and more": arrays([array(ONES, shape=(0, 1 << 57))]) + names("a"),
}
HOSTILE: dict[str, Build] = {name: file(content) for name, content in BAD.items()}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_lists_are_refused(name: str, tmp_path: Path) -> None:
    assert_refused(read_mxnet, built(HOSTILE[name], tmp_path))


def test_a_list_cut_short_anywhere(tmp_path: Path) -> None:
    whole = params({"a": ONES, "b": ONES})
    for size in range(len(whole)):
        path = write(tmp_path, whole[:size])
        refused = outcome(read_mxnet, path)
        assert refused is not None, size
        assert refused.exit_code == 3


def test_the_sentence(tmp_path: Path) -> None:
    path = HOSTILE["another magic number"](tmp_path)
    assert str(assert_refused(read_mxnet, path)).replace(str(tmp_path), "FOLDER") == (
        "error[B0401]: `FOLDER/file` has 0xdeadbeef before array 0, "
        "where an array's magic number should stand\n"
        "  = help: the file is damaged or incomplete: fetch or export it again"
    )
