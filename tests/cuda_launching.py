"""Kernels in CUDA C++: what they take of a GPU, and their launch with tensors."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bertc.targets.cuda.driver import NUMBER, POINTER, STRUCTURE, Device
from bertc.targets.cuda.plan import Kernel


def resources(machine_code: Path) -> dict[str, int]:
    """What a thread takes when it starts, REG, and what it has in memory of its own, STACK bytes."""
    import triton  # not before kernels are declared for its interpreter

    command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", str(machine_code)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {name: int(count) for name, count in re.findall(r"(\w+):(\d+)", text)}


def launch(
    device: Device,
    folder: Path,
    kernel: Kernel,
    grid: tuple[int, int, int],
    parameters: Sequence[str],
    given: Mapping[str, Any],
    element: str,
) -> Callable[[], None]:
    """What puts a kernel on the device's stream. It takes boxes of what is given as matrices."""
    boxes = iter(kernel.boxes)

    def value(name: str) -> tuple[Any, Any]:
        of = given[name]
        if not isinstance(of, int) and of.ndim == 2:
            map = device.tensor_map(of.data_ptr(), element, tuple(of.shape), of.stride(0), next(boxes))
            return map, STRUCTURE
        return (of, NUMBER) if isinstance(of, int) else (of.data_ptr(), POINTER)

    function = device.function(folder / kernel.file, kernel.entry, kernel.shared)
    values = [value(name) for name in parameters]
    return partial(device.launch, function, grid, kernel.warps, kernel.shared, values, kernel.cluster)
