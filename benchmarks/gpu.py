"""The cuda target on a GPU: every kernel, shipped spec and family checked, then timed beside torch.compile.

    python benchmarks/gpu.py [--json benchmarks/results/gpu.json] [--only bert-base/1x128] [--only engines]

Each part's results stand in the JSON file with the day, the GPU and the versions of its own run; parts that are not run
stay as they are there.

The peer is that of `bertc bench --against torch`: the same network and weights in PyTorch, fp16, through torch.compile,
captured in a CUDA graph. Both replay their graphs in turn, in one process; device time by events, the median of the
pairs. Needs the cuda, bench and test extras and a GPU; engines are checked on every GPU that there is.
"""

from __future__ import annotations

import argparse
import datetime
import json
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from gpu_checks import CHECKS, PACKED_PASSES, check_embeddings

import bertc
from bertc.bench import Protocol, bench
from bertc.bench.lengths import SQUAD, draw_lengths
from bertc.bench.machine import gpu_state
from bertc.bench.report import Row
from bertc.shapes import Profile, Range
from bertc.targets.cuda.driver import Device
from bertc.targets.cuda.session import bucket
from bertc.version import VERSION
from bertc.writing import write_text

CASES = {
    "bert-base": ((1, 128), (1, 384), (128, 128), (128, 384)),
    "bert-large": ((1, 128), (1, 384), (8, 128), (8, 384), (128, 128), (128, 384)),
}
"""Spec, and for each row of the table batch and seq."""

ROWS = tuple(f"{name}/{batch}x{seq}" for name, shapes in CASES.items() for batch, seq in shapes)

PARTS = (*CHECKS, "embeddings", *ROWS, "packed")
"""What is run, in this order, and under what name its findings stand in the JSON file."""

PROTOCOL = Protocol(runs=30, duration=0.0)


def measure(name: str, shapes: Sequence[tuple[int, int]], folder: Path) -> Iterator[dict[str, Any]]:
    """Each shape, ours and torch.compile's in turn: device times, and latencies from host to host."""
    profiles = tuple(Profile(Range(batch, batch, batch), Range(seq, seq, seq)) for batch, seq in shapes)
    spec = replace(bertc.load(name), precision="fp16", shapes=profiles)
    bertc.build(spec, folder / "timed", "cuda", random_seed=0, force=True)
    report = bench(folder / "timed", against=("torch",), protocol=PROTOCOL)
    yield from (_table_row(name, row) for row in report.rows)


def _table_row(name: str, row: Row) -> dict[str, Any]:
    ours, theirs = _milliseconds(row)
    return {
        "spec": name,
        "batch": row.batch,
        "seq": row.seq,
        "milliseconds": round(ours, 4),
        "torch_compile": round(theirs, 4),
        **_ratio(row),
        "sequences_per_second": round(1e3 * row.batch / ours, 1),
        "difference": row.ratios[0].difference,
        "clock_mhz": row.gpu and row.gpu.clock_mhz,
        "power_watts": row.gpu and row.gpu.power_watts,
    }


