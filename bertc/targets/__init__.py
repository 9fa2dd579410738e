"""Lowerings, one for each engine. A module offers `hosting`, `write`, `refit`, `why_not_here` and
`open_session`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bertc.ops import Array


@dataclass(frozen=True)
class Phases:
    """What a device spends on one call, in milliseconds by its own clock. The words are trtexec's."""

    host_to_device: float
    compute: float
    device_to_host: float


@dataclass(frozen=True)
class Runtime:
    """An engine that is loaded: what `open_session` returns. Inputs have Hugging Face's names and are i32."""

    run: Callable[[Mapping[str, Array]], dict[str, Array]]
    """`input_ids`, `attention_mask`, `token_type_ids` [batch, seq] -> every output."""
    close: Callable[[], None]
    """Gives back what the engine holds; it is not called after that."""
    token_outputs: frozenset[str]
    """The outputs that have an entry for each token, [batch, seq, ...]; the others have one for each sequence."""
    run_packed: Callable[[Mapping[str, Array]], dict[str, Array]] | None = None
    """`input_ids`, `token_type_ids` [tokens] and `lengths` [batch], the sequences one behind the other -> every output,
    token_outputs as [tokens, ...]; None where the engine takes padded batches alone."""
    phases: Callable[[Mapping[str, Array]], Phases] | None = None
    """What a call of `run` costs the device; None where there is no device apart from the host."""
    step_times: Callable[[Mapping[str, Array], int], dict[str, float]] | None = None
    """What `run` is called with, and how many runs -> milliseconds of each step of one run on average, by the engine's
    name of it; None where the engine does not tell."""
    gpu: str | None = None
    """The GPU it runs on, by its place on the PCI bus (`0000:3B:00.0`); None on the CPU."""
    together: int | None = None
    """Of many sequences, how many tokens are best run together; None for as many as fit."""
    check_shape: Callable[[int, int], object] | None = None
    """Raises BertcError B0702 for a batch and seq that `run` does not take; None where it takes any."""
