"""What linear_cluster.cu is given in front of it. CUDA C++, since in Triton blocks of a cluster cannot share memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bertc.kernels import hopper

PARAMETERS = (
    *("x", "w", "bias", "x_moments", "w_sums", "residual", "r_moments", "r_scale", "r_shift"),
    *("y", "y_moments", "y_scale", "rows"),
)
"""The kernel's, in order. x and w come in CHUNK boxes at once, [ROWS or COLUMNS, DEPTH] each; bias, w_sums, r_scale,
r_shift and y_scale are float32 [N]; moments float32 [N or K / GRANULE, rows, 2]."""

CONSTANTS = (
    *("ELEMENT", "N", "K", "ROWS", "COLUMNS", "SPLIT", "SHARED", "CHUNK", "STAGES"),
    *("ACTIVATION", "X_NORM", "R_NORM", "HAS_RESIDUAL", "HAS_MOMENTS", "X_EPS", "R_EPS", "PDL"),
)

GRANULE = 64
"""Columns that have moments of their own."""


def source(constants: Mapping[str, Any]) -> str:
    """The kernel for one product, of all CONSTANTS."""
    return hopper.source("linear_cluster.cu", constants, shared_bytes(constants))


def boxes(constants: Mapping[str, Any]) -> tuple[tuple[int, int, int], ...]:
    """Rows and columns of a box of x and of w, and how many are loaded at once."""
    return tuple((constants[side], hopper.DEPTH, constants["CHUNK"]) for side in ("ROWS", "COLUMNS"))


def cluster(constants: Mapping[str, Any]) -> int:
    """Blocks of a cluster."""
    return constants["SPLIT"] * constants["SHARED"]


def warps(constants: Mapping[str, Any]) -> int:
    """Of a block."""
    return constants["ROWS"] // 8


def shared_bytes(constants: Mapping[str, Any]) -> int:
    """Of shared memory that a block has: `Memory` in the kernel."""
    rows, columns = constants["ROWS"], constants["COLUMNS"]
    operands = 2 * constants["STAGES"] * constants["CHUNK"] * (rows + columns) * hopper.DEPTH
    sums = 4 * rows * (columns + 8)
    return max(operands, sums) + 16 * (rows // constants["SPLIT"]) + 8 * constants["STAGES"]
