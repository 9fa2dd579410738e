"""ONNX Runtime on the CPU: bertc's bundle beside the same model through onnxruntime's own transformers optimizer.

    python benchmarks/cpu.py [--json benchmarks/results/cpu.json] [--pairs 15]

This is `bertc bench --against onnxruntime`: both run in one process, in turn (A B, B A, ...), each turn a rest, an
untimed run and a timed one. The figure is the median of the pairs' ratios, ours over theirs: below 1 is faster. Needs
the onnx and bench extras.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import bertc
from bertc.bench import Protocol, bench
from bertc.bench.report import Row
from bertc.writing import write_text

MODELS = ("bert-base", "minilm-l6")
BATCHES, SEQ = (1, 8), 128


def measured(model: str, row: Row) -> dict[str, Any]:
    ours, theirs = (engine.latency_ms.median for engine in row.engines)
    times_as_fast = row.ratios[0].latency
    return {
        "model": model,
        "batch": row.batch,
        "seq": row.seq,
        "ours_ms": ours,
        "theirs_ms": theirs,
        "ratio": 1 / times_as_fast.median,
        "ratio_low": 1 / times_as_fast.high,
        "ratio_high": 1 / times_as_fast.low,
        "difference": row.ratios[0].difference,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the results here")
    parser.add_argument("--pairs", type=int, default=15)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    about: dict[str, Any] = {}
    for model in MODELS:
        with tempfile.TemporaryDirectory() as folder:
            bundle = Path(folder, "bundle")
            bertc.build(bertc.load(model), bundle, "onnx", random_seed=0)
            protocol = Protocol(runs=options.pairs, duration=0.0)
            report = bench(bundle, batch_sizes=BATCHES, seqs=(SEQ,), against=("onnxruntime",), protocol=protocol)
        about = {"cpu": report.cpu, "versions": asdict(report)["engines"]}
        for row in report.rows:
            rows.append(measured(model, row))
            text = "{model} {batch:2} x {seq}: ours {ours_ms:8.2f} ms, theirs {theirs_ms:8.2f} ms, ratio {ratio:.3f}"
            print((text + " ({ratio_low:.3f} to {ratio_high:.3f})").format(**rows[-1]), flush=True)
    if options.json:
        document = {"schema": "bertc-cpu-benchmark/1", **about, "rows": rows}
        write_text(options.json, json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
