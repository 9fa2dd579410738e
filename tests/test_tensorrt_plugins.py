"""Ahead-of-time plugins: NVIDIA's own checks take them, their PTX has the parameters that TensorRT passes, and what is
launched for a shape computes the op."""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
import re
import subprocess
import sys
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorrt_kernels
from tensorrt_double import double
from tensorrt_wheel import imported
from test_kernels import DEVICE, assert_close, nothing

from bertc.kernels import ahead_of_time
from bertc.targets.cuda.plan import ELEMENTS
from bertc.targets.tensorrt import registration
from bertc.targets.tensorrt.attention import TILES
from bertc.targets.tensorrt.plugins import DECLARED
from bertc.targets.tensorrt.ptx import parameters, without_lines, without_scratch
from bertc.targets.tensorrt.registration import SHARED, register

VERSIONS = ("10.16", "11.4")

SMALL = tensorrt_kernels.NETWORKS["small"]

NEWEST = ("11.4", "90", "f16")

SOME = ("attention_with_bias", "packed_attention_of_projection", "bias_gelu", "embed_norm", "skip_norm_and_sum")

BUILDS = {NEWEST: tuple(DECLARED), ("10.16", "80", "bf16"): SOME, ("11.4", "90", "f32"): SOME}
"""Version, architecture and element type -> the plugins that are compiled for it."""

CASES = [(build, name) for build, names in BUILDS.items() for name in names]

every_kernel = pytest.mark.parametrize(
    ("build", "name"), CASES, ids=lambda part: part if isinstance(part, str) else "-".join(part)
)


