"""Run an engine: a stream for each run in flight, an execution context and a CUDA graph for each shape on it.

A captured graph holds while the context it was captured from stays as it was, so that each shape has a context of its
own. Those of one stream share one piece of memory for what is computed in between, since they run one after the other.
Of packed sequences nearly every call has a shape of its own; such a shape is captured when it comes again.
https://docs.nvidia.com/deeplearning/tensorrt/latest/performance/best-practices.html#cuda-graphs
"""

from __future__ import annotations

from collections import deque
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
from bertc.targets.copies import copied
from bertc.targets.cuda.driver import GRAPHS, Captured, Device, Pinned
from bertc.targets.packing import LENGTHS, located, packed, padded_again, parts_of
from bertc.targets.tensorrt.fitting import Fit, best_fit, best_packed_fit, most_sequences
from bertc.targets.tensorrt.loaded import Loaded, Tensor
from bertc.targets.tensorrt.refitting import is_stripped

Shapes = Mapping[str, tuple[int, ...]]
"""Output of an engine -> its shape."""


@dataclass(frozen=True)
class Prepared:
    """A context that is set to one shape, what was captured from it, and the shapes of the outputs."""

    context: Any
    graph: Any
    shapes: Shapes


@dataclass(frozen=True)
class Call:
    """One run: the shape it fits, its inputs as large as that by the engine's names, and how much of it counts."""

    fit: Fit
    given: Mapping[str, Array]
    token_sizes: tuple[int, ...]
    """How many entries of outputs by token were asked for: batch and seq, or tokens."""
    batch: int


class Lane:
    """One stream with its buffers and graphs. It takes one call at a time, from any thread, while its device is the
    current one."""

    def __init__(self, loaded: Loaded, device: Device, names: Mapping[str, str]) -> None:
        self.loaded, self.device = loaded, device
        self.names = {theirs: ours for ours, theirs in names.items()}
        self._scratch = device.allocate(loaded.scratch)
        sizes = {tensor.name: loaded.largest(tensor) for tensor in (*loaded.inputs, *loaded.outputs)}
        self._addresses = {name: device.allocate(size) for name, size in sizes.items()}
        self._pinned = Pinned(device)
        self._captured: Captured[Fit, Prepared] = Captured(device)
        self._recent: deque[Fit] = deque(maxlen=GRAPHS)
        self._shared = self._context() if loaded.is_packed else None

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """A padded batch in, or packed sequences where the engine takes those; every output as float32."""
        call = self._begun(inputs)
        self._upload(call)
        shapes = self._computed(call.fit)
        self._download(shapes)
        self.device.wait()
        return {tensor.name: self._fetch(tensor, shapes[tensor.name], call) for tensor in self.loaded.outputs}

    def phases(self, inputs: Mapping[str, Array]) -> Phases:
        """What a call of `run` costs the device."""
        call = self._begun(inputs)
        upload = self.device.milliseconds(lambda: self._upload(call))
        prepared = self._captured.get(call.fit, lambda: self._capture(call.fit))
        compute = self.device.milliseconds(lambda: self.device.replay(prepared.graph))
        download = self.device.milliseconds(lambda: self._download(prepared.shapes))
        return Phases(upload, compute, download)

    def forget(self) -> None:
        """Let go of all contexts and graphs."""
        self._captured.clear()

    def _begun(self, inputs: Mapping[str, Array]) -> Call:
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

    def _computed(self, fit: Fit) -> Shapes:
        """Start a run on what was uploaded; the shapes of the outputs."""
        if self._shared is not None and not self._came_lately(fit):
            return self._start(self._shared, fit)
        prepared = self._captured.get(fit, lambda: self._capture(fit))
        self.device.replay(prepared.graph)
        return prepared.shapes

    def _came_lately(self, fit: Fit) -> bool:
        """Whether it was among the last runs: a graph for it would still be there."""
        came = fit in self._recent
        self._recent.append(fit)
        return came

    def _capture(self, fit: Fit) -> Prepared:
        context = self._context()
        shapes = self._start(context, fit)  # TensorRT works out what follows from the shape, which a capture must not
        return Prepared(context, self.device.captured(lambda: self._enqueue(context, fit)), shapes)

    def _context(self) -> Any:
        """An execution context for the buffers of this stream."""
        context = self.loaded.context()
        for name, address in self._addresses.items():
            self.loaded.demand(context.set_tensor_address(name, address), f"take the address of `{name}`")
        return context

    def _start(self, context: Any, fit: Fit) -> Shapes:
        """A run in a context, which is set to the shape; the shapes of the outputs."""
        shapes = self.loaded.shaped(context, fit, int(self.device.stream))
        context.set_device_memory(self._scratch, self.loaded.scratch)  # which has to suffice for the profile
        self._enqueue(context, fit)
        return shapes

    def _enqueue(self, context: Any, fit: Fit) -> None:
        whose = "in all" if self.loaded.is_packed else "each"
        started = context.execute_async_v3(int(self.device.stream))
        self.loaded.demand(started, f"start a batch of {fit.batch} with {fit.tokens} tokens {whose}")

    def _upload(self, call: Call) -> None:
        for name, array in call.given.items():
            staged = self._pinned.take(name, array.nbytes)
            staged.view(array.dtype)[:] = array.reshape(-1)
            self.device.start_upload(self._addresses[name], staged)

    def _download(self, shapes: Shapes) -> None:
        for tensor in self.loaded.outputs:
            self.device.start_download(self._staged(tensor, shapes[tensor.name]), self._addresses[tensor.name])

    def _staged(self, tensor: Tensor, shape: tuple[int, ...]) -> Array:
        return self._pinned.take(tensor.name, tensor.bytes(shape))

    def _fetch(self, tensor: Tensor, shape: tuple[int, ...], call: Call) -> Array:
        """The rows and tokens that were asked for, in memory of their own."""
        whole = self._staged(tensor, shape).view(tensor.dtype).reshape(shape)
        counts = call.token_sizes if tensor.name in self.loaded.token_outputs else (call.batch,)
        return copied(whole[tuple(map(slice, counts))])


