"""The command line: parse arguments, call the API, print. It decides nothing.

Results go to standard output, everything else to standard error; exit codes are those of `bertc.errors`.
"""

from __future__ import annotations

import os
import signal
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from bertc.arguments import BUILDER_FLAGS, TARGET_FLAGS, make_parser
from bertc.errors import CHECK_SAID_NO, CODES, OUR_BUG, BertcError, did_you_mean, error
from bertc.output import document, progress_bars, write_text
from bertc.version import VERSION


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a verb and exit with its code."""
    signal.signal(signal.SIGTERM, _stop)
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a verb; the exit code."""
    options, unknown = make_parser().parse_known_args(arguments)
    if unknown:
        options.parser.refuse(unknown[0])
    try:
        _extend(options)
        return VERBS[options.verb](options)
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
        print(f"error: this is a bug of bertc {VERSION}: {type(bug).__name__}: {bug}", file=sys.stderr)
        print("Set BERTC_TRACEBACK=1 to see where, and report it with the command.", file=sys.stderr)
        return OUR_BUG


def _extend(options: Namespace) -> None:
    """Take in what is installed, and run the Python files that the command line names, and no others."""
    if "extensions" not in options:
        return
    from bertc.extensions import extend, extend_installed

    extend_installed()
    for path in (options.extensions or "").split(","):
        if path:
            extend(path)


def _stop(signum: int, frame: FrameType | None) -> NoReturn:
    """Leave as on Ctrl-C, so that what is half written is taken away."""
    raise KeyboardInterrupt


# --------------------------------------------------------------------------------------------------------------- specs


def _load(options: Namespace) -> Any:
    from bertc.shapes import parse_input_shapes, parse_shapes
    from bertc.spec import load_spec, override

    typed = {name: value for name, value in vars(options).items() if value}
    given: dict[str, Any] = {name: typed[name] for name in ("precision", "target", "qkv_layout") if name in typed}
    given |= {name: tuple(typed[name].split(",")) for name in ("plugins", "passes", "without") if name in typed}
    profiles = [parse_shapes(text) for text in typed.get("shapes", ())]
    trtexec = [getattr(options, name, None) for name in ("minShapes", "optShapes", "maxShapes")]
    if any(trtexec):
        profiles.append(parse_input_shapes(*trtexec))
    return override(load_spec(options.spec), shapes=tuple(profiles) or None, **given)


def _build(options: Namespace) -> int:
    from bertc.compiler import build, default_target

    spec = _load(options)
    target = spec.target or default_target()
    output = options.output or Path("out") / f"{spec.name}-{target}"
    with progress_bars() as (progress, say):
        bundle = build(
            spec,
            output,
            target,
            weights=options.weights,
            random_seed=options.random_weights,
            force=options.force,
            observe=lambda stage: say(_row(stage)),
            progress=progress,
            **_target_options(options, target),
        )
    if options.json:
        return document("build", bundle=str(output), target=target, files=sorted(bundle.manifest.files))
    print(output)
    return 0


def _target_options(options: Namespace, target: str) -> dict[str, Any]:
    """What is chosen for some targets alone."""
    typed = {name: getattr(options, name) for name in TARGET_FLAGS}
    given = {name: value for name, value in typed.items() if value is not None and value is not False}
    for name in given:
        if target not in TARGET_FLAGS[name]:
            flag = name.replace("_", "-")
            message = f"`--{flag}` is for target {' or '.join(TARGET_FLAGS[name])}, but the target is {target}"
            raise error("B0001", message, None, f"leave it out, or say `--target {TARGET_FLAGS[name][0]}`")
    architectures = given.get("arch")
    return {
        "hosting": {name: given[name] for name in ("portable", "provider") if name in given},
        "architectures": architectures.split(",") if architectures else None,
        "builder": {name: given[name] for name in BUILDER_FLAGS if name in given},
    }


def _row(stage: Any) -> str:
    return f"{stage.name:22} {stage.fired:5} fired {len(stage.graph):6} ops {stage.seconds * 1e3:8.1f} ms"


def _inspect(options: Namespace) -> int:
    from bertc.compiler import stages
    from bertc.exports import TEXTS, to_json

    found = list(stages(_load(options), options.target))
    if options.passes == "":
        return _print_passes(found, options.json)
    names = [stage.name for stage in found]
    name = options.after or names[0]
    if name not in names:
        raise error("B0001", f"pass `{name}` is not in this pipeline", None, did_you_mean(name, names))
    graph = found[names.index(name)].graph
    if options.json or options.format == "json":
        return document("graph", after=name, **to_json(graph))
    print(TEXTS[options.format](graph), end="")
    return 0


