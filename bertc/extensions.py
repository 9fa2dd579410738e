"""Extensions: fused ops, their kernels and passes of somebody else's.

An extension is a Python file, or a module of an installed package:

    [project.entry-points."bertc.plugins"]
    deep_norm = "my_package.deep_norm"

It declares ops with `bertc.ops.op` and passes with `graph_pass`. The kernels of STEM.py stand beside it in
STEM_kernel.py, whose `lower(lowering, node)` puts them into the cuda target's plan; it is read when a plan is made.

An extension is code. A file is run only when the command line or the caller names it: a spec may say that it needs one,
and is refused then until the user has named that file too. What is installed was trusted when it was installed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.machinery import ModuleSpec
from importlib.metadata import entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from bertc.errors import BertcError, error
from bertc.graph import Graph
from bertc.meanings import ATTRIBUTE_KINDS
from bertc.ops import Op
from bertc.passes import FUNCTIONS, FUSIONS, Options
from bertc.plugins import OPS, PLUGINS
from bertc.spec import Spec

GROUP = "bertc.plugins"
"""The entry points of installed packages."""

HOME = "bertc_extensions"
"""What the names of modules that were files begin with, so that they meet no other."""


@dataclass(frozen=True)
class GraphPass:
    """A pass that rules cannot say: a graph to a new graph, and how often something was done to it."""

    function: Callable[[Graph], tuple[Graph, int]]

    @property
    def name(self) -> str:
        return self.function.__name__

    def __call__(self, graph: Graph) -> tuple[Graph, int]:
        """Raises BertcError B0304 where the function gives something else."""
        found: Any = self.function(graph)
        match found:
            case (Graph() as changed, int(count)):
                return changed, count
            case _:
                message = f"expected pass `{self.name}` to return (graph, count), but found {type(found).__name__}"
                raise error("B0304", message, None, "return the new graph, and how often something was changed")


def graph_pass(function: Callable[[Graph], tuple[Graph, int]]) -> GraphPass:
    """Declare a pass: `@graph_pass` above the function whose name it has."""
    return GraphPass(function)


def extend(path: str | Path) -> None:
    """Run a Python file and take in the ops and passes that it declares; once is enough, and twice does no harm.

    Raises BertcError: B0002 where there is no such file, B0304 for one that fails or declares nothing new.
    """
    place = Path(path).resolve()
    if place in used():
        return
    if not place.is_file() or place.suffix != ".py":
        raise error("B0002", f"expected a Python file at `{path}`, but there is none", None, "check the path")
    _declare(_run(place), str(path))


@cache
def extend_installed() -> None:
    """Take in what installed packages offer. Raises BertcError B0304 for one that fails."""
    for entry in entry_points(group=GROUP):
        package = entry.dist.name if entry.dist else entry.value
        try:
            module = entry.load()
        except Exception as problem:
            raise _failed(f"`{entry.value}` of the installed package {package}", problem) from problem
        _declare(module, f"{entry.value} of the installed package {package}")


def used() -> frozenset[Path]:
    """The files that have been run."""
    modules = [module for name, module in sys.modules.items() if name.startswith(f"{HOME}.")]
    return frozenset(Path(module.__file__) for module in modules if module.__file__)


def prepare(spec: Spec) -> None:
    """Before a spec is elaborated: what is installed is taken in, and what it asks for must be there.

    Raises BertcError B0305 for a file that the spec asks for and nobody has named, B0304 for a package that fails.
    """
    extend_installed()
    for file in spec.extensions:
        if file.resolve() not in used():
            message = f"spec `{spec.name}` needs the extension `{file}`, which is Python code and has not been run"
            span = spec.spans.get(f"extensions.{spec.extensions.index(file)}")
            raise error("B0305", message, span, f"read it; then say `--extensions {file}`, or bertc.extend in Python")


def kernel_of(op: str) -> ModuleType | None:
    """The module beside an extension that has the kernel of one of its ops, or None."""
    declared = sys.modules[PLUGINS[op].reference.__module__].__file__ or ""
    place = Path(declared).with_name(f"{Path(declared).stem}_kernel.py")
    if not place.is_file():
        return None
    module = sys.modules.get(_name(place)) or _run(place)
    if not callable(getattr(module, "lower", None)):
        raise error("B0304", f"`{place}` has no function `lower(lowering, node)`", None, "docs/tutorial.md has one")
    return module


def _name(place: Path) -> str:
    return f"{HOME}.{place.stem}"


def _run(place: Path) -> ModuleType:
    name = _name(place)
    if name in sys.modules:
        taken = sys.modules[name].__file__
        raise error("B0304", f"`{place}` and `{taken}` have the same name", None, "rename one of them")
    found: ModuleSpec | None = spec_from_file_location(name, place)
    assert found is not None
    assert found.loader is not None
    sys.modules[name] = module = module_from_spec(found)
    try:
        found.loader.exec_module(module)
    except BaseException as problem:
        del sys.modules[name]
        if isinstance(problem, Exception | SystemExit):
            raise _failed(f"`{place}`", problem) from problem
        raise
    return module


def _failed(what: str, problem: BaseException) -> BertcError:
    return error("B0304", f"{what} failed: {type(problem).__name__}: {problem}", None, "run it with Python by itself")


def _declare(module: ModuleType, what: str) -> None:
    """Take in what a module declares itself; what it has imported is somebody else's."""
    declared = [value for value in vars(module).values() if isinstance(value, Op | GraphPass)]
    own = [value for value in declared if _home(value) == module.__name__]
    if not own:
        sys.modules.pop(module.__name__, None)
        raise error(
            "B0304", f"`{what}` declares no op and no pass", None, "write `@op(...)` or `@graph_pass` above one"
        )
    for value in own:
        _refuse_attributes(value, what)
        known = OPS if isinstance(value, Op) else (*FUNCTIONS, *FUSIONS)
        if value.name in known:
            sys.modules.pop(module.__name__, None)
            raise error("B0304", f"`{what}` declares `{value.name}`, which exists already", None, "rename it")
    for value in own:
        if isinstance(value, Op):
            PLUGINS[value.name] = value
        else:
            FUNCTIONS[value.name] = _function(value)


def _refuse_attributes(value: Op | GraphPass, what: str) -> None:
    for name, parameter in value.attributes.items() if isinstance(value, Op) else ():
        if parameter.annotation not in ATTRIBUTE_KINDS:
            kinds = ", ".join(ATTRIBUTE_KINDS)
            message = f"`{what}`: expected attribute `{name}` of {value.name} to be {kinds}"
            raise error("B0304", f"{message}, but found {parameter.annotation}", None, "annotate it with one of these")


def _home(value: Op | GraphPass) -> str:
    return value.reference.__module__ if isinstance(value, Op) else value.function.__module__


def _function(declared: GraphPass) -> Callable[[Graph, Options], tuple[Graph, int]]:
    return lambda graph, options: declared(graph)
