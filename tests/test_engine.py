"""Engines: padded batches and lists of sequences, devices, threads, and what is left when they are closed."""

from __future__ import annotations

import itertools
import os
import zipfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import small_spec
from hypothesis import given
from hypothesis import strategies as st

import bertc
from bertc import engine as engine_module
from bertc.cli import run
from bertc.engine import read_arrays
from bertc.errors import BertcError
from bertc.sequences import batches, padded, width
from bertc.shapes import Profile, Range

SMALL, LARGE = Profile(Range(1, 4, 8), Range(4, 8, 16)), Profile(Range(1, 2, 2), Range(16, 32, 32))

BOUND = 2e-6
"""float32 with values up to 5: products of batches of other sizes add up in another order."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("engine") / "x"
    bertc.build(small_spec(), path, "onnx", random_seed=0)
    return path


def sequences(*lengths: int) -> list[Any]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 53, length) for length in lengths]


@given(
    st.lists(st.integers(1, 32), max_size=40), st.none() | st.integers(1, 100), st.booleans(), st.permutations([0, 1])
)
def test_batches_hold_every_sequence_once_and_no_more_than_they_may(
    lengths: list[int], tokens: int | None, packed: bool, order: list[int]
) -> None:
    profiles = [(SMALL, LARGE)[index] for index in order]
    found = batches(lengths, profiles, tokens=tokens, packed=packed)
    assert sorted(itertools.chain(*found)) == list(range(len(lengths)))
    in_order = [lengths[index] for batch in found for index in batch]
    assert in_order == sorted(lengths, reverse=True)
    for batch in found:
        longest = lengths[batch[0]]
        assert width(longest, profiles) == (longest if longest > 16 else max(4, longest))
        used = sum(lengths[index] for index in batch) if packed else width(longest, profiles) * len(batch)
        assert len(batch) == 1 or used <= (tokens or 128)
        assert packed or len(batch) <= (8 if longest <= 16 else 2)


def test_batches_are_as_full_as_they_may_be() -> None:
    assert batches([3, 9, 4, 9], [SMALL], tokens=18) == [[1, 3], [2, 0]]
    assert batches([3, 9, 4, 9], [SMALL], tokens=25, packed=True) == [[1, 3, 2, 0]]
    assert batches([3, 9, 4, 9], [SMALL], tokens=24, packed=True) == [[1, 3, 2], [0]]
    assert padded([np.array([1, 2]), np.array([3])], 3).tolist() == [[1, 2, 0], [3, 0, 0]]


@pytest.mark.parametrize("tokens", [None, 1, 24])
def test_a_list_is_answered_as_one_at_a_time(bundle: Path, tokens: int | None) -> None:
    rows = sequences(5, 16, 1, 7, 7, 3, 12)
    types = [np.arange(len(row)) % 2 for row in rows]
    with bertc.open(bundle) as engine:
        answers = engine.run_sequences(rows, types, tokens=tokens)
        assert engine.run_sequences([]) == []
        for row, kinds, answer in zip(rows, types, answers, strict=True):
            alone = engine.run({"input_ids": row[None], "token_type_ids": kinds[None]})
            assert answer.keys() == alone.keys()
            for name, expected in alone.items():
                assert answer[name].shape == expected.shape[1:]
                assert np.abs(answer[name] - expected[0]).max() < BOUND, name


def test_types_are_zeros_when_left_out(bundle: Path) -> None:
    engine, rows = bertc.open(bundle), sequences(3, 4)
    one, other = engine.run_sequences(rows), engine.run_sequences(rows, [np.zeros(3, int), np.zeros(4, int)])
    assert all(np.array_equal(x[name], y[name]) for x, y in zip(one, other, strict=True) for name in x)


WRONG: dict[str, tuple[dict[str, Any], str, str]] = {
    "two axes": ({"ids": [[[1, 2]]]}, "B0702", "sequence 0 is an array [length] of whole numbers, but int64 [1, 2]"),
    "empty": ({"ids": [[1], []]}, "B0702", "sequence 1 is an array [length]"),
    "fractions": ({"ids": [[0.5]]}, "B0702", "float64 [1] was given"),
    "ragged": ({"ids": [[[1], [1, 2]]]}, "B0702", "sequence 0 has rows of different lengths"),
    "too long": ({"ids": [[1] * 17]}, "B0702", "at most 16 tokens, but 17 were given"),
    "outside the vocabulary": ({"ids": [[1], [53]]}, "B0703", "values from 0 to 52, but 53 was given"),
    "types of another shape": ({"ids": [[1, 2]], "types": [[0]]}, "B0702", "the types of sequence 0 are 2 whole"),
    "fewer types": ({"ids": [[1], [2]], "types": [[0]]}, "B0702", "types for 2 sequences, but found them for 1"),
    "types outside": ({"ids": [[1]], "types": [[2]]}, "B0703", "`token_type_ids` has values from 0 to 1"),
}


@pytest.mark.parametrize(("given", "code", "says"), WRONG.values(), ids=WRONG)
def test_wrong_sequences_are_refused(bundle: Path, given: Mapping[str, Any], code: str, says: str) -> None:
    with bertc.open(bundle) as engine, pytest.raises(BertcError) as caught:
        engine.run_sequences(**given)
    assert caught.value.diagnostics[0].code == code
    assert says in str(caught.value)


IDS = [[1, 2, 3], [4, 5, 6]]

WRONG_BATCHES: dict[str, tuple[dict[str, Any], str, str]] = {
    "ragged": ({"input_ids": [[1, 2], [3]]}, "B0702", "`run_sequences` takes sequences of different lengths"),
    "no ids": ({"attention_mask": IDS}, "B0702", "`input_ids` is missing"),
    "misspelt": ({"input_id": IDS}, "B0702", "`input_id` is no input"),
    "one axis": ({"input_ids": [1, 2]}, "B0702", "is an array [batch, seq] of whole numbers, but int64 [2]"),
    "no tokens": ({"input_ids": [[], []]}, "B0702", "but float64 [2, 0] was given"),
    "fractions": ({"input_ids": [[0.5]]}, "B0702", "but float64 [1, 1] was given"),
    "mask of another shape": ({"input_ids": IDS, "attention_mask": [[1, 1, 1]]}, "B0702", "of input_ids, [2, 3]"),
    "too long": ({"input_ids": [[1] * 17]}, "B0702", "at most 16 tokens, but 17 were given"),
    "outside the vocabulary": ({"input_ids": [[1, 53]]}, "B0703", "`input_ids` has values from 0 to 52, but 53"),
    "below the vocabulary": ({"input_ids": [[1, -1]]}, "B0703", "`input_ids` has values from 0 to 52, but -1"),
    "types outside": (
        {"input_ids": [[1]], "token_type_ids": [[2]]},
        *("B0703", "`token_type_ids` has values from 0 to 1, but 2"),
    ),
    "mask of twos": ({"input_ids": [[1]], "attention_mask": [[2]]}, "B0703", "`attention_mask` has values from 0 to 1"),
    "hole": (
        {"input_ids": IDS, "attention_mask": [[1, 1, 0], [1, 0, 1]]},
        *("B0704", "row 1 of `attention_mask` has a one behind a zero"),
    ),
    "padding on the left": (
        {"input_ids": IDS, "attention_mask": np.array([[0, 1, 1], [1, 1, 1]], np.uint8)},
        *("B0704", "row 0 of `attention_mask` has a one behind a zero"),
    ),
}


@pytest.mark.parametrize(("given", "code", "says"), WRONG_BATCHES.values(), ids=WRONG_BATCHES)
def test_wrong_batches_are_refused(
    bundle: Path, given: Mapping[str, Any], code: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything runs."""
    with bertc.open(bundle) as engine:
        monkeypatch.setattr(engine, "_runtime", replace(engine.runtime, run=pytest.fail))
        with pytest.raises(BertcError) as caught:
            engine.run(given)
    assert caught.value.diagnostics[0].code == code
    assert says in str(caught.value)


