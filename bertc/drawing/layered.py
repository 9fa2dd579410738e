"""A directed graph as boxes in rows, edges pointing down (Sugiyama, Tagawa and Toda 1981).

    rows by longest path -> long edges bent at each row -> order within rows by barycentres -> x by least squares -> y

Edges that leave a box at the same point share their bends until they part.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise

Point = tuple[float, float]

SPACE, BEND_SPACE, ROW_SPACE = 18.0, 10.0, 34.0
"""Between two boxes of a row, beside a bend, between two rows; in pixels."""

SWEEPS = 8
"""Down and up again. Few graphs gain anything after that."""

STRAIGHT = 6.0
"""How much more a stretch between two bends wants to be vertical than others do."""


@dataclass(frozen=True)
class Box:
    width: float
    height: float


@dataclass(frozen=True)
class Edge:
    source: int
    target: int
    out: float = 0.0
    """Where it leaves its source, right of the source's centre."""
    into: float = 0.0
    """Where it enters its target."""


@dataclass(frozen=True)
class Layout:
    width: float
    height: float
    places: tuple[Point, ...]
    """Of each box: the centre's x, the top's y."""
    routes: tuple[tuple[Point, ...], ...]
    """Of each edge: the points it goes through, from its source's bottom to its target's top."""


@dataclass(frozen=True)
class _Segment:
    """A stretch of an edge from one row to the next."""

    upper: int
    lower: int
    out: float
    into: float


def layered(
    boxes: Sequence[Box], edges: Sequence[Edge], first: Collection[int] = (), last: Collection[int] = ()
) -> Layout:
    """Boxes and edges without overlaps; the boxes of `first` stand in the top row, those of `last` in the bottom row.

    Boxes are given so that most edges lead forward; an edge that closes a circle is drawn, and moves nothing.
    """
    if not boxes:
        return Layout(0.0, 0.0, (), ())
    forward = _forward(len(boxes), edges)
    rows_of = _rows(len(boxes), [edges[index] for index in forward], first, last)
    bends, segments, chains = _bend(len(boxes), [(index, edges[index]) for index in forward], rows_of)
    rows_of = rows_of + bends
    widths = [box.width for box in boxes] + [0.0] * len(bends)
    rows = _order(rows_of, segments)
    centres = _across(rows, widths, segments, len(boxes))
    tops, bottoms = _down(rows, boxes)
    left = min(x - width / 2 for x, width in zip(centres, widths, strict=True))
    right = max(x + width / 2 for x, width in zip(centres, widths, strict=True))
    centres = [x - left for x in centres]
    places = tuple((centres[index], tops[rows_of[index]]) for index in range(len(boxes)))
    routes: list[tuple[Point, ...]] = []
    for index, edge in enumerate(edges):
        (x, y), (to_x, to_y) = places[edge.source], places[edge.target]
        middle = [
            point
            for bend in chains.get(index, ())
            for point in ((centres[bend], tops[rows_of[bend]]), (centres[bend], bottoms[rows_of[bend]]))
        ]
        bottom, end = y + boxes[edge.source].height, bottoms[rows_of[edge.source]]
        beside = [(x + edge.out, end)] if end > bottom else []  # past what is taller in the row
        routes.append(((x + edge.out, bottom), *beside, *middle, (to_x + edge.into, to_y)))
    return Layout(right - left, max(bottoms), places, tuple(routes))


# -------------------------------------------------------------------------------------------------------------- rows


def _forward(count: int, edges: Sequence[Edge]) -> list[int]:
    """The edges, by index, without those that close a circle: a depth-first search finds these on its way back."""
    leaving: defaultdict[int, list[int]] = defaultdict(list)
    for index, edge in enumerate(edges):
        leaving[edge.source].append(index)
    done, open_, kept = set[int](), set[int](), list[int]()
    for root in range(count):
        stack = [(root, iter(leaving[root]))] if root not in done else []
        open_.update([root] if stack else [])
        while stack:
            box, rest = stack[-1]
            index = next(rest, None)
            if index is None:
                stack.pop()
                open_.discard(box)
                done.add(box)
                continue
            target = edges[index].target
            if target in open_:
                continue
            kept.append(index)
            if target not in done:
                open_.add(target)
                stack.append((target, iter(leaving[target])))
    return sorted(kept)


