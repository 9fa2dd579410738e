"""A spec: everything that `build` is told about a network, checked and resolved.

`load_spec` reads a shipped spec, a YAML file, or a Hugging Face directory. What each field may be is declared in
bertc/spec_fields.py, what must hold between fields in bertc/spec_relations.py.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bertc.errors import BertcError, Diagnostic, Source, Span, did_you_mean, error
from bertc.hugging_face import read_directory
from bertc.shapes import Profile, default_profile, profile_problems
from bertc.spec_fields import NETWORK, SPEC, QkvLayout, Section
from bertc.spec_reader import Reading, read_fields
from bertc.spec_relations import place_of, profiles_of, relation_problems, sizes_of
from bertc.tree import Entry, MappingNode, Node, ScalarNode, SequenceNode, all_of, read_source, shown

_SHIPPED = Path(__file__).parent / "specs"
_SLOT_PATHS = tuple(f"network.{slot.name}" for slot in NETWORK.fields)


@dataclass(frozen=True)
class Slot:
    """The block that fills a slot of the network, and how often it repeats; None: once."""

    block: str
    repeat: int | None = None
    others: tuple[str, ...] = ()
    """The blocks of further copies, after whose last the first comes again."""
    shared: bool = False
    """Whether the copies have their weights together."""

    def turn(self, copy: int) -> str:
        """The block of a copy, counted from 0."""
        blocks = (self.block, *self.others)
        return blocks[copy % len(blocks)]


@dataclass(frozen=True)
class Spec:
    """The fields of docs/spec.md, resolved: every size known, the base merged in, paths relative to nothing."""

    name: str
    source: str
    """What the user named: a shipped spec, a file or a directory."""
    sizes: Mapping[str, int]
    norm_eps: float
    activation: str
    position_offset: int
    rotary_base: float | None
    local_rotary_base: float | None
    network: Mapping[str, Slot]
    blocks: tuple[Path, ...]
    extensions: tuple[Path, ...]
    shapes: tuple[Profile, ...]
    precision: str
    weights: Path | None
    family: str
    qkv_layout: QkvLayout | None
    target: str | None
    plugins: tuple[str, ...]
    passes: tuple[str, ...]
    without: tuple[str, ...]
    input_names: str
    labels: tuple[str, ...]
    spans: Mapping[str, Span] = field(default_factory=dict[str, Span], compare=False, repr=False)
    """Where each field was given, by path: `sizes.heads`, `passes.1`; of a slot, where its block's name stands."""


def shipped_specs() -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in _SHIPPED.glob("*.yaml")))


def load_spec(argument: str) -> Spec:
    """The spec that `argument` names: a shipped one, a .yaml file, or a Hugging Face directory with its config.json.

    A shipped name wins over a file of that name; `./bert-base` is the file. Raises BertcError with everything that is
    wrong in the file.
    """
    return _spec(_open(argument, Path(), None), _name(Path(os.path.abspath(argument))), argument)


def _name(path: Path) -> str:
    """That of the file or folder; of the folder above where it says nothing: `model`, or a snapshot in the hub's cache,
    models--ORGANISATION--NAME/snapshots/HASH. A config's `_name_or_path` is that of the model it was trained from.
    """
    if path.parent.name == "snapshots":
        return path.parent.parent.name.rpartition("--")[2]
    if path.name == "model":
        return path.parent.name or path.name
    return path.name.removesuffix(".yaml").removesuffix(".yml")


def parse_spec(source: Source) -> Spec:
    """The spec that a YAML text holds; its paths start at the folder of the source's name."""
    return _spec(_yaml(source), Path(source.name).stem, source.name)


def _spec(own: MappingNode, name: str, argument: str) -> Spec:
    tree, problems = _with_base(own)
    reading = read_fields(tree, complete=not problems)
    problems = [*problems, *reading.problems, *relation_problems(reading)]
    if problems:
        raise all_of(sorted(problems, key=lambda problem: _reading_order(problem, own.span.source)))
    return _resolved(reading, name, argument)


def _reading_order(problem: Diagnostic, own: Source) -> tuple[bool, str, int, int]:
    span = problem.span
    return (True, "", 0, 0) if span is None else (span.source != own, span.source.name, span.line, span.column)


# -------------------------------------------------------------------------------------------------- files and bases


