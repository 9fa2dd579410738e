"""Checkpoints of torch, written by torch itself: both formats, sharded, and in plain pickles."""

from __future__ import annotations

import io
import json
import pickle
import tracemalloc
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from bertc.errors import BertcError
from bertc.weights_io import Tensor, open_checkpoint, weights_hash
from bertc.weights_io.plain_pickle import read_plain_pickle
from bertc.weights_io.safetensors import read_safetensors
from bertc.weights_io.torch_legacy import read_torch_legacy
from bertc.weights_io.torch_legacy import recognises as recognises_legacy
from bertc.weights_io.torch_zip import read_torch_zip
from bertc.weights_io.torch_zip import recognises as recognises_zip

Read = Callable[[Path], dict[str, Tensor]]
Write = Callable[[Any, Path], None]


def save_zip(content: Any, path: Path) -> None:
    torch.save(content, path)


def save_legacy(content: Any, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def save_pickle(content: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(content, 4))


FORMATS: Mapping[str, tuple[Write, Read]] = {
    "zip": (save_zip, read_torch_zip),
    "legacy": (save_legacy, read_torch_legacy),
    "pickle": (save_pickle, read_plain_pickle),
}


def state() -> OrderedDict[str, torch.Tensor]:
    """Every element type, views of one storage in every order, and arrays that are large enough to be mapped."""
    base = torch.arange(-12.0, 12.0).reshape(4, 6) / 3
    large = torch.randn(700, 400, generator=torch.Generator().manual_seed(0))
    return OrderedDict(
        whole=base,
        parameter=torch.nn.Parameter(base * 2),
        transposed=base.T,
        row=base[2],
        column=base[:, 3],
        inner=base[1:3, 2:5],
        steps=base.reshape(-1)[1::5],
        turned=base.reshape(2, 2, 6).permute(2, 0, 1),
        repeated=torch.arange(4.0).expand(1, 4),
        scalar=torch.tensor(0.1),
        empty=torch.zeros(0, 3),
        large=large,
        large_transposed=large.T,
        large_f16=large.half(),
        **{str(kind).removeprefix("torch."): base.to(kind) for kind in ELEMENTS if kind is not torch.uint8},
        uint8=base.abs().to(torch.uint8),
        bool_column=(base > 0)[:, 1],
        bfloat16_transposed=base.bfloat16().T,
    )


ELEMENTS = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8),
)


def as_safetensors(tensors: Mapping[str, torch.Tensor], folder: Path) -> dict[str, Tensor]:
    path = folder / "same.safetensors"
    save_file({name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}, path)
    return read_safetensors(path)


def assert_same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        values, wanted = tensor.read(), expected[name].read()
        assert (tensor.name, tensor.shape, tensor.element) == (name, expected[name].shape, expected[name].element)
        assert (values.shape, values.dtype) == (wanted.shape, wanted.dtype), name
        assert values.tobytes() == wanted.tobytes(), name
        assert not values.flags.writeable, name
    assert weights_hash(found) == weights_hash(expected)


def refusal(read: Read, path: Path, exit_code: int = 3) -> str:
    with pytest.raises(BertcError) as caught:
        read(path)
    assert caught.value.exit_code == exit_code
    return str(caught.value).replace(str(path), "FILE")


@pytest.mark.parametrize("format", FORMATS)
def test_every_bit_is_that_of_safetensors(format: str, tmp_path: Path) -> None:
    write, read = FORMATS[format]
    write(state(), tmp_path / "file")
    assert_same(read(tmp_path / "file"), as_safetensors(state(), tmp_path))


def test_formats_are_recognised_by_content(tmp_path: Path) -> None:
    save_zip(state(), tmp_path / "zip")
    save_legacy(state(), tmp_path / "legacy")
    heads = {name: (tmp_path / name).read_bytes()[:64] for name in ("zip", "legacy")}
    assert [recognises_zip(heads[name]) for name in heads] == [True, False]
    assert [recognises_legacy(heads[name]) for name in heads] == [False, True]