def _rows(count: int, edges: Sequence[Edge], first: Collection[int], last: Collection[int]) -> list[int]:
    """The row of each box: one below the lowest of its sources; what leads to one box alone, right above that."""
    sources: defaultdict[int, list[int]] = defaultdict(list)
    targets: defaultdict[int, list[int]] = defaultdict(list)
    for edge in edges:
        sources[edge.target].append(edge.source)
        targets[edge.source].append(edge.target)
    rows = [0] * count
    order = _topological(count, sources, targets)
    base = 1 if first else 0
    loose: set[int] = set()
    for box in order:
        if box not in first:
            rows[box] = max((rows[source] + 1 for source in sources[box]), default=base)
            if all(source in loose and len(targets[source]) == 1 for source in sources[box]):
                loose.add(box)
    for box in reversed(order):
        if box in loose and targets[box]:
            rows[box] = min(rows[target] for target in targets[box]) - 1
    bottom = max(rows)
    for box in last:
        rows[box] = bottom
    if last and any(rows[box] == bottom for box in range(count) if box not in last):
        for box in last:
            rows[box] = bottom + 1
    return rows


def _topological(count: int, sources: defaultdict[int, list[int]], targets: defaultdict[int, list[int]]) -> list[int]:
    waiting = [len(sources[box]) for box in range(count)]
    order = [box for box in range(count) if waiting[box] == 0]
    for box in order:
        for target in targets[box]:
            waiting[target] -= 1
            if waiting[target] == 0:
                order.append(target)
    return order


def _bend(
    count: int, edges: Sequence[tuple[int, Edge]], rows: Sequence[int]
) -> tuple[list[int], list[_Segment], dict[int, list[int]]]:
    """Rows of the bends, which are numbered from `count` on; all stretches; and the bends of each edge by its index."""
    bends: list[int] = []
    segments: list[_Segment] = []
    chains: dict[int, list[int]] = {}
    shared: defaultdict[tuple[int, float], list[int]] = defaultdict(list)
    for index, edge in edges:
        chain = shared[edge.source, edge.out]
        needed = rows[edge.target] - rows[edge.source] - 1
        while len(chain) < needed:
            upper, out = (chain[-1], 0.0) if chain else (edge.source, edge.out)
            chain.append(count + len(bends))
            bends.append(rows[edge.source] + len(chain))
            segments.append(_Segment(upper, chain[-1], out, 0.0))
        chains[index] = chain[:needed]
        upper, out = (chain[needed - 1], 0.0) if needed > 0 else (edge.source, edge.out)
        segments.append(_Segment(upper, edge.target, out, edge.into))
    return bends, segments, chains


# ------------------------------------------------------------------------------------------------------------- order


def _order(rows_of: Sequence[int], segments: Sequence[_Segment]) -> list[list[int]]:
    """The boxes and bends of each row from left to right, with few crossings: the best of some sweeps."""
    rows: list[list[int]] = [[] for _ in range(max(rows_of) + 1)]
    for index, row in enumerate(rows_of):
        rows[row].append(index)
    above, below = defaultdict[int, list[tuple[int, float]]](list), defaultdict[int, list[tuple[int, float]]](list)
    for segment in segments:
        above[segment.lower].append((segment.upper, segment.out))
        below[segment.upper].append((segment.lower, segment.into))
    best, fewest = [list(row) for row in rows], _crossings(rows, segments)
    for _ in range(SWEEPS):
        for upper, lower in pairwise(rows):
            _sort(lower, upper, above)
        for lower, upper in pairwise(rows[::-1]):
            _sort(upper, lower, below)
        crossings = _crossings(rows, segments)
        if crossings < fewest:
            best, fewest = [list(row) for row in rows], crossings
        if fewest == 0:
            break
    return best


def _sort(row: list[int], beside: Sequence[int], neighbours: defaultdict[int, list[tuple[int, float]]]) -> None:
    """By the mean place of the neighbours in the row beside; what has none keeps its place."""
    places = {index: place for place, index in enumerate(beside)}
    scale = len(beside) / max(1, len(row))

    def barycentre(place: int, index: int) -> float:
        near = neighbours[index]
        # A large box has its edges where they leave it, so that they keep their order.
        total = sum(places[other] + offset / 1e4 for other, offset in near)
        return total / len(near) if near else place * scale

    keys = {index: barycentre(place, index) for place, index in enumerate(row)}
    row.sort(key=keys.__getitem__)


