"""`tensorrt.plugin` as NVIDIA ships it, on top of a double of the rest.

Its registration half is Python. The wheels of tensorrt_cu13_bindings (1.3 MB each; tests/tensorrt_api/*.txt pin them by
hash, `make test` fetches them) are unpacked for that Python alone: their C++ half needs libraries of gigabytes.
"""

from __future__ import annotations

import importlib.util
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

WHEELS = Path(sys.prefix) / "tensorrt"

SAME_AS = {"10.12": "10.16", "10.14": "10.16"}
"""Versions whose `tensorrt.plugin` is another's, but for spacing and what bertc does not use."""


@contextmanager
def imported(double: Any, version: str) -> Iterator[Any]:
    """`import tensorrt` and `import tensorrt.plugin` give the double and the wheel's own plugin module inside."""
    before = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "tensorrt"}
    for name in before:
        del sys.modules[name]
    sys.modules["tensorrt"] = double
    folder = WHEELS / SAME_AS.get(version, version) / "tensorrt_bindings" / "plugin"
    found = importlib.util.spec_from_file_location(
        "tensorrt.plugin", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules["tensorrt.plugin"] = double.plugin = module
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # escapes in its docstrings
            found.loader.exec_module(module)
        yield module
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "tensorrt"]:
            del sys.modules[name]
        sys.modules.update(before)
