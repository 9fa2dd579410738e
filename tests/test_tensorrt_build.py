"""What the tensorrt target asks of TensorRT's builder, and what it does with the answers."""

from __future__ import annotations

import errno
import io
import json
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path
from threading import BrokenBarrierError
from typing import Any

import pytest
from conftest import small_spec
from tensorrt_double import double
from tensorrt_wheel import imported

import bertc
from bertc.cli import run
from bertc.errors import BertcError
from bertc.shapes import Profile, Range
from bertc.targets import tensorrt as target
from bertc.targets.tensorrt.build import add_profiles
from bertc.targets.tensorrt.network import Network
from bertc.targets.tensorrt.timing_cache import TimingCache

VERSIONS = ("10.16", "11.4")

SPEC = """base: bert-base
sizes: {layers: 2, hidden: 24, heads: 3, inner: 40, vocab: 53, positions: 19}
shapes: [{batch: [1, 2, 4], seq: [1, 8, 16]}, {batch: [8, 8, 16], seq: [1, 4, 8]}]
plugins: none
"""


@pytest.fixture(params=VERSIONS)
def trt(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(target, "_gpu_here", lambda: "NVIDIA H200")
    made = double(request.param)
    with imported(made, request.param):
        yield made


@pytest.fixture
def spec_file(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SPEC)
    return path


def build(spec_file: Path, folder: Path, *flags: str) -> int:
    command = ["build", str(spec_file), "--target", "tensorrt", "--random-weights", "0", "-o", str(folder)]
    return run([*command, *flags])


def flags_of(config: Any) -> set[str]:
    return {flag.name for flag in config._state["builder_flags"]}


def test_a_plain_build_asks_for_nothing_more_than_profiles(trt: Any, spec_file: Path, tmp_path: Path) -> None:
    assert build(spec_file, tmp_path / "x") == 0
    ((network, config),) = trt.builds
    assert flags_of(config) == set()
    assert config._state["pools"] == {}
    assert config._state["cache"] is None
    profiles = [profile._state["shapes"]["attention_mask"] for profile in config._state["profiles"]]
    assert profiles == [((1, 1), (2, 8), (4, 16)), ((8, 1), (8, 4), (16, 8))]
    strongly = {flag.name for flag in network._state["creation_flags"]}
    assert strongly == ({"STRONGLY_TYPED"} if trt.__version__.startswith("10") else set())
    manifest = json.loads((tmp_path / "x" / "manifest.json").read_text())
    assert manifest["versions"]["tensorrt"] == trt.__version__
    assert set(manifest["files"]) == {"model.plan", "graph.net"}


def test_packed_sequences_have_a_token_each_and_as_many_as_the_profile(trt: Any) -> None:
    graph = bertc.compile(small_spec(passes="[default, pack_sequences]"))
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network, config = Network(trt, builder, graph, {}, refit=False), builder.create_builder_config()
    for node in graph.inputs:
        network.add("input", node.key, trt.int32, (-1,))
    add_profiles(config, network, (Profile(Range(2, 4, 8), Range(4, 8, 16)),))
    (profile,) = config._state["profiles"]
    tokens, sequences = ((2,), (32,), (128,)), ((2,), (4,), (8,))
    expected = {"input_ids": tokens, "token_type_ids": tokens, "places": tokens} | dict.fromkeys(
        ("starts", "lengths"), sequences
    )
    assert profile._state["shapes"] == expected


OURS = (
    *("--workspace", "64", "--optimization-level", "5", "--refit", "--strip-weights", "--version-compatible"),
    *("--weight-streaming", "--sparse-weights", "--layer-information"),
)
TRTEXEC = (
    *("--memPoolSize=workspace:64", "--builderOptimizationLevel=5", "--refit", "--stripWeights"),
    *("--versionCompatible", "--allowWeightStreaming", "--sparse-weights", "--layer-information"),
)


@pytest.mark.parametrize("flags", [OURS, TRTEXEC], ids=["bertc", "trtexec"])
def test_flags_reach_the_builder(trt: Any, spec_file: Path, tmp_path: Path, flags: tuple[str, ...]) -> None:
    assert build(spec_file, tmp_path / "x", *flags) == 0
    ((network, config),) = trt.builds
    expected = {"REFIT", "STRIP_PLAN", "VERSION_COMPATIBLE", "WEIGHT_STREAMING", "SPARSE_WEIGHTS"}
    assert flags_of(config) == expected
    assert config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) == 64 << 20
    assert config.builder_optimization_level == 5
    assert config.profiling_verbosity == trt.ProfilingVerbosity.DETAILED
    layers = [network.get_layer(index).name for index in range(network.num_layers)]
    assert json.loads((tmp_path / "x" / "layers.json").read_text()) == {"Layers": layers, "Bindings": []}


