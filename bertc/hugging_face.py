"""A Hugging Face directory as a spec: its config.json, translated key by key to the fields of a spec.

What the keys of a family's configurations mean is data, see bertc/families.py. Keys that change nothing about
inference (dropout, initialisation, versions) are passed over. Keys that would make the network compute what bertc does
not have are refused, each with its reason.
Source: the configuration classes of the transformers library (PretrainedConfig and each family's own).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from bertc.errors import Diagnostic, Span, did_you_mean, error
from bertc.families import Every, Family, Refusal, Source, family_of, model_types
from bertc.json_reader import read_json
from bertc.spec_fields import MAXIMUM_REPEAT
from bertc.tree import Entry, MappingNode, Node, ScalarNode, SequenceNode, Value, all_of, read_source, shown

_UNTIED = Refusal("tie_word_embeddings", (True,), "a masked LM with an output matrix of its own is not supported")


def read_directory(directory: Path, asked: Span | None = None) -> MappingNode:
    """The spec that a directory's config.json stands for, with places in config.json; `asked` is as in read_source.

    Raises B0210 when there is no config.json, B0211 (exit 4) for a model bertc does not have, B0207 for missing sizes.
    """
    path = directory / "config.json"
    if not os.path.isfile(path):
        message = f"expected a folder with a config.json, but `{shown(str(directory))}` has none"
        raise error("B0210", message, asked, "name a Hugging Face folder, a .yaml file or a shipped spec")
    config = read_json(read_source(path))
    if not isinstance(config, MappingNode):
        help = "it is not a model's configuration"
        raise error("B0206", "expected config.json to be a mapping of keys to values", config.span, help)
    family = _family(config)
    head = _head(config, family)
    if problems := list(_refused(config, head, family)) or list(_missing(config, family)):
        raise all_of(problems)
    return _translate(config, head, family, _weights(directory))


def _weights(directory: Path) -> str:
    """The one file of weights, else the folder, for whose reader it is to find them."""
    return "model.safetensors" if os.path.isfile(directory / "model.safetensors") else "."


def _family(config: MappingNode) -> Family:
    """The family of the `model_type`; a configuration without one is BERT's."""
    match config.get("model_type"):
        case None | ScalarNode(value=None):
            return family_of("bert")
        case ScalarNode(value=str() as name) if name in model_types():
            return family_of(name)
        case node:
            message = "expected a `model_type` that bertc has, but found another"
            raise error("B0211", message, node.span, did_you_mean("", model_types()))


# ---------------------------------------------------------------------------------------------------------- refusals


def _head(config: MappingNode, family: Family) -> ScalarNode:
    """The first architecture's name, as given; without one, the plain encoder."""
    match config.get("architectures"):
        case None | ScalarNode(value=None) | SequenceNode(items=()):
            return ScalarNode(next(iter(family.heads)), config.span)
        case SequenceNode(items=(ScalarNode(value=str()) as first, *_)):
            return first
        case node:
            help = did_you_mean("", family.heads)
            raise error("B0206", "expected `architectures` to be a list of names", node.span, help)


def _refused(config: MappingNode, head: ScalarNode, family: Family) -> Iterator[Diagnostic]:
    if head.value not in family.heads:
        message = "expected one of the architectures that bertc has, but found another"
        yield Diagnostic("B0211", message, head.span, did_you_mean("", family.heads))
    for refusal in family.refusals:
        yield from _unless_harmless(config, refusal)
    if family.heads.get(str(head.value), "").endswith("masked_lm"):
        yield from _unless_harmless(config, _UNTIED)
    for source in family.sources:
        yield from _unknown_names(config, source)
        yield from _miscounted(config, source)


def _unless_harmless(config: MappingNode, refusal: Refusal) -> Iterator[Diagnostic]:
    node = _found(config, refusal.name)
    absent = node is None or node in (ScalarNode(None, node.span), MappingNode((), node.span))
    if (absent and not refusal.required) or (node is not None and _plain(node) in refusal.harmless):
        return
    fit = f"where it is `{json.dumps(refusal.harmless[0])}`" if refusal.harmless else "without it"
    help = f"`{refusal.name}`: bertc can build models {fit}"
    yield Diagnostic("B0211", refusal.reason, config.span if node is None else node.span, help)


def _plain(node: Node) -> object:
    """A value, or a list of values, as TOML has them."""
    match node:
        case ScalarNode(value):
            return value
        case SequenceNode(items):
            return [_plain(item) for item in items]
        case _:
            return None


def _unknown_names(config: MappingNode, source: Source) -> Iterator[Diagnostic]:
    """Names that have no translation; what is no name at all, the spec's own check tells."""
    for node, names in _named(_given(config, source), source):
        if not (isinstance(node, ScalarNode) and (node.value in names or not isinstance(node.value, str))):
            kinds = "activations" if source.field == "activation" else f"values of `{source.keys[0]}`"
            message = f"expected one of the {kinds} that bertc has, but found another"
            yield Diagnostic("B0211", message, node.span, did_you_mean("", names))


def _miscounted(config: MappingNode, source: Source) -> Iterator[Diagnostic]:
    """A list for the layers that is not as long as there are layers."""
    layers = _scalar(config, "num_hidden_layers")
    match _given(config, source):
        case SequenceNode(items=items, span=span) if source.every is not None and len(items) != layers:
            message = f"expected a kind for each of the {layers} layers, but found {len(items)}"
            yield Diagnostic("B0208", message, span, f"`{source.keys[0]}` and `num_hidden_layers` go together")
        case _:
            return


