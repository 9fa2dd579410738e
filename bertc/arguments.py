"""The words of the command line: verbs, flags, and their help."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from bertc.argument_parser import Parser, add_device, amount, count, counts, whole
from bertc.task_arguments import add_data_sets, add_tasks, add_texts
from bertc.version import VERSION

BUILDER_FLAGS = (
    "workspace",
    "optimization_level",
    "timing_cache",
    "refit",
    "strip_weights",
    "version_compatible",
    "weight_streaming",
    "sparse_weights",
    "layer_information",
)
"""What one may choose about TensorRT's builder."""

TARGET_FLAGS = {
    "arch": ("rtx", "cuda"),
    "portable": ("onnx",),
    "provider": ("onnx",),
    **dict.fromkeys(("plugins", *BUILDER_FLAGS), ("tensorrt",)),
    **dict.fromkeys(("refit", "strip_weights"), ("tensorrt", "rtx")),
}
"""The flags that some targets alone understand."""


FORMATS = ("text", "dot", "json", "svg", "png", "model-explorer", "model-explorer-data")
"""In which `inspect` prints a graph."""

PASSES = "comma-separated: `default`, names of passes, files of rules"

DESCRIPTION = f"""Compile a transformer encoder into an inference engine.

Every flag may also stand in the environment: --target as BERTC_TARGET. See `bertc VERB --help`. Version {VERSION}."""


VIEW = """

    bertc view bert-large
    bertc view bert-large --against megatron-345m
    bertc view bert-base --without fuse_attention --against bert-base
    bertc view out/minilm --profile profile.json --no-open -o minilm.html"""


WEIGHTS = """

    bertc weights model.ckpt-8144 --spec bert-base
    bertc weights model.ckpt-8144 --spec bert-base --convert out.safetensors
    bertc weights --refit out/reviews fine-tuned/"""


BENCH = """

Latency is from arrays in the host's memory to arrays in the host's memory. Engines run in turn, so that ratios are of
pairs that saw the same machine. The first run and the time to open are told apart from the warm ones.

    bertc bench out/minilm-onnx --batch 1,8 --seq 128 --against torch,onnxruntime --plot latency.svg
    bertc bench out/large-cuda --batch 256 --seq 384 --lengths squad --against torch --price 3.2
    bertc bench out/minilm-onnx --ops --json > bench.json; bertc view minilm-l6 --target onnx --profile bench.json"""


EVAL = """

    bertc eval out/squad squad dev-v2.0.json --output-folder answers --min-f1 80
    bertc eval out/entails glue mnli dev_matched.tsv --labels entailment,neutral,contradiction"""


COMPARE = """

    bertc compare out/minilm-fp16 out/minilm --atol 1e-2
    bertc compare out/minilm transformers:all-MiniLM-L6-v2 "a text" "another" --json
    bertc compare out/minilm reference:all-MiniLM-L6-v2 --layers --input texts.txt --atol 1e-4"""


NEW = """

    bertc new fusion deep_norm
    bertc check deep_norm.net --extensions deep_norm.py
    python -m pytest test_deep_norm.py
    bertc build SPEC --extensions deep_norm.py --passes ./deep_norm.net,default

docs/tutorial.md goes on from there."""


RUN = """

    bertc run out/minilm embed "a sentence" "another"
    bertc run out/minilm embed --input sentences.txt --json-lines
    bertc run out/reviews classify "what a film" --json
    bertc run out/names tokens "Ada met Charles in London"
    bertc run out/words fill "the capital of [MASK] is Paris" --best 3
    bertc run out/squad ask --passage article.txt --question "who won?" --best 3
    bertc run out/x --inputs in.npz --outputs out.npz

`bertc run BUNDLE TASK --help` lists the flags of a task."""


