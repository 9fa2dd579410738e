"""Every kernel of every TensorRT plugin, launched on a GPU as TensorRT is told to launch it, beside its op's reference.

    python tests/tensorrt_kernels.py 11.4 90 small,minilm,base,wide f32,f16,bf16 | gzip > plugins.json.gz
    python benchmarks/tensorrt_plugins.py plugins.json.gz [--json benchmarks/results/tensorrt_plugins.json]

The first line needs no GPU: it takes from NVIDIA's own `tensorrt.plugin` what an engine would embed, for each tactic
the PTX and the launch expressions, and evaluates these for some batches. The second needs no TensorRT: the driver
compiles the PTX once, and each batch is launched with the grid, the block, the shared memory and the arguments of
TensorRT's: the addresses of the inputs, the numbers, the addresses of the outputs. Exit code 1 says that a kernel takes
other parameters, differs by more than its bound, or writes past its outputs.
"""

from __future__ import annotations

import argparse
import datetime
import gzip
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from tensorrt_kernels import expected, given  # noqa: E402

from bertc.targets.cuda.driver import NUMBER, POINTER, Device  # noqa: E402
from bertc.targets.cuda.plan import ELEMENTS  # noqa: E402
from bertc.targets.tensorrt.ptx import parameters  # noqa: E402
from bertc.version import VERSION  # noqa: E402

BITS = {"f32": 23, "f16": 10, "bf16": 7}

BOUNDS = {"f32": 40.0, "f16": 1.01, "bf16": 1.01}
"""Units in the last place at the size of the largest result, as in tests/test_kernels.py: operands are rounded already
and sums are float32, so that f16 and bf16 differ by their own rounding, and float32 by the order of its sums."""

GUARD = 256
"""Bytes behind each output, which no kernel may write; TensorRT's tensors are as far apart."""

UNTOUCHED = 0xFF
"""Makes NaNs of an output where nothing was written."""

KINDS = {".u64": POINTER, ".u32": NUMBER}
"""PTX's types of parameters."""


def difference(
    device: Any, function: Any, kernel: Mapping[str, Any], launch: Mapping[str, Any], case: tuple[Any, Any]
) -> float:
    """The largest difference of one launch, in units in the last place; infinite where something was not written.

    `case` is what the kernel is given and what it must answer. Raises AssertionError for parameters that are not
    TensorRT's, and for bytes written behind an output.
    """
    inputs, wanted = case
    results = [np.empty(result.shape, ELEMENTS[kernel["element"]]) for result in wanted]
    addresses = [_uploaded(device, array) for array in inputs.values()]
    places = [_untouched(device, result.nbytes + GUARD) for result in results]
    try:
        _launch(device, function, kernel, launch, addresses, places)
        for result, place in zip(results, places, strict=True):
            whole = np.empty(result.nbytes + GUARD, np.uint8)
            device.start_download(whole, place)
            device.wait()
            assert (whole[result.nbytes :] == UNTOUCHED).all(), "bytes behind an output were written"
            result[...] = whole[: result.nbytes].view(result.dtype).reshape(result.shape)
    finally:
        for address in (*addresses, *places):
            device.free(address)
    return max(_units(found, exact, kernel["element"]) for found, exact in zip(results, wanted, strict=True))


def _units(found: Any, exact: Any, element: str) -> float:
    unit = 2.0 ** (math.floor(math.log2(np.abs(exact).max())) - BITS[element])
    worst = float(np.abs(found.astype(np.float64) - exact).max() / unit)
    return math.inf if math.isnan(worst) else worst


def _uploaded(device: Any, array: Any) -> int:
    address = device.allocate(array.nbytes)
    device.upload(address, array)
    return address


def _untouched(device: Any, size: int) -> int:
    address = device.allocate(size)
    device.call("cuMemsetD8Async", address, UNTOUCHED, size, device.stream)
    return address


