"""Sequences of any lengths: sorted into batches, padded or put one behind the other."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from bertc.ops import Array
from bertc.shapes import Profile


def batches(
    lengths: Sequence[int], profiles: Sequence[Profile], *, tokens: int | None = None, packed: bool = False
) -> list[list[int]]:
    """Which sequences run together: their indices, the longest sequences first, so that neighbours need little padding.

    A batch has at most `tokens` tokens, padding counted unless it is `packed`, and of padded sequences no more than the
    profiles have for their length; where `tokens` is left out, as many as the largest shape of the profiles. A sequence
    that is longer than that has a batch of its own.
    """
    limit = tokens or max(profile.batch.largest * profile.seq.largest for profile in profiles)
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    ends = list(accumulate(lengths[index] for index in order))
    found: list[list[int]] = []
    start = 0
    while start < len(order):
        longest = lengths[order[start]]
        if packed:
            count = bisect_right(ends, ends[start] - longest + limit) - start
        else:
            count = min(limit // width(longest, profiles), _most(longest, profiles))
        found.append(order[start : start + max(count, 1)])
        start += max(count, 1)
    return found


def width(longest: int, profiles: Sequence[Profile]) -> int:
    """How wide a padded batch is: its longest sequence, or what the profiles take at least."""
    return max(longest, min(profile.seq.smallest for profile in profiles if profile.seq.largest >= longest))


def _most(longest: int, profiles: Sequence[Profile]) -> int:
    return max(profile.batch.largest for profile in profiles if profile.seq.largest >= longest)


def padded(rows: Sequence[Array], width: int) -> Array:
    """[batch, width]: each row with zeros behind it."""
    batch = np.zeros((len(rows), width), np.int32)
    for target, row in zip(batch, rows, strict=True):
        target[: len(row)] = row
    return batch
