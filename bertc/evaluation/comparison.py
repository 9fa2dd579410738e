"""Two networks side by side: how far apart what they give for the same sequences is.

Of all values x of an output of the first and y of the second:

    largest = max |x - y|        mean = mean |x - y|        cosine = x . y / (|x| |y|)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bertc.errors import did_you_mean, error
from bertc.ops import Array
from bertc.tree import shown

Sequences = tuple[Sequence[Array], Sequence[Array]]
"""Ids and types of the tokens of each, [length]."""

Network = Callable[[Sequence[Array], Sequence[Array]], Sequence[Mapping[str, Array]]]
"""Ids and types -> the outputs of each sequence by name."""

Progress = Callable[[str, int, int], None]

TOGETHER = 8
"""Sequences that are run before the next are: all layers of them fit into memory."""

FIRST_ID = 4
"""Below it are the ids of padding, which some networks count out of their places."""


@dataclass(frozen=True)
class Difference:
    output: str
    largest: float
    mean: float
    cosine: float
    """1 where both are 0 throughout."""


@dataclass
class _Sums:
    largest: float = 0.0
    absolute: float = 0.0
    count: int = 0
    product: float = 0.0
    first: float = 0.0
    second: float = 0.0

    def add(self, x: Array, y: Array) -> None:
        apart = np.abs(x - y)
        self.largest = float(np.maximum(self.largest, apart.max()))  # which keeps NaN, as `max` does not
        self.absolute += float(apart.sum())
        self.count += apart.size
        self.product += float(x @ y)
        self.first += float(x @ x)
        self.second += float(y @ y)

    def difference(self, output: str) -> Difference:
        lengths = math.sqrt(self.first * self.second)
        cosine = self.product / lengths if lengths else float(self.first == self.second)
        return Difference(output, self.largest, self.absolute / self.count, cosine)


def compare(first: Network, second: Network, blocks: Iterable[Sequences]) -> list[Difference]:
    """How far apart the outputs are that both have, in the order of the first's.

    Raises B0909 when they have none in common, or one of different shapes, and for no sequences at all; and what the
    networks raise.
    """
    sums: dict[str, _Sums] = {}
    for ids, types in blocks:
        for ours, theirs in zip(first(ids, types), second(ids, types), strict=True):
            for name in _common(ours, theirs):
                sums.setdefault(name, _Sums()).add(*(_values(side[name]) for side in (ours, theirs)))
    if not sums:
        raise error("B0909", "expected sequences to compare the networks on, but there are none")
    return [one.difference(name) for name, one in sums.items()]


def blocks_of(
    ids: Sequence[Array], types: Sequence[Array], progress: Progress | None = None, before: int = 0
) -> Iterator[Sequences]:
    """Sequences as they are run: some at a time.

    `progress` is told how many are done, the ones `before` these too, and of how many: when the next are asked for.
    """
    for start in range(0, len(ids), TOGETHER):
        block = ids[start : start + TOGETHER]
        yield block, types[start : start + TOGETHER]
        if progress is not None:
            progress("sequences", before + start + len(block), before + len(ids))


def _common(ours: Mapping[str, Array], theirs: Mapping[str, Array]) -> list[str]:
    names = [name for name in ours if name in theirs]
    if not names:
        found = ", ".join(f"`{name}`" for name in ours)
        message = f"expected an output that both have, but the first has {found} and the second has not"
        raise error("B0909", message, None, f"of the second's {did_you_mean('', theirs)}")
    for name in names:
        if ours[name].shape != theirs[name].shape:
            shapes = f"{list(ours[name].shape)} and {list(theirs[name].shape)}"
            raise error("B0909", f"expected `{name}` to have one shape in both, but found {shapes}")
    return names


def check_vocabulary(found: int, expected: int, name: str) -> None:
    """Raises B0909 for a network whose ids are others, so that it cannot run on the same sequences."""
    if found != expected:
        message = f"expected a vocabulary of {expected}, as the bundle has, but `{shown(name)}` has {found}"
        raise error("B0909", message, None, "name what the bundle was built from")


def _values(output: Array) -> Array:
    return output.astype(np.float64).ravel()


def random_sequences(count: int, longest: int, vocab: int, seed: int) -> Sequences:
    """Ids of all lengths from 1 to the longest, equally likely, and types that are 0."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(1, longest + 1, count)
    ids: list[Array] = [generator.integers(min(FIRST_ID, vocab - 1), vocab, length) for length in lengths]
    return ids, [np.zeros_like(row) for row in ids]
