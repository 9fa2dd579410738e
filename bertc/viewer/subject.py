"""What is looked at: a spec, stage by stage, or the one graph of a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bertc.bundle import GRAPH, MANIFEST, read_bundle
from bertc.checkpoints import read_weights
from bertc.compiler import TARGETS, stages, target_module
from bertc.elaborate import read_graph
from bertc.errors import BertcError
from bertc.parser import parse_graph
from bertc.passes import Stage
from bertc.passes.expand_unhosted import Hosts
from bertc.spec import Spec
from bertc.tree import read_source
from bertc.weights_io import Tensor
from bertc.weights_io.names import name_table


@dataclass(frozen=True)
class Subject:
    name: str
    source: str
    """What the user named."""
    target: str | None
    precision: str
    sizes: Mapping[str, int]
    batch: int
    seq: int
    """The usual ones."""
    stages: tuple[Stage, ...]
    hosts: Mapping[str, Hosts]
    """By target: that of the spec, or every one whose packages are here when none is chosen."""
    names: Mapping[str, str]
    """Canonical name of a parameter -> what checkpoints call it."""
    tensors: Mapping[str, Tensor]
    """By canonical name, where there is a checkpoint."""


def is_bundle(argument: str) -> bool:
    return Path(argument, MANIFEST).is_file()


def spec_subject(spec: Spec, target: str | None = None, weights: Path | None = None) -> Subject:
    """A spec after each of its passes. Without `weights`, a checkpoint, parameters have their family's usual names.

    Raises BertcError as the stages do, and as reading the weights does.
    """
    target = target or spec.target
    passed = tuple(stages(spec, target))
    required = {node.key: tuple(int(size) for size in node.types[0].shape) for node in passed[0].graph.weights}
    tensors = {} if weights is None else read_weights(weights, spec, required).parameters
    table = name_table(spec.family)
    names = {name: table.checkpoint_name(name) for name in required}
    return Subject(
        name=spec.name,
        source=spec.source,
        target=target,
        precision=spec.precision,
        sizes=spec.sizes,
        batch=spec.shapes[0].batch.usual,
        seq=spec.shapes[0].seq.usual,
        stages=passed,
        hosts=_hosts(target),
        names={name: known for name, known in names.items() if known} | {n: t.name for n, t in tensors.items()},
        tensors=tensors,
    )


def bundle_subject(path: Path) -> Subject:
    """The graph that a bundle was made of. Raises BertcError for what is no whole bundle."""
    manifest = read_bundle(path).manifest
    source = read_source(path / GRAPH, largest=1 << 26)
    graph = read_graph(parse_graph(source.text, source.name))
    return Subject(
        name=manifest.spec,
        source=str(path),
        target=manifest.target,
        precision=manifest.precision,
        sizes=manifest.sizes,
        batch=manifest.profiles[0].batch.usual,
        seq=manifest.profiles[0].seq.usual,
        stages=(Stage("bundle", graph, 0, 0.0),),
        hosts=_hosts(manifest.target),
        names={},
        tensors={},
    )


def _hosts(target: str | None) -> dict[str, Hosts]:
    found: dict[str, Hosts] = {}
    for name in (target,) if target else TARGETS:
        try:
            found[name] = target_module(name).hosting()
        except BertcError:
            continue
    return found
