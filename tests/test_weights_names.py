"""The tables of names: well formed, and what transformers' own models need."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import transformers

from bertc.errors import BertcError
from bertc.weights_io import Tensor, canonical_names
from bertc.weights_io.names import likely_family, name_table, parse_table

FAMILIES = sorted(path.stem for path in (Path(__file__).parents[1] / "bertc/weights_io/families").glob("*.toml"))

ENCODER = {
    "embeddings": ["word.weight", "position.weight", "type.weight", "norm.weight", "norm.bias"],
    **{
        f"encoder.{layer}": [
            f"{group}.{part}"
            for group in (
                *("attention.query", "attention.key", "attention.value", "attention.output", "attention.norm"),
                *("ffn.up", "ffn.down", "ffn.norm"),
            )
            for part in ("weight", "bias")
        ]
        for layer in (0, 1)
    },
}
POOLER = {"pooler": ["weight", "bias"]}
CLASSIFIER = {"classifier": ["weight", "bias"]}
MASKED_LM = {"masked_lm": ["dense.weight", "dense.bias", "norm.weight", "norm.bias", "bias"]}
DECODER = {"masked_lm.decoder": ["weight", "bias"]}

MODELS = {
    "BertModel": ENCODER | POOLER,
    "BertForQuestionAnswering": ENCODER | {"question_answering": ["weight", "bias"]},
    "BertForSequenceClassification": ENCODER | POOLER | CLASSIFIER,
    "BertForTokenClassification": ENCODER | CLASSIFIER,
    "BertForMaskedLM": ENCODER | MASKED_LM | DECODER,
    "BertForPreTraining": ENCODER | POOLER | MASKED_LM | DECODER,
}
"""What each class of transformers has trained, in the words of bertc; the copies of tied weights included."""


def named(*names: str) -> dict[str, Tensor]:
    return {name: Tensor(name, (1,), "f32", lambda: pytest.fail("nothing is read")) for name in names}


def as_tensorflow_called_it(name: str) -> str:
    return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")


@pytest.mark.parametrize("prefix", ["as saved", "without prefix", "with prefix"])
@pytest.mark.parametrize("norms", [str, as_tensorflow_called_it], ids=["weight and bias", "gamma and beta"])
@pytest.mark.parametrize("model", MODELS)
def test_names_of_transformers(model: str, norms: Callable[[str], str], prefix: str) -> None:
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=4, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8
    )
    names = [norms(name) for name in getattr(transformers, model)(config).state_dict()]
    names.append("bert.embeddings.position_ids")
    if prefix != "as saved":
        names = [name.removeprefix("bert.") for name in names]
    if prefix == "with prefix":
        names = [f"bert.{name}" for name in names]
    found, unknown = canonical_names(named(*names))
    assert unknown == []
    assert set(found) == {f"{group}.{part}" for group, parts in MODELS[model].items() for part in parts}
    assert all(tensor.name in names for tensor in found.values())


def test_unknown_names_are_told() -> None:
    strangers = [
        "embeddings.word_embeddings",
        "bert.bert.pooler.dense.weight",
        "encoder.layer.00.output.dense.weight",
        "encoder.layer.-1.output.dense.weight",
        "encoder.layer.٣.output.dense.weight",
        "encoder.layer.99999999.output.dense.weight",
        "encoder.layer.{N}.output.dense.bias.more",
        "pooler.dense.weight.0",
        "",
    ]
    found, unknown = canonical_names(named("pooler.dense.weight", *strangers))
    assert list(found) == ["pooler.weight"]
    assert unknown == strangers


def test_two_names_for_one_parameter() -> None:
    with pytest.raises(BertcError) as caught:
        canonical_names(
            named(
                "pooler.dense.bias",
                "bert.pooler.dense.bias",
                "embeddings.LayerNorm.gamma",
                "embeddings.LayerNorm.weight",
            )
        )
    assert str(caught.value) == (
        "error[B0405]: the checkpoint has two tensors for each of these 2 parameters:\n"
        "    `pooler.bias`: `pooler.dense.bias` and `bert.pooler.dense.bias`\n"
        "    `embeddings.norm.weight`: `embeddings.LayerNorm.gamma` and `embeddings.LayerNorm.weight`\n"
        "  = help: keep one of each two"
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_table_is_well_formed(family: str) -> None:
    """Each line is used: canonical names look like it, layers are carried over, and there is a way back."""
    table = name_table(family)
    assert all(prefix.endswith((".", "/")) for prefix in table.prefixes)
    assert not table.ignored & table.canonical.keys()
    for left, right in table.canonical.items():
        assert re.fullmatch(r"[a-z_]+(\.\{N\})?(\.[a-z_]+)*\.(weight|bias)", right), right
        assert left.count("{N}") == right.count("{N}") <= 1, left
        name, canonical = left.replace("{N}", "7"), right.replace("{N}", "7")
        assert table.canonical_name(name) == canonical
        for prefix in table.prefixes:
            assert table.canonical_name(prefix + name) == canonical
        back = table.checkpoint_name(canonical)
        assert back is not None
        assert table.canonical_name(back) == canonical


def test_choices_are_written_out_in_pairs() -> None:
    table = parse_table(
        {
            "prefixes": ["m/"],
            "ignored": ["step", "{adam_m,adam_v}/x"],
            "names": {
                "layer_{N}/{q,k}/{kernel,bias}": "encoder.{N}.{query,key}.{weight,bias}",
                "e/{old,new}": "e.weight",
            },
        }
    )
    assert table.ignored == {"step", "adam_m/x", "adam_v/x"}
    assert table.canonical == {
        "layer_{N}/q/kernel": "encoder.{N}.query.weight",
        "layer_{N}/q/bias": "encoder.{N}.query.bias",
        "layer_{N}/k/kernel": "encoder.{N}.key.weight",
        "layer_{N}/k/bias": "encoder.{N}.key.bias",
        "e/old": "e.weight",
        "e/new": "e.weight",
    }
    assert table.canonical_name("m/layer_11/k/bias") == "encoder.11.key.bias"
    assert table.checkpoint_name("encoder.3.query.weight") == "layer_3/q/kernel"
    assert table.checkpoint_name("e.weight") == "e/old"
    assert table.checkpoint_name("elsewhere") is None


def test_a_line_with_unequal_choices_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="zip"):
        parse_table({"prefixes": [], "ignored": [], "names": {"{a,b,c}": "{x,y}"}})
    with pytest.raises(AssertionError, match="stands in the table once"):
        parse_table({"prefixes": [], "ignored": [], "names": {"{a,b}": "x", "a": "y"}})


@pytest.mark.parametrize("table", FAMILIES)
def test_a_family_is_told_by_its_names(table: str) -> None:
    known = name_table(table)
    names = [prefix + name.replace("{N}", "3") for name in known.canonical for prefix in ("", *known.prefixes[:1])]
    assert likely_family(names) == table.partition(".")[0]
    assert likely_family(["nothing", "known"]) == "bert"


def test_canonical_names_are_names_of_a_checkpoint() -> None:
    """Of any family: a conversion is read without a word on what it was made of."""
    for table in FAMILIES:
        names = [name.replace("{N}", "3") for name in name_table(table).checkpoint]
        found, unknown = canonical_names({name: Tensor(name, (1,), "f32", pytest.fail) for name in names}, "bert")
        assert (list(found), unknown) == (names, [])
