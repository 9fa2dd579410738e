"""What attention_specialised.cu is given in front of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bertc.kernels import hopper

SIZE = 64
"""Of a head: what the copy engine's widest swizzle takes."""

PARAMETERS = ("query", "key", "value", "starts", "lengths", "context", "batch", "seq")
"""query, key and value come in boxes of [64 · GROUPS, SIZE] and twice [KEYS, SIZE]; starts and lengths are int32
[batch]."""

CONSTANTS = ("ELEMENT", "HEADS", "SCALE", "PACKED", "HAS_LENGTHS", "GROUPS", "KEYS", "STAGES", "PDL")


def source(constants: Mapping[str, Any]) -> str:
    """The kernel for one number of heads, of all CONSTANTS."""
    element = constants["ELEMENT"]
    macros = hopper.multiply(element, constants["KEYS"]) | hopper.mix(element, SIZE) | {"SIZE": str(SIZE)}
    return hopper.source(constants, shared_bytes(constants), macros, "attention_specialised.cu")


def boxes(constants: Mapping[str, Any]) -> tuple[tuple[int, int, int], ...]:
    """Rows and columns of what is loaded of query, key and value at once; 0 for one such box."""
    keys = (constants["KEYS"], SIZE, 0)
    return (64 * constants["GROUPS"], SIZE, 0), keys, keys


def cluster(constants: Mapping[str, Any]) -> int:
    """Blocks of a cluster."""
    return 1


def warps(constants: Mapping[str, Any]) -> int:
    """Of a block."""
    return 4 * constants["GROUPS"] + 4


def shared_bytes(constants: Mapping[str, Any]) -> int:
    """Of shared memory that a block has: `Memory` in the kernel."""
    groups, keys, stages = (constants[name] for name in ("GROUPS", "KEYS", "STAGES"))
    return 2 * SIZE * (3 * 64 * groups + 2 * keys * stages) + 32 + 32 * stages
