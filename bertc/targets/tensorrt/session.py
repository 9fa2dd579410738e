"""Run an engine: a stream for each run in flight, an execution context and a CUDA graph for each shape on it.

A captured graph holds while the context it was captured from stays as it was, so that each shape has a context of its
own. Those of one stream share one piece of memory for what is computed in between, since they run one after the other.
https://docs.nvidia.com/deeplearning/tensorrt/latest/performance/best-practices.html#cuda-graphs
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import LifoQueue
from traceback import clear_frames
from typing import Any

import numpy as np

from bertc.errors import error
from bertc.ops import Array
from bertc.targets import Phases, Runtime
from bertc.targets.cuda.driver import Captured, Device, Pinned
from bertc.targets.packing import LENGTHS, located, packed, padded_again, parts_of
from bertc.targets.tensorrt.fitting import Fit, best_fit, best_packed_fit, most_sequences
from bertc.targets.tensorrt.loaded import Loaded, Tensor
from bertc.targets.tensorrt.refitting import is_stripped


@dataclass(frozen=True)
class Prepared:
    """A context that is set to one shape, what was captured from it, and the shapes of the outputs."""

    context: Any
    graph: Any
    shapes: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Call:
    """One run: the shape it fits, its inputs as large as that by the engine's names, and how much of it counts."""

    fit: Fit
    given: Mapping[str, Array]
    token_sizes: tuple[int, ...]
    """How many entries of outputs by token were asked for: batch and seq, or tokens."""
    batch: int


