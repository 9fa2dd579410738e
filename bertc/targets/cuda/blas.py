"""Products by cuBLASLt, through ctypes: y = end(x · wᵀ + bias + residual), all row-major.

cuBLASLt thinks in columns: a row-major [m, n] is its column-major [n, m], so it computes yᵀ = w · xᵀ.
Source: https://docs.nvidia.com/cuda/cublas/#using-the-cublaslt-api
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WORKSPACE = 64 << 20
"""Bytes that an algorithm may use; what Hopper's split products want is 32 MiB."""

_TYPES = {"f32": 0, "f16": 2, "bf16": 14}
_COMPUTE_32F, _REAL_32F = 68, 0
_TRANSA, _TRANSB, _EPILOGUE, _BIAS_POINTER, _BIAS_TYPE = 3, 4, 7, 8, 26
_EPILOGUES = {(False, ""): 1, (True, ""): 4, (True, "relu"): 6, (True, "gelu_tanh"): 36}
_MAX_WORKSPACE = 1

ALGORITHMS = 16
"""How many of the library's suggestions are tried."""


class _Heuristic(ctypes.Structure):
    _fields_ = (
        ("algorithm", ctypes.c_uint64 * 8),
        ("workspace", ctypes.c_size_t),
        ("state", ctypes.c_int),
        ("waves", ctypes.c_float),
        ("reserved", ctypes.c_int * 4),
    )


@dataclass(frozen=True)
class Problem:
    """The shape of a product: y [rows, n] = x [rows, k], its rows `row` elements apart, times w [n, k]."""

    rows: int
    row: int
    n: int
    k: int
    element: str
    has_bias: bool
    has_residual: bool
    end: str


class Blas:
    """One handle, with its workspace on the device at the address that is given."""

    def __init__(self, workspace: int) -> None:
        self._library = ctypes.CDLL(str(_library()))
        self._handle = ctypes.c_void_p()
        self._workspace = workspace
        self._check(self._library.cublasLtCreate(ctypes.byref(self._handle)))

    def algorithms(self, problem: Problem, count: int = ALGORITHMS) -> list[bytes]:
        """The library's suggestions, best first."""
        found = ctypes.c_int()
        results = (_Heuristic * count)()
        with self._descriptors(problem, 256) as (description, w, x, y), self._preference() as preference:
            self._check(
                self._library.cublasLtMatmulAlgoGetHeuristic(
                    self._handle, description, w, x, y, y, preference, count, results, ctypes.byref(found)
                )
            )
        return [bytes(results[index].algorithm) for index in range(found.value) if results[index].state == 0]

    def multiply(
        self, problem: Problem, algorithm: bytes, x: int, w: int, y: int, bias: int, residual: int, stream: int
    ) -> None:
        """Start the product on a stream; all but the problem and its algorithm are addresses."""
        one, beta = ctypes.c_float(1.0), ctypes.c_float(1.0 if problem.has_residual else 0.0)
        chosen = (ctypes.c_uint64 * 8).from_buffer_copy(algorithm)
        added = residual if problem.has_residual else y
        pointers = [ctypes.c_void_p(address) for address in (w, x, added, y)]
        with self._descriptors(problem, bias) as (description, w_layout, x_layout, y_layout):
            self._check(
                self._library.cublasLtMatmul(
                    *(self._handle, description, ctypes.byref(one)),
                    *(pointers[0], w_layout, pointers[1], x_layout, ctypes.byref(beta)),
                    *(pointers[2], y_layout, pointers[3], y_layout, ctypes.byref(chosen)),
                    *(ctypes.c_void_p(self._workspace), ctypes.c_size_t(WORKSPACE), ctypes.c_void_p(stream)),
                )
            )

    def close(self) -> None:
        self._library.cublasLtDestroy(self._handle)

    @contextmanager
    def _descriptors(self, problem: Problem, bias: int) -> Generator[tuple[Any, Any, Any, Any]]:
        type = _TYPES[problem.element]
        description = ctypes.c_void_p()
        self._check(self._library.cublasLtMatmulDescCreate(ctypes.byref(description), _COMPUTE_32F, _REAL_32F))
        self._set(description, _TRANSA, ctypes.c_int(1))
        self._set(description, _EPILOGUE, ctypes.c_int(_EPILOGUES[problem.has_bias, problem.end]))
        if problem.has_bias:
            self._set(description, _BIAS_POINTER, ctypes.c_void_p(bias))
            self._set(description, _BIAS_TYPE, ctypes.c_int(type))
        layouts = [
            self._layout(type, problem.k, problem.n, problem.k),
            self._layout(type, problem.k, problem.rows, problem.row),
            self._layout(type, problem.n, problem.rows, problem.n),
        ]
        try:
            yield description, *layouts
        finally:
            for layout in layouts:
                self._library.cublasLtMatrixLayoutDestroy(layout)
            self._library.cublasLtMatmulDescDestroy(description)

    @contextmanager
    def _preference(self) -> Generator[Any]:
        preference = ctypes.c_void_p()
        self._check(self._library.cublasLtMatmulPreferenceCreate(ctypes.byref(preference)))
        limit = ctypes.c_size_t(WORKSPACE)
        self._check(
            self._library.cublasLtMatmulPreferenceSetAttribute(
                preference, _MAX_WORKSPACE, ctypes.byref(limit), ctypes.sizeof(limit)
            )
        )
        try:
            yield preference
        finally:
            self._library.cublasLtMatmulPreferenceDestroy(preference)

    def _layout(self, type: int, rows: int, columns: int, leading: int) -> Any:
        layout = ctypes.c_void_p()
        sizes = (ctypes.c_uint64(rows), ctypes.c_uint64(columns), ctypes.c_int64(leading))
        self._check(self._library.cublasLtMatrixLayoutCreate(ctypes.byref(layout), type, *sizes))
        return layout

    def _set(self, description: Any, attribute: int, value: Any) -> None:
        self._check(
            self._library.cublasLtMatmulDescSetAttribute(
                description, attribute, ctypes.byref(value), ctypes.sizeof(value)
            )
        )

    def _check(self, status: int) -> None:
        if status != 0:
            raise RuntimeError(f"cuBLASLt answered with status {status}")


def _library() -> Path | str | None:
    """cuBLASLt of the pip package that is installed, else the system's."""
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if found := sorted(Path(folder).glob("*/lib/libcublasLt.so.*")):
            return found[-1]
    return _system_library()


def _system_library() -> str | None:
    for name in ("libcublasLt.so.13", "libcublasLt.so.12"):
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
        return name
    return None
