"""What is run: sequences of random ids, of every batch size and width that is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from bertc.bench.lengths import draw_lengths
from bertc.bundle import Manifest
from bertc.errors import error
from bertc.ops import Array
from bertc.sequences import padded

MOST_TOKENS = 1 << 24
"""Of one workload, padding counted: vectors of 768 numbers for so many take 48 GiB."""


@dataclass(frozen=True)
class Workload:
    """Sequences to run, [length] each, and the width that they are padded to where they are."""

    ids: tuple[Array, ...]
    seq: int

    @property
    def whole(self) -> bool:
        """Whether no sequence needs padding."""
        return all(len(row) == self.seq for row in self.ids)

    def inputs(self, rows: Sequence[int] | None = None, width: int | None = None) -> dict[str, Array]:
        """Some or all of the sequences as a padded batch."""
        chosen = self.ids if rows is None else [self.ids[row] for row in rows]
        ids = padded(chosen, width or self.seq)
        lengths = np.array([len(row) for row in chosen], np.int32)
        mask: Array = np.less(np.arange(len(ids[0])), lengths[:, None])
        return {"input_ids": ids, "attention_mask": mask.astype(np.int32), "token_type_ids": np.zeros_like(ids)}


def draw_workloads(
    manifest: Manifest, batch_sizes: Sequence[int], seqs: Sequence[int], lengths: str, seed: int
) -> list[Workload]:
    """Random ids for every batch size and width, the profiles' usual ones where there are none.

    Raises BertcError B0702 for a width that the bundle does not take and for more than MOST_TOKENS, and what
    `draw_lengths` raises.
    """
    longest = max(profile.seq.largest for profile in manifest.profiles)
    if too_long := [seq for seq in seqs if seq > longest]:
        message = f"the bundle takes at most {longest} tokens, but {too_long[0]} were asked for"
        raise error("B0702", message, None, "measure shorter sequences, or build with larger `shapes`")
    if seqs or batch_sizes:
        usual = manifest.profiles[0]
        shapes = list(product(batch_sizes or (usual.batch.usual,), seqs or (usual.seq.usual,)))
    else:
        shapes = [(profile.batch.usual, profile.seq.usual) for profile in manifest.profiles]
    if too_many := [(batch, seq) for batch, seq in shapes if batch * seq > MOST_TOKENS]:
        batch, seq = too_many[0]
        message = f"at most {MOST_TOKENS} tokens are measured at once, but {batch} sequences of {seq} were asked for"
        raise error("B0702", message, None, "measure smaller batches")
    generator = np.random.default_rng(seed)
    found: list[Workload] = []
    for batch, seq in shapes:
        drawn = draw_lengths(lengths, batch, seq, seed)
        ids: Array = generator.integers(0, manifest.sizes["vocab"], int(drawn.sum()), np.int32)
        found.append(Workload(tuple(np.split(ids, np.cumsum(drawn)[:-1])), seq))
    return found
