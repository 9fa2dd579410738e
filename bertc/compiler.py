"""One spec through every stage: elaborate, pass, lower, write the bundle."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module, metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from bertc.bundle import GRAPH, TOKENIZER, Bundle, Manifest, write_bundle
from bertc.checkpoints import read_weights
from bertc.elaborate import elaborate
from bertc.errors import did_you_mean, error
from bertc.extensions import prepare
from bertc.graph import Graph
from bertc.passes import FINISH, Hosts, Options, Stage, pipeline, rules, run
from bertc.plugins import PLUGINS
from bertc.rewrite import apply, candidates, explain
from bertc.rule import Rule
from bertc.spec import Spec, shipped_specs, spec_hash
from bertc.spec_fields import INPUT_NAMES
from bertc.text.files import copy_tokenizer, has_tokenizer
from bertc.text.settings import read_settings, tasks_of
from bertc.weights_io import Tensor, random_weights, weights_hash

TARGETS = {
    "onnx": "bertc.targets.onnx",
    "rtx": "bertc.targets.rtx",
    "tensorrt": "bertc.targets.tensorrt",
    "cuda": "bertc.targets.cuda",
}
"""Target -> the module that lowers for it; imported when it is asked for, since each needs an engine's package."""

PACKAGES = {
    "onnx": ("onnx", "onnxruntime"),
    "rtx": ("tensorrt_rtx",),
    "tensorrt": ("tensorrt", "triton"),
    "cuda": ("triton", "cuda.bindings"),
}
"""Target -> the packages that make its engine."""

RUNNING = {
    "onnx": ("onnx", "onnxruntime"),
    "rtx": ("tensorrt_rtx", "cuda.bindings"),
    "tensorrt": ("tensorrt", "cuda.bindings"),
    "cuda": ("cuda.bindings",),
}
"""Target -> the packages that run its engine."""


def target_module(target: str, packages: Mapping[str, Sequence[str]] = PACKAGES) -> ModuleType:
    """The lowering for a target. Raises BertcError B0501 when there is none or its packages are missing."""
    if target not in TARGETS:
        raise error("B0501", f"there is no target `{target}` yet", None, did_you_mean(target, TARGETS))
    try:
        for package in packages[target]:
            import_module(package)
    except ImportError as problem:
        help = f"pip install 'bertc[{target}]'"
        raise error("B0501", f"target `{target}` needs the package {problem.name}", None, help) from None
    return import_module(TARGETS[target])


def stages(spec: Spec, target: str | None = None, **hosting: object) -> Iterator[Stage]:
    """The elaborated graph, then the graph after each pass; without a target every fused op stays.

    `hosting` is what the target lets one choose about its operators.
    """
    prepare(spec)
    options = Options(spec.precision)
    if target is not None:
        options = Options(spec.precision, _hosts(spec, target, **hosting))
    names = pipeline(spec.passes, spec.without)
    started = time.perf_counter()
    graph = elaborate(spec)
    graph.verify()
    yield Stage("elaborate", graph, 0, time.perf_counter() - started)
    yield from run(graph, names, options)


def _hosts(spec: Spec, target: str, **hosting: object) -> Hosts:
    """How a target computes fused ops, where the spec has a say in it too."""
    chosen = {"plugins": spec.plugins} if target == "tensorrt" else {}
    return target_module(target).hosting(**chosen, **hosting)


def compile(spec: Spec, target: str | None = None, **hosting: object) -> Graph:
    """The graph after every pass."""
    *_, last = stages(spec, target, **hosting)
    return last.graph


def bind_weights(spec: Spec, graph: Graph, weights: Path | None, random_seed: int | None) -> dict[str, Tensor]:
    """The tensor of each parameter of a network: from a checkpoint, or random when a seed asks for it.

    Raises B0408 to B0410 for what is missing, unexpected or misshapen, B0411 where Megatron's layout is not known,
    B0502 when neither is named.
    """
    required = {node.key: tuple(int(size) for size in node.types[0].shape) for node in graph.weights}
    if random_seed is not None:
        return random_weights(required, random_seed)
    path = weights or spec.weights
    if path is None:
        help = "name them in the spec, or build with `--weights PATH` or `--random-weights SEED`"
        raise error("B0502", f"spec `{spec.name}` names no weights", None, help)
    return read_weights(path, spec, required).parameters


