"""ONNX models that attack: paths out of the folder, messages made up byte by byte, and bombs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hostile import OUTSIDE, Build, assert_refused, built, file
from onnx_builder import FLOAT, GOOD, HALF, VALUES, external, model, node, tensor
from protobuf_builder import fixed, nested, number, varint

from bertc.weights_io.onnx_weights import read_onnx_weights

HUGE = (1 << 64) - 1


def test_the_builders_build(tmp_path: Path) -> None:
    for content in (model(GOOD), model(tensor(b"a.b", values=external(b"values.bin", offset=b"8", length=b"24")))):
        path = beside(content)(tmp_path)
        assert read_onnx_weights(path)["a.b"].read().shape == (2, 3)


def beside(content: bytes, values: bytes = bytes(64)) -> Build:
    """A model with a file of values beside it, and links, a pipe and a folder."""

    def build(folder: Path) -> Path:
        (folder.parent / OUTSIDE).mkdir(exist_ok=True)
        (folder.parent / OUTSIDE / "values.bin").write_bytes(bytes(64))
        (folder / "values.bin").write_bytes(values)
        for name, make in PLACES_BESIDE.items():
            if not os.path.lexists(folder / name):
                make(folder / name)
        (folder / "model.onnx").write_bytes(content)
        return folder / "model.onnx"

    return build


PLACES_BESIDE: dict[str, Callable[[Path], object]] = {
    "link.bin": lambda path: path.symlink_to(f"../{OUTSIDE}/values.bin"),
    "linked": lambda path: path.symlink_to(f"../{OUTSIDE}"),
    "device.bin": lambda path: path.symlink_to("/dev/zero"),
    "loop.bin": lambda path: path.symlink_to("loop.bin"),
    "pipe.bin": os.mkfifo,
    "folder": Path.mkdir,
}
LOCATIONS = {
    "values in the folder above": f"../{OUTSIDE}/values.bin",
    "values above, after a dot": f"./../{OUTSIDE}/values.bin",
    "values above, after many dots": f"././../{OUTSIDE}/values.bin",
    "values above, through a folder": f"folder/../../{OUTSIDE}/values.bin",
    "values of the system": "/etc/passwd",
    "values of the system, after a dot": ".//etc/passwd",
    "values of the process": "/proc/self/environ",
    "values backwards": f"..\\{OUTSIDE}\\values.bin",
    "values at another host": "//host/values.bin",
    "values at an address": "file:///etc/passwd",
    "values of a drive": "C:\\values.bin",
    "values behind a link": "link.bin",
    "values in a linked folder": "linked/values.bin",
    "values of a device": "device.bin",
    "values behind a loop": "loop.bin",
    "values of a pipe": "pipe.bin",
    "values of a folder": "folder",
    "values of this folder": ".",
    "values of the parent": "..",
    "values without a place": "",
    "values after a zero": "values.bin\0.txt",
    "values of a long name": "a" * 900,
    "values of a longer name": "a" * 100_000,
    "values that are absent": "absent.bin",
}
ENTRIES: dict[str, dict[str, bytes]] = {
    "values beyond the end": {"offset": b"41"},
    "values far beyond the end": {"offset": b"9" * 18},
    "values at a number of 10000 digits": {"offset": b"9" * 900},
    "values before the start": {"offset": b"-1"},
    "values at other digits": {"offset": "\N{ARABIC-INDIC DIGIT ONE}".encode()},
    "values at digits apart": {"offset": b"1_0"},
    "values at a real number": {"offset": b"1.0"},
    "fewer values than needed": {"length": b"23"},
    "more values than needed": {"length": b"25"},
    "a negative length": {"length": b"-24"},
}
MESSAGES = {
    "values that are too short": model(tensor(b"a.b", values=nested(9, VALUES[:-1]))),
    "values that are too long": model(tensor(b"a.b", values=nested(9, VALUES + b"x"))),
    "values twice": model(tensor(b"a.b", values=nested(9, VALUES) * 2)),
    "values as a number": model(tensor(b"a.b", values=number(9, 1))),
    "values of other widths": model(tensor(b"a.b", kind=HALF)),
    "varints that end in the middle": model(tensor(b"a.b", (1,), HALF, nested(5, b"\x80"))),
    "varints without an end": model(tensor(b"a.b", (1,), HALF, nested(5, b"\x80" * 1000))),
    "varints of 64 bits": model(tensor(b"a.b", (1,), HALF, nested(5, varint(HUGE)))),
    "megabytes of varints": model(tensor(b"a.b", (7_999_999,), HALF, nested(5, b"\1" * 8_000_000))),
    "a negative size": model(tensor(b"a.b", (HUGE, HUGE - 5))),
    "sizes whose product overflows": model(tensor(b"a.b", (1 << 40, 1 << 40))),
    "an empty shape that overflows": model(tensor(b"a.b", (0, 1 << 62, 1 << 62), values=b"")),
    "a shape of 99 sizes": model(tensor(b"a.b", [1] * 99, values=nested(9, bytes(4)))),
    "a name that is not UTF-8": model(tensor(b"\xff\xfe")),
    "a name twice": model(GOOD, GOOD),
    "two names in one": model(GOOD + nested(8, b"a.c")),
    "a type twice": model(GOOD + number(2, FLOAT)),
    "a type as bytes": model(nested(2, b"x")),
    "two graphs": model(GOOD) + nested(7, b""),
    "a graph that is a number": number(1, 10) + number(7, 1),
    "a graph longer than the file": number(1, 10) + varint(7 << 3 | 2) + varint(1 << 40) + b"x",
    "a graph of 2**64 bytes": number(1, 10) + varint(7 << 3 | 2) + varint(HUGE),
    "a tensor longer than its graph": model(graph=varint(5 << 3 | 2) + varint(1000) + b"x") + bytes(2000),
    "a group": number(1, 10) + nested(7, b"\x0b\x0c"),
    "an unknown kind of field": number(1, 10) + nested(7, b"\x0f"),
    "a fixed number cut short": number(1, 10) + nested(7, fixed(1, 7)[:-1]),
    "a number of eleven bytes": number(1, 10) + nested(7, b"\xff" * 10 + b"\x01"),
    "two matrices of one weight": model(
        tensor(b"m"),
        tensor(b"n"),
        nodes=b"".join(node(b"MatMul", (b"x", name), (b"y",), b"/a/b") for name in (b"m", b"n")),
    ),
}
BOMBS = {
    "a million sizes": model(nested(1, b"\1" * 20_000_000) + GOOD),
    "a million nodes of nothing": model(GOOD, nodes=nested(1, b"") * 1_000_000),
    "a million inputs": model(GOOD, nodes=node(b"Add", [b"a.b"] * 1_000_000, [b"y"])),
    "inputs of many nodes": model(GOOD, nodes=node(b"Add", (b"%04x" % at for at in range(60_000)), [b"y"]) * 50),
    "attributes in attributes": model(GOOD, nodes=nested(1, nested(5, nested(1, b"t") * 60_000) * 20)),
    "initializers of nothing": model(*[b""] * 1_000_000),
    "a graph in a graph, forty thousand deep": nested(1, b"") + number(1, 10) + b"\x3a\xff\xff\x7f" * 40_000,
    "one matrix under thousands of names": model(
        tensor(b"a.b", (250_000,), values=nested(9, bytes(1_000_000))),
        nodes=b"".join(node(b"Identity", [b"a.b"], [b"a.b%d" % at]) for at in range(9000)),
    ),
    "a sum looked at for every product": model(
        *(tensor(b"m"), tensor(b"n"), tensor(b"bias")),
        nodes=node(b"Add", [b"y", *[b"bias"] * 40_000], [b"z"])
        + node(b"MatMul", [b"x", b"m"], [b"y"]) * 8_000
        + b"".join(node(b"MatMul", [b"x", name], [b"y"], b"/a/b") for name in (b"m", b"n")),
    ),
    "a name of a megabyte": model(tensor(b"a." * 500_000 + b"a")),
    "a name of a megabyte in a node": model(GOOD, nodes=node(b"MatMul", (b"x", b"a.b"), (b"y",), b"/a" * 500_000)),
}


def sharing(count: int) -> bytes:
    """Tensors that are all the same bytes of another file."""
    return model(*(tensor(b"a.b%d" % at, (250_000,), values=external(b"values.bin")) for at in range(count)))


HOSTILE: dict[str, Build] = {
    **{name: beside(model(tensor(b"a.b", values=external(location.encode())))) for name, location in LOCATIONS.items()},
    **{
        name: beside(model(tensor(b"a.b", values=external(b"values.bin", **entries))))
        for name, entries in ENTRIES.items()
    },
    **{name: file(content) for name, content in (MESSAGES | BOMBS).items()},
    "values of another file under thousands of names": beside(sharing(1000), bytes(1_000_000)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_models_are_refused(name: str, tmp_path: Path) -> None:
    assert_refused(read_onnx_weights, built(HOSTILE[name], tmp_path))
