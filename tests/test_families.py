"""The families of encoders: what transformers saves, bertc builds, and both compute the same."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bertc
from bertc.compiler import bind_weights
from bertc.elaborate import elaborate
from bertc.errors import BertcError
from bertc.inference import infer
from bertc.ops import local_mask, log_buckets, relative_buckets, rotary
from bertc.reference import evaluate
from bertc.spec import spec_hash
from bertc.spec_fields import FAMILIES as FAMILY_NAMES
from bertc.types import Type, TypeMismatch

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
trt = pytest.importorskip("tensorrt_rtx")
import network_evaluator  # noqa: E402

from bertc.targets.tensorrt.lower import lower  # noqa: E402  comes after the package that the line above asks for

PACKAGE = Path(bertc.__file__).parent

HEADS = {
    "Model": ("last_hidden_state",),
    "ForQuestionAnswering": ("start_logits", "end_logits"),
    "ForSequenceClassification": ("logits",),
    "ForTokenClassification": ("logits",),
    "ForMaskedLM": ("logits",),
}
POOLED = {**HEADS, "Model": ("last_hidden_state", "pooler_output")}
SIZES = {
    "vocab_size": 211,
    "hidden_size": 36,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 50,
}


@dataclass(frozen=True)
class Family:
    prefix: str
    sizes: Mapping[str, Any] = field(default_factory=lambda: SIZES)
    """What the configuration has beside its defaults."""
    heads: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: HEADS)
    """What a class is called after the prefix, and its outputs."""
    types: int = 1
    fused: Mapping[str, int] = field(default_factory=dict[str, int])
    """How often each fused op stands in the network of two layers, without a head."""


DISTILBERT_SIZES = {"vocab_size": 211, "dim": 36, "n_layers": 2, "n_heads": 3, "hidden_dim": 50}

ELECTRA_HEADS = {**HEADS, "ForPreTraining": ("logits",)}

FUSED = {"qkv_projection": 2, "attention": 2, "bias_gelu": 2, "skip_norm": 4}
TYPED, UNTYPED = {"embed_norm": 1, **FUSED}, {"untyped_embed_norm": 1, **FUSED}


def without_gelu(fused: Mapping[str, int]) -> dict[str, int]:
    return {name: count for name, count in fused.items() if name != "bias_gelu"}


ALBERT = {**without_gelu(TYPED), "bias_gelu_tanh": 2}
RELU = {**SIZES, "hidden_act": "relu"}
ONE_SIZE = {**RELU, "embedding_size": 36}
ROTARY_HEADS = {head: outputs for head, outputs in HEADS.items() if head != "ForQuestionAnswering"}
TOKENS = {f"{name}_token_id": 1 for name in ("pad", "bos", "eos", "cls", "sep")}
MODERN = Family(
    "ModernBert",
    {**SIZES, **TOKENS, "num_hidden_layers": 5, "local_attention": 10},
    fused={"attention": 5, "skip_norm": 10},
)

DEBERTA = {
    "relative_attention": True,
    "position_biased_input": False,
    "pos_att_type": "p2c|c2p",
    "max_position_embeddings": 40,
}
DEBERTA_SIZES = {**SIZES, **DEBERTA, "share_att_key": True, "norm_rel_ebd": "layer_norm", "position_buckets": 8}

FAMILIES = {
    "roberta": Family("Roberta", heads=POOLED, fused=TYPED),
    "xlm-roberta": Family("XLMRoberta", {**SIZES, "pad_token_id": 0}, POOLED, fused=TYPED),
    "camembert with relu": Family("Camembert", RELU, POOLED, fused=without_gelu(TYPED)),
    "distilbert": Family("DistilBert", DISTILBERT_SIZES, fused=UNTYPED),
    "electra": Family("Electra", {**SIZES, "embedding_size": 28}, ELECTRA_HEADS, types=2, fused=TYPED),
    "electra of one size, relu": Family("Electra", ONE_SIZE, ELECTRA_HEADS, types=2, fused=without_gelu(TYPED)),
    "albert": Family("Albert", {**SIZES, "embedding_size": 28}, POOLED, types=2, fused=ALBERT),
    "modernbert": MODERN,
    "modernbert by means": replace(
        MODERN,
        sizes={**MODERN.sizes, "classifier_pooling": "mean"},
        heads={"ForSequenceClassification": ("logits",)},
    ),
    "nomic_bert": Family("NomicBert", heads=ROTARY_HEADS, types=2, fused={"attention": 2, "skip_norm": 5}),
    "gte": Family("Gte", RELU, ROTARY_HEADS, fused={"qkv_projection": 2, "attention": 2, "skip_norm": 5}),
    "deberta-v3": Family("DebertaV2", DEBERTA_SIZES, fused=FUSED),
    "deberta-v3 with relu": Family("DebertaV2", {**DEBERTA_SIZES, **RELU}, fused=without_gelu(FUSED)),
    "mpnet": Family("MPNet", heads=POOLED, fused=UNTYPED),
}
CASES = [(name, head) for name, family in FAMILIES.items() for head in family.heads]


def saved(name: str, head: str, folder: Path) -> Any:
    """A model of random weights, norms and biases too, as transformers saves it."""
    family = FAMILIES[name]
    torch.manual_seed(0)
    labels = 2 if head == "ForQuestionAnswering" else 5
    config = getattr(transformers, f"{family.prefix}Config")(**family.sizes, num_labels=labels)
    model = getattr(transformers, f"{family.prefix}{head}")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return model


def padded_batch(family: Family) -> dict[str, Any]:
    """Five rows of 23 places, of which the shortest has one token; no token is that for padding, 0 or 1."""
    generator = np.random.default_rng(1)
    lengths = np.array([[23], [9], [1], [16], [22]])
    mask = (np.arange(23) < lengths).astype(np.int64)
    ids = np.where(mask, generator.integers(2, 200, mask.shape), family.sizes.get("pad_token_id", 1))
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "token_type_ids": generator.integers(0, family.types, mask.shape),
    }


def tokens_of(batch: Mapping[str, Any]) -> Any:
    return batch["attention_mask"].astype(bool)


@pytest.mark.parametrize(("name", "head"), CASES)
def test_agrees_with_transformers(name: str, head: str, tmp_path: Path) -> None:
    """At tokens, to 1e-4, which is what float32 leaves of sums in another order; padding is nobody's."""
    family, batch = FAMILIES[name], padded_batch(FAMILIES[name])
    model = saved(name, head, tmp_path / "model")
    given = {key: torch.from_numpy(value) for key, value in batch.items()}
    if family.types == 1:
        del given["token_type_ids"]
    with torch.no_grad():
        expected = model(**given)
    bertc.build(bertc.load(str(tmp_path / "model")), tmp_path / "x", "onnx")
    found = bertc.open(tmp_path / "x").run(batch)
    assert tuple(found) == family.heads[head]
    tokens = tokens_of(batch)
    for output, value in found.items():
        other = expected[output].numpy()
        assert value.shape == other.shape
        there = tokens if value.shape[:2] == tokens.shape else slice(None)
        assert np.abs(value - other)[there].max() < 1e-4, output


