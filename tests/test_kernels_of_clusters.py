"""Products by clusters of blocks: the kernel compiles for every tile, and on a GPU it leaves what its double leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from cluster_double import linear_cluster
from test_kernels import DEVICE, assert_close, draw, nothing, wide

from bertc.kernels.linear_cluster import CONSTANTS, GRANULE, PARAMETERS, warps
from bertc.targets.cuda.clusters import SHARED, TILES, _tiles
from bertc.targets.cuda.compile_kernels import Source, compile_kernels
from bertc.targets.cuda.driver import NUMBER, POINTER, STRUCTURE, Device
from bertc.targets.cuda.plan import Kernel

FORMS = {
    "plain": {},
    "of a norm": {"X_NORM": True, "ACTIVATION": "gelu"},
    "to a norm": {"R_NORM": True, "HAS_RESIDUAL": True, "HAS_MOMENTS": True},
    "to the last norm": {"HAS_RESIDUAL": True},
}
"""What stands around a product."""


def tiles(n: int, k: int, form: str) -> list[dict[str, int]]:
    return _tiles(n, k, moments="HAS_MOMENTS" in FORMS[form])


def compiled(element: str, n: int, k: int, form: str, folder: Path) -> list[tuple[dict[str, Any], Kernel]]:
    """What each tile is compiled with, and its kernel."""
    plain = dict.fromkeys(("X_NORM", "R_NORM", "HAS_RESIDUAL", "HAS_MOMENTS"), False) | {"ACTIVATION": ""}
    sizes = {"ELEMENT": element, "N": n, "K": k, "X_EPS": 1e-12, "R_EPS": 1e-5, "PDL": True}
    every = [{**plain, **sizes, **tile, **FORMS[form]} for tile in tiles(n, k, form)]
    assert all(constants.keys() == set(CONSTANTS) for constants in every)
    sources = [
        Source("linear_cluster", "linear_cluster", (), tuple(constants.items()), warps(constants))
        for constants in every
    ]
    kernels = dict(compile_kernels(sources, "sm_90", SHARED, folder))
    found = [(constants, kernels[source.key]) for constants, source in zip(every, sources, strict=True)]
    return [(constants, kernel) for constants, kernel in found if kernel is not None]


def test_every_tile_is_used() -> None:
    used = {
        (tile["ROWS"], tile["COLUMNS"], tile["SPLIT"], tile["SHARED"])
        for n, k in ((2304, 768), (768, 768), (768, 3072), (1024, 4096), (4096, 1024))
        for tile in tiles(n, k, "plain")
    }
    assert used == {tile[:4] for tile in TILES}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("element", ["f16", "bf16"])
def test_compiles(element: str, form: str, tmp_path: Path) -> None:
    """For the architecture's own instructions: other machine code has no product of a warpgroup."""
    found = compiled(element, 384, 384, form, tmp_path)
    assert len(found) == len(tiles(384, 384, form)) > 1
    for constants, kernel in found:
        machine_code = (tmp_path / kernel.file).read_bytes()
        assert machine_code.startswith(b"\x7fELF")
        assert b"sm_90a" in machine_code
        assert kernel.cluster == constants["SPLIT"] * constants["SHARED"]


def moments_of(x: Any) -> Any:
    rows, count = x.shape
    parts = x.double().reshape(rows, count // GRANULE, GRANULE)
    mean = parts.mean(2)
    return (
        torch.stack([mean, ((parts - mean[..., None]) ** 2).sum(2)], 2).transpose(0, 1).float().contiguous().reshape(-1)
    )


if DEVICE != "cpu":  # a cluster's memory has no interpreter

    @pytest.mark.parametrize("form", FORMS)
    @pytest.mark.parametrize("element", ["f16", "bf16"])
    @pytest.mark.parametrize(("n", "k"), [(768, 768), (768, 3072), (1024, 4096), (384, 384)])
    def test_linear_cluster(n: int, k: int, element: str, form: str, tmp_path: Path) -> None:
        """Two units: y may be rounded the other way, then scaled. Moments are float32's, of sums in another order."""
        device = Device()
        for constants, kernel in compiled(element, n, k, form, tmp_path):
            function = device.function(tmp_path / kernel.file, kernel.entry, kernel.shared)
            for rows in (1, 100, 128, 384):
                given, found = arguments(element, rows, n, k), results(element, rows, n)
                wanted = results(element, rows, n)
                linear_cluster(constants, {**given, **wanted})
                torch.cuda.synchronize()
                values = [value_of(device, name, {**given, **found}[name], kernel, element) for name in PARAMETERS]
                columns = constants["COLUMNS"] * constants["SHARED"]
                grid = (kernel.cluster, n // columns, -(-rows // constants["ROWS"]))
                device.launch(function, grid, kernel.warps, kernel.shared, values, kernel.cluster)
                device.wait()
                assert_close(found["y"], wide(wanted["y"]), element, ulps=2)
                if constants["HAS_MOMENTS"]:
                    torch.testing.assert_close(found["y_moments"], wanted["y_moments"], rtol=2e-5, atol=2e-4)
        device.close()

    def arguments(element: str, rows: int, n: int, k: int) -> dict[str, Any]:
        x, residual = draw(element, rows, k), draw(element, rows, n, seed=1)
        names = ("bias", "w_sums", "r_scale", "r_shift", "y_scale")
        vectors = {name: draw("f32", n, seed=seed) for seed, name in enumerate(names, 2)}
        matrices = {"x": x, "w": draw(element, n, k, seed=7), "residual": residual.reshape(-1)}
        return {**matrices, **vectors, "x_moments": moments_of(x), "r_moments": moments_of(residual), "rows": rows}

    def results(element: str, rows: int, n: int) -> dict[str, Any]:
        return {"y": nothing(element, rows * n), "y_moments": torch.zeros(n // GRANULE * rows * 2, device=DEVICE)}

    def value_of(device: Device, name: str, value: Any, kernel: Kernel, element: str) -> tuple[Any, Any]:
        """A parameter as the driver takes it."""
        if name in ("x", "w"):
            box = kernel.boxes[("x", "w").index(name)]
            rows, columns = value.shape
            return device.tensor_map(value.data_ptr(), element, (rows, columns), columns, box), STRUCTURE
        return (value, NUMBER) if name == "rows" else (value.data_ptr(), POINTER)
