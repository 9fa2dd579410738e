"""What linear_cluster.cu is given in front of it: sizes as macros, and the tensor cores' instruction for a tile.

CUDA C++, since Triton cannot say what the blocks of a cluster share.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

PARAMETERS = (
    *("x", "w", "bias", "x_moments", "w_sums", "residual", "r_moments", "r_scale", "r_shift"),
    *("y", "y_moments", "y_scale", "rows"),
)
"""The kernel's, in order. x and w come in CHUNK boxes at once, [ROWS or COLUMNS, DEPTH] each; bias, w_sums, r_scale,
r_shift and y_scale are float32 [N]; moments float32 [N or K / GRANULE, rows, 2]."""

CONSTANTS = (
    *("ELEMENT", "N", "K", "ROWS", "COLUMNS", "DEPTH", "SPLIT", "SHARED", "CHUNK", "STAGES"),
    *("ACTIVATION", "X_NORM", "R_NORM", "HAS_RESIDUAL", "HAS_MOMENTS", "X_EPS", "R_EPS", "PDL"),
)

GRANULE = 64
"""Columns that have moments of their own."""


def source(constants: Mapping[str, Any]) -> str:
    """The kernel for one product, of all CONSTANTS."""
    columns, element = constants["COLUMNS"], constants["ELEMENT"]
    count = columns // 2
    registers = ", ".join(f"%{index}" for index in range(count))
    instruction = f"wgmma.mma_async.sync.aligned.m64n{columns}k16.f32.{element}.{element}"
    macros = {name: int(value) for name, value in constants.items() if isinstance(value, int)} | {
        **{name: f"{constants[name]!r}f" for name in ("X_EPS", "R_EPS")},
        "ACTIVATE": constants["ACTIVATION"],
        "ELEMENT": f'"{element}"',
        "BYTES": shared_bytes(constants),
        "BF16": int(element == "bf16"),
        "MULTIPLY": f'"{instruction} {{{registers}}}, %{count}, %{count + 1}, 1, 1, 1, 0, 0;"',
        "SUMS": ", ".join(f'"+f"(sums[{index}])' for index in range(count)),
    }
    lines = "".join(f"#define {name} {value}\n" for name, value in macros.items())
    return lines + files(__package__).joinpath("linear_cluster.cu").read_text("utf-8")


def warps(constants: Mapping[str, Any]) -> int:
    """Of a block."""
    return constants["ROWS"] // 8


def shared_bytes(constants: Mapping[str, Any]) -> int:
    """Of shared memory that a block has: `Memory` in the kernel."""
    rows, columns = constants["ROWS"], constants["COLUMNS"]
    operands = 2 * constants["STAGES"] * constants["CHUNK"] * (rows + columns) * constants["DEPTH"]
    sums = 4 * rows * (columns + (0 if columns % 16 else 8))
    return max(operands, sums) + 16 * (rows // constants["SPLIT"]) + 8 * constants["STAGES"]
