"""The verbs of specs, rules and passes: call the API, print. Each gives the exit code."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from re import fullmatch
from typing import Any

from bertc.arguments import BUILDER_FLAGS, TARGET_FLAGS
from bertc.codes import CHECK_SAID_NO, CODES
from bertc.errors import did_you_mean, error
from bertc.output import document, progress_bars, to_document, write
from bertc.writing import write_text


def spec_of(options: Namespace) -> Any:
    """The spec that the options name, with what else they say of it."""
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


def run_build(options: Namespace) -> int:
    from bertc.compiler import build, default_target

    spec = spec_of(options)
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


def run_inspect(options: Namespace) -> int:
    from bertc.compiler import stages
    from bertc.exports import EXPORTS, to_json

    found = list(stages(spec_of(options), options.target))
    if options.passes == "":
        return _print_passes(found, options.json)
    names = [stage.name for stage in found]
    name = options.after or names[0]
    if name not in names:
        raise error("B0001", f"pass `{name}` is not in this pipeline", None, did_you_mean(name, names))
    graph = found[names.index(name)].graph
    as_json = options.json or options.format == "json"
    content = to_document("graph", after=name, **to_json(graph)) if as_json else EXPORTS[options.format](graph)
    write(content, options.output)
    return 0


def _print_passes(stages: Sequence[Any], as_json: bool) -> int:
    if as_json:
        rows = [
            {"pass": s.name, "fired": s.fired, "ops": len(s.graph), "milliseconds": s.seconds * 1e3} for s in stages
        ]
        return document("passes", passes=rows)
    print("\n".join(map(_row, stages)))
    return 0


def run_view(options: Namespace) -> int:
    import webbrowser

    from bertc.spec import load_spec
    from bertc.viewer import Subject, bundle_subject, is_bundle, spec_subject, view

    def other(argument: str) -> Subject:
        return bundle_subject(Path(argument)) if is_bundle(argument) else spec_subject(load_spec(argument))

    if is_bundle(options.spec):
        idle = next((flag for flag in ("passes", "without", "weights", "histograms") if getattr(options, flag)), None)
        if idle is not None:
            message = f"`--{idle}` is for specs, but `{options.spec}` is a bundle, which has its last graph alone"
            raise error("B0001", message, None, "leave it out, or name the spec that the bundle was built from")
        subjects = [bundle_subject(Path(options.spec))]
    else:
        spec = spec_of(options)
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


# --------------------------------------------------------------------------------------------------------- explanations


def run_explain(options: Namespace) -> int:
    if options.spec in CODES and options.pass_name is None:
        code = CODES[options.spec]
        if options.json:
            return document("code", **vars(code))
        print(f"{code.name}: {code.title} (exit code {code.exit_code})\n\n{code.explanation}")
        return 0
    if options.pass_name is None and fullmatch("[Bb][0-9]+", options.spec):
        help = did_you_mean(options.spec.upper(), CODES)
        raise error("B0001", f"there is no error code `{options.spec}`", None, help)
    if options.pass_name is None:
        raise error("B0001", "a spec needs the name of a pass to explain", None, "bertc explain SPEC PASS")
    if options.pass_name == "expand_unhosted":
        return _explain_hosting(options)
    return _explain_pass(options)


def _explain_hosting(options: Namespace) -> int:
    from bertc.compiler import default_target, explain_hosting

    spec = spec_of(options)
    target = spec.target or default_target()
    found = explain_hosting(spec, target)
    if options.json:
        return document("hosting", target=target, ops=found)
    for row in found:
        why = f": {row['why']}" if row["why"] else ""
        print(f"{row['op']}: {len(row['nodes'])} {row['how']}{why}")
    return 0


def _explain_pass(options: Namespace) -> int:
    from bertc.compiler import explain_pass

    found = explain_pass(spec_of(options), options.pass_name)
    if options.json:
        return document("explain", rules=found)
    for rule in found:
        print(f"{rule['rule']}: {len(rule['fired'])} fired")
        for place in rule["fired"]:
            print(f"  {place}")
        if rule["miss"] is not None:
            print(f"  nearest miss: {rule['miss']}")
    return 0


def run_check(options: Namespace) -> int:
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


def run_new(options: Namespace) -> int:
    from bertc.new import new

    written = [str(path) for path in new(options.kind, options.name, options.output)]
    if options.json:
        return document("new", files=written)
    print("\n".join(written))
    return 0
