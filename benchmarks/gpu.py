"""The cuda target on a GPU: every kernel and every shipped spec checked, then timed beside torch.compile.

    python benchmarks/gpu.py [--json benchmarks/results/gpu.json] [--only bert-base/1x128] [--only engines]

The peer is that of `bertc bench --against torch`: the same network and weights in PyTorch, fp16, through torch.compile,
captured in a CUDA graph. Both replay their graphs in turn, in one process; device time by events, the median of the
pairs. Needs the cuda, bench and test extras and a GPU; with more than one, engines on two of them are checked too.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import bertc
from bertc.bench import Protocol, bench
from bertc.bench.lengths import SQUAD, draw_lengths
from bertc.bench.report import Row
from bertc.compiler import bind_weights
from bertc.elaborate import elaborate
from bertc.errors import BertcError
from bertc.reference import evaluate
from bertc.shapes import Profile, Range
from bertc.targets.cuda.driver import Device
from bertc.targets.cuda.session import Session, bucket
from bertc.version import VERSION

SPECS = ("minilm-l6", "bert-base", "bert-large", "megatron-345m")

CASES = {
    "bert-base": ((1, 128), (1, 384), (128, 128), (128, 384)),
    "bert-large": ((1, 128), (1, 384), (8, 128), (8, 384), (128, 128), (128, 384)),
}
"""Spec, and for each row of the table batch and seq."""

BOUNDS = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1.6e-1}
"""Hidden states reach 5: f16 and bf16 round them to 2^-9 and 2^-6, and layers add that up."""

PROTOCOL = Protocol(runs=30, duration=0.0)

PACKED_PASSES = ("default", "pack_sequences")

LEAST_COSINES = {"fp32": 0.9999, "fp16": 0.9999, "bf16": 0.9998}
"""Between an embedding and the same by float64; weights rounded to bf16 leave 0.99994 by themselves."""

SENTENCES = [
    "A man is eating food.",
    "A man is eating a piece of bread.",
    "The girl is carrying a baby.",
    "A man is riding a horse.",
    "A woman is playing the violin.",
    "Two men pushed carts through the woods.",
    "A man is riding a white horse on an enclosed ground.",
    "A monkey is playing drums.",
    "A cheetah is running behind its prey.",
    "Paris is the capital of France, and has been since the Middle Ages.",
    "What is the capital of France?",
    "No.",
]


def check_leaks(folder: Path) -> dict[str, int]:
    """10 000 runs over 200 shapes: the device memory and the host memory that the second half of them takes."""
    profile = Profile(Range(1, 8, 16), Range(8, 64, 128))
    spec = replace(bertc.load("minilm-l6"), precision="fp16", shapes=(profile,))
    bertc.build(spec, folder / "leaks", "cuda", random_seed=0, force=True)
    session = Session(folder / "leaks", Device())
    generator = np.random.default_rng(0)
    drawn = generator.integers((1, 8), (17, 129), (199, 2)).tolist()
    shapes = [(16, 128), *((batch, seq) for batch, seq in drawn)]
    marks: list[tuple[int, int]] = []
    for index, (batch, seq) in enumerate(shapes):
        ids = generator.integers(0, spec.sizes["vocab"], (batch, seq))
        inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        for _ in range(50):
            session.run(inputs)
        if index in (99, 199):
            marks.append((session.device.free_memory(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))
    session.close()
    taken = {"device_bytes": marks[0][0] - marks[1][0], "host_kibibytes": marks[1][1] - marks[0][1]}
    assert taken["device_bytes"] <= 8 << 20, taken
    assert taken["host_kibibytes"] <= 64 << 10, taken
    return taken


def check_kernels() -> str:
    """The cases of tests/test_kernels*.py, compiled and on this GPU; pytest's last line."""
    tests = map(str, sorted((Path(__file__).parent.parent / "tests").glob("test_kernels*.py")))
    environment = {**os.environ, "BERTC_TEST_DEVICE": "cuda"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests, "-o", "addopts="]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit(result.stdout[-3000:] + result.stderr[-2000:])
    return result.stdout.strip().splitlines()[-1]


