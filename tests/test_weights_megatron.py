"""Megatron-LM's checkpoints: three layouts of query, key and value, padding, nesting, and what is not a weight."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import small_graph

from bertc.errors import BertcError
from bertc.weights_io import Tensor, bind, open_checkpoint, weights_hash
from bertc.weights_io.megatron import Layout, megatron_tensors

HEADS, SIZE, HIDDEN, VOCAB = 3, 8, 24, 53
LAYOUTS: Mapping[Layout, float] = {"3NH": 0.0, "NH3": 1.0, "N3H": 3.0}


def required() -> dict[str, tuple[int, ...]]:
    """The parameters of Megatron's network, small, with its masked-LM head."""
    encoder = "embeddings: summed_embeddings, encoder: {block: pre_norm, repeat: layers}, final: final_norm"
    graph = small_graph(network=f"{{{encoder}, head: masked_lm}}", norm_eps="1e-5")
    return {node.key: tuple(map(int, node.types[0].shape)) for node in graph.weights}


@pytest.fixture(scope="module")
def canonical() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in required().items()}


def fused(parts: list[torch.Tensor], layout: Layout) -> torch.Tensor:
    """Query, key and value, each [N * H, ...], as one tensor of the layout, by Megatron's own steps."""
    stacked = torch.stack([part.reshape(HEADS, SIZE, -1) for part in parts])
    axes = [*("3NH".index(axis) for axis in layout), 3]
    return stacked.permute(axes).reshape(3 * HIDDEN, *parts[0].shape[1:]).contiguous()


def checkpoint(canonical: Mapping[str, torch.Tensor], layout: Layout, *, old: bool = False) -> dict[str, Any]:
    """As megatron/checkpointing.py saves it: dicts within dicts, of old and of later releases."""
    attention = "attention" if old else "self_attention"
    layers: dict[str, torch.Tensor] = {}
    for n in range(2):
        for kind in ("weight", "bias"):
            of = {name.removeprefix(f"encoder.{n}."): value for name, value in canonical.items()}
            qkv = fused([of[f"attention.{part}.{kind}"] for part in ("query", "key", "value")], layout)
            layers |= {
                f"layers.{n}.input_layernorm.{kind}": of[f"attention.norm.{kind}"],
                f"layers.{n}.{attention}.query_key_value.{kind}": qkv,
                f"layers.{n}.{attention}.dense.{kind}": of[f"attention.output.{kind}"],
                f"layers.{n}.post_attention_layernorm.{kind}": of[f"ffn.norm.{kind}"],
                f"layers.{n}.mlp.dense_h_to_4h.{kind}": of[f"ffn.up.{kind}"],
                f"layers.{n}.mlp.dense_4h_to_h.{kind}": of[f"ffn.down.{kind}"],
            }
    layers |= {f"final_layernorm.{kind}": canonical[f"final.norm.{kind}"] for kind in ("weight", "bias")}
    words, bias = canonical["embeddings.word.weight"], canonical["masked_lm.bias"]
    padding = 128 - VOCAB
    model = {
        "language_model": {
            "embedding": {
                "word_embeddings": {"weight": torch.cat([words, torch.full((padding, HIDDEN), 9.0)])},
                "position_embeddings": {"weight": canonical["embeddings.position.weight"]},
                "tokentype_embeddings": {"weight": canonical["embeddings.type.weight"]},
            },
            "transformer" if old else "encoder": layers,
            "pooler": {"dense.weight": torch.ones(HIDDEN, HIDDEN), "dense.bias": torch.ones(HIDDEN)},
        },
        "lm_head": {
            **{f"dense.{kind}": canonical[f"masked_lm.dense.{kind}"] for kind in ("weight", "bias")},
            **{f"layernorm.{kind}": canonical[f"masked_lm.norm.{kind}"] for kind in ("weight", "bias")},
            "bias": torch.cat([bias, torch.full((padding,), 9.0)]),
        },
        "binary_head": {"weight": torch.ones(2, HIDDEN), "bias": torch.ones(2)},
    }
    return {"checkpoint_version": LAYOUTS[layout], "iteration": 7, "model": model, "rng_state": torch.get_rng_state()}


