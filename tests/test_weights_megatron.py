"""Megatron-LM's checkpoints: three layouts of query, key and value, padding, nesting, and what is not a weight."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import small_spec

from bertc.checkpoints import convert_weights, list_weights, read_weights
from bertc.cli import run
from bertc.compiler import build
from bertc.elaborate import elaborate
from bertc.engine import open as open_bundle
from bertc.errors import BertcError
from bertc.spec import Spec
from bertc.spec_fields import QkvLayout
from bertc.weights_io import Tensor, bind, open_checkpoint, weights_hash
from bertc.weights_io.megatron import is_megatron, megatron_tensors
from bertc.weights_io.quantisation import apart

NETWORK = (
    "{embeddings: summed_embeddings, encoder: {block: pre_norm, repeat: layers}, final: final_norm, head: masked_lm}"
)
HEADS, SIZE, HIDDEN, VOCAB = 3, 8, 24, 53
LAYOUTS: Mapping[QkvLayout, float] = {"3NH": 0.0, "NH3": 1.0, "N3H": 3.0}


def small_megatron(**fields: str) -> Spec:
    return small_spec("bert-large", network=NETWORK, norm_eps="1e-5", **fields)


def required() -> dict[str, tuple[int, ...]]:
    """The parameters of Megatron's network, small, with its masked-LM head."""
    graph = elaborate(small_megatron())
    return {node.key: tuple(map(int, node.types[0].shape)) for node in graph.weights}


@pytest.fixture(scope="module")
def canonical() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in required().items()}


def fused(parts: list[torch.Tensor], layout: QkvLayout) -> torch.Tensor:
    """Query, key and value, each [N * H, ...], as one tensor of the layout, by Megatron's own steps."""
    stacked = torch.stack([part.reshape(HEADS, SIZE, -1) for part in parts])
    axes = [*("3NH".index(axis) for axis in layout), 3]
    return stacked.permute(axes).reshape(3 * HIDDEN, *parts[0].shape[1:]).contiguous()


def checkpoint(canonical: Mapping[str, torch.Tensor], layout: QkvLayout, *, old: bool = False) -> dict[str, Any]:
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
    assert_same(bind(required(), tensors, source="FILE", family="megatron"), canonical)


def assert_same(found: Mapping[str, Tensor], canonical: Mapping[str, torch.Tensor]) -> None:
    assert found.keys() == canonical.keys()
    for name, tensor in found.items():
        assert tensor.shape == tuple(canonical[name].shape)
        assert tensor.read().tobytes() == canonical[name].numpy().tobytes(), name


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_weights(
    layout: QkvLayout, old: bool, canonical: Mapping[str, torch.Tensor], tmp_path: Path
) -> None:
    tensors = opened(checkpoint(canonical, layout, old=old), tmp_path)
    assert_canonical(prepare(tensors), canonical)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_layout_can_be_named(layout: QkvLayout, canonical: Mapping[str, torch.Tensor], tmp_path: Path) -> None:
    """It goes before what the checkpoint says of itself, and stands in where it says nothing."""
    for version in (None, 0.0, 1.0, 3.0):
        content = checkpoint(canonical, layout) | {"checkpoint_version": version}
        assert_canonical(prepare(opened(content, tmp_path), layout=layout), canonical)


def test_layouts_differ(canonical: Mapping[str, torch.Tensor], tmp_path: Path) -> None:
    """A wrong one gives other weights; there is no error that could tell."""
    tensors = opened(checkpoint(canonical, "N3H"), tmp_path)
    hashes = {weights_hash(prepare(tensors, layout=layout)) for layout in LAYOUTS}
    assert len(hashes) == 3