@cache
def kernels(version: str, architecture: str, element: str) -> list[dict[str, Any]]:
    """The kernel of each tactic, as tests/tensorrt_kernels.py finds it."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    plugins = ",".join(BUILDS[version, architecture, element])
    command = [sys.executable, tensorrt_kernels.__file__, version, architecture, "small", element, plugins]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def of(name: str, build: tuple[str, str, str] = NEWEST) -> list[dict[str, Any]]:
    """The kernels of one plugin."""
    found = [kernel for kernel in kernels(*build) if kernel["plugin"] == name]
    assert found
    return found


@pytest.mark.parametrize("version", VERSIONS)
def test_its_own_checks_take_every_plugin(version: str) -> None:
    trt = double(version)
    with imported(trt, version) as trtp:
        register(trtp)
        register(trtp)  # a second build in one process
        known = sys.modules["tensorrt.plugin._lib"].QDP_REGISTRY
        assert set(known) == {f"bertc::{name}" for name in DECLARED}
        for name, plugin in DECLARED.items():
            found = known[f"bertc::{name}"]
            assert found.input_tensor_names == list(plugin.inputs)
            assert found.num_outputs == len(plugin.outputs)
            assert found.aot_impl_func is not None
            assert found.autotune_func is not None


def test_its_own_checks_are_at_work() -> None:
    """A plugin that takes its attribute before its tensors is refused."""
    trt = double("11.4")

    def describe(settings: Any, x: Any) -> Any:
        return x.like()

    with imported(trt, "11.4") as trtp:
        describe.__annotations__ = {"settings": str, "x": trtp.TensorDesc, "return": trtp.TensorDesc}
        with pytest.raises(ValueError, match="TensorDescs args should come first"):
            trtp.register("bertc::wrong")(describe)


@every_kernel
def test_ptx_has_the_parameters_that_tensorrt_passes(build: tuple[str, str, str], name: str) -> None:
    """Addresses of inputs, numbers, addresses of outputs."""
    plugin = DECLARED[name]
    address, number = ".param .u64", ".param .u32"
    wanted = [address] * len(plugin.inputs) + [number] * len(plugin.numbers) + [address] * len(plugin.outputs)
    for kernel in of(name, build):
        assert [" ".join(line.split()[:2]) for line in parameters(kernel["ptx"])] == wanted
        assert f".target sm_{build[1]}" in kernel["ptx"]
        assert not re.search(r"\.py|/|\.loc|\.file|\.debug", re.sub(r"//.*", "", kernel["ptx"]))


@every_kernel
def test_ptxas_takes_it(build: tuple[str, str, str], name: str, tmp_path: Path) -> None:
    """Every tactic, for the architecture that it is for."""
    for number, kernel in enumerate(of(name, build)):
        source = tmp_path / f"{number}.ptx"
        source.write_text(kernel["ptx"])
        target = re.search(r"\.target (\w+)", kernel["ptx"])
        assert target is not None
        command = [ptxas(), f"--gpu-name={target[1]}", source, "-o", tmp_path / f"{number}.cubin"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def ptxas() -> Path:
    import triton

    return Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"


@pytest.mark.parametrize("build", BUILDS, ids="-".join)
def test_what_is_launched_fits(build: tuple[str, str, str]) -> None:
    for kernel in kernels(*build):
        for launch in kernel["launches"]:
            assert launch["sizes"]["shared_mem"] <= SHARED
            assert launch["sizes"]["block_x"] % 32 == 0


@pytest.mark.parametrize("name", DECLARED)
def test_grids_cover_the_work_and_no_more(name: str) -> None:
    """Of packed sequences the longest is known, so that no more blocks start than it has, or than there are tokens."""
    for kernel in of(name):
        constants = kernel["constants"]
        for launch in kernel["launches"]:
            batch, seq = launch["batch"], launch["seq"]
            packed, n = name.startswith("packed"), SMALL.sizes["n"]
            tokens = SMALL.sizes_at(batch, seq)["tokens"] if packed else batch * seq
            rows = min(tokens, 11) if packed else seq
            grids = {
                "attention": (-(-rows // constants.get("QUERIES", 1)), SMALL.sizes["heads"], batch),
                "bias_activation": (-(-tokens * n // constants.get("BLOCK", 1)), 1, 1),
            }
            assert tuple(launch["sizes"][f"grid_{axis}"] for axis in "xyz") == grids.get(kernel["name"], (tokens, 1, 1))


def test_kernels_that_want_too_much_shared_memory_are_no_tactics(monkeypatch: pytest.MonkeyPatch) -> None:
    def compiled(source: Any, architecture: int) -> Any:
        queries = dict(source.constants)["QUERIES"]
        return registration.Compiled("attention", "", 128, SHARED + 1 if queries > 32 else SHARED)

    monkeypatch.setattr(registration, "compiled", compiled)
    trt = double("11.4")
    with imported(trt, "11.4") as trtp:
        register(trtp)
        found = list(tensorrt_kernels.kernels_of(trt, trtp, DECLARED["attention"], 90, "small", "f16"))
    tactics = [kernel["tactic"] for kernel in found]
    assert tactics == [number for number, tile in enumerate(TILES, 1) if tile[0] <= 32]
    assert tactics


@pytest.mark.parametrize("name", DECLARED)
def test_one_kernel_computes_every_shape(name: str) -> None:
    """Each tactic, in TensorRT's order of arguments, with the grid and the numbers that its expressions come to."""
    import torch

    plugin = DECLARED[name]
    function = getattr(ahead_of_time, plugin.kernel)
    order = [*plugin.inputs, *plugin.numbers, *plugin.outputs]
    assert [parameter for parameter in function.arg_names if parameter in order] == order
    missing = {parameter: None for parameter in function.arg_names if parameter not in order}
    for kernel in of(name):
        for launch in kernel["launches"]:
            inputs = tensorrt_kernels.given(kernel, launch["batch"], launch["seq"])
            wanted = tensorrt_kernels.expected(kernel, inputs)
            tensors = [torch.from_numpy(array).to(DEVICE) for array in inputs.values()]
            results = [nothing("f16", *result.shape) for result in wanted]
            passed = dict(zip(order, [*tensors, *launch["numbers"], *results], strict=True))
            grid = tuple(launch["sizes"][f"grid_{axis}"] for axis in "xyz")
            function[grid](**passed, **missing | kernel["constants"])
            for result, exact in zip(results, wanted, strict=True):
                assert_close(result, exact, "f16")


