"""The notation reads back what it writes, and says what is wrong with what it cannot read."""

from importlib.resources import files
from pathlib import Path

import pytest

from bertc.errors import BertcError
from bertc.notation import Call, to_text
from bertc.parser import parse

SHIPPED = sorted(Path(str(files("bertc"))).rglob("*.net"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_files_print_back(path: Path) -> None:
    items = parse(path.read_text("utf-8"), path.name)
    assert items
    assert parse("\n".join(map(to_text, items))) == items


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_a_file_cut_anywhere_gives_one_error_or_a_tree(path: Path) -> None:
    text = path.read_text("utf-8")
    problems = [problem for end in range(0, len(text), 7) if (problem := refusal(text[:end])) is not None]
    assert len(problems) > 10
    for problem in problems:
        assert len(problem.diagnostics) == 1
        assert problem.exit_code == 3
        assert problem.diagnostics[0].span is not None


def refusal(text: str) -> BertcError | None:
    try:
        parse(text, "cut.net")
    except BertcError as problem:
        return problem
    return None


@pytest.mark.parametrize("text", ["a - (b - c)", "a - b - c", "a * (b + c)", "-2 * a / (b / c)", "(a + b) * -c"])
def test_brackets_are_printed_where_they_are_needed(text: str) -> None:
    block = f"block f(a, b, c):\n    return {text}\n"
    (item,) = parse(block)
    assert parse(to_text(item)) == (item,)


def test_infix_groups_to_the_left() -> None:
    (item,) = parse("block f(a, b, c):\n    return a - b - c\n")
    outer = item.body.returns.items[0].value  # pyright: ignore[reportAttributeAccessIssue]
    assert isinstance(outer, Call)
    assert to_text(outer.arguments[0]) == "a - b"


ERRORS = {
    "block f(x):\n    return y @ 2\n": "error[B0101]: '@' is not part of the notation\n --> t.net:2:14",
    "block f(x):\n  a = 2\n": "error[B0101]: a body ends with what it returns\n --> t.net:2:3",
    "block f(x):\n\treturn x\n": "error[B0101]: lines are indented with spaces, but a tab stands here\n --> t.net:2:1",
    "block f(x): return 2\n": "error[B0101]: expected the end of the line, but found `return`\n --> t.net:1:13",
    "block f(x, x):\n    return x\n": "error[B0104]: `x` is a parameter twice\n --> t.net:1:12",
    "block f(x):\n    return x\nblock f(x):\n    return x\n": "error[B0104]: `f` is defined twice\n --> t.net:3:1",
    "(" * 40_000: "error[B0102]: brackets are nested more than 64 deep\n --> t.net:1:65",
    "block f(x):\n    return "
    + " + ".join("x" * 5000)
    + "\n": "error[B0102]: more than 64 operators are chained\n --> t.net:2:",
    "block f(x):\n    return 1e999\n": "error[B0101]: this number does not fit a float64\n --> t.net:2:12",
}


@pytest.mark.parametrize(("text", "expected"), ERRORS.items(), ids=range(len(ERRORS)))
def test_errors_name_place_and_expectation(text: str, expected: str) -> None:
    with pytest.raises(BertcError) as caught:
        parse(text, "t.net")
    assert str(caught.value).startswith(expected)
    assert caught.value.exit_code == 3
