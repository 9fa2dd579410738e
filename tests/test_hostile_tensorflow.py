"""TensorFlow's checkpoints that attack: tables, indices, graphs of objects, checksums, bombs and links."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
from hostile import OUTSIDE, Build, assert_refused, built
from protobuf_builder import nested, number, varint
from tensorflow_builder import (
    GOOD,
    RESTARTS,
    VALUES,
    block,
    data_block,
    entry,
    footer,
    header,
    index_of,
    record,
    table,
    with_graph,
    write,
)

from bertc.weights_io import open_checkpoint
from bertc.weights_io.tensorflow import read_tensorflow

TINY = Path(__file__).parent / "fixtures" / "tiny_bert"

HUGE = (1 << 64) - 1
FIRST = record(b"", header())

BAD_TABLES: dict[str, bytes] = {
    "an empty file": b"",
    "a file of only a footer": footer(b"\0\0", b"\0\0"),
    "a footer with a number of eleven bytes": table(data_block(FIRST))[:-48] + footer(b"\xff" * 11, b"\0\0"),
    "no magic number": table(data_block(FIRST))[:-1] + b"x",
    "an index beyond the file": table(data_block(FIRST))[:-48] + footer(b"\0\0", varint(1 << 40) + b"\x08"),
    "an index of 2**64 bytes": table(data_block(FIRST))[:-48] + footer(b"\0\0", b"\0" + varint(HUGE)),
    "an index inside the footer": table(data_block(FIRST))[:-48] + footer(b"\0\0", b"\0" + varint(60)),
    "a block beyond the file": table(data_block(FIRST), places=[varint(1 << 40) + varint(8)]),
    "a block of 2**64 bytes": table(data_block(FIRST), places=[b"\0" + varint(HUGE)]),
    "the same block twice": table(data_block(FIRST), places=[b"\0" + varint(len(FIRST) + 8)] * 2),
    "blocks that overlap": table(data_block(FIRST), data_block(FIRST), places=[b"\0\x08", b"\x04\x08"]),
    "a place cut short": table(data_block(FIRST), places=[b"\x80"]),
    "a block of nothing": table(block(b"")),
    "a block with a wrong checksum": table(block(FIRST + RESTARTS, checksum=0)),
    "a block compressed in an unknown way": table(block(FIRST + RESTARTS, compression=2)),
    "a block with too many offsets": table(block(FIRST + b"\xff" * 4)),
    "a snappy bomb": table(block(b"\xff\xff\xff\xff\x0f\x00a", compression=1)),
    "a snappy bomb within the limit": table(block(varint(4 << 20) + b"\x00a" + b"\xfe\x01\x00" * 9, compression=1)),
    "snappy that breaks off": table(block(b"\x40\xf0", compression=1)),
    "more shared than there is": table(data_block(FIRST + record(b"a", GOOD, shared=5))),
    "a key longer than its block": table(data_block(FIRST + b"\0\x7f\x01ab")),
    "a value longer than its block": table(data_block(FIRST + b"\0\x01" + varint(1 << 60) + b"ab")),
    "keys out of order": table(data_block(FIRST + record(b"b", GOOD) + record(b"a", GOOD))),
    "a key twice": table(data_block(FIRST + record(b"a", GOOD) + record(b"a", GOOD))),
    "a key twice, in two blocks": table(data_block(FIRST + record(b"a", GOOD)), data_block(record(b"a", GOOD))),
    "no header": table(data_block(record(b"a", GOOD))),
    "nothing in it": table(),
}

BAD_INDICES: dict[str, bytes] = {
    "no shards": index_of({"a": GOOD}, shards=0),
    "a million shards": index_of({"a": GOOD}, shards=1_000_000),
    "2**64 shards": index_of({"a": GOOD}, shards=HUGE),
    "a shard that is not there": index_of({"a": entry(shard=1)}, shards=2),
    "a shard beyond the count": index_of({"a": entry(shard=1)}),
    "a shard of number 2**64": index_of({"a": entry(shard=HUGE)}),
    "values beyond the shard": index_of({"a": entry(offset=1)}),
    "values far beyond the shard": index_of({"a": entry(offset=1 << 62)}),
    "a negative offset": index_of({"a": entry(offset=HUGE - 7)}),
    "a negative size": index_of({"a": entry(size=HUGE)}),
    "a size that does not fit the shape": index_of({"a": entry(size=4)}),
    "a negative length": index_of({"a": entry(shape=(HUGE,))}),
    "lengths whose product overflows": index_of({"a": entry(shape=(1 << 40, 1 << 40), size=0)}),
    "an empty shape that overflows": index_of({"a": entry(shape=(0, 1 << 62, 1 << 62), size=0)}),
    "a shape of nine lengths": index_of({"a": entry(shape=(1,) * 9, size=4)}),
    "values that overlap": index_of({"a": GOOD, "b": GOOD}),
    "values that overlap in part": index_of({"a": GOOD, "b": entry((1,), size=4, offset=4)}),
    "a wrong checksum of values": index_of({"a": entry(checksum=1)}),
    "a message that breaks off": index_of({"a": GOOD[:-2]}),
    "a field longer than the message": index_of({"a": number(1, 1) + b"\x12\x7f"}),
    "a group, which is not used any more": index_of({"a": b"\x0b\x0c"}),
    "a number instead of a shape": index_of({"a": number(1, 1) + number(2, 8)}),
    "a shape instead of a number": index_of({"a": nested(1, b"x")}),
    "a type given twice": index_of({"a": number(1, 1) + GOOD}),
    "a number of more than 64 bits": index_of({"a": b"\x08" + b"\xff" * 9 + b"\x7f"}),
    "a header that is no message": table(data_block(record(b"", b"\xff"))),
}

BAD_GRAPHS: dict[str, tuple[bytes, bytes]] = {
    "a graph with a wrong checksum": with_graph(nested(1, b""), broken=1),
    "a graph with a length that is too large": with_graph(nested(1, b""), lie=1),
    "a graph with a length that is too small": with_graph(nested(1, b""), lie=-1),
    "a graph that is no message": with_graph(b"\xff"),
    "a child that is not there": with_graph(nested(1, nested(1, number(1, 7)))),
    "a child of number 2**64": with_graph(nested(1, nested(1, number(1, HUGE)))),
    "too many children": with_graph(nested(1, nested(1, b"") * 110_000)),
    "a text that is not UTF-8": with_graph(nested(1, nested(2, nested(3, b"\xff")))),
    "two strings": with_graph(nested(1, b""), shape=(2,)),
    "two variables of one path": with_graph(
        nested(1, b"".join(nested(2, nested(3, key)) for key in (b"a", b"b"))), b=entry(offset=1 << 10)
    ),
}


def growing_keys(count: int, size: int) -> bytes:
    """Keys of which each adds a byte to the one before, so that a few bytes stand for `size`."""
    first = record(b"a" * size, entry((0,), size=0))
    others = (record(b"a", entry((0,), size=0), shared=size + place) for place in range(count))
    return table(data_block(FIRST + first + b"".join(others)))


def compressed(key: bytes) -> bytes:
    """A block of one value of nothing, which an unknown field of 4 MiB of zeros makes long."""
    start = entry((0,), size=0) + b"\x7a" + varint(4_000_000)
    plain = b"\0" + varint(len(key)) + varint(len(start) + 4_000_000) + key + start
    copies = b"\x00\0" + b"\xfe\x01\x00" * (4_000_000 // 64)
    literal = b"\xf0" + bytes([len(plain) - 1]) + plain
    size = len(plain) + 1 + 4_000_000
    return block(varint(size + 7) + literal + copies + b"\x18" + RESTARTS[1:], compression=1)


def chain(length: int, name: bytes) -> bytes:
    """A graph of objects in which each leads to the next, so that paths grow."""
    return b"".join(nested(1, nested(1, number(1, at + 1) + nested(2, name))) for at in range(length)) + nested(1, b"")


BOMBS: dict[str, tuple[bytes, bytes]] = {
    "names that grow by a byte each": (growing_keys(2000, 200_000), b""),
    "blocks that unpack to 300 MiB": (table(data_block(FIRST), *(compressed(b"%03d" % at) for at in range(75))), b""),
    "shapes of a million sizes": (
        index_of({str(at): number(1, 1) + nested(2, nested(2, b"") * 90_000) for at in range(12)}),
        b"",
    ),
    "a shape of four million sizes": (table(data_block(FIRST + record(b"a", nested(2, b"\x12\0" * 1_900_000)))), b""),
    "paths that grow by a name each": with_graph(chain(9000, b"a" * 400)),
    "an endless path": with_graph(chain(100_000, b"a")),
    "a graph of millions of fields": with_graph(
        nested(1, nested(2, b"")) * 80_000 + nested(1, b"\x0a\0" * 90_000) * 20
    ),
}


def linked(target: str, *shards: bytes) -> Build:
    """A checkpoint whose values are a link to `target`."""

    def build(folder: Path) -> Path:
        (folder.parent / OUTSIDE / "m.data").write_bytes(VALUES)
        (folder / "m.data-00000-of-00001").symlink_to(target)
        return write(folder, index_of({"a": GOOD}), *shards)

    return build


def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "m.data-00000-of-00001")
    return write(folder, index_of({"a": GOOD}))


def folder_for_values(folder: Path) -> Path:
    (folder / "m.data-00000-of-00001").mkdir()
    return write(folder, index_of({"a": GOOD}))


def named_by_state(line: str) -> Build:
    """A folder whose text `checkpoint` names an index; beside it lies one that is whole."""

    def build(folder: Path) -> Path:
        write(folder.parent / OUTSIDE, index_of({"a": GOOD}), VALUES)
        (folder / "m.index").symlink_to(f"../{OUTSIDE}/m.index")
        (folder / "checkpoint").write_text(f'model_checkpoint_path: "{line}"\n')
        return folder

    return build


PLACES: dict[str, Build] = {
    "values behind a link": linked(f"../{OUTSIDE}/m.data"),
    "values behind a link to a device": linked("/dev/zero"),
    "values behind a link to themselves": linked("m.data-00000-of-00001"),
    "values in a pipe": pipe,
    "values in a folder": folder_for_values,
    "an index behind a link": named_by_state("m"),
    "an index above the folder": named_by_state(f"../{OUTSIDE}/m"),
    "an index of no name": named_by_state(""),
    "an index of a name with a zero": named_by_state("m\0"),
    "an index of a very long name": named_by_state("m" * 5000),
}


def checkpoint(index: bytes, shard: bytes = VALUES) -> Build:
    return lambda folder: write(folder, index, shard)


HOSTILE: dict[str, Build] = {
    **{name: checkpoint(index) for name, index in (BAD_TABLES | BAD_INDICES).items()},
    **{name: checkpoint(*parts) for name, parts in (BAD_GRAPHS | BOMBS).items()},
    **PLACES,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_checkpoints_are_refused(name: str, tmp_path: Path) -> None:
    path = built(HOSTILE[name], tmp_path)
    assert_refused(open_checkpoint if path.is_dir() else read_tensorflow, path)


@pytest.mark.parametrize("part", range(12))
def test_a_file_cut_short(part: int, tmp_path: Path) -> None:
    for file in (TINY / "tf2").iterdir():
        shutil.copy(file, tmp_path)
    for file in (tmp_path / "ckpt-1.index", tmp_path / "ckpt-1.data-00000-of-00001"):
        content = file.read_bytes()
        file.write_bytes(content[: len(content) * part // 12])
        assert_refused(read_tensorflow, tmp_path / "ckpt-1.index")
        file.write_bytes(content)


def test_the_sentence(tmp_path: Path) -> None:
    path = write(tmp_path, BAD_INDICES["values beyond the shard"], VALUES)
    assert str(assert_refused(read_tensorflow, path)).replace(str(tmp_path), "FOLDER") == (
        "error[B0401]: `FOLDER/m.index` puts `a` at bytes 1 to 9 of shard 0, which has 8\n"
        "  = help: the file is damaged or incomplete: fetch or export it again"
    )


def test_names_in_errors_are_short(tmp_path: Path) -> None:
    path = write(tmp_path, index_of({"x\x1b[31m" * 200: entry(offset=1)}), VALUES)
    text = str(assert_refused(read_tensorflow, path))
    assert len(text) < len(str(tmp_path)) + 300
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", text)