def check_spec(name: str, precision: str, packed: bool, folder: Path) -> dict[str, Any]:
    """A shipped spec with random weights, padded batches of two shapes: the largest difference from float64, at tokens
    that are there."""
    profile = Profile(Range(1, 3, 3), Range(11, 37, 64))
    passes = PACKED_PASSES if packed else ("default",)
    spec = replace(bertc.load(name), precision=precision, shapes=(profile,), passes=passes)
    bertc.build(spec, folder / "checked", "cuda", random_seed=0, force=True)
    engine = bertc.open(folder / "checked")
    graph = elaborate(spec)
    weights = bind_weights(spec, graph, None, 0)
    generator, worst = np.random.default_rng(0), 0.0
    for batch, seq in ((3, 37), (1, 11)):
        lengths = generator.integers(1, seq + 1, (batch, 1))
        inputs = {
            "input_ids": generator.integers(0, spec.sizes["vocab"], (batch, seq)),
            "attention_mask": (np.arange(seq) < lengths).astype(np.int64),
            "token_type_ids": generator.integers(0, spec.sizes["types"], (batch, seq)),
        }
        expected, found = evaluate(graph, inputs, weights), engine.run(inputs)
        there = inputs["attention_mask"] > 0
        there[:, 0] = True
        for key in expected:
            difference = np.abs(found[key] - expected[key])
            worst = max(worst, float((difference[there] if difference.shape[:2] == there.shape else difference).max()))
    engine.close()
    assert worst < BOUNDS[precision], f"{name} {precision} differs by {worst:.1e}"
    checked = {"spec": name, "precision": precision, "packed": packed}
    return {**checked, "difference": worst, "bound": BOUNDS[precision]}


def check_embeddings(checkpoint: Path, folder: Path) -> list[dict[str, Any]]:
    """A real model's embeddings of some sentences against those by float64: the least cosine."""
    found: list[dict[str, Any]] = []
    for precision, packed in product(BOUNDS, (False, True)):
        profile = Profile(Range(1, 8, 16), Range(3, 32, 128))
        passes = PACKED_PASSES if packed else ("default",)
        spec = replace(bertc.load(str(checkpoint)), precision=precision, shapes=(profile,), passes=passes)
        bertc.build(spec, folder / "embeddings", "cuda", force=True)
        engine = bertc.open(folder / "embeddings")
        graph = elaborate(spec)
        weights = bind_weights(spec, graph, spec.weights, None)
        cosines: list[float] = []
        sequences = engine.text.encodings(SENTENCES, cut=True)
        for sequence, vector in zip(sequences, engine.embed(SENTENCES), strict=True):
            ids = np.array([sequence.ids])
            inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
            mean = evaluate(graph, inputs, weights)["last_hidden_state"][0].mean(0)
            cosines.append(float(vector @ mean / np.linalg.norm(mean)))
        engine.close()
        least, bound = min(cosines), LEAST_COSINES[precision]
        assert least > bound, f"{precision} packed={packed}: a cosine of {least:.6f}"
        found.append({"precision": precision, "packed": packed, "cosine": least, "bound": bound})
    return found


def check_engines(folder: Path) -> list[dict[str, Any]]:
    """Lists of sequences against one at a time, on every GPU, from several threads; the largest differences."""
    spec = replace(bertc.load("minilm-l6"), precision="fp16", shapes=(Profile(Range(1, 8, 16), Range(8, 64, 128)),))
    rows = [np.random.default_rng(index).integers(0, spec.sizes["vocab"], 1 + 7 * index % 128) for index in range(60)]
    count = torch.cuda.device_count()
    found: list[dict[str, Any]] = []
    for passes in (("default",), PACKED_PASSES):
        bertc.build(replace(spec, passes=passes), folder / "engines", "cuda", random_seed=0, force=True)
        engines = [bertc.open(folder / "engines", device=number) for number in range(count) for _ in range(2)]
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda engine: engine.run_sequences(rows, tokens=500), engines * 3))
        alone = [engines[0].run({"input_ids": row[None]}) for row in rows]
        worst = max(
            float(np.abs(answer[name] - one[name][0]).max())
            for answered in answers
            for answer, one in zip(answered, alone, strict=True)
            for name in one
        )
        for engine in engines:
            engine.close()
        assert worst < BOUNDS["fp16"], f"lists of sequences differ by {worst:.1e}"
        found.append({"packed": passes == PACKED_PASSES, "gpus": count, "engines": len(engines), "difference": worst})
    with pytest.raises(BertcError, match=f"there is no GPU {count}"):
        bertc.open(folder / "engines", device=count)
    return found


