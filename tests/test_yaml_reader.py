"""YAML and JSON texts to trees: the values of YAML 1.2, and where each of them stands."""

from __future__ import annotations

import json
import math
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertc.errors import BertcError, Source, Span
from bertc.json_reader import read_json
from bertc.tree import MAXIMUM_DEPTH, MAXIMUM_NODES, MappingNode, Node, ScalarNode, SequenceNode, shown
from bertc.yaml_reader import MAXIMUM_YAML, read_yaml


def value_of(node: Node) -> Any:
    match node:
        case ScalarNode(value):
            return value
        case SequenceNode(items):
            return [value_of(item) for item in items]
        case MappingNode(entries):
            return {entry.key: value_of(entry.node) for entry in entries}


def yaml_value(text: str) -> Any:
    return value_of(read_yaml(Source("a.yaml", text)))


def same(found: Any, expected: Any) -> bool:
    """Equal, and of the same type: 1, 1.0 and true are three values."""
    return type(found) is type(expected) and repr(found) == repr(expected)


# YAML 1.2.2, section 10.3.2, and where YAML 1.1 said otherwise.
SCALARS = {
    "1e-12": 1e-12,
    "1.0e-5": 1e-5,
    "1E5": 1e5,
    "1.": 1.0,
    ".5": 0.5,
    "-0.0": -0.0,
    "+12": 12,
    "-19": -19,
    "010": 10,
    "0o10": 8,
    "0xfF": 255,
    ".inf": math.inf,
    "-.INF": -math.inf,
    "+.Inf": math.inf,
    ".NaN": math.nan,
    "null": None,
    "~": None,
    "": None,
    "true": True,
    "FALSE": False,
    "on": "on",
    "off": "off",
    "yes": "yes",
    "No": "No",
    "y": "y",
    "tRue": "tRue",
    "1_000": "1_000",
    "12:30:45": "12:30:45",
    "2018-10-11": "2018-10-11",
    "0b11": "0b11",
    "-0x1": "-0x1",
    "0O7": "0O7",
    "1e": "1e",
    ".": ".",
    "nan": "nan",
    "<<": "<<",
    "=": "=",
    "'1e-12'": "1e-12",
    '"true"': "true",
    '"caf\\u00e9"': "café",
    "|\n  1": "1",
}


@pytest.mark.parametrize(("text", "expected"), SCALARS.items())
def test_scalars_are_those_of_yaml_1_2(text: str, expected: Any) -> None:
    assert same(yaml_value(f"key: {text}"), {"key": expected})


def test_keys_are_their_texts() -> None:
    assert yaml_value("{1: a, true: b, ~: c, on: d, 'q': e}") == {"1": "a", "true": "b", "~": "c", "on": "d", "q": "e"}


def test_places() -> None:
    source = Source("a.yaml", "# é\nsizes: {layers: 12,\n  hidden: 'a'}\nlist:\n- [1, 22]\n-\n")
    tree = read_yaml(source)
    assert isinstance(tree, MappingNode)
    sizes, items = tree.entries
    assert sizes.span == Span(source, 2, 1, 5)
    assert isinstance(sizes.node, MappingNode)
    layers, hidden = sizes.node.entries
    assert (layers.span, layers.node.span) == (Span(source, 2, 9, 6), Span(source, 2, 17, 2))
    assert (hidden.span, hidden.node.span) == (Span(source, 3, 3, 6), Span(source, 3, 11, 3))
    assert isinstance(items.node, SequenceNode)
    pair, nothing = items.node.items
    assert pair.span == Span(source, 5, 3, 7)
    assert isinstance(pair, SequenceNode)
    assert [item.span for item in pair.items] == [Span(source, 5, 4, 1), Span(source, 5, 7, 2)]
    assert (nothing.span.line, nothing.span.column) == (6, 2)


def test_places_in_json() -> None:
    source = Source("a.json", '{"a": [1,\r\n "\\u00e9\u2028", true]}')
    tree = read_json(source)
    assert isinstance(tree, MappingNode)
    (entry,) = tree.entries
    assert entry.span == Span(source, 1, 2, 3)
    assert isinstance(entry.node, SequenceNode)
    one, text, true = entry.node.items
    assert one.span == Span(source, 1, 8, 1)
    assert text.span == Span(source, 2, 2, 9)
    assert true.span == Span(source, 3, 4, 4)  # Source.line takes U+2028 for a line break too