@pytest.mark.parametrize("name", FAMILIES)
def test_fusions_fire(name: str, tmp_path: Path) -> None:
    saved(name, "Model", tmp_path)
    graph = bertc.compile(bertc.load(str(tmp_path)))
    fused = Counter(node.op for node in graph if node.op in bertc.plugins.PLUGINS)
    assert fused == FAMILIES[name].fused


@pytest.mark.parametrize("name", FAMILIES)
def test_the_rtx_network_computes_what_the_reference_does(name: str, tmp_path: Path) -> None:
    """To 2e-5 as in test_tensorrt.py: float32 sums of values up to 4. At padding that no token is near, scores are what
    10000 leaves of them, and nobody's."""
    saved(name, "Model", tmp_path)
    spec, batch = bertc.load(str(tmp_path)), padded_batch(FAMILIES[name])
    elaborated, graph = elaborate(spec), bertc.compile(spec, "rtx")
    weights = bind_weights(spec, elaborated, None, None)
    lowered = lower(trt, trt.Builder(trt.Logger(trt.Logger.ERROR)), graph, weights, spec)
    found = network_evaluator.evaluate(trt, lowered.definition, batch, lowered.arrays)
    for output, expected in evaluate(elaborated, batch, weights).items():
        there = tokens_of(batch) if expected.ndim == 3 else slice(None)
        assert np.abs(found[output] - expected)[there].max() < 2e-5, output


