"""Pictures of graphs: boxes that do not overlap, lines that lead down, and folding that loses nothing."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from conftest import small_spec

import bertc
from bertc.drawing.items import Id, Item, State, compared, drawn
from bertc.drawing.layered import SPACE, Box, Edge, layered
from bertc.drawing.scene import HEIGHT, Block, Frame, Placed, scene
from bertc.drawing.svg import to_svg
from bertc.elaborate import read_graph
from bertc.parser import parse_graph
from bertc.passes import Stage
from bertc.spec import load_spec, shipped_specs


def random_graph(seed: int) -> tuple[list[Box], list[Edge]]:
    generator = np.random.default_rng(seed)
    count = int(generator.integers(2, 40))
    boxes = [Box(float(width), float(height)) for width, height in generator.integers(20, 200, (count, 2))]
    pairs = {tuple(sorted(map(int, generator.choice(count, 2, replace=False)))) for _ in range(2 * count)}
    return boxes, [Edge(source, target) for source, target in sorted(pairs)]


@pytest.mark.parametrize("seed", range(40))
def test_boxes_do_not_overlap_and_edges_lead_down(seed: int) -> None:
    boxes, edges = random_graph(seed)
    layout = layered(boxes, edges)
    spans = [
        (x - box.width / 2, x + box.width / 2, y, y + box.height)
        for box, (x, y) in zip(boxes, layout.places, strict=True)
    ]
    for index, (left, right, top, bottom) in enumerate(spans):
        assert left >= -1e-6
        assert right <= layout.width + 1e-6
        assert bottom <= layout.height
        for other_left, other_right, other_top, other_bottom in spans[:index]:
            apart = right + SPACE <= other_left + 1e-6 or other_right + SPACE <= left + 1e-6
            assert apart or bottom < other_top or other_bottom < top
    for edge, route in zip(edges, layout.routes, strict=True):
        assert spans[edge.source][3] < spans[edge.target][2]
        assert route[0] == (layout.places[edge.source][0], spans[edge.source][3])
        assert route[-1] == layout.places[edge.target]
        assert all(y < next_y or x == next_x for (x, y), (next_x, next_y) in itertools.pairwise(route))


def test_a_tree_is_drawn_without_crossings() -> None:
    edges = [Edge(0, 2), Edge(1, 3), Edge(2, 7), Edge(2, 5), Edge(3, 4), Edge(3, 6)]
    layout = layered([Box(10, 10)] * 8, edges)
    places = [x for x, _ in layout.places]
    order = sorted(range(4, 8), key=places.__getitem__)
    assert set(order[:2]) in ({5, 7}, {4, 6})
    assert (places[2] < places[3]) == (set(order[:2]) == {5, 7})
    assert places[2] == pytest.approx((places[5] + places[7]) / 2)


def test_a_circle_is_drawn_all_the_same() -> None:
    layout = layered([Box(10, 10)] * 3, [Edge(0, 1), Edge(1, 2), Edge(2, 0)])
    assert [y for _, y in layout.places] == sorted(y for _, y in layout.places)
    assert len(layout.routes) == 3


def pictures(stages: list[Stage]) -> Iterator[tuple[str, list[Item]]]:
    before = None
    for stage in stages:
        yield f"{stage.name}: graph", drawn(stage.graph, constants=False)
        yield f"{stage.name}: constants", drawn(stage.graph, constants=True)
        if before is not None:
            yield f"{stage.name}: changes", compared(before.graph, stage.graph)
        before = stage


def copies(frame: Frame) -> Iterator[tuple[Id, Placed]]:
    for unit in range(frame.run.count):
        for box in frame.block.boxes:
            yield frame.run.id((box.name, box.state is State.WENT), unit), box


@pytest.mark.parametrize("name", shipped_specs())
def test_folded_layers_stand_for_every_box(name: str) -> None:
    """What is drawn, with every copy of a folded layer stamped out, is what there is: each box once."""
    for title, items in pictures(list(bertc.stages(load_spec(name)))):
        picture = scene(items)
        shown = [Id(box.name, box.state is State.WENT) for box in picture.boxes]
        shown += [id for frame in picture.frames for id, _ in copies(frame)]
        assert len(shown) == len(set(shown)), title
        assert set(shown) == {item.id for item in items}, title
        states = {item.id: item.state for item in items}
        for frame in picture.frames:
            assert all(states[id] is box.state for id, box in copies(frame)), title


def test_twenty_four_layers_are_one_block() -> None:
    for title, items in pictures(list(bertc.stages(load_spec("bert-large")))):
        assert [frame.run.count for frame in scene(items).frames] == [24], title


def test_a_layer_of_another_kind_stays_apart() -> None:
    graph = bertc.compile(load_spec("megatron-345m"))
    assert [frame.run.count for frame in scene(drawn(graph, constants=False)).frames] == [1, 23]


def test_layers_that_take_turns_are_folded_together() -> None:
    """One layer by itself, then a, a, b four times: names inside a unit begin with the number of the layer in it."""
    text = ["graph(x: f32[batch, 8]):", "    encoder.0.y = tanh(x)"]
    for number in range(1, 13):
        op = "relu" if number % 3 == 0 else "gelu"
        text.append(f"    encoder.{number}.y = {op}(encoder.{number - 1}.y)")
    graph = read_graph(parse_graph("\n".join([*text, "    return encoder.12.y", ""])))
    first, rest = scene(drawn(graph, constants=False)).frames
    assert (first.run.first, first.run.layers, first.run.count) == (0, 1, 1)
    assert (rest.run.first, rest.run.layers, rest.run.count) == (1, 3, 4)
    assert [box.name for box in rest.block.boxes] == ["0.y", "1.y", "2.y"]
    assert [port.feed for port in rest.block.coming] == [("2.y", False)]
    assert {id.key for id, _ in copies(rest)} == {f"encoder.{number}.y" for number in range(1, 13)}


def frames_of(lines: list[str], returned: str) -> list[tuple[int, int]]:
    """First number and count of the runs of a graph of so many assignments."""
    body = "\n".join(f"    {line}" for line in lines)
    graph = read_graph(parse_graph(f"graph(x: f32[batch, 8]):\n{body}\n    return {returned}\n"))
    return [(frame.run.first, frame.run.count) for frame in scene(drawn(graph, constants=False)).frames]


def test_layers_are_alike_only_where_they_read_alike() -> None:
    """Each reads the one before it, or all read the same; one that reads the last but one is drawn by itself."""
    begin = "encoder.0.y = tanh(x)"
    chain = [begin, *(f"encoder.{number}.y = gelu(encoder.{number - 1}.y)" for number in range(1, 5))]
    fan = [begin, *(f"encoder.{number}.y = gelu(encoder.0.y)" for number in range(1, 5))]
    skip = [*chain[:3], "encoder.3.y = gelu(encoder.1.y)"]
    assert frames_of(chain, "encoder.4.y") == [(0, 1), (1, 4)]
    assert frames_of(fan, ", ".join(f"encoder.{number}.y" for number in range(1, 5))) == [(0, 1), (1, 4)]
    assert frames_of(skip, "encoder.2.y, encoder.3.y") == [(0, 1), (1, 2), (3, 1)]
    apart = [*fan[:2], "other = tanh(x)", "encoder.2.y = gelu(other)"]
    assert frames_of(apart, "encoder.1.y, encoder.2.y") == [(0, 1), (1, 1), (2, 1)]


def test_layers_that_share_their_weights_are_folded() -> None:
    """ALBERT's, whose parameters have no number: what is computed with them has the number of its layer."""
    spec = replace(small_spec(), sizes={**small_spec().sizes, "layers": 5})
    slot = replace(spec.network["encoder"], repeat=5, shared=True)
    spec = replace(spec, network={**spec.network, "encoder": slot})
    for stage in bertc.stages(spec):
        found = scene(drawn(stage.graph, constants=False)).frames
        assert [(frame.run.first, frame.run.count) for frame in found] == [(0, 5)], stage.name
    weights = {node.key for node in stage.graph.weights}
    assert "encoder.ffn.up.weight" in weights
    assert not any(key.startswith("encoder.0") for key in weights)


