"""Golden tests: for each pass a `graph => graph`, compared as text and evaluated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bertc.check import answers
from bertc.elaborate import read_graph
from bertc.notation import Rewrite, to_text
from bertc.parser import parse
from bertc.passes import FINISH, FUSIONS, Options, run
from bertc.passes.expand_unhosted import EXPANDED, Choice

GOLDEN = Path(__file__).parent / "golden" / "passes"


@pytest.mark.parametrize("name", [*FUSIONS, *FINISH])
def test_golden(name: str) -> None:
    (item,) = parse((GOLDEN / f"{name}.net").read_text("utf-8"), f"{name}.net")
    assert isinstance(item, Rewrite)
    before, after = read_graph(item.before), read_graph(item.after)
    *_, stage = run(before, (name,), Options("fp16", lambda graph, node, precision: Choice(EXPANDED)))
    assert to_text(stage.graph.to_tree()) == to_text(item.after)
    assert stage.graph == after
    for expected, found in zip(answers(before, 1), answers(after, 1), strict=True):
        assert np.abs(expected - found).max() < 1e-12
