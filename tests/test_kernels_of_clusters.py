"""Products by clusters of blocks: the kernel compiles for every tile, and on a GPU it leaves what its double leaves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import cuda_launching
import numpy as np
import pytest
import torch
from cluster_machine_code import disassembled, is_published, unread
from hopper_double import grid_of, moments_of, results
from test_kernels import BITS, DEVICE, TYPES, draw, nothing, wide

from bertc.kernels.hopper import GRANULE
from bertc.kernels.linear_cluster import CONSTANTS, PARAMETERS, warps
from bertc.ops import PRIMITIVES, Array
from bertc.targets.cuda.compile_kernels import Source, compile_kernels
from bertc.targets.cuda.driver import Device
from bertc.targets.cuda.elementwise import ACTIVATIONS
from bertc.targets.cuda.hopper import CLUSTERS, SHARED_MEMORY, centred, cluster_tiles
from bertc.targets.cuda.plan import Kernel

FORMS: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "of a norm": {"X_NORM": True},
    "to a sum": {"HAS_RESIDUAL": True},
    "to the first norm": {"HAS_RESIDUAL": True, "HAS_MOMENTS": True},
    "to a norm": {"R_NORM": True, "HAS_RESIDUAL": True, "HAS_MOMENTS": True},
    "to the last norm": {"R_NORM": True, "HAS_RESIDUAL": True},
    **{activation: {"X_NORM": True, "ACTIVATION": activation} for activation in ACTIVATIONS},
}
"""What stands around a product."""


class Case(NamedTuple):
    """A product x [rows, k] · wᵀ [k, n] in all of its tiles, or those of which so many share the rows of x."""

    form: str
    n: int
    k: int
    element: str = "f16"
    shared: int | None = None

    def __str__(self) -> str:
        return f"{self.form}-{self.n}x{self.k}-{self.element}"

    @property
    def tiles(self) -> list[dict[str, int]]:
        tiles = cluster_tiles(self.n, self.k, moments="HAS_MOMENTS" in FORMS[self.form])
        return [tile for tile in tiles if self.shared in (None, tile["SHARED"])]

    @property
    def constants(self) -> list[dict[str, Any]]:
        """What the kernel of each tile is compiled with."""
        plain = dict.fromkeys(("X_NORM", "R_NORM", "HAS_RESIDUAL", "HAS_MOMENTS"), False) | {"ACTIVATION": ""}
        sizes = {"ELEMENT": self.element, "N": self.n, "K": self.k, "X_EPS": 1e-12, "R_EPS": 1e-5, "PDL": True}
        return [{**plain, **sizes, **tile, **FORMS[self.form]} for tile in self.tiles]


def each_type(form: str, n: int, k: int, shared: int | None = None) -> list[Case]:
    return [Case(form, n, k, element, shared) for element in ("f16", "bf16")]


CASES = [
    *(case for form in ("plain", "gelu", "to a sum", "to a norm") for case in each_type(form, 384, 384)),
    *each_type("of a norm", 2304, 768, shared=4),
    *each_type("to the first norm", 768, 768),
    Case("to the last norm", 384, 384),
    *(Case(activation, 384, 384, shared=4) for activation in ACTIVATIONS if activation != "gelu"),
]
"""Every form; what does not depend on the tile or the type, in one."""

SPLIT = [Case("to the last norm", 384, 384), Case("to a norm", 768, 3072)]
"""Every tile that blocks have parts of the sum of."""

WIDE = [
    case
    for form in ("plain", "gelu", "to a sum", "to a norm")
    for n, k in ((768, 768), (768, 3072), (1024, 4096))
    for case in each_type(form, n, k)
]


def compiled(case: Case, folder: Path) -> list[tuple[dict[str, Any], Kernel]]:
    """What each tile is compiled with, and its kernel."""
    sources = [
        Source("linear_cluster", "linear_cluster", (), tuple(constants.items()), warps(constants))
        for constants in case.constants
    ]
    kernels = dict(compile_kernels(sources, "sm_90", SHARED_MEMORY, folder))
    found = [(constants, kernels[source.key]) for constants, source in zip(case.constants, sources, strict=True)]
    return [(constants, kernel) for constants, kernel in found if kernel is not None]


def test_every_tile_is_used() -> None:
    sizes = ((2304, 768), (768, 768), (768, 3072), (1024, 4096), (4096, 1024))
    used = {
        (tile["ROWS"], tile["COLUMNS"], tile["SPLIT"], tile["SHARED"])
        for n, k in sizes
        for tile in Case("plain", n, k).tiles
    }
    assert used == {tile[:4] for tile in CLUSTERS}


@pytest.mark.parametrize("case", [case for case in CASES if case.element == "f16" or case.form == "to a norm"], ids=str)
def test_compiles(case: Case, tmp_path: Path) -> None:
    """For the architecture's own instructions: other machine code has no product of a warpgroup."""
    found = compiled(case, tmp_path)
    assert len(found) == len(case.tiles) > 0
    for constants, kernel in found:
        assert constants.keys() == set(CONSTANTS)
        machine_code = (tmp_path / kernel.file).read_bytes()
        assert machine_code.startswith(b"\x7fELF")
        assert b"sm_90a" in machine_code
        assert kernel.cluster == constants["SPLIT"] * constants["SHARED"]


