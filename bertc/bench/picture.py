"""Latency over batch as an SVG picture (https://www.w3.org/TR/SVG2), both axes logarithmic."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 440, 70, 210, 40, 50
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Apart from each other for every kind of colour vision (Okabe and Ito 2008)."""


@dataclass(frozen=True)
class Line:
    name: str
    points: tuple[tuple[float, float], ...]
    """(batch, milliseconds), batches rising."""


def picture(title: str, lines: Sequence[Line]) -> str:
    """The lines in one SVG document; every coordinate is positive."""
    batches = [x for line in lines for x, _ in line.points]
    times = [y for line in lines for _, y in line.points]
    across, up = (
        _Axis(min(batches), max(batches), LEFT, WIDTH - RIGHT),
        _Axis(min(times), max(times), HEIGHT - BOTTOM, TOP),
    )
    body = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">',
        "<style>text { font-size: 12px }</style>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(LEFT, 22, title),
        *(part for x in sorted(set(batches)) for part in _across(across(x), f"{x:g}")),
        *(part for y in _ticks(min(times), max(times)) for part in _up(up(y), f"{y:g}")),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, "batch", 'text-anchor="middle"'),
        *(part for index, line in enumerate(lines) for part in _line(index, line, across, up)),
    ]
    return "\n".join([*body, "</svg>", ""])


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        if self.low == self.high:
            return (self.start + self.end) / 2
        part = math.log(value / self.low) / math.log(self.high / self.low)
        return round(self.start + part * (self.end - self.start), 1)


def _ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten between two numbers, and the two where there is none."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [digit * 10.0**power for power in powers for digit in (1, 2, 5) if low <= digit * 10.0**power <= high]
    return found or sorted({float(f"{low:.3g}"), float(f"{high:.3g}")})


def _text(x: float, y: float, text: str, style: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" {style}>{escape(text)}</text>'


def _across(x: float, text: str) -> Iterator[str]:
    yield f'<path d="M{x:g} {TOP}V{HEIGHT - BOTTOM}" stroke="#ddd"/>'
    yield _text(x, HEIGHT - BOTTOM + 18, text, 'text-anchor="middle"')


def _up(y: float, text: str) -> Iterator[str]:
    yield f'<path d="M{LEFT} {y:g}H{WIDTH - RIGHT}" stroke="#ddd"/>'
    yield _text(LEFT - 8, y + 4, text, 'text-anchor="end"')


def _line(index: int, line: Line, across: _Axis, up: _Axis) -> Iterator[str]:
    colour, places = COLOURS[index % len(COLOURS)], [(across(x), up(y)) for x, y in line.points]
    path = "L".join(f"{x:g} {y:g}" for x, y in places)
    yield f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
    yield from (f'<circle cx="{x:g}" cy="{y:g}" r="3.5" fill="{colour}"/>' for x, y in places)
    y = TOP + 14 + 20 * index
    yield f'<path d="M{WIDTH - RIGHT + 16} {y}h22" stroke="{colour}" stroke-width="2"/>'
    yield _text(WIDTH - RIGHT + 44, y + 4, line.name)