def measure_packed(name: str, count: int, folder: Path) -> Iterator[dict[str, Any]]:
    """Device time of `count` sequences of SQuAD's lengths without padding, beside torch.compile padded to 384."""
    lengths = draw_lengths(SQUAD, count, 384)
    usual = -(-bucket(int(lengths.sum())) // count)
    profile = Profile(Range(count, count, count), Range(usual, usual, 384))
    spec = replace(bertc.load(name), precision="fp16", shapes=(profile,), passes=PACKED_PASSES)
    bertc.build(spec, folder / "timed", "cuda", random_seed=0, force=True)
    report = bench(folder / "timed", seqs=(384,), lengths=SQUAD, against=("torch",), protocol=PROTOCOL)
    row = report.rows[0]
    ours, theirs = _milliseconds(row)
    yield {
        "spec": name,
        "sequences": count,
        "mean_length": round(row.tokens / count, 1),
        "milliseconds": round(ours, 3),
        "sequences_per_second": round(1e3 * count / ours, 1),
        "torch_compile_padded": round(1e3 * count / theirs, 1),
        **_ratio(row),
    }


def _milliseconds(row: Row) -> tuple[float, float]:
    """On the device: ours, and torch.compile's."""
    ours, theirs = (engine.device_ms for engine in row.engines)
    assert ours is not None
    assert theirs is not None
    return ours.compute, theirs.compute


def _ratio(row: Row) -> dict[str, Any]:
    """torch.compile's time over ours: on the device with its quartiles, and from host to host."""
    ratio = row.ratios[0]
    assert ratio.compute is not None
    return {
        "ratio": round(ratio.compute.median, 3),
        "ratio_low": round(ratio.compute.low, 3),
        "ratio_high": round(ratio.compute.high, 3),
        "latency_milliseconds": round(row.engines[0].latency_ms.median, 4),
        "latency_ratio": round(ratio.latency.median, 3),
    }


def findings(
    wanted: Collection[str], checkpoint: Path | None, folder: Path
) -> Iterator[tuple[str, Iterable[dict[str, Any]]]]:
    """Each part and what is found of it, as it comes; the rows of a network are of one bundle."""
    for part, check in CHECKS.items():
        if part in wanted:
            yield part, check(folder)
    if checkpoint is not None and "embeddings" in wanted:
        yield "embeddings", check_embeddings(checkpoint, folder)
    for name, shapes in CASES.items():
        chosen = [(batch, seq) for batch, seq in shapes if f"{name}/{batch}x{seq}" in wanted]
        if chosen:
            yield from ((f"{name}/{row['batch']}x{row['seq']}", [row]) for row in measure(name, chosen, folder))
    if "packed" in wanted:
        yield "packed", measure_packed("bert-large", 256, folder)


def run_here() -> dict[str, Any]:
    """When a part is run, and with what."""
    device = Device()
    name, state = device.name, gpu_state(device.bus)
    device.close()
    versions = {"torch": torch.__version__, "cuda": torch.version.cuda, "triton": version("triton"), "bertc": VERSION}
    today = datetime.date.today().isoformat()
    return {"date": today, "gpu": name, "driver": state and state.driver, "versions": versions}


def merged(
    before: Mapping[str, Any], found: Mapping[str, Sequence[Mapping[str, Any]]], run: Mapping[str, Any]
) -> dict[str, Any]:
    """The document with the findings of some parts anew, each beside the run that it is of; all others as they were."""
    parts = {**before.get("parts", {}), **{part: {"run": run, "found": found[part]} for part in found}}
    return {"schema": "bertc-gpu-benchmark/2", "parts": {part: parts[part] for part in PARTS if part in parts}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--json", type=Path, help="write the results here; parts that are not run stay as they are there"
    )
    parser.add_argument("--checkpoint", type=Path, help="a directory of all-MiniLM-L6-v2, whose embeddings are checked")
    parser.add_argument(
        "--only",
        action="append",
        choices=(*PARTS, "table"),
        metavar="PART",
        help=f"{', '.join(PARTS)}, or table for all rows of it; again for more than one",
    )
    options = parser.parse_args()
    if options.checkpoint is None and "embeddings" in (options.only or ()):
        parser.error("embeddings are those of a real model: give --checkpoint")
    wanted = {*(options.only or PARTS), *(ROWS if "table" in (options.only or ()) else ())}
    run, found = run_here(), dict[str, list[dict[str, Any]]]()
    before: dict[str, Any] = (
        json.loads(options.json.read_text("utf-8")) if options.json and options.json.exists() else {}
    )
    with tempfile.TemporaryDirectory() as scratch:
        for part, of_part in findings(wanted, options.checkpoint, Path(scratch)):
            found[part] = []
            for one in of_part:
                found[part].append(one)
                print(f"{part}:", ", ".join(f"{name} {_short(value)}" for name, value in one.items()), flush=True)
            if options.json:
                write_text(options.json, json.dumps(merged(before, found, run), indent=2) + "\n")


def _short(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
