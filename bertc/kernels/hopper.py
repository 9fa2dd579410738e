"""What the compiler is given for kernels in CUDA C++: sizes as macros, the tensor cores' instruction for a tile, and
hopper.cuh in front of the kernel's own file."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

DEPTH = 64
"""Columns of x and w that lie together in shared memory: 128 bytes, the widest swizzle."""


def source(file: str, constants: Mapping[str, Any], bytes: int) -> str:
    """A kernel's file with what is fixed: `constants`, and the bytes of shared memory that it has.

    MULTIPLY is sums + left · rightᵀ of 64 rows, constants["COLUMNS"] and 16 columns of both, or without `sums` where
    its last operand is 0; SUMS are its first, the registers that a thread has of the sums.
    """
    columns, element = constants["COLUMNS"], constants["ELEMENT"]
    count = columns // 2
    registers = ", ".join(f"%{index}" for index in range(count))
    left, right, more = (f"%{count + index}" for index in range(3))
    instruction = f"wgmma.mma_async.sync.aligned.m64n{columns}k16.f32.{element}.{element}"
    multiply = [
        ".reg .pred more;",
        f"setp.ne.b32 more, {more}, 0;",
        f"{instruction} {{{registers}}}, {left}, {right}, more, 1, 1, 0, 0;",
    ]
    macros = {name: int(value) for name, value in constants.items() if isinstance(value, int)} | {
        **{name: f"{value!r}f" for name, value in constants.items() if isinstance(value, float)},
        "ACTIVATE": constants["ACTIVATION"],
        "ELEMENT": f'"{element}"',
        "BYTES": bytes,
        "DEPTH": DEPTH,
        "BF16": int(element == "bf16"),
        "MULTIPLY": '"{' + "".join(f"{line}\\n" for line in multiply) + '}"',
        "SUMS": ", ".join(f'"+f"(sums[{index}])' for index in range(count)),
    }
    texts = [files(__package__).joinpath(name).read_text("utf-8") for name in ("hopper.cuh", file)]
    return "".join(f"#define {name} {value}\n" for name, value in macros.items()) + "\n".join(texts)
