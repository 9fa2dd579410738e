"""What is derived from a rule and written by nobody: nine checks, each of which a wrong rule fails.

Both sides of a rule can be executed, so that the rule is its own test. `check_rules` is `bertc check my-rules.net`,
`check_spec` is `bertc check SPEC`: every pass against the reference on random weights and inputs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bertc import notation
from bertc.elaborate import Elaborator, Frame, Value, elaborate
from bertc.errors import BertcError, error
from bertc.graph import INPUT, UNUSED, WEIGHT, Graph, Node
from bertc.notation import Body, Name, Number, RuleTree, Star
from bertc.parser import parse, read
from bertc.passes import Options, pipeline, rules_of, run
from bertc.passes.canonicalize import canonicalize
from bertc.plugins import OPS
from bertc.reference import evaluate
from bertc.rewrite import apply
from bertc.rule import Rule
from bertc.spec import Spec, load_spec
from bertc.types import Shape, Type
from bertc.weights_io import random_weights

ALGEBRA = 1e-12
"""Both sides in float64: a sum in another order differs by about 1e-15, gelu from gelu_tanh by 4.7e-4."""

TRIALS = 3
"""Random sizes and values for each rule; no wrong formula has been seen to agree on one draw of reals."""

Apply = Callable[[Rule, Graph], tuple[Graph, int]]


@dataclass(frozen=True)
class Verdict:
    subject: str
    check: str
    problem: str | None
    """Why it failed, or None."""


def check_rules(path: str) -> list[Verdict]:
    """The nine checks on each rule of a file. Raises BertcError when the file itself cannot be read as rules."""
    rules = rules_of(read(Path(path)))
    if not rules:
        help = "a rule is `rule NAME(x: [*, n]):`, its left side, `=>`, its right side"
        raise error("B0301", f"`{path}` has no rule to check", None, help)
    return [verdict for rule in rules for verdict in check_rule(rule)]


def check_rule(rule: Rule, apply: Apply = apply, *, canonical: bool = True) -> list[Verdict]:
    """The nine checks on one rule. `canonical=False` is for the rules that define what canonical is."""
    checks: dict[str, Callable[[], str | None]] = {
        "prints back": lambda: _prints_back(rule),
        "both sides have the same types": lambda: _types(rule),
        "both sides agree in float64": lambda: _values(rule),
        "fires once on its left side": lambda: _fires_once(rule, apply),
        "does not fire on its right side": lambda: _rests(rule, apply),
        "its left side is canonical": lambda: _canonical(rule) if canonical else None,
        "refuses a value that leaks": lambda: _leaks(rule, apply),
        "refuses to make a loop": lambda: _loops(rule, apply),
        "near misses do not fire, or are equal": lambda: _near_misses(rule, apply),
    }
    return [Verdict(rule.name, name, _problem(check)) for name, check in checks.items()]


def check_spec(argument: str) -> list[Verdict]:
    """Each pass on a spec, cut to two layers and small sizes: it keeps what the network computes."""
    spec = _cut(load_spec(argument))
    graph = elaborate(spec)
    weights = random_weights({node.key: tuple(map(int, node.types[0].shape)) for node in graph.weights}, 0)
    length = spec.shapes[0].seq.largest
    lengths = np.array([[length], [max(1, length // 3)], [1]])
    generator = np.random.default_rng(0)
    inputs = {
        "input_ids": generator.integers(0, spec.sizes["vocab"], (3, length)),
        "attention_mask": (np.arange(length) < lengths).astype(np.int64),
        "token_type_ids": generator.integers(0, spec.sizes["types"], (3, length)),
    }
    expected = evaluate(graph, inputs, weights)
    verdicts: list[Verdict] = []
    for stage in run(graph, pipeline(spec.passes, spec.without), Options(spec.precision)):
        found = evaluate(stage.graph, inputs, weights)
        worst = max(float(np.abs(found[name] - expected[name]).max()) for name in expected)
        problem = None if worst < ALGEBRA else f"the outputs differ by {worst:.1e} from the reference"
        verdicts.append(Verdict(stage.name, "keeps what the network computes", problem))
    return verdicts


def _cut(spec: Spec) -> Spec:
    """Two layers of a few heads: passes see the same graph, only smaller."""
    heads, size = min(spec.sizes["heads"], 3), min(spec.sizes["head_size"], 8)
    small = {
        "layers": 2,
        "heads": heads,
        "head_size": size,
        "hidden": heads * size,
        "inner": 40,
        "vocab": 53,
        "positions": 32,
    }
    network = {
        name: replace(slot, repeat=None if slot.repeat is None else min(slot.repeat, 2))
        for name, slot in spec.network.items()
    }
    profile = replace(spec.shapes[0], seq=replace(spec.shapes[0].seq, smallest=1, usual=8, largest=16))
    return replace(spec, sizes={**spec.sizes, **small}, network=network, shapes=(profile,))


# ------------------------------------------------------------------------------------------------------------ instances


@dataclass(frozen=True)
class Instance:
    """One side of a rule as a graph: random sizes, its parameters as inputs, weights and numbers."""

    graph: Graph
    results: tuple[str, ...]


def instance(rule: Rule, side: Body, trial: int) -> Instance:
    """A side as a graph, the same parameters for both sides of a rule and the same trial."""
    sizes = _sizes(rule, trial)
    graph = Graph()
    environment: dict[str, Any] = {name: size for name, size in sizes.items() if name != "*"}
    for parameter in rule.parameters:
        kind = parameter.type.kind if parameter.type else "value"
        if kind == "number":
            environment[parameter.name] = _number(rule, parameter.name, trial)
            continue
        shape = _shape(parameter.type.dims if parameter.type else None, sizes)
        if kind == "broadcast":
            shape = tuple(1 if (index + trial) % 2 else size for index, size in enumerate(shape))
        element = (parameter.type.element if parameter.type else None) or "f32"
        graph.leaf(WEIGHT if kind == "weight" else INPUT, parameter.name, Type(element, shape))
        environment[parameter.name] = Value(parameter.name)
    for name in sorted(rule.bound_names() - environment.keys()):
        environment[name] = sizes.setdefault(name, _draw(rule, name, trial, 2, 5))
    results = Elaborator(graph).body(side, Frame(environment))
    names = tuple(value.name for value in results.values)
    graph.outputs = {f"result.{index}": name for index, name in enumerate(names)}
    return Instance(graph, names)


def _sizes(rule: Rule, trial: int) -> dict[str, Any]:
    """A number for every size of the signature; sizes that products of others must equal are found by trying."""
    names = {dim.path for p in rule.parameters if p.type for dim in p.type.dims or () if isinstance(dim, Name)}
    numbers = {p.name for p in rule.parameters if p.type is not None and p.type.kind == "number"}
    sizes: dict[str, Any] = {
        name: _draw(rule, name, trial, 2, 6) for name in sorted(names | rule.bound_names()) if name not in rule.types
    }
    sizes |= {name: _draw(rule, name, trial, 0, 2) for name in numbers & names}
    sizes["*"] = (2, 3)[: trial % 3]
    return _solved(rule, sizes)


def _solved(rule: Rule, sizes: dict[str, Any]) -> dict[str, Any]:
    """`weight[m, n]` with `split(sizes=[heads * size, ...])` fixes m: a split of a weight's rows names their sum."""
    for node in rule.pattern:
        for name, tree in node.attributes:
            if node.op == "split" and name == "sizes":
                parts = Elaborator(Graph()).expression(tree, Frame(dict(sizes)))
                free = [dim.path for p in rule.parameters if (dim := _rows(p)) is not None]
                sizes |= {size: sum(parts) for size in free}
            if node.op == "slice" and name == "size" and isinstance(tree, Name):
                sizes |= {size: sizes[tree.path] + 3 for size in sizes if size == "positions"}
    return sizes


