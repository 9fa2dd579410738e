"""Engines of TensorRT at work, on strict doubles of TensorRT and of the CUDA driver that compute what was recorded."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import small_spec, weights_of
from cuda_double import Driver, gpu
from hypothesis import given
from hypothesis import strategies as st
from tensorrt_double import double
from tensorrt_wheel import imported
from test_tensorrt import BOUNDS

import bertc
from bertc.codes import CODES
from bertc.elaborate import elaborate
from bertc.errors import BertcError
from bertc.reference import evaluate
from bertc.shapes import Profile, Range
from bertc.targets import tensorrt as target
from bertc.targets.cuda import driver as driver_module
from bertc.targets.tensorrt.fitting import best_fit
from bertc.weights_io.safetensors_writer import write_safetensors

VERSIONS = ("10.16", "11.4")

PROFILES = (Profile(Range(1, 2, 4), Range(1, 8, 16)), Profile(Range(2, 8, 8), Range(4, 4, 8)))


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Driver]:
    with gpu(monkeypatch) as made:
        yield made


@pytest.fixture(params=VERSIONS)
def trt(request: pytest.FixtureRequest, driver: Driver) -> Iterator[Any]:
    made = double(request.param)
    made.driver = driver
    with imported(made, request.param):
        yield made


def built(folder: Path, spec: Any = None, **builder: Any) -> Path:
    spec = spec or replace(small_spec(), shapes=PROFILES, plugins=("none",))
    bertc.build(spec, folder / "x", "tensorrt", random_seed=0, builder=builder)
    return folder / "x"


def reference(batch: Mapping[str, Any]) -> Mapping[str, Any]:
    graph = elaborate(small_spec())
    return evaluate(graph, batch, weights_of(graph))


def batch_of(*lengths: int, width: int | None = None) -> dict[str, Any]:
    seq = width or max(lengths)
    generator = np.random.default_rng(lengths[0])
    return {
        "input_ids": generator.integers(0, 53, (len(lengths), seq)).astype(np.int32),
        "attention_mask": (np.arange(seq) < np.array(lengths)[:, None]).astype(np.int32),
        "token_type_ids": generator.integers(0, 2, (len(lengths), seq)).astype(np.int32),
    }


def assert_right(found: Mapping[str, Any], batch: Mapping[str, Any]) -> None:
    for name, expected in reference(batch).items():
        assert found[name].shape == expected.shape
        assert found[name].dtype == np.float32
        there = batch["attention_mask"] > 0 if expected.ndim == 3 else ...
        assert np.abs(found[name] - expected)[there].max() < BOUNDS["fp32"]


def refusal(engine: Any, batch: Mapping[str, Any]) -> tuple[str, str]:
    """The code and message that a run ends with; the error itself would keep what it came through."""
    try:
        engine.run(batch)
    except BertcError as problem:
        return problem.diagnostics[0].code, problem.diagnostics[0].message
    raise AssertionError("it ran")


# ------------------------------------------------------------------------------------------------------------ profiles


@pytest.mark.parametrize(
    ("batch", "seq", "expected"),
    [
        (1, 16, (0, 1, 16)),
        (4, 4, (1, 4, 4)),  # both hold it, and neither pads: the one whose largest shape is smaller
        (3, 3, (0, 3, 3)),  # the other begins at four tokens
        (6, 2, (1, 6, 4)),
        (1, 1, (0, 1, 1)),
    ],
)
def test_the_best_fit(batch: int, seq: int, expected: tuple[int, int, int]) -> None:
    profiles = (PROFILES[0], Profile(Range(2, 4, 6), Range(4, 4, 8)))
    fit = best_fit(profiles, batch, seq)
    assert (fit.profile, fit.batch, fit.tokens) == expected


@given(st.integers(1, 9), st.integers(1, 17))
def test_a_fit_holds_the_shape_and_no_other_pads_less(batch: int, seq: int) -> None:
    held = [p for p in PROFILES if batch <= p.batch.largest and seq <= p.seq.largest]
    if not held:
        with pytest.raises(BertcError, match=f"but {batch} of {seq} were given"):
            best_fit(PROFILES, batch, seq)
        return
    fit = best_fit(PROFILES, batch, seq)
    profile = PROFILES[fit.profile]
    assert profile.batch.smallest <= fit.batch <= profile.batch.largest
    assert profile.seq.smallest <= fit.tokens <= profile.seq.largest
    assert fit.batch * fit.tokens == min(max(batch, p.batch.smallest) * max(seq, p.seq.smallest) for p in held)


# ------------------------------------------------------------------------------------------------------------- running


def test_it_computes_what_the_reference_does(trt: Any, driver: Driver, tmp_path: Path) -> None:
    """In both profiles, padded to where one begins, and again from the graphs that were kept."""
    batches = [batch_of(11, 4, 1), batch_of(5), batch_of(3, 2, 2, 1, 1, 1), batch_of(11, 4, 1)]
    with bertc.open(built(tmp_path)) as engine:
        for batch in batches:
            assert_right(engine.run(batch), batch)
        assert engine.runtime.token_outputs == {"last_hidden_state"}
        assert engine.runtime.gpu == "0000:00:00.0"
    assert (driver.captures, driver.launches) == (3, 4)


def test_sequences_of_any_length(trt: Any, tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    ids = [generator.integers(0, 53, length) for length in (16, 1, 7, 7, 3, 2, 8, 8, 8)]
    with bertc.open(built(tmp_path)) as engine:
        for row, found in zip(ids, engine.run_sequences(ids), strict=True):
            ones = np.ones((1, len(row)), np.int32)
            alone = reference({"input_ids": row[None], "attention_mask": ones, "token_type_ids": ones * 0})
            assert np.abs(found["last_hidden_state"] - alone["last_hidden_state"][0]).max() < BOUNDS["fp32"]


def test_inputs_of_other_names(trt: Any, tmp_path: Path) -> None:
    batch = batch_of(5, 3)
    spec = replace(small_spec(input_names="demobert"), plugins=("none",))
    with bertc.open(built(tmp_path, spec)) as engine:
        assert set(engine.bundle.manifest.inputs.values()) == {"input_ids", "input_mask", "segment_ids"}
        assert_right(engine.run(batch), batch)


def test_a_graph_is_captured_once_and_the_oldest_forgotten(
    trt: Any, driver: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver_module, "GRAPHS", 2)
    with bertc.open(built(tmp_path)) as engine:
        for seq in (3, 4, 3, 5, 3, 4):  # 5 goes in for 4, which was not asked for longest, and 4 for 5
            batch = batch_of(seq)
            assert_right(engine.run(batch), batch)
        assert driver.captures == 4
        assert len(driver.executables) == 2


def test_a_failed_run_leaves_the_engine_usable(trt: Any, tmp_path: Path) -> None:
    with bertc.open(built(tmp_path)) as engine:
        trt.fails_at = (1, 7)
        code, message = refusal(engine, batch_of(7))
        assert (code, CODES[code].exit_code) == ("B0515", 5)
        assert message == (
            "tensorrt could not start a batch of 1 with 7 tokens each: "
            "Error Code 1: Cuda Runtime (an illegal memory access was encountered)"
        )
        batch = batch_of(6)
        assert_right(engine.run(batch), batch)


def test_a_shape_that_no_profile_holds(trt: Any, tmp_path: Path) -> None:
    with bertc.open(built(tmp_path)) as engine:
        found = refusal(engine, batch_of(*[12] * 8))
        assert found == ("B0702", "the engine takes at most 4 of 16, 8 of 8 tokens, but 8 of 12 were given")
        assert engine.runtime.check_shape is not None
        engine.runtime.check_shape(4, 12)
        with pytest.raises(BertcError, match="but 8 of 12 were given"):
            engine.runtime.check_shape(8, 12)


def test_phases(trt: Any, tmp_path: Path) -> None:
    with bertc.open(built(tmp_path)) as engine:
        assert engine.runtime.phases is not None
        found = engine.runtime.phases(engine.checked(batch_of(4, 2)))
    assert (found.host_to_device, found.compute, found.device_to_host) == (0.25, 0.25, 0.25)


# -------------------------------------------------------------------------------------------------------------- streams


def test_as_many_runs_are_in_flight_as_there_are_streams(
    trt: Any, driver: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two start at the same moment, each with work of its own on its stream, then the other two."""
    together, replay = threading.Barrier(2, timeout=20), driver_module.Device.replay

    def meet(device: Any, graph: Any) -> None:
        together.wait()
        replay(device, graph)

    monkeypatch.setattr(driver_module.Device, "replay", meet)
    batches = [batch_of(11, 4, 1), batch_of(5), batch_of(7, 7), batch_of(2)]
    with bertc.open(built(tmp_path), streams=2) as engine, ThreadPoolExecutor(4) as pool:
        for batch, answer in zip(batches, pool.map(engine.run, batches), strict=True):
            assert_right(answer, batch)
    assert driver.most_pending == 2


