"""The cuda target on a GPU: every kernel and every shipped spec checked, then timed beside torch.compile.

    python benchmarks/gpu.py [--json benchmarks/results/gpu.json] [--only bert-base/1x128]

The peer is a plain PyTorch encoder in fp16 (scaled_dot_product_attention without a mask, F.gelu, F.layer_norm) through
torch.compile, captured in a CUDA graph. Both replay their graphs in turn, in one process; device time by events, the
median of the pairs. Needs the cuda and test extras and a GPU.
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
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

import bertc
from bertc.compiler import bind_weights
from bertc.elaborate import elaborate
from bertc.reference import evaluate
from bertc.shapes import Profile, Range
from bertc.targets.cuda.driver import Device
from bertc.targets.cuda.session import Session, bucket
from bertc.version import VERSION

CASES = [
    ("bert-base", 1, 128),
    ("bert-base", 1, 384),
    ("bert-large", 1, 128),
    ("bert-large", 1, 384),
    ("bert-large", 8, 128),
    ("bert-large", 8, 384),
    ("bert-base", 128, 128),
    ("bert-base", 128, 384),
    ("bert-large", 128, 128),
    ("bert-large", 128, 384),
]
"""Spec, batch, seq: the rows of the table."""

BOUNDS = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1.6e-1}
"""Hidden states reach 5: f16 and bf16 round them to 2^-9 and 2^-6, and layers add that up."""

PAIRS = 30

PACKED_PASSES = ("default", "pack_sequences")


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


def squad_lengths(count: int) -> Any:
    """Numbers of tokens like those of SQuAD's questions with their paragraphs: log-normal around 165, at most 384."""
    return np.clip(np.random.default_rng(0).lognormal(5.02, 0.4, count).astype(int), 24, 384)


def check_kernels() -> str:
    """The cases of tests/test_kernels.py, compiled and on this GPU; pytest's last line."""
    tests = Path(__file__).parent.parent / "tests" / "test_kernels.py"
    environment = {**os.environ, "BERTC_TEST_DEVICE": "cuda"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tests), "-o", "addopts="]
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
    assert worst < BOUNDS[precision], f"{name} {precision} differs by {worst:.1e}"
    checked = {"spec": name, "precision": precision, "packed": packed}
    return {**checked, "difference": worst, "bound": BOUNDS[precision]}


class Encoder(torch.nn.Module):
    """BERT as one writes it for speed in PyTorch: one product for query, key and value, fused attention."""

    def __init__(self, sizes: dict[str, int]) -> None:
        super().__init__()
        n, inner, self.heads = sizes["hidden"], sizes["inner"], sizes["heads"]
        self.tables = torch.nn.ModuleList(torch.nn.Embedding(sizes[key], n) for key in ("vocab", "positions", "types"))
        self.first_norm = torch.nn.LayerNorm(n, eps=1e-12)
        linear, norm = torch.nn.Linear, torch.nn.LayerNorm
        self.layers = torch.nn.ModuleList(
            torch.nn.ModuleList(
                [
                    linear(n, 3 * n),
                    linear(n, n),
                    norm(n, eps=1e-12),
                    linear(n, inner),
                    linear(inner, n),
                    norm(n, eps=1e-12),
                ]
            )
            for _ in range(sizes["layers"])
        )
        self.pooler = linear(n, n)

    def forward(self, ids: Any, types: Any) -> tuple[Any, Any]:
        places = torch.arange(ids.shape[1], device=ids.device)
        word, position, kind = self.tables
        x = self.first_norm(word(ids) + position(places) + kind(types))
        for merged, output, norm, up, down, last in self.layers:
            shape = (*ids.shape, 3, self.heads, -1)
            query, key, value = merged(x).view(shape).permute(2, 0, 3, 1, 4)
            context = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
            x = norm(x + output(context))
            x = last(x + down(functional.gelu(up(x))))
        return x, torch.tanh(self.pooler(x[:, 0]))


def peer(sizes: dict[str, int], batch: int, seq: int) -> Callable[[], None]:
    """torch.compile's graph of the encoder, ready to be replayed."""
    torch._dynamo.reset()
    model = torch.compile(Encoder(sizes).cuda().half().eval(), dynamic=False)
    ids = torch.randint(0, sizes["vocab"], (batch, seq), device="cuda")
    with torch.inference_mode():
        for _ in range(3):
            model(ids, torch.zeros_like(ids))
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            model(ids, torch.zeros_like(ids))
    return graph.replay


