"""The graph of objects in a checkpoint of TensorFlow 2: what variables were called, or the path that leads to them.

    TrackableObjectGraph    1: nodes, the first of which is the root
    TrackableObject         1: children (1: number of the node, 2: name)
                            2: values (2: full name of the variable, 3: key in the checkpoint)

A checkpoint's own keys are the shortest paths, and those of a trained model may run through its optimizer, which leads
to all that it trains.
Source: https://github.com/tensorflow/tensorflow, tensorflow/core/protobuf/trackable_object_graph.proto
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from bertc.weights_io.protobuf import Message, WireError

MAX_PATH = 1000
"""Characters: a path is as long as all that leads to it, and a hundred thousand objects can lead one to the next."""
OPTIMIZER = "optimizer"


def variable_names(graph: Message) -> dict[str, str]:
    """Names by key, of every variable that the root leads to other than through its optimizer.

    They are the variables' own names where no two are the same, else their paths. Raises WireError.
    """
    nodes = list(graph.messages(1))
    values = {
        value.text(3): (value.text(2), path)
        for node, path in _paths(nodes).items()
        for value in nodes[node].messages(2)
    }
    full_names = {name for name, _ in values.values() if name}
    return {key: name if len(full_names) == len(values) else path for key, (name, path) in values.items()}


def _paths(nodes: Sequence[Message]) -> dict[int, str]:
    """The shortest path to each node, by its number."""
    paths = {0: ""} if nodes else {}
    waiting = deque(paths)
    while waiting:
        parent = waiting.popleft()
        for child in nodes[parent].messages(1):
            node, name = child.number(1), child.text(2)
            if node >= len(nodes):
                raise WireError(f"leads to object {node} of {len(nodes)}")
            if node in paths or name == OPTIMIZER:
                continue
            if len(paths[parent]) + len(name) > MAX_PATH:
                raise WireError(f"leads to object {node} by a path of more than {MAX_PATH} characters")
            paths[node] = f"{paths[parent]}/{name}".removeprefix("/")
            waiting.append(node)
    return paths
