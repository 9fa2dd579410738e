"""The command line: parse arguments, call the API, print. It decides nothing.

Results go to standard output, everything else to standard error; exit codes are those of `bertc.errors`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from bertc.errors import CHECK_SAID_NO, CODES, OUR_BUG, USAGE, BertcError, did_you_mean
from bertc.version import VERSION


class _Parser(argparse.ArgumentParser):
    """argparse with our exit code and form of message."""

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"error: {message}\nSee `{self.prog} --help`.\n")

    def refuse(self, argument: str) -> NoReturn:
        """A misspelt flag is answered with the nearest one."""
        flags = [flag for action in self._actions for flag in action.option_strings]
        self.error(f"unknown argument `{argument}`; {did_you_mean(argument, flags)}")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a verb and exit with its code."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a verb; the exit code."""
    options, unknown = _parser().parse_known_args(arguments)
    if unknown:
        options.parser.refuse(unknown[0])
    try:
        return options.verb(options)
    except BertcError as problem:
        print(problem, file=sys.stderr)
        return problem.exit_code
    except KeyboardInterrupt:
        print("interrupted; nothing was left behind", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as bug:
        if os.environ.get("BERTC_TRACEBACK"):
            raise
        print(f"error: this is a bug of bertc: {type(bug).__name__}: {bug}", file=sys.stderr)
        print("Set BERTC_TRACEBACK=1 to see where, and report it with the command.", file=sys.stderr)
        return OUR_BUG


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="bertc", description="Compile a transformer encoder into an inference engine.")
    parser.add_argument("--version", action="version", version=f"bertc {VERSION}")
    verbs = parser.add_subparsers(required=True, metavar="VERB", parser_class=_Parser)

    def verb(name: str, run: Callable[[argparse.Namespace], int], help: str) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=help, description=help, allow_abbrev=False)
        added.set_defaults(verb=run, parser=added)
        return added

    build = verb("build", _build, "compile a spec and its weights into a bundle")
    _add_spec(build)
    build.add_argument("-o", "--output", type=Path, help="the bundle to write; out/NAME-TARGET when left out")
    build.add_argument("--weights", type=Path, help="a checkpoint: a file or a directory")
    build.add_argument("--random-weights", type=int, metavar="SEED", help="made-up weights, for measuring")
    build.add_argument("--arch", help="rtx: comma-separated GPU architectures, such as sm_86,sm_89")
    build.add_argument("--portable", action="store_true", help="onnx: standard operators only")
    build.add_argument("--force", action="store_true", help="replace the bundle that is there")

    run = verb("run", _run, "run a bundle on arrays")
    run.add_argument("bundle", type=Path)
    run.add_argument("--inputs", type=Path, required=True, help="an .npz of input_ids, attention_mask, token_type_ids")
    run.add_argument("--outputs", type=Path, required=True, help="the .npz to write")

    inspect = verb("inspect", _inspect, "print the graph of a spec, or a table of its passes")
    _add_spec(inspect)
    inspect.add_argument("--after", metavar="PASS", help="the graph as it stands after this pass")
    inspect.add_argument("--stages", action="store_true", help="a table of all passes: ops, what fired, times")

    explain = verb("explain", _explain, "where a pass fires, and the nearest miss; or what an error code means")
    explain.add_argument("spec", help="a spec, or an error code such as B0103")
    explain.add_argument("pass_name", metavar="PASS", nargs="?")

    check = verb("check", _check, "prove rules (a .net file), or every pass on a spec, against the reference")
    check.add_argument("subject")

    doctor = verb("doctor", _doctor, "which targets work on this machine")
    for added in (build, inspect, explain, check, doctor):
        added.add_argument("--json", action="store_true", help="one JSON document on standard output")
    return parser


