"""Every family of encoders on the cuda target: plans in Triton's interpreter agree with the reference."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import packed, weights_of
from test_cuda import Interpreted

import bertc
from bertc.compiler import compile
from bertc.elaborate import elaborate
from bertc.errors import BertcError
from bertc.families import model_types
from bertc.graph import Graph
from bertc.passes import FUSIONS
from bertc.plugins import OPS, PACKED
from bertc.reference import evaluate
from bertc.spec import Slot, Spec
from bertc.targets.cuda import PRECISIONS as ELEMENTS
from bertc.targets.cuda.lower import LOWERINGS, Lowering
from bertc.targets.cuda.session import INPUTS
from bertc.weights_io import Tensor

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")  # rows of padding overflow in the interpreter

BOUND = 1e-4
"""float32 sums in another order than the reference's float64."""

CONFIGURATIONS = ROOT / "tests" / "fixtures" / "families"
"""For each family the directory of a small model, without weights; benchmarks/gpu.py runs them too."""

FAMILIES: Mapping[str, tuple[str, ...]] = {
    "roberta": ("packed_embed_norm", "packed_attention", "first_tokens"),
    "distilbert": ("packed_untyped_embed_norm", "packed_attention"),
    "electra": ("packed_embed_norm", "packed_attention"),
    "albert": ("packed_embed_norm", "packed_attention", "first_tokens"),
    "mpnet": ("packed_untyped_embed_norm", "packed_biased_attention", "first_tokens"),
    "modernbert": ("packed_attention", "packed_rotary"),
    "nomic_bert": ("packed_attention", "packed_rotary"),
    "gte": ("packed_attention", "packed_rotary"),
    "deberta": (),
}
"""Name -> the ops that its packed form has; none where there is no packed form."""


def spec_of(name: str, folder: Path, head: str = "Model", **settings: str) -> Spec:
    config = json.loads((CONFIGURATIONS / name / "config.json").read_text("utf-8"))
    prefix = config["architectures"][0].removesuffix("Model")
    labels = 2 if head == "ForQuestionAnswering" else 5
    classes = {
        "architectures": [f"{prefix}{head}"],
        "id2label": {str(label): f"LABEL_{label}" for label in range(labels)},
    }
    (folder / "config.json").write_text(json.dumps({**config, **classes, **settings}), "utf-8")
    return bertc.load(str(folder))


def spread(graph: Graph) -> dict[str, Tensor]:
    """Random weights ten times as far apart as those of an untrained network, so that scores tell keys apart."""
    return {name: replace(tensor, read=partial(_ten_times, tensor)) for name, tensor in weights_of(graph).items()}


def _ten_times(tensor: Tensor) -> Any:
    centre = 1.0 if tensor.name.endswith("norm.weight") else 0.0
    return centre + 10.0 * (tensor.read() - centre)


@pytest.fixture
def batch() -> Mapping[str, Any]:
    """Rows of 11, 1 and 6 tokens; no token is one of padding, 1."""
    generator = np.random.default_rng(2)
    mask = (np.arange(11) < np.array([[11], [1], [6]])).astype(np.int32)
    ids = np.where(mask, generator.integers(2, 53, mask.shape), 1).astype(np.int32)
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(mask)}


def run(lowering: Lowering, inputs: Mapping[str, Any], rows: int) -> dict[str, Any]:
    """The outputs of a plan, which reads nothing that the session does not give, and gives float32."""
    outputs = lowering.run()
    written = {name for step in lowering.steps for way in step.ways for operation in way for name in operation.writes}
    assert lowering.buffers.keys() - written <= set(INPUTS)
    assert all(lowering.buffers[output.buffer].element == "f32" for output in outputs.values())
    plan = Interpreted(lowering, inputs)
    for step in lowering.steps:
        for operation in step.way(rows):
            plan.start(operation)
    return {name: plan.output(output) for name, output in outputs.items()}


def assert_tokens_agree(found: Mapping[str, Any], expected: Mapping[str, Any], mask: Any, bound: float) -> None:
    """Padding is nobody's, but it is numbers."""
    there = mask > 0
    for name, value in expected.items():
        where = there if value.shape[:2] == there.shape else slice(None)
        assert np.isfinite(found[name]).all(), name
        assert np.abs(found[name] - value)[where].max() < bound, name


