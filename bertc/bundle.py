"""What `build` writes and `run` reads: a directory of the engine's own files and a manifest that vouches for them.

    out/minilm/
      manifest.json     what was built, from what, for what, and the sha256 of every other file
      graph.net         the final graph, in the notation
      model.onnx ...    the engine, byte for byte as its own tools load it
      tokenizer/        the model's own files, where it came with a tokenizer

Nothing lies deeper than that. A bundle appears whole or not at all: it is written beside its place and renamed into
it. Equal specs, weights and versions give equal bytes, so a manifest holds no time and no absolute path. The hashes
tell a damaged or half-copied bundle; they cannot tell who wrote it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from bertc.errors import BertcError, Diagnostic, Span, did_you_mean, error
from bertc.json_reader import read_json
from bertc.spec import Profile
from bertc.text.settings import TextSettings
from bertc.tree import MappingNode, Node, ScalarNode, SequenceNode, read_source
from bertc.version import VERSION
from bertc.writing import move, scratch_beside

MANIFEST = "manifest.json"
GRAPH = "graph.net"
TOKENIZER = "tokenizer"
LAYOUT = "bertc-bundle/1"

_FILE_NAME = re.compile(rf"({TOKENIZER}/)?[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class File:
    size: int
    """Bytes."""
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a bundle says of itself. The fields are the layout: `manifest.json` is written and checked by them."""

    spec: str
    spec_hash: str
    weights_hash: str
    target: str
    versions: Mapping[str, str]
    """Of the packages that built the engine, by package name."""
    precision: str
    sizes: Mapping[str, int]
    profiles: tuple[Profile, ...]
    inputs: Mapping[str, str]
    """Hugging Face's name of each input, and the name it has in the engine."""
    outputs: tuple[str, ...]
    padding: str
    """The block that makes the mask: with `right_padding`, ones stand left of zeros."""
    text: TextSettings = field(default_factory=TextSettings)
    files: Mapping[str, File] = field(default_factory=dict[str, File])
    bertc: str = VERSION
    schema: str = LAYOUT

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files have been found to be what its manifest says."""

    path: Path
    manifest: Manifest


# ------------------------------------------------------------------------------------------------------------- writing


def write_bundle(path: Path, fill: Callable[[Path], Manifest], *, force: bool = False) -> Bundle:
    """Make a bundle at `path`: `fill` writes its files into the empty directory it is given and says what they are.

    Nothing is left behind when `fill` raises or is interrupted. `force` replaces a bundle, and nothing but a bundle.
    Raises B0003 when something stands at `path`, B0605 when the file system refuses.
    """
    path = Path(os.path.abspath(path))
    _refuse_existing(path, force)
    with scratch_beside(path) as scratch:
        made = scratch / "new"  # a directory of its own, for the scratch one is closed to other users
        made.mkdir()
        manifest = fill(made)
        files = sorted(path for path in made.rglob("*") if path.is_file())
        manifest = replace(manifest, files={path.relative_to(made).as_posix(): _describe(path) for path in files})
        (made / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
        _move_into_place(made, path, replaced=scratch / "old", force=force)
    return Bundle(path, manifest)


def _refuse_existing(path: Path, force: bool) -> None:
    if not os.path.lexists(path):
        return
    if not force:
        raise error("B0003", f"`{path}` exists", None, "choose another place with `-o`, or replace it with `--force`")
    if path.is_symlink() or not (path / MANIFEST).is_file():
        raise error(
            "B0003", f"`{path}` exists and is not a bundle", None, "`--force` replaces bundles only; remove it yourself"
        )


def _describe(path: Path) -> File:
    return File(path.stat().st_size, _sha256(path))


def _move_into_place(made: Path, path: Path, replaced: Path, force: bool) -> None:
    _refuse_existing(path, force)  # again: the build took its time
    if not path.exists():
        move(made, path)
        return
    path.rename(replaced)
    try:
        move(made, path)
    except BaseException:
        replaced.rename(path)
        raise


# ------------------------------------------------------------------------------------------------------------- reading


def read_bundle(path: Path) -> Bundle:
    """The bundle at `path`, every file of it checked against the manifest before anything else is done with it.

    Raises B0601 when there is none, B0602 for a manifest that does not fit, B0603 for a layout of another bertc, and
    all at once B0604 for each file that is missing, altered, or not a plain file inside the bundle.
    """
    if not (path / MANIFEST).is_file():
        raise error("B0601", f"`{path}` is not a bundle: it has no {MANIFEST}", None, "`bertc build` makes bundles")
    manifest = _read_manifest(path / MANIFEST)
    if problems := list(_altered_files(path, manifest.files)):
        raise BertcError(*problems)
    return Bundle(path, manifest)


def _altered_files(path: Path, files: Mapping[str, File]) -> Iterator[Diagnostic]:
    for name, expected in files.items():
        if (found := _found_instead(path, name, expected)) is not None:
            message = f"`{path / name}` is not as it was built: {found}"
            yield Diagnostic("B0604", message, None, "build the bundle again, or copy it again whole")


def _found_instead(folder: Path, name: str, expected: File) -> str | None:
    """What is wrong with a file, as the end of a sentence; None when it is as expected."""
    if not _FILE_NAME.fullmatch(name) or name == MANIFEST:
        return "its name is not that of a file in a bundle"
    path = folder / name
    try:
        status = path.lstat()
    except OSError as problem:
        return f"{problem.strerror}"
    if not stat.S_ISREG(status.st_mode) or (path.parent != folder and path.parent.is_symlink()):
        return "expected a plain file, but found a link, a directory or a device"
    if status.st_size != expected.size:
        return f"expected {expected.size} bytes, but found {status.st_size}"
    if (found := _sha256(path)) != expected.sha256:
        return f"expected sha256 {expected.sha256}, but found {found}"
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ------------------------------------------------------------------------------------------------------- manifest.json


def _read_manifest(path: Path) -> Manifest:
    tree = read_json(read_source(path))
    layout = tree.get("schema") if isinstance(tree, MappingNode) else None
    if not isinstance(layout, ScalarNode):
        raise error("B0602", f"`{path}` names no schema, so it is not the manifest of a bundle", tree.span)
    if layout.value != LAYOUT:
        message = f"expected a bundle of layout `{LAYOUT}`, but found `{layout.value}`"
        raise error("B0603", message, layout.span, f"build it again with this bertc, {VERSION}")
    return _read(tree, Manifest, "the manifest")


def _read(node: Node, expected: Any, name: str) -> Any:
    """The value of a node, as the annotation of a field asks for it; `name` is what the node is called in messages."""
    if is_dataclass(expected):
        return _read_record(node, expected, name)
    arguments = get_args(expected)
    match node:
        case ScalarNode(value) if type(value) is expected:
            return value
        case SequenceNode(items) if get_origin(expected) is tuple:
            return tuple(_read(item, arguments[0], f"{name}[{place}]") for place, item in enumerate(items))
        case MappingNode(entries) if get_origin(expected) is Mapping:
            return {entry.key: _read(entry.node, arguments[1], f"{name}.{entry.key}") for entry in entries}
        case _:
            raise _unexpected(node.span, name, expected)


def _read_record(node: Node, expected: Any, name: str) -> Any:
    """A frozen dataclass from a mapping that has its fields and no others."""
    if not isinstance(node, MappingNode):
        raise _unexpected(node.span, name, expected)
    kinds = get_type_hints(expected)
    wanted = [field.name for field in fields(expected)]
    for entry in node.entries:
        if entry.key not in wanted:
            raise error("B0602", f"{name} has no `{entry.key}`", entry.span, did_you_mean(entry.key, wanted))
    values: dict[str, Any] = {}
    for field_name in wanted:
        value = node.get(field_name)
        if value is None:
            raise error("B0602", f"{name} lacks `{field_name}`", node.span, "build the bundle again")
        values[field_name] = _read(value, kinds[field_name], f"{name}.{field_name}")
    return expected(**values)


def _unexpected(span: Span, name: str, expected: Any) -> BertcError:
    wanted = getattr(expected, "__name__", str(expected))
    return error(
        "B0602", f"{name} is expected to be {wanted}, but something else stands here", span, "build the bundle again"
    )
