"""What docs/text.md says of the throughput of `embed` is the committed run of benchmarks/text.py."""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_document_quotes_the_committed_run() -> None:
    run = json.loads((ROOT / "benchmarks" / "results" / "text.json").read_text("utf-8"))
    document = " ".join((ROOT / "docs" / "text.md").read_text("utf-8").split())
    assert run["ratio"] < 1
    assert f"{run['sentences']} sentences" in document
    assert (
        f"{run['ratio']:.2f} of the time of sentence-transformers {run['versions']['sentence-transformers']}"
        in document
    )
    assert f"half of the turns from {run['ratio_low']:.2f} to {run['ratio_high']:.2f}" in document
