"""ONNX Runtime on the CPU: bertc's bundle beside the same model through onnxruntime's own transformers optimizer.

    python benchmarks/cpu.py [--json benchmarks/results/cpu.json] [--pairs 15]

Both run in one process with the same session options, in turn (A B, B A, ...), each turn a rest, an untimed run and a
timed one: without them the other engine's threads still spin and cost up to half the time. The figure is the median of
the pairs' ratios, ours over theirs: below 1 is faster. The peer is exported by torch.onnx.export from transformers and
optimised as `onnxruntime.transformers.optimizer --model_type bert` does. Needs the test extra.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
import transformers
from onnxruntime.transformers import optimizer

import bertc

MODELS = {
    "bert-base": {},
    "minilm-l6": {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536},
}
CASES = [("bert-base", 1, 128), ("bert-base", 8, 128), ("minilm-l6", 1, 128), ("minilm-l6", 8, 128)]

REST = 0.1
"""Seconds after which an idle thread pool of ONNX Runtime has gone to sleep."""


class LastAndPooled(torch.nn.Module):
    """The two outputs that both engines compute."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> tuple[Any, Any]:
        result = self.model(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
        return result.last_hidden_state, result.pooler_output


def peer(model: Any, config: Any, folder: Path) -> Any:
    """transformers -> torch.onnx.export -> onnxruntime's optimizer -> a session."""
    names = ["input_ids", "attention_mask", "token_type_ids"]
    example = tuple(torch.ones((2, 16), dtype=torch.int64) for _ in names)
    torch.onnx.export(
        LastAndPooled(model).eval(),
        example,
        str(folder / "exported.onnx"),
        input_names=names,
        output_names=["last_hidden_state", "pooler_output"],
        dynamic_axes={name: {0: "batch", 1: "seq"} for name in names},
        opset_version=17,
        dynamo=False,
    )
    optimised = optimizer.optimize_model(
        str(folder / "exported.onnx"),
        model_type="bert",
        num_heads=config.num_attention_heads,
        hidden_size=config.hidden_size,
        opt_level=1,
    )
    optimised.save_model_to_file(str(folder / "optimised.onnx"))
    session = onnxruntime.InferenceSession(folder / "optimised.onnx", providers=["CPUExecutionProvider"])
    wanted = {node.name for node in session.get_inputs()}
    return lambda inputs: session.run(None, {k: v for k, v in inputs.items() if k in wanted}), optimised


def measure(ours: Any, theirs: Any, batch: int, seq: int, pairs: int) -> dict[str, float]:
    generator = np.random.default_rng(0)
    ids = generator.integers(0, 30522, (batch, seq))
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    runs = [lambda: ours(inputs), lambda: theirs(inputs)]
    difference = float(np.abs(ours(inputs)["last_hidden_state"] - theirs(inputs)[0]).max())
    times: list[list[float]] = [[], []]
    for index in range(pairs + 2):
        for which in (0, 1) if index % 2 else (1, 0):
            time.sleep(REST)
            runs[which]()
            started = time.perf_counter()
            runs[which]()
            times[which].append((time.perf_counter() - started) * 1e3)
    mine, others = (np.array(side[2:]) for side in times)
    ratios = mine / others
    return {
        "ours_ms": float(np.median(mine)),
        "theirs_ms": float(np.median(others)),
        "ratio": float(np.median(ratios)),
        "ratio_low": float(np.quantile(ratios, 0.25)),
        "ratio_high": float(np.quantile(ratios, 0.75)),
        "difference": difference,
    }


def cpu_name() -> str:
    """The processor's name as Linux tells it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return f"{next(names, platform.machine())}, {os.cpu_count()} cores"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the results here")
    parser.add_argument("--pairs", type=int, default=15)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name, fields in MODELS.items():
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            torch.manual_seed(0)
            config = transformers.BertConfig(**fields, attn_implementation="eager")
            model = transformers.BertModel(config).eval()
            model.save_pretrained(folder / "model")
            theirs, optimised = peer(model, config, folder)
            bertc.build(bertc.load(str(folder / "model")), folder / "bundle", "onnx")
            ours = bertc.open(folder / "bundle").run
            print(f"{name}: their fusions {optimised.get_fused_operator_statistics()}")
            for case, batch, seq in CASES:
                if case == name:
                    row = {
                        "model": name,
                        "batch": batch,
                        "seq": seq,
                        **measure(ours, theirs, batch, seq, options.pairs),
                    }
                    rows.append(row)
                    print("  {batch:2} x {seq}: ours {ours_ms:8.2f} ms, theirs {theirs_ms:8.2f} ms, ratio {ratio:.3f} "
                          "({ratio_low:.3f} to {ratio_high:.3f})".format(**row))  # fmt: skip
    if options.json:
        versions = {
            "onnxruntime": onnxruntime.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }
        document = {"schema": "bertc-cpu-benchmark/1", "cpu": cpu_name(), "versions": versions, "rows": rows}
        options.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
