"""Kernels to machine code, with or without a GPU: Triton's, and those in CUDA C++ by NVIDIA's run-time compiler."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from bertc.targets.cuda.nvrtc import compile_text
from bertc.targets.cuda.plan import Box, Kernel
from bertc.version import VERSION

HOPPER = "sm_90"
"""The architecture that kernels in CUDA C++ are for."""

SWIZZLE = 3
"""CU_TENSOR_MAP_SWIZZLE_128B: how boxes lie in shared memory for kernels in CUDA C++."""

TYPES = {"f32": "fp32", "f16": "fp16", "bf16": "bf16", "i32": "i32"}
"""Triton's names of element types."""


@dataclass(frozen=True)
class Source:
    """A kernel function with everything that is fixed when it is compiled."""

    file: str
    """The stem of one of bertc's kernels, else the name of an extension's module."""
    function: str
    types: tuple[tuple[str, str], ...]
    """Parameter -> `*f16` for an address that 16 divides, `*f16?` for any, `i32` for a number, `i32*16` for one that 16
    divides, `f16[128, 64]` for boxes; in the function's order."""
    constants: tuple[tuple[str, Any], ...]
    warps: int

    @property
    def key(self) -> str:
        """What the plan calls it: the function, and a digest of all the rest."""
        digest = hashlib.sha256(repr((VERSION, self.types, self.constants, self.warps)).encode()).hexdigest()
        return f"{self.function}-{digest[:12]}"


def parameters(file: str, function: str) -> list[str]:
    """The names of a kernel's parameters, in order, and of what is fixed when it is compiled."""
    if is_cuda(file):
        return [*_module(file).PARAMETERS, *_module(file).CONSTANTS]
    return list(kernel_function(file, function).arg_names)


def compile_kernels(
    sources: Sequence[Source], architecture: str, shared: int, folder: Path
) -> Iterator[tuple[str, Kernel | None]]:
    """Compile each source for one architecture (`sm_90`) and write its machine code into a folder: its key with the
    kernel, or with None where it wants more than `shared` bytes of shared memory. Side by side, those in CUDA C++
    first: a compiler that is missing is none to wait for."""

    def compiled(source: Source) -> tuple[str, Kernel | None]:
        kernel, machine_code = (_compile_cuda if is_cuda(source.file) else _compile_triton)(source, architecture)
        if kernel.shared > shared:
            return source.key, None
        (folder / kernel.file).write_bytes(machine_code)
        return source.key, kernel

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(compiled, sorted(sources, key=lambda source: not is_cuda(source.file)))


def is_cuda(file: str) -> bool:
    """Whether a kernel is CUDA C++: its module then says what the compiler is given. Extensions' are Triton's."""
    return "." not in file and hasattr(_module(file), "source")


def kernel_function(file: str, function: str) -> Any:
    """The function as Triton declares it."""
    return getattr(_module(file), function)


def _module(file: str) -> Any:
    return import_module(file if "." in file else f"bertc.kernels.{file}")


def _compile_triton(source: Source, architecture: str) -> tuple[Kernel, bytes]:
    compiled = compile_source(source, int(architecture.removeprefix("sm_")))
    metadata = compiled.metadata
    boxes = tuple(Box(of["block_size"][0], of["block_size"][1], of["swizzle"]) for of in metadata.tensordesc_meta)
    kernel = Kernel(f"{source.key}.cubin", metadata.name, metadata.num_warps, metadata.shared, boxes)
    return kernel, compiled.asm["cubin"]


def _compile_cuda(source: Source, architecture: str) -> tuple[Kernel, bytes]:
    """By NVRTC, for this architecture's own instructions (`sm_90a`). Raises BertcError B0501 where it is missing."""
    constants, module = dict(source.constants), _module(source.file)
    compiled = compile_text(module.source(constants), f"{architecture}a")
    boxes = tuple(Box(rows, columns, SWIZZLE, count) for rows, columns, count in module.boxes(constants))
    kernel = Kernel(
        f"{source.key}.cubin",
        source.function,
        source.warps,
        module.shared_bytes(constants),
        boxes,
        module.cluster(constants),
    )
    return kernel, compiled


def compile_source(source: Source, capability: int) -> Any:
    """Triton's result for one compute capability (90): `asm` by language, and `metadata`."""
    triton: Any = import_module("triton")
    compiler: Any = import_module("triton.compiler")
    backends: Any = import_module("triton.backends.compiler")
    function = kernel_function(source.file, source.function)
    types, constants = dict(source.types), dict(source.constants)
    names: list[str] = function.arg_names
    signature = {name: _signature(types[name]) if name in types else "constexpr" for name in names}
    fixed = {(index,): constants[name] for index, name in enumerate(names) if name in constants}
    aligned = {
        (index,): [["tt.divisibility", 16]]
        for index, name in enumerate(names)
        if re.fullmatch(r"\*\w+|i32\*16", types.get(name, ""))
    }
    options: dict[str, Any] = {"num_warps": source.warps, "launch_pdl": capability >= 90}
    ast = compiler.ASTSource(function, signature, fixed, aligned)
    return triton.compile(ast, target=backends.GPUTarget("cuda", capability, 32), options=options)


def _signature(type: str) -> str:
    """`*f16` and `*f16?` -> `*fp16`; `i32*16` -> `i32`; `f16[128, 64]`, a matrix in boxes, -> its descriptor."""
    if "[" in type:
        element, box = type.removesuffix("]").split("[")
        return f"tensordesc<{TYPES[element]}[{box}]>"
    if type.startswith("*"):
        return f"*{TYPES[type[1:].removesuffix('?')]}"
    return type.partition("*")[0]
