"""TensorFlow's checkpoints: what TensorFlow wrote is read to the bit, and what nobody should write is refused."""

from __future__ import annotations

import random
import re
import shutil
import time
import tracemalloc
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import pytest
from hostile import assert_refused, nothing_happens_outside, outcome

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


# a writer of checkpoints, good and bad


def varint(value: int) -> bytes:
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def fixed(field: int, value: int) -> bytes:
    return varint(field << 3 | 5) + value.to_bytes(4, "little")


def nested(field: int, value: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(value)) + value


def header(shards: int = 1) -> bytes:
    return number(1, shards)


def entry(
    shape: Iterable[int] = (2,), kind: int = 1, shard: int = 0, offset: int = 0, size: int = 8, checksum: int = 0
) -> bytes:
    sizes = b"".join(nested(2, number(1, length)) for length in shape)
    place = number(3, shard) + number(4, offset) + number(5, size)
    return number(1, kind) + nested(2, sizes) + place + fixed(6, checksum)


def record(key: bytes, value: bytes, shared: int = 0) -> bytes:
    return varint(shared) + varint(len(key)) + varint(len(value)) + key + value


RESTARTS = bytes(4) + (1).to_bytes(4, "little")


def block(content: bytes, compression: int = 0, checksum: int | None = None) -> bytes:
    body = content + bytes([compression])
    return body + (masked_crc32c(body) if checksum is None else checksum).to_bytes(4, "little")


def footer(metadata: bytes, index: bytes) -> bytes:
    return (metadata + index).ljust(40, b"\0") + bytes.fromhex("57fb808b247547db")


def table(*blocks: bytes, places: Iterable[bytes] | None = None) -> bytes:
    """A file of blocks of data, an index that leads to them (or to `places`), and the footer."""
    starts = [sum(map(len, blocks[:number])) for number in range(len(blocks))]
    own = [varint(start) + varint(len(block) - 5) for start, block in zip(starts, blocks, strict=True)]
    handles = own if places is None else list(places)
    body = b"".join(blocks) + block(RESTARTS)
    index = block(b"".join(record(b"%09d" % at, handle) for at, handle in enumerate(handles)) + RESTARTS)
    metadata = varint(sum(map(len, blocks))) + varint(len(RESTARTS))
    return body + index + footer(metadata, varint(len(body)) + varint(len(index) - 5))


def data_block(records: bytes) -> bytes:
    return block(records + RESTARTS)


def index_of(entries: Mapping[str, bytes], shards: int = 1) -> bytes:
    records = record(b"", header(shards)) + b"".join(record(k.encode(), v) for k, v in sorted(entries.items()))
    return table(data_block(records))


VALUES = np.array([1, 2], "<f4").tobytes()
GOOD = entry(checksum=masked_crc32c(VALUES))


def graph_value(graph: bytes, lie: int = 0) -> tuple[bytes, int]:
    """A string as it lies, and the checksum of its entry."""
    start = (len(graph) + lie).to_bytes(4, "little")
    inner = masked_crc32c(start).to_bytes(4, "little")
    return varint(len(graph) + lie) + inner + graph, masked_crc32c(start + inner + graph)


def with_graph(
    graph: bytes, lie: int = 0, broken: int = 0, shape: tuple[int, ...] = (), **entries: bytes
) -> tuple[bytes, bytes]:
    """An index and its shard, of a graph of objects and the variable `a`."""
    stored, checksum = graph_value(graph, lie)
    graph_entry = entry(shape, 7, 0, 8, len(stored), checksum ^ broken)
    return index_of({"_CHECKPOINTABLE_OBJECT_GRAPH": graph_entry, "a": GOOD, **entries}), VALUES + stored


def graph_of(full_name: bytes) -> bytes:
    """A root with one variable, `kernel`, whose key is `a`."""
    root = nested(1, nested(1, number(1, 1) + nested(2, b"kernel")))
    return root + nested(1, nested(2, nested(2, full_name) + nested(3, b"a")))


