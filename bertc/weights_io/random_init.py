"""Weights out of a seed, for networks whose speed or algebra matters and whose answers do not."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import partial

import numpy as np
from numpy.typing import NDArray

from bertc.weights_io.tensor import Tensor

SPREAD = np.float32(0.02)
"""Standard deviation, as in BERT's `initializer_range` (Devlin et al. 2018); here also of biases and norms, which
trained networks do not leave at 0 and 1: a pass that drops or swaps one then changes the result."""


def random_weights(required: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
    """A float32 tensor for each required parameter: N(0, 0.02²), about 1 instead for the scale of a norm.

    The values of a parameter depend on `seed`, its name and its size only.
    """
    return {name: Tensor(name, shape, "f32", partial(_values, name, shape, seed)) for name, shape in required.items()}


def _values(name: str, shape: tuple[int, ...], seed: int) -> NDArray[np.float32]:
    key = hashlib.sha256(f"{seed} {name}".encode()).digest()
    generator = np.random.Generator(np.random.SFC64(int.from_bytes(key, "little")))
    values = generator.standard_normal(shape, dtype=np.float32)
    values *= SPREAD
    if name.endswith("norm.weight"):
        values += np.float32(1)
    return values
