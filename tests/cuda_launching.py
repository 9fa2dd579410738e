"""Kernels in CUDA C++, launched with tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bertc.targets.cuda.driver import NUMBER, POINTER, STRUCTURE, Device
from bertc.targets.cuda.plan import Kernel


def launch(
    device: Device,
    folder: Path,
    kernel: Kernel,
    grid: tuple[int, int, int],
    parameters: Sequence[str],
    given: Mapping[str, Any],
    element: str,
) -> Callable[[], None]:
    """What puts a kernel on the device's stream. x and w are given as matrices, of which it takes boxes."""

    def value(name: str) -> tuple[Any, Any]:
        of = given[name]
        if name in ("x", "w"):
            rows, columns = of.shape
            box = kernel.boxes[("x", "w").index(name)]
            return device.tensor_map(of.data_ptr(), element, (rows, columns), columns, box), STRUCTURE
        return (of, NUMBER) if isinstance(of, int) else (of.data_ptr(), POINTER)

    function = device.function(folder / kernel.file, kernel.entry, kernel.shared)
    values = [value(name) for name in parameters]
    return partial(device.launch, function, grid, kernel.warps, kernel.shared, values, kernel.cluster)
