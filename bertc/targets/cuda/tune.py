"""Time the ways of each step on the GPU, and cuBLASLt's algorithms, and keep the fastest in the plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import inf
from statistics import median

import numpy as np

from bertc.targets.cuda.plan import JOINED, Choices, Launch, Operation, Plan, Product, Size, Step
from bertc.targets.cuda.session import Session, algorithm_key

ALIKE = 8
"""Steps of different layers that are timed together, so that their weights are not in the cache, as when it counts."""

REPLAYS = 5

FRUGAL = 1.03
"""How many times as long as the fastest the way of least effort may take by itself where the GPU is at its power limit.
What it saves raises the clock only of a network that runs on and on: ways that run in turn share a clock. Clusters of
eight take up to 0.8 % more cycles than pairs; the rest is what so short runs differ by."""

NEAR = 1.08
"""Ways that take so much longer than the fastest by themselves are not tried beside those of other steps."""

HOPELESS = 10
"""How many times as long as the fastest a way may take when the host starts one kernel at a time."""

WORTH = 0.997
"""What a way has to bring the whole network down to: less is noise."""

TRIED_UP_TO = 512
"""Rows up to which all ways are tried beside each other, twice."""

Progress = Callable[[str, int, int], None]

Ways = dict[object, int]
"""The signature of a step -> the way it takes."""

Work = Callable[[], None]
"""Puts operations on the device's stream."""


def tuned(session: Session, shapes: Sequence[Mapping[str, int]], progress: Progress | None = None) -> Plan:
    """The session's plan with the fastest way of each step, the fastest algorithms and the fastest list of steps, for
    each of the shapes.

    A shape is `batch`, `seq` and `tokens`; ways are chosen by the tokens.
    """
    plan = session.plan
    taken: list[dict[int, Ways]] = [{} for _ in plan.lists]
    won, alone = dict[int, int](), dict[int, int]()
    for done, sizes in enumerate(sorted(shapes, key=lambda sizes: sizes["tokens"])):
        rows = sizes["tokens"]
        lists = plan.offered(sizes)
        ways = [_fastest(session, steps, sizes) for steps in lists]
        for of_rows, of_list in zip(taken, ways, strict=False):
            of_rows[rows] = of_list
        times = _times_of_lists(session, lists, ways, sizes)
        fastest = _fastest_list(times[:JOINED])
        won[rows] = min(won.get(rows, fastest), fastest)
        if sizes["batch"] == 1:
            alone[rows] = _fastest_list(times)
        if progress:
            progress("timing kernels", done + 1, len(shapes))
    return replace(
        plan,
        lists=tuple(_with_choices(*of_list) for of_list in zip(plan.lists, taken, strict=True)),
        algorithms={name: algorithm.hex() for name, algorithm in sorted(session.algorithms.items())},
        choices=tuple(won.items()),
        alone=_choices_alone(won, alone),
    )


def _fastest_list(times: Sequence[float]) -> int:
    return times.index(min(times))


def _choices_alone(won: Mapping[int, int], alone: Mapping[int, int]) -> Choices:
    """The lists that won for one sequence, up to the most rows that it had; above, as for batches. Rows rise; the last
    is one that takes any."""
    above = {rows: index for rows, index in won.items() if rows > max(alone, default=0)}
    choices = (*alone.items(), *above.items())
    _, last = choices[-1]
    return (*choices, (0, won[max(won)])) if last == JOINED else choices


def _fastest(session: Session, steps: Sequence[Step], sizes: Mapping[str, int]) -> Ways:
    """The fastest ways of all steps for a shape; of very many rows, those of least effort that are about as fast."""
    addresses = _placed(session, steps, sizes)
    _fill(session, steps, sizes, addresses)
    groups = dict[object, list[Step]]()
    for step in steps:
        groups.setdefault(_signature(step), []).append(step)
    ranked = dict[object, list[int]]()
    for signature, group in groups.items():
        times = _times(session, group[:ALIKE], sizes, addresses)
        ranked[signature] = _ranked(times, inf if _are_few(sizes) else NEAR)
        frugal = group[0].frugal(sizes["tokens"])
        if frugal is not None and times[frugal] <= FRUGAL * min(times):
            ranked[signature] = [frugal]
    return _settled(session, steps, ranked, sizes, addresses)


def _times_of_lists(
    session: Session, lists: Sequence[Sequence[Step]], ways: Sequence[Ways], sizes: Mapping[str, int]
) -> list[float]:
    """Milliseconds of each list of steps, by the ways that they take."""
    if len(lists) == 1:
        return [0.0]
    addresses = [_placed(session, steps, sizes) for steps in lists]  # the memory is as large as each needs by now
    works: list[Work] = []
    for steps, taken, of_list in zip(lists, ways, addresses, strict=True):
        _fill(session, steps, sizes, of_list)
        works.append(_taking(session, steps, taken, sizes, of_list))
    return _in_turn(session, works)


def _placed(session: Session, steps: Sequence[Step], sizes: Mapping[str, int]) -> dict[str, int]:
    return session.place([[operation for way in step.ways for operation in way] for step in steps], sizes)


