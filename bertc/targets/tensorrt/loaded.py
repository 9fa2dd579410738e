"""An engine in the device's memory: its inputs and outputs, its profiles, and the shapes that follow from one another.

https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/work-dynamic-shapes.html
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from bertc.shapes import Profile, Range
from bertc.targets.packing import LENGTHS, PER_SEQUENCE, PLACES
from bertc.targets.tensorrt.build import load
from bertc.targets.tensorrt.fitting import Fit
from bertc.targets.tensorrt.log import demand, make_log
from bertc.targets.tensorrt.network import ELEMENTS


@dataclass(frozen=True)
class Tensor:
    """An input or output of an engine."""

    name: str
    dtype: Any
    declared: tuple[int, ...]
    """Its sizes; -1 for the batch, and behind that for the sequence; of packed sequences one -1, for either."""

    def shape(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """Its sizes with the ones that were open put in."""
        known = iter(sizes)
        return tuple(next(known) if size == -1 else size for size in self.declared)

    def bytes(self, shape: Sequence[int]) -> int:
        return prod(shape) * np.dtype(self.dtype).itemsize


class Loaded:
    """An engine in the device's memory; its parts that no run changes.

    Raises BertcError B0513 with what TensorRT says when it does not take the plan.
    """

    def __init__(self, trt: Any, plan: Path, stream: int) -> None:
        self.trt, self.log, self._turn = trt, make_log(trt), Lock()
        self.engine = load(trt, plan.read_bytes(), self.log)
        if self.engine.streamable_weights_size:
            self.engine.weight_streaming_budget_v2 = self.engine.get_weight_streaming_automatic_budget()
        tensors = [self._tensor(self.engine.get_tensor_name(place)) for place in range(self.engine.num_io_tensors)]
        given = [self.engine.get_tensor_mode(tensor.name) == trt.TensorIOMode.INPUT for tensor in tensors]
        self.inputs = [tensor for tensor, is_input in zip(tensors, given, strict=True) if is_input]
        self.outputs = [tensor for tensor, is_input in zip(tensors, given, strict=True) if not is_input]
        self.is_packed = any(tensor.name == LENGTHS for tensor in self.inputs)
        self.profiles = [self._profile(index) for index in range(self.engine.num_optimization_profiles)]
        sizes = [self.engine.get_device_memory_size_for_profile_v2(index) for index in range(len(self.profiles))]
        self.scratch = max(sizes)
        """Bytes that a context computes in."""
        self.token_outputs = self._packed_token_outputs(stream) if self.is_packed else self._token_outputs()

    def _tensor(self, name: str) -> Tensor:
        types = {getattr(self.trt, theirs): ours for theirs, ours in ELEMENTS.values()}
        dtype = types[self.engine.get_tensor_dtype(name)]
        return Tensor(name, dtype, tuple(self.engine.get_tensor_shape(name)))

    def _profile(self, index: int) -> Profile:
        """Of packed sequences, a profile's tokens are those of a batch of sequences that are equally long."""
        if not self.is_packed:
            batch, seq = zip(*self._ends(self.inputs[0].name, index), strict=True)
            return Profile(Range(*batch), Range(*seq))
        batch, tokens = ([size for (size,) in self._ends(name, index)] for name in (LENGTHS, PLACES))
        return Profile(Range(*batch), Range(*(total // count for total, count in zip(tokens, batch, strict=True))))

    def _ends(self, name: str, index: int) -> list[tuple[int, ...]]:
        """An input's smallest, usual and largest shape in a profile."""
        return [tuple(shape) for shape in self.engine.get_tensor_profile_shape(name, index)]

    def _token_outputs(self) -> frozenset[str]:
        return frozenset(tensor.name for tensor in self.outputs if tensor.declared.count(-1) == 2)

    def _packed_token_outputs(self, stream: int) -> frozenset[str]:
        """The outputs that grow with the tokens: found in a shape of few sequences of many tokens."""
        index, profile = max(enumerate(self.profiles), key=lambda entry: entry[1].batch.largest * entry[1].seq.largest)
        fit = Fit(index, profile.batch.smallest, profile.batch.largest * profile.seq.largest)
        shapes = self.shaped(self.context(), fit, stream)
        return frozenset(name for name, shape in shapes.items() if shape[0] == fit.tokens)

    def largest(self, tensor: Tensor) -> int:
        """Bytes that hold a tensor in any shape of any profile."""
        ends = [(profile.batch.largest, profile.seq.largest) for profile in self.profiles]
        most = [(batch * seq,) if self.is_packed else (batch, seq) for batch, seq in ends]
        return max(tensor.bytes(tensor.shape(sizes)) for sizes in most)

    def shaped(self, context: Any, fit: Fit, stream: int) -> dict[str, tuple[int, ...]]:
        """Set a context to a shape; the shapes of the outputs in it."""
        self.demand(context.set_optimization_profile_async(fit.profile, stream), f"choose profile {fit.profile}")
        for tensor in self.inputs:
            shape = tensor.shape(self._sizes(tensor, fit))
            self.demand(context.set_input_shape(tensor.name, shape), f"take {list(shape)} as `{tensor.name}`")
        return {tensor.name: tuple(context.get_tensor_shape(tensor.name)) for tensor in self.outputs}

    def _sizes(self, tensor: Tensor, fit: Fit) -> tuple[int, ...]:
        """An input's open sizes in a shape."""
        if not self.is_packed:
            return fit.batch, fit.tokens
        return (fit.batch if tensor.name in PER_SEQUENCE else fit.tokens,)

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
        demand(done, "B0515", what, self.trt, self.log)
