"""How much may still be read of a file: shared by all its parts, so that many small ones are no way around a bound."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Budget:
    left: int

    def spend(self) -> bool:
        """Takes one, and says whether there was one."""
        self.left -= 1
        return self.left >= 0
