"""What bundles are measured beside: the same network by other means, named by `--against`.

A peer is made from the bundle's own graph, so that it computes the same, and from the same weights where they can be
had: those of the spec that is named, or the random ones that the bundle was built with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from bertc.bench.measure import Contestant
from bertc.bundle import GRAPH, Bundle
from bertc.compiler import bind_weights
from bertc.elaborate import read_graph
from bertc.errors import did_you_mean, error
from bertc.graph import Graph
from bertc.ops import Array
from bertc.parser import parse_graph
from bertc.reference import Weights
from bertc.spec import Spec
from bertc.weights_io import random_weights, weights_hash

PEERS = {
    "torch": ("bertc.bench.torch_peer", ("torch",)),
    "onnxruntime": ("bertc.bench.onnxruntime_peer", ("onnx", "onnxruntime", "torch", "transformers")),
}
"""Name -> the module that makes it, with a function `open_peer(network)`, and the packages it needs."""


@dataclass(frozen=True)
class Network:
    """What a peer is made from."""

    graph: Graph
    """After all passes, as the bundle's engine computes it."""
    weights: Weights
    sizes: Mapping[str, int]
    gpu: int | None
    """The number of the GPU that the bundle runs on; None on the CPU."""


@dataclass(frozen=True)
class Peer:
    """Another engine with the network in it."""

    name: str
    description: str
    """Its version, and how it was made to run."""
    prepare: Callable[[Mapping[str, Array]], Contestant]
    """For a padded batch as `Runtime.run` takes it; the contestant's run returns the outputs by their names."""


def check_peer(name: str) -> None:
    """Raises BertcError B0001 for a peer that there is not, B0801 when one of its packages is missing."""
    if name not in PEERS:
        raise error("B0001", f"there is no peer `{name}`", None, did_you_mean(name, PEERS))
    for package in PEERS[name][1]:
        try:
            import_module(package)
        except ImportError:
            message = f"`--against {name}` needs the package {package}"
            raise error("B0801", message, None, "pip install 'bertc[bench]'") from None


def open_peer(name: str, network: Network) -> Peer:
    """Raises BertcError B0001 and B0801 as `check_peer`, and B0801 for a network that the peer does not know."""
    check_peer(name)
    module: Any = import_module(PEERS[name][0])
    return module.open_peer(network)


def bundle_graph(bundle: Bundle) -> Graph:
    """The graph of a bundle, read back from its text."""
    path = bundle.path / GRAPH
    return read_graph(parse_graph(path.read_text("utf-8"), str(path)))


def bundle_weights(bundle: Bundle, graph: Graph, spec: Spec | None, path: Path | None) -> tuple[Weights, bool]:
    """The weights of a graph, and whether they are those of the bundle: a spec's or those at `path`, which must be, or
    without a spec random ones, which are when the bundle was built with `--random-weights 0`.

    Raises BertcError B0802 when a spec's weights are others, and what reading them raises.
    """
    tensors = random_weights(_shapes(graph), 0) if spec is None else bind_weights(spec, graph, path, None)
    same = weights_hash(tensors) == bundle.manifest.weights_hash
    if spec is not None and not same:
        message = f"`{path or spec.weights}` does not hold the weights that `{bundle.path}` was built with"
        raise error("B0802", message, None, "name the checkpoint that it was built from, or leave `--spec` out")
    return tensors, same


def _shapes(graph: Graph) -> dict[str, tuple[int, ...]]:
    return {node.key: tuple(int(size) for size in node.types[0].shape) for node in graph.weights}