def _launch(
    device: Any,
    function: Any,
    kernel: Mapping[str, Any],
    launch: Mapping[str, Any],
    inputs: Sequence[int],
    outputs: Sequence[int],
) -> None:
    """cuLaunchKernel with TensorRT's arguments, and no attributes."""
    arguments = [(address, POINTER) for address in inputs]
    arguments += [(number, NUMBER) for number in launch["numbers"]]
    arguments += [(address, POINTER) for address in outputs]
    declared = [KINDS[parameter.split()[1]] for parameter in parameters(kernel["ptx"])]
    assert declared == [kind for _, kind in arguments], (
        f"{kernel['plugin']} takes other parameters than TensorRT passes"
    )
    sizes = launch["sizes"]
    grid, block = ([sizes[f"{kind}_{axis}"] for axis in "xyz"] for kind in ("grid", "block"))
    values = tuple(value for value, _ in arguments), tuple(kind for _, kind in arguments)
    device.call("cuLaunchKernel", function, *grid, *block, sizes["shared_mem"], device.stream, values, 0)
    device.wait()


def check(device: Any, kernels: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """All kernels of one plugin and one element type: a row of the table."""
    worst, failure = 0.0, None
    cases: dict[tuple[str, int, int], tuple[Any, Any]] = {}
    for kernel in kernels:
        module = device.call("cuModuleLoadData", kernel["ptx"].encode() + b"\0")
        function = device.call("cuModuleGetFunction", module, kernel["name"].encode())
        for launch in kernel["launches"]:
            key = kernel["network"], launch["batch"], launch["seq"]
            if key not in cases:
                inputs = given(kernel, *key[1:])
                cases[key] = inputs, expected(kernel, inputs)
            try:
                worst = max(worst, difference(device, function, kernel, launch, cases[key]))
            except AssertionError as problem:
                failure = f"tactic {kernel['tactic']} of {kernel['network']}: {problem}"
        device.call("cuModuleUnload", module)
    plugin, element = kernels[0]["plugin"], kernels[0]["element"]
    shapes = sorted({(launch["batch"], launch["seq"]) for kernel in kernels for launch in kernel["launches"]})
    return {
        "plugin": plugin,
        "element": element,
        "kernels": len(kernels),
        "shapes": [f"{batch}x{seq}" for batch, seq in shapes],
        "difference": round(worst, 3) if math.isfinite(worst) else None,
        "bound": BOUNDS[element],
        "ok": failure is None and worst <= BOUNDS[element],
        "failure": failure,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kernels", type=Path, help="what tests/tensorrt_kernels.py printed, through gzip")
    parser.add_argument("--json", type=Path, help="write the table here")
    options = parser.parse_args(arguments)
    groups: dict[tuple[str, str], list[Any]] = {}
    for kernel in json.loads(gzip.decompress(options.kernels.read_bytes())):
        groups.setdefault((kernel["plugin"], kernel["element"]), []).append(kernel)
    device = Device()
    rows: list[dict[str, Any]] = []
    print(f"{'plugin':32} {'type':4} {'kernels':>7} {'largest difference':>20} {'bound':>6}  batches", flush=True)
    for kernels in groups.values():
        with device.current():
            row = check(device, kernels)
        rows.append(row)
        found = row["failure"] or f"{row['difference']} ulp"
        line = f"{row['plugin']:32} {row['element']:4} {row['kernels']:7} {found:>20} {row['bound']:6}"
        print(f"{line}  {' '.join(row['shapes'])}{'' if row['ok'] else '  FAILED'}", flush=True)
    here = {"gpu": device.name, "date": datetime.date.today().isoformat(), "versions": {"bertc": VERSION}}
    device.close()
    if options.json:
        options.json.write_text(
            json.dumps({"schema": "bertc-plugin-launches/1", **here, "rows": rows}, indent=2) + "\n"
        )
    return 0 if all(row["ok"] for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