def _rows(parameter: notation.Parameter) -> Name | None:
    """The size that a weight's rows are named by."""
    type = parameter.type
    if type is None or type.kind != "weight" or not type.dims:
        return None
    return type.dims[0] if isinstance(type.dims[0], Name) else None


def _shape(dims: Sequence[notation.TypeDim] | None, sizes: Mapping[str, Any]) -> Shape:
    shape: list[int] = []
    for dim in dims or ():
        match dim:
            case Star():
                shape += sizes["*"]
            case Number():
                shape.append(int(dim.value))
            case Name():
                shape.append(sizes[dim.path])
            case _:
                raise AssertionError(dim)
    return tuple(shape)


def _draw(rule: Rule, name: str, trial: int, low: int, high: int) -> int:
    digest = hashlib.sha256(f"{rule.name} {name} {trial}".encode()).digest()
    return low + int.from_bytes(digest[:4], "big") % (high - low + 1)


def _number(rule: Rule, name: str, trial: int) -> float | int:
    """A number that fits where the rule uses it: whole where an attribute is whole."""
    whole = any(
        isinstance(tree, Name) and tree.path == name and OPS[node.op].attributes[key].annotation == "int"
        for node in rule.pattern
        for key, tree in node.attributes
    )
    return _draw(rule, name, trial, 0, 2) if whole else 0.25 + _draw(rule, name, trial, 0, 1000) / 512