def test_many_threads(trt: Any, tmp_path: Path) -> None:
    batches = [batch_of(*lengths) for lengths in ((3,), (5, 2), (3,), (8, 8), (1,))] * 2
    with bertc.open(built(tmp_path), streams=3) as engine, ThreadPoolExecutor(5) as pool:
        for batch, answer in zip(batches, pool.map(engine.run, batches), strict=True):
            assert_right(answer, batch)


@pytest.mark.parametrize(("target", "streams"), [("onnx", 2), ("tensorrt", 0)])
def test_streams_are_refused(trt: Any, tmp_path: Path, target: str, streams: int) -> None:
    bertc.build(replace(small_spec(), plugins=("none",)), tmp_path / "x", target, random_seed=0)
    with pytest.raises(BertcError, match=f"a bundle of target {target} cannot have {streams} streams"):
        bertc.open(tmp_path / "x", streams=streams)


def test_streams_that_the_gpu_has_no_room_for(trt: Any, driver: Driver, tmp_path: Path) -> None:
    """What the first stream had is given back."""
    path = built(tmp_path)
    with bertc.open(path):
        driver.room = sum(array.nbytes for array in driver.device_memory.values())
    with bertc.open(path):
        pass
    with pytest.raises(BertcError, match="on 2 streams: cuMemAlloc: out of memory") as caught:
        bertc.open(path, streams=2)
    assert caught.value.diagnostics[0].code == "B0515"