def _with_choices(steps: Sequence[Step], taken: Mapping[int, Ways]) -> tuple[Step, ...]:
    """The steps with the ways that they take of so many rows, which rise."""
    return tuple(
        replace(step, choices=tuple((rows, ways[_signature(step)]) for rows, ways in taken.items()), is_frugal=False)
        for step in steps
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
) -> Ways:
    """The ways that are fastest beside each other: of few rows, a kernel's end and the next one's start cost as much as
    the work between, and depend on both; of many, the GPU's clock falls by as much as the whole takes more power."""
    taken = {signature: ways[0] for signature, ways in ranked.items()}
    several = [(signature, ways) for signature, ways in ranked.items() if len(ways) > 1]
    for signature, ways in (2 if _are_few(sizes) else 1) * several:
        works = [_taking(session, steps, {**taken, signature: way}, sizes, addresses) for way in ways]
        times = dict(zip(ways, _in_turn(session, works), strict=True))
        fastest = min(ways, key=times.__getitem__)
        if times[fastest] < WORTH * times[taken[signature]]:
            taken[signature] = fastest
    return taken


def _taking(
    session: Session, steps: Sequence[Step], taken: Ways, sizes: Mapping[str, int], addresses: Mapping[str, int]
) -> Work:
    operations = [operation for step in steps for operation in step.ways[taken[_signature(step)]]]
    return _work(session, operations, sizes, addresses)


def _work(
    session: Session, operations: Sequence[Operation], sizes: Mapping[str, int], addresses: Mapping[str, int]
) -> Work:
    def work() -> None:
        for operation in operations:
            session.start(operation, sizes, addresses)

    return work


def _fill(session: Session, steps: Sequence[Step], sizes: Mapping[str, int], addresses: Mapping[str, int]) -> None:
    """Sequences without padding, since attention takes as long as they are; and what the steps make of them, since
    products of zeros take less power, and the clock is higher then."""
    batch, seq = sizes["batch"], sizes["seq"]
    for name, values in {"lengths": np.full(batch, seq), "starts": np.arange(batch) * seq}.items():
        if name in addresses:
            session.device.upload(addresses[name], values.astype(np.int32))
    for step in steps:
        ours = (way for way in step.ways if not any(isinstance(operation, Product) for operation in way))
        _work(session, next(ours, ()), sizes, addresses)()


def _times(
    session: Session, steps: Sequence[Step], sizes: Mapping[str, int], addresses: Mapping[str, int]
) -> list[float]:
    """Milliseconds that each way of some steps takes; its products by their fastest algorithms from then on."""
    works = dict[int, Work]()
    for way, alike in enumerate(zip(*(step.ways for step in steps), strict=True)):
        work = _work(session, [operation for operations in alike for operation in operations], sizes, addresses)
        products = [operation for operation in alike[0] if isinstance(operation, Product)]
        if all(_choose_algorithm(session, product, work, sizes) for product in products):
            works[way] = work
    times = dict(zip(works, _raced(session, [*works.values()]), strict=True))
    return [times.get(way, inf) for way in range(len(steps[0].ways))]


def _choose_algorithm(session: Session, product: Product, work: Work, sizes: Mapping[str, int]) -> bool:
    """Whether there is one: the library has none for some sizes. The fastest at some work is taken from then on."""
    problem = session.problem(product, sizes)
    key = algorithm_key(problem)
    if key in session.algorithms:
        return True

    def taking(algorithm: bytes) -> Work:
        def with_algorithm() -> None:
            session.algorithms[key] = algorithm
            work()

        return with_algorithm

    algorithms = session.blas.algorithms(problem)
    times = _raced(session, [taking(algorithm) for algorithm in algorithms])
    session.algorithms.pop(key, None)
    if min(times, default=inf) < inf:
        session.algorithms[key] = algorithms[times.index(min(times))]
    return key in session.algorithms


def _raced(session: Session, works: Sequence[Work]) -> list[float]:
    """Milliseconds of each, infinite where it does not run; of the second run alone where that is hopeless."""
    times: list[float] = []
    for work in works:
        try:
            work()  # which may have to bring kernels to the GPU first
            times.append(session.device.milliseconds(work))
        except RuntimeError:
            times.append(inf)  # some of the library's suggestions do not run for some shapes
    near = [index for index, time in enumerate(times) if time < inf and time <= HOPELESS * min(times)]
    for index, time in zip(near, _in_turn(session, [works[index] for index in near]), strict=True):
        times[index] = time
    return times


def _in_turn(session: Session, works: Sequence[Work]) -> list[float]:
    """Milliseconds of each, captured in a graph. They run in turn, since the clock falls while the GPU works."""
    graphs = [session.device.captured(work) for work in works]
    for graph in graphs:
        session.device.replay(graph)
    rounds = [
        [session.device.milliseconds(partial(session.device.replay, graph)) for graph in graphs] for _ in range(REPLAYS)
    ]
    for graph in graphs:
        session.device.forget(graph)
    return [median(times) for times in zip(*rounds, strict=True)]


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