def _crossings(rows: Sequence[Sequence[int]], segments: Sequence[_Segment]) -> int:
    places = {index: place for row in rows for place, index in enumerate(row)}
    row_of = {index: number for number, row in enumerate(rows) for index in row}
    between: defaultdict[int, list[tuple[float, float]]] = defaultdict(list)
    for segment in segments:
        ends = (places[segment.upper] + segment.out / 1e4, places[segment.lower] + segment.into / 1e4)
        between[row_of[segment.upper]].append(ends)
    count = 0
    for pairs in between.values():
        seen: list[float] = []
        for _, lower in sorted(pairs):
            count += len(seen) - bisect_right(seen, lower)
            insort(seen, lower)
    return count


# ------------------------------------------------------------------------------------------------------------ places


def _across(
    rows: Sequence[Sequence[int]], widths: Sequence[float], segments: Sequence[_Segment], boxes: int
) -> list[float]:
    """The centre of each box and bend: row by row as near to its neighbours as the space between boxes allows."""
    centres = [0.0] * len(widths)
    above, below = (
        defaultdict[int, list[tuple[int, float, float]]](list),
        defaultdict[int, list[tuple[int, float, float]]](list),
    )
    for segment in segments:
        weight = STRAIGHT if segment.upper >= boxes and segment.lower >= boxes else 1.0
        above[segment.lower].append((segment.upper, segment.out - segment.into, weight))
        below[segment.upper].append((segment.lower, segment.into - segment.out, weight))
    gaps = [_gaps(row, widths, boxes) for row in rows]
    for row, distances in zip(rows, gaps, strict=True):
        _place(row, distances, centres, defaultdict(list))
    for _ in range(SWEEPS):
        for row, distances in zip(rows, gaps, strict=True):
            _place(row, distances, centres, above)
        for row, distances in zip(rows[::-1], gaps[::-1], strict=True):
            _place(row, distances, centres, below)
    both = defaultdict(list, {index: above[index] + below[index] for row in rows for index in row})
    for _ in range(2):
        for row, distances in zip(rows, gaps, strict=True):
            _place(row, distances, centres, both)
    return centres


def _gaps(row: Sequence[int], widths: Sequence[float], boxes: int) -> list[float]:
    """How far the centre of each is from the one left of it, at least."""
    found = [0.0]
    for left, right in pairwise(row):
        space = BEND_SPACE if left >= boxes or right >= boxes else SPACE
        found.append((widths[left] + widths[right]) / 2 + space)
    return found


def _place(
    row: Sequence[int],
    gaps: Sequence[float],
    centres: list[float],
    neighbours: defaultdict[int, list[tuple[int, float, float]]],
) -> None:
    """Minimise Σ wᵢ (xᵢ - desiredᵢ)² with xᵢ₊₁ - xᵢ ≥ gapᵢ₊₁: pool adjacent violators (Ayer et al. 1955)."""
    blocks: list[tuple[float, float, int]] = []  # weighted mean, weight, how many
    offset = 0.0
    offsets: list[float] = []
    for index, gap in zip(row, gaps, strict=True):
        offset += gap
        offsets.append(offset)
        near = neighbours[index]
        weight = sum(weight for _, _, weight in near)
        wanted = sum((centres[o] + shift) * weight for o, shift, weight in near) / weight if near else centres[index]
        mean, total, count = wanted - offset, weight or 0.01, 1
        while blocks and blocks[-1][0] > mean:
            before, before_weight, before_count = blocks.pop()
            mean = (before * before_weight + mean * total) / (before_weight + total)
            total, count = total + before_weight, count + before_count
        blocks.append((mean, total, count))
    place = 0
    for mean, _, count in blocks:
        for index, shift in zip(row[place : place + count], offsets[place : place + count], strict=True):
            centres[index] = mean + shift
        place += count


def _down(rows: Sequence[Sequence[int]], boxes: Sequence[Box]) -> tuple[list[float], list[float]]:
    """The top and the bottom of each row."""
    tops: list[float] = []
    bottoms: list[float] = []
    y = 0.0
    for row in rows:
        height = max((boxes[index].height for index in row if index < len(boxes)), default=0.0)
        tops.append(y)
        bottoms.append(y + height)
        y += height + ROW_SPACE
    return tops, bottoms