class Lane:
    """One stream with its buffers and graphs. It takes one call at a time, from any thread."""

    def __init__(self, loaded: Loaded, device: Device, names: Mapping[str, str]) -> None:
        self.loaded, self.device = loaded, device
        self.names = {theirs: ours for ours, theirs in names.items()}
        device.enter()
        self._scratch = device.allocate(loaded.scratch)
        sizes = {tensor.name: loaded.largest(tensor) for tensor in (*loaded.inputs, *loaded.outputs)}
        self._addresses = {name: device.allocate(size) for name, size in sizes.items()}
        self._pinned = Pinned(device)
        self._captured: Captured[Fit, Prepared] = Captured(device)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """A padded batch in, or packed sequences where the engine takes those; every output as float32."""
        call = self._begun(inputs)
        self._upload(call)
        prepared = self._prepared(call.fit)
        self.device.replay(prepared.graph)
        self._download(prepared)
        self.device.wait()
        return {tensor.name: self._fetch(tensor, prepared, call) for tensor in self.loaded.outputs}

    def phases(self, inputs: Mapping[str, Array]) -> Phases:
        """What a call of `run` costs the device."""
        call = self._begun(inputs)
        upload = self.device.milliseconds(lambda: self._upload(call))
        prepared = self._prepared(call.fit)
        compute = self.device.milliseconds(lambda: self.device.replay(prepared.graph))
        download = self.device.milliseconds(lambda: self._download(prepared))
        return Phases(upload, compute, download)

    def forget(self) -> None:
        """Let go of all contexts and graphs."""
        self.device.enter()
        self._captured.clear()

    def _begun(self, inputs: Mapping[str, Array]) -> Call:
        self.device.enter()
        self.device.wait()  # a run that failed may have left copies in flight
        return self._packed_call(inputs) if self.loaded.is_packed else self._padded_call(inputs)

    def _padded_call(self, inputs: Mapping[str, Array]) -> Call:
        batch, seq = inputs["input_ids"].shape
        fit = best_fit(self.loaded.profiles, batch, seq)
        missing = ((0, fit.batch - batch), (0, fit.tokens - seq))
        whole = {name: np.pad(array, missing) for name, array in inputs.items()}
        return Call(fit, self._given(whole), (batch, seq), batch)

    def _packed_call(self, inputs: Mapping[str, Array]) -> Call:
        batch, tokens = len(inputs[LENGTHS]), len(inputs["input_ids"])
        fit = best_packed_fit(self.loaded.profiles, inputs[LENGTHS])
        whole = {name: np.pad(array, (0, fit.batch - batch)) for name, array in inputs.items()}
        whole[LENGTHS][batch:] = 1
        return Call(fit, self._given(located(whole)), (tokens,), batch)

    def _given(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The engine's inputs, by its names and of its types."""
        arrays = [inputs[self.names.get(tensor.name, tensor.name)] for tensor in self.loaded.inputs]
        return {
            tensor.name: array.astype(tensor.dtype, copy=False)
            for tensor, array in zip(self.loaded.inputs, arrays, strict=True)
        }

    def _prepared(self, fit: Fit) -> Prepared:
        """What is kept for a shape, captured after a run on the inputs, which are uploaded before."""
        return self._captured.get(fit, lambda: self._capture(fit))

    def _capture(self, fit: Fit) -> Prepared:
        context, stream, demand = self.loaded.context(), int(self.device.stream), self.loaded.demand
        shapes = self.loaded.shaped(context, fit, stream)
        context.set_device_memory(self._scratch, self.loaded.scratch)
        for name, address in self._addresses.items():
            demand(context.set_tensor_address(name, address), f"take the address of `{name}`")
        whose = "in all" if self.loaded.is_packed else "each"

        def start() -> None:
            demand(context.execute_async_v3(stream), f"start a batch of {fit.batch} with {fit.tokens} tokens {whose}")

        start()  # TensorRT works out what follows from the shape, which a capture must not
        return Prepared(context, self.device.captured(start), shapes)

    def _upload(self, call: Call) -> None:
        for name, array in call.given.items():
            staged = self._pinned.take(name, array.nbytes)
            staged.view(array.dtype)[:] = array.reshape(-1)
            self.device.start_upload(self._addresses[name], staged)

    def _download(self, prepared: Prepared) -> None:
        for tensor in self.loaded.outputs:
            self.device.start_download(self._staged(tensor, prepared), self._addresses[tensor.name])

    def _staged(self, tensor: Tensor, prepared: Prepared) -> Array:
        return self._pinned.take(tensor.name, tensor.bytes(prepared.shapes[tensor.name]))

    def _fetch(self, tensor: Tensor, prepared: Prepared, call: Call) -> Array:
        """The rows and tokens that were asked for, in memory of their own."""
        whole = self._staged(tensor, prepared).view(tensor.dtype).reshape(prepared.shapes[tensor.name])
        counts = call.token_sizes if tensor.name in self.loaded.token_outputs else (call.batch,)
        return whole[tuple(map(slice, counts))].astype(np.float32)


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
        loaded = self._lanes[0].loaded
        self.is_packed, self.profiles, self.token_outputs = loaded.is_packed, loaded.profiles, loaded.token_outputs
        self.bus = self._devices[0].bus
        self._free: LifoQueue[Lane] = LifoQueue()  # what ran last has most graphs
        for lane in self._lanes:
            self._free.put(lane)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """A padded batch in, every output as float32: `input_ids`, `attention_mask`, `token_type_ids` [batch, seq].

        Raises BertcError B0702 for a shape that no profile holds, B0515 with TensorRT's words when it fails.
        """
        if self.is_packed:
            return padded_again(self._run(packed(inputs)), inputs, self.token_outputs)
        return self._run(inputs)

    def run_packed(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Sequences one behind the other in, `input_ids` and `token_type_ids` [tokens] and their `lengths` [batch];
        every output as float32, token_outputs [tokens, ...].

        More sequences than a profile has are several runs. Raises BertcError as `run` does, B0702 before anything runs.
        """
        most = most_sequences(self.profiles, int(inputs[LENGTHS].max()))
        answers = [self._run(part) for part in parts_of(inputs, most)]
        return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}

    def phases(self, inputs: Mapping[str, Array]) -> Phases:
        """What a call of `run` costs the device."""
        with self._lane() as lane:
            return lane.phases(packed(inputs) if self.is_packed else inputs)

    def _run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        with self._lane() as lane:
            return lane.run(inputs)

    @contextmanager
    def _lane(self) -> Generator[Lane]:
        lane = self._free.get()
        try:
            yield lane
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
    return list(map(partial(Lane, Loaded(trt, plan, int(devices[0].stream)), names=names), devices))


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
    run_packed = session.run_packed if session.is_packed else None
    return Runtime(
        session.run, session.close, session.token_outputs, run_packed, phases=session.phases, gpu=session.bus
    )