def agree(spec: Spec, batch: Mapping[str, Any], rows: int = 1, bound: float = BOUND) -> None:
    """The plan of a spec, its ways for so many rows, computes what the reference does."""
    elaborated = elaborate(spec)
    weights = spread(elaborated)
    found = run(Lowering(compile(spec, "cuda"), weights, ELEMENTS[spec.precision], architecture="sm_80"), batch, rows)
    assert_tokens_agree(found, evaluate(elaborated, batch, weights), batch["attention_mask"], bound)


def test_every_family_is_here() -> None:
    """But BERT, whose shipped specs tests/test_cuda.py runs."""
    assert {path.name for path in CONFIGURATIONS.iterdir()} == FAMILIES.keys() == set(model_types().values()) - {"bert"}


def test_every_op_is_lowered() -> None:
    """But tables that are constants whatever the network."""
    assert OPS.keys() - LOWERINGS.keys() == {"relative_buckets", "log_buckets"}
    assert LOWERINGS.keys() <= OPS.keys()


def test_the_documented_table() -> None:
    """docs/cuda.md says of every family what its packed form has."""
    rows = {
        f"| `{name}` | yes | {'yes' if ops else 'no'} | {', '.join(f'`{op}`' for op in ops)}{' ' if ops else ''}|"
        for name, ops in FAMILIES.items()
    }
    documented = (ROOT / "docs" / "cuda.md").read_text("utf-8").splitlines()
    assert {line for line in documented if line.startswith("| `") and "| yes |" in line} == rows


@pytest.mark.parametrize("name", FAMILIES)
def test_padded(name: str, batch: Mapping[str, Any], tmp_path: Path) -> None:
    agree(spec_of(name, tmp_path), batch)


@pytest.mark.parametrize("name", ["albert", "modernbert", "nomic_bert"])
def test_many_rows(name: str, batch: Mapping[str, Any], tmp_path: Path) -> None:
    """The ways that are taken for many rows, of activations that the library has, and of those that it has not."""
    agree(spec_of(name, tmp_path), batch, rows=1000)


@pytest.mark.parametrize("name", ["distilbert", "mpnet", "modernbert", "deberta"])
def test_half_precision(name: str, batch: Mapping[str, Any], tmp_path: Path) -> None:
    """float16 to 2⁻⁶, of states up to 4 that are rounded some twenty times; the outputs come as float32."""
    spec = replace(spec_of(name, tmp_path), precision="fp16")
    agree(spec, batch, bound=2**-6)


@pytest.mark.parametrize("name", ["distilbert", "gte"])
def test_norms_keep_their_parameters(name: str, tmp_path: Path) -> None:
    """As they are, whatever the precision: bf16 would take 3e-5 from the cosine of an embedding."""
    spec = replace(spec_of(name, tmp_path), precision="bf16")
    weights = weights_of(elaborate(spec))
    lowering = Lowering(compile(spec, "cuda"), weights, "bf16", architecture="sm_80")
    lowering.run()
    parameters = {name: tensor.read() for name, tensor in weights.items() if ".norm." in name}
    assert parameters
    for parameter, values in parameters.items():
        element, kept = lowering.constants[f"{parameter}.f32"]
        assert element == "f32"
        assert np.array_equal(kept, values)
        assert parameter not in lowering.constants


@pytest.mark.parametrize("name", [name for name, ops in FAMILIES.items() if ops])
def test_packed(name: str, batch: Mapping[str, Any], tmp_path: Path) -> None:
    spec = replace(spec_of(name, tmp_path), passes=("default", "pack_sequences"))
    elaborated, graph = elaborate(spec), compile(spec, "cuda")
    assert {node.op for node in graph if node.op in PACKED} == set(FAMILIES[name])
    weights, there = spread(elaborated), batch["attention_mask"] > 0
    expected = evaluate(elaborated, batch, weights)
    wanted = {name: value[there] if value.shape[:2] == there.shape else value for name, value in expected.items()}
    inputs = packed(batch)
    for name, value in evaluate(graph, inputs, weights).items():
        assert np.abs(value - wanted[name]).max() < 1e-12, name
    found = run(Lowering(graph, weights, "f32", architecture="sm_80"), {**batch, **inputs}, 18)
    for name, value in wanted.items():
        assert np.abs(found[name] - value).max() < BOUND, name


