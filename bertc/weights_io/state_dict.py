"""The tensors of a pickled checkpoint, told from the bookkeeping of the training that wrote it.

The weights are what `model`, `state_dict` or `model_state_dict` holds, where the checkpoint has one of these dicts, and
otherwise the whole checkpoint. In there, dicts within dicts are flattened, their names joined by dots. What is not a
dict, tensor or array is bookkeeping, and so is everything under a key that is not a text, such as the slots of an
optimizer. One number beside the weights is read as a tensor without dimensions: Megatron-LM's `checkpoint_version`,
which says how its weights are laid out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from bertc.errors import BertcError, error
from bertc.weights_io.budget import MAX_ENTRIES, Budget
from bertc.weights_io.files import Version, check_sharing, damaged
from bertc.weights_io.numpy_arrays import array
from bertc.weights_io.pickle_stack import Call, Global
from bertc.weights_io.tensor import Tensor, quoted
from bertc.weights_io.torch_tensors import REBUILD, REBUILD_PARAMETER, Storage, not_read, strided

WEIGHTS = ("model", "state_dict", "model_state_dict")
VERSION = "checkpoint_version"
MAX_DEPTH = 16
MAX_NAME = 400
TENSORS = ("torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer")
"""Classes whose attributes say nothing about their values."""


@dataclass(frozen=True)
class Origin:
    """The file that a pickle was read from, and how it stores what a record of a storage stands for."""

    path: Path
    opened: Version
    storage: Callable[[Any], Storage]


def tensors_of(origin: Origin, content: Any, entries: Budget) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, in its order; each entry of its dicts takes one of `entries`.

    Raises B0401 when they are malformed or share too much, B0403 for an element type that is not read, B0405 when two
    of them have the same name, B0412 when there are none.
    """
    if not isinstance(content, dict):
        raise _without_tensors(origin.path)
    checkpoint = cast(dict[Any, Any], content)
    tensors: dict[str, Tensor] = {}
    for name, value in _entries(origin.path, _weights(origin.path, checkpoint), entries):
        tensor = _tensor(origin, name, value)
        if tensor is None:
            continue
        if name in tensors:
            message = f"`{origin.path}` holds two tensors of the name {quoted(name)}"
            raise error("B0405", message, help="keep one of them")
        tensors[name] = tensor
    check_sharing(origin.path, tensors.values(), origin.opened.size)
    if not tensors:
        raise _without_tensors(origin.path)
    version = checkpoint.get(VERSION)
    if isinstance(version, int | float) and VERSION not in tensors:
        tensors[VERSION] = Tensor(VERSION, (), "f64", lambda: np.array(version, np.float64))
    return tensors


def _without_tensors(path: Path) -> BertcError:
    message = f"`{path}` holds neither a dict of tensors nor a checkpoint with one"
    return error("B0412", message, help="save the model's `state_dict()`, not the model")


def _weights(path: Path, checkpoint: dict[Any, Any]) -> dict[Any, Any]:
    held = [key for key in WEIGHTS if isinstance(checkpoint.get(key), dict)]
    if len(held) > 1:
        message = f"`{path}` holds a dict of weights under each of {', '.join(f'`{key}`' for key in held)}"
        raise error("B0405", message, help="keep the one that is to be used")
    return checkpoint[held[0]] if held else checkpoint


def _entries(path: Path, content: dict[Any, Any], budget: Budget) -> Iterator[tuple[str, Any]]:
    """What is in `content` and in the dicts in it, under names joined by dots."""
    levels = [("", iter(content.items()))]
    while levels:
        prefix, items = levels[-1]
        for key, value in items:
            if not budget.spend() or len(levels) > MAX_DEPTH:
                raise damaged(path, f"holds more than {MAX_ENTRIES} entries, or dicts more than {MAX_DEPTH} deep")
            if not isinstance(key, str):
                continue
            if len(prefix) + len(key) > MAX_NAME:
                raise damaged(path, f"holds {quoted(prefix + key)}, a name of more than {MAX_NAME} characters")
            if isinstance(value, dict):
                levels.append((f"{prefix}{key}.", iter(cast(dict[Any, Any], value).items())))
                break
            yield prefix + key, value
        else:
            levels.pop()


def _tensor(origin: Origin, name: str, value: Any) -> Tensor | None:
    """The tensor that `value` says how to make, or None when it is something else."""
    path, call = origin.path, _bare(value)
    match call:
        case Call(Global(function), arguments) if function in REBUILD:
            return strided(path, origin.opened, name, arguments, origin.storage)
        case Call(Global(function)) if function.startswith("torch._utils._rebuild_"):
            raise not_read(path, name, function.removeprefix("torch._utils._rebuild_"))
        case Call():
            return array(path, origin.opened, name, call)
        case _:
            return None


def _bare(value: Any) -> Any:
    """Of a parameter, or of a tensor that has attributes besides its values, the tensor."""
    match value:
        case Call(Global(function), (data, *_)) if function in REBUILD_PARAMETER:
            return data
        case Call(Global("torch._tensor._rebuild_from_type_v2"), (Global() as function, Global(kind), arguments, _)):
            return Call(function, arguments) if kind in TENSORS else value
        case _:
            return value
