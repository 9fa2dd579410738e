"""The CUDA driver, as far as the session needs it: a stream, memory, kernels, graphs, events.

Through NVIDIA's cuda-bindings: https://nvidia.github.io/cuda-python/cuda-bindings/latest/module/driver.html
"""

from __future__ import annotations

import ctypes
from collections import OrderedDict
from collections.abc import Callable, Generator, Hashable, Sequence
from contextlib import contextmanager
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from bertc.errors import error
from bertc.ops import Array
from bertc.targets.cuda.plan import Box


def driver() -> Any:
    return import_module("cuda.bindings.driver")


def call(name: str, *arguments: Any) -> Any:
    """A driver function; its one result, or None. Raises RuntimeError with the driver's own words."""
    cuda = driver()
    status, *results = getattr(cuda, name)(*arguments)
    if status != cuda.CUresult.CUDA_SUCCESS:
        _, text = cuda.cuGetErrorString(status)
        raise RuntimeError(f"{name}: {text.decode() if text else status}")
    return results[0] if len(results) == 1 else None


def load_function(code: bytes, entry: str, shared: int) -> Any:
    """A kernel from its machine code, allowed the shared memory that it needs."""
    module = call("cuModuleLoadData", code)
    function = call("cuModuleGetFunction", module, entry.encode())
    attribute = driver().CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    call("cuFuncSetAttribute", function, attribute, shared)
    return function


def launch(
    stream: Any,
    function: Any,
    grid: tuple[int, int, int],
    warps: int,
    shared: int,
    values: Sequence[tuple[Any, Any]],
    *,
    early: bool = False,
    cluster: int = 0,
) -> None:
    """Start a kernel; `values` are its arguments with their ctypes. One that may start `early` does so while the one
    before it ends, and waits by itself for what that computes. `cluster` blocks along the first axis share memory."""
    configuration = _configuration(grid, warps, shared, early=early, cluster=cluster)
    configuration.hStream = stream
    arguments = tuple(value for value, _ in values), tuple(type for _, type in values)
    call("cuLaunchKernelEx", configuration, function, arguments, 0)


def _configuration(grid: tuple[int, int, int], warps: int, shared: int, *, early: bool, cluster: int) -> Any:
    cuda = driver()
    configuration = cuda.CUlaunchConfig()
    configuration.gridDimX, configuration.gridDimY, configuration.gridDimZ = grid
    configuration.blockDimX, configuration.blockDimY, configuration.blockDimZ = 32 * warps, 1, 1
    configuration.sharedMemBytes = shared
    attributes: list[Any] = []
    if early:
        attribute = cuda.CUlaunchAttribute()
        attribute.id = cuda.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
        attribute.value.programmaticStreamSerializationAllowed = 1
        attributes.append(attribute)
    if cluster:
        attribute = cuda.CUlaunchAttribute()
        attribute.id = cuda.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
        shape = attribute.value.clusterDim
        shape.x, shape.y, shape.z = cluster, 1, 1
        attributes.append(attribute)
    configuration.attrs, configuration.numAttrs = attributes, len(attributes)
    return configuration