def measure(name: str, shapes: Sequence[tuple[int, int]], folder: Path) -> list[dict[str, Any]]:
    """Each shape, ours and torch.compile's in turn: device times, and latencies from host to host."""
    profiles = tuple(Profile(Range(batch, batch, batch), Range(seq, seq, seq)) for batch, seq in shapes)
    spec = replace(bertc.load(name), precision="fp16", shapes=profiles)
    bertc.build(spec, folder / "timed", "cuda", random_seed=0, force=True)
    report = bench(folder / "timed", against=("torch",), protocol=PROTOCOL)
    return [_table_row(name, row) for row in report.rows]


def _table_row(name: str, row: Row) -> dict[str, Any]:
    ours, theirs = (engine.device_ms.compute for engine in row.engines)
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


def measure_packed(name: str, count: int, folder: Path) -> dict[str, Any]:
    """Device time of `count` sequences of SQuAD's lengths without padding, beside torch.compile padded to 384."""
    lengths = draw_lengths(SQUAD, count, 384)
    usual = -(-bucket(int(lengths.sum())) // count)
    profile = Profile(Range(count, count, count), Range(usual, usual, 384))
    spec = replace(bertc.load(name), precision="fp16", shapes=(profile,), passes=PACKED_PASSES)
    bertc.build(spec, folder / "timed", "cuda", random_seed=0, force=True)
    report = bench(folder / "timed", seqs=(384,), lengths=SQUAD, against=("torch",), protocol=PROTOCOL)
    row = report.rows[0]
    ours, theirs = (engine.device_ms.compute for engine in row.engines)
    return {
        "spec": name,
        "sequences": count,
        "mean_length": round(row.tokens / count, 1),
        "milliseconds": round(ours, 3),
        "sequences_per_second": round(1e3 * count / ours, 1),
        "torch_compile_padded": round(1e3 * count / theirs, 1),
        **_ratio(row),
    }


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--json", type=Path, help="write the results here; parts that are not run stay as they are there"
    )
    parser.add_argument("--checkpoint", type=Path, help="a directory of all-MiniLM-L6-v2, whose embeddings are checked")
    parts = "a row of the table, as bert-base/1x128, or kernels, leaks, embeddings, engines, specs, table, packed"
    parser.add_argument("--only", action="append", help=f"{parts}; again for more than one")
    options = parser.parse_args()

    def wanted(part: str) -> bool:
        return not options.only or part in options.only

    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if wanted("kernels"):
            found["kernels"] = check_kernels()
            print(f"kernels: {found['kernels']}", flush=True)
        if wanted("leaks"):
            found["leaks"] = check_leaks(folder)
            print(f"10 000 runs over 200 shapes take {found['leaks']}", flush=True)
        if wanted("embeddings") and options.checkpoint:
            found["embeddings"] = check_embeddings(options.checkpoint, folder)
            print(f"embeddings: {found['embeddings']}", flush=True)
        if wanted("engines"):
            found["engines"] = check_engines(folder)
            print(f"lists of sequences: {found['engines']}", flush=True)
        for name, precision, packed in product(SPECS, BOUNDS, (False, True)) if wanted("specs") else ():
            checked = check_spec(name, precision, packed, folder)
            found.setdefault("checks", []).append(checked)
            print(
                "{spec} {precision} packed={packed}: {difference:.1e} (bound {bound:.0e})".format(**checked), flush=True
            )
        for name, shapes in CASES.items():
            chosen = shapes if wanted("table") else [case for case in shapes if wanted(f"{name}/{case[0]}x{case[1]}")]
            for row in measure(name, chosen, folder) if chosen else []:
                found.setdefault("rows", []).append(row)
                text = "{spec} {batch} x {seq}: {milliseconds} ms, torch.compile {torch_compile}, ratio {ratio}"
                print((text + ", {clock_mhz} MHz, {power_watts} W").format(**row), flush=True)
        if wanted("packed"):
            found["packed"] = measure_packed("bert-large", 256, folder)
            print(found["packed"], flush=True)
    if options.json:
        before = json.loads(options.json.read_text()) if options.json.exists() else {}
        versions = {"torch": torch.__version__, "cuda": torch.version.cuda, "bertc": VERSION}
        here = {"schema": "bertc-gpu-benchmark/1", "gpu": torch.cuda.get_device_name(), "versions": versions}
        today = {"date": datetime.date.today().isoformat()}
        options.json.write_text(json.dumps(before | here | today | found, indent=2) + "\n")


if __name__ == "__main__":
    main()