ON_RTX = ("roberta", "modernbert", "mpnet", "deberta-v3", "gte")
"""Those that together have every op."""


@pytest.mark.parametrize("name", ON_RTX)
def test_rtx_engines_build(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads of 16: TensorRT-RTX 1.7 builds no half-precision attention with heads that are no multiples of 8."""
    sizes = {**FAMILIES[name].sizes, "hidden_size": 48, "intermediate_size": 64}
    monkeypatch.setitem(FAMILIES, name, replace(FAMILIES[name], sizes=sizes))
    saved(name, "ForSequenceClassification", tmp_path / "model")
    spec = replace(bertc.load(str(tmp_path / "model")), precision="fp16")
    bundle = bertc.build(spec, tmp_path / "x", "rtx", architectures=["sm_86"])
    assert bundle.manifest.files["model.plan"].size > 100_000


# ------------------------------------------------------------------------------------------------------ configurations


@pytest.mark.parametrize("name", FAMILIES)
def test_what_a_configuration_leaves_out_is_as_in_transformers(name: str, tmp_path: Path) -> None:
    made = getattr(transformers, f"{FAMILIES[name].prefix}Config")
    usual, whole = made().to_dict(), made(**FAMILIES[name].sizes).to_dict()
    named = {"model_type", *FAMILIES[name].sizes}
    own = {key: value for key, value in whole.items() if key in named or value != usual.get(key)}
    hashes: set[str] = set()
    for keys in (whole, own):
        (tmp_path / "config.json").write_text(json.dumps(keys | {"id2label": None}))
        hashes.add(spec_hash(bertc.load(str(tmp_path))))
    assert len(hashes) == 1


WRONG: tuple[Any, ...] = (
    None,
    [],
    {},
    "x",
    -1,
    0,
    1e300,
    True,
    [None],
    [[1]],
    {"a": None},
    {"rope_theta": "x"},
    10**30,
    0.5,
)


@pytest.mark.parametrize("name", FAMILIES)
def test_wrong_values_are_refused_or_harmless(name: str, tmp_path: Path) -> None:
    """Any key may have any value: nothing but a BertcError is raised."""
    config = getattr(transformers, f"{FAMILIES[name].prefix}Config")(**FAMILIES[name].sizes).to_dict()
    generator = random.Random(0)
    for _ in range(60):
        key = generator.choice([*config, "architectures", "id2label"])
        (tmp_path / "config.json").write_text(json.dumps({**config, key: generator.choice(WRONG)}))
        with suppress(BertcError):
            elaborate(bertc.load(str(tmp_path)))


def config_of(name: str, folder: Path, **changes: Any) -> Any:
    """The spec of a family's configuration with some keys changed; those that become None are left out."""
    saved(name, "Model", folder)
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    return bertc.load(str(folder))


def test_an_older_modernbert_says_the_same_in_other_keys(tmp_path: Path) -> None:
    old = {"layer_types": None, "rope_parameters": None, "global_attn_every_n_layers": 3}
    found = config_of("modernbert", tmp_path / "old", **old)
    encoder = found.network["encoder"]
    assert [encoder.turn(layer) for layer in range(5)] == [
        "first_layer",
        "local_layer",
        "local_layer",
        "global_layer",
        "local_layer",
    ]
    assert spec_hash(found) == spec_hash(config_of("modernbert", tmp_path / "new"))
    other = config_of("modernbert", tmp_path / "other", **old, global_rope_theta=9.0, local_rope_theta=8.0)
    assert (other.rotary_base, other.local_rotary_base) == (9.0, 8.0)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("modernbert", {"layer_types": ["full_attention"] * 4}, "a kind for each of the 5 layers, but found 4"),
        ("modernbert", {"layer_types": ["sliding_attention"] * 5}, "expected one of the values of `layer_types`"),
        ("modernbert", {"layer_types": None, "global_attn_every_n_layers": 0}, "at least 1, but found another value"),
        ("modernbert", {"classifier_pooling": "last"}, "expected one of the values of `classifier_pooling`"),
        ("modernbert", {"norm_bias": True}, "norms with a bias"),
        ("modernbert", {"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}, "stretched rotary positions"),
        ("nomic_bert", {"rope_parameters": {"partial_rotary_factor": 0.5}}, "heads that turn in part"),
        ("mpnet", {"relative_attention_num_buckets": 64}, "other numbers of buckets than 32"),
        ("albert", {"num_hidden_groups": 2}, "layers that share their weights in groups"),
        ("albert", {"inner_group_num": 2}, "groups of several layers"),
        ("distilbert", {"architectures": ["DistilBertForMultipleChoice"]}, "expected one of the architectures"),
        ("distilbert", {"dim": None}, "expected config.json to have `dim`"),
        ("roberta", {"model_type": "roberto"}, "expected a `model_type` that bertc has"),
        ("deberta-v3", {"pos_att_type": ["c2p"]}, "only both parts of the attention to distances"),
        ("deberta-v3", {"share_att_key": None}, "distances with projections of their own"),
        ("deberta-v3", {"conv_kernel_size": 3}, "convolutions"),
        ("deberta-v3", {"position_buckets": None}, "expected config.json to have `position_buckets`"),
        ("gte", {"hidden_act": "mish"}, "expected one of the activations that bertc has"),
    ],
)
def test_refuses_what_would_compute_something_else(
    name: str, changes: Mapping[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(BertcError, match=message):
        config_of(name, tmp_path, **changes)


def test_each_family_has_a_table_of_names_and_of_keys() -> None:
    names = {path.stem for path in (PACKAGE / "weights_io/families").glob("*.toml") if "." not in path.stem}
    assert names == set(FAMILY_NAMES)
    assert {path.stem for path in (PACKAGE / "specs/families").glob("*.toml")} == names - {"megatron"}


# ---------------------------------------------------------------------------------------------------------------- ops


def test_buckets_are_those_of_transformers() -> None:
    """Over all distances that 512 places have, where sequences of a test have a few."""
    places = torch.arange(512)
    offsets = places[:, None] - places
    expected = transformers.models.mpnet.modeling_mpnet.MPNetEncoder.relative_position_bucket(-offsets).numpy()
    assert (relative_buckets.reference(positions=512, buckets=32, distance=128) == expected).all()
    bucket_of = transformers.models.deberta_v2.modeling_deberta_v2.make_log_bucket_position
    expected = (bucket_of(offsets, 256, 512).long() + 256).clamp(0, 511).numpy()
    assert (log_buckets.reference(positions=512, buckets=256) == expected).all()


@pytest.mark.parametrize(
    ("op", "types", "attributes", "message"),
    [
        (rotary, (Type("f32", ("batch", 3, "seq", 7)),), {"base": 10.0}, "turns pairs of entries, but 7 is odd"),
        (relative_buckets, (), {"positions": 9, "buckets": 6, "distance": 8}, "a multiple of 4 buckets"),
        (log_buckets, (), {"positions": 9, "buckets": 16}, "more positions than half of them"),
        (local_mask, (Type("f32", ("batch", 1, 2, "seq")),), {"window": 4}, r"has shape \[batch, 1, 1, size\]"),
    ],
    ids=["rotary", "relative_buckets", "log_buckets", "local_mask"],
)
def test_types_of_ops(op: Any, types: Any, attributes: Mapping[str, Any], message: str) -> None:
    with pytest.raises(TypeMismatch, match=message):
        infer(op, types, tuple(attributes.items()))