def answers(graph: Graph, seed: int) -> list[Any]:
    """The outputs of a graph on random values for its inputs and weights; sizes known only later are 3."""
    generator = np.random.default_rng(seed)
    values: dict[str, Any] = {}
    for node in sorted((*graph.inputs, *graph.weights), key=lambda node: node.key):
        shape = tuple(size if isinstance(size, int) else 3 for size in node.types[0].shape)
        ids = not node.types[0].is_float
        values[node.key] = generator.integers(0, 2, shape) if ids else generator.standard_normal(shape)
    weights = {node.key: _Given(values[node.key]) for node in graph.weights}
    return list(evaluate(graph, values, weights).values())


@dataclass(frozen=True)
class _Given:
    array: Any

    def read(self) -> Any:
        return self.array


# ------------------------------------------------------------------------------------------------------------ the nine


def _problem(check: Callable[[], str | None]) -> str | None:
    try:
        return check()
    except BertcError as problem:
        return problem.diagnostics[0].message


def _prints_back(rule: Rule) -> str | None:
    (back,) = parse(notation.to_text(rule.tree))
    return None if isinstance(back, RuleTree) and back == rule.tree else "its text reads back as another rule"


def _types(rule: Rule) -> str | None:
    for trial in range(TRIALS):
        left, right = (instance(rule, side, trial) for side in (rule.left, rule.right))
        for mine, theirs in zip(left.results, right.results, strict=True):
            expected, found = left.graph.type_of(mine), right.graph.type_of(theirs)
            if expected != found:
                return f"the left side gives {expected}, but the right side {found}"
    return None


def _values(rule: Rule) -> str | None:
    for trial in range(TRIALS):
        left, right = (answers(instance(rule, side, trial).graph, trial) for side in (rule.left, rule.right))
        if [x.shape for x in left] != [y.shape for y in right]:
            return "their results differ in shape"
        worst = max(float(np.abs(x - y).max()) for x, y in zip(left, right, strict=True))
        if not worst < ALGEBRA:
            return f"they differ by {worst:.1e}, where {ALGEBRA:.0e} is allowed"
    return None


def _fires_once(rule: Rule, apply: Apply) -> str | None:
    fired = apply(rule, instance(rule, rule.left, 1).graph)[1]
    return None if fired == 1 else f"it fires {fired} times"


def _rests(rule: Rule, apply: Apply) -> str | None:
    fired = apply(rule, instance(rule, rule.right, 1).graph)[1]
    return None if fired == 0 else f"it fires {fired} times on what it makes"


