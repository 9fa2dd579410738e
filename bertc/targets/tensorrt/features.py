"""What differs between versions of TensorRT, told by what its module has and never by its number.

10.12 has add_normalization and no attention; 10.14 adds add_attention, and refitted engines that can be refitted again;
10.15 adds add_normalization_v2; 11 has add_attention_v2 with IAttention.key_value_lengths, no weak typing any more, and
therefore no flag for strong typing. TensorRT for RTX has the classes of 11 and no plugins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Features:
    weak_typing: bool
    """Networks are weakly typed unless a flag says otherwise."""
    normalization_v2: bool
    attention: bool
    attention_v2: bool
    """Its second form, which says how a causal mask lies."""
    attention_lengths: bool
    """IAttention takes the number of keys of each sequence; without, a mask with a row for every query."""
    packed_attention: bool
    """IAttention takes sequences one behind the other. TensorRT for RTX has the words for it and refuses them."""
    ahead_of_time_plugins: bool
    """`tensorrt.plugin` embeds a kernel's PTX in the engine."""
    python_plugins: bool
    """IPluginV3 can be implemented in Python."""
    scratch_of_profiles: bool
    """An engine tells how much memory a profile computes in: what is older than TensorRT 10.1 does not run here."""
    refit_again: bool
    """An engine that was refitted keeps the names of its weights when it is written."""

    @classmethod
    def of(cls, trt: Any) -> Features:
        network = trt.INetworkDefinition
        return cls(
            weak_typing=hasattr(trt.BuilderFlag, "FP16"),
            normalization_v2=hasattr(network, "add_normalization_v2"),
            attention=hasattr(network, "add_attention"),
            attention_v2=hasattr(network, "add_attention_v2"),
            attention_lengths=hasattr(trt, "IAttention") and hasattr(trt.IAttention, "key_value_lengths"),
            packed_attention=hasattr(trt, "AttentionIOForm") and hasattr(trt, "QuickPluginCreationRequest"),
            ahead_of_time_plugins=hasattr(trt, "QuickPluginCreationRequest"),
            python_plugins=hasattr(trt, "IPluginV3OneRuntime"),
            scratch_of_profiles=hasattr(trt.ICudaEngine, "get_device_memory_size_for_profile_v2"),
            refit_again=hasattr(trt.SerializationFlag, "INCLUDE_REFIT"),
        )
