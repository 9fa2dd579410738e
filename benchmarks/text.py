"""Embedding sentences on the CPU: bertc's `embed` beside the way of sentence-transformers with ONNX Runtime.

    python benchmarks/text.py all-MiniLM-L6-v2 [--json benchmarks/results/text.json] [--sentences 5000] [--rounds 3]

Theirs is what SentenceTransformer.encode does: the sentences sorted, in batches of 32, through the fast tokenizer, the
same model as onnxruntime's transformers optimizer leaves it, the mean over the mask, and normalisation, in NumPy. Both
run in one process, in turn (A B, B A, ...), from texts to vectors; the figure is the median of the rounds' ratios, ours
over theirs: below 1 is faster. The sentences are made of words of the vocabulary, as many as a log-normal law says
(median 17, a tenth above 40). Needs the onnx, text and bench extras.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoTokenizer

import bertc
from bertc.bench.machine import cpu_name
from bertc.bench.peers import Network, Peer, bundle_graph, bundle_weights, open_peer

BATCH, LIMIT = 32, 256
"""sentence-transformers' own, and the model's."""


def sentences(model: Path, count: int) -> list[str]:
    words = [word for word in (model / "vocab.txt").read_text("utf-8").split("\n")[2000:12000] if word.isalpha()]
    chooser = random.Random(0)
    lengths = (min(150, max(3, round(chooser.lognormvariate(2.8, 0.7)))) for _ in range(count))
    return [" ".join(chooser.choices(words, k=length)) for length in lengths]


def encode(peer: Peer, tokenizer: Any, texts: Sequence[str]) -> Any:
    """SentenceTransformer.encode, without what it is not asked for here."""
    order = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
    vectors = np.empty((len(texts), 384), np.float32)
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        chosen = [texts[row] for row in rows]
        batch = tokenizer(chosen, padding=True, truncation=True, max_length=LIMIT, return_tensors="np")
        outputs: Any = peer.prepare(batch).run()
        mask = batch["attention_mask"][:, :, None].astype(np.float32)
        vectors[rows] = (outputs["last_hidden_state"] * mask).sum(1) / mask.sum(1)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = call()
    return time.perf_counter() - started, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="the Hugging Face directory of all-MiniLM-L6-v2")
    parser.add_argument("--json", type=Path, help="also write the results here")
    parser.add_argument("--sentences", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    texts = sentences(options.model, options.sentences)
    spec = bertc.load(str(options.model))
    with tempfile.TemporaryDirectory() as folder:
        bundle = bertc.build(spec, Path(folder, "bundle"), "onnx")
        graph = bundle_graph(bundle)
        weights, _ = bundle_weights(bundle, graph, spec, None)
        peer = open_peer("onnxruntime", Network(graph, weights, bundle.manifest.sizes, None))
        engine, tokenizer = bertc.open(bundle.path), AutoTokenizer.from_pretrained(options.model)
        calls = {"ours": lambda: engine.embed(texts), "theirs": lambda: encode(peer, tokenizer, texts)}
        seconds: dict[str, list[float]] = {name: [] for name in calls}
        found: dict[str, Any] = {}
        for turn in range(options.rounds):
            for name in sorted(calls, reverse=turn % 2 == 1):
                taken, found[name] = timed(calls[name])
                seconds[name].append(taken)
                print(f"{name:6} {taken:7.2f} s, {len(texts) / taken:7.1f} sentences/s", flush=True)
    ratio = statistics.median(ours / theirs for ours, theirs in zip(seconds["ours"], seconds["theirs"], strict=True))
    difference = float(np.abs(found["ours"] - found["theirs"]).max())
    print(f"ratio {ratio:.3f}, largest difference {difference:.1e}")
    if options.json:
        about = {"cpu": cpu_name(), "peer": peer.description, "sentences": len(texts)}
        result = {"seconds": seconds, "ratio": ratio, "difference": difference}
        options.json.write_text(json.dumps({"schema": "bertc-text-benchmark/1", **about, **result}, indent=2) + "\n")


if __name__ == "__main__":
    main()
