"""Measure a bundle: latency and throughput, alone or beside other engines with the same network."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bertc.bench.lengths import CONSTANT
from bertc.bench.machine import cpu_name, gpu_state
from bertc.bench.measure import Contestant, Protocol, measure
from bertc.bench.op_times import op_times
from bertc.bench.peers import Network, Peer, bundle_graph, bundle_weights, check_peer, open_peer
from bertc.bench.report import OURS, Cold, Compared, Report, Row, compared, measured
from bertc.bench.workload import Workload, draw_workloads
from bertc.engine import Engine, open
from bertc.ops import Array
from bertc.sequences import batches, width
from bertc.spec import Spec
from bertc.targets import Phases
from bertc.version import VERSION

Progress = Callable[[str, int, int], None]
"""Told what is measured, how many runs are done, and of how many."""

REST = 0.1
"""Seconds after which the threads of an engine on the CPU have gone to sleep."""

__all__ = ["Protocol", "bench"]


def bench(
    path: Path,
    *,
    batch_sizes: Sequence[int] = (),
    seqs: Sequence[int] = (),
    protocol: Protocol | None = None,
    lengths: str = CONSTANT,
    seed: int = 0,
    against: Sequence[str] = (),
    spec: Spec | None = None,
    weights: Path | None = None,
    price: float | None = None,
    device: int = 0,
    ops: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Open the bundle at `path` on a device and measure it for each batch size and width, the profiles' usual ones when
    left out, beside the peers named by `against` (`torch`, `onnxruntime`).

    `lengths` is `constant`, `squad` or a file of numbers (see `draw_lengths`); sequences that are drawn go through
    `Engine.run_sequences`, whole ones through `Engine.run`. `spec` is what the bundle was built from, whose weights
    peers get, or those at `weights`; without it theirs are random. `price` is in dollars an hour. `ops` measures
    each op as well, in runs behind the others.

    Raises BertcError: what opening and running the bundle raises, B0702 for shapes before the first of them runs, B0001
    and B0801 for peers, B0802 for other weights, B0805 for an engine that does not tell the times of ops, B0002 and
    B0212 for lengths.
    """
    for name in against:
        check_peer(name)
    started = time.perf_counter()
    with open(path, device=device) as engine:
        opened = time.perf_counter()
        loads = draw_workloads(engine.bundle.manifest, batch_sizes, seqs, lengths, seed)
        _check_shapes(engine, loads)
        first = _ours(engine, loads[0])
        first_started = time.perf_counter()
        first.run()
        cold = Cold((opened - started) * 1e3, (time.perf_counter() - first_started) * 1e3)
        peers, same = _peers(engine, against, spec, weights, device)
        protocol = protocol or Protocol()
        on_gpu = engine.runtime.gpu is not None
        if peers and not on_gpu:
            protocol = replace(protocol, rest=REST)
        rows = [_row(engine, load, peers, same, protocol, price, progress) for load in loads]
        if ops:
            graph = bundle_graph(engine.bundle)
            rows = [
                replace(row, ops=op_times(engine, graph, load, protocol.runs))
                for row, load in zip(rows, loads, strict=True)
            ]
        manifest = engine.bundle.manifest
        return Report(
            bundle=str(path),
            spec=manifest.spec,
            target=manifest.target,
            precision=manifest.precision,
            lengths=lengths,
            seed=seed,
            cpu=cpu_name(),
            engines={OURS: _description(engine)} | {peer.name: peer.description for peer in peers},
            same_weights=same if peers else None,
            cold=cold,
            price_per_hour=price,
            rows=tuple(rows),
        )


def _check_shapes(engine: Engine, loads: Sequence[Workload]) -> None:
    """Before the first of them runs. Drawn sequences are sorted into batches that the engine takes."""
    check = engine.runtime.check_shape
    for load in loads:
        if check is not None and load.whole:
            check(len(load.ids), load.seq)


def _peers(
    engine: Engine, names: Sequence[str], spec: Spec | None, weights: Path | None, device: int
) -> tuple[list[Peer], bool]:
    """The peers, and whether they have the bundle's weights."""
    if not names:
        return [], False
    graph = bundle_graph(engine.bundle)
    values, same = bundle_weights(engine.bundle, graph, spec, weights)
    gpu = None if engine.runtime.gpu is None else device
    network = Network(graph, values, engine.bundle.manifest.sizes, gpu)
    return [open_peer(name, network) for name in names], same


def _row(
    engine: Engine,
    load: Workload,
    peers: Sequence[Peer],
    same_weights: bool,
    protocol: Protocol,
    price: float | None,
    progress: Progress | None,
) -> Row:
    """One shape, all engines in turn."""
    inputs = engine.checked(load.inputs())
    contestants = [_ours(engine, load), *(peer.prepare(inputs) for peer in peers)]
    answers = [contestant.run() for contestant in contestants] if same_weights and load.whole else None
    batch, tokens = len(load.ids), sum(map(len, load.ids))

    def tell(done: int, of: int) -> None:
        if progress is not None:
            progress(f"{batch} x {load.seq}", done, of)

    times = measure(contestants, protocol, progress=tell)
    gpu = None if engine.runtime.gpu is None else gpu_state(engine.runtime.gpu)
    engines = [
        measured(contestant.name, its, batch, tokens, price) for contestant, its in zip(contestants, times, strict=True)
    ]
    ratios: list[Compared] = []
    for index, peer in enumerate(peers, 1):
        difference = None if answers is None else _difference(answers[0], answers[index])
        ratios.append(compared(peer.name, times[0], times[index], difference))
    return Row(batch, load.seq, tokens, tuple(engines), tuple(ratios), gpu)


def _ours(engine: Engine, load: Workload) -> Contestant:
    """The bundle's engine: a padded batch where no sequence needs padding, else a list of sequences."""
    device_phases = engine.runtime.phases
    phases = None if device_phases is None else lambda: _phases(engine, device_phases, load)
    if not load.whole:
        return Contestant(OURS, lambda: engine.run_sequences(load.ids), phases)
    inputs = load.inputs()
    return Contestant(OURS, lambda: engine.run(inputs), phases)


def _phases(engine: Engine, phases: Callable[[Mapping[str, Array]], Phases], load: Workload) -> Phases:
    """What the device does for the workload, all of its batches together."""
    profiles, lengths = engine.bundle.manifest.profiles, [len(row) for row in load.ids]
    if load.whole:
        return phases(load.inputs())
    packed = engine.runtime.run_packed is not None
    parts = [
        phases(load.inputs(rows, width(lengths[rows[0]], profiles)))
        for rows in batches(lengths, profiles, packed=packed)
    ]
    return Phases(
        sum(part.host_to_device for part in parts),
        sum(part.compute for part in parts),
        sum(part.device_to_host for part in parts),
    )


def _difference(ours: Any, theirs: Any) -> float:
    """The largest difference between outputs that both have."""
    return max(
        float(np.abs(np.asarray(ours[name], np.float64) - theirs[name]).max()) for name in ours if name in theirs
    )


def _description(engine: Engine) -> str:
    versions = ", ".join(f"{package} {version}" for package, version in engine.bundle.manifest.versions.items())
    packed = ", without padding" if engine.runtime.run_packed is not None else ""
    return f"bertc {VERSION}, target {engine.bundle.manifest.target}{packed}, built with {versions}"