def write(folder: Path, index: bytes, *shards: bytes) -> Path:
    for shard, content in enumerate(shards):
        (folder / f"m.data-{shard:05d}-of-{len(shards):05d}").write_bytes(content)
    (folder / "m.index").write_bytes(index)
    return folder / "m.index"


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
    """391 parameters with two slots each: under 0.3 s and 100 MB, though the values take 4 GB."""
    names = [f"bert/encoder/layer_{n}/part_{part}/kernel" for n in range(24) for part in range(16)]
    slots = [name + slot for name in names for slot in ("", "/adam_m", "/adam_v")]
    size = 4 * 1024 * 1024
    entries = {name: entry((1024, 1024), 1, 0, place * size, size) for place, name in enumerate(slots)}
    path = write(tmp_path, index_of(entries), b"")
    with (tmp_path / "m.data-00000-of-00001").open("r+b") as file:
        file.truncate(size * len(slots))
    started = time.process_time()
    tensors = read_tensorflow(path)
    assert time.process_time() - started < 0.3
    assert tensors.keys() == set(names)
    tracemalloc.start()
    read_tensorflow(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6


# what it refuses

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
    "a wrong checksum": with_graph(nested(1, b""), broken=1),
    "a length that is too large": with_graph(nested(1, b""), lie=1),
    "a length that is too small": with_graph(nested(1, b""), lie=-1),
    "no message": with_graph(b"\xff"),
    "a child that is not there": with_graph(nested(1, nested(1, number(1, 7)))),
    "a child of number 2**64": with_graph(nested(1, nested(1, number(1, HUGE)))),
    "too many children": with_graph(nested(1, nested(1, b"") * 110_000)),
    "a text that is not UTF-8": with_graph(nested(1, nested(2, nested(3, b"\xff")))),
    "two strings": with_graph(nested(1, b""), shape=(2,)),
    "two variables of one path": with_graph(
        nested(1, b"".join(nested(2, nested(3, key)) for key in (b"a", b"b"))), b=entry(offset=1 << 10)
    ),
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_bad_tables(name: str, tmp_path: Path) -> None:
    assert_refused(read_tensorflow, write(tmp_path, BAD_TABLES[name], VALUES))


@pytest.mark.parametrize("name", BAD_INDICES)
def test_bad_indices(name: str, tmp_path: Path) -> None:
    assert_refused(read_tensorflow, write(tmp_path, BAD_INDICES[name], VALUES))


@pytest.mark.parametrize("name", BAD_GRAPHS)
def test_bad_graphs_of_objects(name: str, tmp_path: Path) -> None:
    assert_refused(read_tensorflow, write(tmp_path, *BAD_GRAPHS[name]))


@pytest.mark.parametrize("part", range(12))
def test_a_file_cut_short(part: int, tmp_path: Path) -> None:
    for file in (TINY / "tf2").iterdir():
        shutil.copy(file, tmp_path)
    for file in (tmp_path / "ckpt-1.index", tmp_path / "ckpt-1.data-00000-of-00001"):
        content = file.read_bytes()
        file.write_bytes(content[: len(content) * part // 12])
        assert_refused(read_tensorflow, tmp_path / "ckpt-1.index")
        file.write_bytes(content)


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


def test_the_sentence(tmp_path: Path) -> None:
    path = write(tmp_path, BAD_INDICES["values beyond the shard"], VALUES)
    assert str(assert_refused(read_tensorflow, path)).replace(str(tmp_path), "FOLDER") == (
        "error[B0401]: `FOLDER/m.index` puts `a` at bytes 1 to 9 of shard 0, which has 8\n"
        "  = help: the file is damaged or incomplete: fetch or export it again"
    )


def mutations(seed: int) -> Callable[[bytes], bytes]:
    """Changes of a few bytes, most of them to what a number or a length may be."""
    choose = random.Random(seed)

    def mutated(content: bytes) -> bytes:
        changed = bytearray(content)
        for _ in range(choose.randint(1, 3)):
            at = choose.randrange(len(changed))
            changed[at : at + choose.randint(0, 2)] = bytes(
                choose.choice((0, 1, 0x7F, 0x80, 0xFF, choose.randrange(256))) for _ in range(choose.randint(0, 2))
            )
        return bytes(changed)

    return mutated


@pytest.mark.parametrize("seed", range(4))
def test_mutated_entries_under_right_checksums(seed: int, tmp_path: Path) -> None:
    """Reading ends in values or in a BertcError, and all is as it should be outside."""
    mutated, keep = mutations(seed), bytes
    stored, checksum = graph_value(graph_of(b"x/kernel"))
    graph_entry = entry((), 7, 0, 8, len(stored), checksum)
    refused = 0
    for attempt in range(160):
        change = [mutated if part == attempt % 4 else keep for part in range(4)]
        records = (
            FIRST + record(b"_CHECKPOINTABLE_OBJECT_GRAPH", change[0](graph_entry)) + record(b"a", change[1](GOOD))
        )
        path = write(tmp_path, table(data_block(change[2](records))), VALUES + change[3](stored))
        with nothing_happens_outside(tmp_path):
            refused += outcome(read_tensorflow, path) is not None
    assert 80 < refused < 160


def test_names_in_errors_are_short(tmp_path: Path) -> None:
    path = write(tmp_path, index_of({"x\x1b[31m" * 200: entry(offset=1)}), VALUES)
    text = str(assert_refused(read_tensorflow, path))
    assert len(text) < len(str(tmp_path)) + 300
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", text)
