"""What training for quantisation leaves in a checkpoint beside its weights: ranges, scales and masks.

    encoder.layer.0.attention.self.query._input_quantizer._amax
    layers.0.mlp.dense_h_to_4h.weight_mask

Source: https://github.com/NVIDIA/TensorRT, tools/pytorch-quantization, `TensorQuantizer`.
"""

from __future__ import annotations

from collections.abc import Mapping

from bertc.weights_io.tensor import Tensor

LAST_WORDS = ("amax", "scale", "mask")
"""Of the names of such tensors."""


def is_for_quantisation(name: str) -> bool:
    return name[max(name.rfind("."), name.rfind("_")) + 1 :] in LAST_WORDS


def apart(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A checkpoint's weights, and what is there for quantisation, both by the checkpoint's own names."""
    weights = {name: tensor for name, tensor in tensors.items() if not is_for_quantisation(name)}
    return weights, {name: tensor for name, tensor in tensors.items() if name not in weights}
