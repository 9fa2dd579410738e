"""Kernels of the fused ops and of products, in Triton: one source for the GPU and for Triton's interpreter on the CPU.
For Hopper attention and products are CUDA C++: `.cu` and `.cuh` files, what they are given in the module beside them.

Each file has the stem of what it computes. Sums are float32 in every element type. `PDL` lets a kernel start while the
one before it ends (programmatic dependent launch, compute capability 9.0 on): what it reads before `wait` is weights.
"""