@pytest.mark.parametrize(
    ("text", "line"),
    [("a: 1\r\nb: [1", 2), ("a: 1\rb: [1", 2), ("a: 1\n\n\nb: [1", 4), ("# \u2028b: [1", 2)],
)
def test_line_breaks_are_those_of_the_source(text: str, line: int) -> None:
    with pytest.raises(BertcError) as caught:
        yaml_value(text)
    span = caught.value.diagnostics[0].span
    assert span is not None
    assert (span.line, span.source.line(span.line)[span.column - 1]) == (line, "[")


def code_of(text: str, read: Any) -> str:
    with pytest.raises(BertcError) as caught:
        read(Source("a", text))
    return caught.value.diagnostics[0].code


@pytest.mark.parametrize("read", [read_yaml, read_json])
def test_bounds(read: Any) -> None:
    def nested(depth: int) -> str:
        return "[" * depth + "1" + "]" * depth

    read(Source("a", nested(MAXIMUM_DEPTH)))
    assert code_of(nested(MAXIMUM_DEPTH + 1), read) == "B0202"
    assert code_of("[" + "1" * 41 + "]", read) == "B0202"


def test_bounds_on_size() -> None:
    read_json(Source("a", "[" + "1, " * (MAXIMUM_NODES - 2) + "1]"))
    assert code_of("[" + "1, " * (MAXIMUM_NODES - 1) + "1]", read_json) == "B0202"
    read_yaml(Source("a", "a: 1 #".ljust(MAXIMUM_YAML)))
    assert code_of("a: 1 #".ljust(MAXIMUM_YAML + 1), read_yaml) == "B0202"


@pytest.mark.parametrize("opening", ["[", '{"a":', "[[],"])
@pytest.mark.parametrize("read", [read_yaml, read_json])
def test_forty_thousand_brackets_leave_the_stack_alone(read: Any, opening: str) -> None:
    limit = sys.getrecursionlimit()
    assert code_of(opening * 40_000, read) in ("B0201", "B0202")
    assert sys.getrecursionlimit() == limit


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "B0201"),
        ("{'a': 1}", "B0201"),
        ("[1,]", "B0201"),
        ("[NaN]", "B0201"),
        ("[-Infinity]", "B0201"),
        ('{"a": 1} {}', "B0201"),
        ('["\\ud800"]', "B0201"),
        ('["\n"]', "B0201"),
        ('{"a": 1, "a": 1}', "B0204"),
        ('{"a": {"b": 1, "\\u0062": 1}}', "B0204"),
    ],
)
def test_json_is_strict(text: str, code: str) -> None:
    assert code_of(text, read_json) == code


def test_all_that_is_refused_is_told_at_once() -> None:
    with pytest.raises(BertcError) as caught:
        yaml_value("a: &x 1\na: 2\nb: *x\nc: !t 3\n&y d: !!map {e: 1, e: 2}\n")
    codes = [problem.code for problem in caught.value.diagnostics]
    assert codes == ["B0205", "B0204", "B0205", "B0205", "B0205", "B0205", "B0204"]


# Without line separators, which YAML folds in a quoted text, and characters that it wants escaped.
texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cn", "Co", "Zl", "Zp"]), max_size=20)
numbers = st.integers(-(10**18), 10**18) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(values, st.sampled_from([None, 2]))
def test_every_json_value_reads_back_from_json_and_yaml(value: Any, indent: int | None) -> None:
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    assert same(value_of(read_json(Source("a.json", text))), value)
    assert same(yaml_value(text), value)
    assert same(value_of(read_json(Source("a.json", json.dumps(value)))), value)  # with surrogate pairs


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("ab1:-?[]{}, \n\t\"'#&*!|>%@\\uU0xe.~\r\u0085\u2028é\0"), max_size=30))
def test_any_text_is_a_tree_or_an_error(text: str) -> None:
    for read in (read_yaml, read_json):
        try:
            read(Source("a", text))
        except BertcError as problem:
            assert all(span.line >= 1 for d in problem.diagnostics if (span := d.span))  # noqa: PT017


def test_a_long_path_is_cut_in_the_middle() -> None:
    """Both its ends are shown, and of the two the file's name is the one that tells."""
    path = f"/home/{'model/' * 20}snapshot/config.json"
    found = shown(path)
    assert len(found) == 60
    front, back = found.split("…")
    assert path.startswith(front)
    assert path.endswith(back)
    assert len(front) == 20
    assert back.endswith("/snapshot/config.json")
    assert shown(path[:60]) == path[:60]
