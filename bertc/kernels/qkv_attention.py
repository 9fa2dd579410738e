"""What qkv_attention.cu is given in front of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bertc.kernels import hopper

SIZE = hopper.DEPTH
"""Of a head."""

TOKENS = 128
"""Of a sequence, at most."""

ROWS, PARTS = TOKENS // 2, 3
"""Of a block; and blocks of the same rows."""

PARAMETERS = ("x", "w", "bias", "x_moments", "starts", "lengths", "context", "seq", "rows")
"""x [rows, K] and w [3 · HEADS · SIZE, K] come in boxes of [ROWS, DEPTH]; bias is float32, x_moments as a product's;
starts and lengths are int32 [batch], and no kernel's."""

CONSTANTS = ("ELEMENT", "K", "HEADS", "SCALE", "PACKED", "STAGES", "X_NORM", "X_EPS", "PDL")


def source(constants: Mapping[str, Any]) -> str:
    """The kernel for one number of heads, of all CONSTANTS."""
    element = constants["ELEMENT"]
    macros = hopper.multiply(element, SIZE) | hopper.score(element, TOKENS) | hopper.mix(element, SIZE)
    return hopper.source(constants, shared_bytes(constants), macros, "qkv_attention.cu")


def boxes(constants: Mapping[str, Any]) -> tuple[tuple[int, int, int], ...]:
    """Rows and columns of what is loaded of x and w at once; 0 for one such box."""
    return (ROWS, hopper.DEPTH, 0), (SIZE, hopper.DEPTH, 0)


def cluster(constants: Mapping[str, Any]) -> int:
    """Blocks of a cluster."""
    return TOKENS // ROWS * PARTS


def warps(constants: Mapping[str, Any]) -> int:
    """Of a block."""
    return ROWS // 16 + 1


def shared_bytes(constants: Mapping[str, Any]) -> int:
    """Of shared memory that a block has: `Memory` in the kernel."""
    boxes, stages = constants["K"] // hopper.DEPTH, constants["STAGES"]
    return 2 * ROWS * hopper.DEPTH * (boxes + stages + 4) + 8 * (boxes + stages) + 16
