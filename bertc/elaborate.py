"""Specs and texts of graphs to graphs: blocks are inlined, layers repeated, parameters named."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from itertools import chain

from bertc import notation
from bertc.elaborator import Elaborator, Frame
from bertc.errors import Span, did_you_mean, error
from bertc.graph import INPUT, UNUSED, WEIGHT, Graph, default_element
from bertc.meanings import Environment, Results, Value, describe
from bertc.notation import (
    Block,
    GraphTree,
    Name,
    Parameter,
)
from bertc.parser import parse, read
from bertc.spec import Slot, Spec
from bertc.types import Type


def elaborate(spec: Spec) -> Graph:
    """The graph of a spec: the block of its wiring, with blocks in its slots; its parameters are the inputs, and every
    block knows them by name.

    Raises BertcError: B0103 unknown names, B0104 blocks defined twice, B0105 and B0106 calls that do not fit, B0107
    circles, and what reading the spec's own files of blocks raises.
    """
    blocks = _blocks(spec)
    slots = {**spec.network, "activation": Slot(spec.activation, None)}
    symbols = {size: size for size in ("batch", "seq")}
    numbers = {
        name: getattr(spec, name) for name in ("norm_eps", "position_offset", "rotary_base", "local_rotary_base")
    }
    given = {name: number for name, number in numbers.items() if number is not None}
    graph = Graph()
    elaborator = Elaborator(graph, blocks, slots, {**symbols, **spec.sizes, **given}, spec.spans)
    network = _wiring(blocks, spec)
    environment = _inputs(elaborator, network.parameters)
    elaborator.constants |= environment
    results = elaborator.body(network.body, Frame(environment))
    graph.outputs = _outputs(results, network.span)
    return graph


def _wiring(blocks: Mapping[str, Block], spec: Spec) -> Block:
    name = spec.network["wiring"].block
    if name not in blocks:
        span = spec.spans.get("network.wiring")
        raise error("B0103", f"block `{name}` does not exist", span, did_you_mean(name, blocks))
    return blocks[name]


def _blocks(spec: Spec) -> dict[str, Block]:
    """The shipped blocks, and the spec's own, which may not take a shipped one's name."""
    blocks: dict[str, Block] = {}
    for item in chain(_shipped_items(), *map(read, spec.blocks)):
        if isinstance(item, Block):
            if item.name in blocks:
                raise error("B0104", f"block `{item.name}` exists already", item.span, "give it another name")
            blocks[item.name] = item
    return blocks


@cache
def _shipped_items() -> tuple[notation.Item, ...]:
    """What stands in specs/blocks/*.net."""
    shipped = (file for file in files("bertc").joinpath("specs/blocks").iterdir() if file.name.endswith(".net"))
    ordered = sorted(shipped, key=lambda file: file.name)
    return tuple(item for file in ordered for item in parse(file.read_text("utf-8"), file.name))


def read_graph(tree: GraphTree) -> Graph:
    """The graph that a text describes; every name stands as written."""
    graph = Graph()
    elaborator = Elaborator(graph)
    environment = _inputs(elaborator, tree.parameters)
    for assign in tree.body.assigns:
        for target in assign.targets:
            if target != UNUSED and (target in environment or target in graph):
                raise error("B0104", f"`{target}` is defined twice", assign.span, "every value has one line")
            environment[target] = None
    for target in [name for name, meaning in environment.items() if meaning is None]:
        del environment[target]
    results = elaborator.body(tree.body, Frame(environment))
    graph.outputs = _outputs(results, tree.span)
    return graph


def _inputs(elaborator: Elaborator, parameters: tuple[Parameter, ...]) -> Environment:
    """Add the inputs and weights that a signature declares; its free sizes become names of sizes."""
    environment: Environment = {}
    for parameter in parameters:
        type = parameter.type
        if type is None or type.dims is None or type.kind not in ("value", "weight"):
            raise error("B0105", f"`{parameter.name}` needs a type such as `f16[batch, seq, 64]`", parameter.span)
        for dim in type.dims:
            if isinstance(dim, Name) and dim.path not in elaborator.constants:
                environment[dim.path] = dim.path
    frame = Frame(environment)
    typed = [(p, Type(p.type.element or "", elaborator.dims(p.type.dims or (), frame))) for p in parameters if p.type]
    elaborator.element = default_element(
        type for parameter, type in typed if parameter.type and parameter.type.kind == "value"
    )
    for parameter, type in typed:
        kind = WEIGHT if parameter.type and parameter.type.kind == "weight" else INPUT
        elaborator.graph.leaf(
            kind, parameter.name, Type(type.element or elaborator.element, type.shape), parameter.span
        )
        environment[parameter.name] = Value(parameter.name)
    return environment


def _outputs(results: Results, span: Span | None) -> dict[str, str]:
    outputs: dict[str, str] = {}
    for value, name in zip(results.values, results.names, strict=True):
        if not isinstance(value, Value):
            raise error("B0105", f"a graph returns values, but {describe(value)} is returned", span)
        outputs[name or value.name] = value.name
    if len(outputs) != len(results.values):
        raise error("B0104", "two outputs have one name", span, "write `return name=value`")
    return outputs
