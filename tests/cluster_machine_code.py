"""The machine code of linear_cluster.cu: whether blocks read each other's sums when these are there, and all of them
before others may leave.

Six scoreboards of a warp count its loads on their way. In the upper word of an instruction stand the one that its
result is counted on, and those that it waits for (Jia et al. 2018, Dissecting the NVIDIA Volta GPU Architecture via
Microbenchmarking, 2.1). That of compute capability 9.0 is laid out the same.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

LINE = re.compile(r"(\.L_x_\d+:)|/\*[0-9a-f]{4}\*/\s+(.+?)\s*;?\s*/\* 0x[0-9a-f]{16} \*/\s+/\* 0x([0-9a-f]{16}) \*/")


@dataclass(frozen=True)
class Instruction:
    """Or a label, which waits for nothing."""

    text: str
    control: int = 7 << 46

    @property
    def scoreboard(self) -> int:
        """That its result is counted on; 7 for none."""
        return self.control >> 46 & 7

    @property
    def waits(self) -> set[int]:
        """The scoreboards that are empty when it starts."""
        return {number for number in range(6) if self.control >> 52 + number & 1}


def disassembled(machine_code: Path) -> list[Instruction]:
    """By NVIDIA's disassembler, which comes with Triton."""
    import triton  # not before kernels are declared for its interpreter

    command = [triton.knobs.nvidia.nvdisasm.path, "-c", "-hex", "-ndf", str(machine_code)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [
        Instruction(label or instruction, int(control, 16) if control else 7 << 46)
        for label, instruction, control in LINE.findall(text)
    ]


def is_published(code: Sequence[Instruction]) -> bool:
    """Whether all that a block has stored is in its shared memory when it arrives at the first barrier: NVIDIA's own
    release of it in the cluster is a fence for the block, and one that waits for stores on their way."""
    arrival = next(index for index, instruction in enumerate(code) if "UCGABAR_ARV" in instruction.text)
    last = max(index for index, instruction in enumerate(code[:arrival]) if instruction.text.startswith("STS"))
    behind = code[last : arrival + 1]
    fences = [index for index, instruction in enumerate(behind) if re.match("MEMBAR|FENCE", instruction.text)]
    names = [behind[index].text for index in fences]
    waits = set[int]().union(*(instruction.waits for instruction in behind[fences[-1] + 1 :]))
    return names == ["MEMBAR.ALL.CTA", "FENCE.VIEW.ASYNC.S"] and behind[fences[-1]].scoreboard in waits


def unread(code: Sequence[Instruction], count: int) -> list[str]:
    """Of so many reads of other blocks' sums, those that need not have come when their block arrives at the last
    barrier."""
    reads = [index for index, instruction in enumerate(code) if re.search(r"\bLD\.E\.128\b", instruction.text)]
    arrivals = [index for index, instruction in enumerate(code) if "UCGABAR_ARV" in instruction.text]
    assert len(reads) == count
    assert len(arrivals) == 2, "with sums, and without"
    assert arrivals[0] < reads[0] < reads[-1] < arrivals[1], "reads stand between the barriers"
    between = code[reads[0] : arrivals[1] + 1]
    assert not any(instruction.text.startswith(".L") for instruction in between), "no jump leads there"
    underway: dict[int, list[str]] = {}
    for instruction in between:
        for scoreboard in instruction.waits:
            underway.pop(scoreboard, None)
        if "LD.E.128" in instruction.text:
            underway.setdefault(instruction.scoreboard, []).append(instruction.text)
    return [read for reads in underway.values() for read in reads]
