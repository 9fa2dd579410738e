"""NVIDIA's run-time compiler for CUDA C++, which needs no GPU and no toolkit: https://docs.nvidia.com/cuda/nvrtc/"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from bertc.errors import error


def compile_text(text: str, architecture: str) -> bytes:
    """The machine code of a CUDA C++ source for one architecture (`sm_90a`). Raises BertcError B0501 where the compiler
    is missing, RuntimeError with its log for a source that does not compile."""

    def call(name: str, *arguments: Any) -> Any:
        status, *results = getattr(import_module("cuda.bindings.nvrtc"), name)(*arguments)
        if int(status):
            raise RuntimeError(f"{name}: {status.name}")
        return results[0] if results else None

    try:
        program = call("nvrtcCreateProgram", text.encode(), b"kernel.cu", 0, [], [])
    except (ImportError, RuntimeError) as problem:
        message = f"target `cuda` needs NVIDIA's run-time compiler for this architecture: {problem}"
        raise error("B0501", message, None, "pip install 'bertc[cuda]'") from None
    options = ("--std=c++17", "--device-as-default-execution-space", f"--gpu-architecture={architecture}")
    given = [option.encode() for option in options]
    try:
        call("nvrtcCompileProgram", program, len(given), given)
    except RuntimeError as problem:
        log = b" " * call("nvrtcGetProgramLogSize", program)
        call("nvrtcGetProgramLog", program, log)
        raise RuntimeError(f"{problem}\n{log.decode()}") from None
    machine_code = b" " * call("nvrtcGetCUBINSize", program)
    call("nvrtcGetCUBIN", program, machine_code)
    call("nvrtcDestroyProgram", program)
    return machine_code
