"""Models run by ONNX Runtime, on the CPU."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bertc.ops import Array
from bertc.targets import Runtime
from bertc.timings import of_onnxruntime

PROVIDERS = ["CPUExecutionProvider"]

WARM = 3
"""Runs that are not counted in a record of times."""

TOGETHER = 1024
"""Tokens: more of them leave the processor's caches between one op and the next, and take a sixth longer."""


def runtime_of(session: Any, names: Mapping[str, str]) -> Runtime:
    """A session of ONNX Runtime as `open_session` gives it."""
    outputs: dict[str, list[int | str]] = {output.name: output.shape for output in session.get_outputs()}

    def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
        given = {names[name]: array for name, array in inputs.items()}
        return dict(zip(outputs, session.run(list(outputs), given), strict=True))

    token_outputs = frozenset(name for name, shape in outputs.items() if "seq" in shape)
    return Runtime(run, lambda: None, token_outputs, together=TOGETHER)


def profiled(model: Path, inputs: Mapping[str, Array], runs: int) -> dict[str, float]:
    """Milliseconds of each node in a run, by a session of its own that keeps a record; the first runs do not count."""
    runtime: Any = import_module("onnxruntime")
    with TemporaryDirectory() as folder:
        options = runtime.SessionOptions()
        options.enable_profiling = True
        options.profile_file_prefix = f"{folder}/trace"
        session = runtime.InferenceSession(model, options, providers=PROVIDERS)
        for _ in range(WARM + runs):
            session.run(None, inputs)
        events: list[dict[str, Any]] = json.loads(Path(session.end_profiling()).read_text("utf-8"))
    starts = sorted(event["ts"] for event in events if event["name"] == "model_run")
    return of_onnxruntime([event for event in events if event["ts"] >= starts[WARM]])
