"""How much may be read of a checkpoint: its files share every bound, so that many of them are no way around one."""

from __future__ import annotations

from dataclasses import dataclass, field

MAX_HEADER = 8_000_000
"""Bytes of JSON; BERT large has 50 000. The reference reader of safetensors has a limit of 100 million."""
MAX_PUNCTUATION = 300_000
"""Quotes, commas, colons and brackets of JSON: together they bound its values. 10 000 tensors need that many."""
MAX_MEMBERS = 20_000
"""Of zip files."""
MAX_OPCODES = 100_000
"""Of pickles. A tensor takes about 30, so that 1000 tensors with two optimizer slots each are within the bound."""
MAX_ENTRIES = 10_000
"""Of dicts in pickles, counted as often as they are met: a pickle can put one dict into many places."""


@dataclass(slots=True)
class Budget:
    left: int

    def spend(self, count: int = 1) -> bool:
        """Takes so many, and says whether there were as many."""
        self.left -= count
        return self.left >= 0


@dataclass(frozen=True, slots=True)
class Budgets:
    """What is left of each bound, for the files of one checkpoint that are still to be read."""

    header: Budget = field(default_factory=lambda: Budget(MAX_HEADER))
    punctuation: Budget = field(default_factory=lambda: Budget(MAX_PUNCTUATION))
    members: Budget = field(default_factory=lambda: Budget(MAX_MEMBERS))
    opcodes: Budget = field(default_factory=lambda: Budget(MAX_OPCODES))
    entries: Budget = field(default_factory=lambda: Budget(MAX_ENTRIES))
