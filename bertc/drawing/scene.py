"""Where everything of a graph is drawn: layers that are alike once, as a block that is stamped for each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bertc.drawing.items import Id, Item, State
from bertc.drawing.layered import Box, Edge, Layout, Point, layered
from bertc.drawing.layers import Name, Run, runs

HEIGHT = 58.0
NARROWEST, WIDEST = 104.0, 236.0
FRAME, TITLE = 16.0, 30.0
"""Around the boxes of a layer, and above them for its name."""

TITLE_LETTER, LETTER = 7.7, 6.3
"""Pixels that a letter takes, on average: of the op, and of what stands below it."""


@dataclass(frozen=True)
class Placed:
    """A box: the name of its node, in a frame the one inside its unit of layers."""

    name: str
    state: State
    x: float
    """Of its left side."""
    y: float
    """Of its top."""
    width: float
    title: str
    detail: str
    shape: str


@dataclass(frozen=True)
class Line:
    """From a box, or from a port (counted down from -1), to one of them."""

    source: int
    target: int
    went: bool
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Port:
    """Where lines cross a frame."""

    x: float
    feed: Name | None
    """Coming in: its name in the unit before, for the units behind the first. Going out: its name."""


@dataclass(frozen=True)
class Block:
    """What is inside a frame. A line's port counts those coming in first, then those going out."""

    width: float
    height: float
    boxes: tuple[Placed, ...]
    lines: tuple[Line, ...]
    coming: tuple[Port, ...]
    going: tuple[Port, ...]


@dataclass(frozen=True)
class Frame:
    """A run of units of layers, the first of which is drawn."""

    run: Run
    x: float
    y: float
    block: Block


@dataclass(frozen=True)
class Scene:
    """Boxes and frames; a line's ends count the boxes first, then the frames."""

    width: float
    height: float
    boxes: tuple[Placed, ...]
    frames: tuple[Frame, ...]
    lines: tuple[Line, ...]


def scene(items: Sequence[Item]) -> Scene:
    """The picture of items, layers that are alike folded into the first of them."""
    found = runs(items)
    inside = {item.id: index for index, run in enumerate(found) for item in run.items}
    layers = _folded(found)
    alone = [item for item in items if item.id not in inside and item.id not in layers]
    blocks = [block(run) for run in found]
    boxes = [*(Box(width(item, item.id.key), HEIGHT) for item in alone), *(Box(b.width, b.height) for b in blocks)]
    places = {item.id: index for index, item in enumerate(alone)}
    edges: dict[tuple[int, int, float, float], bool] = {}

    def end(id: Id) -> tuple[int, float]:
        """Where a line from a box starts: the box, or its port of a frame."""
        id = layers.get(id, id)
        if id in places:
            return places[id], 0.0
        run = inside[id]
        name = found[run].name(id)
        port = next(port for port in blocks[run].going if port.feed == name)
        return len(alone) + run, port.x - blocks[run].width / 2

    for item in alone:
        for source in item.reads:
            box, out = end(source)
            edges[box, places[item.id], out, 0.0] = item.state is State.WENT or source.went
    for index, (run, drawn) in enumerate(zip(found, blocks, strict=True)):
        for source, port in zip(run.entering, drawn.coming, strict=True):
            box, out = end(source)
            edges[box, len(alone) + index, out, port.x - drawn.width / 2] = source.went
    order = _reading_order(items, alone, found)
    layout = _ordered(boxes, [Edge(*edge) for edge in edges], order)
    lines = tuple(
        Line(edge[0], edge[1], went, route) for (edge, went), route in zip(edges.items(), layout.routes, strict=True)
    )
    placed = tuple(_placed(item, item.id.key, *layout.places[index]) for index, item in enumerate(alone))
    frames = tuple(
        Frame(run, x - drawn.width / 2, y, drawn)
        for run, drawn, (x, y) in zip(found, blocks, layout.places[len(alone) :], strict=True)
    )
    return Scene(layout.width, layout.height, placed, frames, lines)


