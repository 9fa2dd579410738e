"""Kernels in CUDA C++ in float64: what they leave of their arguments, also without a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from bertc.kernels.hopper import DEPTH, GRANULE
from bertc.ops import PRIMITIVES, Array
from bertc.targets.cuda.hopper import MULTIPROCESSORS


def launch(constants: Mapping[str, Any], given: Mapping[str, Any], grid: tuple[int, ...]) -> None:
    """Fill what a kernel writes. Matrices are two-dimensional tensors, all else as the kernel is given it."""
    if "GROUPS" in constants:
        assert grid == (MULTIPROCESSORS, 1, 1)
        found = {"context": context(constants, given)}
    elif "HEADS" in constants:
        clusters, batch, _ = grid
        assert clusters == 6 * constants["HEADS"]
        found = {"context": projected_context(constants, {**given, "batch": batch})}
    else:
        assert grid == grid_of(constants, given)
        found = results(constants, given)
        rows = rows_of(constants, given)
        of_rows = {"y": (rows, ...), "y_moments": (slice(None), rows)}
        for name, wanted in found.items():
            memory = given[name][: wanted.size].reshape(wanted.shape)
            memory[of_rows[name]] = torch.from_numpy(wanted[of_rows[name]]).to(memory.dtype)
        return
    for name, wanted in found.items():
        given[name][: wanted.size] = torch.from_numpy(wanted).reshape(-1).to(given[name].dtype)


def rows_of(constants: Mapping[str, Any], given: Mapping[str, Any]) -> slice:
    """Those that a kernel takes; of the kernels that share them, the one that leads has the first, LED at a time."""
    rows, led = given["rows"], constants.get("LED", 0)
    if not led:
        return slice(0, rows)
    whole, blocks = rows // led, given["leading"] + given["following"]
    first = led * min(whole, -(-whole * given["leading"] // blocks))
    return slice(0, first) if constants["LEADS"] else slice(first, rows)


def grid_of(constants: Mapping[str, Any], given: Mapping[str, Any]) -> tuple[int, int, int]:
    """Blocks of a cluster; clusters that have the columns, and the rows; or as many blocks as there is room for, which
    kernels that share the rows are told."""
    if "SPLIT" in constants:
        columns = constants["COLUMNS"] * constants["SHARED"]
        down = -(-given["rows"] // constants["ROWS"])
        return constants["SPLIT"] * constants["SHARED"], constants["N"] // columns, down
    if constants["LED"]:
        return given["leading" if constants["LEADS"] else "following"], 1, 1
    return MULTIPROCESSORS, 1, 1


def results(constants: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Array]:
    """y [rows, n], and y_moments [n / GRANULE, rows, 2] where the kernel has them."""
    rows, n, k = given["rows"], constants["N"], constants["K"]

    def vector(name: str) -> Array:
        return _wide(given[name][:n])

    y = _wide(given["x"]) @ _wide(given["w"]).T
    if constants["X_NORM"]:
        y *= factors(given["x_moments"], rows, k, constants["X_EPS"])[1]
    y += vector("bias")
    if constants["HAS_RESIDUAL"]:
        residual = _wide(given["residual"][: rows * n]).reshape(rows, n)
        if constants["R_NORM"]:
            mean, factor = factors(given["r_moments"], rows, n, constants["R_EPS"])
            residual = (residual - mean) * factor * vector("r_scale")
        y += residual
    if constants["ACTIVATION"]:
        y = PRIMITIVES[constants["ACTIVATION"]].reference(y)
    return {"y": y, "y_moments": moments_of(y)} if constants["HAS_MOMENTS"] else {"y": y}


def context(constants: Mapping[str, Any], given: Mapping[str, Any]) -> Array:
    """attention_specialised.cu: [rows, heads · size], where no sequence is the memory's own."""
    heads, batch, seq = constants["HEADS"], given["batch"], given["seq"]
    query, key, value = (_wide(given[name]).reshape(len(given[name]), heads, -1) for name in ("query", "key", "value"))
    mixed = _wide(given["context"][: query.size]).reshape(query.shape)
    for sequence in range(batch):
        length = int(given["lengths"][sequence]) if constants["HAS_LENGTHS"] else seq
        start = int(given["starts"][sequence]) if constants["PACKED"] else sequence * seq
        rows = slice(start, start + (length if constants["PACKED"] else seq))
        keys = slice(start, start + length)
        if length == 0:
            continue  # nobody asks what becomes of it
        scores = np.einsum("qhd,khd->hqk", query[rows], key[keys]) * constants["SCALE"]
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        mixed[rows] = np.einsum("hqk,khd->qhd", weights / weights.sum(-1, keepdims=True), value[keys])
    return mixed


def projected_context(constants: Mapping[str, Any], given: Mapping[str, Any]) -> Array:
    """qkv_attention.cu: query, key and value are rounded to x's type, as between two kernels."""
    n = constants["HEADS"] * 3 * DEPTH
    projection = {**constants, "N": n, "ACTIVATION": "", "HAS_RESIDUAL": False, "HAS_MOMENTS": False}
    masked = {**constants, "HAS_LENGTHS": True}
    rounded = torch.from_numpy(results(projection, given)["y"]).to(given["x"].dtype)
    return context(masked, {**given, **dict(zip(("query", "key", "value"), rounded.chunk(3, 1), strict=True))})


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
