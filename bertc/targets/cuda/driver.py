"""The CUDA driver, as far as the session needs it: a stream, memory, kernels, graphs, events.

Through NVIDIA's cuda-bindings: https://nvidia.github.io/cuda-python/cuda-bindings/latest/module/driver.html
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from bertc.errors import error
from bertc.ops import Array


class Device:
    """One GPU with one stream on it. Raises BertcError B0513 when there is none."""

    def __init__(self, number: int = 0) -> None:
        self.cuda: Any = import_module("cuda.bindings.driver")
        try:
            self.call("cuInit", 0)
            count = self.call("cuDeviceGetCount")
        except RuntimeError as problem:
            raise error("B0513", f"no GPU can be used: {problem}", None, "run on a machine with one") from None
        if not 0 <= number < count:
            message = f"there is no GPU {number}: this machine has {count}, counted from 0"
            raise error("B0513", message, None, "choose another, or see what CUDA_VISIBLE_DEVICES leaves")
        self._device = self.call("cuDeviceGet", number)
        self._context = self.call("cuDevicePrimaryCtxRetain", self._device)
        self.enter()
        self.stream = self.call("cuStreamCreate", self.cuda.CUstream_flags.CU_STREAM_NON_BLOCKING)
        self._memory: set[int] = set()
        self._pinned: set[int] = set()

    def call(self, name: str, *arguments: Any) -> Any:
        """A driver function; its one result, or None. Raises RuntimeError with the driver's own words."""
        status, *results = getattr(self.cuda, name)(*arguments)
        if status != self.cuda.CUresult.CUDA_SUCCESS:
            _, text = self.cuda.cuGetErrorString(status)
            raise RuntimeError(f"{name}: {text.decode() if text else status}")
        return results[0] if len(results) == 1 else None

    def enter(self) -> None:
        """Make this GPU the calling thread's."""
        self.call("cuCtxSetCurrent", self._context)

    @property
    def architecture(self) -> str:
        """`sm_90` for compute capability 9.0."""
        kinds = self.cuda.CUdevice_attribute
        major = self.call("cuDeviceGetAttribute", kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, self._device)
        minor = self.call("cuDeviceGetAttribute", kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, self._device)
        return f"sm_{major}{minor}"

    @property
    def name(self) -> str:
        return self.call("cuDeviceGetName", 128, self._device).split(b"\0")[0].decode()

    @property
    def bus(self) -> str:
        """Where the GPU sits, as NVIDIA's tools name it: `0000:3B:00.0`."""
        return self.call("cuDeviceGetPCIBusId", 32, self._device).split(b"\0")[0].decode()

    def allocate(self, size: int) -> int:
        """The address of `size` bytes, which live as long as the device does."""
        address = int(self.call("cuMemAlloc", max(size, 1)))
        self._memory.add(address)
        return address

    def free(self, address: int) -> None:
        self.wait()
        self.call("cuMemFree", address)
        self._memory.remove(address)

    def free_memory(self) -> int:
        """Bytes that nobody uses."""
        status, free, _ = self.cuda.cuMemGetInfo()
        assert status == self.cuda.CUresult.CUDA_SUCCESS
        return int(free)

    def clear(self, address: int, size: int) -> None:
        self.call("cuMemsetD8Async", address, 0, size, self.stream)

    def pin(self, size: int) -> Array:
        """`size` bytes of host memory that the GPU reads and writes by itself, so that copies are asynchronous."""
        address = int(self.call("cuMemHostAlloc", max(size, 1), 0))
        self._pinned.add(address)
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def unpin(self, array: Array) -> None:
        self.wait()
        self.call("cuMemFreeHost", array.ctypes.data)
        self._pinned.remove(array.ctypes.data)

    def upload(self, address: int, array: Array) -> None:
        """Copy an array to the device; done when this returns."""
        self.start_upload(address, np.ascontiguousarray(array))
        self.wait()

    def start_upload(self, address: int, array: Array) -> None:
        """Copy a contiguous array to the device; one that is not pinned must stay until `wait`."""
        self.call("cuMemcpyHtoDAsync", address, array.ctypes.data, array.nbytes, self.stream)

    def start_download(self, array: Array, address: int) -> None:
        """Fill an array from the device; it is there after `wait`."""
        self.call("cuMemcpyDtoHAsync", array.ctypes.data, address, array.nbytes, self.stream)

    def wait(self) -> None:
        self.call("cuStreamSynchronize", self.stream)

    def function(self, path: Path, entry: str, shared: int) -> Any:
        """A kernel from its machine code, allowed the shared memory that it needs."""
        module = self.call("cuModuleLoadData", path.read_bytes())
        function = self.call("cuModuleGetFunction", module, entry.encode())
        attribute = self.cuda.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        self.call("cuFuncSetAttribute", function, attribute, shared)
        return function

    def launch(
        self, function: Any, grid: tuple[int, int, int], warps: int, shared: int, values: Sequence[tuple[Any, Any]]
    ) -> None:
        """Start a kernel; `values` are its arguments with their ctypes. It may start while the one before it ends."""
        cuda = self.cuda
        attribute = cuda.CUlaunchAttribute()
        attribute.id = cuda.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
        attribute.value.programmaticStreamSerializationAllowed = 1
        configuration = cuda.CUlaunchConfig()
        configuration.gridDimX, configuration.gridDimY, configuration.gridDimZ = grid
        configuration.blockDimX, configuration.blockDimY, configuration.blockDimZ = 32 * warps, 1, 1
        configuration.sharedMemBytes = shared
        configuration.hStream = self.stream
        configuration.attrs, configuration.numAttrs = [attribute], 1
        arguments = tuple(value for value, _ in values), tuple(type for _, type in values)
        self.call("cuLaunchKernelEx", configuration, function, arguments, 0)

    def tensor_map(
        self, address: int, element: str, shape: tuple[int, int], row: int, box: tuple[int, int, int]
    ) -> Any:
        """What the copy engine needs to know of a matrix [rows, columns] of 16-bit elements, its rows `row` apart."""
        cuda = self.cuda
        kinds = cuda.CUtensorMapDataType
        kind = {"f16": kinds.CU_TENSOR_MAP_DATA_TYPE_FLOAT16, "bf16": kinds.CU_TENSOR_MAP_DATA_TYPE_BFLOAT16}[element]
        rows, columns, swizzle = box
        long, word = cuda.cuuint64_t, cuda.cuuint32_t
        return self.call(
            "cuTensorMapEncodeTiled",
            *(kind, 2, address, [long(shape[1]), long(shape[0])], [long(2 * row)], [word(columns), word(rows)]),
            [word(1), word(1)],
            cuda.CUtensorMapInterleave.CU_TENSOR_MAP_INTERLEAVE_NONE,
            cuda.CUtensorMapSwizzle(swizzle),
            cuda.CUtensorMapL2promotion.CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
            cuda.CUtensorMapFloatOOBfill.CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )

    def captured(self, work: Callable[[], None]) -> Any:
        """What `work` starts on the stream, as a graph that starts it all at once."""
        mode = self.cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self.call("cuStreamBeginCapture", self.stream, mode)
        try:
            work()
        finally:
            graph = self.call("cuStreamEndCapture", self.stream)
        executable = self.call("cuGraphInstantiate", graph, 0)
        self.call("cuGraphDestroy", graph)
        return executable

    def replay(self, graph: Any) -> None:
        self.call("cuGraphLaunch", graph, self.stream)

    def forget(self, graph: Any) -> None:
        self.call("cuGraphExecDestroy", graph)

    def milliseconds(self, work: Callable[[], None]) -> float:
        """How long the device takes for what `work` starts."""
        flags = self.cuda.CUevent_flags.CU_EVENT_DEFAULT
        start, end = self.call("cuEventCreate", flags), self.call("cuEventCreate", flags)
        self.call("cuEventRecord", start, self.stream)
        work()
        self.call("cuEventRecord", end, self.stream)
        self.call("cuEventSynchronize", end)
        elapsed = self.call("cuEventElapsedTime", start, end)
        for event in (start, end):
            self.call("cuEventDestroy", event)
        return float(elapsed)

    def close(self) -> None:
        """Give everything back."""
        self.enter()
        self.wait()
        for address in self._memory:
            self.call("cuMemFree", address)
        self._memory.clear()
        for address in self._pinned:
            self.call("cuMemFreeHost", address)
        self._pinned.clear()
        self.call("cuStreamDestroy", self.stream)
        self.call("cuDevicePrimaryCtxRelease", self._device)


POINTER, NUMBER, LONG, STRUCTURE = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, None
"""The types of arguments that our kernels have; a structure knows its own."""
