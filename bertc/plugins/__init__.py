"""Fused ops: each file declares one stem (signature, equation, NumPy reference).

What a fused op means in primitives is the left side of the rule that makes it (`bertc/passes/fuse_STEM.net`), and how
it runs is its kernel. The three texts are independent of each other; the tests hold them together.
"""

from collections import ChainMap
from collections.abc import Iterable

from bertc.errors import did_you_mean
from bertc.ops import PRIMITIVES, Op
from bertc.plugins.attention import attention
from bertc.plugins.bias_gelu import bias_gelu, bias_gelu_tanh
from bertc.plugins.embed_norm import embed_norm, untyped_embed_norm
from bertc.plugins.packed import (
    first_tokens,
    packed_attention,
    packed_biased_attention,
    packed_embed_norm,
    packed_rotary,
    packed_untyped_embed_norm,
)
from bertc.plugins.qkv_projection import qkv_projection
from bertc.plugins.scaled_softmax import scaled_softmax
from bertc.plugins.skip_norm import skip_norm

PACKED = {
    declared.name: declared
    for declared in (
        first_tokens, packed_attention, packed_biased_attention, packed_embed_norm, packed_untyped_embed_norm,
        packed_rotary,
    )
}  # fmt: skip
"""What `pack_sequences` makes of ops that know batch from sequence."""

PLUGINS: dict[str, Op] = PACKED | {
    declared.name: declared
    for declared in (
        attention, bias_gelu, bias_gelu_tanh, embed_norm, untyped_embed_norm, qkv_projection, scaled_softmax, skip_norm,
    )
}  # fmt: skip

OPS = ChainMap(PLUGINS, PRIMITIVES)
"""Every op that a graph may hold; `bertc.extensions` adds to PLUGINS what the user names."""


def unknown_op(name: str, known: Iterable[str] = OPS) -> str:
    """A help line for a name that is no op: the nearest, else all, and where others come from."""
    help = did_you_mean(name, known)
    return help if help.startswith("did you mean") else f"an op of your own comes with `--extensions FILE.py`; {help}"
