"""Plugins that TensorRT calls through Python, where `tensorrt.plugin` is missing."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import small_spec, weights_of
from cuda_double import Driver, gpu
from tensorrt_double import double
from tensorrt_wheel import imported
from test_kernels import DEVICE
from test_tensorrt import BOUNDS, NETWORKS
from test_tensorrt_target import WIDE

import bertc
from bertc.elaborate import elaborate
from bertc.kernels import ahead_of_time
from bertc.reference import evaluate
from bertc.targets.cuda.plan import ELEMENTS
from bertc.targets.tensorrt import python_plugins
from bertc.targets.tensorrt.features import Features
from bertc.targets.tensorrt.plugins import DECLARED
from bertc.targets.tensorrt.python_plugins import creators

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")  # rows of padding overflow in the interpreter

WITHOUT = {"QuickPluginCreationRequest"}
"""What a version from before `tensorrt.plugin` lacks, beside what 10.12 does."""


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Driver]:
    with gpu(monkeypatch) as made:
        made.run_kernel = Interpreted(made)
        yield made


@pytest.fixture
def trt(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(python_plugins, "compile_source", not_compiled)
    made = double("10.12", without=WITHOUT)
    made.driver = driver
    python_plugins.compiled.cache_clear()
    with imported(made, "10.12"):
        yield made
    python_plugins.compiled.cache_clear()


def not_compiled(source: Any, architecture: int) -> Any:
    """In place of machine code, what the interpreter needs: the kernel, its parameters in order, its constants."""
    assert architecture == 90
    content = {"function": source.function, "types": source.types, "constants": source.constants}
    metadata = SimpleNamespace(name=source.function, num_warps=source.warps, shared=0)
    return SimpleNamespace(asm={"cubin": json.dumps(content).encode()}, metadata=metadata)


class Interpreted:
    """Runs a launch in Triton's interpreter, on the memory that its addresses are of."""

    def __init__(self, driver: Driver) -> None:
        self.driver, self.grids = driver, list[tuple[int, int, int]]()

    def __call__(self, code: bytes, entry: str, configuration: Any, values: Any, types: Any) -> None:
        import torch

        assert DEVICE == "cpu"  # which makes Triton interpret
        content = json.loads(code)
        assert entry == content["function"]
        assert values[-2:] == (0, 0), "Triton's scratch memory goes last"
        passed: dict[str, Any] = {}
        for (name, type), value, kind in zip(content["types"], values[:-2], types[:-2], strict=True):
            assert kind is (ctypes.c_void_p if type.startswith("*") else ctypes.c_int)
            passed[name] = torch.from_numpy(self.memory(value, ELEMENTS[type[1:]])) if type[0] == "*" else value
        grid = (configuration.gridDimX, configuration.gridDimY, configuration.gridDimZ)
        self.grids.append(grid)
        getattr(ahead_of_time, entry)[grid](**passed, **dict(content["constants"]))

    def memory(self, address: int, dtype: Any) -> Any:
        (array,) = (array for start, array in self.driver.device_memory.items() if start == address)
        return array.view(dtype)


@pytest.mark.parametrize(("network", "precision"), [(NETWORKS[0], "fp32"), (NETWORKS[-1], "fp16")])
def test_the_kernels_are_launched_as_they_have_to_be(
    network: str, precision: str, trt: Any, driver: Driver, padded_batch: Mapping[str, Any], tmp_path: Path
) -> None:
    """From the spec to the answer: what the interpreter computes with the addresses, numbers and grids that the plugins
    pass, on TensorRT's stream, is what the reference computes."""
    spec = replace(small_spec(precision=precision, network=network), sizes=WIDE, plugins=("all",))
    bertc.build(spec, tmp_path / "x", "tensorrt", random_seed=0)
    graph = elaborate(spec)
    expected = evaluate(graph, padded_batch, weights_of(graph))
    with bertc.open(tmp_path / "x") as engine:
        found = engine.run(padded_batch)
        gc.collect()  # Triton's interpreter keeps its frames in circles
    for name, array in expected.items():
        there = padded_batch["attention_mask"] > 0 if array.ndim == 3 else ...
        assert np.abs(found[name] - array)[there].max() < BOUNDS[precision]
    (built, _) = trt.builds[0]
    plugins = {layer["plugin"].plugin_name for layer in built._state["layers"] if layer["kind"] == "PLUGIN_V3"}
    assert "bias_gelu" in plugins
    assert any(name.startswith("attention") for name in plugins)
    assert driver.run_kernel.grids


def test_it_is_chosen_by_what_the_module_has() -> None:
    old, new = Features.of(double("10.12", without=WITHOUT)), Features.of(double("10.12"))
    assert (old.ahead_of_time_plugins, old.python_plugins) == (False, True)
    assert (new.ahead_of_time_plugins, new.python_plugins) == (True, True)


def test_every_plugin_has_a_creator_that_is_registered_once(trt: Any) -> None:
    assert creators(trt) is creators(trt)
    registry = trt.get_plugin_registry()
    for name in DECLARED:
        creator = registry.get_creator(name, "1", "bertc")
        assert (creator.name, creator.plugin_version, creator.plugin_namespace) == (name, "1", "bertc")
        assert [field.name for field in creator.field_names] == ["settings", "kernels", "code"]


def test_the_plan_has_the_code_of_every_tactic(trt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One behind the other, without those that want more shared memory than the GPU has."""
    most = {"code": 0}

    def compile(source: Any, architecture: int) -> Any:
        made = not_compiled(source, architecture)
        made.metadata.shared = 0 if dict(source.constants)["QUERIES"] <= 64 else 1 << 20
        most["code"] += len(made.asm["cubin"])
        return made

    monkeypatch.setattr(python_plugins, "compile_source", compile)
    settings = {"heads": 3, "size": 16, "scale": 0.25, "window": 0, "architecture": 90}
    kernels, code = python_plugins.compiled("attention", json.dumps(settings), ("f16", "f16", "f16", "i32", "f16"))
    tried = DECLARED["attention"].tactics(settings, "f16")
    assert sorted(kernels) == [n for n, tactic in enumerate(tried, 1) if tactic.constants["QUERIES"] <= 64]
    assert 0 < len(code) < most["code"]
    for number, kernel in kernels.items():
        content = json.loads(code[kernel.start : kernel.end])
        assert dict(content["constants"])["QUERIES"] == tried[number - 1].constants["QUERIES"]


def test_machine_code_comes_from_triton(tmp_path: Path) -> None:
    """In a process of its own, since Triton compiles nothing in one that interprets its kernels."""
    program = (
        "import json; from bertc.targets.tensorrt.python_plugins import compiled;"
        "kernels, code = compiled('skip_norm', json.dumps({'n': 48, 'eps': 1e-5, 'architecture': 90}), ('f16',) * 5);"
        "print(code[:4], *((k.entry, k.warps) for k in kernels.values()))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    found = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.split("\n")[0] == r"b'\x7fELF' ('skip_norm', 4) ('skip_norm', 8)"