def opened(content: Mapping[str, Any], folder: Path) -> dict[str, Tensor]:
    torch.save(content, folder / "model_optim_rng.pt")
    return open_checkpoint(folder / "model_optim_rng.pt")


prepare = partial(megatron_tensors, required=required(), source="FILE", heads=HEADS)


def refusal(tensors: Mapping[str, Tensor], **choices: Any) -> str:
    with pytest.raises(BertcError) as caught:
        prepare(tensors, **choices)
    assert caught.value.exit_code == 3
    return str(caught.value)


def assert_canonical(tensors: Mapping[str, Tensor], canonical: Mapping[str, torch.Tensor]) -> None:
    bound = bind(required(), tensors, source="FILE", family="megatron")
    assert bound.keys() == canonical.keys()
    for name, tensor in bound.items():
        assert tensor.shape == tuple(canonical[name].shape)
        assert tensor.read().tobytes() == canonical[name].numpy().tobytes(), name


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_weights(
    layout: Layout, old: bool, canonical: Mapping[str, torch.Tensor], tmp_path: Path
) -> None:
    tensors = opened(checkpoint(canonical, layout, old=old), tmp_path)
    assert_canonical(prepare(tensors).weights, canonical)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_layout_can_be_named(layout: Layout, canonical: Mapping[str, torch.Tensor], tmp_path: Path) -> None:
    """It goes before what the checkpoint says of itself, and stands in where it says nothing."""
    for version in (None, 0.0, 1.0, 3.0):
        content = checkpoint(canonical, layout) | {"checkpoint_version": version}
        assert_canonical(prepare(opened(content, tmp_path), layout=layout).weights, canonical)


def test_layouts_differ(canonical: Mapping[str, torch.Tensor], tmp_path: Path) -> None:
    """A wrong one gives other weights; there is no error that could tell."""
    tensors = opened(checkpoint(canonical, "N3H"), tmp_path)
    hashes = {weights_hash(prepare(tensors, layout=layout).weights) for layout in LAYOUTS}
    assert len(hashes) == 3


def test_the_rows_of_a_head() -> None:
    """Two heads of size 2, by hand: the rows of query are those with 0, 1, 2, 3 in this order."""
    orders: Mapping[Layout, list[int]] = {
        "3NH": [0, 1, 2, 3, 10, 11, 12, 13, 20, 21, 22, 23],
        "NH3": [0, 10, 20, 1, 11, 21, 2, 12, 22, 3, 13, 23],
        "N3H": [0, 1, 10, 11, 20, 21, 2, 3, 12, 13, 22, 23],
    }
    for layout, rows in orders.items():
        values = np.array(rows, np.float32)
        tensor = Tensor("layers.0.attention.query_key_value.bias", (12,), "f32", lambda values=values: values)
        found = megatron_tensors({tensor.name: tensor}, {}, source="FILE", heads=2, layout=layout).weights
        assert {name: part.read().tolist() for name, part in found.items()} == {
            "layers.0.attention.query.bias": [0, 1, 2, 3],
            "layers.0.attention.key.bias": [10, 11, 12, 13],
            "layers.0.attention.value.bias": [20, 21, 22, 23],
        }


@pytest.mark.parametrize("version", [None, 1.5, -1.0, float("nan"), "2.0"])
def test_an_unknown_layout_is_not_guessed(
    version: object, canonical: Mapping[str, torch.Tensor], tmp_path: Path
) -> None:
    tensors = opened(checkpoint(canonical, "3NH") | {"checkpoint_version": version}, tmp_path)
    found = f"has the `checkpoint_version` {version}" if isinstance(version, float) else "has no `checkpoint_version`"
    assert refusal(tensors) == (
        f"error[B0411]: `FILE` {found}, which would say in what order the rows of query_key_value lie\n"
        "  = help: name the layout: `3NH`, `NH3` or `N3H`"
    )


