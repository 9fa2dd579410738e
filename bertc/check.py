"""What is derived from a rule and written by nobody: nine checks, one of which a wrong rule fails.

Both sides of a rule can be executed, so that the rule is its own test. `check_rules` is `bertc check my-rules.net`,
`check_spec` is `bertc check SPEC`: every pass against the reference on random weights and inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bertc import notation
from bertc.elaborate import elaborate
from bertc.errors import BertcError, Diagnostic, Span, error
from bertc.extensions import extend_installed, prepare
from bertc.graph import UNUSED, Graph, Node
from bertc.notation import RuleTree
from bertc.parser import parse, read
from bertc.passes import Options, pipeline, rules, rules_of, run
from bertc.passes.canonicalize import canonicalize
from bertc.plugins import OPS
from bertc.reference import evaluate
from bertc.rewrite import apply, candidates, explain, find
from bertc.rule import Rule
from bertc.rule_instances import answers, computed, equal_sizes, instance, near_misses
from bertc.rule_repairs import repair
from bertc.spec import Spec, load_spec
from bertc.weights_io import random_weights

ALGEBRA = 1e-12
"""Both sides in float64: a sum in another order differs by about 1e-15, gelu from gelu_tanh by 4.7e-4."""

TRIALS = 3
"""Random sizes and values for each rule; no wrong formula has been seen to agree on one draw of reals."""

BUG = "the rule is right, and the rewriter wrong: please report it with the rule"
"""Of checks that only a fault of bertc itself can fail, once the checks before them have passed."""

Apply = Callable[[Rule, Graph], tuple[Graph, int]]


@dataclass(frozen=True)
class Verdict:
    subject: str
    check: str
    fault: Diagnostic | None
    """Why it failed, where, and what to change; or None."""

    @property
    def problem(self) -> str | None:
        return None if self.fault is None else self.fault.message


def check_rules(path: str) -> list[Verdict]:
    """The nine checks on each rule of a file. Raises BertcError when the file itself cannot be read as rules."""
    extend_installed()
    found = rules_of(read(Path(path)))
    if not found:
        help = "a rule is `rule NAME(x: [*, n]):`, its left side, `=>`, its right side"
        raise error("B0301", f"`{path}` has no rule to check", None, help)
    return [verdict for rule in found for verdict in check_rule(rule)]


def check_rule(rule: Rule, apply: Apply = apply, *, canonical: bool = True) -> list[Verdict]:
    """The nine checks on one rule, up to the first that fails: each rests on those before it.

    `canonical=False` is for the rules that define what canonical is.
    """
    checks: dict[str, Callable[[], Diagnostic | None]] = {
        "prints back": lambda: _prints_back(rule),
        "both sides have the same types": lambda: _types(rule),
        "both sides agree in float64": lambda: _values(rule),
        "its left side is canonical": lambda: _canonical(rule) if canonical else None,
        "does not fire on its right side": lambda: _rests(rule),
        "fires once on its left side": lambda: _fires_once(rule, apply),
        "refuses a value that leaks": lambda: _leaks(rule, apply),
        "refuses to make a loop": lambda: _loops(rule, apply),
        "near misses do not fire, or are equal": lambda: _near_misses(rule, apply),
    }
    verdicts: list[Verdict] = []
    for name, check in checks.items():
        verdicts.append(Verdict(rule.name, name, _fault_of(check)))
        if verdicts[-1].fault is not None:
            break
    return verdicts


def check_spec(argument: str) -> list[Verdict]:
    """Each pass on a spec, cut to two layers and small sizes: it keeps what the network computes."""
    spec = _cut(load_spec(argument))
    prepare(spec)
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
        fault = None if worst < ALGEBRA else _fault(f"the outputs differ by {worst:.1e} from the reference")
        verdicts.append(Verdict(stage.name, "keeps what the network computes", fault))
    return verdicts


def _cut(spec: Spec) -> Spec:
    """Two layers of a few heads: passes see the same graph, only smaller."""
    heads, size = min(spec.sizes["heads"], 3), min(spec.sizes["head_size"], 8)
    narrow = spec.sizes["embedding_size"] < spec.sizes["hidden"]
    small = {
        "layers": 2,
        "heads": heads,
        "head_size": size,
        "hidden": heads * size,
        "embedding_size": heads * size - narrow,
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


def _fault(message: str, span: Span | None = None, help: str | None = None) -> Diagnostic:
    return Diagnostic("B0302", message, span, help)


def _fault_of(check: Callable[[], Diagnostic | None]) -> Diagnostic | None:
    try:
        return check()
    except BertcError as problem:
        return replace(problem.diagnostics[0], code="B0302")


def _prints_back(rule: Rule) -> Diagnostic | None:
    (back,) = parse(notation.to_text(rule.tree))
    same = isinstance(back, RuleTree) and back == rule.tree
    return None if same else _fault("its text reads back as another rule", rule.span, BUG)


def _types(rule: Rule) -> Diagnostic | None:
    try:
        fault = _different_types(rule)
    except BertcError as problem:
        fault = replace(problem.diagnostics[0], code="B0302")
    if fault is None:
        return _equal_sizes(rule)
    found = repair(rule, lambda changed: _different_types(changed) is None and _difference(changed) < ALGEBRA)
    advice = found.advice if found else fault.help or _why_not_typed(rule)
    return replace(fault, help=advice)


def _why_not_typed(rule: Rule) -> str:
    """`*` is drawn as no size, one and two."""
    try:
        instance(rule, rule.left, 1)
    except BertcError:
        return "each name of a size is another number here; one name for sizes that are always equal"
    return "`*` may stand for no sizes at all, and then this does not type: write `[*, rows, n]` for a matrix at least"


def _different_types(rule: Rule) -> Diagnostic | None:
    for trial in range(TRIALS):
        left, right = (instance(rule, side, trial) for side in (rule.left, rule.right))
        for index, (mine, theirs) in enumerate(zip(left.results, right.results, strict=True)):
            expected, found = left.graph.type_of(mine), right.graph.type_of(theirs)
            if expected != found:
                which = f"result {index + 1} of " if len(left.results) > 1 else ""
                message = f"{which}the left side is {expected}, but {found} on the right side"
                span = rule.right.returns.items[index].value.span
                return _fault(message, span, "change the right side until both are the same, or the left one")
    return None


def _equal_sizes(rule: Rule) -> Diagnostic | None:
    """Two names of sizes that have to be one for the left side to type: an operand lies otherwise than it is read."""
    pair = equal_sizes(rule)
    if pair is None:
        return None
    (first, second), reason = pair
    message = f"the left side fits only where `{first}` and `{second}` are the same size: {reason.message}"
    help = f"transpose or reshape the operand, or write `{first}` for both if they are never different"
    return _fault(message, reason.span, help)


def _values(rule: Rule) -> Diagnostic | None:
    worst = _difference(rule)
    if worst < ALGEBRA:
        return None
    message = f"the two sides differ by {worst:.1e}, where {ALGEBRA:.0e} is allowed"
    found = repair(rule, lambda changed: _different_types(changed) is None and _difference(changed) < ALGEBRA)
    if found is None:
        help = "no small change mends it: compute both sides by hand on two numbers, op after op"
        return _fault(message, rule.right.returns.span, help)
    return _fault(message, found.span, f"{found.advice}: then both sides agree")


def _difference(rule: Rule) -> float:
    """The largest difference between the two sides over all trials; NaN where one of them has no value."""
    worst: list[float] = []
    for trial in range(TRIALS):
        left, right = (answers(instance(rule, side, trial).graph, trial) for side in (rule.left, rule.right))
        worst += (float(np.abs(x - y).max()) for x, y in zip(left, right, strict=True))
    return float(np.max(worst))


def _canonical(rule: Rule) -> Diagnostic | None:
    """Whether the pass that goes before all others leaves the left side as it is."""
    graph = instance(rule, rule.left, 1).graph
    for known in rules("canonicalize"):
        match = next((match for node in candidates(known, graph) if (match := find(known, graph, node))), None)
        if match is not None:
            left, right = (notation.to_text(side.returns.items[0].value) for side in (known.left, known.right))
            message = f"canonicalize makes `{right}` of every `{left}`, so that this rule would never fire"
            help = f"write `{right}` on the left side; to a rule, what is computed of numbers alone is one number"
            return _fault(message, match.nodes[0].span, help)
    for before, after in zip(graph, canonicalize(graph), strict=True):
        if before != after:
            message = f"canonicalize puts numbers and weights on the right of {before.op}, and here one stands left"
            return _fault(message, before.span, f"exchange the two operands of {before.op}")
    return None


def _rests(rule: Rule) -> Diagnostic | None:
    graph = instance(rule, rule.right, 1).graph
    match = next((match for node in candidates(rule, graph) if (match := find(rule, graph, node))), None)
    if match is None:
        return None
    ops = ", ".join(f"`{node.op}`" for node in match.nodes)
    turned = any(OPS[node.op].commutative for node in match.nodes)
    message = f"it fires again on what it makes ({ops}), and so without end"
    either = "; operands of ops that commute are found in either order" if turned else ""
    help = f"make something of it that its left side does not fit, or nothing at all{either}"
    return _fault(message, match.nodes[0].span, help)


def _fires_once(rule: Rule, apply: Apply) -> Diagnostic | None:
    graph = instance(rule, rule.left, 1).graph
    fired = apply(rule, graph)[1]
    if fired == 1:
        return None
    _, miss = explain(rule, graph)
    reason = f": {miss.reason}" if fired == 0 and miss is not None else ""
    return _fault(f"it fires {fired} times{reason}", rule.left.returns.span, "it is to fit its own left side, once")


def _leaks(rule: Rule, apply: Apply) -> Diagnostic | None:
    """Each inner value in turn is made an output: nothing may fire then."""
    graph = instance(rule, rule.left, 1).graph
    for node in computed(graph):
        for value in node.results:
            if value == UNUSED or graph.is_output(value) or graph.is_constant(value):
                continue
            leaking = graph.copy()
            leaking.outputs = {**graph.outputs, "leak": value}
            if apply(rule, leaking)[1]:
                return _fault(f"`{value}` is read elsewhere too, but the rule fires and takes it away", rule.span, BUG)
    return None


def _loops(rule: Rule, apply: Apply) -> Diagnostic | None:
    """Each result in turn leads, through an op outside, back to an operand of what it does not depend on."""
    first = instance(rule, rule.left, 1)
    for result in first.results:
        for node in first.graph.inputs:
            looping = _feed(first.graph, result, node)
            if looping is not None and apply(rule, looping)[1]:
                message = f"`{result}` leads back to `{node.key}`, and the rule fires and makes a loop"
                return _fault(message, rule.span, BUG)
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


def _near_misses(rule: Rule, apply: Apply) -> Diagnostic | None:
    graph = instance(rule, rule.left, 1).graph
    for description, changed in near_misses(graph):
        rewritten, fired = apply(rule, changed)
        if not fired:
            continue
        pairs = zip(answers(changed, 5), answers(rewritten, 5), strict=True)
        if not all(x.shape == y.shape and np.abs(x - y).max() < ALGEBRA for x, y in pairs):
            return _fault(f"with {description} it still fires, and the answer changes", rule.span, BUG)
    return None