def test_the_rows_of_a_head() -> None:
    """Two heads of size 2, by hand: the rows of query are those with 0, 1, 2, 3 in this order."""
    orders: Mapping[QkvLayout, list[int]] = {
        "3NH": [0, 1, 2, 3, 10, 11, 12, 13, 20, 21, 22, 23],
        "NH3": [0, 10, 20, 1, 11, 21, 2, 12, 22, 3, 13, 23],
        "N3H": [0, 1, 10, 11, 20, 21, 2, 3, 12, 13, 22, 23],
    }
    for layout, rows in orders.items():
        values = np.array(rows, np.float32)
        tensor = Tensor("layers.0.attention.query_key_value.bias", (12,), "f32", lambda values=values: values)
        found = megatron_tensors({tensor.name: tensor}, {}, source="FILE", heads=2, layout=layout)
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
        "  = help: give the spec or the command `qkv_layout`: `3NH`, `NH3` or `N3H`"
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
    cut = prepare({name: tensor})[name]
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
    weights, quantisation = apart(opened(content, tmp_path))
    assert quantisation.keys() == {f"language_model.encoder.{name}" for name in kept}
    assert quantisation["language_model.encoder.layers.1.mlp.dense_h_to_4h.weight_mask"].element == "i8"
    assert_canonical(prepare(weights), canonical)


def test_further_prefixes(canonical: Mapping[str, torch.Tensor], tmp_path: Path) -> None:
    model = checkpoint(canonical, "NH3")["model"]
    for content in (model, {"model": {"module": model}}):
        assert_canonical(prepare(opened(content, tmp_path), layout="NH3"), canonical)


def test_what_is_missing_is_named_as_megatron_does(canonical: Mapping[str, torch.Tensor], tmp_path: Path) -> None:
    content = checkpoint(canonical, "N3H")
    del content["model"]["language_model"]["encoder"]["layers.1.mlp.dense_4h_to_h.bias"]
    tensors = prepare(opened(content, tmp_path))
    with pytest.raises(BertcError) as caught:
        bind(required(), tensors, source="FILE", family="megatron")
    assert "`encoder.1.ffn.down.bias` (in checkpoints `layers.1.mlp.dense_4h_to_h.bias`)" in str(caught.value)


def test_parts_are_read_when_they_are_asked_for() -> None:
    def read() -> np.ndarray[Any, Any]:
        raise AssertionError("read too early")

    name = "language_model.encoder.layers.0.self_attention.query_key_value.weight"
    parts = prepare({name: Tensor(name, (72, HIDDEN), "f16", read)}, layout="N3H")
    assert [(part.shape, part.element) for part in parts.values()] == [((24, 24), "f16")] * 3
    with pytest.raises(AssertionError, match="read too early"):
        next(iter(parts.values())).read()


# through the spec


def bound(path: Path, **fields: str) -> Mapping[str, Tensor]:
    return read_weights(path, small_megatron(**fields), required()).parameters


def save_pickle(content: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(content, protocol=4))


