"""The flow of the architecture, held: a module imports only what stands above it, and heavy packages only at home."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "bertc"

FLOW = (
    *("version", "codes", "errors", "writing", "tree", "types"),
    *("notation", "parser", "result_shapes", "ops", "inference", "plugins", "graph"),
    *("json_reader", "yaml_reader", "spec_fields", "shapes", "spec_reader", "spec_relations", "spec_schema"),
    *("families", "hugging_face", "spec"),
    *("meanings", "elaborator", "elaborate"),
    *("reference", "rule", "rewrite", "attended", "passes", "extensions", "new"),
    *("weights_io", "checkpoints", "sequences", "text", "timings"),
    *("kernels", "targets", "costs", "drawing", "exports", "bundle"),
    *("rule_instances", "rule_repairs", "check"),
    *("compiler", "refitting", "engine", "bench", "evaluation", "viewer"),
    *("__init__", "argument_parser", "task_arguments", "arguments"),
    *("output", "tasks", "scores", "spec_verbs", "bundle_verbs", "cli", "__main__"),
)

HOMES = {
    "lark": {"parser"},
    "networkx": {"graph"},
    "h5py": {"weights_io.hdf5"},
    "shtab": {"cli"},
    "yaml": {"yaml_reader"},
    "onnx": {f"targets.onnx.{path.stem}" for path in PACKAGE.glob("targets/onnx/*.py")},
    "onnxruntime": {"targets.onnx.__init__", "targets.onnx.session", "bench.onnxruntime_peer"},
    "tensorrt_rtx": {"targets.rtx"},
    "tensorrt": {"targets.tensorrt.__init__", "targets.tensorrt.registration"},
    "triton": {"targets.cuda.compile_kernels", *(f"kernels.{path.stem}" for path in PACKAGE.glob("kernels/*.py"))},
    "cuda": {"targets.cuda.driver", "targets.cuda.nvrtc"},
    "resvg_py": {"drawing.png"},
    "font_roboto": {"drawing.png"},
    "torch": {f"bench.{name}" for name in ("torch_ops", "torch_network", "torch_peer", "onnxruntime_peer")}
    | {"evaluation.transformers_network"},
    "transformers": {"bench.onnxruntime_peer", "evaluation.transformers_network"},
    "tokenizers": {"text.tokenizer_json"},
    "safetensors": set[str](),
}

MODULES = sorted(".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in PACKAGE.rglob("*.py"))


def imports(module: str) -> Iterator[str]:
    """Every absolute name that a module imports, wherever in it the import stands."""
    path = PACKAGE.joinpath(*module.split(".")).with_suffix(".py")
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "import_module":
            yield from (given.value for given in node.args if isinstance(given, ast.Constant))
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively; write the whole name"
            if node.module == "bertc":
                yield from (f"bertc.{alias.name}" for alias in node.names)
            else:
                yield node.module or ""


def layer(name: str) -> str:
    return name.split(".")[0]


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_stands_above_it(module: str) -> None:
    assert layer(module) in FLOW, f"bertc/{module} has no place in the flow; give `{layer(module)}` one in FLOW"
    place = FLOW.index(layer(module))
    for name in imports(module):
        if not name.startswith("bertc."):
            continue
        imported = layer(name.removeprefix("bertc."))
        assert FLOW.index(imported) <= place, f"{module} imports {name}, which stands below it in the flow"


@pytest.mark.parametrize("module", MODULES)
def test_heavy_packages_stay_at_home(module: str) -> None:
    for name in imports(module):
        package = name.split(".")[0]
        assert module in HOMES.get(package, {module}), f"{package} belongs in {HOMES[package] or 'no module'}"


def test_the_flow_has_no_module_that_is_gone() -> None:
    assert set(FLOW) == {layer(module) for module in MODULES}
