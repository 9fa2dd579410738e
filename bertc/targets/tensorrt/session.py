"""Run an engine: a stream for each run in flight, an execution context and a CUDA graph for each shape on it.

A captured graph holds while the context it was captured from stays as it was, so that each shape has a context of its
own. Those of one stream share one piece of memory for what is computed in between, since they run one after the other.
https://docs.nvidia.com/deeplearning/tensorrt/latest/performance/best-practices.html#cuda-graphs
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from queue import LifoQueue
from threading import Lock
from traceback import clear_frames
from typing import Any

import numpy as np

from bertc.errors import error
from bertc.ops import Array
from bertc.shapes import Profile, Range
from bertc.targets import Phases, Runtime
from bertc.targets.cuda.driver import Captured, Device, Pinned
from bertc.targets.tensorrt.build import load, make_log
from bertc.targets.tensorrt.network import ELEMENTS
from bertc.targets.tensorrt.refitting import is_stripped


@dataclass(frozen=True)
class Fit:
    """A shape that a profile holds."""

    profile: int
    batch: int
    seq: int


def best_fit(profiles: Sequence[Profile], batch: int, seq: int) -> Fit:
    """The smallest profile that holds a batch of sequences, padded where the profile begins higher.

    Least padding goes first, then the profile whose largest shape is smallest, since TensorRT chose its kernels for
    shapes like that. Raises BertcError B0702 when no profile is large enough.
    """
    fits = [
        Fit(index, max(batch, profile.batch.smallest), max(seq, profile.seq.smallest))
        for index, profile in enumerate(profiles)
        if batch <= profile.batch.largest and seq <= profile.seq.largest
    ]
    if not fits:
        largest = ", ".join(f"{profile.batch.largest} of {profile.seq.largest}" for profile in profiles)
        message = f"the engine takes at most {largest} tokens, but {batch} of {seq} were given"
        raise error("B0702", message, None, "run fewer sequences at once, or build with larger `shapes`")
    return min(fits, key=lambda fit: (fit.batch * fit.seq, _largest(profiles[fit.profile])))


def _largest(profile: Profile) -> int:
    return profile.batch.largest * profile.seq.largest


@dataclass(frozen=True)
class Tensor:
    """An input or output of an engine."""

    name: str
    dtype: Any
    declared: tuple[int, ...]
    """Its sizes; -1 for the batch, and behind that for the sequence."""

    @property
    def is_per_token(self) -> bool:
        return self.declared.count(-1) == 2

    def shape(self, batch: int, seq: int) -> tuple[int, ...]:
        known = iter((batch, seq))
        return tuple(next(known) if size == -1 else size for size in self.declared)

    def bytes(self, batch: int, seq: int) -> int:
        return prod(self.shape(batch, seq)) * np.dtype(self.dtype).itemsize


class Loaded:
    """An engine in the device's memory; its parts that no run changes.

    Raises BertcError B0513 with what TensorRT says when it does not take the plan, and for one of packed sequences.
    """

    def __init__(self, trt: Any, plan: Path) -> None:
        self.trt, self.log, self._turn = trt, make_log(trt), Lock()
        self.engine = load(trt, plan.read_bytes(), self.log)
        if self.engine.streamable_weights_size:
            self.engine.weight_streaming_budget_v2 = self.engine.get_weight_streaming_automatic_budget()
        tensors = [self._tensor(self.engine.get_tensor_name(place)) for place in range(self.engine.num_io_tensors)]
        given = [self.engine.get_tensor_mode(tensor.name) == trt.TensorIOMode.INPUT for tensor in tensors]
        self.inputs = [tensor for tensor, is_input in zip(tensors, given, strict=True) if is_input]
        self.outputs = [tensor for tensor, is_input in zip(tensors, given, strict=True) if not is_input]
        if any(len(tensor.declared) != 2 for tensor in self.inputs):
            message = f"`{plan.parent}` takes packed sequences, which bertc does not run in {trt.__name__} yet"
            raise error("B0513", message, None, "build it without `pack_sequences`, or for target cuda")
        self.profiles = [self._profile(index) for index in range(self.engine.num_optimization_profiles)]
        sizes = [self.engine.get_device_memory_size_for_profile_v2(index) for index in range(len(self.profiles))]
        self.scratch = max(sizes)
        """Bytes that a context computes in."""

    def _tensor(self, name: str) -> Tensor:
        types = {getattr(self.trt, theirs): ours for theirs, ours in ELEMENTS.values()}
        dtype = types[self.engine.get_tensor_dtype(name)]
        return Tensor(name, dtype, tuple(self.engine.get_tensor_shape(name)))

    def _profile(self, index: int) -> Profile:
        shapes = self.engine.get_tensor_profile_shape(self.inputs[0].name, index)
        batch, seq = zip(*(tuple(shape) for shape in shapes), strict=True)
        return Profile(Range(*batch), Range(*seq))

    def largest(self, tensor: Tensor) -> int:
        """Bytes of a tensor in the largest shape of any profile."""
        return max(tensor.bytes(profile.batch.largest, profile.seq.largest) for profile in self.profiles)

    def context(self) -> Any:
        """An execution context without memory of its own. Raises BertcError B0515 when there is none to be had."""
        strategy = self.trt.ExecutionContextAllocationStrategy.USER_MANAGED
        with self._turn:
            if hasattr(self.trt, "DynamicShapesKernelSpecializationStrategy"):
                config = self.engine.create_runtime_config()
                config.set_execution_context_allocation_strategy(strategy)
                # a graph keeps the kernels that were there when it was captured
                eager = self.trt.DynamicShapesKernelSpecializationStrategy.EAGER
                config.dynamic_shapes_kernel_specialization_strategy = eager
                context = self.engine.create_execution_context(config)
            else:
                context = self.engine.create_execution_context(strategy)
        self.demand(context is not None, "make an execution context")
        return context

    def demand(self, done: bool, what: str) -> None:
        """Raises BertcError B0515 with TensorRT's own words when it did not do something."""
        if not done:
            raise error("B0515", f"{self.trt.__name__} could not {what}: {self.log.worst()}")


