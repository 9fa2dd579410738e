"""Which profile of an engine a call runs in, and what is added to the call where the profile begins higher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bertc.errors import error
from bertc.ops import Array
from bertc.shapes import Profile


@dataclass(frozen=True)
class Fit:
    """A shape that a profile holds."""

    profile: int
    batch: int
    tokens: int
    """Of each sequence in a padded batch; of all together where they are packed."""


def best_fit(profiles: Sequence[Profile], batch: int, seq: int) -> Fit:
    """The smallest profile that holds a batch of sequences, padded where the profile begins higher.

    Least padding goes first, then the profile whose largest shape is smallest, since TensorRT chose its kernels for
    shapes like that. Raises BertcError B0702 when no profile is large enough.
    """
    fits = [
        Fit(index, max(batch, profiles[index].batch.smallest), max(seq, profiles[index].seq.smallest))
        for index in _holding(profiles, batch, seq)
    ]
    return min(fits, key=lambda fit: (fit.batch * fit.tokens, _largest(profiles[fit.profile])))


def best_packed_fit(profiles: Sequence[Profile], lengths: Array) -> Fit:
    """As `best_fit`, for sequences that are packed: sequences of one token are added where the profile begins higher.

    The tokens are not rounded up: IAttention's packed form wants as many as the lengths come to.
    """
    count, tokens = len(lengths), int(lengths.sum())
    fits = [
        Fit(index, count + missing, tokens + missing)
        for index in _holding(profiles, count, int(lengths.max()))
        for missing in [max(0, profiles[index].batch.smallest - count)]
    ]
    return min(fits, key=lambda fit: (fit.tokens, _largest(profiles[fit.profile])))


def most_sequences(profiles: Sequence[Profile], longest: int) -> int:
    """How many sequences of at most `longest` tokens one run takes. Raises BertcError B0702 when it takes none."""
    return max(profiles[index].batch.largest for index in _holding(profiles, 1, longest))


def _holding(profiles: Sequence[Profile], batch: int, seq: int) -> list[int]:
    found = [
        index for index, profile in enumerate(profiles) if batch <= profile.batch.largest and seq <= profile.seq.largest
    ]
    if not found:
        largest = ", ".join(f"{profile.batch.largest} of {profile.seq.largest}" for profile in profiles)
        message = f"the engine takes at most {largest} tokens, but {batch} of {seq} were given"
        raise error("B0702", message, None, "run fewer sequences at once, or build with larger `shapes`")
    return found


def _largest(profile: Profile) -> int:
    return profile.batch.largest * profile.seq.largest