def _print_passes(stages: Sequence[Any], as_json: bool) -> int:
    if as_json:
        rows = [
            {"pass": s.name, "fired": s.fired, "ops": len(s.graph), "milliseconds": s.seconds * 1e3} for s in stages
        ]
        return document("passes", passes=rows)
    print("\n".join(map(_row, stages)))
    return 0


def _view(options: Namespace) -> int:
    import webbrowser

    from bertc.spec import load_spec
    from bertc.viewer import Subject, bundle_subject, is_bundle, spec_subject, view

    def other(argument: str) -> Subject:
        return bundle_subject(Path(argument)) if is_bundle(argument) else spec_subject(load_spec(argument))

    if is_bundle(options.spec):
        subjects = [bundle_subject(Path(options.spec))]
    else:
        spec = _load(options)
        weights = options.weights or (spec.weights if options.histograms else None)
        if options.histograms and weights is None:
            raise error("B0502", f"spec `{spec.name}` names no weights", None, "give `--weights PATH`")
        subjects = [spec_subject(spec, options.target, weights)]
    subjects += [other(options.against)] if options.against else []
    output = options.output or Path("out") / f"{subjects[0].name}.html"
    text = view(subjects, options.profile, histograms=options.histograms)
    write_text(output, text)
    if not options.no_open:
        webbrowser.open(output.resolve().as_uri())
    if options.json:
        return document("view", page=str(output), bytes=len(text.encode()))
    print(output)
    return 0


# -------------------------------------------------------------------------------------------------------- explanations


def _explain(options: Namespace) -> int:
    if options.spec in CODES and options.pass_name is None:
        code = CODES[options.spec]
        if options.json:
            return document("code", **vars(code))
        print(f"{code.name}: {code.title} (exit code {code.exit_code})\n\n{code.explanation}")
        return 0
    if options.pass_name is None:
        raise error("B0001", "a spec needs the name of a pass to explain", None, "bertc explain SPEC PASS")
    if options.pass_name == "expand_unhosted":
        return _explain_hosting(options)
    return _explain_pass(options.spec, options.pass_name, options.json)


def _explain_hosting(options: Namespace) -> int:
    from bertc.compiler import default_target, explain_hosting

    spec = _load(options)
    target = spec.target or default_target()
    found = explain_hosting(spec, target)
    if options.json:
        return document("hosting", target=target, ops=found)
    for row in found:
        why = f": {row['why']}" if row["why"] else ""
        print(f"{row['op']}: {len(row['nodes'])} {row['how']}{why}")
    return 0


def _explain_pass(argument: str, name: str, as_json: bool) -> int:
    from bertc.compiler import explain_pass
    from bertc.spec import load_spec

    found = explain_pass(load_spec(argument), name)
    if as_json:
        return document("explain", rules=found)
    for rule in found:
        print(f"{rule['rule']}: {len(rule['fired'])} fired")
        for place in rule["fired"]:
            print(f"  {place}")
        if rule["miss"] is not None:
            print(f"  nearest miss: {rule['miss']}")
    return 0


def _check(options: Namespace) -> int:
    from bertc.check import check_rules, check_spec

    verdicts = check_rules(options.subject) if options.subject.endswith(".net") else check_spec(options.subject)
    if options.json:
        document("check", checks=[_verdict(verdict) for verdict in verdicts])
    else:
        for verdict in verdicts:
            print(f"{'ok  ' if verdict.fault is None else 'FAIL'} {verdict.subject}: {verdict.check}")
            if verdict.fault is not None:
                print(verdict.fault)
    return 0 if all(verdict.fault is None for verdict in verdicts) else CHECK_SAID_NO


def _verdict(verdict: Any) -> dict[str, Any]:
    found = {"subject": verdict.subject, "check": verdict.check, "problem": verdict.problem}
    if verdict.fault is None:
        return found
    return found | {"place": str(verdict.fault.span) if verdict.fault.span else None, "help": verdict.fault.help}


def _new(options: Namespace) -> int:
    from bertc.new import new

    written = [str(path) for path in new(options.kind, options.name, options.output)]
    if options.json:
        return document("new", files=written)
    print("\n".join(written))
    return 0