@dataclass(frozen=True)
class Prepared:
    """A context that is set to one shape, and what was captured from it."""

    context: Any
    graph: Any


@dataclass(frozen=True)
class Call:
    """One run: where it fits, the graph for that, its inputs padded by the engine's names, its own batch and seq."""

    fit: Fit
    prepared: Prepared
    given: Mapping[str, Array]
    shape: tuple[int, ...]


class Lane:
    """One stream with its buffers and graphs. It takes one call at a time, from any thread."""

    def __init__(self, loaded: Loaded, device: Device, names: Mapping[str, str]) -> None:
        self.loaded, self.device = loaded, device
        self.names = {theirs: ours for ours, theirs in names.items()}
        device.enter()
        self._scratch = device.allocate(loaded.scratch)
        sizes = {tensor.name: loaded.largest(tensor) for tensor in (*loaded.inputs, *loaded.outputs)}
        self._addresses = {name: device.allocate(size) for name, size in sizes.items()}
        for tensor in loaded.inputs:  # what is run before there are inputs finds ids that exist
            device.clear(self._addresses[tensor.name], sizes[tensor.name])
        self._pinned = Pinned(device)
        self._captured: Captured[Fit, Prepared] = Captured(device)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """A padded batch in, every output as float32."""
        self.device.enter()
        call = self._call(inputs)
        self._upload(call)
        self.device.replay(call.prepared.graph)
        self._download(call)
        self.device.wait()
        return {tensor.name: self._fetch(tensor, call) for tensor in self.loaded.outputs}

    def phases(self, inputs: Mapping[str, Array]) -> Phases:
        """What a call of `run` costs the device."""
        self.device.enter()
        call = self._call(inputs)
        upload = self.device.milliseconds(lambda: self._upload(call))
        compute = self.device.milliseconds(lambda: self.device.replay(call.prepared.graph))
        download = self.device.milliseconds(lambda: self._download(call))
        return Phases(upload, compute, download)

    def forget(self) -> None:
        """Let go of all contexts and graphs."""
        self.device.enter()
        self._captured.clear()

    def _call(self, inputs: Mapping[str, Array]) -> Call:
        batch, seq = inputs["input_ids"].shape
        fit = best_fit(self.loaded.profiles, batch, seq)
        prepared = self._captured.get(fit, lambda: self._prepared(fit))
        missing = ((0, fit.batch - batch), (0, fit.seq - seq))
        given = {tensor.name: np.pad(inputs[self.names[tensor.name]], missing) for tensor in self.loaded.inputs}
        return Call(fit, prepared, given, (batch, seq))

    def _prepared(self, fit: Fit) -> Prepared:
        context, stream, demand = self.loaded.context(), int(self.device.stream), self.loaded.demand
        demand(context.set_optimization_profile_async(fit.profile, stream), f"choose profile {fit.profile}")
        context.set_device_memory(self._scratch, self.loaded.scratch)
        for tensor in self.loaded.inputs:
            shape = tensor.shape(fit.batch, fit.seq)
            demand(context.set_input_shape(tensor.name, shape), f"take {list(shape)} as `{tensor.name}`")
        for name, address in self._addresses.items():
            demand(context.set_tensor_address(name, address), f"take the address of `{name}`")

        def start() -> None:
            demand(context.execute_async_v3(stream), f"start a batch of {fit.batch} of {fit.seq} tokens")

        start()  # TensorRT works out what follows from the shape, which a capture must not
        return Prepared(context, self.device.captured(start))

    def _upload(self, call: Call) -> None:
        for name, array in call.given.items():
            staged = self._pinned.take(name, array.nbytes)
            staged.view(array.dtype)[:] = array.reshape(-1)
            self.device.start_upload(self._addresses[name], staged)

    def _download(self, call: Call) -> None:
        for tensor in self.loaded.outputs:
            self.device.start_download(self._staged(tensor, call), self._addresses[tensor.name])

    def _staged(self, tensor: Tensor, call: Call) -> Array:
        return self._pinned.take(tensor.name, tensor.bytes(call.fit.batch, call.fit.seq))

    def _fetch(self, tensor: Tensor, call: Call) -> Array:
        """The rows and tokens that were asked for, in memory of their own."""
        whole = self._staged(tensor, call).view(tensor.dtype).reshape(tensor.shape(call.fit.batch, call.fit.seq))
        return whole[tuple(map(slice, call.shape[: 2 if tensor.is_per_token else 1]))].astype(np.float32)