@pytest.mark.parametrize("mask", [[[1, 1, 0], [1, 0, 0]], [[1, 1, 1], [0, 0, 0]], [[True, True, False], [True] * 3]])
def test_padding_on_the_right_is_taken(bundle: Path, mask: list[list[int]]) -> None:
    with bertc.open(bundle) as engine:
        assert engine.checked({"input_ids": IDS, "attention_mask": mask})["attention_mask"].tolist() == mask


def test_a_closed_engine_says_so(bundle: Path) -> None:
    with bertc.open(bundle) as engine:
        engine.run({"input_ids": [[1, 2]]})
    engine.close()
    for call in (lambda: engine.run({"input_ids": [[1]]}), lambda: engine.run_sequences([[1]])):
        with pytest.raises(BertcError) as caught:
            call()
        assert caught.value.diagnostics[0].code == "B0705"


def test_the_cpu_has_one_device(bundle: Path) -> None:
    with pytest.raises(BertcError, match="there is no device 1") as caught:
        bertc.open(bundle, device=1)
    assert caught.value.exit_code == 4


def test_run_on_a_device(bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "in.npz", input_ids=np.array([[1, 2]]))
    arguments = ["run", str(bundle), "--inputs", str(tmp_path / "in.npz"), "--outputs", str(tmp_path / "out.npz")]
    assert run([*arguments, "--device", "0"]) == 0
    assert run([*arguments, "--device", "1"]) == 4
    assert "leave the device out" in capfd.readouterr().err


def npz(path: Path, header: str) -> Path:
    """An .npz file of one array, which has no values."""
    text = header.encode() + b"\n"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("input_ids.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text)
    return path


def test_what_is_no_file_of_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is in it: one error, that advises nothing unsafe."""
    np.save(tmp_path / "one.npy", np.ones((1, 2), int))
    np.savez(tmp_path / "objects.npz", input_ids=np.array([{}], object))
    np.savez_compressed(tmp_path / "many.npz", input_ids=np.zeros(10_000, int))
    (tmp_path / "zeros").write_bytes(b"\0" * 100)
    os.mkfifo(tmp_path / "pipe")
    header = "{'descr': '<i8', 'fortran_order': False, 'shape': "
    names = ["one.npy", "objects.npz", "many.npz", "zeros", "pipe", ".", "nothing"]
    paths = [tmp_path / name for name in names]
    paths.append(npz(tmp_path / "huge.npz", header + f"({1 << 50}, 1)}}"))
    paths.append(npz(tmp_path / "deep.npz", header + "(" * 3000))
    monkeypatch.setattr(engine_module, "LARGEST_ARRAYS", 80_000)
    for path in paths:
        with pytest.raises(BertcError, match=r"is not an \.npz file|expected a file of arrays") as caught:
            read_arrays(path)
        assert caught.value.diagnostics[0].code == "B0002"
        assert "unsafe" not in str(caught.value)


def test_several_engines_and_threads(bundle: Path) -> None:
    rows = sequences(*range(1, 17))
    with bertc.open(bundle) as one, bertc.open(bundle) as other, ThreadPoolExecutor(4) as pool:
        expected = one.run_sequences(rows)
        futures = [pool.submit(engine.run_sequences, rows) for engine in (one, other) * 4]
        for future in futures:
            for answer, wanted in zip(future.result(), expected, strict=True):
                assert all(np.array_equal(answer[name], wanted[name]) for name in wanted)