def test_a_thread_keeps_the_gpu_that_was_its_own(trt: Any, driver: Driver, tmp_path: Path) -> None:
    """Whatever is done in between, and whether it succeeds."""
    theirs = [77]
    driver.stack.extend(theirs)
    path = built(tmp_path)
    with bertc.open(path, streams=2) as engine:
        assert driver.stack == theirs
        assert_right(engine.run(batch_of(5, 3)), batch_of(5, 3))
        assert engine.runtime.phases is not None
        engine.runtime.phases(engine.checked(batch_of(4, 2)))
        assert driver.stack == theirs
        trt.fails_at = (1, 7)
        refusal(engine, batch_of(7))
        assert driver.stack == theirs
    trt.__version__ = "10.99"
    with pytest.raises(BertcError, match="does not load the engine"):
        bertc.open(path)
    assert driver.stack == theirs
    driver.stack.clear()


# -------------------------------------------------------------------------------------------------------------- loading


def test_a_plan_of_another_version(trt: Any, driver: Driver, tmp_path: Path) -> None:
    path = built(tmp_path)
    trt.__version__ = "10.99"
    with pytest.raises(BertcError, match=r"tensorrt 10\.99 does not load the engine: Error Code 6") as caught:
        bertc.open(path)
    assert (caught.value.diagnostics[0].code, caught.value.exit_code) == ("B0513", 4)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_runtime_that_does_not_start(version: str, driver: Driver, tmp_path: Path) -> None:
    trt = double(version, refused={"Runtime.__init__"})
    trt.driver = driver
    expected = r"tensorrt could not start: Error Code 3: Runtime\.__init__ was refused"
    with imported(trt, version), pytest.raises(BertcError, match=expected) as caught:
        bertc.open(built(tmp_path))
    assert caught.value.diagnostics[0].code == "B0513"


def test_a_context_that_is_not_to_be_had(trt: Any, tmp_path: Path) -> None:
    with bertc.open(built(tmp_path)) as engine:
        trt.refused = {"ICudaEngine.create_execution_context"}
        code, message = refusal(engine, batch_of(3))
    assert code == "B0515"
    assert message.startswith("tensorrt could not make an execution context: Error Code 3")


REFITTING = {
    "Refitter.__init__": "make a refitter",
    "Refitter.set_named_weights": "take `",
    "Refitter.refit_cuda_engine": "refit the engine",
    "ICudaEngine.serialize_with_config": "write the engine",
}
"""What TensorRT may refuse -> what the message says of it."""


@pytest.mark.parametrize("call", REFITTING)
def test_weights_that_are_refused(call: str, trt: Any, tmp_path: Path) -> None:
    path, weights = built(tmp_path, refit=True), tmp_path / "new.safetensors"
    write_safetensors(weights, weights_of(elaborate(small_spec())))
    trt.refused = {call}
    expected = f"tensorrt could not {REFITTING[call]}.*: Error Code 3: {call} was refused"
    with pytest.raises(BertcError, match=expected) as caught:
        bertc.refit(path, weights)
    assert caught.value.diagnostics[0].code == "B0515"


def test_what_the_builder_was_asked_for_runs(trt: Any, tmp_path: Path) -> None:
    """Engines for later versions carry code that has to be allowed; streamed weights need a budget before contexts."""
    batch = batch_of(5, 4)
    with bertc.open(built(tmp_path, version_compatible=True, weight_streaming=True)) as engine:
        assert_right(engine.run(batch), batch)


def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = double("11.4")
    with imported(made, "11.4"), gpu(monkeypatch, gpus=0):
        path = built(tmp_path)
        assert target.why_not_here() == "no, there is no GPU 0: this machine has 0, counted from 0"
        with pytest.raises(BertcError, match="there is no GPU 0"):
            bertc.open(path)


def test_rtx_chooses_its_kernels_before_a_graph_keeps_them(
    driver: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bertc.targets import rtx

    trt = double("rtx-1.7")
    trt.driver = driver
    monkeypatch.setattr(rtx, "trt", trt)
    batch = batch_of(11, 4, 1)
    bertc.build(replace(small_spec(), shapes=PROFILES), tmp_path / "x", "rtx", random_seed=0)
    with bertc.open(tmp_path / "x") as engine:
        assert_right(engine.run(batch), batch)
    assert trt.specialised == {"EAGER"}
