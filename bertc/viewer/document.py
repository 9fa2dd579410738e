"""The one JSON document that the page draws; bertc/viewer/page/model.js reads it back.

What stages have in common stands once: a stage says which nodes came and which keys went, scenes that are equal are
one, and so are blocks. Nodes are rows, in the order of `fields`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from itertools import chain
from typing import Any

from bertc import notation
from bertc.costs import Polynomial, cost
from bertc.drawing.items import Item, State, compared, drawn
from bertc.drawing.scene import Block, Frame, Line, Placed, Scene, scene
from bertc.errors import Source, Span
from bertc.graph import INPUT, UNUSED, WEIGHT, Graph, Node
from bertc.passes import Stage
from bertc.plugins import OPS, PLUGINS
from bertc.timings import Timing
from bertc.version import VERSION
from bertc.viewer.attempts import Attempts, attempts
from bertc.viewer.histograms import histogram
from bertc.viewer.replaced import replacements
from bertc.viewer.subject import Subject

FIELDS = ("key", "op", "inputs", "attributes", "results", "types", "span", "flops", "bytes", "constant", "fates")
"""Of a node, in the order of its row."""

STATES = tuple(State)


def document(subjects: Sequence[Subject], profile: Timing | None, *, histograms: bool) -> dict[str, Any]:
    """Of one subject, or of two side by side; the profile is of the first one's last graph."""
    sources: dict[str, str] = {}
    sides = [_Side(subject, sources).content(histograms) for subject in subjects]
    if profile is not None:
        sides[0]["times"] = {"nodes": dict(profile.milliseconds), "others": sum(profile.others.values())}
    used = {row[1] for side in sides for row in side["nodes"]} - {INPUT, WEIGHT}
    return {
        "schema": "bertc-view/1",
        "version": VERSION,
        "ops": {name: _op(name) for name in sorted(used)},
        "sources": sources,
        "sides": sides,
    }


def _op(name: str) -> dict[str, Any]:
    op = OPS[name]
    return {"equation": op.equation, "operands": op.operand_names, "fused": name in PLUGINS}


class _Table:
    """Values by the index they were first given; equal ones have one."""

    def __init__(self) -> None:
        self.rows: list[Any] = []
        self._index: dict[str, int] = {}

    def index(self, value: Any) -> int:
        text = json.dumps(value)
        if text not in self._index:
            self._index[text] = len(self.rows)
            self.rows.append(value)
        return self._index[text]


