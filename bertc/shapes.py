"""What an engine is built for: ranges of batch and sequence, in bertc's and in trtexec's notation."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from bertc.errors import Source, Span, did_you_mean, error
from bertc.spec_fields import INPUT_NAMES, RANGE_LIMIT


@dataclass(frozen=True)
class Range:
    smallest: int
    usual: int
    largest: int


@dataclass(frozen=True)
class Profile:
    """The calls that one optimisation profile serves: `batch` sequences of `seq` tokens."""

    batch: Range
    seq: Range


def default_profile(positions: int) -> Profile:
    """What most callers ask for: any length that has a position, up to BERT's 512."""
    return Profile(Range(1, 8, 32), Range(1, min(128, positions), min(512, positions)))


def profile_problems(profile: Profile, positions: int) -> Iterator[tuple[str, str, str]]:
    """What is wrong with a profile of a network that has `positions`: dimension, message, help."""
    for dimension, span in (("batch", profile.batch), ("seq", profile.seq)):
        if not RANGE_LIMIT.smallest <= span.smallest <= span.usual <= span.largest <= RANGE_LIMIT.largest:
            found = f"{span.smallest}, {span.usual}, {span.largest}"
            wanted = f"rise from {RANGE_LIMIT.smallest} or more to {RANGE_LIMIT.largest} at most"
            message = f"expected `{dimension}` to {wanted}, but found {found}"
            yield dimension, message, "the order is smallest, usual, largest"
    if profile.seq.largest > positions:
        message = f"expected `seq` to be {positions} at most, but found {profile.seq.largest}"
        yield "seq", message, "a sequence has no more tokens than the network has positions"


_DIMENSION = re.compile(r"\s*(\w+)\s*=\s*([0-9]{1,9})(?::([0-9]{1,9}):([0-9]{1,9}))?\s*")


def parse_shapes(text: str, flag: str = "--shapes") -> Profile:
    """`batch=1:8:32,seq=16:128:384`, each smallest:usual:largest, or one number: `batch=8`. Raises B0212."""
    source, example = Source(flag, text), "for instance `batch=1:8:32,seq=16:128:384`"
    ranges: dict[str, Range] = {}
    for part in re.finditer(r"[^,]+", text):
        place = Span(source, 1, part.start() + 1, len(part[0]))
        match = _DIMENSION.fullmatch(part[0])
        if match is None:
            raise error("B0212", "expected `NAME=NUMBER` or `NAME=SMALLEST:USUAL:LARGEST`", place, example)
        name, smallest, usual, largest = match.groups()
        if name not in ("batch", "seq"):
            raise error("B0212", f"`{name}` is not a dimension of shapes", place, did_you_mean(name, ("batch", "seq")))
        if name in ranges:
            raise error("B0212", f"`{name}` is given twice", place, "give the flag again for a second profile")
        ranges[name] = Range(int(smallest), int(usual or smallest), int(largest or smallest))
    if len(ranges) < 2:
        raise error("B0212", "expected both `batch` and `seq`", Span(source, 1, 1, max(1, len(text))), example)
    return Profile(**ranges)


def parse_input_shapes(smallest: str | None, usual: str | None, largest: str | None) -> Profile:
    """trtexec's `--minShapes`, `--optShapes`, `--maxShapes`: `input_ids:1x16` or `input_ids:[1,16]`. Raises B0212.

    As in trtexec, all three are given, or `--optShapes` alone for an engine of one shape.
    """
    if usual is None or (smallest is None) != (largest is None):
        message = "expected --minShapes, --optShapes and --maxShapes, or --optShapes alone"
        raise error("B0212", message, None, "for instance `--optShapes=input_ids:8x128`")
    middle = _input_shape(usual, "--optShapes")
    low = _input_shape(smallest, "--minShapes") if smallest is not None else middle
    high = _input_shape(largest, "--maxShapes") if largest is not None else middle
    return Profile(Range(low[0], middle[0], high[0]), Range(low[1], middle[1], high[1]))


_INPUT = re.compile(r"[,\s]*(\w+):(?:([0-9]{1,9})x([0-9]{1,9})|\[([0-9]{1,9}),\s*([0-9]{1,9})\])")


def _input_shape(text: str, flag: str) -> tuple[int, int]:
    """(batch, seq), which all the inputs that are named agree on."""
    source, known = Source(flag, text), {name for names in INPUT_NAMES.values() for name in names}
    shape: tuple[int, int] | None = None
    offset = 0
    while offset < len(text) or shape is None:
        match = _INPUT.match(text, offset)
        place = Span(source, 1, offset + 1, len(text) - offset)
        if match is None:
            raise error("B0212", "expected `INPUT:BATCHxSEQ` or `INPUT:[BATCH,SEQ]`", place, "as in `input_ids:8x128`")
        if match[1] not in known:
            raise error("B0212", f"`{match[1]}` is not an input", place, did_you_mean(match[1], known))
        found = int(match[2] or match[4]), int(match[3] or match[5])
        if shape not in (None, found):
            raise error("B0212", "expected all inputs to have one shape", place, "each is [batch, seq]")
        shape, offset = found, match.end()
    return shape
