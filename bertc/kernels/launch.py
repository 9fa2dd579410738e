"""Programmatic dependent launch: the next kernel may start once all of this one's blocks have, and waits for its data.

https://docs.nvidia.com/cuda/cuda-programming-guide/04-special-topics/programmatic-dependent-launch.html
"""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def wait(PDL: tl.constexpr):
    """Until everything that the kernels before this one wrote can be read."""
    if PDL:
        gdc_wait()


@triton.jit
def release(PDL: tl.constexpr):
    """Let the next kernel's programs start as soon as all of this one's have come here."""
    if PDL:
        gdc_launch_dependents()
