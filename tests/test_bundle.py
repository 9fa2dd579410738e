"""Bundles: whole or not there, and refused when a byte differs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bertc.bundle import MANIFEST, Manifest, read_bundle, write_bundle
from bertc.errors import BertcError
from bertc.shapes import Profile, Range

ABOUT = Manifest(
    spec="small",
    spec_hash="11",
    weights_hash="22",
    target="onnx",
    versions={"onnx": "1"},
    precision="fp32",
    sizes={"vocab": 53},
    profiles=(Profile(Range(1, 2, 4), Range(1, 8, 16)),),
    inputs={"input_ids": "input_ids"},
    outputs=("last_hidden_state",),
    padding="right_padding",
)


def fill(folder: Path) -> Manifest:
    (folder / "graph.net").write_text("graph")
    (folder / "model.onnx").write_bytes(b"engine")
    return ABOUT


def codes(action: Callable[[], Any]) -> tuple[list[str], str]:
    with pytest.raises(BertcError) as caught:
        action()
    return [diagnostic.code for diagnostic in caught.value.diagnostics], str(caught.value)


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    written = write_bundle(tmp_path / "deep" / "x", fill)
    assert read_bundle(tmp_path / "deep" / "x") == written
    assert sorted(written.manifest.files) == ["graph.net", "model.onnx"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["deep"]


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    for place in ("x", "elsewhere"):
        write_bundle(tmp_path / place, fill)
    first, second = ((tmp_path / place / MANIFEST).read_bytes() for place in ("x", "elsewhere"))
    assert first == second
    assert str(tmp_path).encode() not in first


@pytest.mark.parametrize("problem", [KeyboardInterrupt, RuntimeError, OSError])
@pytest.mark.parametrize("force", [False, True])
def test_nothing_is_left_behind(tmp_path: Path, problem: type[BaseException], force: bool) -> None:
    def interrupted(folder: Path) -> Manifest:
        (folder / "half").write_bytes(b"half")
        raise problem

    if force:
        write_bundle(tmp_path / "a" / "x", fill)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(BertcError if problem is OSError else problem):
        write_bundle(tmp_path / "a" / "x", interrupted, force=force)
    assert sorted(tmp_path.rglob("*")) == before
    if force:
        read_bundle(tmp_path / "a" / "x")


def test_only_a_bundle_is_replaced_and_only_when_asked(tmp_path: Path) -> None:
    path, mine = tmp_path / "x", tmp_path / "mine"
    write_bundle(path, fill)
    (path / "stale").touch()
    assert codes(lambda: write_bundle(path, fill))[0] == ["B0003"]
    write_bundle(path, fill, force=True)
    assert not (path / "stale").exists()
    mine.mkdir()
    (mine / "thesis.txt").touch()
    assert codes(lambda: write_bundle(mine, fill, force=True))[0] == ["B0003"]
    assert (mine / "thesis.txt").exists()


def test_a_bundle_that_appears_during_the_build_stays(tmp_path: Path) -> None:
    def slow(folder: Path) -> Manifest:
        write_bundle(tmp_path / "x", fill)
        (folder / "other").touch()
        return ABOUT

    assert codes(lambda: write_bundle(tmp_path / "x", slow))[0] == ["B0003"]
    assert sorted(read_bundle(tmp_path / "x").manifest.files) == ["graph.net", "model.onnx"]


def test_a_write_that_fails_midway_puts_the_old_bundle_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bundle(tmp_path / "x", fill)

    def refuse(self: Path, target: Path) -> Path:
        assert (self.name, target) == ("new", tmp_path / "x")
        assert not target.exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(KeyboardInterrupt):
        write_bundle(tmp_path / "x", fill, force=True)
    read_bundle(tmp_path / "x")
    assert os.listdir(tmp_path) == ["x"]


def manifest_with(**changes: object) -> Callable[[Path], None]:
    def change(bundle: Path) -> None:
        path = bundle / MANIFEST
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def linked(bundle: Path) -> None:
    (bundle.parent / "outside").write_bytes(b"engine")
    (bundle / "model.onnx").unlink()
    (bundle / "model.onnx").symlink_to("../outside")


def listing(name: str) -> Callable[[Path], None]:
    return manifest_with(files={name: {"size": 6, "sha256": "0"}})


DAMAGE: dict[str, tuple[Callable[[Path], Any], list[str], str]] = {
    "another byte": (lambda b: (b / "model.onnx").write_bytes(b"Engine"), ["B0604"], "expected sha256"),
    "cut": (lambda b: (b / "model.onnx").write_bytes(b"engin"), ["B0604"], "expected 6 bytes, but found 5"),
    "missing": (lambda b: [(b / n).unlink() for n in ("model.onnx", "graph.net")], ["B0604"] * 2, "No such file"),
    "a link out": (linked, ["B0604"], "found a link"),
    "a path up": (listing("../outside"), ["B0604"], "its name is not that of a file in a bundle"),
    "an absolute path": (listing("/etc/hostname"), ["B0604"], "its name is not that of a file in a bundle"),
    "the manifest itself": (listing(MANIFEST), ["B0604"], "its name is not that of a file in a bundle"),
    "no manifest": (lambda b: (b / MANIFEST).unlink(), ["B0601"], "it has no manifest.json"),
    "another layout": (manifest_with(schema="bertc-bundle/9"), ["B0603"], "but found `bertc-bundle/9`"),
    "no layout": (manifest_with(schema=[]), ["B0602"], "names no schema"),
    "an unknown key": (manifest_with(precison="fp32"), ["B0602"], "did you mean `precision`?"),
    "a text for sizes": (manifest_with(sizes="many"), ["B0602"], "the manifest.sizes"),
    "a truth for a size": (manifest_with(sizes={"vocab": True}), ["B0602"], "the manifest.sizes.vocab"),
    "not JSON": (lambda b: (b / MANIFEST).write_text("{"), ["B0201"], "expected JSON"),
    "brackets": (lambda b: (b / MANIFEST).write_text("[" * 40_000), ["B0202"], "levels of brackets"),
}


@pytest.mark.parametrize(("damage", "expected", "says"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_bundle_is_refused(
    tmp_path: Path, damage: Callable[[Path], Any], expected: list[str], says: str
) -> None:
    write_bundle(tmp_path / "x", fill)
    damage(tmp_path / "x")
    found, message = codes(lambda: read_bundle(tmp_path / "x"))
    assert found == expected
    assert says in message
