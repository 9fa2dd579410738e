"""All hostile files together: how many there are, that no two are the same, and that the front door refuses each."""

from __future__ import annotations

import hashlib
import shutil
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import pytest
import test_hostile_hdf5
import test_hostile_mxnet
import test_hostile_onnx
import test_hostile_pickles
import test_hostile_safetensors
import test_hostile_specs
import test_hostile_tensorflow
import test_hostile_torch
from hostile import Build, assert_refused, built, file, within_bounds
from safetensors_builder import entry, file_of

from bertc.checkpoints import list_weights
from bertc.weights_io import open_checkpoint

TABLES: Mapping[str, Mapping[str, Build]] = {
    "hdf5": test_hostile_hdf5.HOSTILE,
    "mxnet": test_hostile_mxnet.HOSTILE,
    "onnx": test_hostile_onnx.HOSTILE,
    "pickles": test_hostile_pickles.HOSTILE,
    "safetensors": test_hostile_safetensors.HOSTILE,
    "specs": test_hostile_specs.HOSTILE,
    "tensorflow": test_hostile_tensorflow.HOSTILE,
    "torch": test_hostile_torch.HOSTILE,
}
CHECKPOINTS = {
    f"{format}: {name}": build
    for format, table in TABLES.items()
    for name, build in table.items()
    if format not in ("specs", "torch")  # tested so where they are
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_whatever_it_is_taken_for_it_is_refused(name: str, tmp_path: Path) -> None:
    assert_refused(open_checkpoint, built(CHECKPOINTS[name], tmp_path))


def test_there_are_hundreds_and_no_two_are_the_same(tmp_path: Path) -> None:
    found: dict[str, list[str]] = defaultdict(list)
    for format, table in TABLES.items():
        for name, build in table.items():
            folder = tmp_path / f"{format} {len(found)}"
            folder.mkdir()
            built(build, folder)
            found[content_of(folder)].append(f"{format}: {name}")
            shutil.rmtree(folder)
    assert [names for names in found.values() if len(names) > 1] == []
    assert len(found) >= 800


NAMES = {
    "numbers in thousands of names": ["1." * 95 + str(at) for at in range(8000)],
    "numbers in one name": ["1." * 1_900_000],
    "layers without end": [f"bert.encoder.layer.{at}.output.dense.weight" for at in range(8000)],
    "brackets": ["{0..9}" * 1000, "(" * 100_000, "encoder.{N}.ffn.up.weight"],
}


@pytest.mark.parametrize("case", NAMES)
def test_names_are_looked_up_in_time(case: str, tmp_path: Path) -> None:
    """Every table of every family is asked for what the names of a checkpoint may mean."""
    content = file_of({name: entry(shape=[0], offsets=[0, 0]) for name in NAMES[case]})
    path = file(content)(tmp_path)
    list_weights(path)
    with within_bounds(len(content)):
        found = list_weights(path)
    assert len(found.entries) == len(NAMES[case])


def content_of(folder: Path) -> str:
    """A hash of the names, kinds and bytes of all that is in a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        kind = path.lstat().st_mode
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        target = str(path.readlink()) if path.is_symlink() else ""
        digest.update(f"{path.relative_to(folder)} {kind} {target} {len(content)}\n".encode() + content)
    return digest.hexdigest()
