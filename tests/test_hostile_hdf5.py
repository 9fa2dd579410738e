"""HDF5 files that attack: links, values in other files, groups in themselves, and places, sizes and types made up."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hostile import OUTSIDE, Build, assert_refused, built, file

from bertc.weights_io.hdf5 import MAX_OBJECTS, MAX_PATH, read_hdf5

Fill = Callable[[Any], object]
ONES = np.ones(6, "<f4")


def h5(fill: Fill, **options: Any) -> Build:
    """A file of what `fill` puts into it, beside OUTSIDE with a file of values and one of HDF5."""

    def build(folder: Path) -> Path:
        bait = folder.parent / OUTSIDE
        bait.mkdir(exist_ok=True)
        (bait / "values").write_bytes(ONES.tobytes())
        with h5py.File(bait / "other.h5", "w") as other:
            other["a"] = ONES
        (folder / "link").symlink_to(f"../{OUTSIDE}/values")
        with h5py.File(folder / "file", "w", **options) as opened:
            fill(opened)
        return folder / "file"

    return build


def link(value: object) -> Build:
    return h5(lambda opened: opened.__setitem__("a", value))


def stored(name: str, offset: int = 0) -> Build:
    """A dataset whose values are in another file."""
    places = [(name, offset, ONES.nbytes)]
    return h5(lambda opened: opened.create_dataset("a", ONES.shape, "<f4", external=places))


def virtual(source: str, dataset: str = "a") -> Build:
    """A dataset whose values are those of another one."""
    layout = h5py.VirtualLayout(ONES.shape, "<f4")
    layout[:] = h5py.VirtualSource(source, dataset, ONES.shape)
    return h5(lambda opened: opened.create_virtual_dataset("a", layout))


def groups_in_themselves(opened: Any) -> None:
    for name in "abc":
        opened[name] = opened["/"]


def deep(opened: Any) -> None:
    opened.create_group("/".join("a" * MAX_PATH))


def wide(opened: Any) -> None:
    for number in range(MAX_OBJECTS + 1):
        opened[str(number)] = opened.require_group("g")


def long_names(opened: Any) -> None:
    """Megabytes, as the library keeps them in the file."""
    for number in range(400):
        opened["a" * 60_000 + str(number)] = opened.require_group("g")


def one_under_many_names(opened: Any) -> None:
    opened["a"] = np.ones(250_000, "<f4")
    for number in range(MAX_OBJECTS // 2):
        opened[str(number)] = opened["a"]


def dataset_of_a_name(name: bytes) -> Fill:
    return lambda opened: h5py.h5o.link(opened.create_dataset(None, data=ONES).id, opened.id, name)


def bytes_of_a_name(name: bytes) -> Fill:
    return lambda opened: opened.id.links.create_soft(name, b"/elsewhere")


LINKS: dict[str, Build] = {
    "an external link to the folder above": link(h5py.ExternalLink(f"../{OUTSIDE}/other.h5", "a")),
    "an external link to a device": link(h5py.ExternalLink("/dev/zero", "a")),
    "an external link to a file of the system": link(h5py.ExternalLink("/etc/passwd", "a")),
    "an external link to itself": link(h5py.ExternalLink("file", "a")),
    "an external link to nothing": link(h5py.ExternalLink("nowhere.h5", "a")),
    "an external link in a group": h5(
        lambda o: o.__setitem__("g/h/a", h5py.ExternalLink(f"../{OUTSIDE}/other.h5", "a"))
    ),
    "an external link beside a dataset": h5(
        lambda o: (o.__setitem__("a", ONES), o.__setitem__("b", h5py.ExternalLink(f"../{OUTSIDE}/other.h5", "a")))
    ),
    "a soft link to nothing": link(h5py.SoftLink("/nothing")),
    "a soft link to itself": link(h5py.SoftLink("/a")),
    "a soft link to the root": link(h5py.SoftLink("/")),
    "a soft link to a dataset": h5(lambda o: (o.__setitem__("a", ONES), o.__setitem__("b", h5py.SoftLink("/a")))),
    "a soft link through an external one": h5(
        lambda o: (
            o.__setitem__("e", h5py.ExternalLink(f"../{OUTSIDE}/other.h5", "/")),
            o.__setitem__("a", h5py.SoftLink("/e/a")),
        )
    ),
    "a link whose name is not UTF-8": h5(bytes_of_a_name(b"\xff\xfe")),
    "a link whose name steers a terminal": h5(bytes_of_a_name(b"\x1b[2J")),
    "a dataset whose name is not UTF-8": h5(dataset_of_a_name(b"\xff\xfe")),
    "a dataset whose name is half a character": h5(dataset_of_a_name(b"\xed\xa0\x80")),
    "a link of a very long name": h5(bytes_of_a_name(b"a" * 60_000)),
}
ELSEWHERE: dict[str, Build] = {
    "values in the folder above": stored(f"../{OUTSIDE}/values"),
    "values in a file of the system": stored("/etc/passwd"),
    "values in a device": stored("/dev/zero"),
    "values behind a link": stored("link"),
    "values in the file itself": stored("file"),
    "values far into another file": stored("values", 1 << 40),
    "virtual values of another file": virtual(f"../{OUTSIDE}/other.h5"),
    "virtual values of a file of the system": virtual("/etc/passwd"),
    "virtual values of the file itself": virtual("."),
    "virtual values in the newest format": h5(
        lambda o: o.create_virtual_dataset("a", h5py.VirtualLayout(ONES.shape, "<f4")), libver="latest"
    ),
}
SHAPES: dict[str, Build] = {
    "groups in themselves": h5(groups_in_themselves),
    "groups too deep": h5(deep),
    "too many groups": h5(wide),
    "names of megabytes": h5(long_names),
    "names of megabytes in the newest form": h5(long_names, libver="latest", track_order=True),
    "one dataset under thousands of names": h5(one_under_many_names),
    "values that were never written": h5(lambda o: o.create_dataset("a", (1 << 40,), "<f4")),
    "more values than a file can have": h5(lambda o: o.create_dataset("a", (1 << 30, 1 << 28), "<f4")),
    "two variables of one name": h5(
        lambda o: (o.__setitem__("x/x/a:0", ONES), o.__setitem__("x/y/x/a:0", ONES), o.__setitem__("x/a:0", ONES))
    ),
}


def small(**options: Any) -> bytes:
    with io.BytesIO() as written:
        with h5py.File(written, "w", **options) as opened:
            opened["g/a"] = ONES
            opened["g/b"] = ONES
        return written.getvalue()


WHOLE = small()
NEWEST = small(libver="latest")
UNKNOWN = b"\xff" * 8


def patched(mark: bytes, at: int, data: bytes, whole: bytes = WHOLE, last: bool = False) -> Build:
    """The file with `data` at a distance from the first or last `mark`."""
    start = (whole.rindex(mark) if last else whole.index(mark)) + at
    return file(whole[:start] + data + whole[start + len(data) :])


MAGIC = b"\x89HDF\r\n\x1a\n"
DAMAGED: dict[str, Build] = {
    "only the first bytes": file(MAGIC),
    "first bytes and zeros": file(MAGIC + bytes(1000)),
    "first bytes again and again": file(MAGIC * 10_000),
    **{f"cut after {size} bytes": file(WHOLE[:size]) for size in (9, 50, 96, 200, 600, 1000, len(WHOLE) - 1)},
    **{f"the newest format cut after {size} bytes": file(NEWEST[:size]) for size in (9, 40, 60, 150, 250)},
    "an unknown superblock": patched(MAGIC, 8, b"\x09"),
    "addresses of three bytes": patched(MAGIC, 13, b"\x03"),
    "addresses of 32 bytes": patched(MAGIC, 13, b"\x20"),
    "a base far away": patched(MAGIC, 24, (1 << 60).to_bytes(8, "little")),
    "an end far away": patched(MAGIC, 40, (1 << 60).to_bytes(8, "little")),
    "an end before the start": patched(MAGIC, 40, bytes(8)),
    "a driver of another kind": patched(MAGIC, 48, (96).to_bytes(8, "little")),
    "a root far away": patched(MAGIC, 64, (1 << 60).to_bytes(8, "little")),
    "a root in the superblock": patched(MAGIC, 64, bytes(8)),
    "a root in nothing": patched(MAGIC, 64, UNKNOWN),
    "a tree of another kind": patched(b"TREE", 4, b"\x07"),
    "a tree of 255 levels": patched(b"TREE", 5, b"\xff"),
    "a tree of 65535 entries": patched(b"TREE", 6, b"\xff\xff"),
    "a tree that leads to itself": patched(b"TREE", 32, WHOLE.index(b"TREE").to_bytes(8, "little")),
    "a tree that leads nowhere": patched(b"TREE", 32, (1 << 60).to_bytes(8, "little")),
    "a node of 65535 symbols": patched(b"SNOD", 6, b"\xff\xff"),
    "a node without its mark": patched(b"SNOD", 0, b"NODS"),
    "a symbol beyond the heap": patched(b"SNOD", 8, (1 << 40).to_bytes(8, "little")),
    "a symbol of an object far away": patched(b"SNOD", 16, (1 << 60).to_bytes(8, "little")),
    "a symbol of an object in the heap": patched(b"SNOD", 16, WHOLE.index(b"HEAP").to_bytes(8, "little")),
    "a heap of 2**60 bytes": patched(b"HEAP", 8, (1 << 60).to_bytes(8, "little")),
    "a heap far away": patched(b"HEAP", 24, (1 << 60).to_bytes(8, "little")),
    "a heap whose free list is a loop": patched(b"HEAP", 16, bytes(8)),
    "a group in its own group": patched(b"SNOD", 16, (96).to_bytes(8, "little")),
    "a wrong checksum in the newest format": patched(b"OHDR", 6, b"\x99", NEWEST),
}
HOSTILE: dict[str, Build] = LINKS | ELSEWHERE | SHAPES | DAMAGED


def test_what_the_builders_build_on(tmp_path: Path) -> None:
    for build in (link(ONES), file(WHOLE), file(NEWEST), h5(dataset_of_a_name("é".encode()))):
        folder = tmp_path / str(len(list(tmp_path.iterdir()))) / "model"
        folder.mkdir(parents=True)
        assert next(tensor.read().tolist() for tensor in read_hdf5(build(folder)).values()) == [1] * 6


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(name: str, tmp_path: Path) -> None:
    assert_refused(read_hdf5, built(HOSTILE[name], tmp_path))


def gzipped(opened: Any) -> None:
    """300 MB in 300 KB."""
    opened.create_dataset("a", (75_000, 1000), "<f4", chunks=(2500, 1000), compression="gzip", fillvalue=0)
    for row in range(0, 75_000, 2500):
        opened["a"].id.write_direct_chunk((row, 0), GZIPPED)


GZIPPED = zlib.compress(bytes(10_000_000))
NOT_READ: dict[str, Build] = {
    "a gzip bomb": h5(gzipped),
    "chunks that were never written": h5(lambda o: o.create_dataset("a", (1 << 40,), "<f4", chunks=(1 << 20,))),
    "texts": h5(lambda o: o.create_dataset("a", data=["x"] * 9)),
    "references": h5(lambda o: o.create_dataset("a", (1,), h5py.ref_dtype)),
    "records": h5(lambda o: o.create_dataset("a", (1,), [("x", "<f4"), ("y", "<f4")])),
    "highest byte first": h5(lambda o: o.create_dataset("a", data=ONES.astype(">f4"))),
    "arrays in an array": h5(lambda o: o.create_dataset("a", (2,), "(1000,1000)f4")),
}


@pytest.mark.parametrize("name", NOT_READ)
def test_what_the_format_has_and_weights_do_not(name: str, tmp_path: Path) -> None:
    assert_refused(read_hdf5, built(NOT_READ[name], tmp_path), exit_code=4)
