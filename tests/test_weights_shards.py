"""Checkpoints in several files: the index is read as what it may be, a stranger's text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import save_file

from bertc.errors import BertcError
from bertc.weights_io import open_checkpoint

INDEX = "model.safetensors.index.json"


def write_shards(folder: Path, weight_map: object) -> Path:
    """Two shards, with `a` and `b` in one and `c` in the other, and an index that says `weight_map`."""
    save_file({"a": torch.zeros(1), "b": torch.ones(2)}, folder / "1.safetensors")
    save_file({"c": torch.full((3,), 2.0)}, folder / "2.safetensors")
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 24}, "weight_map": weight_map}))
    return folder / INDEX


RIGHT = {"a": "1.safetensors", "c": "2.safetensors", "b": "1.safetensors"}


def refusal(path: Path, folder: Path) -> str:
    with pytest.raises(BertcError) as caught:
        open_checkpoint(path)
    assert caught.value.exit_code == 3
    return str(caught.value).replace(str(folder), "FOLDER")


def test_shards_are_one_checkpoint(tmp_path: Path) -> None:
    index = write_shards(tmp_path, RIGHT)
    for path in (tmp_path, index):
        tensors = open_checkpoint(path)
        assert list(tensors) == ["a", "c", "b"]
        assert [tensor.read().tolist() for tensor in tensors.values()] == [[0], [2, 2, 2], [1, 1]]


def test_shards_of_transformers(tmp_path: Path) -> None:
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=12, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8
    )
    model = transformers.BertModel(config)
    model.save_pretrained(tmp_path, max_shard_size="3KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    tensors = open_checkpoint(tmp_path)
    expected = model.state_dict()
    assert tensors.keys() == expected.keys()
    for name, tensor in tensors.items():
        assert (tensor.read() == expected[name].numpy()).all(), name


def test_one_file_is_preferred_to_shards(tmp_path: Path) -> None:
    """As transformers does."""
    write_shards(tmp_path, RIGHT)
    save_file({"whole": torch.zeros(1)}, tmp_path / "model.safetensors")
    assert list(open_checkpoint(tmp_path)) == ["whole"]


def test_a_hubs_cache_links_shards_to_its_blobs(tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "abc", tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    write_shards(blobs, RIGHT)
    for name in (INDEX, "1.safetensors", "2.safetensors"):
        (blobs / name).rename(blobs / f"hash-of-{name}")
        (snapshot / name).symlink_to(f"../../blobs/hash-of-{name}")
    assert open_checkpoint(snapshot)["c"].read().tolist() == [2, 2, 2]


@pytest.mark.parametrize(
    "name", ["../out.safetensors", "/etc/passwd", "sub/1.safetensors", "..\\x", "..", ".", "", "a\0b", "link", "loop"]
)
def test_no_way_out_of_the_folder(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    save_file({"c": torch.zeros(3)}, tmp_path / "out.safetensors")
    save_file({"c": torch.zeros(3)}, folder / "sub" / "1.safetensors")
    (folder / "link").symlink_to("../out.safetensors")
    (folder / "loop").symlink_to("loop")
    index = write_shards(folder, {"a": "1.safetensors", "b": "1.safetensors", "c": name})
    if name == "loop":
        assert "error[B0002]: `FOLDER/loop` cannot be read: Too many levels of symbolic links" in refusal(index, folder)
        return
    assert refusal(index, folder) == (
        f"error[B0404]: `FOLDER/{INDEX}` names the file `{name}`, which is not in its own folder\n".replace(
            "\0", "\N{REPLACEMENT CHARACTER}"
        )
        + "  = help: put the files of one checkpoint beside one another, without links"
    )


HELP = "\n  = help: the file is damaged or incomplete: fetch or export it again"
AS_LENGTH = int.from_bytes(b'{"metada', "little")
WRONG = {
    "absent_shard": (
        {**RIGHT, "d": "3.safetensors"},
        "error[B0002]: `FOLDER/3.safetensors` cannot be read: No such file or directory\n"
        "  = help: check the path and its permissions",
    ),
    "absent_tensor": (
        {**RIGHT, "d": "2.safetensors"},
        f"error[B0401]: `FOLDER/{INDEX}` does not fit its shards: `d` is in the index and not in 2.safetensors" + HELP,
    ),
    "tensor_not_listed": (
        {"a": "1.safetensors", "c": "2.safetensors"},
        f"error[B0401]: `FOLDER/{INDEX}` does not fit its shards: `b` is in 1.safetensors and not in the index" + HELP,
    ),
    "no_names": (
        {"a": 1},
        f"error[B0401]: `FOLDER/{INDEX}` has a `weight_map` with something else than file names in it" + HELP,
    ),
    "no_map": (
        [],
        f"error[B0401]: `FOLDER/{INDEX}` has no `weight_map` from the names of tensors to the files that hold them"
        + HELP,
    ),
    "empty_map": (
        {},
        f"error[B0401]: `FOLDER/{INDEX}` has no `weight_map` from the names of tensors to the files that hold them"
        + HELP,
    ),
    "shard_is_the_index": (
        {"a": INDEX},
        f"error[B0401]: `FOLDER/{INDEX}` announces a header of {AS_LENGTH} bytes; "
        "at most 8000000 are read of a checkpoint" + HELP,
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_index_that_does_not_fit(case: str, tmp_path: Path) -> None:
    weight_map, message = WRONG[case]
    assert refusal(write_shards(tmp_path, weight_map), tmp_path) == message


def test_shard_cut_at_every_byte(tmp_path: Path) -> None:
    """Its format is not recognised but given, so that the reader sees also what is too short to recognise."""
    index = write_shards(tmp_path, RIGHT)
    shard = tmp_path / "2.safetensors"
    whole = shard.read_bytes()
    for length in range(len(whole)):
        shard.write_bytes(whole[:length])
        found = refusal(index, tmp_path)
        assert found.startswith("error[B0401]: `FOLDER/2.safetensors` ")
        assert ("shorter than the 8 that give the header's length" in found) == (length < 8)


def test_index_cut_at_every_byte(tmp_path: Path) -> None:
    index = write_shards(tmp_path, RIGHT)
    whole = index.read_bytes()
    for length in range(len(whole)):
        index.write_bytes(whole[:length])
        refusal(index, tmp_path)