def test_a_stripped_plan_gets_its_own_weights_back(trt: Any, spec_file: Path, tmp_path: Path) -> None:
    assert build(spec_file, tmp_path / "x", "--strip-weights") == 0
    ((_, config),) = trt.builds
    assert flags_of(config) == {"STRIP_PLAN", "REFIT_IDENTICAL"}


def test_weights_of_a_refittable_engine_have_the_names_of_the_graph(trt: Any, tmp_path: Path) -> None:
    spec = small_spec(plugins="none")
    bertc.build(spec, tmp_path / "x", "tensorrt", random_seed=0, builder={"refit": True})
    ((network, _),) = trt.builds
    named = {re.sub(r"\.[23]$", "", name) for name in network._state["weights_names"]}  # of a rank, where it differs
    graph = bertc.compile(spec, "tensorrt")
    read = {value for node in graph if not graph.is_constant(node.key) for value in node.values}
    assert {value for value in read if graph.is_constant(value)} <= named


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (("--optimization-level", "6"), 2, "from 0 to 5"),
        (("--workspace", "0"), 2, "whole number from 1"),
        (("--memPoolSize=tacticSharedMem:3",), 2, "expected `workspace:MIB`"),
        (("--arch", "sm_90"), 2, "`--arch` is for target rtx or cuda"),
        (("--plugins", "all,softmax"), 2, "one of `auto`, `all`, `none`"),
        (("--plugins", "attention"), 4, "cannot be a plugin: the kernel is for heads of 16, 32, 64, 128, not 8"),
    ],
)
def test_flags_are_refused_with_a_reason(
    spec_file: Path, tmp_path: Path, flags: tuple[str, ...], code: int, message: str, capsys: Any
) -> None:
    made = double("11.4")
    with imported(made, "11.4"):
        try:
            found: Any = build(spec_file, tmp_path / "x", *flags)
        except SystemExit as stop:
            found = stop.code
    assert found == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_flags_of_the_builder_are_for_tensorrt(spec_file: Path, tmp_path: Path, capsys: Any) -> None:
    command = ["build", str(spec_file), "--target", "onnx", "--random-weights", "0", "-o", str(tmp_path / "x")]
    assert run([*command, "--optimization-level", "0"]) == 2
    assert "`--optimization-level` is for target tensorrt, but the target is onnx" in capsys.readouterr().err


@pytest.mark.parametrize("version", VERSIONS)
def test_a_failure_tells_what_tensorrt_said(version: str, spec_file: Path, tmp_path: Path) -> None:
    made = double(version, fails="Error Code 10: Internal Error (Could not find any implementation for node)")
    with imported(made, version), pytest.raises(BertcError, match="Could not find any implementation") as caught:
        bertc.build(bertc.load(str(spec_file)), tmp_path / "x", "tensorrt", random_seed=0)
    assert caught.value.exit_code == 5
    assert not (tmp_path / "x").exists()


CALLS = {
    "Builder.__init__": "make a builder",
    "INetworkDefinition.add_softmax": "add `softmax` to the network",
    "INetworkDefinition.add_input": "add `input` to the network",
    "INetworkDefinition.set_weights_name": "name the weights `",
    "IBuilderConfig.add_optimization_profile": r"take Profile\(batch=Range\(smallest=1,",
}
"""What TensorRT may refuse before it builds -> what the message says of it."""


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("version", VERSIONS)
def test_a_refusal_tells_what_tensorrt_said(version: str, call: str, tmp_path: Path) -> None:
    """Never a None, or an error of Python's in its place."""
    made, spec = double(version, refused={call}), small_spec(plugins="none")
    expected = f"tensorrt could not {CALLS[call]}.*: Error Code 3: {call} was refused"
    with imported(made, version), pytest.raises(BertcError, match=expected) as caught:
        bertc.build(spec, tmp_path / "x", "tensorrt", random_seed=0, builder={"refit": True})
    assert caught.value.diagnostics[0].code == "B0512"
    assert not (tmp_path / "x").exists()


