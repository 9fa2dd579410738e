"""Sequences one behind the other, as packed engines take them, and padded batches from and to them.

What `pack_sequences` makes a network of reads `input_ids`, `token_type_ids` and `places` [tokens], and `starts` and
`lengths` [batch].
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from bertc.ops import Array
from bertc.passes.pack_sequences import LENGTHS, PLACES, STARTS

PER_SEQUENCE = (STARTS, LENGTHS)
"""The inputs that have an entry for each sequence; the others have one for each token."""


def sequence_lengths(inputs: Mapping[str, Array]) -> Array:
    """[batch]: how many tokens each row has; one without any looks at its first place."""
    return np.maximum(inputs["attention_mask"].sum(1), 1)


def real_tokens(lengths: Array, seq: int) -> Array:
    """[batch, seq]: whether a token stands there, and not padding."""
    return np.less(np.arange(seq), lengths[:, None])


def packed(inputs: Mapping[str, Array]) -> dict[str, Array]:
    """A padded batch without its padding: `input_ids` and `token_type_ids` [tokens], `lengths` [batch]."""
    lengths = sequence_lengths(inputs)
    there = real_tokens(lengths, inputs["input_ids"].shape[1])
    return {name: inputs[name][there] for name in ("input_ids", "token_type_ids")} | {LENGTHS: lengths}


def located(inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Packed sequences with `starts` [batch], where each begins, and `places` [tokens], where in its own a token is."""
    lengths = inputs[LENGTHS]
    starts = np.cumsum(lengths) - lengths
    return {**inputs, STARTS: starts, PLACES: np.arange(lengths.sum()) - np.repeat(starts, lengths)}


def padded_again(
    answers: Mapping[str, Array], inputs: Mapping[str, Array], token_outputs: Collection[str]
) -> dict[str, Array]:
    """The answers to packed(inputs) as those to the padded batch, [batch, seq, ...], with zeros for padding."""
    there = real_tokens(sequence_lengths(inputs), inputs["input_ids"].shape[1])
    return {name: _spread(answer, there) if name in token_outputs else answer for name, answer in answers.items()}


def _spread(answer: Array, there: Array) -> Array:
    spread = np.zeros((*there.shape, *answer.shape[1:]), answer.dtype)
    spread[there] = answer
    return spread


def parts_of(inputs: Mapping[str, Array], most: int) -> list[dict[str, Array]]:
    """Packed sequences as several inputs, in their order, each of `most` sequences at most."""
    lengths = inputs[LENGTHS]
    sequences = np.arange(most, len(lengths), most)
    tokens = np.cumsum(lengths)[sequences - 1]
    cut = {name: np.split(array, sequences if name == LENGTHS else tokens) for name, array in inputs.items()}
    return [{name: pieces[index] for name, pieces in cut.items()} for index in range(len(sequences) + 1)]
