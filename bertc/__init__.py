"""bertc compiles a short description of a transformer encoder into an inference engine.

    import bertc

    spec = bertc.load("minilm-l6")
    bertc.build(spec, Path("out/minilm"), "onnx", weights=Path("all-MiniLM-L6-v2"))
    engine = bertc.open("out/minilm")
    hidden = engine.run({"input_ids": ids, "attention_mask": mask})["last_hidden_state"]
    vectors = engine.embed(["a sentence", "another"])

Nothing heavy is imported before it is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bertc.compiler import build, compile, stages, targets
    from bertc.engine import Engine, open
    from bertc.errors import BertcError
    from bertc.extensions import extend, graph_pass
    from bertc.refitting import refit
    from bertc.spec import load_spec as load

__all__ = [
    "BertcError",
    "Engine",
    "build",
    "compile",
    "extend",
    "graph_pass",
    "load",
    "open",
    "refit",
    "stages",
    "targets",
]

_HOMES = {
    "BertcError": ("bertc.errors", "BertcError"),
    "Engine": ("bertc.engine", "Engine"),
    "build": ("bertc.compiler", "build"),
    "compile": ("bertc.compiler", "compile"),
    "extend": ("bertc.extensions", "extend"),
    "graph_pass": ("bertc.extensions", "graph_pass"),
    "load": ("bertc.spec", "load_spec"),
    "open": ("bertc.engine", "open"),
    "refit": ("bertc.refitting", "refit"),
    "stages": ("bertc.compiler", "stages"),
    "targets": ("bertc.compiler", "targets"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'bertc' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(import_module(module), attribute)
