"""TensorRT 10.12, from before IAttention, and 10.14, the first with it: building, running and refitting, on doubles of
just those versions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import small_spec, weights_of
from cuda_double import Driver, gpu
from tensorrt_double import OLDER, STUBS, double
from tensorrt_stub import lacking, names_in
from tensorrt_wheel import imported
from test_tensorrt_session import assert_right, batch_of
from test_tensorrt_session_packed import assert_right as assert_packed_right
from test_tensorrt_session_packed import spec_of

import bertc
from bertc.elaborate import elaborate
from bertc.errors import BertcError
from bertc.targets.tensorrt import registration
from bertc.targets.tensorrt.features import Features
from bertc.weights_io.safetensors_writer import write_safetensors


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Driver]:
    with gpu(monkeypatch) as made:
        yield made


@pytest.fixture(params=OLDER)
def trt(request: pytest.FixtureRequest, driver: Driver, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Plugins without code, which the double does not run: where Triton interprets, it compiles nothing."""
    monkeypatch.setattr(registration, "compiled", lambda *_: registration.Compiled("attention", "", 128, 0))
    made = double(request.param)
    made.driver = driver
    with imported(made, request.param):
        yield made


@pytest.mark.parametrize("version", OLDER)
def test_what_is_lacking_is_in_10_16(version: str) -> None:
    found = (STUBS / f"{version}.lacks").read_text("utf-8").split()
    assert set(found) <= names_in((STUBS / "10.16.stub").read_text("utf-8"))
    assert len(found) > 30


def test_lacking() -> None:
    older = "class One:\n    x: int\n"
    newer = (
        "class One:\n    x: int\n    def f(self) -> int: ...\nclass Two:\n    y: int\nclass Kind(Enum):\n    A = ...\n"
    )
    assert lacking(older, newer) == ["Kind", "One.f", "Two"]
    assert lacking(newer, newer) == []


def test_what_they_have() -> None:
    old, new = (Features.of(double(version)) for version in OLDER)
    assert replace(old, attention=True, refit_again=True) == new
    assert not old.attention
    assert not old.refit_again
    assert not new.normalization_v2
    assert new.ahead_of_time_plugins
    assert replace(new, normalization_v2=True) == Features.of(double("10.16"))


def test_too_old_a_version_is_refused(tmp_path: Path) -> None:
    made = double("10.12", without={"ICudaEngine.get_device_memory_size_for_profile_v2"})
    made.__version__ = "8.6.1"
    with (
        imported(made, "10.12"),
        pytest.raises(BertcError, match=r"needs TensorRT 10\.12 or later, but 8\.6\.1") as caught,
    ):
        bertc.build(small_spec(), tmp_path / "x", "tensorrt", random_seed=0)
    assert caught.value.exit_code == 4


EVERYTHING = {
    **dict.fromkeys(("refit", "version_compatible", "weight_streaming", "sparse_weights", "layer_information"), True),
    "workspace": 64,
    "optimization_level": 5,
}


def test_every_option_builds_and_the_engine_runs(trt: Any, tmp_path: Path) -> None:
    batch = batch_of(5, 4)
    spec = replace(small_spec(), plugins=("none",))
    bertc.build(spec, tmp_path / "x", "tensorrt", random_seed=0, builder=EVERYTHING)
    assert json.loads((tmp_path / "x" / "layers.json").read_text())["Layers"]
    ((network, _),) = trt.builds
    assert {flag.name for flag in network._state["creation_flags"]} == {"STRONGLY_TYPED"}
    with bertc.open(tmp_path / "x") as engine:
        assert_right(engine.run(batch), batch)


def test_packed_sequences(trt: Any, tmp_path: Path) -> None:
    batches = [batch_of(11, 4, 1), batch_of(3, 2, 2, 1, 1)]
    bertc.build(spec_of("fp32"), tmp_path / "x", "tensorrt", random_seed=0)
    with bertc.open(tmp_path / "x") as engine:
        for batch in batches:
            assert_packed_right(engine.run(batch), batch)


@pytest.mark.parametrize("strip", [False, True])
def test_refitting(strip: bool, trt: Any, tmp_path: Path) -> None:
    """10.12 has no SerializationFlag.INCLUDE_REFIT, so that an engine is refitted once."""
    spec, batch = replace(small_spec(), plugins=("none",)), batch_of(5, 4)
    checkpoint = tmp_path / "new.safetensors"
    write_safetensors(checkpoint, weights_of(elaborate(spec), 0))
    bertc.build(spec, tmp_path / "x", "tensorrt", random_seed=1, builder={"refit": True, "strip_weights": strip})
    bertc.refit(tmp_path / "x", checkpoint)
    with bertc.open(tmp_path / "x") as engine:
        assert_right(engine.run(batch), batch)
    if trt.__version__.startswith("10.14"):
        bertc.refit(tmp_path / "x", checkpoint)
        return
    with pytest.raises(BertcError, match="takes no more weights: TensorRT before") as caught:
        bertc.refit(tmp_path / "x", checkpoint)
    assert caught.value.diagnostics[0].code == "B0516"
