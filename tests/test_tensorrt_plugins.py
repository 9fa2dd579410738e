"""Ahead-of-time plugins: NVIDIA's own checks take them, their PTX has the parameters that TensorRT passes, and what is
launched for a shape computes the op."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tensorrt_kernels
from tensorrt_double import double
from tensorrt_wheel import imported
from test_kernels import DEVICE, TYPES, assert_close, draw, wide

from bertc.kernels import ahead_of_time
from bertc.plugins import PLUGINS
from bertc.targets.tensorrt import registration
from bertc.targets.tensorrt.plugins import DECLARED, TILES
from bertc.targets.tensorrt.ptx import parameters, without_lines, without_scratch
from bertc.targets.tensorrt.registration import SHARED, register

VERSIONS = ("10.16", "11.4")

BUILDS = (("10.16", "80", "f16"), ("11.4", "90", "f16"), ("11.4", "90", "f32"))


@cache
def kernels(version: str, architecture: str, element: str) -> Mapping[str, Any]:
    """Plugin -> its kernel, as tests/tensorrt_kernels.py finds it."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, tensorrt_kernels.__file__, version, architecture, element]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {found["plugin"]: found for found in json.loads(done.stdout)}


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


@pytest.mark.parametrize("name", DECLARED)
@pytest.mark.parametrize("build", BUILDS, ids="-".join)
def test_ptx_has_the_parameters_that_tensorrt_passes(build: tuple[str, str, str], name: str, tmp_path: Path) -> None:
    """Addresses of inputs, numbers, addresses of outputs; ptxas takes it for the architecture it is for."""
    plugin, found = DECLARED[name], kernels(*build)[name]
    address, number = ".param .u64", ".param .u32"
    wanted = [address] * len(plugin.inputs) + [number] * len(plugin.numbers) + [address] * len(plugin.outputs)
    assert [" ".join(line.split()[:2]) for line in parameters(found["ptx"])] == wanted
    assert f".target sm_{build[1]}" in found["ptx"]
    assert not re.search(r"\.py|/|\.loc|\.file|\.debug", re.sub(r"//.*", "", found["ptx"]))
    source = tmp_path / "kernel.ptx"
    source.write_text(found["ptx"])
    target = re.search(r"\.target (\w+)", found["ptx"])
    assert target is not None
    command = [ptxas(), f"--gpu-name={target[1]}", source, "-o", tmp_path / "kernel.cubin"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def ptxas() -> Path:
    import triton

    return Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"


@pytest.mark.parametrize("build", BUILDS, ids="-".join)
def test_what_is_launched_fits(build: tuple[str, str, str]) -> None:
    for found in kernels(*build).values():
        assert found["tactics"]
        for launch in found["launches"]:
            assert launch["sizes"]["shared_mem"] <= SHARED
            assert launch["sizes"]["block_x"] % 32 == 0


@pytest.mark.parametrize("name", DECLARED)
def test_grids_cover_the_work_and_no_more(name: str) -> None:
    found = kernels("11.4", "90", "f16")[name]
    constants = found["constants"]
    for launch in found["launches"]:
        batch, seq = launch["batch"], launch["seq"]
        tokens, n = batch * seq, tensorrt_kernels.SIZES["n"]
        grids = {
            "attention": (-(-seq // constants.get("QUERIES", 1)), tensorrt_kernels.SIZES["heads"], batch),
            "bias_activation": (-(-tokens * n // constants.get("BLOCK", 1)), 1, 1),
        }
        assert tuple(launch["sizes"][f"grid_{axis}"] for axis in "xyz") == grids.get(found["name"], (tokens, 1, 1))


def test_kernels_that_want_too_much_shared_memory_are_no_tactics(monkeypatch: pytest.MonkeyPatch) -> None:
    def compiled(source: Any, architecture: int) -> Any:
        queries = dict(source.constants)["QUERIES"]
        return registration.Compiled("attention", "", 128, SHARED + 1 if queries > 32 else SHARED)

    monkeypatch.setattr(registration, "compiled", compiled)
    trt = double("11.4")
    with imported(trt, "11.4") as trtp:
        register(trtp)
        found = tensorrt_kernels.kernel_of(trt, trtp, DECLARED["attention"], 90, "f16")
    assert found["tactics"] == [number for number, tile in enumerate(TILES, 1) if tile[0] <= 32]
    assert found["tactics"]


def reference(name: str, given: Mapping[str, Any], constants: Mapping[str, Any]) -> Any:
    """The op's own reference, in float64."""
    import numpy as np

    op = PLUGINS[name.removesuffix("_and_sum")]
    arrays = [wide(tensor) if tensor.is_floating_point() else tensor.cpu().numpy() for tensor in given.values()]
    if op.name == "attention":
        seen = np.arange(arrays[1].shape[2]) < arrays[3][:, None, None, None]
        arrays[3] = np.where(seen, 0.0, -1e30)
    results = op.reference(*arrays, **{key: value for key, value in constants.items() if key in op.attributes})
    return results if isinstance(results, tuple) else (results,)


def inputs_of(plugin: Any, batch: int, seq: int) -> dict[str, Any]:
    import torch

    ids = {"ids": tensorrt_kernels.SIZES["vocab"], "types": tensorrt_kernels.SIZES["types"]}
    made: dict[str, Any] = {}
    for place, name in enumerate(plugin.inputs):
        shape = tensorrt_kernels.shape_of(name, batch, seq)
        if name == "lengths":
            made[name] = torch.arange(batch, dtype=torch.int32, device=DEVICE) % seq + 1
        elif name in ids:
            numbers = torch.arange(batch * seq, dtype=torch.int32, device=DEVICE)
            made[name] = (numbers * 7 % ids[name]).reshape(shape)
        else:
            made[name] = draw("f16", *shape, seed=place)
    return made


@pytest.mark.parametrize("name", DECLARED)
def test_one_kernel_computes_every_shape(name: str) -> None:
    """The kernel, in TensorRT's order of arguments, with the grid and the numbers that its expressions come to."""
    import torch

    plugin, found = DECLARED[name], kernels("11.4", "90", "f16")[name]
    kernel = getattr(ahead_of_time, plugin.kernel)
    missing = {parameter: None for parameter in kernel.arg_names if parameter not in taken(plugin, found)}
    for launch in found["launches"]:
        batch, seq = launch["batch"], launch["seq"]
        given = inputs_of(plugin, batch, seq)
        results = [
            torch.full([batch, seq, size], torch.nan, dtype=TYPES["f16"], device=DEVICE)
            for _, *_, size in found["outputs"]
        ]
        passed = [*given.values(), *launch["numbers"], *results]
        named = dict(zip(taken(plugin, found), passed, strict=True))
        grid = tuple(launch["sizes"][f"grid_{axis}"] for axis in "xyz")
        kernel[grid](**named, **missing | found["constants"])
        for result, expected in zip(results, reference(name, given, found["constants"]), strict=False):
            assert_close(result, expected, "f16")


def taken(plugin: Any, found: Mapping[str, Any]) -> list[str]:
    """The parameters of the kernel that stay, in the kernel's own order, which has to be TensorRT's."""
    names = [*plugin.inputs, *plugin.numbers, *plugin.outputs]
    kernel = getattr(ahead_of_time, plugin.kernel)
    assert [name for name in kernel.arg_names if name in names] == names
    return names


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