def make_parser() -> Parser:
    """The parser of `bertc`; after parsing, `verb` is the name of the verb and `parser` its own parser."""
    parser = Parser(prog="bertc", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version", version=f"bertc {VERSION}")
    verbs = parser.add_subparsers(required=True, metavar="VERB", parser_class=Parser)

    def verb(name: str, help: str, more: str = "") -> Parser:
        description = f"{help[0].upper()}{help[1:]}.{more}"
        raw = argparse.RawDescriptionHelpFormatter
        added = verbs.add_parser(name, help=help, description=description, allow_abbrev=False, formatter_class=raw)
        added.set_defaults(verb=name, parser=added)
        return added

    build = verb("build", "compile a spec and its weights into a bundle")
    _add_spec(build)
    _add_passes(build)
    build.add_argument("-o", "--output", type=Path, help="the bundle to write; out/NAME-TARGET when left out")
    build.add_argument("--weights", type=Path, help="a checkpoint: a file or a directory")
    _add_qkv_layout(build)
    build.add_argument("--random-weights", type=whole, metavar="SEED", help="made-up weights, for measuring")
    build.add_argument("--arch", help="GPU architectures: sm_86,sm_89 for rtx, one of them for cuda")
    build.add_argument("--portable", action="store_true", help="onnx: standard operators only")
    build.add_argument("--provider", choices=("cpu", "gpu"), help="onnx: where ONNX Runtime is to run it; cpu")
    build.add_argument("--force", action="store_true", help="replace the bundle that is there")
    _add_builder(build)
    _add_trtexec(build)

    run = verb("run", "run a bundle on texts, by a task, or on arrays", RUN)
    run.add_argument("bundle", metavar="BUNDLE", type=Path)
    run.add_argument("--inputs", type=Path, help="arrays: an .npz of input_ids, attention_mask, token_type_ids")
    run.add_argument("--outputs", type=Path, help="arrays: the .npz to write")
    add_device(run)
    add_tasks(run)

    weights = verb("weights", "list the tensors of a checkpoint, convert it, or put it into a bundle", WEIGHTS)
    weights.add_argument("checkpoint", type=Path, help="a file or a directory, of any format that is read")
    weights.add_argument("--spec", help="the network it is for: says what is missing and unexpected")
    _add_qkv_layout(weights)
    instead = weights.add_mutually_exclusive_group()
    instead.add_argument("--convert", type=Path, metavar="OUT.safetensors", help="write it there, with bertc's names")
    instead.add_argument("--refit", type=Path, metavar="BUNDLE", help="put it into this bundle, built of another one")

    inspect = verb("inspect", "print the graph of a spec, or a table of its passes")
    _add_spec(inspect)
    _add_passes(inspect, nargs="?", const="", help=f"{PASSES}; alone: a table of all passes and their times")
    inspect.add_argument("--after", metavar="PASS", help="the graph as it stands after this pass")
    inspect.add_argument("--format", choices=FORMATS, default="text", help="of the graph; text")
    inspect.add_argument("-o", "--output", type=Path, metavar="FILE", help="standard output when left out")

    view = verb("view", "write a page that shows a network after each pass, and open it", VIEW)
    _add_spec(view, "a shipped name, a .yaml file, a Hugging Face directory, or a bundle")
    _add_passes(view)
    view.add_argument("--against", metavar="SPEC|BUNDLE", help="another beside it, as its own file says")
    view.add_argument(
        "--profile", type=Path, metavar="FILE.json", help="times of ops: of bench --ops, trtexec or ONNX Runtime"
    )
    view.add_argument("--weights", type=Path, help="a checkpoint: shows the names and types that it has")
    view.add_argument("--histograms", action="store_true", help="of the values of --weights, or of the spec's own")
    view.add_argument(
        "-o", "--output", type=Path, metavar="FILE.html", help="written anew; out/NAME.html when left out"
    )
    view.add_argument("--no-open", action="store_true", help="do not open it in the browser")

    explain = verb("explain", "say where a pass fires, and the nearest miss; or what an error code means")
    explain.add_argument("spec", help="a spec, or an error code such as B0103")
    explain.add_argument("pass_name", metavar="PASS", nargs="?")
    explain.add_argument("--target", help="with expand_unhosted: how this target computes each fused op, and why")
    explain.add_argument("--precision", help="fp32, fp16 or bf16")
    _add_passes(explain)
    _add_plugins(explain)

    check = verb("check", "prove rules (a .net file), or every pass on a spec, against the reference")
    check.add_argument("subject", metavar="RULES.net|SPEC")

    new = verb("new", "write a fusion or a family of your own that works, to be changed from there", NEW)
    new.add_argument("kind", choices=("fusion", "family"))
    new.add_argument("name", metavar="NAME", help="small letters, digits and _")
    new.add_argument("-o", "--output", type=Path, default=Path(), metavar="FOLDER", help="where; here when left out")

    bench = verb("bench", "measure a bundle: latency and throughput, alone or beside other engines", BENCH)
    _add_bench(bench)

    evaluate = verb("eval", "score a bundle on a data set: SQuAD, or a task of GLUE", EVAL)
    evaluate.add_argument("bundle", metavar="BUNDLE", type=Path)
    add_data_sets(evaluate)

    compare = verb("compare", "run two bundles on the same sequences, and say how far apart their outputs are", COMPARE)
    compare.add_argument("bundle", metavar="BUNDLE", type=Path)
    compare.add_argument(
        "other",
        metavar="BUNDLE|transformers:DIR|reference:SPEC",
        help="a bundle, what transformers makes of DIR, or the interpreter of SPEC with its weights, in float64",
    )
    add_texts(compare, "cut to the bundle's length; random ids without any")
    compare.add_argument("--sequences", type=count, default=32, metavar="N", help="of random ids; 32")
    compare.add_argument("--seed", type=whole, default=0, help="of random ids and their lengths; 0")
    compare.add_argument("--layers", action="store_true", help="also what leaves the embeddings and each layer")
    compare.add_argument("--atol", type=amount, metavar="X", help="an output further apart anywhere is exit code 1")
    add_device(compare)

    doctor = verb("doctor", "say which targets work on this machine")

    completion = verb("completion", "print a script that completes verbs and flags in a shell")
    completion.add_argument("shell", choices=("bash", "zsh", "tcsh"))

    for added in (build, bench, inspect, view, explain, check):
        added.add_argument("--extensions", metavar="FILE,FILE", help="Python files of ops and passes, which are run")
    for added in (build, run, bench, compare, weights, inspect, view, explain, check, new, doctor):
        added.add_argument("--json", action="store_true", help="one JSON document on standard output")
        added.read_environment(os.environ)
    return parser


def _add_spec(
    parser: argparse.ArgumentParser, what: str = "a shipped name, a .yaml file, or a Hugging Face directory"
) -> None:
    parser.add_argument("spec", help=what)
    parser.add_argument("--target", help="onnx, rtx, tensorrt or cuda")
    parser.add_argument("--precision", help="fp32, fp16 or bf16")
    parser.add_argument(
        "--shapes",
        action="append",
        default=[],
        help="batch=1:8:32,seq=16:128:384 (smallest, usual, largest); again for another profile",
    )


def _add_passes(parser: argparse.ArgumentParser, *, help: str = PASSES, **alone: Any) -> None:
    parser.add_argument("--passes", help=help, **alone)
    parser.add_argument("--without", help="comma-separated names of passes to leave out")


def _add_plugins(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--plugins",
        metavar="auto|all|none|NAME,...",
        help="tensorrt: fused ops that are plugins; the spec's, else auto",
    )


def _add_builder(parser: argparse.ArgumentParser) -> None:
    """TensorRT's builder. Flags that a spelling of trtexec's differs from have that too, unshown."""
    _add_plugins(parser)
    add, hidden = parser.add_argument, argparse.SUPPRESS
    add("--workspace", type=count, metavar="MIB", help="tensorrt: memory that a layer may use while it runs")
    add("--optimization-level", type=_level, metavar="0-5", help="tensorrt: 0 builds fast, 5 searches longest")
    add("--timing-cache", type=Path, metavar="DIR", help="tensorrt: measurements of earlier builds are kept there")
    add("--refit", action="store_true", help="tensorrt, rtx: the engine's weights can be replaced")
    add("--strip-weights", action="store_true", help="tensorrt, rtx: a plan without weights, which refitting brings")
    add("--version-compatible", action="store_true", help="tensorrt: later versions of TensorRT load it too")
    add("--weight-streaming", action="store_true", help="tensorrt: weights may stay in the host's memory")
    add("--sparse-weights", action="store_true", help="tensorrt: use that two in four weights are zero, where they are")
    add(
        "--layer-information",
        action="store_true",
        help="tensorrt: write layers.json, as trtexec --exportLayerInfo does",
    )
    for flag, name in TRTEXEC_SWITCHES.items():
        add(flag, dest=name, action="store_true", help=hidden, default=hidden)
    add("--builderOptimizationLevel", dest="optimization_level", type=_level, help=hidden, default=hidden)
    add("--memPoolSize", dest="workspace", type=_workspace, help=hidden, default=hidden)


TRTEXEC_SWITCHES = {
    "--stripWeights": "strip_weights",
    "--versionCompatible": "version_compatible",
    "--allowWeightStreaming": "weight_streaming",
}
"""trtexec's flags that take no value -> bertc's."""


def _level(text: str) -> int:
    if text not in tuple("012345"):
        raise argparse.ArgumentTypeError(f"expected a level from 0 to 5, but `{text}` was found")
    return int(text)


def _workspace(text: str) -> int:
    """trtexec's `workspace:2048`, in MiB."""
    pool, _, size = text.partition(":")
    if pool != "workspace":
        raise argparse.ArgumentTypeError(f"expected `workspace:MIB`, but `{text}` was found")
    return count(size)


def _add_qkv_layout(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--qkv-layout", help="3NH, NH3 or N3H: how Megatron's query_key_value lies in the checkpoint")


def _add_bench(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--batch", type=counts, default=(), metavar="N,N", help="batch sizes; the profile's usual one")
    parser.add_argument("--seq", type=counts, default=(), metavar="N,N", help="widths, in tokens; the usual one")
    parser.add_argument("--lengths", default="constant", help="constant (all --seq long), squad, or a file; constant")
    parser.add_argument("--seed", type=whole, default=0, help="of ids and lengths; 0")
    parser.add_argument("--runs", type=count, default=10, metavar="N", help="of each engine, at least; 10")
    parser.add_argument("--duration", type=amount, default=3.0, metavar="SECONDS", help="for a shape, at least; 3")
    parser.add_argument("--warm-up", type=amount, default=200.0, metavar="MS", help="milliseconds of untimed runs; 200")
    parser.add_argument("--against", metavar="PEER,PEER", help="torch, onnxruntime: the same network in them, in turn")
    parser.add_argument("--spec", help="the spec that the bundle was built from: peers get its weights")
    parser.add_argument("--weights", type=Path, help="with --spec: the checkpoint that the bundle was built from")
    parser.add_argument("--price", type=amount, metavar="DOLLARS", help="an hour: adds the cost of a million sequences")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw latency over batch")
    parser.add_argument("--ops", action="store_true", help="how long each op takes, in runs of their own: onnx, cuda")
    add_device(parser)
    hidden = argparse.SUPPRESS
    parser.add_argument("--warmUp", dest="warm_up", type=amount, help=hidden, default=hidden)
    parser.add_argument("--iterations", dest="runs", type=count, help=hidden, default=hidden)


def _add_trtexec(parser: argparse.ArgumentParser) -> None:
    """trtexec's names for what bertc has too; they work and are not shown."""
    hidden = argparse.SUPPRESS
    parser.add_argument("--saveEngine", dest="output", type=Path, help=hidden, default=hidden)
    for flag in ("fp16", "bf16"):
        parser.add_argument(
            f"--{flag}", dest="precision", action="store_const", const=flag, help=hidden, default=hidden
        )
    for flag in ("minShapes", "optShapes", "maxShapes"):
        parser.add_argument(f"--{flag}", dest=flag, help=hidden)