def _open(name: str, folder: Path, asked: Span | None) -> MappingNode:
    """The tree of what a user or a spec's `base` names; `asked` is the place of that name."""
    shipped, path = shipped_specs(), folder / name
    if name in shipped:
        return _yaml(read_source(_SHIPPED / f"{name}.yaml", name=f"bertc/specs/{name}.yaml"))
    if name and os.path.isdir(path):
        return read_directory(path, asked)
    if path.suffix in (".yaml", ".yml"):
        return _yaml(read_source(path, asked))
    if os.path.exists(path):
        help = "for a config.json, name its folder" if path.suffix == ".json" else "a spec's file ends in .yaml"
        raise error("B0210", f"expected a folder or a .yaml file, but `{shown(name)}` is neither", asked, help)
    if asked is None and os.sep not in name:
        message = f"`{shown(name)}` is not a shipped spec, a .yaml file or a folder"
        raise error("B0001", message, None, did_you_mean(name, shipped))
    raise error("B0002", f"expected a spec at `{shown(name)}`, but there is none", asked, did_you_mean(name, shipped))


def _yaml(source: Source) -> MappingNode:
    from bertc.yaml_reader import read_yaml  # PyYAML takes 20 ms to import, and a Hugging Face directory needs none

    tree = read_yaml(source)
    if not isinstance(tree, MappingNode):
        help = "docs/spec.md shows how a spec is written"
        raise error("B0206", "expected a spec to be a mapping of keys to values", tree.span, help)
    return tree


def _with_base(own: MappingNode) -> tuple[MappingNode, Sequence[Diagnostic]]:
    """The spec's tree with its base merged in, and what is wrong with the base."""
    base = own.get("base")
    if not (isinstance(base, ScalarNode) and isinstance(base.value, str)):
        return own, ()
    try:
        below = _open(base.value, Path(own.span.source.name).parent, base.span)
    except BertcError as problem:
        return own, problem.diagnostics
    if below.get("base") is not None:
        message = f"expected a spec that stands alone, but `{shown(base.value)}` has a base of its own"
        return own, (Diagnostic("B0209", message, base.span, "name the lower base, and repeat what is changed"),)
    return _merged(below, own, SPEC), ()


def _merged(below: MappingNode, own: MappingNode, section: Section) -> MappingNode:
    """`own` over `below`, sizes and slots one by one, everything else as a whole."""
    kinds = {declared.name: declared.kind for declared in section.fields}
    entries = {entry.key: entry for entry in below.entries}
    for entry in own.entries:
        lower, kind = entries.get(entry.key), kinds.get(entry.key)
        match kind, lower, entry.node:
            case Section(), Entry(node=MappingNode() as beneath), MappingNode() as above:
                entries[entry.key] = replace(entry, node=_merged(beneath, above, kind))
            case _:
                entries[entry.key] = entry
    return MappingNode(tuple(entries.values()), own.span)


# ---------------------------------------------------------------------------------------------------------- resolving


def _resolved(reading: Reading, name: str, argument: str) -> Spec:
    values, sizes = reading.values, sizes_of(reading)
    slots = {path.removeprefix("network."): value for path, value in values.items() if path in _SLOT_PATHS}
    positions = sizes["positions"] - values["position_offset"]
    return Spec(
        name=name,
        source=argument,
        sizes=MappingProxyType(sizes),
        norm_eps=float(values["norm_eps"]),
        activation=values["activation"],
        position_offset=values["position_offset"],
        rotary_base=values.get("rotary_base"),
        local_rotary_base=values.get("local_rotary_base"),
        network=MappingProxyType({slot: _slot(value, sizes) for slot, value in slots.items()}),
        blocks=tuple(place_of(reading, f"blocks.{index}") for index in range(len(values["blocks"]))),
        extensions=tuple(place_of(reading, f"extensions.{index}") for index in range(len(values["extensions"]))),
        shapes=profiles_of(reading) or (default_profile(positions),),
        precision=values["precision"],
        weights=_weights(reading),
        family=values["family"],
        qkv_layout=values.get("qkv_layout"),
        target=values.get("target"),
        plugins=values["plugins"],
        passes=_passes(reading),
        without=values["without"],
        input_names=values["input_names"],
        labels=values["labels"],
        spans=MappingProxyType(_spans(reading)),
    )


def _slot(value: Any, sizes: Mapping[str, int]) -> Slot:
    if isinstance(value, str):
        return Slot(value)
    blocks, repeat = value["block"], value.get("repeat")
    first, *others = (blocks,) if isinstance(blocks, str) else blocks
    copies = sizes[repeat] if isinstance(repeat, str) else repeat
    return Slot(first, copies, tuple(others), value.get("weights") == "shared")


