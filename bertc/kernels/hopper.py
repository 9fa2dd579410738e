"""What the compiler is given for kernels in CUDA C++: sizes as macros, the tensor cores' instruction for a tile, and
hopper.cuh in front of the kernel's own file."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

DEPTH = 64
"""Columns of x and w that lie together in shared memory: 128 bytes, the widest swizzle."""

GRANULE = 64
"""Columns that have moments of their own."""

PARAMETERS = (
    *("x", "w", "bias", "x_moments", "residual", "r_moments", "r_scale"),
    *("y", "y_moments", "rows"),
)
"""A product's, in order: bias and r_scale are float32 [N]; moments float32 [N or K / GRANULE, rows, 2]."""

ENDS = ("ACTIVATION", "X_NORM", "R_NORM", "HAS_RESIDUAL", "HAS_MOMENTS", "X_EPS", "R_EPS", "PDL")
"""What is fixed of what stands around a product."""


def source(constants: Mapping[str, Any], bytes: int, macros: Mapping[str, str], *names: str) -> str:
    """A kernel's files with what is fixed: `constants`, the bytes of shared memory that it has, and other macros."""
    element = constants["ELEMENT"]
    every = {name: int(value) for name, value in constants.items() if isinstance(value, int)} | {
        **{name: f"{value!r}f" for name, value in constants.items() if isinstance(value, float)},
        "ELEMENT": f'"{element}"',
        "BYTES": bytes,
        "DEPTH": DEPTH,
        "GRANULE": GRANULE,
        "BF16": int(element == "bf16"),
        **macros,
    }
    texts = [files(__package__).joinpath(name).read_text("utf-8") for name in ("hopper.cuh", *names)]
    return "".join(f"#define {name} {value}\n" for name, value in every.items()) + "\n".join(texts)


def multiply(element: str, columns: int) -> dict[str, str]:
    """MULTIPLY is sums + left · rightᵀ of 64 rows, so many columns and 16 of both operands, or without `sums` where its
    last operand is 0; SUMS are its first, the registers that a thread has of the sums."""
    count = columns // 2
    left, right, more = (f"%{count + index}" for index in range(3))
    return {
        "MULTIPLY": _instruction(element, columns, f"{left}, {right}", more, "0, 0"),
        "SUMS": _registers("sums", count),
    }


def score(element: str, columns: int) -> dict[str, str]:
    """SCORE is scores + left · rightᵀ as MULTIPLY is, but `left` lies in four registers. SCORES are its first
    operands."""
    count = columns // 2
    *left, right, more = (f"%{count + index}" for index in range(6))
    return {
        "SCORE": _instruction(element, columns, f"{{{', '.join(left)}}}, {right}", more, "0"),
        "SCORES": _registers("scores", count),
    }


def mix(element: str, columns: int) -> dict[str, str]:
    """MIX is mixed + left · right of 64 rows, so many columns and 16 rows of the right; `left` lies in four registers.
    MIXED are its first operands."""
    count = columns // 2
    *left, right = (f"%{count + index}" for index in range(5))
    return {
        "MIX": _instruction(element, columns, f"{{{', '.join(left)}}}, {right}", "1", "1"),
        "MIXED": _registers("mixed", count),
    }


def _instruction(element: str, columns: int, operands: str, more: str, turned: str) -> str:
    """wgmma of 64 rows; `turned`: which operands in shared memory lie the other way."""
    sums = ", ".join(f"%{index}" for index in range(columns // 2))
    name = f"wgmma.mma_async.sync.aligned.m64n{columns}k16.f32.{element}.{element}"
    lines = (
        ".reg .pred more;",
        f"setp.ne.b32 more, {more}, 0;",
        f"{name} {{{sums}}}, {operands}, more, 1, 1, {turned};",
    )
    return '"{' + "".join(f"{line}\\n" for line in lines) + '}"'


def _registers(name: str, count: int) -> str:
    return ", ".join(f'"+f"({name}[{index}])' for index in range(count))
