"""The machine that was measured: its processor, and its GPU with the clock and power it has at the moment."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Gpu:
    """What nvidia-smi says of a GPU (https://docs.nvidia.com/deploy/nvidia-smi, --help-query-gpu)."""

    name: str
    driver: str
    clock_mhz: float | None
    """Of the multiprocessors, at the moment; None where the driver does not say."""
    highest_clock_mhz: float | None
    power_watts: float | None
    power_limit_watts: float | None
    celsius: float | None

    @property
    def state(self) -> str:
        """Clock and power, as far as they are known."""
        clock = f"{self.clock_mhz:.0f} of {self.highest_clock_mhz:.0f} MHz" if self.clock_mhz else "clock unknown"
        power = f"{self.power_watts:.0f} of {self.power_limit_watts:.0f} W" if self.power_watts else "power unknown"
        return f"{clock}, {power}"


FIELDS = (
    *("name", "driver_version", "clocks.sm", "clocks.max.sm"),
    *("power.draw", "power.limit", "temperature.gpu"),
)


def cpu_name() -> str:
    """The processor as Linux names it, and how many of its cores there are."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return f"{next(names, platform.machine())}, {os.cpu_count()} cores"


def gpu_state(bus: str) -> Gpu | None:
    """The GPU at a place of the PCI bus; None where nvidia-smi cannot be asked."""
    command = ["nvidia-smi", f"--id={bus}", f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return parse_gpu(result.stdout) if result.returncode == 0 else None


def parse_gpu(line: str) -> Gpu | None:
    """A line of nvidia-smi's table; a number that it does not have stands as `[N/A]`."""
    cells = [cell.strip() for cell in line.strip().split(",")]
    if len(cells) != len(FIELDS):
        return None
    return Gpu(cells[0], cells[1], *map(_number, cells[2:]))


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None
