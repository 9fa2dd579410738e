"""The words of the command line: verbs, flags, their help, and the environment variable that each flag has."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from bertc.errors import USAGE, did_you_mean
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
}
"""The flags that some targets alone understand."""

GLUE_TASKS = ("cola", "sst-2", "mrpc", "qqp", "sts-b", "mnli", "qnli", "rte", "wnli")

FORMATS = ("text", "dot", "json", "svg", "model-explorer", "model-explorer-data")
"""In which `inspect` prints a graph."""

PASSES = "comma-separated: `default`, names of passes, files of rules"

DESCRIPTION = f"""Compile a transformer encoder into an inference engine.

Every flag may also stand in the environment: --target as BERTC_TARGET. See `bertc VERB --help`. Version {VERSION}."""


VIEW = """

    bertc view bert-large
    bertc view bert-large --against megatron-345m
    bertc view bert-base --without fuse_attention --against bert-base
    bertc view out/minilm --profile profile.json --no-open -o minilm.html"""


BENCH = """

Latency is from arrays in the host's memory to arrays in the host's memory. Engines run in turn, so that ratios are of
pairs that saw the same machine. The first run and the time to open are told apart from the warm ones.

    bertc bench out/minilm-onnx --batch 1,8 --seq 128 --against torch,onnxruntime --plot latency.svg
    bertc bench out/large-cuda --batch 256 --seq 384 --lengths squad --against torch --price 3.2"""


EVAL = """

    bertc eval out/squad squad dev-v2.0.json --output-folder answers --min-f1 80
    bertc eval out/entails glue mnli dev_matched.tsv --labels entailment,neutral,contradiction"""


COMPARE = """

    bertc compare out/minilm-fp16 out/minilm --atol 1e-2
    bertc compare out/minilm transformers:all-MiniLM-L6-v2 "a text" "another" --json"""


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


class Parser(argparse.ArgumentParser):
    """argparse with bertc's exit code and form of message."""

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"error: {message}\nSee `{self.prog} --help`.\n")

    def refuse(self, argument: str) -> NoReturn:
        """A misspelt flag is answered with the nearest one."""
        flags = [flag for action in self._actions for flag in action.option_strings]
        self.error(f"unknown argument `{argument}`; {did_you_mean(argument.partition('=')[0], flags)}")

    def read_environment(self, environment: Mapping[str, str]) -> None:
        """Make the variable `BERTC_FLAG` the default of `--flag`; what is typed goes before it."""
        for action in self._actions:
            variable = f"BERTC_{action.dest.upper()}"
            hidden = action.help is argparse.SUPPRESS or action.dest == "help"
            if hidden or not action.option_strings or variable not in environment:
                continue
            value = environment[variable]
            choices = ("0", "1") if action.nargs == 0 else action.choices
            if choices is not None and value not in choices:
                self.error(f"{variable} is one of {', '.join(choices)}, but `{value}` was found")
            given = value == "1" if action.nargs == 0 else [value] if isinstance(action.default, list) else value
            self.set_defaults(**{action.dest: given})
            action.required = False


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
    build.add_argument("--passes", help=PASSES)
    build.add_argument("-o", "--output", type=Path, help="the bundle to write; out/NAME-TARGET when left out")
    build.add_argument("--weights", type=Path, help="a checkpoint: a file or a directory")
    _add_qkv_layout(build)
    build.add_argument("--random-weights", type=int, metavar="SEED", help="made-up weights, for measuring")
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
    _add_device(run)
    _add_tasks(run)

    weights = verb("weights", "list the tensors of a checkpoint, or convert it to safetensors with bertc's names")
    weights.add_argument("checkpoint", type=Path, help="a file or a directory, of any format that is read")
    weights.add_argument("--spec", help="the network it is for: says what is missing and unexpected")
    _add_qkv_layout(weights)
    weights.add_argument("--convert", type=Path, metavar="OUT.safetensors", help="write it there")

    inspect = verb("inspect", "print the graph of a spec, or a table of its passes")
    _add_spec(inspect)
    inspect.add_argument(
        "--passes", nargs="?", const="", help=f"{PASSES}; alone: a table of all passes and their times"
    )
    inspect.add_argument("--after", metavar="PASS", help="the graph as it stands after this pass")
    inspect.add_argument("--format", choices=FORMATS, default="text", help="of the graph; text")

    view = verb("view", "write a page that shows a network after each pass, and open it", VIEW)
    _add_spec(view, "a shipped name, a .yaml file, a Hugging Face directory, or a bundle")
    view.add_argument("--passes", help=PASSES)
    view.add_argument("--against", metavar="SPEC|BUNDLE", help="another beside it, as its own file says")
    view.add_argument("--profile", type=Path, metavar="FILE.json", help="times of ops: of trtexec or ONNX Runtime")
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
    _add_data_sets(evaluate)

    compare = verb("compare", "run two bundles on the same sequences, and say how far apart their outputs are", COMPARE)
    compare.add_argument("bundle", metavar="BUNDLE", type=Path)
    compare.add_argument("other", metavar="BUNDLE|transformers:DIR", help="a bundle, or what transformers makes of DIR")
    compare.add_argument("texts", metavar="TEXT", nargs="*", help="cut to the bundle's length; random ids without any")
    compare.add_argument("--sequences", type=_count, default=32, metavar="N", help="of random ids; 32")
    compare.add_argument("--seed", type=int, default=0, help="of random ids and their lengths; 0")
    compare.add_argument("--atol", type=_amount, metavar="X", help="an output further apart anywhere is exit code 1")
    _add_device(compare)

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
    parser.add_argument("--without", help="comma-separated names of passes to leave out")
    parser.add_argument(
        "--shapes",
        action="append",
        default=[],
        help="batch=1:8:32,seq=16:128:384 (smallest, usual, largest); again for another profile",
    )


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
    add("--workspace", type=_count, metavar="MIB", help="tensorrt: memory that a layer may use while it runs")
    add("--optimization-level", type=_level, metavar="0-5", help="tensorrt: 0 builds fast, 5 searches longest")
    add("--timing-cache", type=Path, metavar="DIR", help="tensorrt: measurements of earlier builds are kept there")
    add("--refit", action="store_true", help="tensorrt: the engine's weights can be replaced")
    add("--strip-weights", action="store_true", help="tensorrt: a plan without weights, which refitting brings")
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
    return _count(size)