def block(run: Run) -> Block:
    """The inside of one unit of layers, with a port for whatever crosses its frame."""
    places = {item.id: index for index, item in enumerate(run.items)}
    coming = {id: len(places) + index for index, id in enumerate(run.entering)}
    going = {run.id(name, 0): len(places) + len(coming) + index for index, name in enumerate(run.leaving)}
    boxes = [Box(width(item, run.name(item.id)[0]), HEIGHT) for item in run.items]
    boxes += [Box(0.0, 0.0)] * (len(coming) + len(going))
    edges: dict[tuple[int, int], bool] = {}
    for item in run.items:
        for source in item.reads:
            start = places[source] if source in places else coming[source]
            edges[start, places[item.id]] = item.state is State.WENT or source.went
    edges |= {(places[id], port): id.went for id, port in going.items()}
    layout = layered(boxes, [Edge(*edge) for edge in edges], coming.values(), going.values())
    placed = tuple(
        _placed(item, run.name(item.id)[0], x + FRAME, y + TITLE)
        for item, (x, y) in zip(run.items, layout.places[: len(places)], strict=True)
    )
    count, height = len(places), layout.height + TITLE + FRAME / 2
    lines = tuple(
        Line(
            start if start < count else count - 1 - start,
            stop if stop < count else count - 1 - stop,
            went,
            _through_frame(route, height, enters=start >= count, leaves=stop >= count),
        )
        for ((start, stop), went), route in zip(edges.items(), layout.routes, strict=True)
    )
    xs = [x + FRAME for x, _ in layout.places]
    return Block(
        layout.width + 2 * FRAME,
        height,
        placed,
        lines,
        tuple(Port(xs[port], feed) for port, feed in zip(coming.values(), run.feeds, strict=True)),
        tuple(Port(xs[port], name) for name, port in zip(run.leaving, going.values(), strict=True)),
    )


def _through_frame(route: tuple[Point, ...], height: float, *, enters: bool, leaves: bool) -> tuple[Point, ...]:
    """A line of a block's layout in the block, drawn on to the frame where it comes from outside or goes there."""
    points = [(x + FRAME, y + TITLE) for x, y in route]
    before = [(points[0][0], 0.0)] if enters else []
    behind = [(points[-1][0], height)] if leaves else []
    return (*before, *points, *behind)


def width(item: Item, name: str) -> float:
    """How wide the box of an item is, with that name in it: as its longest line, within bounds."""
    title, *below = _texts(item, name)
    longest = max(TITLE_LETTER * len(title), *(LETTER * len(text) for text in below))
    return min(WIDEST, max(NARROWEST, 24 + longest))


def _texts(item: Item, name: str) -> tuple[str, str, str]:
    """What stands in a box: its op, its name, and the type of its first result."""
    if item.node is None:
        return name.removeprefix("output "), "output", ""
    return item.op, name, str(item.node.types[0])


def _placed(item: Item, name: str, x: float, y: float) -> Placed:
    size = width(item, name)
    return Placed(name, item.state, x - size / 2, y, size, *_texts(item, name))


def _folded(found: Sequence[Run]) -> dict[Id, Id]:
    """The boxes of units that are not drawn -> those of the same name in the unit that stands for them."""
    return {
        run.id(run.name(item.id), unit): item.id for run in found for unit in range(1, run.count) for item in run.items
    }


def _reading_order(items: Sequence[Item], alone: Sequence[Item], found: Sequence[Run]) -> list[int]:
    """Boxes and frames as they stand in the graph, so that most lines lead forward."""
    place = {item.id: index for index, item in enumerate(items)}
    starts = [place[item.id] for item in alone] + [place[run.items[0].id] for run in found]
    return sorted(range(len(starts)), key=starts.__getitem__)


def _ordered(boxes: Sequence[Box], edges: Sequence[Edge], order: Sequence[int]) -> Layout:
    """`layered`, for boxes that are to be seen in an order of their own."""
    new: Mapping[int, int] = {old: index for index, old in enumerate(order)}
    moved = [Edge(new[edge.source], new[edge.target], edge.out, edge.into) for edge in edges]
    layout = layered([boxes[index] for index in order], moved)
    places = tuple(layout.places[new[index]] for index in range(len(boxes)))
    return Layout(layout.width, layout.height, places, layout.routes)
