"""Time the ways of each step on the GPU, and cuBLASLt's algorithms, and keep the fastest in the plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from math import inf
from statistics import median

import numpy as np

from bertc.targets.cuda.plan import Launch, Operation, Plan, Product, Size, Step
from bertc.targets.cuda.session import Session, algorithm_key

ALIKE = 8
"""Steps of different layers that are timed together, so that their weights are not in the cache, as when it counts."""

REPLAYS = 5

NEAR = 1.15
"""Ways that take so much longer than the fastest by themselves are not tried beside those of other steps."""

WORTH = 0.997
"""What a way has to bring the whole network down to: less is noise."""

TRIED_UP_TO = 512
"""Rows up to which steps for few rows are tried, and all ways beside each other, twice; where no shape has as few rows,
there are no such steps."""

Progress = Callable[[str, int, int], None]

Ways = dict[object, int]
"""The signature of a step -> the way it takes."""


def tuned(session: Session, shapes: Sequence[Mapping[str, int]], progress: Progress | None = None) -> Plan:
    """The session's plan with the fastest way of each step, and the fastest algorithms, for each of the shapes; and
    with the steps for few rows up to where they are faster.

    A shape is `batch`, `seq` and `tokens`; ways are chosen by the tokens.
    """
    plan = session.plan
    steps, few = dict[int, Ways](), dict[int, Ways]()
    won = dict[int, bool]()
    for done, sizes in enumerate(sorted(shapes, key=lambda sizes: sizes["tokens"])):
        rows = sizes["tokens"]
        steps[rows], time = _fastest(session, plan.steps, sizes)
        if plan.few and rows <= TRIED_UP_TO:
            few[rows], few_time = _fastest(session, plan.few, sizes)
            won[rows] = few_time < time and won.get(rows, True)
        if progress:
            progress("timing kernels", done + 1, len(shapes))
    return replace(
        plan,
        steps=_with_choices(plan.steps, steps),
        algorithms={name: algorithm.hex() for name, algorithm in sorted(session.algorithms.items())},
        few=_with_choices(plan.few, few),
        few_up_to=max(takewhile(lambda rows: won[rows], won), default=0),
    )


def _fastest(session: Session, steps: Sequence[Step], sizes: Mapping[str, int]) -> tuple[Ways, float]:
    """The fastest ways of all steps for a shape, and the milliseconds that they take together."""
    addresses = session.place([[operation for way in step.ways for operation in way] for step in steps], sizes)
    _fill(session, sizes, addresses)
    groups = dict[object, list[Step]]()
    for step in steps:
        groups.setdefault(_signature(step), []).append(step)
    ranked = dict[object, list[int]]()
    for signature, group in groups.items():
        alike = group[:ALIKE]
        times = [_time(session, alike, way, sizes, addresses) for way in range(len(alike[0].ways))]
        ranked[signature] = _ranked(times, inf if _are_few(sizes) else NEAR)
    return _settled(session, steps, ranked, sizes, addresses)


def _with_choices(steps: Sequence[Step], taken: Mapping[int, Ways]) -> tuple[Step, ...]:
    """The steps with the ways that they take of so many rows, which rise."""
    return tuple(
        replace(step, choices=tuple((rows, ways[_signature(step)]) for rows, ways in taken.items())) for step in steps
    )


def _ranked(times: Sequence[float], near: float) -> list[int]:
    """The ways that run, and take less than `near` times as long as the fastest, which is the first."""
    there = [way for way, time in enumerate(times) if time < inf and time <= near * min(times)]
    return sorted(there, key=lambda way: times[way])


def _are_few(sizes: Mapping[str, int]) -> bool:
    return sizes["tokens"] <= TRIED_UP_TO


def _settled(
    session: Session,
    steps: Sequence[Step],
    ranked: Mapping[object, Sequence[int]],
    sizes: Mapping[str, int],
    addresses: Mapping[str, int],
) -> tuple[Ways, float]:
    """The ways that are fastest beside each other, and the milliseconds of all steps: of few rows, a kernel's end and
    the next one's start cost as much as the work between, and depend on both; of many, the GPU's clock falls by as much
    as the whole takes more power. So each way is timed beside what it would take the place of."""

    def time(taken: Ways) -> float:
        operations = [operation for step in steps for operation in step.ways[taken[_signature(step)]]]
        return _replayed(session, operations, sizes, addresses)

    taken = {signature: ways[0] for signature, ways in ranked.items()}
    best = time(taken)
    rounds = 2 if _are_few(sizes) else 1
    for signature, way in rounds * [(signature, way) for signature, ways in ranked.items() for way in ways]:
        other = {**taken, signature: way}
        if other != taken:
            best, found = time(taken), time(other)
            if found < WORTH * best:
                taken, best = other, found
    return taken, best


def _fill(session: Session, sizes: Mapping[str, int], addresses: Mapping[str, int]) -> None:
    """Sequences without padding, since attention takes as long as they are."""
    batch, seq = sizes["batch"], sizes["seq"]
    for name, values in {"lengths": np.full(batch, seq), "starts": np.arange(batch) * seq}.items():
        if name in addresses:
            session.device.upload(addresses[name], values.astype(np.int32))


def _time(
    session: Session, steps: Sequence[Step], way: int, sizes: Mapping[str, int], addresses: Mapping[str, int]
) -> float:
    """Milliseconds that one way of some steps takes; its products by their fastest algorithms from then on."""
    operations = [operation for step in steps for operation in step.ways[way]]
    for product in steps[0].ways[way]:
        if isinstance(product, Product) and not _choose_algorithm(session, product, operations, sizes, addresses):
            return inf
    return _replayed(session, operations, sizes, addresses)


def _choose_algorithm(
    session: Session,
    product: Product,
    operations: Sequence[Operation],
    sizes: Mapping[str, int],
    addresses: Mapping[str, int],
) -> bool:
    """Whether there is one: the library has none for some sizes."""
    problem = session.problem(product, sizes)
    key = algorithm_key(problem)
    if key in session.algorithms:
        return True
    times: dict[bytes, float] = {}
    for algorithm in session.blas.algorithms(problem):
        session.algorithms[key] = algorithm
        try:
            times[algorithm] = _replayed(session, operations, sizes, addresses)
        except RuntimeError:
            continue  # some suggestions do not run for some shapes
    if times:
        session.algorithms[key] = min(times, key=lambda algorithm: times[algorithm])
    else:
        session.algorithms.pop(key, None)
    return bool(times)


def _replayed(
    session: Session, operations: Sequence[Operation], sizes: Mapping[str, int], addresses: Mapping[str, int]
) -> float:
    def work() -> None:
        for operation in operations:
            session.start(operation, sizes, addresses)

    work()
    graph = session.device.captured(work)
    session.device.replay(graph)
    times = [session.device.milliseconds(lambda: session.device.replay(graph)) for _ in range(REPLAYS)]
    session.device.forget(graph)
    return median(times)


def _signature(step: Step) -> object:
    """What steps of different layers have in common: kernels, sizes, and no names."""
    return tuple(tuple(map(_shape, way)) for way in step.ways)


def _shape(operation: Operation) -> object:
    if isinstance(operation, Launch):
        return operation.kernel, operation.grid, tuple(a for a in operation.arguments if isinstance(a, Size))
    named = ("bias", "residual")
    return (
        operation.rows,
        operation.row,
        operation.n,
        operation.k,
        operation.end,
        *(getattr(operation, name) is None for name in named),
    )
