"""The graph viewer: one HTML file, complete in itself, that shows a network after each pass.

The page is hand-written and lies in page/; its parts are joined here, around one JSON document.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from bertc.viewer.document import document
from bertc.viewer.profile import read_profile
from bertc.viewer.subject import Subject, bundle_subject, is_bundle, spec_subject

__all__ = ["Subject", "bundle_subject", "is_bundle", "page", "spec_subject", "view"]

SCRIPTS = ("model.js", "draw.js", "details.js", "main.js", "events.js")
"""In the order in which they stand in the page."""


def view(subjects: Sequence[Subject], profile: Path | None = None, *, histograms: bool = False) -> str:
    """The HTML of one subject, or of two side by side.

    `profile` has times of the first one's ops, as trtexec or ONNX Runtime wrote them; `histograms` reads the values of
    all weights. Raises BertcError B0803 for a profile that does not fit.
    """
    times = None if profile is None else read_profile(profile, subjects[0].stages[-1].graph)
    title = " beside ".join(subject.name for subject in subjects)
    return page(f"{title}: bertc", document(subjects, times, histograms=histograms))


def page(title: str, content: Mapping[str, Any]) -> str:
    """The page around a document."""
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    parts = {
        "TITLE": escape(title),
        "STYLE": _part("style.css"),
        "SCRIPT": "\n".join(map(_part, SCRIPTS)),
        "DOCUMENT": text.replace("<", "\\u003c"),  # so that no text in it ends the element
    }
    pieces = _part("index.html").replace("\n", "\0\n").split("\0")
    for name in parts:
        assert sum(name in piece for piece in pieces) == 1
    return "".join(_filled(piece, parts) for piece in pieces)


def _filled(piece: str, parts: Mapping[str, str]) -> str:
    """A line of the page with what belongs into it; no line has more than one place."""
    return next((piece.replace(name, part) for name, part in parts.items() if name in piece), piece)


def _part(name: str) -> str:
    return files("bertc.viewer").joinpath("page", name).read_text("utf-8")
