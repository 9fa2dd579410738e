"""Embedding sentences on the CPU: bertc's `embed` beside sentence-transformers with the same weights.

    python benchmarks/text.py all-MiniLM-L6-v2 [--json benchmarks/results/text.json] [--sentences 5000] [--rounds 1]

Theirs is SentenceTransformer.encode with the backend "onnx" and the model that its own `export_optimized_onnx_model`
makes: onnxruntime's transformers optimizer at level O2, the highest that keeps the erf form of GELU. Both run in one
process, on as many threads as ONNX Runtime takes, from texts to vectors, 500 texts at a time, in turn (A B, B A, ...);
the figure is the median of the turns' ratios, ours over theirs: below 1 is faster. The sentences are made of words of
the vocabulary, as many as a log-normal law says (median 17, a tenth above 40).

sentence-transformers' backend needs a version of transformers that bertc's extra `bench` is past, so this has an
environment of its own: pip install 'bertc[onnx,text]' 'sentence-transformers[onnx]==5.2.3'
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from sentence_transformers import SentenceTransformer
from sentence_transformers.backend import export_optimized_onnx_model

import bertc
from bertc.bench.machine import cpu_name
from bertc.version import VERSION
from bertc.writing import write_text

LEVEL = "O2"
PART = 500
PACKAGES = ("numpy", "onnxruntime", "optimum-onnx", "sentence-transformers", "tokenizers", "torch", "transformers")


def sentences(model: Path, count: int) -> list[str]:
    words = [word for word in (model / "vocab.txt").read_text("utf-8").split("\n")[2000:12000] if word.isalpha()]
    chooser = random.Random(0)
    lengths = (min(150, max(3, round(chooser.lognormvariate(2.8, 0.7)))) for _ in range(count))
    return [" ".join(chooser.choices(words, k=length)) for length in lengths]


def theirs(model: Path, folder: str) -> Any:
    """The model exported, optimised and opened again, as sentence-transformers' documentation does it."""
    provider = {"provider": "CPUExecutionProvider"}
    exported = SentenceTransformer(str(model), backend="onnx", device="cpu", model_kwargs={**provider, "export": True})
    exported.save_pretrained(folder)
    export_optimized_onnx_model(exported, LEVEL, folder)
    file = {"file_name": f"onnx/model_{LEVEL}.onnx"}
    return SentenceTransformer(folder, backend="onnx", device="cpu", model_kwargs={**provider, **file})


def timed(call: Callable[[list[str]], Any], texts: list[str]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = call(texts)
    return time.perf_counter() - started, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="the Hugging Face directory of all-MiniLM-L6-v2")
    parser.add_argument("--json", type=Path, help="also write the results here")
    parser.add_argument("--sentences", type=int, default=5000, help="5000")
    parser.add_argument("--rounds", type=int, default=1, help="over all sentences; 1")
    options = parser.parse_args()
    texts = sentences(options.model, options.sentences)
    with tempfile.TemporaryDirectory() as folder:
        bundle = bertc.build(bertc.load(str(options.model)), Path(folder, "bundle"), "onnx")
        engine, peer = bertc.open(bundle.path), theirs(options.model, f"{folder}/peer")
        calls = {"ours": engine.embed, "theirs": peer.encode}
        parts = [texts[start : start + PART] for start in range(0, len(texts), PART)] * options.rounds
        seconds: dict[str, list[float]] = {name: [] for name in calls}
        difference = 0.0
        for turn, part in enumerate(parts):
            found: dict[str, Any] = {}
            for name in sorted(calls, reverse=turn % 2 == 1):
                taken, found[name] = timed(calls[name], part)
                seconds[name].append(taken)
            difference = max(difference, float(np.abs(found["ours"] - found["theirs"]).max()))
            speeds = ", ".join(f"{name} {len(part) / seconds[name][-1]:6.1f} sentences/s" for name in calls)
            print(f"{turn + 1:3}/{len(parts)}: {speeds}", flush=True)
    ratios = [ours / theirs for ours, theirs in zip(seconds["ours"], seconds["theirs"], strict=True)]
    low, ratio, high = statistics.quantiles(ratios, n=4)
    print(f"ratio {ratio:.3f} (half of the turns from {low:.3f} to {high:.3f}), largest difference {difference:.1e}")
    if options.json:
        versions = {"bertc": VERSION, **{package: version(package) for package in PACKAGES}}
        command = f"python benchmarks/text.py {options.model} --sentences {len(texts)} --rounds {options.rounds}"
        about = {"command": command, "cpu": cpu_name(), "versions": versions, "level": LEVEL, "sentences": len(texts)}
        result = {"ratio": ratio, "ratio_low": low, "ratio_high": high, "difference": difference, "seconds": seconds}
        write_text(options.json, json.dumps({"schema": "bertc-text-benchmark/2", **about, **result}, indent=2) + "\n")


if __name__ == "__main__":
    main()
