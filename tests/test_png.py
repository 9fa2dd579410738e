"""Pictures in PNG: their size, that letters are in them where no font is installed, and where they go."""

from __future__ import annotations

import io
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bertc.cli import run
from bertc.drawing import png
from bertc.drawing.items import drawn
from bertc.drawing.png import SHARP, to_png
from bertc.drawing.scene import HEIGHT, Scene, scene
from bertc.drawing.svg import MARGIN, size
from bertc.elaborate import read_graph
from bertc.errors import BertcError
from bertc.parser import parse_graph

GRAPH = """graph(x: f32[4]):
    encoder.0.y = gelu(x)  # f32[4]
    return y=encoder.0.y
"""

INK = (27, 35, 48)
"""The colour of letters in svg.py; lines and frames are lighter."""

Pixels = np.ndarray[Any, np.dtype[np.int16]]


@pytest.fixture(scope="module")
def picture() -> Scene:
    return scene(drawn(read_graph(parse_graph(GRAPH)), constants=False))


def pixels(content: bytes) -> Pixels:
    """What a PNG shows, [height, width, 4]: its chunks, their checksums, and the filter of each row undone."""
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    chunks: dict[bytes, bytes] = {}
    place = 8
    while place < len(content):
        (length,) = struct.unpack_from(">I", content, place)
        kind, body = content[place + 4 : place + 8], content[place + 8 : place + 8 + length]
        assert struct.unpack_from(">I", content, place + 8 + length) == (zlib.crc32(kind + body),)
        chunks[kind] = chunks.get(kind, b"") + body
        place += 12 + length
    width, height, depth, colours = struct.unpack_from(">IIBB", chunks[b"IHDR"])
    assert (depth, colours) == (8, 6)
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, 1 + 4 * width)
    before = np.zeros((width, 4), np.int16)
    shown: list[Pixels] = []
    for row in rows:
        before = unfiltered(int(row[0]), row[1:].reshape(width, 4).astype(np.int16), before)
        shown.append(before)
    return np.stack(shown)


def unfiltered(kind: int, row: Pixels, above: Pixels) -> Pixels:
    """https://www.w3.org/TR/png-3/#9Filters"""
    if kind in (0, 2):
        return (row + (above if kind == 2 else 0)) % 256
    found, left, corner = np.empty_like(row), np.zeros(4, np.int16), np.zeros(4, np.int16)
    for column, (value, top) in enumerate(zip(row, above, strict=True)):
        guess = left if kind == 1 else (left + top) // 2 if kind == 3 else paeth(left, top, corner)
        left, corner = (value + guess) % 256, top
        found[column] = left
    return found


def paeth(left: Pixels, top: Pixels, corner: Pixels) -> Pixels:
    across, down, both = abs(top - corner), abs(left - corner), abs(left + top - 2 * corner)
    return np.where((across <= down) & (across <= both), left, np.where(down <= both, top, corner))


def letters(shown: Pixels, x: float, y: float, width: float, height: float) -> int:
    """How many pixels of a part of the picture have the colour of letters; its corner is in units of the drawing."""
    left, top = (round((start + MARGIN) * SHARP) for start in (x, y))
    part = shown[top : top + round(height * SHARP), left : left + round(width * SHARP), :3]
    return int((abs(part - np.array(INK)).max(axis=-1) < 24).sum())


def test_letters_stand_in_every_box(picture: Scene) -> None:
    """The op of a box, its first line, has more than ten pixels of ink a letter."""
    shown = pixels(to_png(picture, "graph"))
    width, height = size(picture)
    assert shown.shape == (SHARP * round(height), SHARP * round(width), 4)
    assert (shown[..., 3] == 255).all()
    for box in picture.boxes:
        assert letters(shown, box.x, box.y, box.width, HEIGHT / 3) > 10 * len(box.title), box
    frame = picture.frames[0]
    assert letters(shown, frame.x, frame.y, frame.block.width, 30) > 100


def test_letters_are_of_the_package_alone(picture: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its faces there are none, whatever fonts this machine has; and nothing else has their colour."""
    monkeypatch.setattr(png, "FACES", ())
    shown = pixels(to_png(picture, "graph"))
    assert letters(shown, -MARGIN, -MARGIN, *size(picture)) == 0


def test_a_large_picture_keeps_within_bounds(picture: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(png, "MOST", 10_000)
    height, width, _ = pixels(to_png(picture, "graph")).shape
    expected = size(picture)
    assert 9_000 < width * height < 10_400  # each side is rounded up
    assert width / height == pytest.approx(expected[0] / expected[1], rel=0.05)


@pytest.mark.parametrize("package", ["resvg_py", "font_roboto"])
def test_a_missing_package_is_named(picture: Scene, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(BertcError) as caught:
        to_png(picture, "graph")
    assert (caught.value.diagnostics[0].code, caught.value.exit_code) == ("B0804", 4)
    assert package in str(caught.value)
    assert "pip install 'bertc[png]'" in str(caught.value)


def test_to_a_file_or_to_standard_output(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    path = tmp_path / "pictures" / "minilm.png"
    assert run(["inspect", "minilm-l6", "--format", "png", "-o", str(path)]) == 0
    assert capfdbinary.readouterr().out == b""
    assert run(["inspect", "minilm-l6", "--format", "png"]) == 0
    sys.stdout.flush()
    assert capfdbinary.readouterr().out == path.read_bytes()


@pytest.mark.parametrize("form", ["text", "json", "svg"])
def test_a_file_has_what_would_be_printed(form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", "minilm-l6", "--format", form, "-o", str(tmp_path / "x")]) == 0
    assert capsys.readouterr().out == ""
    assert run(["inspect", "minilm-l6", "--format", form]) == 0
    assert capsys.readouterr().out == (tmp_path / "x").read_text("utf-8")


def test_a_terminal_gets_no_picture(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdout", Terminal())
    assert run(["inspect", "minilm-l6", "--format", "png"]) == 2
    assert "name a file with `-o`" in capsys.readouterr().err