def test_other_heads(canonical: Mapping[str, torch.Tensor], tmp_path: Path) -> None:
    tensors = opened(checkpoint(canonical, "N3H"), tmp_path)
    assert refusal(tensors, heads=5) == (
        "error[B0410]: `FILE` has `language_model.encoder.layers.0.self_attention.query_key_value.weight` of shape"
        " [72, 24], expected as many rows for each of 3 x 5 heads\n"
        "  = help: give the spec the `heads` of the checkpoint"
    )


@pytest.mark.parametrize("rows", [53, 54, 127, 128, 256, 384])
def test_only_megatrons_padding_is_cut(rows: int) -> None:
    """53 rounded up to a multiple of 128 for each of 1, 2, 4, ... GPUs is 128, 256, ... and never 384."""
    is_padded = rows in (128, 256)
    name = "language_model.embedding.word_embeddings.weight"
    tensor = Tensor(name, (rows, HIDDEN), "f32", lambda: np.arange(rows * HIDDEN, dtype=np.float32).reshape(rows, -1))
    cut = prepare({name: tensor}).weights[name]
    assert cut.shape == ((VOCAB if is_padded else rows), HIDDEN)
    assert cut.read().tobytes() == tensor.read()[: cut.shape[0]].tobytes()


def test_ranges_and_masks_are_kept_apart(canonical: Mapping[str, torch.Tensor], tmp_path: Path) -> None:
    content = checkpoint(canonical, "N3H")
    layers = content["model"]["language_model"]["encoder"]
    kept = {
        "layers.0.self_attention.query_key_value._input_quantizer._amax": torch.tensor(3.0),
        "layers.0.self_attention.query_key_value._weight_quantizer._amax": torch.ones(72, 1),
        "layers.1.mlp.dense_h_to_4h.weight_mask": torch.ones(40, HIDDEN, dtype=torch.int8),
        "layers.1.mlp.dense_h_to_4h.input_scale": torch.tensor(0.5),
    }
    layers |= kept
    found = prepare(opened(content, tmp_path))
    assert found.quantisation.keys() == {f"language_model.encoder.{name}" for name in kept}
    assert found.quantisation["language_model.encoder.layers.1.mlp.dense_h_to_4h.weight_mask"].element == "i8"
    assert_canonical(found.weights, canonical)


@pytest.mark.parametrize("wrap", [lambda model: {"model": {"module": model}}, lambda model: model])
def test_further_prefixes(wrap: Any, canonical: Mapping[str, torch.Tensor], tmp_path: Path) -> None:
    content = wrap(checkpoint(canonical, "NH3")["model"])
    assert_canonical(prepare(opened(content, tmp_path), layout="NH3").weights, canonical)


def test_what_is_missing_is_named_as_megatron_does(canonical: Mapping[str, torch.Tensor], tmp_path: Path) -> None:
    content = checkpoint(canonical, "N3H")
    del content["model"]["language_model"]["encoder"]["layers.1.mlp.dense_4h_to_h.bias"]
    tensors = prepare(opened(content, tmp_path)).weights
    with pytest.raises(BertcError) as caught:
        bind(required(), tensors, source="FILE", family="megatron")
    assert "`encoder.1.ffn.down.bias` (in checkpoints `layers.1.mlp.dense_4h_to_h.bias`)" in str(caught.value)


def test_parts_are_read_when_they_are_asked_for() -> None:
    def read() -> np.ndarray[Any, Any]:
        raise AssertionError("read too early")

    name = "language_model.encoder.layers.0.self_attention.query_key_value.weight"
    parts = prepare({name: Tensor(name, (72, HIDDEN), "f16", read)}, layout="N3H").weights
    assert [(part.shape, part.element) for part in parts.values()] == [((24, 24), "f16")] * 3
    with pytest.raises(AssertionError, match="read too early"):
        next(iter(parts.values())).read()