# ------------------------------------------------------------------------------------------------------------- engines


def _run(options: Namespace) -> int:
    if options.task is not None:
        from bertc.tasks import run_task

        return run_task(options)
    from bertc.engine import open, read_arrays, write_arrays

    if options.inputs is None or options.outputs is None:
        raise error("B0001", "expected a task, or --inputs and --outputs", None, "bertc run --help")
    inputs = read_arrays(options.inputs)
    with open(options.bundle, device=options.device) as engine:
        outputs = engine.run(inputs)
    write_arrays(options.outputs, outputs)
    if options.json:
        shapes = {name: {"type": str(array.dtype), "shape": array.shape} for name, array in outputs.items()}
        return document("run", outputs=shapes)
    for name, array in outputs.items():
        print(f"{name} {array.dtype} {list(array.shape)}")
    return 0


def _eval(options: Namespace) -> int:
    from bertc.scores import run_eval

    return run_eval(options)


def _compare(options: Namespace) -> int:
    from bertc.scores import run_compare

    return run_compare(options)


def _bench(options: Namespace) -> int:
    from dataclasses import asdict

    from bertc.bench import Protocol, bench
    from bertc.bench.picture import picture
    from bertc.bench.report import picture_lines, to_text
    from bertc.spec import load_spec

    if options.weights and not options.spec:
        options.parser.error("--weights needs --spec")
    with progress_bars() as (progress, _):
        report = bench(
            options.bundle,
            batch_sizes=options.batch,
            seqs=options.seq,
            protocol=Protocol(options.runs, options.duration, options.warm_up / 1e3),
            lengths=options.lengths,
            seed=options.seed,
            against=options.against.split(",") if options.against else (),
            spec=load_spec(options.spec) if options.spec else None,
            weights=options.weights,
            price=options.price,
            device=options.device,
            progress=progress,
        )
    if options.plot:
        write_text(
            options.plot, picture(f"{report.spec}, {report.precision}: median latency, ms", picture_lines(report))
        )
    if options.json:
        return document("bench", **asdict(report))
    print(to_text(report), end="")
    return 0


def _weights(options: Namespace) -> int:
    from bertc.checkpoints import convert_weights, list_weights
    from bertc.weights_io.tensor import printable

    if options.qkv_layout and not options.spec:
        options.parser.error("--qkv-layout needs --spec")
    spec = _load(options) if options.spec else None
    if options.convert is not None:
        written = convert_weights(options.checkpoint, options.convert, spec)
        count = len(written.parameters) + len(written.quantisation)
        if options.json:
            return document("weights-converted", output=str(options.convert), tensors=count, left_out=written.unknown)
        for name in written.unknown:
            print(f"left out, not a known name: {printable(name)}", file=sys.stderr)
        print(f"{options.convert}: {count} tensors")
        return 0
    listing = list_weights(options.checkpoint, spec)
    if options.json:
        entries = [vars(entry) for entry in listing.entries]
        return document("weights", tensors=entries, missing=listing.missing, unexpected=listing.unexpected)
    for entry in listing.entries:
        name, size = printable(entry.name), f"{entry.bytes} bytes"
        print(f"{name}  {entry.element}{list(entry.shape)}  {size}  -> {entry.purpose}")
    for what, names in (("missing", listing.missing), ("unexpected", listing.unexpected)):
        for name in names:
            print(f"{what}: {name}")
    return 0


def _doctor(options: Namespace) -> int:
    from bertc.compiler import diagnoses

    found = diagnoses()
    if options.json:
        return document("doctor", targets={diagnosis.target: vars(diagnosis) for diagnosis in found})
    for diagnosis in found:
        builds, runs = (reason or "yes" for reason in (diagnosis.builds, diagnosis.runs))
        versions = ", ".join(f"{package} {version}" for package, version in diagnosis.versions.items())
        print(f"{diagnosis.target}  {versions}\n  builds here: {builds}\n  runs here: {runs}")
    return 0


def _completion(options: Namespace) -> int:
    import shtab

    print(shtab.complete(make_parser(), options.shell))
    return 0


VERBS: dict[str, Callable[[Namespace], int]] = {
    "build": _build,
    "run": _run,
    "bench": _bench,
    "eval": _eval,
    "compare": _compare,
    "weights": _weights,
    "inspect": _inspect,
    "view": _view,
    "explain": _explain,
    "check": _check,
    "new": _new,
    "doctor": _doctor,
    "completion": _completion,
}
