"""Engines of packed sequences at work, on strict doubles of TensorRT and of the CUDA driver."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import packed as packed_by_hand
from conftest import small_spec, weights_of
from cuda_double import Driver
from hypothesis import given
from hypothesis import strategies as st
from test_tensorrt import BOUNDS
from test_tensorrt_session import batch_of, driver, refusal, trt
from test_tensorrt_target import WIDE

import bertc
from bertc.elaborate import elaborate
from bertc.errors import BertcError
from bertc.reference import evaluate
from bertc.shapes import Profile, Range
from bertc.targets.packing import located, packed, parts_of
from bertc.targets.tensorrt import registration, session
from bertc.targets.tensorrt.fitting import Fit, best_packed_fit

__all__ = ["driver", "trt"]

PROFILES = (Profile(Range(1, 2, 4), Range(4, 8, 16)), Profile(Range(6, 8, 8), Range(4, 4, 8)))
"""Sequences of 5 and more of 8 and less run in the second, which takes 6 at least."""


@pytest.fixture(autouse=True)
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plugins without code, which the double does not run: where Triton interprets, it compiles nothing."""
    monkeypatch.setattr(registration, "compiled", lambda *_: registration.Compiled("attention", "", 128, 0))


def spec_of(precision: str) -> Any:
    spec = small_spec(precision=precision)
    return replace(spec, sizes=WIDE, shapes=PROFILES, passes=("default", "pack_sequences"))


def built(folder: Path, precision: str = "fp32") -> Path:
    bertc.build(spec_of(precision), folder / "x", "tensorrt", random_seed=0)
    return folder / "x"


def reference(batch: Mapping[str, Any]) -> Mapping[str, Any]:
    """Of the network that is not packed: elaborate runs no passes."""
    graph = elaborate(spec_of("fp32"))
    return evaluate(graph, batch, weights_of(graph))


def assert_right(found: Mapping[str, Any], batch: Mapping[str, Any], bound: float = BOUNDS["fp32"]) -> None:
    """The reference's answers, and nothing where padding is."""
    there = batch["attention_mask"] > 0
    for name, expected in reference(batch).items():
        assert found[name].shape == expected.shape
        assert found[name].dtype == np.float32
        if expected.ndim == 3:
            assert not found[name][~there].any()
            expected = np.where(there[..., None], expected, 0)
        assert np.abs(found[name] - expected).max() < bound


# -------------------------------------------------------------------------------------------------------------- fitting


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ((16,), Fit(0, 1, 16)),  # as many tokens as there are, where a padded batch would begin at four of each
        ((3, 1, 2), Fit(0, 3, 6)),
        ((8, 1, 1, 1, 1), Fit(1, 6, 13)),  # a sixth of one token
        ((8,) * 8, Fit(1, 8, 64)),
    ],
)
def test_the_best_fit(lengths: tuple[int, ...], expected: Fit) -> None:
    assert best_packed_fit(PROFILES, np.array(lengths)) == expected


@given(st.lists(st.integers(1, 17), min_size=1, max_size=9))
def test_a_fit_adds_sequences_of_one_token_alone(lengths: list[int]) -> None:
    if not any(len(lengths) <= p.batch.largest and max(lengths) <= p.seq.largest for p in PROFILES):
        with pytest.raises(BertcError, match=f"but {len(lengths)} of {max(lengths)} were given"):
            best_packed_fit(PROFILES, np.array(lengths))
        return
    fit = best_packed_fit(PROFILES, np.array(lengths))
    profile = PROFILES[fit.profile]
    assert profile.batch.smallest <= fit.batch <= profile.batch.largest
    assert fit.batch <= fit.tokens <= profile.batch.largest * profile.seq.largest
    assert fit.batch - len(lengths) == fit.tokens - sum(lengths)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=9), st.integers(1, 4))
def test_parts_are_all_of_it_in_order(lengths: list[int], most: int) -> None:
    batch = batch_of(*lengths)
    whole = packed(batch)
    parts = parts_of(whole, most)
    assert all(len(part["lengths"]) <= most for part in parts)
    assert all(part["lengths"].sum() == len(part["input_ids"]) == len(part["token_type_ids"]) for part in parts)
    for name, array in whole.items():
        assert np.array_equal(np.concatenate([part[name] for part in parts]), array)
    expected = packed_by_hand(batch)
    assert located(whole).keys() == expected.keys()
    assert all(np.array_equal(located(whole)[name], array) for name, array in expected.items())


