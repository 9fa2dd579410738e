"""Files appear whole or not at all, whatever happens while they are written."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from bertc.checkpoints import convert_weights
from bertc.engine import write_arrays
from bertc.errors import BertcError
from bertc.new import new
from bertc.weights_io import Tensor
from bertc.writing import replacing, stop, write_text


def refusal(path: Path) -> str:
    with pytest.raises(BertcError) as caught:
        write_text(path, "new")
    assert [diagnostic.code for diagnostic in caught.value.diagnostics] == ["B0605"]
    return str(caught.value)


def write_half(path: Path, problem: type[BaseException]) -> None:
    with replacing(path) as beside:
        beside.write_text("half")
        raise problem


def test_a_file_is_replaced_and_its_folder_made(tmp_path: Path) -> None:
    for text in ("first", "second"):
        write_text(tmp_path / "a" / "b" / "x", text)
        assert (tmp_path / "a" / "b" / "x").read_text() == text
    assert os.listdir(tmp_path / "a" / "b") == ["x"]
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("problem", [KeyboardInterrupt, RuntimeError, OSError])
@pytest.mark.parametrize("name", ["old", "new", "deep/er/new"])
def test_a_write_that_fails_half_way_leaves_the_old_file_and_no_other(
    tmp_path: Path, name: str, problem: type[BaseException]
) -> None:
    (tmp_path / "old").write_text("old")
    with pytest.raises(BertcError if problem is OSError else problem):
        write_half(tmp_path / name, problem)
    assert [path.name for path in tmp_path.rglob("*")] == ["old"]
    assert (tmp_path / "old").read_text() == "old"


def test_nothing_is_moved_once_the_process_was_asked_to_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where somebody has dropped what the signal raised."""
    monkeypatch.setattr("bertc.writing._signals", [])
    write_text(tmp_path / "x", "old")
    with suppress(KeyboardInterrupt):
        stop(signal.SIGTERM, None)
    for write in (lambda: write_text(tmp_path / "x", "new"), lambda: new("fusion", "mine", tmp_path / "skeleton")):
        with pytest.raises(KeyboardInterrupt):
            write()
    assert os.listdir(tmp_path) == ["x"]
    assert (tmp_path / "x").read_text() == "old"


def test_arrays_that_fail_half_way_leave_the_old_file(tmp_path: Path) -> None:
    write_arrays(tmp_path / "x.npz", {"a": np.zeros(1000)})
    before = (tmp_path / "x.npz").read_bytes()
    with pytest.raises(ValueError, match="allow_pickle"):
        write_arrays(tmp_path / "x.npz", {"a": np.ones(1000), "b": np.array([object()])})
    assert (tmp_path / "x.npz").read_bytes() == before
    assert os.listdir(tmp_path) == ["x.npz"]


def test_arrays_keep_the_name_they_are_given(tmp_path: Path) -> None:
    write_arrays(tmp_path / "arrays", {"a": np.zeros(3)})
    assert os.listdir(tmp_path) == ["arrays"]


def test_a_conversion_that_fails_half_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> np.ndarray:
        raise OSError(28, "No space left on device")

    reads = {"weight": lambda: np.zeros(2, np.float32), "bias": fail}
    names = {f"embeddings.LayerNorm.{part}": read for part, read in reads.items()}
    tensors = {name: Tensor(name, (2,), "f32", read) for name, read in names.items()}
    monkeypatch.setattr("bertc.checkpoints.open_checkpoint", {tmp_path / "in": tensors}.__getitem__)
    with pytest.raises(BertcError, match="No space left on device"):
        convert_weights(tmp_path / "in", tmp_path / "out.safetensors")
    assert os.listdir(tmp_path) == []


def test_what_is_no_file_stays(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    assert "a folder stands there" in refusal(tmp_path / "folder")
    assert "a folder stands there" in refusal(Path("/"))
    assert "a device or a pipe stands there" in refusal(tmp_path / "pipe")
    assert (tmp_path / "pipe").is_fifo()


def test_a_file_in_the_way_is_told_before_the_work_begins(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BertcError, match="Not a directory"), replacing(tmp_path / "file" / "deep" / "x"):
        pytest.fail("the body ran")


def test_a_place_that_is_closed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, mode: int = 0o777) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "mkdir", refuse)  # by permission alone, root could not be refused
    assert "`" + str(tmp_path / "x") + "` cannot be written: Permission denied" in refusal(tmp_path / "x")


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "x").symlink_to(tmp_path / "there" / "y")
    for text in ("first", "second"):
        write_text(tmp_path / "x", text)
        assert (tmp_path / "x").is_symlink()
        assert (tmp_path / "there" / "y").read_text() == text
    assert sorted(os.listdir(tmp_path)) == ["there", "x"]