class Session:
    """An engine on a GPU. Calls come from any thread; as many as there are lanes run at once, others wait."""

    def __init__(self, trt: Any, plan: Path, names: Mapping[str, str], number: int, streams: int) -> None:
        self._devices: list[Device] = []
        self._lanes: list[Lane] = []
        try:
            self._devices += [Device(number) for _ in range(streams)]
            self._lanes += _open_lanes(trt, plan, self._devices, names)
        except BaseException as problem:
            clear_frames(problem.__traceback__)  # they hold what TensorRT has on the device
            self._give_back()
            raise
        outputs = self._lanes[0].loaded.outputs
        self.token_outputs = frozenset(tensor.name for tensor in outputs if tensor.is_per_token)
        self.bus = self._devices[0].bus
        self._free: LifoQueue[Lane] = LifoQueue()  # what ran last has most graphs
        for lane in self._lanes:
            self._free.put(lane)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """A padded batch in, every output as float32: `input_ids`, `attention_mask`, `token_type_ids` [batch, seq].

        Raises BertcError B0702 for a shape that no profile holds, B0515 with TensorRT's words when it fails.
        """
        lane = self._free.get()
        try:
            return lane.run(inputs)
        finally:
            self._free.put(lane)

    def phases(self, inputs: Mapping[str, Array]) -> Phases:
        """What a call of `run` costs the device."""
        lane = self._free.get()
        try:
            return lane.phases(inputs)
        finally:
            self._free.put(lane)

    def close(self) -> None:
        """Give the device's memory back, once what runs has ended."""
        for _ in range(len(self._lanes)):
            self._free.get().forget()
        self._give_back()

    def _give_back(self) -> None:
        self._lanes.clear()  # TensorRT gives back what it holds while there is a device to give it to
        for device in self._devices:
            device.close()


def _open_lanes(trt: Any, plan: Path, devices: Sequence[Device], names: Mapping[str, str]) -> list[Lane]:
    """In a frame of its own, and without a closure, whose cell would outlive it."""
    return list(map(partial(Lane, Loaded(trt, plan), names=names), devices))


def open_engine(trt: Any, plan: Path, names: Mapping[str, str], device: int, streams: int) -> Runtime:
    """A plan of TensorRT or TensorRT for RTX on a GPU, with so many runs in flight as there are streams.

    Raises BertcError B0513 without that GPU, for a plan without weights, or with TensorRT's words when it does not take
    the plan; B0515 when the GPU's memory does not suffice.
    """
    if is_stripped(plan.parent):
        message = f"the engine of `{plan.parent}` has no weights yet"
        raise error("B0513", message, None, f"give it some: `bertc weights CHECKPOINT --refit {plan.parent}`")
    try:
        session = Session(trt, plan, names, device, streams)
    except RuntimeError as problem:  # the driver's
        message = f"the GPU has no room for `{plan.parent}` on {streams} streams: {problem}"
        raise error("B0515", message, None, "ask for fewer streams, or build with smaller `shapes`") from None
    return Runtime(session.run, session.close, session.token_outputs, phases=session.phases, gpu=session.bus)