@pytest.mark.parametrize("name", [name for name, ops in FAMILIES.items() if not ops])
def test_refuses_to_pack(name: str, tmp_path: Path) -> None:
    with pytest.raises(BertcError, match="take_along has no packed form") as caught:
        compile(replace(spec_of(name, tmp_path), passes=("default", "pack_sequences")), "cuda")
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("head", ["ForSequenceClassification", "ForTokenClassification", "ForMaskedLM"])
@pytest.mark.parametrize("name", ["electra", "modernbert"])
def test_heads(name: str, head: str, batch: Mapping[str, Any], tmp_path: Path) -> None:
    """Of families whose heads are not BERT's; ModernBERT's takes the mean of the tokens for a sequence."""
    means = {"classifier_pooling": "mean"} if name == "modernbert" else {}
    agree(spec_of(name, tmp_path, head, **means), batch)


def test_two_outputs_of_one_product(batch: Mapping[str, Any], tmp_path: Path) -> None:
    agree(spec_of("mpnet", tmp_path, "ForQuestionAnswering"), batch)


LEFT_OUT: Sequence[tuple[str, Sequence[str]]] = [
    ("roberta", ["fuse_attention", "fuse_embed_norm"]),
    ("deberta", ["fuse_attention", "fuse_scaled_softmax"]),
    *((name, FUSIONS) for name in ("mpnet", "modernbert", "gte")),
]


@pytest.mark.parametrize(("name", "without"), LEFT_OUT)
def test_fusions_may_be_left_out(name: str, without: Sequence[str], batch: Mapping[str, Any], tmp_path: Path) -> None:
    spec = replace(spec_of(name, tmp_path), without=tuple(without))
    assert not {f"fuse_{node.op}" for node in compile(spec, "cuda")} & set(without)
    agree(spec, batch)


@pytest.mark.parametrize(
    ("name", "without"),
    [("roberta", ()), ("roberta", ("fuse_attention",)), ("mpnet", ()), ("modernbert", ())],
    ids=["roberta", "unfused", "mpnet", "modernbert"],
)
def test_any_mask(name: str, without: Sequence[str], batch: Mapping[str, Any], tmp_path: Path) -> None:
    """Gaps between tokens, and a row without any: where all keys are masked -10000 is everywhere, and float32 has 2⁻¹⁰
    left for scores beside it."""
    spec = spec_of(name, tmp_path)
    spec = replace(spec, network={**spec.network, "mask": Slot("any_padding")}, without=tuple(without))
    mask: Any = np.random.default_rng(3).integers(0, 2, (3, 11), np.int32)
    mask[1] = 0
    inputs = {**batch, "attention_mask": mask}
    elaborated = elaborate(spec)
    weights = spread(elaborated)
    found = run(Lowering(compile(spec, "cuda"), weights, "f32", architecture="sm_80"), inputs, 1)
    for output, expected in evaluate(elaborated, inputs, weights).items():
        assert np.abs(found[output] - expected).max() < 1e-3, output


def test_refuses_to_pack_any_mask(tmp_path: Path) -> None:
    """Lengths say nothing of padding that is not on the right."""
    spec = spec_of("roberta", tmp_path)
    network = {**spec.network, "mask": Slot("any_padding")}
    with pytest.raises(BertcError, match="attention has no packed form") as caught:
        compile(replace(spec, network=network, passes=("default", "pack_sequences")), "cuda")
    assert caught.value.exit_code == 3


def test_refuses_heads_that_tiles_do_not_fit(tmp_path: Path) -> None:
    spec = replace(spec_of("gte", tmp_path), precision="fp16")
    spec = replace(spec, sizes={**spec.sizes, "heads": 8, "head_size": 8})
    weights = spread(elaborate(spec))
    with pytest.raises(BertcError, match="heads of 16, 32, 64, 128, not 8; leave out fuse_attention") as caught:
        Lowering(compile(spec, "cuda"), weights, "f16", architecture="sm_80").run()
    assert caught.value.exit_code == 4
