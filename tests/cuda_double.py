"""A strict double of `cuda.bindings.driver`: what is started waits on its stream until that is waited for.

Device memory and pinned memory are the host's, each allocation with its own bounds. What a GPU would do wrong without a
word fails here: a thread without a context, a copy from memory that is not pinned or was changed while the copy was in
flight, memory that is given back while something may read it, a capture that ends elsewhere than it began.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any
from weakref import WeakSet

import numpy as np
import pytest


@dataclass(frozen=True)
class Work:
    """What a stream does in its turn, and the addresses that it reads and writes."""

    run: Callable[[], object]
    addresses: tuple[int, ...]


@dataclass
class Stream:
    pending: list[Work] = field(default_factory=list[Work])
    capturing: int | None = None
    """The thread that captures."""
    captured: list[Work] = field(default_factory=list[Work])


class Driver(ModuleType):
    """The functions that bertc calls, each with the driver's own arguments."""

    CUresult = SimpleNamespace(CUDA_SUCCESS=0)
    CUstream_flags = SimpleNamespace(CU_STREAM_NON_BLOCKING=1)
    CUevent_flags = SimpleNamespace(CU_EVENT_DEFAULT=0)
    CUstreamCaptureMode = SimpleNamespace(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL=1)
    CUdevice_attribute = SimpleNamespace(
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR=75, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR=76
    )

    CUfunction_attribute = SimpleNamespace(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES=8)
    CUlaunchConfig = SimpleNamespace

    def __init__(self, gpus: int = 1) -> None:
        super().__init__("cuda.bindings.driver")
        self.gpus = gpus
        self.run_kernel: Callable[..., None] | None = None
        """What a launch does: machine code, entry, configuration, values and their types -> nothing."""
        self._here = threading.local()
        self.device_memory: dict[int, Any] = {}
        self.pinned: dict[int, Any] = {}
        self.streams: dict[int, Stream] = {}
        self.graphs: dict[int, list[Work]] = {}
        self.executables: dict[int, list[Work]] = {}
        self.room: int | None = None
        """Bytes that can be allocated on the device; as many as one likes when None."""
        self.contexts = 0
        self.guests: WeakSet[Any] = WeakSet()
        """What has to be gone before the GPU is."""
        self.captures, self.launches, self.most_pending = 0, 0, 0
        self._next, self._lock = 1000, threading.RLock()

    # ------------------------------------------------------------------------------------------------- what tests see

    @property
    def stack(self) -> list[int]:
        """The calling thread's contexts, the current one last."""
        return self._here.__dict__.setdefault("stack", [])

    def enqueue(self, handle: int, run: Callable[[], object], *addresses: int) -> None:
        """Put something on a stream: what TensorRT does with one."""
        self._put(handle, Work(run, addresses))

    def _put(self, handle: int, work: Work) -> None:
        self._check()
        with self._lock:
            stream = self.streams[handle]
            if stream.capturing is not None:
                assert stream.capturing == threading.get_ident(), "another thread starts something in a capture"
                stream.captured.append(work)
            else:
                stream.pending.append(work)
                self.most_pending = max(self.most_pending, sum(bool(each.pending) for each in self.streams.values()))

    def is_capturing(self, handle: int) -> bool:
        return self.streams[handle].capturing is not None

    def on_device(self, address: int, size: int) -> None:
        assert _holds(self.device_memory, address, size), f"{size} bytes at {address} are not the device's"

    # ---------------------------------------------------------------------------------------------------- the driver's

    def cuInit(self, flags: int) -> tuple[int]:
        return (0,)

    def cuGetErrorString(self, status: int) -> tuple[int, bytes]:
        return 0, b"out of memory"

    def cuDeviceGetCount(self) -> tuple[int, int]:
        return 0, self.gpus

    def cuDeviceGet(self, number: int) -> tuple[int, int]:
        return 0, number

    def cuDeviceGetName(self, length: int, device: int) -> tuple[int, bytes]:
        return 0, b"NVIDIA double\0"

    def cuDeviceGetPCIBusId(self, length: int, device: int) -> tuple[int, bytes]:
        return 0, f"0000:0{device}:00.0\0".encode()

    def cuDeviceGetAttribute(self, attribute: int, device: int) -> tuple[int, int]:
        return 0, {75: 9, 76: 0}[attribute]

    def cuDevicePrimaryCtxRetain(self, device: int) -> tuple[int, int]:
        self.contexts += 1
        return 0, device + 1

    def cuDevicePrimaryCtxRelease(self, device: int) -> tuple[int]:
        assert not self.guests, "TensorRT still has something on the GPU"
        self.contexts -= 1
        return (0,)

    def cuCtxPushCurrent(self, context: int) -> tuple[int]:
        self.stack.append(context)
        return (0,)

    def cuCtxPopCurrent(self) -> tuple[int, int]:
        return 0, self.stack.pop()

    def cuCtxGetCurrent(self) -> tuple[int, int]:
        self._check()
        return 0, self.stack[-1]

    def cuModuleLoadData(self, code: bytes) -> tuple[int, bytes]:
        self._check()
        return 0, code

    def cuModuleGetFunction(self, module: bytes, entry: bytes) -> tuple[int, Any]:
        return 0, (module, entry.decode())

    def cuFuncSetAttribute(self, function: Any, attribute: int, value: int) -> tuple[int]:
        assert attribute == self.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        return (0,)

    def cuLaunchKernelEx(self, configuration: Any, function: Any, arguments: Any, extra: int) -> tuple[int]:
        values, types = arguments
        assert len(values) == len(types)
        assert extra == 0
        run = self.run_kernel
        assert run is not None
        addresses = [value for value, kind in zip(values, types, strict=True) if kind is ctypes.c_void_p]
        self.enqueue(configuration.hStream, lambda: run(*function, configuration, values, types), *addresses)
        return (0,)

    def cuStreamCreate(self, flags: int) -> tuple[int, int]:
        assert flags == self.CUstream_flags.CU_STREAM_NON_BLOCKING
        handle = self._handle()
        self.streams[handle] = Stream()
        return 0, handle

    def cuStreamDestroy(self, handle: int) -> tuple[int]:
        self._check()
        assert not self.streams[handle].pending
        del self.streams[handle]
        return (0,)

    def cuStreamSynchronize(self, handle: int) -> tuple[int]:
        self._check()
        assert not self.is_capturing(handle), "a stream is waited for while it is captured"
        pending, self.streams[handle].pending = self.streams[handle].pending, []
        for work in pending:
            work.run()
        return (0,)

    def cuMemAlloc(self, size: int) -> tuple[int, int]:
        if self.room is not None and size + sum(array.nbytes for array in self.device_memory.values()) > self.room:
            return 2, 0
        return 0, self._allocated(self.device_memory, size)

    def cuMemFree(self, address: int) -> tuple[int]:
        return self._freed(self.device_memory, address)

    def cuMemHostAlloc(self, size: int, flags: int) -> tuple[int, int]:
        return 0, self._allocated(self.pinned, size)

    def cuMemFreeHost(self, address: int) -> tuple[int]:
        return self._freed(self.pinned, address)

    def cuMemsetD8Async(self, address: int, value: int, size: int, handle: int) -> tuple[int]:
        self.on_device(address, size)
        self.enqueue(handle, lambda: ctypes.memset(address, value, size), address)
        return (0,)

    def cuMemcpyHtoDAsync(self, target: int, source: int, size: int, handle: int) -> tuple[int]:
        assert _holds(self.pinned, source, size), "an asynchronous copy from memory that is not pinned"
        self.on_device(target, size)
        before = ctypes.string_at(source, size)

        def copy() -> None:
            assert ctypes.string_at(source, size) == before, "pinned memory was changed while a copy was in flight"
            ctypes.memmove(target, source, size)

        self.enqueue(handle, copy, target, source)
        return (0,)

    def cuMemcpyDtoHAsync(self, target: int, source: int, size: int, handle: int) -> tuple[int]:
        assert _holds(self.pinned, target, size), "an asynchronous copy to memory that is not pinned"
        self.on_device(source, size)
        self.enqueue(handle, lambda: ctypes.memmove(target, source, size), target, source)
        return (0,)

    def cuStreamBeginCapture(self, handle: int, mode: int) -> tuple[int]:
        self._check()
        assert mode == self.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        stream = self.streams[handle]
        assert stream.capturing is None
        stream.capturing, stream.captured = threading.get_ident(), []
        return (0,)

    def cuStreamEndCapture(self, handle: int) -> tuple[int, int]:
        stream = self.streams[handle]
        assert stream.capturing == threading.get_ident(), "a capture ends where it did not begin"
        stream.capturing, made = None, self._handle()
        self.graphs[made], stream.captured = stream.captured, []
        self.captures += 1
        return 0, made

    def cuGraphInstantiate(self, graph: int, flags: int) -> tuple[int, int]:
        made = self._handle()
        self.executables[made] = self.graphs[graph]
        return 0, made

    def cuGraphDestroy(self, graph: int) -> tuple[int]:
        del self.graphs[graph]
        return (0,)

    def cuGraphLaunch(self, executable: int, handle: int) -> tuple[int]:
        assert self.executables[executable], "a graph of nothing"
        self.launches += 1
        for work in self.executables[executable]:
            self._put(handle, work)
        return (0,)

    def cuGraphExecDestroy(self, executable: int) -> tuple[int]:
        self._check()
        del self.executables[executable]
        return (0,)

    def cuEventCreate(self, flags: int) -> tuple[int, Any]:
        return 0, SimpleNamespace(stream=0)

    def cuEventRecord(self, event: Any, handle: int) -> tuple[int]:
        event.stream = handle
        return (0,)

    def cuEventSynchronize(self, event: Any) -> tuple[int]:
        return self.cuStreamSynchronize(event.stream)

    def cuEventElapsedTime(self, start: Any, end: Any) -> tuple[int, float]:
        return 0, 0.25

    def cuEventDestroy(self, event: Any) -> tuple[int]:
        return (0,)

    # -------------------------------------------------------------------------------------------------------- its own

    def _check(self) -> None:
        assert self.stack, "this thread has no GPU: cuCtxPushCurrent goes first"

    def _handle(self) -> int:
        with self._lock:
            self._next += 1
            return self._next

    def _allocated(self, owner: dict[int, Any], size: int) -> int:
        self._check()
        assert size > 0
        capturing = [stream for stream in self.streams.values() if stream.capturing == threading.get_ident()]
        assert not capturing, "memory is allocated in a capture"
        array = np.full(size, 0xEE, np.uint8)
        owner[array.ctypes.data] = array
        return array.ctypes.data

    def _freed(self, owner: dict[int, Any], address: int) -> tuple[int]:
        self._check()
        array = owner.pop(address)
        used = [at for stream in self.streams.values() for work in stream.pending for at in work.addresses]
        assert not any(address <= at < address + array.nbytes for at in used), "memory is given back while it is used"
        return (0,)


def _holds(memory: dict[int, Any], address: int, size: int) -> bool:
    return any(start <= address and address + size <= start + array.nbytes for start, array in memory.items())


@contextmanager
def gpu(monkeypatch: pytest.MonkeyPatch, gpus: int = 1) -> Iterator[Driver]:
    """`import cuda.bindings.driver` gives a double; at the end everything must have been given back."""
    driver = Driver(gpus)
    for name in ("cuda", "cuda.bindings"):
        package: Any = ModuleType(name)
        package.__path__, package.__spec__ = [], ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, package)
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", driver)
    yield driver
    left = (driver.streams, driver.device_memory, driver.pinned, driver.graphs, driver.executables, driver.contexts)
    assert not any(left), "something of the GPU was not given back"
    assert not driver.stack, "the GPU is still this thread's"