class _Side:
    """The document of one subject on its way."""

    def __init__(self, subject: Subject, sources: dict[str, str]) -> None:
        self.subject = subject
        self.sources = sources
        self.nodes, self.types, self.polynomials = _Table(), _Table(), _Table()
        self.scenes, self.blocks, self.fates = _Table(), _Table(), _Table()
        self.drawn: dict[tuple[Item, ...], int] = {}
        """What is the same after several passes is laid out once."""

    def content(self, histograms: bool) -> dict[str, Any]:
        subject = self.subject
        graphs = [stage.graph for stage in subject.stages]
        rows = list(map(self._rows, graphs))
        given = zip(subject.stages, rows, [None, *graphs[:-1]], [{}, *rows[:-1]], strict=True)
        passes = [self._pass(*one) for one in given]
        return {
            **{name: getattr(subject, name) for name in ("name", "source", "target", "precision", "batch", "seq")},
            "sizes": dict(subject.sizes),
            "targets": list(subject.hosts),
            "fates": self.fates.rows,
            "passes": passes,
            "fields": FIELDS,
            "states": STATES,
            "nodes": self.nodes.rows,
            "types": self.types.rows,
            "polynomials": self.polynomials.rows,
            "scenes": self.scenes.rows,
            "blocks": self.blocks.rows,
            "names": dict(subject.names),
            "stored": {name: tensor.element for name, tensor in subject.tensors.items()},
            "histograms": self._histograms() if histograms else {},
        }

    def _histograms(self) -> dict[str, list[Any]]:
        found = ((name, histogram(tensor)) for name, tensor in self.subject.tensors.items())
        return {name: [*map(_short, astuple(one)[:4]), one.every, one.counts] for name, one in found}

    def _pass(
        self, stage: Stage, rows: Mapping[str, int], before: Graph | None, old: Mapping[str, int]
    ) -> dict[str, Any]:
        """What a pass did: `rows` and `old` are those of the graphs after and before it."""
        graph = stage.graph
        tried = [] if before is None else attempts(stage.name, before)
        groups = [] if before is None else replacements(before, graph)
        views = {
            "changes": drawn(graph, constants=False) if before is None else compared(before, graph),
            "graph": drawn(graph, constants=False),
            "constants": drawn(graph, constants=True),
        }
        return {
            "name": stage.name,
            "fired": stage.fired,
            "milliseconds": round(stage.seconds * 1e3, 2),
            "ops": len(graph),
            "came": [row for key, row in rows.items() if old.get(key) != row],
            "went": [key for key in old if key not in rows],
            "outputs": dict(graph.outputs),
            "replaced": [[group.went, group.came] for group in groups],
            "rules": [self._rule(one) for one in tried],
            "scenes": {name: self._picture(tuple(items)) for name, items in views.items()},
        }

    def _rows(self, graph: Graph) -> dict[str, int]:
        return {node.key: self._node(graph, node) for node in graph}

    def _node(self, graph: Graph, node: Node) -> int:
        spent = cost(graph, node)
        return self.nodes.index(
            [
                node.key,
                node.op,
                node.inputs,
                dict(node.attributes),
                ["" if name == UNUSED else name for name in node.results],
                [self.types.index(str(type)) for type in node.types],
                self._span(node.span),
                self._polynomial(spent.flops),
                self._polynomial(spent.bytes),
                int(graph.is_constant(node.key)),
                self.fates.index(self._fates(graph, node)),
            ]
        )

    def _fates(self, graph: Graph, node: Node) -> dict[str, list[str]]:
        """How each target computes a fused op, and why."""
        if node.op not in PLUGINS:
            return {}
        choices = {name: hosts(graph, node, self.subject.precision) for name, hosts in self.subject.hosts.items()}
        return {name: [choice.how, choice.why] for name, choice in choices.items()}

    def _polynomial(self, polynomial: Polynomial) -> int:
        return self.polynomials.index([[factor, *names] for names, factor in sorted(polynomial.items())])

    def _span(self, span: Span | None) -> list[Any] | None:
        return None if span is None else [self._source(span.source), span.line, span.column, span.length]

    def _source(self, source: Source) -> str:
        self.sources[source.name] = source.text
        return source.name

    def _rule(self, tried: Attempts) -> dict[str, Any]:
        rule = tried.rule
        return {
            "name": rule.name,
            "text": notation.to_text(rule.tree),
            "span": self._span(rule.span),
            "root": rule.root.op,
            "pattern": len(rule.pattern),
            "fired": tried.fired,
            "misses": {key: [miss.fitting, miss.node.key, miss.reason] for key, miss in tried.misses.items()},
        }

    # -------------------------------------------------------------------------------------------------- pictures

    def _picture(self, items: tuple[Item, ...]) -> int:
        if items not in self.drawn:
            self.drawn[items] = self._scene(scene(items))
        return self.drawn[items]

    def _scene(self, drawn: Scene) -> int:
        return self.scenes.index(
            {
                "size": _rounded(drawn.width, drawn.height),
                "boxes": list(map(_box, drawn.boxes)),
                "lines": list(map(_line, drawn.lines)),
                "frames": list(map(self._frame, drawn.frames)),
            }
        )

    def _frame(self, frame: Frame) -> list[Any]:
        run = frame.run
        return [run.prefix, run.first, run.layers, run.count, *_rounded(frame.x, frame.y), self._block(frame.block)]

    def _block(self, block: Block) -> int:
        return self.blocks.index(
            {
                "size": _rounded(block.width, block.height),
                "boxes": list(map(_box, block.boxes)),
                "lines": list(map(_line, block.lines)),
                "coming": [[round(port.x), port.feed] for port in block.coming],
                "going": [[round(port.x), port.feed] for port in block.going],
            }
        )


def _box(box: Placed) -> list[Any]:
    return [box.name, STATES.index(box.state), *_rounded(box.x, box.y, box.width)]


def _line(line: Line) -> list[Any]:
    return [line.source, line.target, int(line.went), *_rounded(*chain.from_iterable(line.points))]


def _rounded(*numbers: float) -> list[int]:
    return [round(number) for number in numbers]


def _short(number: float) -> float:
    return float(f"{number:.4g}")