class Device:
    """One GPU with one stream on it. Raises BertcError B0513 when there is none."""

    def __init__(self, number: int = 0) -> None:
        self.cuda = driver()
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
        with self.current():
            self.stream = self.call("cuStreamCreate", self.cuda.CUstream_flags.CU_STREAM_NON_BLOCKING)
        self._memory: set[int] = set()
        self._pinned: set[int] = set()

    def call(self, name: str, *arguments: Any) -> Any:
        """As `call` does."""
        return call(name, *arguments)

    @contextmanager
    def current(self) -> Generator[None]:
        """This GPU is the calling thread's while the body runs, and behind it the one that was before. Memory,
        copies, kernels and graphs are for such a body."""
        self.call("cuCtxPushCurrent", self._context)
        try:
            yield
        finally:
            self.cuda.cuCtxPopCurrent()  # unchecked: what it may report is an earlier launch's, which is known

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
        """A kernel from a file of machine code."""
        return load_function(path.read_bytes(), entry, shared)

    def launch(
        self,
        function: Any,
        grid: tuple[int, int, int],
        warps: int,
        shared: int,
        values: Sequence[tuple[Any, Any]],
        cluster: int,
    ) -> None:
        """Start a kernel on the stream, early."""
        launch(self.stream, function, grid, warps, shared, values, early=True, cluster=cluster)

    def clusters(self, function: Any, warps: int, shared: int, cluster: int) -> int:
        """How many clusters of a kernel fit the GPU at a time."""
        configuration = _configuration((cluster, 1, 1), warps, shared, early=False, cluster=cluster)
        return int(self.call("cuOccupancyMaxActiveClusters", function, configuration))

    def tensor_map(self, address: int, element: str, shape: tuple[int, int], row: int, box: Box) -> Any:
        """What the copy engine needs to know of a matrix [rows, columns] of 16-bit elements, its rows `row` apart; for
        boxes side by side it is [columns / box.columns, rows, box.columns]."""
        cuda = self.cuda
        kinds = cuda.CUtensorMapDataType
        kind = {"f16": kinds.CU_TENSOR_MAP_DATA_TYPE_FLOAT16, "bf16": kinds.CU_TENSOR_MAP_DATA_TYPE_BFLOAT16}[element]
        rows, columns = shape
        sizes, strides, boxes = [columns, rows], [2 * row], [box.columns, box.rows]
        if box.count:
            sizes, strides = [box.columns, rows, columns // box.columns], [2 * row, 2 * box.columns]
            boxes.append(box.count)
        return self.call(
            "cuTensorMapEncodeTiled",
            *(kind, len(sizes), address),
            [cuda.cuuint64_t(size) for size in sizes],
            [cuda.cuuint64_t(stride) for stride in strides],
            [cuda.cuuint32_t(size) for size in boxes],
            [cuda.cuuint32_t(1) for _ in sizes],
            cuda.CUtensorMapInterleave.CU_TENSOR_MAP_INTERLEAVE_NONE,
            cuda.CUtensorMapSwizzle(box.swizzle),
            cuda.CUtensorMapL2promotion.CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
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

    def part_times(self, parts: Sequence[Callable[[], None]], runs: int) -> list[float]:
        """Milliseconds of each part of a graph, where they follow one another, the mean of some runs behind a first.

        Between two parts the graph has an event, so that none begins before the one before it has ended.
        """
        events = [self.call("cuEventCreate", self.cuda.CUevent_flags.CU_EVENT_DEFAULT) for _ in range(len(parts) + 1)]
        external = self.cuda.CUevent_record_flags.CU_EVENT_RECORD_EXTERNAL

        def work() -> None:
            self.call("cuEventRecordWithFlags", events[0], self.stream, external)
            for part, event in zip(parts, events[1:], strict=True):
                part()
                self.call("cuEventRecordWithFlags", event, self.stream, external)

        graph = self.captured(work)
        times = np.zeros((runs + 1, len(parts)))
        for run in range(runs + 1):
            self.replay(graph)
            self.wait()
            times[run] = [self.call("cuEventElapsedTime", start, end) for start, end in pairwise(events)]
        self.forget(graph)
        for event in events:
            self.call("cuEventDestroy", event)
        return times[1:].mean(axis=0).tolist()

    def close(self) -> None:
        """Give everything back."""
        with self.current():
            self.wait()
            for address in self._memory:
                self.call("cuMemFree", address)
            self._memory.clear()
            for address in self._pinned:
                self.call("cuMemFreeHost", address)
            self._pinned.clear()
            self.call("cuStreamDestroy", self.stream)
        self.call("cuDevicePrimaryCtxRelease", self._device)


class Pinned:
    """Pinned memory by name, each piece kept and grown with what is asked of it."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._kept: dict[str, Array] = {}

    def take(self, name: str, size: int) -> Array:
        """The first `size` bytes of what is kept under a name."""
        if name not in self._kept or self._kept[name].size < size:
            if name in self._kept:
                self._device.unpin(self._kept.pop(name))
            self._kept[name] = self._device.pin(size)
        return self._kept[name][:size]


class WithGraph(Protocol):
    @property
    def graph(self) -> Any: ...


Shape = TypeVar("Shape", bound=Hashable)
Prepared = TypeVar("Prepared", bound=WithGraph)


class Captured(Generic[Shape, Prepared]):
    """What was captured for each shape; of more than GRAPHS, the one that was not asked for longest is forgotten."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._kept: OrderedDict[Shape, Prepared] = OrderedDict()

    def get(self, shape: Shape, capture: Callable[[], Prepared]) -> Prepared:
        """What is kept for a shape, captured when it is first asked for."""
        if shape not in self._kept:
            self._kept[shape] = capture()
            if len(self._kept) > GRAPHS:
                self._device.forget(self._kept.popitem(last=False)[1].graph)
        self._kept.move_to_end(shape)
        return self._kept[shape]

    def clear(self) -> None:
        for prepared in self._kept.values():
            self._device.forget(prepared.graph)
        self._kept.clear()


GRAPHS = 64
"""CUDA graphs that are kept."""

POINTER, NUMBER, LONG, STRUCTURE = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, None
"""The types of arguments that our kernels have; a structure knows its own."""
