"""Weights out of a seed, and the hash of weights."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from bertc.weights_io import Tensor, random_weights, weights_hash

REQUIRED = {
    "encoder.0.ffn.up.weight": (400, 300),
    "encoder.0.ffn.up.bias": (10_000,),
    "encoder.0.ffn.norm.weight": (10_000,),
    "encoder.0.ffn.norm.bias": (10_000,),
}

HASH_IN_ANOTHER_PROCESS = """
from bertc.weights_io import random_weights, weights_hash
print(weights_hash(random_weights({"b.weight": (5,), "a.norm.weight": (2, 3)}, seed=7)))
"""


def array_tensor(name: str, values: np.ndarray) -> Tensor:
    return Tensor(name, values.shape, "f32", lambda: values)


def test_same_in_every_process() -> None:
    found = {
        subprocess.run(
            [sys.executable, "-c", HASH_IN_ANOTHER_PROCESS],
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for hash_seed in ("0", "1")
    }
    assert found == {weights_hash(random_weights({"a.norm.weight": (2, 3), "b.weight": (5,)}, seed=7))}


def test_depends_on_seed_and_name_only() -> None:
    weights = random_weights(REQUIRED, seed=0)
    alone = random_weights({"encoder.0.ffn.up.bias": (10_000,)}, seed=0)["encoder.0.ffn.up.bias"]
    np.testing.assert_array_equal(weights["encoder.0.ffn.up.bias"].read(), alone.read())
    np.testing.assert_array_equal(alone.read(), alone.read())
    bias, other_seed = alone.read(), random_weights(REQUIRED, seed=1)["encoder.0.ffn.up.bias"].read()
    other_name = weights["encoder.0.ffn.norm.bias"].read()
    for other in (other_seed, other_name):
        # 10 000 independent pairs: the correlation is 0 with a deviation of 0.01
        assert abs(np.corrcoef(bias, other)[0, 1]) < 0.05


@pytest.mark.parametrize(("name", "mean"), [(name, float(name.endswith("norm.weight"))) for name in REQUIRED])
def test_distribution(name: str, mean: float) -> None:
    """Bounds are five deviations of the estimate from 10 000 values or more: 5 * 0.02/100 and 5 * 0.02/141."""
    tensor = random_weights(REQUIRED, seed=3)[name]
    values = tensor.read()
    assert (tensor.element, tensor.shape, values.dtype, values.shape) == (
        "f32",
        REQUIRED[name],
        np.float32,
        REQUIRED[name],
    )
    assert values.mean(dtype=np.float64) == pytest.approx(mean, abs=0.001)
    assert values.std(dtype=np.float64) == pytest.approx(0.02, abs=0.0008)


def test_nothing_is_made_before_it_is_asked_for() -> None:
    assert random_weights({"x.weight": (1 << 40, 1 << 20)}, seed=0)["x.weight"].shape == (1 << 40, 1 << 20)


def test_hash_sees_every_part() -> None:
    values = np.arange(6, dtype=np.float32)
    tensors = {"a": array_tensor("in the file", values), "b": array_tensor("b", np.zeros((0, 2), np.float32))}
    variants: list[Mapping[str, Tensor]] = [
        tensors,
        {"a": tensors["a"]},
        {"A": tensors["a"], "b": tensors["b"]},
        tensors | {"a": array_tensor("a", values.reshape(2, 3))},
        tensors | {"a": array_tensor("a", values[::-1])},
        tensors | {"a": replace(tensors["a"], element="bf16")},
        tensors | {"b": array_tensor("b", np.zeros((2, 0), np.float32))},
    ]
    assert len(set(map(weights_hash, variants))) == len(variants)


def test_hash_is_of_the_weights_and_not_of_how_they_lie() -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    turned = {"b": array_tensor("b", values), "a": array_tensor("x", np.asfortranarray(values))}
    assert weights_hash(turned) == weights_hash({"a": array_tensor("a", values), "b": array_tensor("b", values)})