def _add_qkv_layout(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--qkv-layout", help="3NH, NH3 or N3H: how Megatron's query_key_value lies in the checkpoint")


def _add_device(parser: argparse.ArgumentParser, default: int | str = 0) -> None:
    parser.add_argument("--device", type=int, default=default, metavar="N", help="the number of the GPU; 0")


def _add_tasks(run: argparse.ArgumentParser) -> None:
    tasks = run.add_subparsers(dest="task", metavar="TASK", parser_class=Parser)

    def task(name: str, help: str) -> Parser:
        added = tasks.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.", allow_abbrev=False)
        added.set_defaults(parser=added)
        _add_device(added, argparse.SUPPRESS)  # which leaves what stands before the task
        form = added.add_mutually_exclusive_group()
        form.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="one JSON document")
        form.add_argument("--json-lines", action="store_true", help="a JSON document a line, as the answers come")
        return added

    embed = task("embed", "a vector for each text, as the model's own files say")
    _add_texts(embed)
    embed.add_argument("--pooling", choices=("mean", "cls", "max"), help="of the vectors of a text's tokens")
    embed.add_argument("--normalise", action=argparse.BooleanOptionalAction, help="to vectors of length 1")
    embed.add_argument("--limit", type=_count, metavar="N", help="tokens that a text is cut to")

    classify = task("classify", "the labels of a text, or of a text and its pair, and their probabilities")
    _add_texts(classify, "a text, and perhaps its pair", "; a tab stands between those of a pair")
    tokens = task("tokens", "the entities in each text, with their places")
    _add_texts(tokens)
    fill = task("fill", "words for each [MASK] in a text")
    _add_texts(fill)
    for added in (classify, tokens, fill):
        added.add_argument("--truncate", action="store_true", help="cut texts that are too long for the model")

    ask = task("ask", "the answers that a passage has to a question")
    ask.add_argument("--passage", required=True, metavar="FILE|TEXT", help="of any length; it is read in windows")
    ask.add_argument("--question", help="questions are read from standard input when left out")
    _add_reading(ask)
    for added, usual in ((fill, 5), (ask, 1)):
        added.add_argument("--best", type=_count, default=usual, metavar="N", help=f"how many; {usual}")
    for added in (embed, classify, tokens, fill, ask):
        added.read_environment(os.environ)


