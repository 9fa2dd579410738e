"""Megatron-LM's checkpoints brought to what the name table megatron.toml knows.

Two things are Megatron's own. The projections of an attention are one tensor, whose rows lie, with N heads of size H,
as one of

    [3, N, H]    checkpoint_version 0, query before key before value
    [N, H, 3]    checkpoint_version 1
    [N, 3, H]    checkpoint_version 2 and later

And the vocabulary is padded with rows that no token has.

Source: https://github.com/NVIDIA/Megatron-LM, megatron/checkpointing.py, `fix_query_key_value_ordering`, and
megatron/tokenizer/tokenizer.py, `_vocab_size_with_padding`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from numpy.typing import NDArray

from bertc.errors import error
from bertc.spec_fields import QkvLayout
from bertc.weights_io.names import name_table
from bertc.weights_io.state_dict import VERSION
from bertc.weights_io.tensor import Tensor, quoted
from bertc.weights_io.views import view

PROJECTIONS = ("query", "key", "value")
FUSED = "query_key_value"
VOCABULARY = ("embeddings.word.weight", "masked_lm.bias")
"""Parameters with a row for each token."""
PADDED_TO = tuple(128 << doublings for doublings in range(7))
"""What the padded vocabulary is a multiple of: 128 for each of 1 to 64 GPUs that share the embeddings."""


def is_megatron(names: Iterable[str]) -> bool:
    """Whether these are the names of a checkpoint of Megatron-LM's: all projections in one, in `layers`."""
    return any(f".{FUSED}." in name and "layers." in name for name in names)


def separate_names(name: str) -> dict[str, str]:
    """What megatron.toml calls the projections that the tensor of this name holds, by projection; else `{}`."""
    return {projection: name.replace(FUSED, projection) for projection in PROJECTIONS if f".{FUSED}." in name}


def megatron_tensors(
    tensors: Mapping[str, Tensor],
    required: Mapping[str, tuple[int, ...]],
    *,
    source: str,
    heads: int,
    layout: QkvLayout | None = None,
) -> dict[str, Tensor]:
    """A checkpoint with its projections apart and its vocabulary cut to the network's, for `bind` with "megatron".

    `required` has the network's shapes by canonical name. `layout` goes before the checkpoint's own version.
    Raises B0410 for projections that are not of so many heads, B0411 when neither says how they are laid out.
    """
    weights: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if separate := separate_names(name):
            layout = layout or _layout(tensors, source)
            parts = _projections(tensor, source, heads, layout)
            weights |= {separate[projection]: part for projection, part in parts.items()}
        else:
            weights[name] = _without_padding(tensor, required)
    return weights


def _layout(tensors: Mapping[str, Tensor], source: str) -> QkvLayout:
    """By the version of the checkpoint, which its reader gives as a tensor without dimensions."""
    version = float(tensors[VERSION].read()) if VERSION in tensors and not tensors[VERSION].shape else None
    match version:
        case 0.0:
            return "3NH"
        case 1.0:
            return "NH3"
        case float() if version >= 2.0:
            return "N3H"
        case _:
            found = "has no `checkpoint_version`" if version is None else f"has the `checkpoint_version` {version}"
            message = f"`{source}` {found}, which would say in what order the rows of {FUSED} lie"
            raise error("B0411", message, help="give the spec or the command `qkv_layout`: `3NH`, `NH3` or `N3H`")


def _projections(tensor: Tensor, source: str, heads: int, layout: QkvLayout) -> dict[str, Tensor]:
    """Query, key and value out of one tensor of 3 * heads * size rows."""
    rows, *columns = tensor.shape or (0,)
    size, remainder = divmod(rows, len(PROJECTIONS) * heads)
    if remainder or not size:
        found = f"{quoted(tensor.name)} of shape {list(tensor.shape)}"
        message = f"`{source}` has {found}, expected as many rows for each of 3 x {heads} heads"
        raise error("B0410", message, help="give the spec the `heads` of the checkpoint")
    lengths = {"3": len(PROJECTIONS), "N": heads, "H": size}
    stacked = tuple(lengths[axis] for axis in layout)
    shape = (heads * size, *columns)
    return {
        projection: view(tensor, partial(_projection, stacked, layout.index("3"), index), name=tensor.name, shape=shape)
        for index, projection in enumerate(PROJECTIONS)
    }


def _projection(stacked: tuple[int, ...], axis: int, index: int, rows: NDArray[Any]) -> NDArray[Any]:
    columns = rows.shape[1:]
    chosen = rows.reshape(*stacked, *columns).take(index, axis)
    return chosen.reshape(-1, *columns)


def _without_padding(tensor: Tensor, required: Mapping[str, tuple[int, ...]]) -> Tensor:
    """The rows of the network's vocabulary, when the tensor is a vocabulary of that size with Megatron's padding."""
    canonical = name_table("megatron").canonical_name(tensor.name)
    if canonical not in VOCABULARY or canonical not in required or not tensor.shape:
        return tensor
    rows, wanted = tensor.shape[0], required[canonical][0]
    if rows <= wanted or rows not in (-(-wanted // multiple) * multiple for multiple in PADDED_TO):
        return tensor
    return view(tensor, lambda values: values[:wanted], name=tensor.name, shape=(wanted, *tensor.shape[1:]))
