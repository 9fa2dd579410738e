"""Steps in which one kernel has query, key and value and the attention that reads them: by the kernel's double."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from conftest import packed, weights_of
from test_cuda import NETWORKS, PRE_NORM, WITH_ROLES, Interpreted, wide_spec
from test_cuda_graphs import INPUTS

from bertc.compiler import compile
from bertc.elaborate import elaborate, read_graph
from bertc.parser import parse_graph
from bertc.reference import evaluate
from bertc.spec import Spec
from bertc.targets.cuda.lower import Lowering
from bertc.targets.cuda.plan import Step

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


GRAPH = """
    x = embedding(a.word[53, {width}], input_ids)
    query, key, value = qkv_projection(x, a.weight[{n}, {width}], a.bias[{n}], heads={heads}, size={size})
    lengths = maximum(sum(attention_mask, axis=-1), {least})
    padding = padding_mask(lengths, size=seq)
    return context=attention({values}, {mask}, scale={scale}), {more}
"""
PLAIN = {"width": 128, "heads": 2, "size": 64, "least": 1, "values": "query, key, value", "mask": "padding"}
PLAIN |= {"scale": 0.125, "more": "x=x"}

REFUSED: Mapping[str, Mapping[str, Any]] = {
    "heads of 32": {"size": 32},
    "a width of 1088": {"width": 1088, "heads": 17},
    "no width of boxes": {"width": 160},
    "a negative scale": {"scale": -1.0},
    "a window": {"mask": "local_mask(padding, window=4)"},
    "a mask": {"mask": "a.mask[1, 1, 1, 1]"},
    "lengths that the session does not count": {"least": 2},
    "others' places": {"values": "value, query, key"},
    "turned queries": {"values": "rotary(query, base=10.0), key, value"},
    "another reader": {"more": "key=transpose(key, [0, 2, 1, 3])"},
}


def joined_steps(**changed: Any) -> tuple[list[Step], list[Step]]:
    """The steps of a projection and attention, and those where one kernel may have both."""
    sizes = {**PLAIN, **changed}
    text = INPUTS + GRAPH.format(**sizes, n=3 * sizes["heads"] * sizes["size"])
    graph = read_graph(parse_graph(text))
    plain = Lowering(graph, weights_of(graph), "f16", architecture="sm_80")
    plain.run()
    one, other = (
        Lowering(graph, plain.weights, "f16", architecture="sm_80", of=plain, joined=joined) for joined in (False, True)
    )
    assert one.run() == other.run()
    return one.steps, other.steps


def test_a_projection_and_its_attention() -> None:
    steps, joined = joined_steps()
    assert len(joined) == len(steps) - 1


@pytest.mark.parametrize("case", REFUSED)
def test_others_keep_two_kernels(case: str) -> None:
    """Then both lists of steps are the same, and there is only one."""
    steps, joined = joined_steps(**REFUSED[case])
    assert joined == steps
