"""A checkpoint's tensors put to the parameters of a network, or the reasons why they do not fit, all at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertc.errors import BertcError, Diagnostic, error
from bertc.types import FLOATS
from bertc.weights_io.folding import fold, layer_number, listing
from bertc.weights_io.names import NameTable, canonical_names, name_table
from bertc.weights_io.tensor import Tensor, quoted

HEADS = ("pooler", "question_answering", "classifier", "masked_lm", "transform", "discriminator")
"""Groups of parameters that a network may leave out without computing something else."""

TIES = {"masked_lm.decoder.weight": "embeddings.word.weight", "masked_lm.decoder.bias": "masked_lm.bias"}
"""Copies that some checkpoints hold of a parameter that the network has once."""


def bind(
    required: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Tensor], *, source: str, family: str = "bert"
) -> dict[str, Tensor]:
    """The tensor for each required parameter, in the order of `required`.

    `required` has shapes by canonical name, `tensors` is a checkpoint as its reader gives it, `source` its name in
    messages. Raises one BertcError with up to three diagnostics: B0408 for parameters that are missing, B0409 for
    tensors that are unknown or would silently be left out, B0410 for tensors of another shape or not of a float type.
    Raises B0405 for two tensors of one canonical name.
    """
    found, unknown = canonical_names(tensors, family)
    found = _untied(found, required)
    table = name_table(family)
    diagnostics = (
        _missing(required, found, table, source),
        _unexpected(required, found, unknown, table, source),
        _misfits(required, found, source),
    )
    if any(diagnostics):
        raise BertcError(*filter(None, diagnostics))
    return {name: found[name] for name in required}


def _untied(found: Mapping[str, Tensor], required: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """`found` without copies: one stands in for an absent original, and is compared with it when its head is used."""
    result = {name: tensor for name, tensor in found.items() if name not in TIES}
    for copy, original in TIES.items():
        if copy not in found:
            continue
        if original not in found:
            result[original] = found[copy]
        elif _group(copy) in map(_group, required):
            result[original] = replace(found[original], read=partial(_read_tied, found[original], found[copy]))
    return result


def _read_tied(original: Tensor, copy: Tensor) -> NDArray[Any]:
    values = original.read()
    if not np.array_equal(values, copy.read()):
        message = f"{quoted(copy.name)} differs from {quoted(original.name)}, but the network has one array for both"
        raise error("B0406", message, help="only checkpoints whose masked-LM decoder is tied to its embeddings work")
    return values


def _missing(
    required: Mapping[str, tuple[int, ...]], found: Mapping[str, Tensor], table: NameTable, source: str
) -> Diagnostic | None:
    names = {name: table.checkpoint_name(name) for name in required if name not in found}
    if not names:
        return None
    message = f"`{source}` lacks {len(names)} of the {len(required)} parameters of the network:"
    advice = (
        _heads_absent(names, found)
        or _layers_differ(required, found)
        or "check that these are the weights of this network"
    )
    return Diagnostic("B0408", message + listing(_lines(names, required)), help=advice)


def _unexpected(
    required: Mapping[str, tuple[int, ...]],
    found: Mapping[str, Tensor],
    unknown: list[str],
    table: NameTable,
    source: str,
) -> Diagnostic | None:
    unused = set(HEADS) - set(map(_group, required))
    extra = {name: found[name].name for name in found if name not in required and _group(name) not in unused}
    if not extra and not unknown:
        return None
    message = f"`{source}` has {_tensors(len(extra) + len(unknown))} that the network has no use for:"
    folded = fold(unknown, [tensor.name for tensor in found.values()])
    lines = _lines(extra, found) + [_unknown_line(pattern, names) for pattern, names in folded.items()]
    wanted = [table.checkpoint_name(name) or name for name in required if name not in found]
    advice = (
        _layers_differ(required, found)
        or _did_you_mean(unknown, wanted)
        or "the network would compute something else without them: check the sizes and blocks of the spec"
    )
    return Diagnostic("B0409", message + listing(lines), help=advice)


def _misfits(required: Mapping[str, tuple[int, ...]], found: Mapping[str, Tensor], source: str) -> Diagnostic | None:
    reasons: dict[str, dict[str, str]] = {}
    for name, shape in required.items():
        if name in found and (reason := _misfit(found[name], shape)):
            reasons.setdefault(reason, {})[name] = found[name].name
    if not reasons:
        return None
    count = _tensors(sum(map(len, reasons.values())))
    lines = [line + reason for reason, names in reasons.items() for line in _lines(names, required)]
    message = f"`{source}` has {count} of another shape or type than the network's:"
    advice = "give the spec the sizes of the checkpoint, which must be of floating-point numbers"
    return Diagnostic("B0410", message + listing(lines), help=advice)


def _misfit(tensor: Tensor, shape: tuple[int, ...]) -> str:
    if tensor.shape != shape:
        return f" is {list(tensor.shape)}, expected {list(shape)}"
    if tensor.element not in FLOATS:
        return f" is {tensor.element}, expected {', '.join(FLOATS)}"
    return ""


def _lines(names: Mapping[str, str | None], among: Iterable[str]) -> list[str]:
    """A line for each pattern of canonical names, with the names of `names` in the checkpoint beside it."""
    return [_line(pattern, [names[name] for name in group]) for pattern, group in fold(names, among).items()]


def _line(pattern: str, originals: list[str | None]) -> str:
    known = [name for name in originals if name is not None]
    place = f"in checkpoints {' or '.join(map(quoted, fold(known, known)))}" if known else "not known in checkpoints"
    return f"{quoted(pattern)} ({_many(originals)}{place})"


def _unknown_line(pattern: str, names: list[str]) -> str:
    return f"{quoted(pattern)} ({_many(names)}not a known name)"


def _many(names: Sequence[object]) -> str:
    return f"{len(names)} tensors, " if len(names) > 1 else ""


def _tensors(count: int) -> str:
    return "1 tensor" if count == 1 else f"{count} tensors"


def _heads_absent(missing: Iterable[str], found: Iterable[str]) -> str | None:
    """Advice for when nothing but whole heads is missing."""
    groups = set(map(_group, missing))
    if not groups <= set(HEADS) - set(map(_group, found)):
        return None
    heads = " and ".join(f"`{head}`" for head in sorted(groups))
    return f"the weights have no {heads}: choose another `head` for the spec, or weights that were trained with it"


def _layers_differ(required: Iterable[str], found: Iterable[str]) -> str | None:
    wanted, there = _layer_numbers(required), _layer_numbers(found)
    if len(wanted) == len(there) or not there or there != set(range(len(there))):
        return None
    count = f"{len(there)} layers" if len(there) > 1 else "1 layer"
    return f"the weights have {count} and the network {len(wanted)}: set `layers: {len(there)}` among the spec's sizes"


def _layer_numbers(names: Iterable[str]) -> set[int]:
    return {number for number in map(layer_number, names) if number is not None}


def _did_you_mean(unknown: list[str], wanted: list[str]) -> str | None:
    """For the first unknown name that is near a missing one. Long names are no misspellings, and slow to compare."""
    for name in unknown[:8]:
        if len(name) <= 100 and (near := get_close_matches(name, wanted, n=1, cutoff=0.85)):
            return f"is {quoted(name)} meant to be `{near[0]}`?"
    return None


def _group(name: str) -> str:
    return name.partition(".")[0]