def _named(node: Node | None, source: Source) -> list[tuple[Node, Mapping[str, str]]]:
    """The nodes of a key that are to be translated, each with its translations."""
    match node:
        case ScalarNode(value=str()) if source.names is not None:
            return [(node, source.names)]
        case SequenceNode(items=(one, *others)) if source.names is not None:
            return [(one, source.first or source.names), *((other, source.names) for other in others)]
        case _:
            return []


def _missing(config: MappingNode, family: Family) -> Iterator[Diagnostic]:
    missing = [source.keys[0] for source in family.sources if source.required and _value(config, source) is None]
    if missing:
        names = ", ".join(f"`{name}`" for name in missing)
        message = f"expected config.json to have {names}, but found none"
        yield Diagnostic("B0207", message, config.span, "add what the model was trained with")


# ------------------------------------------------------------------------------------------------------- translation


def _translate(config: MappingNode, head: ScalarNode, family: Family, weights: str) -> MappingNode:
    place = config.span
    values = {source.field: node for source in family.sources if (node := _value(config, source)) is not None}
    values["network.head"] = ScalarNode(family.heads[str(head.value)], head.span)
    values["family"] = ScalarNode(family.name, place)
    values["weights"] = ScalarNode(weights, place)
    labels = _label_names(config)
    if labels is not None:
        values["labels"] = labels
        values.pop("sizes.labels", None)  # an older `num_labels`, which transformers overrules too
    return _nested(values, place)


def _nested(values: Mapping[str, Node], place: Span) -> MappingNode:
    """`sizes.hidden` and its like as mappings in mappings."""
    sections = dict.fromkeys(field.partition(".")[0] for field in values)
    entries: list[Entry] = []
    for name in sections:
        inner = {field.partition(".")[2]: node for field, node in values.items() if field.partition(".")[0] == name}
        node = inner[""] if "" in inner else _nested(inner, place)
        entries.append(Entry(name, node, node.span))
    return MappingNode(tuple(entries), place)


def _value(config: MappingNode, source: Source) -> Node | None:
    if source.unless_equal and len({_scalar(config, key) for key in source.unless_equal}) == 1:
        return None
    given = _given(config, source)
    if given is None and source.every is not None:
        given = _spelt_out(config, source.every)
    if given is None and source.value is not None:
        given = ScalarNode(source.value, config.span)
    return None if given is None else _translated(given, source)


def _given(config: MappingNode, source: Source) -> Node | None:
    """What config.json has under the first of the source's keys that is there."""
    found = (_found(config, key) for key in source.keys)
    return next((node for node in found if node is not None and node != ScalarNode(None, node.span)), None)


def _translated(node: Node, source: Source) -> Node:
    named = tuple(_translation(item, names) for item, names in _named(node, source))
    match node:
        case ScalarNode(value=int() as number) if source.plus and not isinstance(number, bool):
            return replace(node, value=number + source.plus)
        case ScalarNode() if named:
            return named[0]
        case SequenceNode() if named:
            return replace(node, items=named)
        case _:
            return node


def _translation(node: Node, names: Mapping[str, str]) -> Node:
    return replace(node, value=names.get(str(node.value), node.value)) if isinstance(node, ScalarNode) else node


def _spelt_out(config: MappingNode, every: Every) -> SequenceNode | None:
    """One of the first name, then others of the second, and again, as many as there are layers."""
    layers = _scalar(config, "num_hidden_layers")
    if not isinstance(layers, int) or not 0 < layers <= MAXIMUM_REPEAT:
        return None  # the spec's own check of `layers` tells
    found = _found(config, every.key) or ScalarNode(None, config.span)
    match found:
        case ScalarNode(value=None):
            period = every.value
        case ScalarNode(value=int() as period) if period > 0:
            pass
        case _:
            message = f"expected `{every.key}` to be a whole number of at least 1, but found another value"
            raise error("B0206", message, found.span, "it says how often a layer looks at the whole sequence")
    names = (every.names[0 if layer % period == 0 else 1] for layer in range(layers))
    return SequenceNode(tuple(ScalarNode(name, found.span) for name in names), found.span)


def _found(config: MappingNode, key: str) -> Node | None:
    """The node under a key; the parts of a dotted one are keys of mappings in mappings."""
    node: Node | None = config
    for part in key.split("."):
        node = node.get(part) if isinstance(node, MappingNode) else None
    return node


def _scalar(config: MappingNode, key: str) -> Value:
    node = _found(config, key)
    return node.value if isinstance(node, ScalarNode) else None


def _label_names(config: MappingNode) -> SequenceNode | None:
    """id2label in the order of its ids, which must be 0, 1, 2, ...; None when there is none."""
    found = config.get("id2label")
    if not isinstance(found, MappingNode) or not found.entries:
        return None
    by_id = {entry.key: entry for entry in found.entries}
    ids = [str(index) for index in range(len(by_id))]
    if by_id.keys() != set(ids):
        wrong: Span = next(entry.span for entry in found.entries if entry.key not in ids)
        message = f"expected `id2label` to number its labels from 0 to {len(ids) - 1}, but found another number"
        raise error("B0208", message, wrong, "renumber the labels")
    return SequenceNode(tuple(by_id[index].node for index in ids), found.span)
