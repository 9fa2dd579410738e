"""The verbs of bundles and checkpoints: call the API, print. Each gives the exit code."""

from __future__ import annotations

import sys
from argparse import Namespace
from contextlib import nullcontext

from bertc.errors import error
from bertc.output import document, progress_bars
from bertc.spec_verbs import spec_of
from bertc.writing import replacing


def run_bundle(options: Namespace) -> int:
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


def run_bench(options: Namespace) -> int:
    from dataclasses import asdict

    from bertc.bench import Protocol, bench
    from bertc.bench.picture import picture
    from bertc.bench.report import picture_lines, to_text
    from bertc.spec import load_spec

    if options.weights and not options.spec:
        options.parser.error("--weights needs --spec")
    plotting = replacing(options.plot) if options.plot else nullcontext()
    with plotting as plot, progress_bars() as (progress, _):
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
            ops=options.ops,
            progress=progress,
        )
        if plot is not None:
            title = f"{report.spec}, {report.precision}: median latency, ms"
            plot.write_text(picture(title, picture_lines(report)), "utf-8")
    if options.json:
        return document("bench", **asdict(report))
    print(to_text(report), end="")
    return 0


def run_weights(options: Namespace) -> int:
    from bertc.checkpoints import convert_weights, list_weights
    from bertc.weights_io.tensor import printable

    if options.refit is not None:
        return _refit(options)
    if options.qkv_layout and not options.spec:
        options.parser.error("--qkv-layout needs --spec")
    spec = spec_of(options) if options.spec else None
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


def _refit(options: Namespace) -> int:
    from bertc.refitting import refit

    if options.spec:
        options.parser.error("--spec is not for --refit: the bundle knows its network")
    bundle = refit(options.refit, options.checkpoint, qkv_layout=options.qkv_layout)
    manifest = bundle.manifest
    if options.json:
        return document("weights-refitted", bundle=str(bundle.path), weights_hash=manifest.weights_hash)
    print(f"{options.refit}: {manifest.spec} for {manifest.target}, weights {manifest.weights_hash[:16]}")
    return 0
