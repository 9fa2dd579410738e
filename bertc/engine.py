"""Run a bundle: the same call for every target, NumPy arrays in and out."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertc.bundle import Bundle, read_bundle
from bertc.compiler import RUNNING, target_module
from bertc.errors import did_you_mean, error

Array = NDArray[Any]


@dataclass(frozen=True)
class Engine:
    """An opened bundle."""

    bundle: Bundle
    session: Callable[[Mapping[str, Array]], dict[str, Array]]

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run a padded batch.

        `input_ids` [batch, seq], and where they are not all ones and all zeros `attention_mask` and `token_type_ids` of
        the same shape, each of a whole-number type; names are Hugging Face's or those that the spec chose. The mask has
        its ones on the left. Returns each output of the network as float32.

        Raises BertcError B0702 for names, types and shapes, B0703 for ids outside their tables, B0704 for a mask with a
        hole.
        """
        names = self.bundle.manifest.inputs
        theirs = {**{name: name for name in names}, **{engine: name for name, engine in names.items()}}
        for name in inputs:
            if name not in theirs:
                raise error("B0702", f"`{name}` is no input", None, did_you_mean(name, theirs))
        given = {theirs[name]: np.asarray(array) for name, array in inputs.items()}
        if "input_ids" not in given:
            raise error("B0702", "`input_ids` is missing", None, "give the token ids, an array [batch, seq]")
        ids = given["input_ids"]
        given.setdefault("attention_mask", np.ones_like(ids))
        given.setdefault("token_type_ids", np.zeros_like(ids))
        self._check(given)
        return self.session({names[name]: array.astype(np.int32) for name, array in given.items()})

    def _check(self, given: Mapping[str, Array]) -> None:
        sizes, ids = self.bundle.manifest.sizes, given["input_ids"]
        for name, array in given.items():
            if array.ndim != 2 or array.shape != ids.shape or array.size == 0 or array.dtype.kind not in "iub":
                found = f"{array.dtype} {list(array.shape)} was given"
                help = f"all inputs have the shape of input_ids, {list(ids.shape)}"
                raise error("B0702", f"`{name}` is an array [batch, seq] of whole numbers, but {found}", None, help)
        for name, bound in (("input_ids", sizes["vocab"]), ("token_type_ids", sizes["types"]), ("attention_mask", 2)):
            low, high = int(given[name].min()), int(given[name].max())
            if low < 0 or high >= bound:
                found = low if low < 0 else high
                raise error("B0703", f"`{name}` has values from 0 to {bound - 1}, but {found} was given")
        if ids.shape[1] > (longest := max(profile.seq.largest for profile in self.bundle.manifest.profiles)):
            help = "shorten the text, or build with larger `shapes`"
            raise error(
                "B0702", f"the bundle takes at most {longest} tokens, but {ids.shape[1]} were given", None, help
            )
        mask = given["attention_mask"].astype(np.int8)
        if self.bundle.manifest.padding == "right_padding" and (holes := (np.diff(mask, axis=1) > 0).any(axis=1)).any():
            row = int(holes.argmax())
            help = "pad on the right, or build with `network: {mask: any_padding}`"
            raise error("B0704", f"row {row} of `attention_mask` has a one behind a zero", None, help)


def open(path: str | Path) -> Engine:
    """Open a bundle, its hashes checked first. Raises BertcError B0601 to B0604 when it is not as it was written."""
    bundle = read_bundle(Path(path))
    return Engine(bundle, target_module(bundle.manifest.target, RUNNING).open_session(bundle.path))


def read_arrays(path: Path) -> dict[str, Array]:
    """The arrays of an .npz file; pickled ones are refused. Raises BertcError B0002 when it cannot be read."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, AttributeError, EOFError, zipfile.BadZipFile) as problem:
        raise error(
            "B0002", f"{path} is not an .npz file of arrays: {problem}", None, "write it with numpy.savez"
        ) from None


def write_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write an .npz file, beside its place and then renamed. Raises BertcError B0605 when the file system refuses."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.npz")
    try:
        try:
            np.savez(beside, allow_pickle=False, **arrays)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as problem:
        message = f"`{path}` cannot be written: {problem.strerror}"
        raise error("B0605", message, None, "is the folder there, and may you write in it?") from None
