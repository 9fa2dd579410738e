"""Opening a checkpoint of BERT-large (340 million parameters, float32) in every format, before a value is asked for.

    PYTHONPATH=tests python benchmarks/open_weights.py [--json benchmarks/results/open_weights.json] [--folder /tmp]

Each format is written, then opened in processes of its own: the time is the median of five, with the files in the page
cache and `bertc.weights_io` imported, the memory the most that a whole process had resident. The bar is 0.3 s and
100 MB. Needs Linux, the test extra, 3 GB of disk and 8 GB of memory.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from every_format import FORMATS

from bertc.writing import write_text

SECONDS, MEGABYTES = 0.3, 100
REPEATS = 5

OPEN = r"""
import json, re, sys, time
from pathlib import Path
from bertc.weights_io import open_checkpoint

def most_resident():  # since this program started; getrusage also counts the one that started it
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024 / 1e6

before = most_resident()
started = time.perf_counter()
tensors = open_checkpoint(Path(sys.argv[1]))
seconds = time.perf_counter() - started
print(json.dumps({"seconds": seconds, "tensors": len(tensors), "resident": most_resident(), "before": before}))
"""


def bert_large() -> dict[str, torch.Tensor]:
    """Parameters of the right shapes; opening does not look at their values."""
    sizes = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
    with torch.device("meta"):
        model = transformers.BertModel(transformers.BertConfig(**sizes))
    return {name: torch.zeros(tensor.shape) for name, tensor in model.state_dict().items()}


def measure(path: Path) -> dict[str, Any]:
    command = [sys.executable, "-c", OPEN, str(path)]
    runs = [json.loads(subprocess.run(command, check=True, capture_output=True).stdout) for _ in range(REPEATS)]
    return {
        "seconds": round(statistics.median(run["seconds"] for run in runs), 4),
        "resident_megabytes": round(max(run["resident"] for run in runs), 1),
        "of_which_before": round(min(run["before"] for run in runs), 1),
        "tensors": runs[0]["tensors"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--folder", type=Path, help="where the checkpoints are written, one after the other")
    options = parser.parse_args()
    tensors = bert_large()
    results: dict[str, Any] = {}
    for name, write in FORMATS.items():
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            results[name] = found = measure(write(tensors, Path(folder)))
        misses = "  MISSED" if found["seconds"] > SECONDS or found["resident_megabytes"] > MEGABYTES else ""
        print(f"{name:32} {found['seconds']:7.3f} s {found['resident_megabytes']:7.1f} MB{misses}", flush=True)
    if options.json:
        write_text(options.json, json.dumps({"schema": "bertc-open-weights/1", "formats": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
