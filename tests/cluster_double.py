"""Kernels in CUDA C++ in float64: what they leave of their arguments, with a GPU and without."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from bertc.kernels.linear_cluster import GRANULE
from bertc.ops import PRIMITIVES, Array


def linear_cluster(constants: Mapping[str, Any], given: Mapping[str, Any], grid: tuple[int, ...]) -> None:
    """linear_cluster.cu: fill y and y_moments. Matrices are two-dimensional tensors, all else is as for the kernel."""
    assert grid == grid_of(constants, given["rows"])
    for name, wanted in results(constants, given).items():
        given[name][: wanted.size] = torch.from_numpy(wanted).reshape(-1).to(given[name].dtype)


def linear_specialised(constants: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """linear_specialised.cu in float64: fill y, of a product that is rounded to its type first."""
    rows, n, y = given["rows"], constants["N"], given["y"]
    total = _wide((given["x"].double() @ given["w"].double().T).to(y.dtype)) + _wide(given["bias"][:n])
    if constants["HAS_RESIDUAL"]:
        total += _wide(given["residual"][: rows * n]).reshape(rows, n)
    if constants["ACTIVATION"]:
        total = PRIMITIVES[constants["ACTIVATION"]].reference(total)
    y[: rows * n] = torch.from_numpy(total).reshape(-1).to(y.dtype)


def grid_of(constants: Mapping[str, Any], rows: int) -> tuple[int, int, int]:
    """Blocks of a cluster; clusters that have the columns, and the rows."""
    columns = constants["COLUMNS"] * constants["SHARED"]
    return constants["SPLIT"] * constants["SHARED"], constants["N"] // columns, -(-rows // constants["ROWS"])


def results(constants: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Array]:
    """y [rows, n], and y_moments [n / GRANULE, rows, 2] where the kernel has them."""
    rows, n, k = given["rows"], constants["N"], constants["K"]

    def vector(name: str) -> Array:
        return _wide(given[name][:n])

    y = _wide(given["x"]) @ _wide(given["w"]).T
    if constants["X_NORM"]:
        mean, factor = factors(given["x_moments"], rows, k, constants["X_EPS"])
        y = (y - mean * vector("w_sums")) * factor
    y += vector("bias")
    if constants["HAS_RESIDUAL"]:
        residual = _wide(given["residual"][: rows * n]).reshape(rows, n)
        if constants["R_NORM"]:
            mean, factor = factors(given["r_moments"], rows, n, constants["R_EPS"])
            residual = (residual - mean * vector("r_scale")) * factor + vector("r_shift")
        y += residual
    if constants["ACTIVATION"]:
        y = PRIMITIVES[constants["ACTIVATION"]].reference(y)
    return {"y": y * vector("y_scale"), "y_moments": moments_of(y)} if constants["HAS_MOMENTS"] else {"y": y}


def moments_of(values: Array) -> Array:
    """[count / GRANULE, rows, 2] of rows of `count` entries: each granule's mean, and sum of squares around that."""
    parts = values.reshape(len(values), -1, GRANULE)
    mean = parts.mean(2)
    return np.stack([mean, ((parts - mean[..., None]) ** 2).sum(2)], 2).transpose(1, 0, 2)


def factors(moments: Any, rows: int, count: int, eps: float) -> tuple[Array, Array]:
    """[rows, 1] each: mean and 1 / deviation of rows of `count` entries."""
    parts = count // GRANULE
    of = _wide(moments[: parts * rows * 2]).reshape(parts, rows, 2)
    mean = of[..., 0].mean(0)
    squares = (of[..., 1] + GRANULE * (of[..., 0] - mean) ** 2).sum(0)
    return mean[:, None], 1 / np.sqrt(squares / count + eps)[:, None]


def _wide(values: Any) -> Array:
    return values.double().cpu().numpy()
