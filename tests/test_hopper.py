"""hopper.cuh's activations, in NumPy: kernels in CUDA C++ have no interpreter."""

from __future__ import annotations

import re
from importlib.resources import files

import numpy as np

from bertc.ops import PRIMITIVES, Array

LOG = re.compile(r"const float log = (.+?);", re.DOTALL)
"""Of Φ(-s), to base 2."""


def test_gelu_is_the_erf_form() -> None:
    """To 4.4e-7 by the polynomial, and to half a unit in the last place of float32 for each of two steps; the tanh form
    is off by 4.7e-4. Far out it is 0 or x."""
    x = np.linspace(-30, 30, 600_001, dtype=np.float32)
    found, expected = gelu(x), PRIMITIVES["gelu"].reference(x.astype(np.float64))
    assert (np.abs(found - expected) < 6e-7 + 2.0**-23 * np.abs(x)).all()
    far = np.array([-65504, -100, -30, 30, 100, 65504], np.float32)
    assert (gelu(far) == np.maximum(far, 0)).all()


def gelu(x: Array) -> Array:
    """max(x, 0) - |x| · 2^log, in float32 as the kernel takes it."""
    found = LOG.search(files("bertc.kernels").joinpath("hopper.cuh").read_text("utf-8"))
    assert found, "gelu's polynomial is not written as it was"
    factors = [np.float32(text) for text in re.findall(r"(-?[\d.]+)f", found[1])]
    s, log = np.abs(x), np.float32(0)
    with np.errstate(under="ignore", over="ignore"):
        for factor in reversed(factors):
            log = log * s + factor
        power = np.exp2(log)
    return np.maximum(x, np.float32(0)) - s * power
