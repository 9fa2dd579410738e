"""What a measurement found: rows of figures, and as a table for reading."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bertc.bench.machine import Gpu
from bertc.bench.measure import Times
from bertc.bench.op_times import OpTime, by_kind
from bertc.bench.picture import Line
from bertc.bench.statistics import Quartiles, Summary, dollars_per_million, is_stable, ratios, summary
from bertc.targets import Phases

OURS = "bertc"


@dataclass(frozen=True)
class Measured:
    """One engine at one shape. A run is a batch, from arrays of the host to arrays of the host."""

    engine: str
    latency_ms: Summary
    device_ms: Phases | None
    """Medians by the device's clock; None where the engine runs on the CPU."""
    sequences_per_second: float
    """batch · runs / the sum of their latencies."""
    tokens_per_second: float
    """The same of tokens that are there; padding does not count."""
    stable: bool
    """Whether the medians of three windows lie within 10 %."""
    bound_by: str | None
    """`copies` where they take the device longer than computing, `host` where most of the latency is neither."""
    dollars_per_million: float | None
    """Of sequences, at the price that was given."""


@dataclass(frozen=True)
class Compared:
    """A peer's time over ours, pair by pair: above 1, ours is that many times as fast."""

    engine: str
    latency: Quartiles
    compute: Quartiles | None
    """By the device's clock, copies left out."""
    difference: float | None
    """The largest between the outputs; None where they need not be the same."""


@dataclass(frozen=True)
class Row:
    """One shape."""

    batch: int
    seq: int
    tokens: int
    """That are there, all sequences together."""
    engines: tuple[Measured, ...]
    ratios: tuple[Compared, ...]
    gpu: Gpu | None
    """Right behind the last run, so that clock and power are those of the measurement; None on the CPU."""
    ops: tuple[OpTime, ...] | None = None
    """Of ours, the slowest first; None where they were not asked for."""


@dataclass(frozen=True)
class Cold:
    """The first time, in milliseconds; what the file system and the driver keep from earlier runs stays kept."""

    open_ms: float
    """From the bundle's folder to an engine: hashes checked, weights loaded."""
    first_run_ms: float


@dataclass(frozen=True)
class Report:
    """All that a measurement says."""

    bundle: str
    spec: str
    target: str
    precision: str
    lengths: str
    seed: int
    cpu: str
    engines: Mapping[str, str]
    """Name -> version and how it was made to run."""
    same_weights: bool | None
    """Whether peers have the weights of the bundle; None without peers."""
    cold: Cold
    price_per_hour: float | None
    rows: tuple[Row, ...]


def measured(engine: str, times: Times, batch: int, tokens: int, price: float | None) -> Measured:
    """What the times of a batch of so many sequences and tokens come to; `price` is in dollars an hour."""
    seconds = sum(times.latency) / 1e3
    rate = batch * len(times.latency) / seconds
    device = _medians(times.phases)
    latency = summary(times.latency)
    return Measured(
        engine=engine,
        latency_ms=latency,
        device_ms=device,
        sequences_per_second=rate,
        tokens_per_second=tokens * len(times.latency) / seconds,
        stable=is_stable(times.latency),
        bound_by=None if device is None else _bound_by(latency.median, device),
        dollars_per_million=None if price is None else dollars_per_million(price, rate),
    )


def compared(engine: str, ours: Times, theirs: Times, difference: float | None) -> Compared:
    """A peer beside ours, from times that were taken in turn."""
    computes = [[phases.compute for phases in times.phases] for times in (ours, theirs)]
    compute = ratios(*computes) if all(computes) else None
    return Compared(engine, ratios(ours.latency, theirs.latency), compute, difference)


def _medians(phases: Sequence[Phases]) -> Phases | None:
    if not phases:
        return None
    table = np.array([(one.host_to_device, one.compute, one.device_to_host) for one in phases])
    return Phases(*np.median(table, axis=0).tolist())


def _bound_by(latency: float, device: Phases) -> str | None:
    copies = device.host_to_device + device.device_to_host
    if latency > 2 * (copies + device.compute):
        return "host"
    return "copies" if copies > device.compute else None


# ------------------------------------------------------------------------------------------------------------ printing

LATENCY, DEVICE = ("median", "mean", "p90", "p95", "p99", "min", "max"), ("H2D", "compute", "D2H")
RATES, PRICE = ("sequences/s", "tokens/s"), "$/million"