def launches() -> Any:
    """benchmarks/tensorrt_plugins.py."""
    path = Path(__file__).parent.parent / "benchmarks" / "tensorrt_plugins.py"
    found = importlib.util.spec_from_file_location("plugin_launches", path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


class HostDevice:
    """A device whose memory is the host's and whose kernels are the references: what is launched has to be given the
    arrays in their order. `spoil` may change what was launched."""

    stream, name = None, "none"

    def __init__(self, kernels: list[dict[str, Any]], spoil: Any = lambda outputs: None) -> None:
        self.kernels, self.spoil = {kernel["ptx"].encode() + b"\0": kernel for kernel in kernels}, spoil
        self.memory: dict[int, Any] = {}
        self.launched: list[tuple[int, ...]] = []

    def current(self) -> AbstractContextManager[None]:
        return nullcontext()

    def allocate(self, size: int) -> int:
        array = np.zeros(size, np.uint8)
        self.memory[array.ctypes.data] = array
        return array.ctypes.data

    def upload(self, address: int, array: Any) -> None:
        self.memory[address][:] = array.reshape(-1).view(np.uint8)

    def start_download(self, array: Any, address: int) -> None:
        array[:] = self.memory[address]

    def free(self, address: int) -> None:
        del self.memory[address]

    def wait(self) -> None: ...

    def close(self) -> None:
        assert not self.memory

    def call(self, name: str, *given: Any) -> Any:
        return getattr(self, name)(*given)

    def cuModuleLoadData(self, ptx: bytes) -> Any:  # noqa: N802  the driver's own names
        return self.kernels[ptx]

    def cuModuleGetFunction(self, kernel: Any, name: bytes) -> Any:  # noqa: N802
        assert kernel["name"].encode() == name
        return kernel

    def cuModuleUnload(self, kernel: Any) -> None: ...  # noqa: N802

    def cuMemsetD8Async(self, address: int, value: int, size: int, stream: Any) -> None:  # noqa: N802
        self.memory[address][:size] = value

    def cuLaunchKernel(self, kernel: Any, *given: Any) -> None:  # noqa: N802
        *sizes, shared, _, (values, kinds), extra = given
        self.launched.append((*sizes, shared))
        plugin = DECLARED[kernel["plugin"]]
        assert extra == 0
        assert len(values) == len(kinds) == len(plugin.inputs) + len(plugin.numbers) + len(plugin.outputs)
        passed = dict(zip((*plugin.inputs, *plugin.numbers, *plugin.outputs), values, strict=True))
        launch = kernel["launches"][(len(self.launched) - 1) % len(kernel["launches"])]
        inputs = tensorrt_kernels.given(kernel, launch["batch"], launch["seq"])
        for name, array in inputs.items():
            assert self.memory[passed[name]].tobytes() == array.tobytes()
        for name, result in zip(plugin.outputs, tensorrt_kernels.expected(kernel, inputs), strict=True):
            rounded = result.astype(ELEMENTS[kernel["element"]]).reshape(-1).view(np.uint8)
            self.memory[passed[name]][: rounded.size] = rounded
        self.spoil([self.memory[passed[name]] for name in plugin.outputs])


def test_launches_are_those_of_tensorrt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> None:
    found, module = kernels(*NEWEST), launches()
    file, table = tmp_path / "kernels.json.gz", tmp_path / "table.json"
    file.write_bytes(gzip.compress(json.dumps(found).encode()))
    device = HostDevice(found)
    monkeypatch.setattr(module, "Device", lambda: device)
    assert module.main([str(file), "--json", str(table)]) == 0
    wanted = [[*launch["sizes"].values()] for kernel in found for launch in kernel["launches"]]
    assert [[*launched] for launched in device.launched] == wanted
    rows = json.loads(table.read_text())["rows"]
    assert [row["plugin"] for row in rows] == list(DECLARED)
    assert all(0 < row["difference"] <= 0.5 for row in rows)  # the references are rounded, and no more
    assert "1x1 2x7 5x11" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("spoil", "failure"),
    [
        (lambda outputs: outputs[-1].__setitem__(slice(0, 2), 255), None),
        (lambda outputs: outputs[0].__setitem__(-256, 0), "behind an output"),
    ],
    ids=["unwritten", "beyond"],
)
def test_a_wrong_launch_is_told(spoil: Any, failure: str | None) -> None:
    for name in ("skip_norm_and_sum", "attention"):
        found = of(name)[:1]
        row = launches().check(HostDevice(found, spoil), found)
        assert not row["ok"]
        assert row["failure"] is None if failure is None else failure in row["failure"]


def test_parameters_that_tensorrt_does_not_pass_are_told() -> None:
    (kernel, *_) = of("skip_norm")
    ptx = re.sub(r"\.param \.u64 [^,]*,\n", "", kernel["ptx"], count=1)
    row = launches().check(HostDevice([kernel | {"ptx": ptx}]), [kernel | {"ptx": ptx}])
    assert "takes other parameters" in row["failure"]


SCRATCH = """.visible .entry twice(
\t.param .u64 .ptr .global .align 1 twice_param_0,
\t.param .u32 twice_param_1,
\t.param .u64 .ptr .global .align 1 twice_param_2,
\t.param .u64 .ptr .global .align 1 twice_param_3
)
{
\tld.param.b64 %rd1, [twice_param_0];
\t.loc\t1 20 0 // twice.py:20:0
\tret;
}
\t.file\t1 "/home/somebody/twice.py"
"""


def test_scratch_parameters_go() -> None:
    assert [line.split()[-1] for line in parameters(without_scratch(SCRATCH))] == ["twice_param_0", "twice_param_1"]
    assert "somebody" not in without_lines(SCRATCH)
    assert ".loc" not in without_lines(SCRATCH)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (SCRATCH.replace("[twice_param_0]", "[twice_param_3]"), "uses scratch memory"),
        (SCRATCH.replace("u64 .ptr .global .align 1 twice_param_3", "u32 twice_param_3"), "does not end with scratch"),
        (SCRATCH + SCRATCH, "has 2"),
    ],
)
def test_a_kernel_that_needs_more_is_refused(wrong: str, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        without_scratch(wrong)