def test_progress_is_passed_on(trt: Any, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    spec = small_spec(plugins="none")
    bertc.build(
        spec, tmp_path / "x", "tensorrt", random_seed=0, progress=lambda what, done, of: seen.append((what, done, of))
    )
    assert seen == [("Building Engine", 1, 2)]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stream", "shown"), [(Terminal, True), (io.StringIO, False)])
def test_progress_is_a_bar_on_a_terminal(
    stream: type[io.StringIO], shown: bool, trt: Any, spec_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", stream())
    assert build(spec_file, tmp_path / "x") == 0
    assert ("Building Engine" in sys.stderr.getvalue()) == shown


# ------------------------------------------------------------------------------------------------------- timing cache


def cached(folder: Path) -> set[str]:
    (path,) = folder.glob("*.cache")
    return set(path.read_text().splitlines())


def test_builds_share_a_timing_cache(trt: Any, spec_file: Path, tmp_path: Path) -> None:
    """Named by version and GPU; a second build adds to it and begins with what is there."""
    cache = tmp_path / "cache" / "of builds"
    for index, head in enumerate(("pooled", "masked_lm")):
        spec_file.write_text(SPEC + f"network: {{head: {head}}}\n")
        assert build(spec_file, tmp_path / str(index), "--timing-cache", str(cache)) == 0
    assert [path.name for path in cache.glob("*.cache")] == [f"tensorrt-{trt.__version__}-NVIDIA-H200.cache"]
    assert len(cached(cache)) == 2
    (_, second) = trt.builds
    assert len(second[1]._state["began_with"]) == 1
    assert not [path for path in cache.iterdir() if path.suffix not in (".cache", ".lock")]
    modes = {path.suffix: path.stat().st_mode for path in cache.iterdir()}
    assert modes[".cache"] == modes[".lock"], "others cannot read it"


def test_what_another_build_wrote_meanwhile_is_kept(
    trt: Any, spec_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    serialize = target.serialize

    def slow(*given: Any) -> Any:
        plan = serialize(*given)
        (cache / f"tensorrt-{trt.__version__}-NVIDIA-H200.cache").write_text("another build's")
        return plan

    monkeypatch.setattr(target, "serialize", slow)
    assert build(spec_file, tmp_path / "x", "--timing-cache", str(cache)) == 0
    assert "another build's" in cached(cache)
    assert len(cached(cache)) == 2


def test_a_timing_cache_that_cannot_be_written(trt: Any, spec_file: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "cache").write_text("no folder")
    assert build(spec_file, tmp_path / "x", "--timing-cache", str(tmp_path / "cache")) == 3
    assert "the timing cache" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("is_none", [False, True], ids=["empty", "none"])
def test_a_damaged_timing_cache_is_begun_anew(is_none: bool, trt: Any, spec_file: Path, tmp_path: Path) -> None:
    """With a warning that has TensorRT's reason, which a later failure does not take for its own."""
    trt.damaged_cache_is_none = is_none
    path = tmp_path / f"tensorrt-{trt.__version__}-NVIDIA-H200.cache"
    path.write_bytes(b"\xff\xff")
    with pytest.warns(UserWarning, match=f"`{path}` is begun anew, .*: Magic tag does not match") as warned:
        assert build(spec_file, tmp_path / "x", "--timing-cache", str(tmp_path)) == 0
    assert len(warned) == 1
    assert trt.builds[0][1]._state["began_with"] == set()
    assert len(cached(tmp_path)) == 1
    path.write_bytes(b"\xff\xff")
    trt.fails = "no tactic"
    with pytest.warns(UserWarning, match="begun anew"), pytest.raises(BertcError, match="no tactic"):
        bertc.build(
            bertc.load(str(spec_file)), tmp_path / "y", "tensorrt", random_seed=0, builder={"timing_cache": tmp_path}
        )


def cache_config(entry: str) -> Any:
    """What a build has that measured `entry`."""
    trt = double("11.4")
    config = trt.Builder(trt.ILogger()).create_builder_config()
    config.set_timing_cache(config.create_timing_cache(entry.encode()), False)
    return config


def merge(path: Path, entry: str, starting: Barrier, reading: Barrier) -> None:
    """Add to the file; between its reading and its writing, wait a while for the other process to have read it too."""

    class Waiting(TimingCache):
        def _known(self, config: Any) -> Any:
            known = super()._known(config)
            with suppress(BrokenBarrierError):
                reading.wait(0.5)
            return known

    config = cache_config(entry)
    starting.wait()
    Waiting(path).save(config)


def test_two_processes_merge_into_one_file(tmp_path: Path) -> None:
    """Without the lock both read before either writes, and what one of them measured is lost."""
    path = tmp_path / "x.cache"
    path.write_text("before")
    processes = get_context("fork")
    starting, reading = processes.Barrier(2), processes.Barrier(2)
    merging = [
        processes.Process(target=merge, args=(path, entry, starting, reading), daemon=True)
        for entry in ("first", "second")
    ]
    for process in merging:
        process.start()
    for process in merging:
        process.join(30)
    assert [process.exitcode for process in merging] == [0, 0]
    assert cached(tmp_path) == {"before", "first", "second"}


def test_a_timing_cache_is_replaced_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who reads while it is written has the old one, which also stays when there is no room for the new one."""
    path = tmp_path / "x.cache"
    path.write_text("before")

    def write_half(self: Path, data: Any) -> int:
        with self.open("wb") as file:
            file.write(bytes(data)[: len(data) // 2])
        assert cached(tmp_path) == {"before"}
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write_half)
    with pytest.raises(BertcError, match=r"error\[B0605\]: `.*x.cache` cannot be written: No space left on device"):
        TimingCache(path).save(cache_config("a measurement"))
    assert {found.name for found in tmp_path.iterdir()} == {"x.cache", "x.lock"}
    assert cached(tmp_path) == {"before"}