WRAPPED: Mapping[str, Callable[[Mapping[str, torch.Tensor]], Any]] = {
    "model": lambda tensors: {"epoch": 3, "model": tensors, "rng": torch.get_rng_state(), "args": {"a": torch.ones(1)}},
    "state_dict": lambda tensors: {"state_dict": OrderedDict(tensors), "lr": 0.1, "model": "bert-base"},
    "model_state_dict": lambda tensors: {"model_state_dict": tensors, "betas": (0.9, 0.99), "none": None},
    "bare": lambda tensors: {**tensors, "step": 7, "names": ["a"], "seen": {1, 2}, "slots": {0: torch.ones(1)}},
}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("wrapper", WRAPPED)
def test_bookkeeping_of_training_is_left_out(wrapper: str, format: str, tmp_path: Path) -> None:
    tensors = {"a": torch.ones(2), "b.c": torch.zeros(1)}
    write, read = FORMATS[format]
    write(WRAPPED[wrapper](tensors), tmp_path / "file")
    assert_same(read(tmp_path / "file"), as_safetensors(tensors, tmp_path))


@pytest.mark.parametrize("format", FORMATS)
def test_a_whole_training_run(format: str, tmp_path: Path) -> None:
    """Optimizer, scheduler and random state as training loops write them."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    content = {
        **model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": scheduler.state_dict(),
        "numpy": np.random.default_rng(0).bit_generator.state,
        "device": torch.device("cpu"),
        "dtype": torch.float32,
        "size": torch.Size([1, 2]),
    }
    write, read = FORMATS[format]
    write(content, tmp_path / "file")
    assert_same(read(tmp_path / "file"), as_safetensors(model.state_dict(), tmp_path))


@pytest.mark.parametrize("format", FORMATS)
def test_dicts_within_dicts_are_joined_by_dots(format: str, tmp_path: Path) -> None:
    write, read = FORMATS[format]
    write({"model": {"encoder": {"0.weight": torch.ones(2), "1": {"bias": torch.zeros(1)}}}}, tmp_path / "file")
    expected = {"encoder.0.weight": torch.ones(2), "encoder.1.bias": torch.zeros(1)}
    assert_same(read(tmp_path / "file"), as_safetensors(expected, tmp_path))


def test_a_tensor_with_attributes(tmp_path: Path) -> None:
    tensor = torch.nn.Parameter(torch.arange(3.0))
    tensor.partition_dim = 0
    save_zip({"a": tensor}, tmp_path / "file")
    assert_same(read_torch_zip(tmp_path / "file"), as_safetensors({"a": tensor}, tmp_path))


def test_shared_storage_is_stored_once_and_read_in_parts(tmp_path: Path) -> None:
    """A view of a few values in a large storage does not read the storage."""
    storage = torch.arange(3_000_000.0)
    save_zip({"first": storage[:3], "last": storage[-2:], "sparse": storage[::1_000_000]}, tmp_path / "file")
    tensors = read_torch_zip(tmp_path / "file")
    tracemalloc.start()
    assert tensors["first"].read().tolist() == [0, 1, 2]
    assert tensors["last"].read().tolist() == [2_999_998, 2_999_999]
    assert tensors["sparse"].read().tolist() == [0, 1_000_000, 2_000_000]
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.stop()


@pytest.mark.parametrize("format", FORMATS)
def test_opening_reads_no_values(format: str, tmp_path: Path) -> None:
    """400 tensors, as BERT large has: their values, 26 MB, stay where they are."""
    tensors = {f"encoder.layer.{number}.output.dense.weight": torch.zeros(16_384) for number in range(400)}
    write, read = FORMATS[format]
    write(tensors, tmp_path / "file")
    tracemalloc.start()
    assert len(read(tmp_path / "file")) == 400
    assert tracemalloc.get_traced_memory()[1] < 4_000_000
    tracemalloc.stop()


def test_shards_of_torch_and_of_both_kinds(tmp_path: Path) -> None:
    parts = {"1.bin": {"a": torch.ones(2)}, "2.bin": {"b": torch.zeros(3)}, "3.safetensors": {"c": torch.ones(1)}}
    save_zip(parts["1.bin"], tmp_path / "1.bin")
    save_legacy(parts["2.bin"], tmp_path / "2.bin")
    save_file(parts["3.safetensors"], tmp_path / "3.safetensors")
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {name: file for file, part in parts.items() for name in part}}))
    expected = {name: tensor for part in parts.values() for name, tensor in part.items()}
    assert_same(open_checkpoint(index), as_safetensors(expected, tmp_path))


def test_a_file_that_changes_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    save_zip({"a": torch.ones(2).expand(3, 2)[:1].T}, path)
    tensor = read_torch_zip(path)["a"]
    save_zip({"a": torch.ones(2, 2)}, path)
    with pytest.raises(BertcError, match="B0407"):
        tensor.read()


UNREAD: Mapping[str, tuple[Any, str]] = {
    "complex": (torch.zeros(2, dtype=torch.complex64), "torch.ComplexFloatStorage"),
    "float8": (torch.zeros(2).to(torch.float8_e4m3fn), "tensor_v3"),
    "uint16": (torch.zeros(2, dtype=torch.uint16), "tensor_v3"),
    "sparse": (torch.eye(2).to_sparse(), "sparse_tensor"),
    "negated": (torch.zeros(2, dtype=torch.complex64).conj().imag, "a negated or conjugated view"),
    "big_endian": (np.zeros(2, ">f4"), ">f4"),
    "unsigned": (np.zeros(2, np.uint16), "<u2"),
    "records": (np.zeros(2, [("a", "f4")]), "|V4"),
    "objects": (np.array([None, {}], object), "|O8"),
}


@pytest.mark.parametrize("case", UNREAD)
def test_elements_that_are_not_read(case: str, tmp_path: Path) -> None:
    value, kind = UNREAD[case]
    save_zip({"good": torch.ones(1), "bad": value}, tmp_path / "file")
    assert refusal(read_torch_zip, tmp_path / "file", exit_code=4) == (
        f"error[B0403]: `FILE` holds `bad` as `{kind}`; weights are read as"
        " f64, f32, f16, bf16, i64, i32, i16, i8, u8, bool\n"
        "  = help: convert the checkpoint to dense little-endian float32, float16 or bfloat16"
    )


def test_a_model_that_was_saved_whole(tmp_path: Path) -> None:
    for write, read in FORMATS.values():
        write(torch.nn.Linear(2, 2), tmp_path / "file")
        assert refusal(read, tmp_path / "file") == (
            "error[B0412]: `FILE` holds neither a dict of tensors nor a checkpoint with one\n"
            "  = help: save the model's `state_dict()`, not the model"
        )


def test_weights_in_two_places(tmp_path: Path) -> None:
    save_zip({"model": {"a": torch.ones(1)}, "state_dict": {"a": torch.zeros(1)}}, tmp_path / "file")
    assert refusal(read_torch_zip, tmp_path / "file") == (
        "error[B0405]: `FILE` holds a dict of weights under each of `model`, `state_dict`\n"
        "  = help: keep the one that is to be used"
    )
    save_zip({"a": {"b": torch.ones(1)}, "a.b": torch.zeros(1)}, tmp_path / "file")
    assert refusal(read_torch_zip, tmp_path / "file") == (
        "error[B0405]: `FILE` holds two tensors of the name `a.b`\n  = help: keep one of them"
    )


def test_tensors_in_a_pickle_without_bytes(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(pickle.dumps({"a": torch.ones(1)}, 2))
    assert refusal(read_plain_pickle, tmp_path / "file", exit_code=4) == (
        "error[B0403]: `FILE` holds torch tensors in a pickle of protocol 2 or less, which has no bytes\n"
        "  = help: write it again with torch.save, or with pickle's protocol 4"
    )


def test_tensors_that_share_an_embedded_storage(tmp_path: Path) -> None:
    """Pickled after a torch file of its own: offsets are those of the file, not of the byte string."""
    base = torch.arange(6.0).reshape(2, 3)
    with io.BytesIO() as written:
        pickle.dump({"a": base, "b": base.T, "c": torch.ones(1)}, written, 5)
        (tmp_path / "file").write_bytes(written.getvalue())
    assert_same(
        read_plain_pickle(tmp_path / "file"), as_safetensors({"a": base, "b": base.T, "c": torch.ones(1)}, tmp_path)
    )
