"""A GPU by NVIDIA's driver: what belongs to whom, and how parts of a graph are timed."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest

from bertc.errors import BertcError
from bertc.targets.cuda import _architecture_here, why_not_here
from bertc.targets.cuda.driver import Device


class Driver:
    """Two GPUs, as far as a device asks the driver for them; what is not here gives nothing and succeeds."""

    CUresult = SimpleNamespace(CUDA_SUCCESS=0)
    CUdevice_attribute = SimpleNamespace(
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR=9, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR=0
    )
    CUstream_flags = SimpleNamespace(CU_STREAM_NON_BLOCKING=1)

    def __init__(self) -> None:
        self.stack = ["somebody's context"]
        self.pinned: dict[int, Any] = {}
        self.calls: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Callable[..., tuple[Any, ...]]:
        def call(*arguments: Any) -> tuple[Any, ...]:
            self.calls.append((name, *arguments))
            return (0,)

        return call

    def cuDeviceGetCount(self) -> tuple[int, int]:
        return 0, 2

    def cuDeviceGet(self, number: int) -> tuple[int, int]:
        return 0, number

    def cuDeviceGetAttribute(self, attribute: int, device: int) -> tuple[int, int]:
        return 0, attribute

    def cuDevicePrimaryCtxRetain(self, device: int) -> tuple[int, str]:
        return 0, f"context {device}"

    def cuCtxPushCurrent(self, context: str) -> tuple[int]:
        self.stack.append(context)
        return (0,)

    def cuCtxPopCurrent(self) -> tuple[int, str]:
        return 0, self.stack.pop()

    def cuStreamCreate(self, flags: int) -> tuple[int, str]:
        return 0, f"stream of {self.stack[-1]}"

    def cuDeviceGetPCIBusId(self, length: int, device: int) -> tuple[int, bytes]:
        return 0, f"0000:{device}B:00.0".encode().ljust(length, b"\0")

    def cuMemHostAlloc(self, size: int, flags: int) -> tuple[int, int]:
        memory = ctypes.create_string_buffer(size)
        self.pinned[ctypes.addressof(memory)] = memory
        return 0, ctypes.addressof(memory)

    def cuMemFreeHost(self, address: int) -> tuple[int]:
        del self.pinned[address]
        return (0,)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    made = Driver()
    monkeypatch.setattr("bertc.targets.cuda.driver.import_module", lambda name: made)
    return made


def test_a_device_says_how_many_clusters_fit(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a kernel with so many warps a block, and so much shared memory."""
    asked: list[Any] = []

    def most(function: str, configuration: Any) -> tuple[int, int]:
        asked.append((function, configuration))
        return 0, 15

    kinds = SimpleNamespace(CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION="clusters")
    monkeypatch.setattr(driver, "cuOccupancyMaxActiveClusters", most, raising=False)
    monkeypatch.setattr(driver, "CUlaunchConfig", SimpleNamespace, raising=False)
    monkeypatch.setattr(driver, "CUlaunchAttributeID", kinds, raising=False)
    value = SimpleNamespace(clusterDim=SimpleNamespace())
    monkeypatch.setattr(driver, "CUlaunchAttribute", lambda: SimpleNamespace(value=value), raising=False)
    assert Device().clusters("kernel", 12, 1 << 17, 8) == 15
    ((function, configuration),) = asked
    assert (function, configuration.blockDimX, configuration.sharedMemBytes) == ("kernel", 384, 1 << 17)
    assert configuration.gridDimX % 8 == 0
    (attribute,) = configuration.attrs
    assert (attribute.id, vars(value.clusterDim)) == ("clusters", {"x": 8, "y": 1, "z": 1})


def test_devices_are_apart(driver: Driver) -> None:
    """Each has its context and its stream, and makes its own the thread's for a while, also inside another's; what one
    gives back is its own."""
    one, other = Device(0), Device(1)
    assert (one.stream, other.stream) == ("stream of context 0", "stream of context 1")
    assert (one.bus, other.bus) == ("0000:0B:00.0", "0000:1B:00.0")
    assert driver.stack == ["somebody's context"]
    with one.current():
        assert driver.stack[-1] == "context 0"
        with suppress(RuntimeError), other.current():
            assert driver.stack[-1] == "context 1"
            raise RuntimeError
        assert driver.stack[-1] == "context 0"
    assert driver.stack == ["somebody's context"]
    mine, theirs = one.pin(64), other.pin(32)
    mine[:] = 7
    assert (mine.nbytes, theirs.nbytes) == (64, 32)
    assert bytes(driver.pinned[mine.ctypes.data]) == b"\x07" * 64
    one.close()
    assert driver.pinned.keys() == {theirs.ctypes.data}
    assert ("cuStreamDestroy", "stream of context 0") in driver.calls
    assert ("cuStreamDestroy", "stream of context 1") not in driver.calls
    other.unpin(theirs)
    assert driver.pinned == {}
    assert driver.stack == ["somebody's context"]


@pytest.mark.parametrize(("ask", "answer"), [(why_not_here, None), (_architecture_here, "sm_90")])
def test_asking_for_a_gpu_keeps_none(
    driver: Driver, ask: Callable[[], str | None], answer: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bertc.targets.cuda.find_spec", lambda name: name)
    assert ask() == answer
    names = [name for name, *_ in driver.calls]
    assert ("cuStreamDestroy", "stream of context 0") in driver.calls
    assert names.count("cuDevicePrimaryCtxRelease") == 1


@pytest.mark.parametrize("number", [2, -1])
def test_a_gpu_that_is_not_there(driver: Driver, number: int) -> None:
    with pytest.raises(BertcError, match=f"there is no GPU {number}: this machine has 2, counted from 0") as caught:
        Device(number)
    assert (caught.value.diagnostics[0].code, caught.value.exit_code) == ("B0513", 4)


class Clock(Device):
    """A device whose events are the time at which they are recorded."""

    def __init__(self) -> None:
        flags = {"CUevent_flags": "CU_EVENT_DEFAULT", "CUevent_record_flags": "CU_EVENT_RECORD_EXTERNAL"}
        self.cuda = SimpleNamespace(**{name: SimpleNamespace(**{flag: flag}) for name, flag in flags.items()})
        self.stream, self.now, self.events = 0, 0.0, 0

    def captured(self, work: Callable[[], None]) -> Callable[[], None]:
        return work

    def replay(self, graph: Callable[[], None]) -> None:
        graph()

    def wait(self) -> None:
        pass

    def forget(self, graph: Callable[[], None]) -> None:
        pass

    def call(self, name: str, *arguments: Any) -> Any:
        match name, *arguments:
            case "cuEventCreate", _:
                self.events += 1
                return SimpleNamespace(at=None)
            case "cuEventRecordWithFlags", event, 0, "CU_EVENT_RECORD_EXTERNAL":
                event.at = self.now
            case "cuEventElapsedTime", start, end:
                return end.at - start.at
            case "cuEventDestroy", _:
                self.events -= 1
            case _:
                raise AssertionError(name)
        return None


def test_parts_of_a_graph_are_timed_between_events() -> None:
    """The first run, which is a hundred times as slow, does not count; of the others it is the mean."""
    clock, slow = Clock(), iter([100.0, 100.0, 1.0, 1.0, 3.0, 3.0])

    def part(milliseconds: float) -> Callable[[], None]:
        def work() -> None:
            clock.now += milliseconds * next(slow)

        return work

    assert clock.part_times([part(1.0), part(5.0)], 2) == [2.0, 10.0]
    assert clock.events == 0
