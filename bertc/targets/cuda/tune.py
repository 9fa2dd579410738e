"""Time the ways of each step on the GPU, and cuBLASLt's algorithms, and keep the fastest in the plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import inf

import numpy as np

from bertc.targets.cuda.plan import Launch, Operation, Plan, Product, Size, Step
from bertc.targets.cuda.session import Session, algorithm_key

ALIKE = 8
"""Steps of different layers that are timed together, so that their weights are not in the cache, as when it counts."""

REPLAYS = 5

ROUNDS = 2
"""How often all ways of a step are tried beside those taken of the others."""

FEWEST = 512
"""Steps for few rows are tried up to so many tokens, and made where the smallest shape has no more."""

Progress = Callable[[str, int, int], None]


def tuned(session: Session, shapes: Sequence[Mapping[str, int]], progress: Progress | None = None) -> Plan:
    """The session's plan with the fastest way of each step, and the fastest algorithms, for each of the shapes; and
    with the steps for few rows up to where they are faster.

    A shape is `batch`, `seq` and `tokens`; ways are chosen by the tokens.
    """
    plan = session.plan
    groups: dict[object, list[Step]] = {}
    for step in (*plan.steps, *plan.few):
        groups.setdefault(_signature(step), []).append(step)
    choices: dict[object, dict[int, int]] = {signature: {} for signature in groups}
    few_up_to = 0
    for done, sizes in enumerate(sorted(shapes, key=lambda sizes: sizes["tokens"])):
        tokens, times = sizes["tokens"], list[float]()
        for steps in filter(None, (plan.steps, plan.few if tokens <= FEWEST else ())):
            every = [[operation for way in step.ways for operation in way] for step in steps]
            addresses = session.place(every, sizes)
            _fill(session, sizes, addresses)
            ranked: dict[object, list[int]] = {}
            for signature in dict.fromkeys(map(_signature, steps)):
                alike = [step for step in groups[signature] if step in steps][:ALIKE]
                ways = [_time(session, alike, way, sizes, addresses) for way in range(len(alike[0].ways))]
                there = [way for way, time in enumerate(ways) if time < inf]
                ranked[signature] = sorted(there, key=lambda way: ways[way])
            taken, time = _settled(session, steps, ranked, sizes, addresses)
            for signature, way in taken.items():
                choices[signature][tokens] = way
            times.append(time)
        if times[-1] < times[0]:
            few_up_to = tokens
        if progress:
            progress("timing kernels", done + 1, len(shapes))

    def with_choices(steps: Sequence[Step]) -> tuple[Step, ...]:
        return tuple(replace(step, choices=tuple(sorted(choices[_signature(step)].items()))) for step in steps)

    algorithms = {name: algorithm.hex() for name, algorithm in sorted(session.algorithms.items())}
    steps, few = with_choices(plan.steps), with_choices(plan.few)
    return replace(plan, steps=steps, algorithms=algorithms, few=few, few_up_to=few_up_to)


def _settled(
    session: Session,
    steps: Sequence[Step],
    ranked: Mapping[object, Sequence[int]],
    sizes: Mapping[str, int],
    addresses: Mapping[str, int],
) -> tuple[dict[object, int], float]:
    """The ways that are fastest beside each other, and the milliseconds of all steps: of few rows, a kernel's end and
    the next one's start cost as much as the work between, and they depend on both."""

    def time(taken: Mapping[object, int]) -> float:
        operations = [operation for step in steps for operation in step.ways[taken[_signature(step)]]]
        return _replayed(session, operations, sizes, addresses)

    taken = {signature: ways[0] for signature, ways in ranked.items()}
    best = time(taken)
    if sizes["tokens"] <= FEWEST:
        for signature, way in ROUNDS * [(signature, way) for signature, ways in ranked.items() for way in ways]:
            other = {**taken, signature: way}
            if other != taken and (found := time(other)) < best:
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
