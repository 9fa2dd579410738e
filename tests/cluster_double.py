"""linear_cluster.cu in float64 by torch: what the kernel leaves of its arguments, with a GPU and without."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from bertc.kernels.linear_cluster import GRANULE
from bertc.ops import PRIMITIVES


def linear_cluster(constants: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Fill y and y_moments. Matrices are two-dimensional tensors, all else as the kernel is given it."""
    rows, n, k = given["rows"], constants["N"], constants["K"]
    total = given["x"].double() @ given["w"].double().T
    if constants["X_NORM"]:
        mean, factor = factors(given["x_moments"], rows, k, constants["X_EPS"])
        total = (total - mean * given["w_sums"][:n].double()) * factor
    total += given["bias"][:n].double()
    if constants["HAS_RESIDUAL"]:
        residual = given["residual"][: rows * n].reshape(rows, n).double()
        if constants["R_NORM"]:
            mean, factor = factors(given["r_moments"], rows, n, constants["R_EPS"])
            residual = (residual - mean * given["r_scale"][:n].double()) * factor + given["r_shift"][:n].double()
        total += residual
    if constants["ACTIVATION"]:
        total = torch.from_numpy(PRIMITIVES[constants["ACTIVATION"]].reference(total.cpu().numpy())).to(total.device)
    if constants["HAS_MOMENTS"]:
        parts = total.reshape(rows, n // GRANULE, GRANULE)
        mean = parts.mean(2)
        moments = torch.stack([mean, ((parts - mean[..., None]) ** 2).sum(2)], 2).transpose(0, 1).reshape(-1)
        given["y_moments"][: moments.numel()] = moments.to(given["y_moments"].dtype)
        total *= given["y_scale"][:n].double()
    given["y"][: rows * n] = total.reshape(-1).to(given["y"].dtype)


def factors(moments: Any, rows: int, count: int, eps: float) -> tuple[Any, Any]:
    """[rows, 1] each: mean and 1 / deviation of rows of `count` entries."""
    parts = count // GRANULE
    of = moments[: parts * rows * 2].reshape(parts, rows, 2).double()
    mean = of[..., 0].mean(0)
    squares = (of[..., 1] + GRANULE * (of[..., 0] - mean) ** 2).sum(0)
    return mean[:, None], (squares / count + eps).rsqrt()[:, None]