# -------------------------------------------------------------------------------------------------------------- running


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_padded_batches(trt: Any, tmp_path: Path, precision: str) -> None:
    """In both profiles, filled up where one begins, and again from the graphs that were kept."""
    batches = [batch_of(11, 4, 1), batch_of(5), batch_of(3, 2, 2, 1, 1), batch_of(2, 1, width=7), batch_of(11, 4, 1)]
    with bertc.open(built(tmp_path, precision)) as engine:
        for batch in batches:
            assert_right(engine.run(batch), batch, BOUNDS[precision])
        assert engine.runtime.token_outputs == {"last_hidden_state"}
    (network, _), *_ = trt.builds
    native = any(layer["kind"] == "ATTENTION_OUTPUT" for layer in network._state["layers"])
    assert native == (precision == "fp16" and trt.__version__.startswith("11"))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_lists_of_sequences(trt: Any, tmp_path: Path, precision: str) -> None:
    """More than any profile has, of which the tokens would do for one run."""
    generator = np.random.default_rng(1)
    ids = [generator.integers(0, 53, length) for length in (16, 1, 7, 7, 3, 2, 8, 8, 8, 1, 1, 1)]
    with bertc.open(built(tmp_path, precision)) as engine:
        for row, found in zip(ids, engine.run_sequences(ids), strict=True):
            ones = np.ones((1, len(row)), np.int32)
            alone = reference({"input_ids": row[None], "attention_mask": ones, "token_type_ids": ones * 0})
            for name, expected in alone.items():
                assert found[name].shape == expected.shape[1:]
                assert np.abs(found[name] - expected[0]).max() < BOUNDS[precision]


def test_a_count_of_tokens_has_a_graph_when_it_comes_again(trt: Any, driver: Driver, tmp_path: Path) -> None:
    """How the tokens are shared out is no matter. What is new runs in one context, without a graph."""
    with bertc.open(built(tmp_path)) as engine:
        contexts = len(driver.guests)
        for lengths, captures, launches in (
            ((5, 3), 0, 0),
            ((5, 4), 0, 0),
            ((4, 4), 1, 1),
            ((7, 1), 1, 2),
            ((16, 3, 1), 1, 2),
            ((1, 8), 2, 3),
        ):
            batch = batch_of(*lengths)
            assert_right(engine.run(batch), batch)
            assert (driver.captures, driver.launches) == (captures, launches)
        assert len(driver.guests) == contexts + 2


def test_only_so_many_counts_are_remembered(
    trt: Any, driver: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "GRAPHS", 2)
    with bertc.open(built(tmp_path)) as engine:
        for tokens in (3, 4, 5, 3, 5):  # 5 alone was among the two before
            engine.run(batch_of(tokens))
    assert driver.captures == 1


def test_a_sequence_that_no_profile_holds_is_refused_before_anything_runs(
    trt: Any, driver: Driver, tmp_path: Path
) -> None:
    """Those before it would make runs of their own."""
    with bertc.open(built(tmp_path)) as engine:
        run_packed = engine.runtime.run_packed
        assert run_packed is not None
        with pytest.raises(BertcError, match="at most 4 of 16, 8 of 8 tokens, but 1 of 17 were given") as caught:
            run_packed(packed(batch_of(*[1] * 48, 17)))
    assert caught.value.diagnostics[0].code == "B0702"
    assert (driver.captures, driver.launches) == (0, 0)


def test_a_padded_batch_is_one_run(trt: Any, driver: Driver, tmp_path: Path) -> None:
    """What no profile holds is refused, as of an engine of padded batches."""
    with bertc.open(built(tmp_path)) as engine:
        found = refusal(engine, batch_of(*[9] * 5))
    assert found == ("B0702", "the engine takes at most 4 of 16, 8 of 8 tokens, but 5 of 9 were given")
    assert (driver.captures, driver.launches) == (0, 0)


def test_phases(trt: Any, tmp_path: Path) -> None:
    with bertc.open(built(tmp_path)) as engine:
        assert engine.runtime.phases is not None
        found = engine.runtime.phases(engine.checked(batch_of(4, 2)))
    assert (found.host_to_device, found.compute, found.device_to_host) == (0.25, 0.25, 0.25)