def _weights(reading: Reading) -> Path | None:
    return place_of(reading, "weights") if "weights" in reading.values else None


def _passes(reading: Reading) -> tuple[str, ...]:
    """Names as they are, files of rules as paths."""
    names: tuple[str, ...] = reading.values["passes"]
    return tuple(
        str(place_of(reading, f"passes.{index}")) if name.endswith(".net") else name for index, name in enumerate(names)
    )


def _spans(reading: Reading) -> dict[str, Span]:
    return reading.spans | {
        slot: reading.spans[f"{slot}.block"] for slot in _SLOT_PATHS if f"{slot}.block" in reading.spans
    }


# ------------------------------------------------------------------------------------------------ the command line


def override(
    spec: Spec,
    *,
    precision: str | None = None,
    target: str | None = None,
    weights: str | None = None,
    plugins: Sequence[str] | None = None,
    passes: Sequence[str] | None = None,
    without: Sequence[str] | None = None,
    shapes: Sequence[Profile] | None = None,
    qkv_layout: str | None = None,
) -> Spec:
    """The spec with what the command line says instead; None leaves a field as it is.

    Values are checked as those of a file are; all that is wrong is one B0212 (exit 2). Paths start at the working
    directory.
    """
    given = {
        "precision": precision,
        "target": target,
        "weights": weights,
        "qkv_layout": qkv_layout,
        "plugins": plugins,
        "passes": passes,
        "without": without,
    }
    reading = read_fields(_flags({name: value for name, value in given.items() if value is not None}), complete=False)
    problems = [*reading.problems, *relation_problems(reading)]
    positions = spec.sizes["positions"] - spec.position_offset
    for profile in shapes or ():
        problems += (Diagnostic("B0212", text, None, help) for _, text, help in profile_problems(profile, positions))
    if problems:
        raise BertcError(*(replace(problem, code="B0212") for problem in problems))
    resolved = {"weights": _weights(reading), "passes": _passes(reading)}
    changes: dict[str, Any] = {
        name: resolved.get(name, reading.values[name]) for name, value in given.items() if value is not None
    }
    if shapes:
        changes["shapes"] = tuple(shapes)
    kept = {path: span for path, span in spec.spans.items() if path.split(".")[0] not in changes}
    typed = {path: span for path, span in reading.spans.items() if path}
    return replace(spec, **changes, spans=MappingProxyType(kept | typed))


def _flags(given: Mapping[str, str | Sequence[str]]) -> MappingNode:
    """What was typed, as a tree whose places show the flag and the value."""

    def scalar(name: str, value: str) -> ScalarNode:
        return ScalarNode(value, Span(Source(f"--{name.replace('_', '-')}", value), 1, 1, max(1, len(value))))

    def node(name: str, value: str | Sequence[str]) -> Node:
        if isinstance(value, str):
            return scalar(name, value)
        return SequenceNode(
            tuple(scalar(name, item) for item in value), Span(Source(f"--{name}", ",".join(value)), 1, 1)
        )

    place = Span(Source("command line", ""), 1, 1)
    return MappingNode(tuple(Entry(name, node(name, value), place) for name, value in given.items()), place)


# ------------------------------------------------------------------------------------------------------------- hash


def spec_hash(spec: Spec) -> str:
    """sha256 of what the spec says, in hexadecimal.

    Two specs that say the same have the same hash: neither names and paths nor the places of fields count, the contents
    of the user's .net files do. Weights have a hash of their own.
    """
    content = {
        "sizes": dict(spec.sizes),
        "norm_eps": spec.norm_eps,
        "activation": spec.activation,
        "position_offset": spec.position_offset,
        "rotary_base": spec.rotary_base,
        "local_rotary_base": spec.local_rotary_base,
        "network": {name: astuple(slot) for name, slot in spec.network.items()},
        "blocks": [_file_hash(path) for path in spec.blocks],
        "extensions": [_file_hash(path) for path in spec.extensions],
        "shapes": [[astuple(profile.batch), astuple(profile.seq)] for profile in spec.shapes],
        "precision": spec.precision,
        "target": spec.target,
        "plugins": spec.plugins,
        "passes": [_file_hash(Path(name)) if name.endswith(".net") else name for name in spec.passes],
        "without": spec.without,
        "input_names": spec.input_names,
        "labels": spec.labels,
    }
    return _sha256(json.dumps(content, sort_keys=True, separators=(",", ":")))


def _file_hash(path: Path) -> str:
    return "sha256:" + _sha256(read_source(path).text)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
