"""Fused ops: each file declares one stem (signature, equation, NumPy reference).

What a fused op means in primitives is the left side of the rule that makes it (`bertc/passes/fuse_STEM.net`), and how
it runs is its kernel. The three texts are independent of each other; the tests hold them together.
"""

from bertc.ops import PRIMITIVES
from bertc.plugins.attention import attention
from bertc.plugins.bias_gelu import bias_gelu, bias_gelu_tanh
from bertc.plugins.embed_norm import embed_norm, untyped_embed_norm
from bertc.plugins.packed import first_tokens, packed_attention, packed_embed_norm
from bertc.plugins.qkv_projection import qkv_projection
from bertc.plugins.scaled_softmax import scaled_softmax
from bertc.plugins.skip_norm import skip_norm

PACKED = {declared.name: declared for declared in (first_tokens, packed_attention, packed_embed_norm)}
"""What `pack_sequences` makes of fused ops."""

PLUGINS = PACKED | {
    declared.name: declared
    for declared in (
        attention, bias_gelu, bias_gelu_tanh, embed_norm, untyped_embed_norm, qkv_projection, scaled_softmax, skip_norm,
    )
}  # fmt: skip

OPS = PRIMITIVES | PLUGINS
"""Every op that a graph may hold."""
