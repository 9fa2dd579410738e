"""Skeletons: files of somebody's own fusion or family that work as they are, to be changed from there.

They are data, bertc/skeletons/KIND/*.txt, with the stem `my_KIND` for the name that is asked for.
"""

from __future__ import annotations

import keyword
import os
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from bertc.errors import error
from bertc.extensions import extend_installed
from bertc.plugins import OPS
from bertc.writing import heed_signals, scratch_beside


def new(kind: str, name: str, folder: Path) -> list[Path]:
    """Write the skeleton of a `fusion` or a `family` into a folder; the files, in the order of their reading.

    Raises BertcError: B0212 for a name that is taken or no name, B0003 where one of the files exists (nothing is
    written then), B0605 when the file system refuses.
    """
    _refuse_name(kind, name)
    texts = skeleton(kind, name)
    for file in texts:
        if os.path.lexists(folder / file):
            raise error("B0003", f"`{folder / file}` exists", None, "choose another name, or another folder with `-o`")
    with scratch_beside(folder / name) as scratch:
        for file, text in texts.items():
            (scratch / file).write_text(text, "utf-8")
        _move(scratch, folder, tuple(texts))
    return [folder / file for file in texts]


def skeleton(kind: str, name: str) -> Mapping[str, str]:
    """File name -> text."""
    found = sorted(files("bertc").joinpath(f"skeletons/{kind}").iterdir(), key=lambda file: file.name)
    mine = f"my_{kind}"
    return {
        file.name.removesuffix(".txt").replace(mine, name): file.read_text("utf-8").replace(mine, name)
        for file in found
    }


def _refuse_name(kind: str, name: str) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,62}", name) or keyword.iskeyword(name):
        message = f"expected a name of small letters, digits and `_`, but `{name}` was found"
        raise error("B0212", message, None, "it names files, an op and a Python function, such as `deep_norm`")
    extend_installed()
    if kind == "fusion" and name in OPS:
        raise error("B0212", f"`{name}` is an op already", None, "choose another name")


def _move(scratch: Path, folder: Path, names: tuple[str, ...]) -> None:
    """All files or none: a link, unlike a renaming, never takes the place of a file that is there."""
    moved: list[Path] = []
    heed_signals()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            os.link(scratch / name, folder / name)
            moved.append(folder / name)
    except OSError as problem:
        for path in moved:
            path.unlink()
        if isinstance(problem, FileExistsError):
            raise error("B0003", f"`{problem.filename2 or folder}` exists", None, "choose another name") from None
        raise
