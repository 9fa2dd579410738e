"""A scene as an SVG document of its own (https://www.w3.org/TR/SVG11/), in colours for light and for dark paper."""

from __future__ import annotations

from collections.abc import Iterator
from xml.sax.saxutils import escape

from bertc.drawing.layered import Point
from bertc.drawing.scene import HEIGHT, Block, Frame, Line, Placed, Scene

MARGIN = 24

STYLE = """
  text { font: 12px system-ui, sans-serif; fill: #1b2330 }
  .op { font-weight: 600 } .small { font-size: 11px; opacity: .7 }
  rect { fill: #fff; stroke: #8a97a8 } .frame { fill: #f3f6fa } path { fill: none; stroke: #8a97a8 }
  .came rect { stroke: #12805c; stroke-width: 2 } .went { opacity: .5 } .went rect { stroke-dasharray: 4 3 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6ebf2 } rect { fill: #1c2430; stroke: #6d7a8c } .frame { fill: #141a23 } path { stroke: #6d7a8c }
  }
"""


def size(scene: Scene) -> tuple[float, float]:
    """Width and height of the picture."""
    return scene.width + 2 * MARGIN, scene.height + 2 * MARGIN


def to_svg(scene: Scene, title: str) -> str:
    """The picture of a scene."""
    width, height = size(scene)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{-MARGIN} {-MARGIN} {width:.0f} {height:.0f}" role="img">'
    return "\n".join([head, f"<title>{escape(title)}</title>", f"<style>{STYLE}</style>", *_parts(scene), "</svg>", ""])


def _parts(scene: Scene) -> Iterator[str]:
    for frame in scene.frames:
        yield from _frame(frame)
    yield from map(_line, scene.lines)
    yield from map(_box, scene.boxes)


def _frame(frame: Frame) -> Iterator[str]:
    block: Block = frame.block
    yield f'<g transform="translate({frame.x:.0f} {frame.y:.0f})">'
    yield f'<rect class="frame" width="{block.width:.0f}" height="{block.height:.0f}" rx="8"/>'
    run = frame.run
    last = run.first + run.layers * run.count - 1
    name = f"{run.prefix}.{run.first}" + (f" to {last}" if last > run.first else "")
    title = name if run.count == 1 else f"{name}: × {run.count}"
    yield f'<text class="op" x="12" y="20">{escape(title)}</text>'
    yield from map(_line, block.lines)
    yield from map(_box, block.boxes)
    yield "</g>"


def _box(box: Placed) -> str:
    rows = ((box.title, "op", 20), (box.detail, "small", 35), (box.shape, "small", 50))
    texts = "".join(
        f'<text class="{kind}" x="{box.x + 12:.0f}" y="{box.y + y:.0f}">{escape(text)}</text>' for text, kind, y in rows
    )
    place = f'x="{box.x:.0f}" y="{box.y:.0f}" width="{box.width:.0f}" height="{HEIGHT:.0f}"'
    return f'<g class="{box.state}"><rect {place} rx="6"/>{texts}</g>'


def _line(line: Line) -> str:
    return f'<path class="{"went" if line.went else "kept"}" d="{_curve(line.points)}"/>'


def _curve(points: tuple[Point, ...]) -> str:
    """Through all points, vertical at each."""
    (x, y), *rest = points
    path = f"M{x:.0f} {y:.0f}"
    for to_x, to_y in rest:
        middle = (y + to_y) / 2
        path += f"V{to_y:.0f}" if to_x == x else f"C{x:.0f} {middle:.0f} {to_x:.0f} {middle:.0f} {to_x:.0f} {to_y:.0f}"
        x, y = to_x, to_y
    return path
