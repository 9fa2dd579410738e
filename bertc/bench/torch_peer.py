"""PyTorch as a peer: on a GPU torch.compile with a CUDA graph of its own for each shape, on the CPU eager mode."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from bertc.bench.measure import Contestant
from bertc.bench.peers import Network, Peer
from bertc.bench.torch_network import to_torch, torch_constants
from bertc.graph import Graph
from bertc.ops import Array
from bertc.targets import Phases
from bertc.types import bind_sizes

torch: Any = import_module("torch")

NAME = "torch"


def open_peer(network: Network) -> Peer:
    """The network in PyTorch, its weights on the GPU that the bundle runs on, or on the CPU."""
    device = torch.device("cpu") if network.gpu is None else torch.device("cuda", network.gpu)
    constants = torch_constants(network.graph, network.weights, device)

    def prepare(inputs: Mapping[str, Array]) -> Contestant:
        batch, seq = inputs["input_ids"].shape
        sizes = {"batch": batch, "seq": seq, "tokens": batch * seq}
        module = to_torch(network.graph, constants, sizes)
        given = _given(network.graph, inputs)
        shapes = _padded_shapes(network.graph, sizes)
        if network.gpu is None:
            return Contestant(NAME, lambda: _eager(module, given, shapes))
        loaded = _capture(module, given, shapes, device)
        return Contestant(NAME, loaded.run, loaded.phases)

    return Peer(NAME, _description(network.gpu), prepare)


def _description(gpu: int | None) -> str:
    version = str(torch.__version__)
    if gpu is None:
        return f"torch {version}, eager, {torch.get_num_threads()} threads"
    return f"torch {version}, torch.compile and CUDA graphs"


def _given(graph: Graph, inputs: Mapping[str, Array]) -> list[Any]:
    """The inputs of the graph for a padded batch; of a packed graph its rows, whole, one behind the other."""
    if "places" not in {node.key for node in graph.inputs}:
        return [_tensor(inputs[node.key]) for node in graph.inputs]
    batch, seq = inputs["input_ids"].shape
    packed: dict[str, Any] = {
        **{name: inputs[name].reshape(-1) for name in ("input_ids", "token_type_ids")},
        "places": np.tile(np.arange(seq, dtype=np.int32), batch),
        "starts": np.arange(0, batch * seq, seq),
        "lengths": np.full(batch, seq),
    }
    return [_tensor(packed[node.key]) for node in graph.inputs]


def _tensor(array: Array) -> Any:
    return torch.from_numpy(np.ascontiguousarray(array, np.int32))


def _padded_shapes(graph: Graph, sizes: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """The shape of every output, with [batch, seq, ...] for [tokens, ...]."""
    types = {name: graph.type_of(value).shape for name, value in graph.outputs.items()}
    padded = {name: ("batch", "seq", *shape[1:]) if shape[0] == "tokens" else shape for name, shape in types.items()}
    return {name: bind_sizes(shape, sizes) for name, shape in padded.items()}


def _answers(shapes: Mapping[str, tuple[int, ...]], tensors: Sequence[Any]) -> dict[str, Array]:
    """The outputs as float32 in the host's memory."""
    arrays = (tensor.to(torch.float32, copy=True).numpy() for tensor in tensors)
    return {name: array.reshape(shape) for (name, shape), array in zip(shapes.items(), arrays, strict=True)}


def _eager(module: Any, given: Sequence[Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Array]:
    with torch.inference_mode():
        return _answers(shapes, module(*given))


@dataclass(frozen=True)
class _Captured:
    """A CUDA graph with its inputs and outputs, on the device and in pinned memory of the host."""

    device: Any
    shapes: Mapping[str, tuple[int, ...]]
    graph: Any
    given: Sequence[Any]
    inputs: Sequence[Any]
    results: Sequence[Any]
    answers: Sequence[Any]

    def run(self) -> dict[str, Array]:
        with torch.cuda.device(self.device):
            self._upload()
            self.graph.replay()
            self._download()
            torch.cuda.current_stream().synchronize()
        return _answers(self.shapes, self.answers)

    def phases(self) -> Phases:
        """Each by itself, from an idle device, as the cuda target's session does."""
        with torch.cuda.device(self.device):
            return Phases(_elapsed(self._upload), _elapsed(self.graph.replay), _elapsed(self._download))

    def _upload(self) -> None:
        for target, source in zip(self.inputs, self.given, strict=True):
            target.copy_(source, non_blocking=True)

    def _download(self) -> None:
        for target, source in zip(self.answers, self.results, strict=True):
            target.copy_(source, non_blocking=True)


def _elapsed(work: Callable[[], None]) -> float:
    """Milliseconds of the device."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    work()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end))


def _capture(module: Any, given: Sequence[Any], shapes: Mapping[str, tuple[int, ...]], device: Any) -> _Captured:
    """Compile a network for one shape and keep a run of it as a CUDA graph."""
    torch._dynamo.reset()
    compiled = torch.compile(module, dynamic=False)
    with torch.cuda.device(device), torch.no_grad():
        inputs = [tensor.to(device) for tensor in given]
        for _ in range(3):
            compiled(*inputs)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            results = compiled(*inputs)
        answers = [torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True) for tensor in results]
    return _Captured(device, shapes, graph, [tensor.pin_memory() for tensor in given], inputs, results, answers)
