"""Time the ways of each step on the GPU, and cuBLASLt's algorithms, and keep the fastest in the plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from bertc.targets.cuda.plan import Launch, Operation, Plan, Product, Size, Step
from bertc.targets.cuda.session import Session, algorithm_key

ALIKE = 8
"""Steps of different layers that are timed together, so that their weights are not in the cache, as when it counts."""

REPLAYS = 5

Progress = Callable[[str, int, int], None]


def tuned(session: Session, shapes: Sequence[Mapping[str, int]], progress: Progress | None = None) -> Plan:
    """The session's plan with the fastest way of each step, and the fastest algorithms, for each of the shapes.

    A shape is `batch`, `seq` and `tokens`; ways are chosen by the tokens.
    """
    groups: dict[object, list[Step]] = {}
    for step in session.plan.steps:
        groups.setdefault(_signature(step), []).append(step)
    choices: dict[object, dict[int, int]] = {signature: {} for signature in groups}
    for done, sizes in enumerate(sorted(shapes, key=lambda sizes: sizes["tokens"])):
        every = [[operation for way in step.ways for operation in way] for step in session.plan.steps]
        addresses = session.place(every, sizes)
        _fill(session, sizes, addresses)
        for signature, steps in groups.items():
            times = [_time(session, steps[:ALIKE], way, sizes, addresses) for way in range(len(steps[0].ways))]
            choices[signature][sizes["tokens"]] = times.index(min(times))
        if progress:
            progress("timing kernels", done + 1, len(shapes))
    steps = tuple(
        replace(step, choices=tuple(sorted(choices[_signature(step)].items()))) for step in session.plan.steps
    )
    algorithms = {name: algorithm.hex() for name, algorithm in sorted(session.algorithms.items())}
    return replace(session.plan, steps=steps, algorithms=algorithms)


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
        if isinstance(product, Product):
            _choose_algorithm(session, product, operations, sizes, addresses)
    return _replayed(session, operations, sizes, addresses)


def _choose_algorithm(
    session: Session,
    product: Product,
    operations: Sequence[Operation],
    sizes: Mapping[str, int],
    addresses: Mapping[str, int],
) -> None:
    problem = session.problem(product, sizes)
    key = algorithm_key(problem)
    if key in session.algorithms:
        return
    times: dict[bytes, float] = {}
    for algorithm in session.blas.algorithms(problem):
        session.algorithms[key] = algorithm
        try:
            times[algorithm] = _replayed(session, operations, sizes, addresses)
        except RuntimeError:
            continue  # some suggestions do not run for some shapes
    session.algorithms[key] = min(times, key=lambda algorithm: times[algorithm])


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
    return min(times)


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
