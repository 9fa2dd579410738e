"""Files of safetensors and indices of shards that attack: headers that take time and memory, names of other files."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hostile import OUTSIDE, Build, assert_refused, built, file, guarded_outcome
from pickle_builder import call, text
from pickle_builder import entry as pickle_entry
from safetensors_builder import entry, file_of
from test_weights_safetensors import DAMAGED
from torch_builder import archive, legacy, pickled, storage, tensor

from bertc.weights_io import open_checkpoint
from bertc.weights_io.budget import MAX_HEADER, MAX_MEMBERS, MAX_PUNCTUATION
from bertc.weights_io.safetensors import read_safetensors
from bertc.weights_io.shards import read_shards

EIGHT = bytes(8)
EMPTY = entry(shape=[0], offsets=[0, 0])
SMALL = file_of({"a": entry()}, EIGHT)


def padded(text: bytes, size: int = MAX_HEADER) -> bytes:
    return text + b" " * (size - len(text))


HEADERS = {
    "arrays in arrays": b'{"a":' + b"[" * 1_000_000,
    "objects in objects": b'{"a":' * 40_000 + b"1" + b"}" * 40_000,
    "arrays behind brackets in texts": b'{"]]]]\\"]]]]": "' + b"]" * 99 + b'", "a": ' + b"[" * 17 + b"]" * 17 + b"}",
    "millions of numbers": b'{"a": [' + b"0," * 3_900_000 + b"0]}",
    "as many numbers as are read": b'{"a": [' + b"0," * (MAX_PUNCTUATION - 8) + b"0]}",
    "as many lists as are read": b'{"a": [' + b"[]," * (MAX_PUNCTUATION // 3 - 8) + b"0]}",
    "as many objects as are read": b'{"a": [' + b'{"":0},' * (MAX_PUNCTUATION // 7 - 8) + b"0]}",
    "as many texts as are read": b'{"a": [' + b'"bc",' * (MAX_PUNCTUATION // 3 - 8) + b"0]}",
    "as many tensors of nothing as are read": b"{"
    + b",".join(b'"%d":{}' % at for at in range(MAX_PUNCTUATION // 6 - 9))
    + b"}",
    "millions of closing brackets": b"{" + b"]" * 7_000_000,
    "millions of quotes": b"{" + b'"' * 7_000_000,
    "millions of escapes": b'{"' + b'\\"' * 3_000_000,
    "escapes of surrogate pairs": b'{"' + b"\\ud83d\\ude00" * 600_000 + b'": 0}',
    "a text without an end": b'{"' + b"a" * 7_000_000,
    "a text of one wide character": b'{"' + b"a" * 7_900_000 + "\N{GRINNING FACE}".encode() + b'": 0}',
    "a number of a million digits": b'{"a": ' + b"9" * 1_000_000 + b"}",
    "a real number of a million digits": b'{"a": 0.' + b"7" * 1_000_000 + b"}",
    "an exponent of a million digits": b'{"a": 1e' + b"9" * 1_000_000 + b"}",
    "a tiny exponent": b'{"a": 1e-' + b"9" * 1_000_000 + b"}",
    "nothing but spaces": b"{" + b" " * 7_000_000,
    "a shape of huge sizes": json.dumps({"a": entry(shape=[10**19 - 1] * 100_000)}).encode(),
    "metadata of metadata": b'{"__metadata__": {"__metadata__": {}}}',
    "metadata alone, and values": b'{"__metadata__": {}}',
    "a list for a header": b"[]",
    "a byte order mark": b"\xef\xbb\xbf{}",
    "a zero after the header": b"{}\0",
    "a second header": b"{}{}",
    "infinity": b'{"a": Infinity}',
    "a constructor of Python": b'{"a": {"py/object": "os.system"}, "b": {"__class__": "os.system"}}',
}
LENGTHS = {
    "a header of 2**64 bytes": b"\xff" * 8 + b"{}",
    "a header of 2**63 bytes": (1 << 63).to_bytes(8, "little") + b"{}",
    "a header as long as is read, which is not there": MAX_HEADER.to_bytes(8, "little") + b"{}",
    "a header of one byte more than is read": file_of(padded(b"{}", MAX_HEADER + 1)),
    "a header of nothing": bytes(8),
    "seven bytes": bytes(7),
    "tensors that are all the same bytes": file_of({str(at): entry() for at in range(1000)}, EIGHT),
    "tensors that are all the same nothing, and values": file_of({str(at): EMPTY for at in range(9)}, EIGHT),
}


def shards(weight_map: object, **files: bytes) -> Build:
    """An index beside which lie `1.safetensors`, other `files`, a link, a pipe and a folder."""

    def build(folder: Path) -> Path:
        (folder.parent / OUTSIDE).mkdir(exist_ok=True)
        (folder.parent / OUTSIDE / "1.safetensors").write_bytes(SMALL)
        (folder / "link").symlink_to(f"../{OUTSIDE}/1.safetensors")
        (folder / "device").symlink_to("/dev/zero")
        (folder / "loop").symlink_to("loop")
        os.mkfifo(folder / "pipe")
        (folder / "folder").mkdir()
        for name, content in ({"1.safetensors": SMALL} | files).items():
            (folder / name).write_bytes(content)
        content = weight_map if isinstance(weight_map, bytes) else json.dumps({"weight_map": weight_map}).encode()
        (folder / "model.safetensors.index.json").write_bytes(content)
        return folder / "model.safetensors.index.json"

    return build


NAMES = {
    "a shard in the folder above": f"../{OUTSIDE}/1.safetensors",
    "a shard above, after a dot": f"./../{OUTSIDE}/1.safetensors",
    "a shard above, through a folder": f"folder/../../{OUTSIDE}/1.safetensors",
    "a shard of the system": "/etc/passwd",
    "a shard of the process": "/proc/self/environ",
    "a shard backwards": f"..\\{OUTSIDE}\\1.safetensors",
    "a shard at an address": "http://host/1.safetensors",
    "a shard behind a link": "link",
    "a shard of a device": "device",
    "a shard behind a loop": "loop",
    "a shard of a pipe": "pipe",
    "a shard of a folder": "folder",
    "a shard of this folder": ".",
    "a shard of the parent": "..",
    "a shard without a name": "",
    "a shard after a zero": "1.safetensors\0",
    "a shard of a long name": "a" * 100_000,
    "a shard that is the index": "model.safetensors.index.json",
    "a shard that is absent": "2.safetensors",
}
SHARDS, EACH = 300, 50
MANY = {f"{shard:04}": file_of({f"{shard:04}.{at}": EMPTY for at in range(EACH)}) for shard in range(SHARDS)}
ALL = {f"{shard}.{at}": shard for shard in MANY for at in range(EACH)}
INDICES: dict[str, Build] = {
    **{name: shards({"a": "1.safetensors", "b": place}) for name, place in NAMES.items()},
    "an index of nothing": shards({}),
    "an index of numbers": shards({"a": 1}),
    "an index of lists": shards({"a": ["1.safetensors"]}),
    "an index of a name more": shards({"a": "1.safetensors", "b": "1.safetensors"}),
    "an index without a map": shards(b'{"metadata": {}}'),
    "an index that is cut": shards(b'{"weight_map": {"a": "1.safe'),
    "an index of brackets": shards(b'{"weight_map": ' + b"[" * 1_000_000),
    "an index of one name twice": shards(b'{"weight_map": {"a": "1.safetensors", "a": "1.safetensors"}}'),
    "an index of half a character": shards(b'{"weight_map": {"\\udcff": "1.safetensors"}}'),
    "an index of half a character in a file": shards(b'{"weight_map": {"a": "\\udcff"}}'),
    "an index of more than is read": shards(padded(b"{", MAX_HEADER + 2)),
    "an index of as many names as are read": shards(
        {str(at): "1.safetensors" for at in range(MAX_PUNCTUATION // 6 - 9)}
    ),
    "an index of hundreds of shards": shards(ALL, **MANY),
    "an index of many shards, the last of which does not fit": shards(
        {name: shard for name, shard in ALL.items() if shard < "0200"} | {"more": "0199"}, **MANY
    ),
    "a shard with a pickle that calls": shards(
        {"a": "1.bin"}, **{"1.bin": archive(pickle_entry(call("os system", text("touch executed"))))}
    ),
    "a shard of the older format that calls": shards(
        {"a": "1.bin"}, **{"1.bin": legacy(pickle_entry(call("os system", text("touch executed"))))}
    ),
    "a shard with a header of brackets": shards({"a": "2"}, **{"2": file_of(b'{"a":' + b"[" * 1_000_000)}),
}


def copies(content: bytes) -> Build:
    """An index of shards that are one file under many names, which takes the room of one."""

    def build(folder: Path) -> Path:
        index = shards({str(at): f"{at:03}" for at in range(COPIES)}, **{"000": content})(folder)
        for at in range(1, COPIES):
            os.link(folder / "000", folder / f"{at:03}")
        return index

    return build


COPIES = 200
DICTS = b"\x80\x04}(" + text("x") + b"}\x94(" + b"".join(text(str(at)) + b"N" for at in range(99)) + b"u"
PICKLES = {
    "opcodes": pickled(b"N0" * 49_000 + tensor(storage(more=b"N"))),
    "dicts in many places": DICTS
    + b"".join(text(str(at)) + b"h\x00" for at in range(98))
    + text("a")
    + tensor()
    + b"u.",
}
ALONE = {
    "a header as long as is read": file_of(padded(json.dumps({"a": EMPTY}).encode())),
    "a header of as much as is read": file_of({"__metadata__": {str(at): "" for at in range(49_000)}, "a": EMPTY}),
    "a zip file of members": archive(
        pickled(tensor()), {"m/data/0": bytes(24)} | {f"m/{at}": b"" for at in range(MAX_MEMBERS - 3)}
    ),
    **{f"a zip file of {name}": archive(content) for name, content in PICKLES.items()},
    **{f"an older file of {name}": legacy(content) for name, content in PICKLES.items()},
}
"""What takes the tenth of a second or so that a checkpoint may, and is read."""
HOSTILE: dict[str, Build] = {
    **{f"header of {name}": file(file_of(header, EIGHT)) for name, header in HEADERS.items()},
    **{name: file(content) for name, content in LENGTHS.items()},
    **{case: file(content) for case, (content, _) in DAMAGED.items()},
    **INDICES,
    **{f"shards that are {name} each": copies(content) for name, content in ALONE.items()},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(name: str, tmp_path: Path) -> None:
    path = built(HOSTILE[name], tmp_path)
    assert_refused(read_shards if path.suffix == ".json" else read_safetensors, path)


@pytest.mark.parametrize("name", ALONE)
def test_what_is_refused_of_many_shards_is_read_alone(name: str, tmp_path: Path) -> None:
    assert guarded_outcome(open_checkpoint, built(file(ALONE[name]), tmp_path)) is None


def test_a_folder_is_no_way_around(tmp_path: Path) -> None:
    path = built(INDICES["a shard in the folder above"], tmp_path)
    assert_refused(open_checkpoint, path.parent)
