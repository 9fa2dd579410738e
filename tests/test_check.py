"""The nine derived checks: every shipped rule passes them, every wrong rule and every wrong engine fails one."""

from __future__ import annotations

import pytest

from bertc.check import check_rule, check_spec
from bertc.errors import BertcError
from bertc.graph import Graph
from bertc.parser import parse
from bertc.passes import FUSIONS, rules, rules_of
from bertc.rewrite import _Matcher
from bertc.rule import Rule

SHIPPED = [(name, rule) for name in FUSIONS for rule in rules(name)]


@pytest.mark.parametrize(("name", "rule"), SHIPPED, ids=[rule.name for _, rule in SHIPPED])
def test_shipped_rules_pass(name: str, rule: Rule) -> None:
    verdicts = check_rule(rule, canonical=name != "canonicalize")
    assert len(verdicts) == 9
    assert [verdict for verdict in verdicts if verdict.problem is not None] == []


def failures(text: str) -> dict[str, str]:
    (rule,) = rules_of(parse(text, "mine.net"))
    return {verdict.check: verdict.problem for verdict in check_rule(rule) if verdict.problem is not None}


WRONG = {
    "both sides agree in float64": """
rule erf_for_tanh(x: [*, n], bias: weight[n]):
    gelu_tanh(x + bias)
=>
    bias_gelu(x, bias)
""",
    "both sides have the same types": """
rule lost_transpose(x: [a, b]):
    tanh(transpose(x, [1, 0]))
=>
    tanh(x)
""",
    "its left side is canonical": """
rule not_canonical(x: [*, n]):
    relu(x / 2)
=>
    relu(x) * 0.5
""",
    "does not fire on its right side": """
rule feeds_itself(x: [*, n]):
    relu(x)
=>
    relu(relu(x))
""",
    "near misses do not fire, or are equal": """
rule any_eps(x: [*, n], residual: [*, n], scale: weight[n], bias: weight[n], eps: number):
    y = x + residual
    layer_norm(y, scale, bias, eps=eps)
=>
    a, b = skip_norm(x, residual, scale, bias, eps=1e-12)
    return a
""",
}


@pytest.mark.parametrize(("check", "text"), WRONG.items(), ids=WRONG)
def test_wrong_rules_fail(check: str, text: str) -> None:
    found = failures(text)
    assert check in found


UNBOUND = {
    "`biass` is not bound on the left side": ("gelu(x + bias)", "bias_gelu(x, biass)"),
    "`biass` is neither a parameter nor computed above": ("gelu(x + biass)", "bias_gelu(x, bias)"),
    "`n` is neither a parameter nor computed above": ("gelu(x + n)", "bias_gelu(x, bias)"),
    "`2` is returned, but nothing computes it": ("return gelu(x + bias), 2", "return bias_gelu(x, bias), x"),
}


@pytest.mark.parametrize(("message", "sides"), UNBOUND.items(), ids=UNBOUND)
def test_a_name_without_a_meaning_is_refused(message: str, sides: tuple[str, str]) -> None:
    left, right = sides
    with pytest.raises(BertcError, match=message):
        failures(f"rule r(x: [*, n], bias: weight[n]):\n    {left}\n=>\n    {right}\n")


def test_an_engine_without_the_leak_check_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    (rule,) = (rule for _, rule in SHIPPED if rule.name == "fuse_bias_gelu")
    monkeypatch.setattr(_Matcher, "_refusal", lambda self, state: None)
    found = {verdict.check for verdict in check_rule(rule) if verdict.problem is not None}
    assert "refuses a value that leaks" in found


DEPENDENT_SIZES = """
rule halves_and_rows(x: [*, a], y: [b, n]):
    left, right = split(x, sizes=[n, n], axis=-1)
    return tanh(left + right), tanh(left * slice(y, start=3, size=1, axis=-2))
=>
    left, right = split(x, sizes=[n, n], axis=-1)
    return tanh(right + left), tanh(left * slice(y, start=3, size=1, axis=-2))

rule through_heads(x: [batch, seq, n]):
    tanh(reshape(reshape(x, [batch, seq, heads, size]), [batch, seq, n]))
=>
    tanh(x)
"""


def test_sizes_that_depend_on_each_other_are_found() -> None:
    for rule in rules_of(parse(DEPENDENT_SIZES)):
        problems = {verdict.check: verdict.problem for verdict in check_rule(rule)}
        assert problems["both sides have the same types"] is None
        assert problems["both sides agree in float64"] is None


def test_a_left_side_that_no_sizes_fit_is_named() -> None:
    found = failures("rule r(x: [a, b, c]):\n    tanh(transpose(x, [0, 1]))\n=>\n    relu(x)\n")
    assert "are a permutation of 0 to 2, but [0, 1] was given" in found["both sides agree in float64"]


def test_sizes_that_memory_could_not_hold_are_refused() -> None:
    found = failures("rule r(x: [9999999, 9999999]):\n    tanh(x)\n=>\n    relu(x)\n")
    assert found["both sides agree in float64"] == "`x` has too many elements to be checked"


def test_an_attribute_that_the_op_does_not_have_is_refused() -> None:
    with pytest.raises(BertcError, match="layer_norm has no attribute `epsilon`"):
        failures("rule r(x: [*, n], s: weight[n], b: weight[n]):\n    layer_norm(x, s, b, epsilon=e)\n=>\n    x\n")


LOOP = """
rule two_results(x: [*, n], y: [*, n]):
    a = relu(x)
    b = a * y
    return a, b
=>
    a = maximum(x, 0)
    b = a * y
    return a, b
"""


def test_an_engine_without_the_loop_check_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    assert failures(LOOP) == {}
    monkeypatch.setattr(Graph, "reenters", lambda self, keys: False)
    assert "refuses to make a loop" in failures(LOOP)


@pytest.mark.parametrize("name", ["bert-base", "megatron-345m"])
def test_every_pass_keeps_a_shipped_spec(name: str) -> None:
    assert {verdict.problem for verdict in check_spec(name)} == {None}