class Session:
    """An engine on a GPU. Calls come from any thread; as many as there are lanes run at once, others wait."""

    def __init__(self, trt: Any, plan: Path, names: Mapping[str, str], number: int, streams: int) -> None:
        self._devices: list[Device] = []
        self._lanes: list[Lane] = []
        try:
            self._devices += [Device(number) for _ in range(streams)]
            with self._devices[0].current():
                self._lanes += _open_lanes(trt, plan, self._devices, names)
        except BaseException:
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
        """A lane that nobody uses, on its device."""
        lane = self._free.get()
        try:
            with lane.device.current():
                yield lane
        finally:
            self._free.put(lane)

    def close(self) -> None:
        """Give the device's memory back, once what runs has ended."""
        for _ in range(len(self._lanes)):
            self._free.get()
        self._give_back()

    def _give_back(self) -> None:
        while self._lanes:
            with self._devices[0].current():  # TensorRT gives back what it holds while there is a device to give it to
                self._lanes.pop().forget()
        for device in self._devices:
            device.close()


def _open_lanes(trt: Any, plan: Path, devices: Sequence[Device], names: Mapping[str, str]) -> list[Lane]:
    """In a frame of its own, and without a closure, whose cell would outlive it."""
    try:
        return list(map(partial(Lane, Loaded(trt, plan, int(devices[0].stream)), names=names), devices))
    except BaseException as problem:
        clear_frames(problem.__traceback__)  # they hold what TensorRT has on the device
        raise


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
        session.run,
        session.close,
        session.token_outputs,
        run_packed,
        phases=session.phases,
        gpu=session.bus,
        check_shape=partial(best_fit, session.profiles),
    )
