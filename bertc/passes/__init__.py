"""The pipeline: what happens to a graph between its elaboration and its target.

A pass is a name. Rewriting passes are files of rules (`NAME.net`, the user's own too); the others are functions. Every
pass takes a graph and gives a new one, which is verified.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path

from bertc.errors import did_you_mean, error
from bertc.graph import Graph
from bertc.notation import Item, RuleTree
from bertc.parser import parse, read
from bertc.passes.canonicalize import canonicalize
from bertc.passes.drop_unused import drop_unused
from bertc.passes.expand_unhosted import Choice, Hosts, expand_unhosted
from bertc.passes.fold_constants import fold_constants
from bertc.passes.pack_sequences import pack_sequences
from bertc.passes.set_precision import set_precision
from bertc.rewrite import apply
from bertc.rule import Rule

FUSIONS = (
    "canonicalize",
    "merge_qkv",
    "fuse_qkv_projection",
    "fuse_scaled_softmax",
    "fuse_attention",
    "fuse_bias_gelu",
    "fuse_embed_norm",
    "fuse_skip_norm",
)
"""What `default` stands for in a spec's `passes`. Embeddings go before residuals, whose rule would fit them too."""

FINISH = ("fold_constants", "expand_unhosted", "set_precision", "drop_unused")
"""What every pipeline ends with."""


CHOSEN = ("pack_sequences",)
"""What is done where a spec or the command line names it."""


@dataclass(frozen=True)
class Options:
    """What passes need to know of the build."""

    precision: str = "fp32"
    hosts: Hosts = lambda graph, node, precision: Choice("kernel")
    """How the target computes a fused op; without a target every one stays."""
    definitions: tuple[Rule, ...] = ()
    """Whose left sides are what fused ops mean."""


@dataclass(frozen=True)
class Stage:
    """What one pass did."""

    name: str
    graph: Graph
    fired: int
    seconds: float


Function = Callable[[Graph, Options], tuple[Graph, int]]

FUNCTIONS: dict[str, Function] = {
    "pack_sequences": lambda graph, options: pack_sequences(graph),
    "fold_constants": lambda graph, options: fold_constants(graph),
    "expand_unhosted": lambda graph, options: expand_unhosted(
        graph, options.hosts, options.precision, options.definitions
    ),
    "set_precision": lambda graph, options: set_precision(graph, options.precision),
    "drop_unused": lambda graph, options: drop_unused(graph),
}


def pipeline(passes: Sequence[str] = ("default",), without: Sequence[str] = ()) -> tuple[str, ...]:
    """The names of the passes in order: `default` spelt out, those of `without` left out, the finish added.

    Raises BertcError B0001 for a name that is no pass.
    """
    named = [name for entry in passes for name in (FUSIONS if entry == "default" else (entry,))]
    for name in (*named, *without):
        if name not in (*FUSIONS, *FUNCTIONS) and not name.endswith(".net"):
            known = ("default", *FUSIONS, *FUNCTIONS)
            raise error("B0001", f"`{name}` is no pass", None, did_you_mean(name, known))
    needed = [name for name in FINISH if name not in named]
    return tuple(
        name for name in (*named, *needed) if name not in without or name in ("expand_unhosted", "set_precision")
    )


def run(graph: Graph, names: Sequence[str], options: Options) -> Iterator[Stage]:
    """Run the passes one after the other; each stage is verified before it is given."""
    own = [name for name in names if name.endswith(".net")]
    options = replace(options, definitions=tuple(rule for name in (*FUSIONS, *own) for rule in rules(name)))
    for name in names:
        started = time.perf_counter()
        graph, fired = _apply(name, graph, options)
        graph.verify()
        yield Stage(name, graph, fired, time.perf_counter() - started)


def rules(name: str) -> tuple[Rule, ...]:
    """The rules of a rewriting pass, by its name or by the path of a `.net` file; none for a function pass."""
    if name in FUNCTIONS:
        return ()
    return rules_of(read(Path(name))) if name.endswith(".net") else _shipped(name)


def _apply(name: str, graph: Graph, options: Options) -> tuple[Graph, int]:
    if name in FUNCTIONS:
        return FUNCTIONS[name](graph, options)
    fired = 0
    if name == "canonicalize":
        graph = canonicalize(graph)
    for rule in rules(name):
        graph, count = apply(rule, graph)
        fired += count
    return graph, fired


@cache
def _shipped(name: str) -> tuple[Rule, ...]:
    text = files("bertc.passes").joinpath(f"{name}.net").read_text("utf-8")
    return rules_of(parse(text, f"{name}.net"))


def rules_of(items: Sequence[Item]) -> tuple[Rule, ...]:
    """The rules among the items of a file, each checked for names that its left side does not bind."""
    return tuple(Rule.of(item) for item in items if isinstance(item, RuleTree))
