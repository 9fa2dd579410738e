"""What linear_cluster.cu is given in front of it. CUDA C++, since in Triton blocks of a cluster cannot share memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bertc.kernels import hopper

PARAMETERS = hopper.PARAMETERS
"""x and w come in CHUNK boxes at once, [ROWS or COLUMNS, DEPTH] each."""

CONSTANTS = (*("ELEMENT", "N", "K", "ROWS", "COLUMNS", "SPLIT", "SHARED", "CHUNK", "STAGES"), *hopper.ENDS)


def source(constants: Mapping[str, Any]) -> str:
    """The kernel for one product, of all CONSTANTS."""
    macros = hopper.multiply(constants["ELEMENT"], constants["COLUMNS"])
    macros |= {"ACTIVATE": constants["ACTIVATION"], "WARPS": str(warps(constants))}
    return hopper.source(constants, shared_bytes(constants), macros, "linear_cluster.cu")


def boxes(constants: Mapping[str, Any]) -> tuple[tuple[int, int, int], ...]:
    """Rows and columns of a box of x and of w, and how many are loaded at once."""
    return tuple((constants[side], hopper.DEPTH, constants["CHUNK"]) for side in ("ROWS", "COLUMNS"))


def cluster(constants: Mapping[str, Any]) -> int:
    """Blocks of a cluster."""
    return constants["SPLIT"] * constants["SHARED"]


def warps(constants: Mapping[str, Any]) -> int:
    """Of a block: those that multiply, and where there are registers for them as many that help behind the sum."""
    return constants["ROWS"] // (16 if constants["ROWS"] > 128 else 8)


def shared_bytes(constants: Mapping[str, Any]) -> int:
    """Of shared memory that a block has: `Memory` in the kernel."""
    rows, columns = constants["ROWS"], constants["COLUMNS"]
    operands = 2 * constants["STAGES"] * constants["CHUNK"] * (rows + columns) * hopper.DEPTH
    sums = 4 * rows * (columns + 8)
    return max(operands, sums) + 12 * (rows // constants["SPLIT"]) + 8 * constants["STAGES"]
