"""A Hugging Face directory as the library transformers computes it, in float32 on the CPU, a sequence at a time."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from bertc.errors import error
from bertc.evaluation.comparison import Network, check_vocabulary
from bertc.ops import Array
from bertc.tree import shown


def open_transformers(folder: Path, vocab: int, layers: Sequence[str] = ()) -> Network:
    """The model of the class that its config.json names. Nothing is fetched, and no code of the directory's is run.

    `layers` are what its hidden states are called; without them they are no outputs. Raises B0801 where the library is
    not installed, B0909 when it cannot open the directory, and for a network of another vocabulary or number of layers.
    """
    torch, transformers = map(_package, ("torch", "transformers"))
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        kind = getattr(transformers, (config.architectures or ["AutoModel"])[0])
        model = kind.from_pretrained(folder, local_files_only=True, dtype=torch.float32).eval()
    except Exception as problem:  # whatever a library may raise at a damaged directory
        reason = (str(problem) or type(problem).__name__).splitlines()[0]
        message = f"transformers cannot open `{shown(str(folder))}`: {shown(reason, 200)}"
        raise error("B0909", message, None, "name a folder with config.json and its weights") from None
    check_vocabulary(config.vocab_size, vocab, str(folder))
    has_types = "token_type_ids" in inspect.signature(model.forward).parameters

    def outputs(ids: Array, types: Array) -> Mapping[str, Array]:
        inputs = {"input_ids": ids, "attention_mask": ids * 0 + 1, **({"token_type_ids": types} if has_types else {})}
        tensors = {name: torch.from_numpy(row.astype("int64"))[None] for name, row in inputs.items()}
        with torch.no_grad():
            found = model(**tensors, output_hidden_states=bool(layers))
        if layers:
            found = {**dict(zip(layers, _as_many(found.hidden_states, layers), strict=True)), **found}
        return {name: value[0].numpy() for name, value in found.items() if isinstance(value, torch.Tensor)}

    def run(ids: Sequence[Array], types: Sequence[Array]) -> list[Mapping[str, Array]]:
        return [outputs(row, kinds) for row, kinds in zip(ids, types, strict=True)]

    return run


def _as_many(states: Sequence[Any], layers: Sequence[str]) -> Sequence[Any]:
    if len(states) != len(layers):
        message = f"expected {len(layers) - 1} layers, as the bundle has, but transformers has {len(states) - 1}"
        raise error("B0909", message, None, "name the folder that the bundle was built from")
    return states


def _package(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        message = f"`transformers:DIR` needs the package {name}"
        raise error("B0801", message, None, "pip install 'bertc[bench]'") from None