def build(
    spec: Spec,
    output: Path,
    target: str,
    *,
    weights: Path | None = None,
    random_seed: int | None = None,
    force: bool = False,
    hosting: Mapping[str, object] | None = None,
    architectures: Sequence[str] | None = None,
    builder: Mapping[str, object] | None = None,
    observe: Callable[[Stage], None] = lambda stage: None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Bundle:
    """Compile a spec with its weights into the bundle `output`. `hosting` is the target's own choice of operators,
    `architectures` the GPUs an engine is built for (`sm_86`), `builder` what is chosen about the engine's builder.

    `observe` sees the graph after each pass, `progress` (what, done, of) the target's work.

    Raises BertcError: what each stage raises; nothing is left at `output` then.
    """
    module = target_module(target)

    def fill(folder: Path) -> Manifest:
        passing = stages(spec, target, **(hosting or {}))
        stage = next(passing)
        tensors = bind_weights(spec, stage.graph, weights, random_seed)
        tasks = tasks_of(stage.graph, spec.sizes)
        observe(stage)
        for stage in passing:
            observe(stage)
        graph = stage.graph
        hashes = {"spec_hash": spec_hash(spec), "weights_hash": weights_hash(tensors)}
        (folder / GRAPH).write_text(graph.to_text(), "utf-8")
        chosen = {**(hosting or {}), **(builder or {})} | ({"architectures": architectures} if architectures else {})
        module.write(graph, tensors, folder, spec=spec, hashes=hashes, progress=progress, **chosen)
        model = _model_folder(spec, weights)
        if model is not None:
            copy_tokenizer(model, folder / TOKENIZER)
        return Manifest(
            spec=spec.name,
            spec_hash=hashes["spec_hash"],
            weights_hash=hashes["weights_hash"],
            target=target,
            versions={package: _version(package) for package in PACKAGES[target]},
            precision=spec.precision,
            sizes=dict(spec.sizes),
            profiles=spec.shapes,
            inputs=_input_names(spec),
            outputs=tuple(graph.outputs),
            padding=spec.network["mask"].block,
            text=read_settings(model, tasks, spec.labels, spec.sizes["labels"]),
        )

    return write_bundle(output, fill, force=force)


def _model_folder(spec: Spec, weights: Path | None) -> Path | None:
    """Where the model's own files are: in its Hugging Face directory, or beside its weights."""
    checkpoint = weights or spec.weights
    folders = [] if spec.source in shipped_specs() else [Path(spec.source)]
    folders += [] if checkpoint is None else [checkpoint, checkpoint.parent]
    return next((folder for folder in folders if folder.is_dir() and has_tokenizer(folder)), None)


@dataclass(frozen=True)
class Diagnosis:
    """What a target can do on this machine: the reason why not, or None where it can."""

    target: str
    versions: Mapping[str, str]
    """Of its packages, as far as they are there."""
    builds: str | None
    runs: str | None


def diagnoses() -> list[Diagnosis]:
    """What each target can do here."""
    found: list[Diagnosis] = []
    for target in TARGETS:
        versions = {package: _version(package) for package in PACKAGES[target] if not _missing(package)}
        missing = [package for package in PACKAGES[target] if package not in versions]
        builds = f"no, it needs the package {missing[0]}: pip install 'bertc[{target}]'" if missing else None
        runs = builds or target_module(target).why_not_here()
        found.append(Diagnosis(target, versions, builds, runs))
    return found


def targets() -> list[str]:
    """The targets that build here."""
    return [diagnosis.target for diagnosis in diagnoses() if diagnosis.builds is None]


def default_target() -> str:
    """Where the spec and the command line name none: rtx where its package is, else onnx."""
    return next((target for target in ("rtx", "onnx") if target in targets()), "onnx")


def explain_pass(spec: Spec, name: str) -> list[dict[str, Any]]:
    """For each rule of a pass: where it fits when its turn comes, and the nearest miss with its reason and place.

    Raises BertcError B0001 when the pipeline has no pass of that name, or it is no pass of rules.
    """
    prepare(spec)
    names = pipeline(spec.passes, spec.without)
    name = str(Path(name)) if name.endswith(".net") else name
    if name not in names or not rules(name):
        known = [known for known in names if rules(known)]
        raise error("B0001", f"`{name}` is no pass of rules in this pipeline", None, did_you_mean(name, known))
    earlier = list(stages(replace(spec, passes=names[: names.index(name)], without=FINISH)))
    graph, found = earlier[-1].graph, list[dict[str, Any]]()
    for rule in rules(name):
        matches, miss = explain(rule, graph)
        if miss is not None:
            reason = f"{miss.reason}" + (f" ({miss.node.span})" if miss.node.span else "")
        else:
            reason = None if matches else _nowhere(rule, earlier)
        found.append({"rule": rule.name, "fired": [match.nodes[0].key for match in matches], "miss": reason})
        graph, _ = apply(rule, graph)
    return found


def explain_hosting(spec: Spec, target: str) -> list[dict[str, Any]]:
    """How a target computes each fused op, and why: `op`, `how`, `why` and the `nodes` that are so."""
    names, hosts = pipeline(spec.passes, spec.without), _hosts(spec, target)
    earlier = replace(spec, passes=names[: names.index("expand_unhosted")], without=FINISH, precision="fp32")
    *_, before = stages(earlier)
    found: dict[tuple[str, str, str], list[str]] = {}
    for node in before.graph:
        if node.op in PLUGINS:
            choice = hosts(before.graph, node, spec.precision)
            found.setdefault((node.op, choice.how, choice.why), []).append(node.key)
    return [{"op": op, "how": how, "why": why, "nodes": nodes} for (op, how, why), nodes in found.items()]


def _nowhere(rule: Rule, earlier: Sequence[Stage]) -> str:
    """Why a rule has nowhere to start: the network never had the op, or a pass before this one took the last."""
    op = rule.root.op
    last = max((index for index, stage in enumerate(earlier) if candidates(rule, stage.graph)), default=None)
    if last is None:
        return f"the network has no `{op}`, which its left side ends with"
    taker = earlier[min(last + 1, len(earlier) - 1)].name
    return f"no `{op}` is left, which its left side ends with: {taker} took the last one, so this pass goes before it"


def _missing(package: str) -> bool:
    try:
        import_module(package)
    except ImportError:
        return True
    return False


def _version(package: str) -> str:
    """As the module says, since TensorRT comes in distributions of several names."""
    return getattr(import_module(package), "__version__", None) or metadata.version(package.replace("_", "-"))


def _input_names(spec: Spec) -> dict[str, str]:
    return dict(zip(INPUT_NAMES["hugging_face"], INPUT_NAMES[spec.input_names], strict=True))