def _add_spec(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("spec", help="a shipped name, a .yaml file, or a Hugging Face directory")
    parser.add_argument("--target", default=os.environ.get("BERTC_TARGET"), help="onnx or rtx")
    parser.add_argument("--precision", default=os.environ.get("BERTC_PRECISION"), help="fp32, fp16 or bf16")
    parser.add_argument("--passes", help="comma-separated: `default`, names of passes, files of rules")
    parser.add_argument("--without", help="comma-separated names of passes to leave out")
    parser.add_argument("--shapes", help="batch=1:8:32,seq=16:128:384 (smallest, usual, largest)")


def _load(options: argparse.Namespace) -> Any:
    from bertc.shapes import parse_shapes
    from bertc.spec import load_spec, override

    given: dict[str, Any] = {name: getattr(options, name) for name in ("precision", "target") if getattr(options, name)}
    given |= {
        name: tuple(getattr(options, name).split(",")) for name in ("passes", "without") if getattr(options, name)
    }
    if options.shapes:
        given["shapes"] = (parse_shapes(options.shapes),)
    return override(load_spec(options.spec), **given)


def _document(schema: str, **content: object) -> int:
    print(json.dumps({"schema": f"bertc-{schema}/1", **content}, indent=2))
    return 0


def _build(options: argparse.Namespace) -> int:
    from bertc.compiler import build, default_target

    spec = _load(options)
    target = spec.target or default_target()
    output = options.output or Path("out") / f"{spec.name}-{target}"
    note: Callable[[Any], None] = lambda stage: print(_row(stage), file=sys.stderr)
    bundle = build(
        spec,
        output,
        target,
        weights=options.weights,
        random_seed=options.random_weights,
        force=options.force,
        hosting={"portable": True} if options.portable else {},
        architectures=options.arch.split(",") if options.arch else None,
        observe=note,
    )
    if options.json:
        return _document("build", bundle=str(output), target=target, files=sorted(bundle.manifest.files))
    print(output)
    return 0


def _row(stage: Any) -> str:
    return f"{stage.name:22} {stage.fired:5} fired {len(stage.graph):6} ops {stage.seconds * 1e3:8.1f} ms"


def _run(options: argparse.Namespace) -> int:
    import numpy as np

    from bertc.engine import open, read_arrays

    inputs = read_arrays(options.inputs)
    outputs = open(options.bundle).run(inputs)
    beside = options.outputs.with_name(f".{options.outputs.name}.new.npz")
    np.savez(beside, **outputs)
    beside.replace(options.outputs)
    for name, array in outputs.items():
        print(f"{name} {array.dtype} {list(array.shape)}")
    return 0


def _inspect(options: argparse.Namespace) -> int:
    from bertc.compiler import stages
    from bertc.errors import error

    spec = _load(options)
    all_stages = list(stages(spec, options.target))
    if options.stages:
        rows = [
            {"pass": s.name, "fired": s.fired, "ops": len(s.graph), "milliseconds": s.seconds * 1e3} for s in all_stages
        ]
        return _document("passes", passes=rows) if options.json else print("\n".join(map(_row, all_stages))) or 0
    names = [stage.name for stage in all_stages]
    if options.after is not None and options.after not in names:
        raise error(
            "B0001", f"pass `{options.after}` is not in this pipeline", None, did_you_mean(options.after, names)
        )
    stage = all_stages[0] if options.after is None else next(s for s in all_stages if s.name == options.after)
    return _document("graph", text=stage.graph.to_text()) if options.json else print(stage.graph.to_text(), end="") or 0


def _explain(options: argparse.Namespace) -> int:
    from bertc.errors import error

    if options.spec in CODES and options.pass_name is None:
        code = CODES[options.spec]
        print(f"{code.name}: {code.title} (exit code {code.exit_code})\n\n{code.explanation}")
        return 0
    if options.pass_name is None:
        raise error("B0001", "a spec needs the name of a pass to explain", None, "bertc explain SPEC PASS")
    return _explain_pass(options.spec, options.pass_name, options.json)


def _explain_pass(argument: str, name: str, as_json: bool) -> int:
    from bertc.compiler import explain_pass
    from bertc.spec import load_spec

    found = explain_pass(load_spec(argument), name)
    if as_json:
        return _document("explain", rules=found)
    for rule in found:
        print(f"{rule['rule']}: {len(rule['fired'])} fired")
        for place in rule["fired"]:
            print(f"  {place}")
        if rule["miss"] is not None:
            print(f"  nearest miss: {rule['miss']}")
    return 0


def _check(options: argparse.Namespace) -> int:
    from bertc.check import check_rules, check_spec

    verdicts = check_rules(options.subject) if options.subject.endswith(".net") else check_spec(options.subject)
    failed = [verdict for verdict in verdicts if verdict.problem is not None]
    if options.json:
        _document("check", checks=[vars(verdict) for verdict in verdicts])
    else:
        for verdict in verdicts:
            print(f"{'ok  ' if verdict.problem is None else 'FAIL'} {verdict.subject}: {verdict.check}", end="")
            print("" if verdict.problem is None else f": {verdict.problem}")
    return CHECK_SAID_NO if failed else 0


def _doctor(options: argparse.Namespace) -> int:
    from bertc.compiler import usable_targets

    found = usable_targets()
    if options.json:
        return _document("doctor", targets={target: reason for target, reason in found})
    for target, reason in found:
        print(f"{target:8} {'works here' if reason is None else reason}")
    return 0
