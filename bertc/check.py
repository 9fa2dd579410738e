"""What is derived from a rule and written by nobody: nine checks, each of which a wrong rule fails.

Both sides of a rule can be executed, so that the rule is its own test. `check_rules` is `bertc check my-rules.net`,
`check_spec` is `bertc check SPEC`: every pass against the reference on random weights and inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bertc import notation
from bertc.elaborate import elaborate
from bertc.errors import BertcError, error
from bertc.graph import INPUT, UNUSED, WEIGHT, Graph, Node
from bertc.notation import RuleTree
from bertc.parser import parse, read
from bertc.passes import Options, pipeline, rules_of, run
from bertc.passes.canonicalize import canonicalize
from bertc.plugins import OPS
from bertc.reference import evaluate
from bertc.rewrite import apply
from bertc.rule import Rule
from bertc.rule_instances import answers, instance
from bertc.spec import Spec, load_spec
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
