"""The nine derived checks: every shipped rule passes them, every wrong rule and every wrong engine fails one.

What users read for wrong rules stands beside them in golden/wrong_rules; BERTC_GOLDEN=write writes it anew.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bertc.check import check_rule, check_spec
from bertc.cli import run
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


WRONG_RULES = Path(__file__).parent / "golden" / "wrong_rules"


@pytest.mark.parametrize("name", sorted(path.stem for path in WRONG_RULES.glob("*.net")))
def test_wrong_rules_are_refused(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(WRONG_RULES)
    code = run(["check", f"{name}.net"])
    printed = capsys.readouterr()
    said = printed.out + printed.err
    golden = WRONG_RULES / f"{name}.txt"
    if os.environ.get("BERTC_GOLDEN") == "write":
        golden.write_text(said, "utf-8")
    assert code in (1, 3)
    assert f"--> {name}.net:" in said
    assert "= help: " in said
    assert said == golden.read_text("utf-8")


WRONG = {
    "both sides have the same types": """
rule lost_transpose(x: [a, b]):
    tanh(transpose(x, [1, 0]))
=>
    tanh(x)
""",
    "both sides agree in float64": """
rule another_function(x: [*, n]):
    relu(tanh(x))
=>
    x * relu(x)
""",
    "both sides agree in float64 ": """
rule no_value_where_x_is_negative(x: [*, n]):
    a = tanh(x)
    return a, sigmoid(a)
=>
    a = tanh(x)
    return a, sigmoid(a) * (relu(x) / relu(x))
""",
    "its left side is canonical": """
rule number_on_the_left(x: [*, n]):
    relu(2 + x)
=>
    maximum(x + 2, 0)
""",
    "does not fire on its right side": """
rule feeds_itself(x: [*, n]):
    relu(x)
=>
    relu(relu(x))
""",
    "fires once on its left side": """
rule half_scale(scores: [b, h, q, k], mask: [b, h, q, k], a: number):
    scaled_softmax(scores, mask, scale=a * 2)
=>
    softmax(scores * (a * 2) + mask)
""",
}


@pytest.mark.parametrize(("check", "text"), WRONG.items(), ids=WRONG)
def test_a_wrong_rule_fails_one_check(check: str, text: str) -> None:
    assert [*failures(text)] == [check.strip()]


def test_results_that_are_exchanged_are_found() -> None:
    text = """
rule merge(x: [*, rows, n], a: weight[m, n], b: weight[m, n]):
    first = matmul(x, transpose(a, [1, 0]))
    second = matmul(x, transpose(b, [1, 0]))
    return first, second
=>
    second, first = split(matmul(x, transpose(concat(a, b, axis=-2), [1, 0])), sizes=[m, m], axis=-1)
    return first, second
"""
    (rule,) = rules_of(parse(text, "mine.net"))
    fault = check_rule(rule)[-1].fault
    assert fault is not None
    assert fault.help == "write `first, second = ...` instead of `second, first = ...`: then both sides agree"
    assert str(fault.span) == "mine.net:7:5"


def test_a_star_that_may_be_nothing_is_explained() -> None:
    text = "rule r(x: [*, n], y: weight[n, m]):\n    relu(matmul(x, y))\n=>\n    maximum(matmul(x, y), 0)\n"
    (rule,) = rules_of(parse(text, "mine.net"))
    fault = check_rule(rule)[-1].fault
    assert fault is not None
    assert fault.help is not None
    assert "write `[*, rows, n]`" in fault.help


def test_an_engine_that_ignores_attributes_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    left, right = "select(relu(x), index=0, axis=-2)", "relu(select(x, index=0, axis=-2))"
    text = f"rule first(x: [b, s, n]):\n    {left}\n=>\n    {right}\n"
    assert failures(text) == {}
    monkeypatch.setattr(_Matcher, "_attributes", lambda *given: None)
    monkeypatch.setattr(_Matcher, "_agrees", lambda *given: True)
    assert [*failures(text)] == ["near misses do not fire, or are equal"]


UNBOUND = {
    "`dead` is computed on the left side, but nothing there reads it": (
        "dead = relu(x)\n    gelu(x + bias)",
        "bias_gelu(x, bias)",
    ),
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
        problems = {verdict.check: verdict.problem for verdict in check_rule(rule, canonical=False)}
        assert problems["both sides have the same types"] is None
        assert problems["both sides agree in float64"] is None


def test_a_left_side_that_no_sizes_fit_is_named() -> None:
    found = failures("rule r(x: [a, b, c]):\n    tanh(transpose(x, [0, 1]))\n=>\n    relu(x)\n")
    assert "are a permutation of 0 to 2, but [0, 1] was given" in found["both sides have the same types"]


def test_sizes_that_memory_could_not_hold_are_refused() -> None:
    found = failures("rule r(x: [9999999, 9999998]):\n    tanh(x)\n=>\n    relu(x)\n")
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
