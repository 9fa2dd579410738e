"""What linear_specialised.cu is given in front of it. CUDA C++, since Triton has neither clusters nor tiles whose sides
are no powers of two, of which 3072 rows make just as many as an H200 has multiprocessors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bertc.kernels import hopper

PARAMETERS = (*hopper.PARAMETERS, "leading", "following")
"""x and w come in boxes of [ROWS / OVER, DEPTH] and [COLUMNS / DOWN, DEPTH]; then, where two kernels share rows, the
blocks of the one that leads and of the one that follows."""

CONSTANTS = (*("ELEMENT", "N", "K", "ROWS", "COLUMNS", "STAGES", "DOWN", "OVER", "LED", "LEADS"), *hopper.ENDS)
"""LED: rows that a cluster of the kernel that leads takes at once; 0 where one kernel takes all."""


def source(constants: Mapping[str, Any]) -> str:
    """The kernel for one product, of all CONSTANTS."""
    element, activation = constants["ELEMENT"], constants["ACTIVATION"]
    ends_there = not constants["HAS_RESIDUAL"] and not constants["HAS_MOMENTS"]
    macros = hopper.multiply(element, constants["COLUMNS"]) | {
        "ACTIVATE": activation,
        "IS_ACTIVATED": str(int(activation != "")),
        "IN_PAIRS": str(int(element == "f16" and activation == "gelu" and ends_there)),
    }
    return hopper.source(
        constants, shared_bytes(constants), macros, "linear_specialised_ends.cuh", "linear_specialised.cu"
    )


def boxes(constants: Mapping[str, Any]) -> tuple[tuple[int, int, int], ...]:
    """Rows and columns of what is loaded of x and w at once; 0 for one such box."""
    x, w = constants["ROWS"] // constants["OVER"], constants["COLUMNS"] // constants["DOWN"]
    return (x, hopper.DEPTH, 0), (w, hopper.DEPTH, 0)


def cluster(constants: Mapping[str, Any]) -> int:
    """Blocks of a cluster."""
    return constants["DOWN"] * constants["OVER"]


def warps(constants: Mapping[str, Any]) -> int:
    """Of a block."""
    return constants["ROWS"] // 16 + 4


def shared_bytes(constants: Mapping[str, Any]) -> int:
    """Of shared memory that a block has: `Memory` in the kernel."""
    rows, columns, stages = (constants[name] for name in ("ROWS", "COLUMNS", "STAGES"))
    operands = 2 * stages * (rows + columns) * hopper.DEPTH
    return operands + 2 * rows * columns + 16 * rows + 16 * stages + 16 * (rows // 64)
