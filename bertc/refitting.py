"""New weights for a bundle that was built: the same engine, another checkpoint of the same network."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from bertc.bundle import GRAPH, TOKENIZER, Bundle, Manifest, read_bundle, write_bundle
from bertc.checkpoints import read_parameters
from bertc.compiler import target_module
from bertc.elaborate import read_graph
from bertc.errors import error
from bertc.graph import Graph
from bertc.parser import parse_graph
from bertc.spec import Spec, load_spec
from bertc.spec_fields import QkvLayout
from bertc.text.files import copy_tokenizer, has_tokenizer
from bertc.text.settings import TextSettings, read_settings
from bertc.tree import read_source
from bertc.weights_io import Tensor, weights_hash

LARGEST_GRAPH = 1 << 26
"""Bytes of a bundle's graph."""


def refit(path: Path, checkpoint: Path, *, qkv_layout: QkvLayout | None = None) -> Bundle:
    """Put a checkpoint's weights into the bundle at `path`, which is replaced as a whole once all went well.

    Where the checkpoint is a Hugging Face directory, its tokenizer, labels and text settings come along. For targets
    `onnx` and `cuda` the result is the bundle that a build from the checkpoint writes.

    Raises BertcError B0601 to B0604 for the bundle, B0408 to B0411 and B0516 for a checkpoint of another network, B0516
    for an engine that takes no new weights, B0515 with TensorRT's own words when it fails, B0605 when the bundle cannot
    be written.
    """
    bundle = read_bundle(path)
    manifest = bundle.manifest
    module = target_module(manifest.target)
    graph = _graph(bundle)
    spec = load_spec(str(checkpoint)) if (checkpoint / "config.json").is_file() else None
    if spec is not None:
        _check_architecture(spec, graph, manifest)
    tensors = _tensors(graph, checkpoint, manifest, spec, qkv_layout)
    hashes = {"spec_hash": manifest.spec_hash, "weights_hash": weights_hash(tensors)}

    def fill(folder: Path) -> Manifest:
        module.refit(
            graph, tensors, bundle.path, folder, names=manifest.inputs, precision=manifest.precision, hashes=hashes
        )
        if spec is not None:
            copy_tokenizer(checkpoint, folder / TOKENIZER)
        _copy_others(bundle, folder)
        return replace(manifest, weights_hash=hashes["weights_hash"], text=_text(checkpoint, manifest, spec))

    return write_bundle(bundle.path, fill, force=True)


def _graph(bundle: Bundle) -> Graph:
    source = read_source(bundle.path / GRAPH, largest=LARGEST_GRAPH)
    return read_graph(parse_graph(source.text, source.name))


def _tensors(
    graph: Graph, checkpoint: Path, manifest: Manifest, spec: Spec | None, qkv_layout: QkvLayout | None
) -> dict[str, Tensor]:
    """The checkpoint's tensor of each parameter that the bundle's graph names."""
    required = {node.key: tuple(int(size) for size in node.types[0].shape) for node in graph.weights}
    family = None if spec is None else spec.family
    found = read_parameters(checkpoint, required, family=family, heads=manifest.sizes["heads"], layout=qkv_layout)
    return found.parameters


def _check_architecture(spec: Spec, graph: Graph, manifest: Manifest) -> None:
    """What a checkpoint's own config.json says and no shape of a tensor shows. Raises BertcError B0516."""
    eps = {node.attribute("eps") for node in graph if "eps" in dict(node.attributes)}
    theirs = {name: size for name, size in spec.sizes.items() if name != "labels"}
    differing = [(name, manifest.sizes.get(name), size) for name, size in theirs.items()]
    differing += [("norm_eps", value, spec.norm_eps) for value in eps]
    for name, here, there in differing:
        if here != there:
            message = f"`{spec.source}` is of a network with {name} {there}, but that of the bundle has {here}"
            raise error("B0516", message, None, "build a bundle from it")


def _text(checkpoint: Path, manifest: Manifest, spec: Spec | None) -> TextSettings:
    """What the bundle says of texts, as far as the checkpoint's folder says nothing else."""
    if spec is None:
        return manifest.text
    if has_tokenizer(checkpoint):
        return read_settings(checkpoint, manifest.text.tasks, spec.labels, manifest.sizes["labels"])
    return replace(manifest.text, labels=spec.labels or manifest.text.labels)


def _copy_others(bundle: Bundle, folder: Path) -> None:
    """Every file of the old bundle that has no successor; a tokenizer has one as a whole."""
    renewed = (folder / TOKENIZER).exists()
    for name in bundle.manifest.files:
        successor = folder / name
        if successor.exists() or (renewed and successor.parent.name == TOKENIZER):
            continue
        successor.parent.mkdir(exist_ok=True)
        shutil.copyfile(bundle.path / name, successor)