def test_blocks_read_what_is_there(tmp_path: Path) -> None:
    """No block of any tile arrives at the first barrier before its sums are in its memory, or at the last before it has
    what it reads of the others."""
    found = [each for case in SPLIT for each in compiled(case, tmp_path) if each[0]["SPLIT"] > 1]
    with ThreadPoolExecutor() as pool:
        code = list(pool.map(disassembled, (tmp_path / kernel.file for _, kernel in found)))
        assert all(map(is_published, code))
        rows = [constants["ROWS"] // warps(constants) for constants, _ in found]  # that a thread adds up 4 entries of
        assert {*rows} == {8, 16}  # 16 where no warps help
        assert not any(map(unread, code, rows))
    assert {tuple(constants[name] for name in ("ROWS", "COLUMNS", "SPLIT")) for constants, _ in found} == {
        tile[:3] for tile in CLUSTERS if tile[2] > 1
    }


def test_double_folds_norms() -> None:
    """A product of norm(y), and norm(y) as a residual, from what a product leaves of y: the same in float64."""
    n = k = 128
    constants, given = Case("to the first norm", n, k).constants[0], doubles(arguments("f16", 5, n, k))
    left = results(constants, given)
    w, bias, scale, shift = wide(given["w"]), wide(given["bias"]), wide(given["r_scale"]), wide(draw("f32", n, seed=9))
    norm = PRIMITIVES["layer_norm"].reference(left["y"], scale, shift, eps=1e-12)

    moments = torch.from_numpy(left["y_moments"].reshape(-1))
    folded = {"x": torch.from_numpy(left["y"]), "x_moments": moments, "w": torch.from_numpy(without_mean(w * scale))}
    folded["bias"] = torch.from_numpy(bias + w @ shift)
    found = results(Case("of a norm", n, k).constants[0], {**given, **folded})["y"]
    np.testing.assert_allclose(found, norm @ w.T + bias, rtol=0, atol=1e-12 * np.abs(found).max())

    folded = {"residual": torch.from_numpy(left["y"].reshape(-1)), "r_moments": moments}
    folded["bias"] = torch.from_numpy(bias + shift)
    found = results({**Case("to the last norm", n, k).constants[0], "R_EPS": 1e-12}, {**given, **folded})["y"]
    np.testing.assert_allclose(found, wide(given["x"]) @ w.T + bias + norm, rtol=0, atol=1e-12 * np.abs(found).max())


@pytest.mark.parametrize("deviations", [0, 1, 10])
@pytest.mark.parametrize("element", ["f16", "bf16"])
def test_centred_weights_cost_no_more_than_sums(element: str, deviations: int) -> None:
    """A product of the norm of rows that are so many deviations from 0. Each term is off by u · |y · ŵ| at most for y
    and as much for ŵ, u = 2⁻¹¹ in f16, by either sign: a sum that is off by 5 · u · √(2 Σ (y · ŵ)²) / deviation has a
    chance of 2 · e^(-25/2) = 4e-6 (Hoeffding 1963). A row of ŵ adds up to 0 as it is stored, so that its errors count
    for y - mean alone: they and y's come to √(1 + 1 / (1 + deviations²)) of y's by themselves, and some more where y
    lies further below powers of two than ŵ."""
    rows, n, k = 48, 64, 1024
    y, w = wide(draw("f32", rows, k)) + deviations, wide(draw("f32", n, k, seed=1)) * k**-0.5
    scale, shift, bias = (wide(draw("f32", size, seed=seed)) for size, seed in ((k, 2), (k, 3), (n, 4)))
    exact, stored = without_mean(w * scale), centred(w * scale, element)
    given = {"x_moments": torch.from_numpy(moments_of(y).reshape(-1)), "bias": torch.from_numpy(bias + w @ shift)}
    constants = Case("of a norm", n, k, element).constants[0]
    expected = PRIMITIVES["layer_norm"].reference(y, scale, shift, eps=1e-12) @ w.T + bias

    def off(weight: Any) -> Array:
        x = torch.from_numpy(y).to(TYPES[element])
        return results(constants, {**given, "x": x, "w": weight, "rows": rows})["y"] - expected

    found, of_y_alone = off(torch.from_numpy(stored).to(TYPES[element])), off(torch.from_numpy(exact))
    unit, factor = 2.0 ** -(BITS[element] + 1), 1 / y.std(1, keepdims=True)
    assert (np.abs(found) < 5 * unit * np.sqrt(2 * y**2 @ (exact**2).T) * factor).all()
    assert found.std() < 1.05 * np.sqrt(1 + 1 / (1 + deviations**2)) * of_y_alone.std()


def without_mean(v: Array) -> Array:
    """Of each row."""
    return v - v.mean(1, keepdims=True)


def doubles(given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value if name == "rows" else value.double() for name, value in given.items()}


def arguments(element: str, rows: int, n: int, k: int, seed: int = 0) -> dict[str, Any]:
    """All that the kernel may read. Products, biases and residuals are of one size."""
    x, residual = rows_of(element, rows, k, seed), rows_of(element, rows, n, seed + 1)
    vectors = {"bias": draw("f32", n, seed=seed + 2), "r_scale": draw("f32", n, seed=seed + 4)}
    w = (draw("f32", n, k, seed=seed + 7) * k**-0.5).to(x.dtype)
    moments = {"x_moments": stored_moments(x), "r_moments": stored_moments(residual)}
    return {"x": x, "w": w, "residual": residual.reshape(-1), **vectors, **moments, "rows": rows}


def rows_of(element: str, rows: int, count: int, seed: int) -> Any:
    """Every other row is a hundredth of the size, where 1e-5 beside its variance shows, and some are far from 0."""
    values = draw(element, rows, count, seed=seed)
    values[1::2] *= 0.01
    values[::4] += 1
    return values


def stored_moments(x: Any) -> Any:
    return torch.from_numpy(moments_of(wide(x))).float().reshape(-1).to(DEVICE)


def outputs(element: str, rows: int, n: int) -> dict[str, Any]:
    """Room for y and its moments, and as much behind each as a tile of rows could reach."""
    room = rows + max(tile[0] for tile in CLUSTERS)
    return {"y": nothing(element, room * n), "y_moments": nothing("f32", room * n // GRANULE * 2)}


def assert_left(found: Mapping[str, Any], expected: Mapping[str, Any], element: str) -> None:
    """y is rounded once, by half a unit of each entry; sums in float32 are off by up to 4e-5 of their size, gelu by
    5.5e-5, and moments by less, where that averages out. gelu and gelu_tanh differ by 4.7e-4. Behind results nothing is
    written."""
    bounds = {"y": (2.0 ** -(BITS[element] + 1), 2e-4), "y_moments": (2e-5, 2e-5)}
    for name, tensor in found.items():
        wanted = expected.get(name, np.empty(0)).reshape(-1)
        relative, absolute = bounds[name]
        np.testing.assert_allclose(wide(tensor[: wanted.size]), wanted, rtol=relative, atol=absolute, err_msg=name)
        assert torch.isnan(tensor[wanted.size :]).all(), f"something is written behind {name}"


if DEVICE != "cpu":  # a cluster's memory has no interpreter

    @pytest.mark.parametrize("case", [*CASES, *WIDE], ids=str)
    def test_linear_cluster(case: Case, tmp_path: Path) -> None:
        kernels = compiled(case, tmp_path)
        given = [arguments(case.element, rows, case.n, case.k) for rows in (1, 100, 128, 384)]
        expected = [results(case.constants[0], each) for each in given]
        with closing(Device()) as device, device.current():
            for (constants, kernel), (one, wanted) in product(kernels, zip(given, expected, strict=True)):
                left = outputs(case.element, one["rows"], case.n)
                torch.cuda.synchronize()
                launch(device, tmp_path, constants, kernel, {**one, **left})()
                device.wait()
                assert_left(left, wanted, case.element)

    def test_one_after_another(tmp_path: Path) -> None:
        """The second product is started before the first has ended, by itself and in a graph, and reads what the first
        leaves: of new arguments each time, when nothing is left of the time before."""
        rows, n, k = 384, 384, 384
        firsts, seconds = (compiled(Case(form, n, k), tmp_path) for form in ("to a norm", "gelu"))
        given, left, last = arguments("f16", rows, n, k), outputs("f16", rows, n), outputs("f16", rows, n)
        behind = {**given, "x": left["y"][: rows * n].reshape(rows, n), "x_moments": left["y_moments"]}
        with closing(Device()) as device, device.current():
            for first, second in product(firsts, seconds):
                both = [(first, {**given, **left}), (second, {**behind, **last})]
                launches = [launch(device, tmp_path, *kernel, each) for kernel, each in both]
                graph = device.captured(partial(start, launches))
                for seed, work in enumerate([partial(start, launches), partial(device.replay, graph)] * 2):
                    for name, tensor in arguments("f16", rows, n, k, 10 * seed).items():
                        if name != "rows":
                            given[name].copy_(tensor)
                    for tensor in (*left.values(), *last.values()):
                        tensor.fill_(torch.nan)
                    torch.cuda.synchronize()
                    work()
                    device.wait()
                    assert_left(left, results(first[0], given), "f16")
                    assert_left(last, results(second[0], behind), "f16")
                device.forget(graph)

    @pytest.mark.parametrize("form", ["to a norm", "gelu"])
    def test_the_same_each_time(form: str, tmp_path: Path) -> None:
        """No block adds up sums that have not come: several are on a multiprocessor, and one product starts before the
        other has ended."""
        rows, n, k = 1408, 384, 384
        given = arguments("f16", rows, n, k)
        kernels = [each for each in compiled(Case(form, n, k), tmp_path) if each[0]["SPLIT"] > 1]
        with closing(Device()) as device, device.current():
            for kernel in kernels:
                left = [outputs("f16", rows, n) for _ in range(16)]
                torch.cuda.synchronize()
                graph = device.captured(
                    partial(start, [launch(device, tmp_path, *kernel, {**given, **each}) for each in left])
                )
                for _ in range(20):
                    device.replay(graph)
                    device.wait()
                    first, *others = (each["y"][: rows * n] for each in left)
                    assert all(torch.equal(first, other) for other in others), kernel[0]
                device.forget(graph)

    def start(launches: Sequence[Callable[[], None]]) -> None:
        for each in launches:
            each()

    def launch(device: Device, folder: Path, constants: Mapping[str, Any], kernel: Kernel, given: Any) -> Any:
        grid = grid_of(constants, given)
        return cuda_launching.launch(device, folder, kernel, grid, PARAMETERS, given, constants["ELEMENT"])