def test_a_layer_that_gives_more_is_not_folded_away() -> None:
    """The third one's inner value is an output of the graph: it needs a line of its own."""
    lines = []
    for number in range(5):
        before = f"encoder.{number - 1}.y" if number else "x"
        lines += [f"encoder.{number}.z = tanh({before})", f"encoder.{number}.y = gelu(encoder.{number}.z)"]
    assert frames_of(lines, "encoder.4.y") == [(0, 5)]
    assert frames_of(lines, "inner=encoder.2.z, encoder.4.y") == [(0, 2), (2, 1), (3, 2)]


def test_every_line_of_a_layer_is_fed() -> None:
    """The layers behind the first of a run read what is computed in the layer before, under that name."""
    (frame,) = scene(drawn(bertc.compile(load_spec("bert-base")), constants=False)).frames
    block: Block = frame.block
    feeds = [port.feed for port in block.coming]
    assert feeds == [("ffn.norm", False), None]
    assert [port.feed for port in block.going] == [("ffn.norm", False)]
    ends = {line.source for line in block.lines} | {line.target for line in block.lines}
    assert ends == {*range(len(block.boxes)), -1, -2, -3}


def test_changes_show_what_went_in_its_place() -> None:
    stages = {stage.name: stage.graph for stage in bertc.stages(small_spec())}
    items = compared(stages["fuse_scaled_softmax"], stages["fuse_attention"])
    went = [item for item in items if item.state is State.WENT]
    assert [item.op for item in went[:6]] == ["transpose", "matmul", "scaled_softmax", "matmul", "transpose", "reshape"]
    assert sum(item.state is State.CAME for item in items) == 2
    known = {item.id for item in items}
    assert all(source in known for item in items for source in item.reads)


def test_svg_is_well_formed() -> None:
    from xml.etree import ElementTree

    picture = scene(drawn(bertc.compile(small_spec()), constants=False))
    root = ElementTree.fromstring(to_svg(picture, "a <small> network"))
    boxes = [element for element in root.iter("{http://www.w3.org/2000/svg}rect") if "height" in element.attrib]
    heights = [float(element.attrib["height"]) for element in boxes]
    assert sum(height == HEIGHT for height in heights) == len(picture.boxes) + len(picture.frames[0].block.boxes)
