"""Steps in which one kernel has query, key and value and the attention that reads them: by the kernel's double."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import packed, weights_of
from test_cuda import NETWORKS, PRE_NORM, WITH_ROLES, Interpreted, wide_spec
from test_cuda_families import spec_of

from bertc.compiler import compile
from bertc.elaborate import elaborate
from bertc.reference import evaluate
from bertc.spec import Slot, Spec
from bertc.targets.cuda.lower import Lowering

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")  # rows of padding overflow in the interpreter


def lowered(spec: Spec, weights: Mapping[str, Any]) -> tuple[Lowering, Lowering, Mapping[str, Any]]:
    """The lowering whose products take norms along, the one with attention too, and the outputs of both."""
    plain = Lowering(compile(spec, "cuda"), weights, "f16", architecture="sm_80")
    outputs = plain.run()
    folded, joined = (
        Lowering(plain.graph, weights, "f16", architecture="sm_80", of=plain, joined=joined) for joined in (False, True)
    )
    assert folded.run() == joined.run() == outputs
    return folded, joined, outputs


@pytest.mark.parametrize("passes", ["[default]", "[default, pack_sequences]"])
@pytest.mark.parametrize("network", [NETWORKS[0], PRE_NORM], ids=["post_norm", "pre_norm"])
def test_a_kernel_less_for_each_layer(network: str, passes: str, padded_batch: Mapping[str, Any]) -> None:
    """Of x where that is no norm of a product's, and of x's norm; the outputs are the reference's, and there is no
    memory for what goes from one to the other."""
    spec = wide_spec(network=network, passes=passes, precision="fp16")
    spec = replace(spec, sizes={**spec.sizes, **WITH_ROLES})
    elaborated = elaborate(spec)
    weights = weights_of(elaborated)
    folded, joined, outputs = lowered(spec, weights)
    assert len(joined.steps) == len(folded.steps) - spec.sizes["layers"]
    taken = [source for source in joined.sources.values() if source.file == "qkv_attention"]
    assert {dict(source.constants)["X_NORM"] for source in taken} == {False, True}
    assert joined.buffers.items() < folded.buffers.items()
    given = {**padded_batch, **packed(padded_batch)} if "pack" in passes else padded_batch
    plan = Interpreted(joined, given)
    for step in joined.steps:
        for operation in step.way(16):
            plan.start(operation)
    there = padded_batch["attention_mask"] > 0
    for name, expected in evaluate(elaborated, padded_batch, weights).items():
        wanted = expected[there] if "pack" in passes and expected.shape[:2] == there.shape else expected
        assert np.abs(plan.output(outputs[name]) - wanted).max() < 2e-2, name  # f16, as in test_cuda


def any_padding(folder: Path) -> Spec:
    spec = wide_spec()
    return replace(spec, network={**spec.network, "mask": Slot("any_padding")}, sizes={**spec.sizes, **WITH_ROLES})


def family(name: str, folder: Path) -> Spec:
    spec, wide = spec_of(name, folder), {"hidden": 128, "embedding_size": 128, "heads": 2, "head_size": 64}
    return replace(spec, sizes={**spec.sizes, **{size: count for size, count in wide.items() if size in spec.sizes}})


REFUSED = {
    "heads of 16": lambda folder: wide_spec(),
    "a mask": any_padding,
    "a bias": lambda folder: family("mpnet", folder),
    "turned queries": lambda folder: family("gte", folder),
    "a width of 1088": lambda folder: replace(
        wide_spec(), sizes={**wide_spec().sizes, "hidden": 1088, "embedding_size": 1088, "heads": 17, "head_size": 64}
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_others_keep_two_kernels(case: str, tmp_path: Path) -> None:
    """Then both lists of steps are the same, and there is only one."""
    spec = replace(REFUSED[case](tmp_path), precision="fp16")
    folded, joined, _ = lowered(spec, weights_of(elaborate(spec)))
    assert joined.steps == folded.steps
    assert any("attention" in str(step) for step in joined.steps)