def save_legacy(content: Any, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("save", [torch.save, save_legacy, save_pickle])
@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_way_of_saving_gives_the_same_weights(
    layout: QkvLayout, old: bool, save: Any, canonical: Mapping[str, torch.Tensor], tmp_path: Path
) -> None:
    """By the version that it has, or by the layout that the spec names where it has none."""
    content = checkpoint(canonical, layout, old=old)
    nameless = {name: part for name, part in content.items() if name != "checkpoint_version"}
    for saved, fields in ((content, {}), (nameless, {"qkv_layout": layout})):
        save(saved, tmp_path / "model_optim_rng.pt")
        assert_same(bound(tmp_path / "model_optim_rng.pt", **fields), canonical)


def test_what_is_built_is_the_same(
    canonical: Mapping[str, torch.Tensor], padded_batch: Mapping[str, Any], tmp_path: Path
) -> None:
    """Bundles of the three layouts, of a conversion, and of the weights under their own names, to the bit."""
    for layout in LAYOUTS:
        torch.save(checkpoint(canonical, layout), tmp_path / f"{layout}.pt")
    convert_weights(tmp_path / "NH3.pt", tmp_path / "converted.safetensors", small_megatron())
    torch.save(canonical, tmp_path / "canonical.pt")
    results = set[bytes]()
    for path in (*sorted(tmp_path.glob("*.pt")), tmp_path / "converted.safetensors"):
        bundle = tmp_path / f"{path.stem}.bundle"
        build(small_megatron(), bundle, "onnx", weights=path)
        results.add(open_bundle(str(bundle)).run(padded_batch)["logits"].tobytes())
    assert len(results) == 1


def test_what_is_for_quantisation_is_converted_too(canonical: Mapping[str, torch.Tensor], tmp_path: Path) -> None:
    content = checkpoint(canonical, "N3H")
    name = "layers.0.self_attention.query_key_value._input_quantizer._amax"
    content["model"]["language_model"]["encoder"][name] = torch.tensor(3.0)
    torch.save(content, tmp_path / "in.pt")
    out = tmp_path / "out.safetensors"
    assert convert_weights(tmp_path / "in.pt", out, small_megatron()).quantisation.keys() == {
        f"language_model.encoder.{name}"
    }
    assert open_checkpoint(out)[f"language_model.encoder.{name}"].read() == 3.0
    assert_same(bound(out), canonical)


def test_the_listing(canonical: Mapping[str, torch.Tensor], tmp_path: Path) -> None:
    """Needs neither the heads nor the layout, as no values are read."""
    content = checkpoint(canonical, "N3H")
    del content["checkpoint_version"]
    content["model"]["language_model"]["encoder"]["layers.0.mlp.dense_h_to_4h._input_quantizer._amax"] = torch.ones(1)
    torch.save(content, tmp_path / "in.pt")
    for spec in (None, small_megatron()):
        listing = list_weights(tmp_path / "in.pt", spec)
        purposes = {entry.name.removeprefix("language_model.encoder."): entry.purpose for entry in listing.entries}
        expected = "encoder.1.attention.query.bias, encoder.1.attention.key.bias, encoder.1.attention.value.bias"
        assert purposes["layers.1.self_attention.query_key_value.bias"] == expected
        assert purposes["layers.0.mlp.dense_h_to_4h._input_quantizer._amax"] == "for quantisation"
        assert purposes["lm_head.bias"] == "masked_lm.bias"
        assert listing.missing == ()
        assert listing.unexpected == (() if spec is None else ("pooler.bias", "pooler.weight"))


def test_a_conversion_needs_the_heads_and_the_layout(
    canonical: Mapping[str, torch.Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(checkpoint(canonical, "N3H") | {"checkpoint_version": None}, tmp_path / "in.pt")
    with pytest.raises(BertcError) as caught:
        convert_weights(tmp_path / "in.pt", tmp_path / "out.safetensors")
    assert str(caught.value) == (
        f"error[B0411]: `{tmp_path}/in.pt` has query, key and value in one tensor, which is not known without the "
        "number of heads\n  = help: give `--spec`, the network that the checkpoint is of"
    )
    (tmp_path / "small.yaml").write_text(
        "base: bert-large\nsizes: {layers: 2, hidden: 24, heads: 3, inner: 40, vocab: 53, positions: 19}\n"
        f"network: {NETWORK}\nshapes: {{batch: 1, seq: 16}}\n"
    )
    command = ["weights", str(tmp_path / "in.pt"), "--spec", str(tmp_path / "small.yaml"), "--convert"]
    assert run([*command, str(tmp_path / "out.safetensors")]) == 3
    assert "B0411" in capsys.readouterr().err
    assert run([*command, str(tmp_path / "out.safetensors"), "--qkv-layout", "N3H"]) == 0
    assert_same(bound(tmp_path / "out.safetensors"), canonical)
    with pytest.raises(SystemExit, match="2"):
        run(["weights", str(tmp_path / "in.pt"), "--qkv-layout", "N3H"])
    assert "error: --qkv-layout needs --spec" in capsys.readouterr().err
    assert run([*command, str(tmp_path / "other.safetensors"), "--qkv-layout", "HN3"]) == 2
    assert "expected `qkv_layout` to be one of `3NH`, `NH3`, `N3H`" in capsys.readouterr().err


def test_projections_in_one_are_not_always_megatrons() -> None:
    """GTE, ModernBERT and NomicBERT have them too, under canonical names, as `bertc weights` converts them."""
    assert not is_megatron(["encoder.0.attention.query_key_value.weight"])
    assert is_megatron(["language_model.encoder.layers.0.self_attention.query_key_value.weight"])
