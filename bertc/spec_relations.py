"""What must hold between the fields of a spec, and what follows from them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from bertc.errors import Diagnostic, Span
from bertc.shapes import Profile, Range, profile_problems
from bertc.spec_fields import MAXIMUM_REPEAT, SIZES
from bertc.spec_reader import Reading
from bertc.tree import shown
from bertc.types import is_tuple


def relation_problems(reading: Reading) -> Iterator[Diagnostic]:
    """B0208 for fields that do not fit each other, B0002 for .net files that are not there.

    A relation is checked where all its fields are there and right by themselves.
    """
    relations = (_head_problems, _label_problems, _repeat_problems, _turn_problems, _shape_problems, _file_problems)
    return chain.from_iterable(relation(reading) for relation in relations)


def sizes_of(reading: Reading) -> dict[str, int]:
    """All sizes that are known, derived ones too, in the order of their declaration.

    head_size = hidden / heads; embedding_size = hidden; labels = the number of label names, else 2.
    """
    given = {path.removeprefix("sizes."): size for path, size in reading.values.items() if path.startswith("sizes.")}
    derived = {"labels": len(reading.values.get("labels", ())) or 2}
    if "hidden" in given:
        derived["embedding_size"] = given["hidden"]
    if "hidden" in given and "heads" in given:
        derived["head_size"] = given["hidden"] // given["heads"]
    known = derived | given
    return {size.name: known[size.name] for size in SIZES.fields if size.name in known}


def profiles_of(reading: Reading) -> tuple[Profile, ...]:
    return tuple(
        Profile(_range(profile["batch"]), _range(profile["seq"])) for profile in reading.values.get("shapes", ())
    )


def _range(value: Any) -> Range:
    return Range(value, value, value) if isinstance(value, int) else Range(*value)


def place_of(reading: Reading, path: str) -> Path:
    """The file that the field names: relative paths start at the folder of the file that gives the field."""
    return Path(reading.spans[path].source.name).parent / reading.values[path]


def _head_problems(reading: Reading) -> Iterator[Diagnostic]:
    hidden, heads = (reading.values.get(path) for path in ("sizes.hidden", "sizes.heads"))
    if hidden is None or heads is None or "sizes.head_size" in reading.spans:
        return
    if hidden % heads:
        message = f"expected `heads` to divide `hidden`, but {hidden} is not a multiple of {heads}"
        span = _own_place(reading, "sizes.heads", "sizes.hidden")
        yield Diagnostic("B0208", message, span, "change one of them, or give `head_size`")


def _label_problems(reading: Reading) -> Iterator[Diagnostic]:
    size, names = (reading.values.get(path) for path in ("sizes.labels", "labels"))
    if size and names and size != len(names):
        message = f"expected the {size} `labels` that `sizes` speaks of, but found {len(names)}"
        yield Diagnostic("B0208", message, _own_place(reading, "labels", "sizes.labels"), "leave one of the two out")


def _repeat_problems(reading: Reading) -> Iterator[Diagnostic]:
    sizes = sizes_of(reading)
    for path, repeat in reading.values.items():
        count = sizes.get(repeat, 0) if path.endswith(".repeat") else 0
        if count > MAXIMUM_REPEAT:
            message = f"expected at most {MAXIMUM_REPEAT} copies of a block, but `{repeat}` is {count}"
            yield Diagnostic("B0208", message, reading.spans[path], "an encoder's block repeats `layers` times")


def _turn_problems(reading: Reading) -> Iterator[Diagnostic]:
    """A list of blocks of which some would never have their turn."""
    sizes = sizes_of(reading)
    for path, blocks in reading.values.items():
        if not (is_tuple(blocks) and path.startswith("network.") and path.endswith(".block")):
            continue
        repeat = reading.values.get(path.removesuffix("block") + "repeat", 1)
        copies = sizes.get(repeat) if isinstance(repeat, str) else repeat
        if copies is not None and len(blocks) > copies:
            message = f"expected a block for each of {copies} copies at most, but found {len(blocks)}"
            yield Diagnostic("B0208", message, reading.spans[path], "`repeat` says how many copies there are")


def _shape_problems(reading: Reading) -> Iterator[Diagnostic]:
    positions, offset = (reading.values.get(path) for path in ("sizes.positions", "position_offset"))
    if positions is None or offset is None:
        return
    if offset >= positions:
        message = f"expected `position_offset` to leave positions, but {offset} of {positions} leaves none"
        span = _own_place(reading, "position_offset", "sizes.positions")
        yield Diagnostic("B0208", message, span, "it is 0 for BERT and 2 for RoBERTa")
        return
    for index, profile in enumerate(profiles_of(reading)):
        for dimension, message, help in profile_problems(profile, positions - offset):
            yield Diagnostic("B0208", message, reading.spans[f"shapes.{index}.{dimension}"], help)


def _file_problems(reading: Reading) -> Iterator[Diagnostic]:
    for path, value in reading.values.items():
        if path.startswith(("blocks.", "passes.", "extensions.")) and value.endswith((".net", ".py")):
            place = place_of(reading, path)
            if not os.path.isfile(place):
                message = f"expected a file at `{shown(str(place))}`, but there is none"
                yield Diagnostic("B0002", message, reading.spans[path], "check the path")


def _own_place(reading: Reading, *paths: str) -> Span:
    """The first of these that the spec's own file gives, since a base is right by itself; else the first given."""
    spans = [reading.spans[path] for path in paths if path in reading.spans]
    own = reading.spans[""].source
    return next((span for span in spans if span.source == own), spans[0])
