"""Programmatic dependent launch: the next kernel may start once all of this one's blocks have, and waits for its data.

https://docs.nvidia.com/cuda/cuda-programming-guide/04-special-topics/programmatic-dependent-launch.html
"""

import triton
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def wait(PDL: triton.language.constexpr):
    """Let the next kernel start, then wait until everything that the kernels before this one wrote can be read."""
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
