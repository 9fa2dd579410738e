"""Products by warps with roles: the kernel compiles for every tile, and on a GPU it leaves what NumPy does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cuda_launching import launch
from test_kernels import BITS, DEVICE, draw, nothing, wide

from bertc.kernels.linear_specialised import CONSTANTS, PARAMETERS, warps
from bertc.ops import PRIMITIVES
from bertc.targets.cuda.clusters import SHARED_MEMORY
from bertc.targets.cuda.compile_kernels import Source, compile_kernels
from bertc.targets.cuda.driver import Device
from bertc.targets.cuda.elementwise import ACTIVATIONS
from bertc.targets.cuda.plan import Kernel
from bertc.targets.cuda.products import BAND, MULTIPROCESSORS, SPECIALISED

SIZES = ((768, 192), (1024, 1024), (200, 64))
"""n and k: whole tiles of both kinds, columns beyond the last tile, and one step alone."""

FORMS = (("", True), ("gelu", False), ("gelu", True))
"""Activation, and whether there is a residual."""


def compiled(constants: dict[str, Any], folder: Path) -> Iterator[tuple[dict[str, Any], Kernel]]:
    """Each tile's constants and kernel."""
    for rows, columns, stages, shared in SPECIALISED:
        tile = {"ROWS": rows, "COLUMNS": columns, "STAGES": stages, "SHARED": shared}
        every = {**constants, **tile, "BAND": BAND, "PDL": True}
        source = Source("linear_specialised", "linear_specialised", (), tuple(every.items()), warps(every))
        ((_, kernel),) = compile_kernels([source], "sm_90", SHARED_MEMORY, folder)
        assert kernel is not None, f"{tile} wants more memory than there is"
        yield every, kernel


@pytest.mark.parametrize("element", ["f16", "bf16"])
@pytest.mark.parametrize("activation", ["", *ACTIVATIONS])
def test_compiles(activation: str, element: str, tmp_path: Path) -> None:
    has_residual = activation == ""
    constants = {"ELEMENT": element, "N": 3072, "K": 768, "ACTIVATION": activation, "HAS_RESIDUAL": has_residual}
    for every, kernel in compiled(constants, tmp_path):
        assert every.keys() == set(CONSTANTS)
        assert kernel.cluster == every["SHARED"]
        assert b"sm_90a" in (tmp_path / kernel.file).read_bytes()


if DEVICE != "cpu":  # warps with roles have no interpreter

    @pytest.mark.parametrize("element", ["f16", "bf16"])
    @pytest.mark.parametrize(("activation", "has_residual"), FORMS)
    @pytest.mark.parametrize(("n", "k"), SIZES)
    def test_linear_specialised(
        element: str, n: int, k: int, activation: str, has_residual: bool, tmp_path: Path
    ) -> None:
        check(element, n, k, activation, has_residual, tmp_path)

    @pytest.mark.parametrize("activation", [name for name in ACTIVATIONS if name != "gelu"])
    def test_activations(activation: str, tmp_path: Path) -> None:
        check("f16", 768, 192, activation, False, tmp_path)

    def check(element: str, n: int, k: int, activation: str, has_residual: bool, folder: Path) -> None:
        """Every tile: one tile alone, several for each block, and rows beyond the last; nothing is written behind y.
        Half a unit of each result, and of the product, which is rounded before anything is added to it and of which
        gelu makes 1.13 times as much; 2e-4 for sums in float32 and series. gelu and gelu_tanh differ by 4.7e-4."""
        constants = {"ELEMENT": element, "N": n, "K": k, "ACTIVATION": activation, "HAS_RESIDUAL": has_residual}
        w = (draw("f32", n, k, seed=1) * k**-0.5).to(draw(element, 1).dtype)
        bias = draw(element, n, seed=2)
        tiles = list(compiled(constants, folder))
        with closing(Device()) as device, device.current():
            for rows in (1, 1000, 9000):
                x, residual = draw(element, rows, k), draw(element, rows, n, seed=3)
                product = wide(x) @ wide(w).T
                total = product + wide(bias) + (wide(residual) if has_residual else 0.0)
                expected = PRIMITIVES[activation].reference(total) if activation else total
                bound = 2.0 ** -(BITS[element] + 1) * (1.13 * np.abs(product) + np.abs(expected)) + 2e-4
                for _, kernel in tiles:
                    y = nothing(element, rows + 256, n)
                    given = {"x": x, "w": w, "bias": bias, "residual": residual, "y": y, "rows": rows}
                    torch.cuda.synchronize()
                    launch(device, folder, kernel, (MULTIPROCESSORS, 1, 1), PARAMETERS, given, element)()
                    device.wait()
                    assert torch.isnan(y[rows:]).all()
                    assert (np.abs(wide(y[:rows]) - expected) <= bound).all()
