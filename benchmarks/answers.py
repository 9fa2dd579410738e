"""Answers in f16 to float32 on the host: bertc's way beside NumPy's, as both follow a run on a GPU.

    python benchmarks/answers.py [--json benchmarks/results/answers.json] [--pairs 31]

Both make a new array in one process, in turn (A B, B A, ...). The figure is the median of the pairs' ratios, NumPy's
time over ours: above 1 is faster.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bertc.bench.machine import cpu_name
from bertc.ops import Array
from bertc.targets.copies import copied
from bertc.writing import write_text

SHAPES = ((128, 768), (384, 768), (8 * 384, 1024), (128 * 384, 768))


def milliseconds(work: Callable[[Array], Array], rows: Array) -> float:
    start = time.perf_counter()
    work(rows)
    return (time.perf_counter() - start) * 1e3


def measured(shape: tuple[int, int], pairs: int) -> dict[str, Any]:
    rows = np.random.default_rng(0).standard_normal(shape).astype(np.float16)
    ways: list[Callable[[Array], Array]] = [copied, lambda rows: rows.astype(np.float32)]
    times = np.zeros((pairs + 1, 2))  # the first pair is not counted
    for pair in range(pairs + 1):
        for way in (0, 1) if pair % 2 else (1, 0):
            times[pair, way] = milliseconds(ways[way], rows)
    ours, theirs = times[1:].T
    low, ratio, high = np.quantile(theirs / ours, (0.25, 0.5, 0.75))
    found = {"ours_ms": np.median(ours), "numpy_ms": np.median(theirs), "ratio": ratio, "low": low, "high": high}
    return {"rows": shape[0], "width": shape[1]} | {name: round(float(value), 4) for name, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the results here")
    parser.add_argument("--pairs", type=int, default=31)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for shape in SHAPES:
        rows.append(measured(shape, options.pairs))
        print(", ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
    if options.json is not None:
        result = {"cpu": cpu_name(), "numpy": np.__version__, "rows": rows}
        write_text(options.json, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
