"""A spec as the interpreter computes it, in float64, a sequence at a time: the definition of what is right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from bertc.compiler import bind_weights, stages
from bertc.evaluation.comparison import Network, check_vocabulary
from bertc.evaluation.layers import layers_of
from bertc.ops import Array
from bertc.reference import evaluate
from bertc.spec import load_spec


def open_reference(argument: str, vocab: int, *, layers: bool) -> Network:
    """The network of a spec before any pass, with its own weights; with `layers`, what leaves each is an output too.

    Raises what loading the spec and reading its weights does, B0502 for a spec that names none, B0909 for a network of
    another vocabulary.
    """
    spec = load_spec(argument)
    check_vocabulary(spec.sizes["vocab"], vocab, argument)
    graph = next(stages(spec)).graph
    weights = bind_weights(spec, graph, None, None)
    if layers:
        graph.outputs = {**layers_of(graph), **graph.outputs}

    def outputs(ids: Array, types: Array) -> Mapping[str, Array]:
        row = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": types}
        found = evaluate(graph, {name: values[None] for name, values in row.items()}, weights)
        return {name: output[0] for name, output in found.items()}

    def run(ids: Sequence[Array], types: Sequence[Array]) -> list[Mapping[str, Array]]:
        return [outputs(row, kinds) for row, kinds in zip(ids, types, strict=True)]

    return run
