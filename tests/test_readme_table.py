"""The README's figures are those of the committed runs, and nothing else.

Set BERTC_GOLDEN=write to write the table anew.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

ROOT = Path(__file__).parent.parent
START, END = "<!-- gpu table -->\n", "<!-- end of gpu table -->\n"


def table() -> str:
    document = json.loads((ROOT / "benchmarks" / "results" / "gpu.json").read_text("utf-8"))
    lines = ["| network | batch × seq | bertc | torch.compile | ratio |", "|---|---|---|---|---|"]
    lines += [
        f"| {row['spec']} | {row['batch']} × {row['seq']} | {row['milliseconds']:.3g} ms"
        f" | {row['torch_compile']:.3g} ms | {row['ratio']:.2f} |"
        for row in document["rows"]
    ]
    packed = document["packed"]
    lines.append(
        f"| {packed['spec']}, packed, {packed['mean_length']:.0f} tokens on average | {packed['sequences']} sequences"
        f" | {packed['sequences_per_second']:.0f}/s | {packed['torch_compile_padded']:.0f}/s padded to 384"
        f" | {packed['ratio']:.2f} |"
    )
    return "\n".join(lines) + "\n"


def test_the_table_is_the_committed_run() -> None:
    path = ROOT / "README.md"
    head, rest = path.read_text("utf-8").split(START)
    expected = head + START + table() + END + rest.split(END)[1]
    if os.environ.get("BERTC_GOLDEN") == "write":
        path.write_text(expected, "utf-8")
    assert path.read_text("utf-8") == expected
