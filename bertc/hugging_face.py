"""A Hugging Face directory as a spec: its config.json, translated key by key to the fields of a spec.

Keys that change nothing about inference (dropout, initialisation, versions) are passed over. Keys that would make the
network compute what bertc does not have are refused, each with its reason: see `_REFUSALS`.
Source: the configuration classes of the transformers library (BertConfig, PretrainedConfig).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bertc.errors import Diagnostic, Span, did_you_mean, error
from bertc.json_reader import read_json
from bertc.tree import Entry, MappingNode, Node, ScalarNode, SequenceNode, Value, all_of, read_source, shown

_MODEL_TYPES = ("bert",)

_HEADS = {
    "BertModel": "pooled",
    "BertForQuestionAnswering": "question_answering",
    "BertForSequenceClassification": "sequence_classification",
    "BertForTokenClassification": "token_classification",
    "BertForMaskedLM": "masked_lm",
}

_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
}


@dataclass(frozen=True)
class _Key:
    """A key of config.json, the field it gives, and what transformers takes when the key is not there.

    The five that weights alone do not tell are required here, though transformers has defaults for them too.
    """

    name: str
    field: str
    default: Value = None
    required: bool = False
    names: Mapping[str, str] | None = None


_KEYS = (
    _Key("num_hidden_layers", "sizes.layers", required=True),
    _Key("hidden_size", "sizes.hidden", required=True),
    _Key("num_attention_heads", "sizes.heads", required=True),
    _Key("intermediate_size", "sizes.inner", required=True),
    _Key("vocab_size", "sizes.vocab", required=True),
    _Key("max_position_embeddings", "sizes.positions", 512),
    _Key("type_vocab_size", "sizes.types", 2),
    _Key("num_labels", "sizes.labels"),
    _Key("layer_norm_eps", "norm_eps", 1e-12),
    _Key("hidden_act", "activation", "gelu", names=_ACTIVATIONS),
)


@dataclass(frozen=True)
class _Refusal:
    """A key that must be absent, null, an empty mapping, or `harmless`."""

    name: str
    harmless: Value
    reason: str


_REFUSALS = (
    _Refusal("position_embedding_type", "absolute", "only absolute positions are supported"),
    _Refusal("is_decoder", False, "decoders are not supported"),
    _Refusal("add_cross_attention", False, "cross-attention is not supported"),
    _Refusal("pruned_heads", None, "layers that differ in their heads are not supported"),
    _Refusal("quantization_config", None, "weights that are already quantised are not supported"),
    _Refusal("auto_map", None, "code that comes with a model is never run, so what it computes is not known"),
)
_UNTIED = _Refusal("tie_word_embeddings", True, "a masked LM with an output matrix of its own is not supported")


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
    head = _head(config)
    if problems := list(_refused(config, head)) or list(_missing(config)):
        raise all_of(problems)
    return _translate(config, head, _weights(directory))


def _weights(directory: Path) -> str:
    """The one file of weights, else the folder, for whose reader it is to find them."""
    return "model.safetensors" if os.path.isfile(directory / "model.safetensors") else "."


def _head(config: MappingNode) -> ScalarNode:
    """The first architecture's name, as given; without one, the plain encoder."""
    match config.get("architectures"):
        case None | ScalarNode(value=None) | SequenceNode(items=()):
            return ScalarNode("BertModel", config.span)
        case SequenceNode(items=(ScalarNode(value=str()) as first, *_)):
            return first
        case node:
            raise error("B0206", "expected `architectures` to be a list of names", node.span, did_you_mean("", _HEADS))


def _refused(config: MappingNode, head: ScalarNode) -> Iterator[Diagnostic]:
    kind = config.get("model_type")
    if kind is not None and not (isinstance(kind, ScalarNode) and kind.value in _MODEL_TYPES):
        message = "expected a `model_type` that bertc has, but found another"
        yield Diagnostic("B0211", message, kind.span, did_you_mean("", _MODEL_TYPES))
        return
    if head.value not in _HEADS:
        message = "expected one of the architectures that bertc has, but found another"
        yield Diagnostic("B0211", message, head.span, did_you_mean("", _HEADS))
    for refusal in _REFUSALS:
        yield from _unless_harmless(config, refusal)
    if _HEADS.get(str(head.value)) == "masked_lm":
        yield from _unless_harmless(config, _UNTIED)
    activation = config.get("hidden_act")
    if isinstance(activation, ScalarNode) and activation.value not in (None, *_ACTIVATIONS):
        message = "expected one of the activations that bertc has, but found another"
        yield Diagnostic("B0211", message, activation.span, did_you_mean("", _ACTIVATIONS))


def _unless_harmless(config: MappingNode, refusal: _Refusal) -> Iterator[Diagnostic]:
    match config.get(refusal.name):
        case None | ScalarNode(value=None) | MappingNode(entries=()):
            return
        case ScalarNode(value) if value == refusal.harmless:
            return
        case node:
            fit = "without it" if refusal.harmless is None else f"where it is `{json.dumps(refusal.harmless)}`"
            help = f"`{refusal.name}`: bertc can build models {fit}"
            yield Diagnostic("B0211", refusal.reason, node.span, help)


def _missing(config: MappingNode) -> Iterator[Diagnostic]:
    missing = [key.name for key in _KEYS if key.required and _value(config, key) is None]
    if missing:
        names = ", ".join(f"`{name}`" for name in missing)
        message = f"expected config.json to have {names}, but found none"
        yield Diagnostic("B0207", message, config.span, "add what the model was trained with")


def _translate(config: MappingNode, head: ScalarNode, weights: str) -> MappingNode:
    place = config.span
    values = {key.field: node for key in _KEYS if (node := _value(config, key)) is not None}
    values["network.head"] = ScalarNode(_HEADS[str(head.value)], head.span)
    values["weights"] = ScalarNode(weights, place)
    labels = _label_names(config)
    if labels is not None:
        values["labels"] = labels
        values.pop("sizes.labels", None)  # an older `num_labels`, which transformers overrules too
    sections = {"sizes": _section(values, "sizes.", place), "network": _section(values, "network.", place)}
    fields = sections | {field: node for field, node in values.items() if "." not in field}
    return MappingNode(tuple(Entry(field, node, node.span) for field, node in fields.items()), place)


def _section(values: Mapping[str, Node], prefix: str, place: Span) -> MappingNode:
    inner = {field.removeprefix(prefix): node for field, node in values.items() if field.startswith(prefix)}
    return MappingNode(tuple(Entry(field, node, node.span) for field, node in inner.items()), place)


def _value(config: MappingNode, key: _Key) -> Node | None:
    match config.get(key.name):
        case None | ScalarNode(value=None):
            return None if key.default is None else ScalarNode(key.default, config.span)
        case ScalarNode(value=str() as name, span=span) if key.names is not None:
            return ScalarNode(key.names[name], span)
        case node:
            return node


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