def elapsed(work: Callable[[], None]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    work()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def measure(name: str, batch: int, seq: int, folder: Path) -> dict[str, Any]:
    """Device time of one shape, ours and torch.compile's in turn."""
    spec = bertc.load(name)
    theirs = peer(dict(spec.sizes), batch, seq)
    profile = Profile(Range(batch, batch, batch), Range(seq, seq, seq))
    bertc.build(replace(spec, precision="fp16", shapes=(profile,)), folder / "timed", "cuda", random_seed=0, force=True)
    session = Session(folder / "timed", Device())
    ids = np.random.default_rng(0).integers(0, spec.sizes["vocab"], (batch, seq))
    session.run({"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)})
    graph = session.prepare({"batch": batch, "seq": seq, "tokens": batch * seq}).graph
    times: list[tuple[float, float]] = []
    for _ in range(PAIRS + 3):
        ours = session.device.milliseconds(lambda: session.device.replay(graph))
        times.append((ours, elapsed(theirs)))
    session.close()
    ours, others = np.array(times[3:]).T
    return {
        "spec": name,
        "batch": batch,
        "seq": seq,
        "milliseconds": round(float(np.median(ours)), 4),
        "torch_compile": round(float(np.median(others)), 4),
        "ratio": round(float(np.median(others / ours)), 3),
        "sequences_per_second": round(1e3 * batch / float(np.median(ours)), 1),
    }


def measure_packed(name: str, count: int, padded: dict[str, Any] | None, folder: Path) -> dict[str, Any]:
    """Device time of `count` sequences of SQuAD's lengths without padding, beside torch.compile padded to 384."""
    lengths = squad_lengths(count)
    usual = Range(count, count, count), Range(*[int(lengths.mean())] * 3)
    spec = replace(bertc.load(name), precision="fp16", shapes=(Profile(*usual),), passes=PACKED_PASSES)
    bertc.build(spec, folder / "timed", "cuda", random_seed=0, force=True)
    session = Session(folder / "timed", Device())
    mask = (np.arange(384) < lengths[:, None]).astype(np.int64)
    ids = np.random.default_rng(0).integers(0, spec.sizes["vocab"], mask.shape)
    session.run({"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)})
    sizes = {"batch": count, "seq": bucket(int(lengths.max())), "tokens": bucket(int(lengths.sum()))}
    graph = session.prepare(sizes).graph
    times = [session.device.milliseconds(lambda: session.device.replay(graph)) for _ in range(PAIRS + 3)][3:]
    session.close()
    rate = 1e3 * count / float(np.median(times))
    row = {"spec": name, "sequences": count, "mean_length": round(float(lengths.mean()), 1)}
    row |= {"milliseconds": round(float(np.median(times)), 3), "sequences_per_second": round(rate, 1)}
    if padded is not None:
        theirs = 1e3 * padded["batch"] / padded["torch_compile"]
        row |= {"torch_compile_padded": round(theirs, 1), "ratio": round(rate / theirs, 3)}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the results here")
    parser.add_argument("--only", action="append", help="a row of the table, as bert-base/1x128; no checks then")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    checks: list[dict[str, Any]] = []
    kernels = leaks = None
    with tempfile.TemporaryDirectory() as scratch:
        if not options.only:
            kernels = check_kernels()
            print(f"kernels: {kernels}", flush=True)
            leaks = check_leaks(Path(scratch))
            print(f"10 000 runs over 200 shapes take {leaks}", flush=True)
            for name in ("minilm-l6", "bert-base", "bert-large", "megatron-345m"):
                for precision, packed in product(BOUNDS, (False, True)):
                    checks.append(check_spec(name, precision, packed, Path(scratch)))
                    text = "{spec} {precision} packed={packed}: {difference:.1e} (bound {bound:.0e})"
                    print(text.format(**checks[-1]), flush=True)
        for name, batch, seq in CASES:
            if not options.only or f"{name}/{batch}x{seq}" in options.only:
                rows.append(measure(name, batch, seq, Path(scratch)))
                text = "{spec} {batch} x {seq}: {milliseconds} ms, torch.compile {torch_compile}, ratio {ratio}"
                print(text.format(**rows[-1]), flush=True)
        padded = next(
            (row for row in rows if (row["spec"], row["batch"], row["seq"]) == ("bert-large", 128, 384)), None
        )
        packed_row = measure_packed("bert-large", 256, padded, Path(scratch))
        print(packed_row, flush=True)
    if options.json:
        versions = {"torch": torch.__version__, "cuda": torch.version.cuda, "bertc": VERSION}
        document = {
            "schema": "bertc-gpu-benchmark/1",
            "gpu": torch.cuda.get_device_name(),
            "date": datetime.date.today().isoformat(),
            "versions": versions,
            "kernels": kernels,
            "leaks": leaks,
            "checks": checks,
            "rows": rows,
            "packed": packed_row,
        }
        options.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