def _add_reading(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--window", type=_count, default=384, metavar="N", help="tokens that are read at once; 384")
    parser.add_argument("--stride", type=_count, default=128, metavar="N", help="tokens from window to window; 128")
    parser.add_argument(
        "--longest-question", type=_count, default=64, metavar="N", help="in tokens; the rest is cut; 64"
    )
    parser.add_argument("--longest-answer", type=_count, default=30, metavar="N", help="in tokens; 30")


def _add_data_sets(parser: argparse.ArgumentParser) -> None:
    data_sets = parser.add_subparsers(required=True, dest="data_set", metavar="DATA_SET", parser_class=Parser)

    def data_set(name: str, help: str) -> Parser:
        added = data_sets.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.", allow_abbrev=False)
        added.set_defaults(parser=added)
        return added

    squad = data_set("squad", "exact match and F1 of the answers to SQuAD's questions, version 1.1 or 2.0")
    squad.add_argument("file", metavar="FILE.json", type=Path, help="such as dev-v1.1.json or dev-v2.0.json")
    _add_reading(squad)
    squad.add_argument(
        "--null-threshold", type=float, default=0.0, metavar="X", help="2.0: odds above which there is no answer; 0"
    )
    squad.add_argument(
        "--output-folder", type=Path, metavar="FOLDER", help="for predictions.json, nbest.json and null_odds.json"
    )
    squad.add_argument("--min-f1", type=_amount, metavar="PERCENT", help="less is exit code 1")
    glue = data_set("glue", "the metrics of a task of GLUE: accuracy, F1, Matthews, Pearson and Spearman")
    glue.add_argument("task", metavar="TASK", choices=GLUE_TASKS, help=", ".join(GLUE_TASKS))
    glue.add_argument("file", metavar="FILE.tsv", type=Path, help="the task's dev.tsv")
    glue.add_argument(
        "--labels", metavar="NAME,NAME", help="what the network's labels mean, in its order, where it does not say"
    )
    for added in (squad, glue):
        _add_device(added)
        added.add_argument("--json", action="store_true", help="one JSON document on standard output")
        added.read_environment(os.environ)


def _add_texts(parser: argparse.ArgumentParser, what: str = "one or more", form: str = "") -> None:
    parser.add_argument("texts", metavar="TEXT", nargs="*", help=what)
    help = f"a file of texts, one a line{form}; - is standard input"
    parser.add_argument("--input", type=Path, metavar="FILE", help=help)


def _add_bench(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--batch", type=_counts, default=(), metavar="N,N", help="batch sizes; the profile's usual one")
    parser.add_argument("--seq", type=_counts, default=(), metavar="N,N", help="widths, in tokens; the usual one")
    parser.add_argument("--lengths", default="constant", help="constant (all --seq long), squad, or a file; constant")
    parser.add_argument("--seed", type=int, default=0, help="of ids and lengths; 0")
    parser.add_argument("--runs", type=_count, default=10, metavar="N", help="of each engine, at least; 10")
    parser.add_argument("--duration", type=_amount, default=3.0, metavar="SECONDS", help="for a shape, at least; 3")
    parser.add_argument(
        "--warm-up", type=_amount, default=200.0, metavar="MS", help="milliseconds of untimed runs; 200"
    )
    parser.add_argument("--against", metavar="PEER,PEER", help="torch, onnxruntime: the same network in them, in turn")
    parser.add_argument("--spec", help="the spec that the bundle was built from: peers get its weights")
    parser.add_argument("--weights", type=Path, help="with --spec: the checkpoint that the bundle was built from")
    parser.add_argument(
        "--price", type=_amount, metavar="DOLLARS", help="an hour: adds the cost of a million sequences"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw latency over batch")
    _add_device(parser)
    hidden = argparse.SUPPRESS
    parser.add_argument("--warmUp", dest="warm_up", type=_amount, help=hidden, default=hidden)
    parser.add_argument("--iterations", dest="runs", type=_count, help=hidden, default=hidden)


def _counts(text: str) -> tuple[int, ...]:
    """`1,8,32`."""
    return tuple(map(_count, text.split(",")))


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text[:9]) == int(text)):
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, but `{text}` was found")
    return int(text)


def _amount(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, but `{text}` was found")
    return number


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
