"""A scene as PNG (https://www.w3.org/TR/png-3/): its SVG drawn by resvg, the same on every machine.

Letters are those of Roboto, which comes as a package; fonts of the machine, if it has any, are not looked at.
"""

from __future__ import annotations

import math
from importlib import import_module
from typing import Any

from bertc.drawing.scene import Scene
from bertc.drawing.svg import size, to_svg
from bertc.errors import error

SHARP = 2.0
"""Pixels for a unit of the drawing, so that its letters are sharp on fine screens and on paper."""

MOST = 1 << 26
"""Pixels of a picture: resvg takes 4 bytes for each. A larger drawing gets fewer for a unit."""

FACES = ("Roboto", "RobotoBold")


def to_png(scene: Scene, title: str) -> bytes:
    """The picture of a scene, in its light colours. Raises BertcError B0804 without the packages that draw it."""
    try:
        resvg: Any = import_module("resvg_py")
        roboto: Any = import_module("font_roboto")
    except ImportError as problem:
        message = f"PNG needs the package {problem.name}, which is not installed"
        raise error("B0804", message, None, "run `pip install 'bertc[png]'`, or take `--format svg`") from None
    return resvg.svg_to_bytes(
        svg_string=to_svg(scene, title),
        background="#ffffff",
        zoom=min(SHARP, math.sqrt(MOST / math.prod(size(scene)))),
        skip_system_fonts=True,
        font_files=[roboto.font_files[face] for face in FACES],
        sans_serif_family="Roboto",
    )