def _canonical(rule: Rule) -> str | None:
    graph = instance(rule, rule.left, 1).graph
    *_, stage = run(graph, ("canonicalize",), Options())
    return (
        None
        if canonicalize(stage.graph) == graph
        else f"canonicalize makes it: {stage.graph.to_text().splitlines()[1].strip()}"
    )


def _leaks(rule: Rule, apply: Apply) -> str | None:
    """Each inner value in turn is made an output: nothing may fire then."""
    graph = instance(rule, rule.left, 1).graph
    for node in _computed(graph):
        for value in node.results:
            if value == UNUSED or graph.is_output(value) or graph.is_constant(value):
                continue
            leaking = graph.copy()
            leaking.outputs = {**graph.outputs, "leak": value}
            if apply(rule, leaking)[1]:
                return f"`{value}` is read elsewhere too, but the rule fires and takes it away"
    return None


def _loops(rule: Rule, apply: Apply) -> str | None:
    """Each result in turn leads, through an op outside, back to an operand of what it does not depend on."""
    first = instance(rule, rule.left, 1)
    for result in first.results:
        for node in first.graph.inputs:
            looping = _feed(first.graph, result, node)
            if looping is not None and apply(rule, looping)[1]:
                return f"`{result}` leads back to `{node.key}`, and the rule fires and makes a loop"
    return None


def _feed(graph: Graph, result: str, given: Node) -> Graph | None:
    """The graph with an input computed from a result; None where that is a circle already or the types differ."""
    if graph.type_of(result) != given.types[0] or _depends(graph, result, given.key):
        return None
    later = [node for node in graph if _depends(graph, node.key, given.key) and node.key != given.key]
    fed = Graph()
    for node in graph:
        if node not in later and node.key != given.key:
            fed.insert(node)
    fed.add("tanh", (result,), (), (given.key,))
    for node in later:
        fed.insert(node)
    fed.outputs = dict(graph.outputs)
    return fed


def _depends(graph: Graph, value: str, on: str) -> bool:
    node = graph.producer(value)
    return on in node.results or any(_depends(graph, operand, on) for operand in node.values)


def _near_misses(rule: Rule, apply: Apply) -> str | None:
    graph = instance(rule, rule.left, 1).graph
    for description, changed in _mutants(graph):
        rewritten, fired = apply(rule, changed)
        if not fired:
            continue
        pairs = zip(answers(changed, 5), answers(rewritten, 5), strict=True)
        if not all(x.shape == y.shape and np.abs(x - y).max() < ALGEBRA for x, y in pairs):
            return f"with {description} it still fires, and the answer changes"
    return None


def _mutants(graph: Graph) -> Iterator[tuple[str, Graph]]:
    """The left side with one thing wrong: another op of the same signature, swapped operands, another attribute."""
    for node in _computed(graph):
        op = OPS[node.op]
        for other in OPS.values():
            alike = (op.operands, op.results, op.shapes, op.attributes.keys())
            if other is not op and alike == (other.operands, other.results, other.shapes, other.attributes.keys()):
                yield f"{other.name} for {op.name}", _with(graph, node, replace(node, op=other.name))
        if len(node.inputs) == 2 and not op.commutative:
            yield f"the operands of {op.name} swapped", _with(graph, node, replace(node, inputs=node.inputs[::-1]))
        for name, value in node.attributes:
            if isinstance(value, float | int):
                changed = tuple(sorted({**dict(node.attributes), name: value + 1}.items()))
                yield f"another {name} of {op.name}", _with(graph, node, replace(node, attributes=changed))


def _with(graph: Graph, old: Node, new: Node) -> Graph:
    """The graph with one node changed; unchanged where that does not type."""
    changed = Graph()
    try:
        for node in graph:
            if node.op in (INPUT, WEIGHT):
                changed.insert(node)
            else:
                made = new if node == old else node
                changed.add(made.op, made.inputs, made.attributes, made.results)
    except BertcError:
        return graph
    changed.outputs = dict(graph.outputs)
    return changed


def _computed(graph: Graph) -> list[Node]:
    return [node for node in graph if node.op not in (INPUT, WEIGHT)]