def to_text(report: Report) -> str:
    """The report as a table; times are in milliseconds."""
    gpu = report.rows[0].gpu
    machine = report.cpu if gpu is None else f"{gpu.name}, driver {gpu.driver}"
    lines = [f"{report.spec} for {report.target}, {report.precision}, on {machine}"]
    lines += [f"{name}: {description}" for name, description in report.engines.items()]
    if report.lengths != "constant":
        lines.append(f"sequences as long as `{report.lengths}` says, seed {report.seed}; peers pad them to seq")
    if report.same_weights is False:
        lines.append("peers have random weights, which take as long: the spec of the bundle was not named (--spec)")
    lines.append(
        f"cold: opened in {report.cold.open_ms:.0f} ms, first run {report.cold.first_run_ms:.1f} ms; "
        "below: warm, latency in milliseconds from host to host"
    )
    return "\n".join([*lines, *(line for row in report.rows for line in _row_lines(row))]) + "\n"


def _row_lines(row: Row) -> Iterator[str]:
    has_device = any(engine.device_ms is not None for engine in row.engines)
    price = [PRICE] if row.engines[0].dollars_per_million is not None else []
    head = ["engine", *LATENCY, *(DEVICE if has_device else ()), *RATES, *price]
    cells = [head, *(_cells(engine, has_device) for engine in row.engines)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    yield ""
    state = "" if row.gpu is None else f"; {row.gpu.state}"
    yield f"batch {row.batch}, seq {row.seq}: {row.tokens} tokens, {row.engines[0].latency_ms.runs} runs{state}"
    for line in cells:
        name, *numbers = line
        rest = (number.rjust(width) for number, width in zip(numbers, widths[1:], strict=True))
        yield "  " + "  ".join([name.ljust(widths[0]), *rest])
    for engine in row.engines:
        if not engine.stable:
            yield f"  {engine.engine}: not stable, medians of three windows differ by more than 10 %"
        if engine.bound_by is not None:
            yield f"  {engine.engine}: bound by {'copies' if engine.bound_by == 'copies' else 'the host'}"
    for ratio in row.ratios:
        yield "  " + _ratio_line(ratio)
    if row.ops is not None:
        yield from _op_lines(row.ops)


def _op_lines(ops: Sequence[OpTime]) -> Iterator[str]:
    yield f"  ops, in runs of their own: {sum(op.microseconds for op in ops):.0f} µs"
    kinds = by_kind(ops)
    widest = max(len(kind.op) for kind in kinds)
    for kind in kinds:
        name = kind.op.ljust(widest)
        yield f"    {name}  {kind.count:4} times  {kind.microseconds:9.1f} µs  {100 * kind.share:5.1f} %"


def _cells(engine: Measured, has_device: bool) -> list[str]:
    latency, device = engine.latency_ms, engine.device_ms
    times = (latency.median, latency.mean, latency.p90, latency.p95, latency.p99, latency.min, latency.max)
    none = ["-"] * len(DEVICE) if has_device else []
    phases = none if device is None else map(_number, (device.host_to_device, device.compute, device.device_to_host))
    rates = (f"{engine.sequences_per_second:.1f}", f"{engine.tokens_per_second:.0f}")
    price = [] if engine.dollars_per_million is None else [f"{engine.dollars_per_million:.2f}"]
    return [engine.engine, *map(_number, times), *phases, *rates, *price]


def _number(milliseconds: float) -> str:
    return f"{milliseconds:.4g}" if milliseconds < 1000 else f"{milliseconds:.0f}"


def _ratio_line(ratio: Compared) -> str:
    parts = [f"{OURS} is {_quartiles(ratio.latency)} as fast as {ratio.engine}"]
    if ratio.compute is not None:
        parts.append(f"on the device alone {_quartiles(ratio.compute)}")
    if ratio.difference is not None:
        parts.append(f"outputs differ by {ratio.difference:.1e}")
    return "; ".join(parts)


def _quartiles(of: Quartiles) -> str:
    return f"{of.median:.2f} times ({of.low:.2f} to {of.high:.2f})"


def picture_lines(report: Report) -> list[Line]:
    """Median latency over batch: a line for each engine and seq."""
    seqs = sorted({row.seq for row in report.rows})
    found: list[Line] = []
    for seq in seqs:
        rows = sorted((row for row in report.rows if row.seq == seq), key=lambda row: row.batch)
        for index, name in enumerate(report.engines):
            points = tuple((row.batch, row.engines[index].latency_ms.median) for row in rows)
            found.append(Line(f"{name}, seq {seq}", points))
    return found
