"""Which ways and which steps a plan takes for how many rows: by timing, and what is left of the plan then."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from itertools import count, pairwise, product, takewhile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import bertc
from bertc.shapes import Profile, Range
from bertc.targets.cuda import _shapes  # pyright: ignore[reportPrivateUsage]
from bertc.targets.cuda.hopper import COUNTED
from bertc.targets.cuda.plan import (
    Buffer,
    Choices,
    Kernel,
    Launch,
    Operation,
    Place,
    Plan,
    Product,
    Size,
    Step,
    read_plan,
)
from bertc.targets.cuda.session import Session, algorithm_key
from bertc.targets.cuda.tune import ALIKE, REPLAYS, TRIED_UP_TO, tuned

Cost = Callable[[Sequence[str], Mapping[str, int]], float]
"""Operations that run one after the other, and the sizes of a shape -> milliseconds."""


def launch(kernel: str, name: str = "") -> Launch:
    arguments = (Place(name or kernel), Place(f"{kernel}.weight"))
    return Launch(kernel, (Size(1), Size(1), Size(1)), arguments, (), (name or kernel,))


def step(name: str, *kernels: str) -> Step:
    """A step with one way for each kernel."""
    return Step(name, tuple((launch(kernel, name),) for kernel in kernels))


def plan_of(
    *lists: Sequence[Step], choices: Choices = ((0, 0),), alone: Choices = (), kernels: Collection[str] = ()
) -> Plan:
    """With those for batches for one sequence too, unless there are others."""
    names = {
        operation.kernel
        for steps in lists
        for each in steps
        for way in each.ways
        for operation in way
        if isinstance(operation, Launch)
    }
    made = {name: Kernel(f"{name}.cubin", name, 4, 0) for name in sorted({*names, *kernels})}
    weights = {f"{name}.weight": ("f16", index) for index, name in enumerate(made)}
    buffers = {"y": Buffer("f16", Size(1))}
    return Plan("sm_90", buffers, weights, made, tuple(map(tuple, lists)), {}, {}, choices, alone or choices)


def kernels_of(steps: Sequence[Step], rows: int) -> list[str]:
    """The kernels that steps take for so many rows."""
    return [operation.kernel for each in steps for operation in each.way(rows) if isinstance(operation, Launch)]


def taken(plan: Plan, rows: int, batch: int) -> list[str]:
    """The kernels that a plan takes for so many rows of so many sequences."""
    return kernels_of(plan.taken({"batch": batch, "tokens": rows}), rows)


# ------------------------------------------------------------------------------------------------- what is left


def test_steps_are_taken_for_ranges_of_rows() -> None:
    choices, alone = ((16, 2), (32, 1), (64, 0), (128, 1)), ((32, 1), (0, 2))
    plan = plan_of(*([step("a", name)] for name in "abc"), choices=choices, alone=alone)
    limits = (1, 16, 17, 32, 33, 64, 65, 4096)
    assert [taken(plan, rows, 2) for rows in limits] == [["c"], ["c"], ["b"], ["b"], ["a"], ["a"], ["b"], ["b"]]
    assert [taken(plan, rows, 1) for rows in limits] == [["b"]] * 4 + [["c"]] * 4


@st.composite
def steps(draw: st.DrawFn, prefix: str) -> list[Step]:
    """Steps whose choices rise, but for the last one, whose number of rows says nothing."""
    made: list[Step] = []
    for index in range(draw(st.integers(1, 3))):
        count = draw(st.integers(1, 4))
        limits = sorted(draw(st.sets(st.integers(1, 9), max_size=4)))
        choices = tuple((limit, draw(st.integers(0, count - 1))) for limit in (*limits, 0))
        made.append(replace(step(f"s{index}", *(f"{prefix}{index}.{way}" for way in range(count))), choices=choices))
    return made


@st.composite
def lists(draw: st.DrawFn) -> Choices:
    limits = sorted(draw(st.sets(st.integers(1, 9), max_size=4)))
    return tuple((limit, draw(st.integers(0, 2))) for limit in (*limits, 0))


@given(steps("plain"), steps("folded"), steps("joined"), lists(), lists())
def test_a_pruned_plan_does_the_same_with_nothing_besides(
    plain: list[Step], folded: list[Step], joined: list[Step], choices: Choices, alone: Choices
) -> None:
    plan = plan_of(plain, folded, joined, choices=choices, alone=alone, kernels=["a way's that was not chosen"])
    pruned = plan.pruned()
    used: set[str] = set()
    for rows, batch in product(range(1, 13), (1, 2)):
        kernels = taken(plan, rows, batch)
        assert taken(pruned, rows, batch) == kernels
        used |= {*kernels}
    left = [operation for steps in pruned.lists for each in steps for way in each.ways for operation in way]
    assert pruned.kernels.keys() == used == {operation.kernel for operation in left if isinstance(operation, Launch)}
    assert len(left) == len(used)
    assert pruned.weights == {f"{name}.weight": plan.weights[f"{name}.weight"] for name in used}
    assert len(pruned.lists) == len({index for _, index in (*choices, *alone)})
    assert pruned.pruned() == pruned == read_plan(pruned.to_json())


def test_each_way_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU, of each list: the nth of all its steps, or from the first again where a step has fewer."""
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "benchmarks")
    each_way = import_module("gpu_checks")._each_way
    plan = plan_of([step("a", "a"), step("b", "b.0", "b.1", "b.2"), step("c", "c.0", "c.1")], [step("a", "folded")])
    found = [(index, taken(each, rows, batch)) for index, each in each_way(plan) for rows, batch in ((1, 1), (900, 3))]
    plain = [["a", "b.0", "c.0"], ["a", "b.1", "c.1"], ["a", "b.2", "c.0"]]
    assert found == [(0, kernels) for kernels in plain for _ in range(2)] + 2 * [(1, ["folded"])]


# ------------------------------------------------------------------------------------------------------- timing


class Timed(Session):
    """A session, and its device, that runs nothing: what is started is written down, and takes as long as is said."""

    def __init__(self, plan: Plan, cost: Cost, algorithms: Sequence[bytes] = ()) -> None:
        self.plan, self.cost = plan, cost
        self.algorithms: dict[str, bytes] = {}
        self.runs: list[tuple[Mapping[str, int], tuple[str, ...]]] = []
        """Sizes and operations of everything that was timed."""
        self.started: list[tuple[bool, str]] = []
        """Whether it was timed, and the operation, of all that was started."""
        self.uploaded: dict[str, list[int]] = {}
        self.blas: Any = SimpleNamespace(algorithms=lambda problem: algorithms)  # pyright: ignore[reportUnknownLambdaType]
        self.device: Any = self
        self._is_timing = False
        self._sizes: Mapping[str, int] = {}

    def place(self, ways: Sequence[Sequence[Operation]], sizes: Mapping[str, int]) -> dict[str, int]:
        self._sizes = sizes
        return {name: index for index, name in enumerate(self.plan.buffers)}

    def start(self, operation: Operation, sizes: Mapping[str, int], addresses: Mapping[str, int]) -> None:
        if isinstance(operation, Launch):
            if operation.kernel == "fails":
                raise RuntimeError
            self.started.append((self._is_timing, operation.kernel))
            return
        algorithm = self.algorithms[algorithm_key(self.problem(operation, sizes))]
        if algorithm == b"fails":
            raise RuntimeError
        self.started.append((self._is_timing, algorithm.decode()))

    def upload(self, address: int, array: Any) -> None:
        self.uploaded[[*self.plan.buffers][address]] = array.tolist()

    def captured(self, work: Callable[[], None]) -> Callable[[], None]:
        return work

    def replay(self, graph: Callable[[], None]) -> None:
        graph()

    def forget(self, graph: Callable[[], None]) -> None:
        pass

    def milliseconds(self, work: Callable[[], None]) -> float:
        before, self._is_timing = len(self.started), True
        try:
            work()
        finally:
            self._is_timing = False
        started = tuple(operation for _, operation in self.started[before:])
        self.runs.append((self._sizes, started))
        return self.cost(started, self._sizes)


def shape(batch: int, seq: int) -> dict[str, int]:
    return {"batch": batch, "seq": seq, "tokens": batch * seq}


def of_each(times: Mapping[str, float]) -> Cost:
    """Operations whose times add up."""
    return lambda started, sizes: sum(times[kernel] for kernel in started)


def test_the_fastest_way_of_each_step_for_each_number_of_rows() -> None:
    def cost(started: Sequence[str], sizes: Mapping[str, int]) -> float:
        return sum({"small": sizes["tokens"], "large": 100}[kernel] for kernel in started)

    progress: list[tuple[str, int, int]] = []

    def note(what: str, done: int, all: int) -> None:
        progress.append((what, done, all))

    plan = tuned(Timed(plan_of([step("a", "small", "large")]), cost), [shape(8, 128), shape(1, 16)], note)
    assert plan.lists[0][0].choices == ((16, 0), (1024, 1))
    assert progress == [("timing kernels", 1, 2), ("timing kernels", 2, 2)]
    assert plan.choices == ((16, 0), (1024, 0))


def test_what_is_settled_in_one_list_is_its_alone() -> None:
    """A step that stands in both lists, and is faster one way beside products, the other way beside clusters."""
    shared = step("attention", "alone", "beside clusters")
    plan = plan_of([shared, step("up", "product")], [shared, step("up", "cluster")])

    alone = of_each({"alone": 2, "beside clusters": 3, "product": 5, "cluster": 1})

    def cost(started: Sequence[str], sizes: Mapping[str, int]) -> float:
        return alone(started, sizes) + 4 * (("alone", "cluster") in pairwise(started))

    found = tuned(Timed(plan, cost), [shape(1, 16)])
    assert kernels_of(found.lists[0], 16) == ["alone", "product"]
    assert kernels_of(found.lists[1], 16) == ["beside clusters", "cluster"]
    assert found.choices == ((16, 1),)


@pytest.mark.parametrize("count", [3, ALIKE + 3])
def test_steps_of_different_layers_are_timed_together_and_each_once(count: int) -> None:
    """As many as are enough to push the weights out of the cache; what stands in both lists counts in each alone."""
    layers = [step(f"layer.{index}", "a", "b") for index in range(count)]
    session = Timed(plan_of(layers, layers), of_each({"a": 2, "b": 1}))
    plan = tuned(session, [shape(1, 16)])
    assert {len(started) for _, started in session.runs} == {min(count, ALIKE), count}
    assert {each.choices for steps in plan.lists for each in steps} == {((16, 1),)}


@pytest.mark.parametrize(
    ("won", "batches", "alone"),
    [
        ([], (0, 0, 0, 0), (0, 0, 0)),
        ([(1, 16), (2, 32), (1, 128), (8, 16)], (1, 1, 1, 0), (1, 1, 0)),
        ([(1, 128), (8, 16), (1, 600)], (0, 0, 1, 1), (0, 1, 1)),
        ([(1, 16), (2, 32), (1, 128)], (1, 1, 0, 0), (1, 1, 0)),  # 8 sequences of 16 were slower
        ([(1, 16), (2, 32), (8, 16)], (1, 1, 0, 0), (1, 0, 0)),
    ],
)
def test_norms_go_along_where_that_is_faster(
    won: list[tuple[int, int]], batches: Sequence[int], alone: Sequence[int]
) -> None:
    """At all shapes of so many rows; for one sequence, at its own."""
    shapes = [(1, 16), (2, 32), (1, 128), (8, 16), (1, 600)]

    def cost(started: Sequence[str], sizes: Mapping[str, int]) -> float:
        return {"plain": 2.0, "folded": 1.0 if (sizes["batch"], sizes["seq"]) in won else 3.0}[started[0]]

    plan = tuned(Timed(plan_of([step("a", "plain")], [step("a", "folded")]), cost), [shape(*each) for each in shapes])
    assert plan.choices == tuple(zip((16, 64, 128, 600), batches, strict=True))
    assert plan.alone == tuple(zip((16, 128, 600), alone, strict=True))


JOINED = {"plain": 3.0, "folded": 2.0, "joined": 1.0}

DEFAULT_ALONE = ((1, 2), (128, 2), (1024, 1))
"""8 sequences of one token say nothing of one sequence of 8."""


@pytest.mark.parametrize(
    ("times", "shapes", "choices", "alone"),
    [
        (JOINED, [(1, 16), (1, 128), (1, 129)], ((16, 1), (128, 1), (129, 1)), ((16, 2), (128, 2), (129, 1))),
        (JOINED, [(1, 16), (1, 128), (8, 16)], ((16, 1), (128, 1)), ((16, 2), (128, 2), (0, 1))),
        ({**JOINED, "plain": 1.5}, [(1, 64)], ((64, 0),), ((64, 2), (0, 0))),
        ({**JOINED, "joined": 4.0}, [(1, 64)], ((64, 1),), ((64, 1),)),
        (JOINED, [(1, 16), (2, 64)], ((16, 1), (128, 1)), ((16, 2), (128, 1))),
        (JOINED, [(1, 1), (8, 1), (1, 128), (8, 128)], tuple((n, 1) for n in (1, 8, 128, 1024)), DEFAULT_ALONE),
    ],
)
def test_query_key_and_value_are_joined_with_attention_for_one_sequence_of_128_tokens_at_most(
    times: Mapping[str, float], shapes: Sequence[tuple[int, int]], choices: Choices, alone: Choices
) -> None:
    """Of more tokens or sequences, the list is neither timed nor taken, though nothing was timed above; and those have
    their own steps."""
    session = Timed(plan_of(*([step("a", name)] for name in times)), of_each(times))
    plan = tuned(session, [shape(*each) for each in shapes])
    assert (plan.choices, plan.alone) == (choices, alone)
    timed = {(sizes["batch"], sizes["seq"]) for sizes, started in session.runs if "joined" in started}
    assert timed == {(batch, seq) for batch, seq in shapes if batch == 1 and seq <= 128}
    others = min(times["plain"], times["folded"])
    for left in (plan, plan.pruned()):
        of_many = [taken(left, rows, batch) for rows, batch in ((129, 1), (50_000, 1), (2, 2), (128, 8), (50_000, 9))]
        assert [times[kernel] for (kernel,) in of_many] == [others] * 5


@pytest.mark.parametrize(
    ("batch", "seq", "is_timed"),
    [
        ((1, 8, 8), (16, 384, 512), True),
        ((1, 1, 1), (128, 128, 128), True),
        ((2, 8, 8), (16, 384, 512), False),
        ((1, 8, 8), (129, 384, 512), False),
        ((1, 8, 8), (16, 64, 127), False),
    ],
)
def test_one_sequence_of_128_tokens_is_timed_where_there_may_be_one(
    batch: tuple[int, int, int], seq: tuple[int, int, int], is_timed: bool
) -> None:
    profile = Profile(Range(*batch), Range(*seq))
    pairs = {*product(batch, seq)} | ({(1, 128)} if is_timed else set())
    assert _shapes(replace(bertc.load("bert-base"), shapes=(profile,))) == [shape(*pair) for pair in sorted(pairs)]


def test_hopeless_ways_run_once() -> None:
    session = Timed(plan_of([step("a", "fast", "slow")]), of_each({"fast": 1, "slow": 100}))
    assert tuned(session, [shape(1, TRIED_UP_TO + 1)]).lists[0][0].choices == ((TRIED_UP_TO + 1, 0),)
    assert [started for _, started in session.runs].count(("slow",)) == 1


@pytest.mark.parametrize(("rows", "taken"), [(TRIED_UP_TO, ["a.1", "b"]), (TRIED_UP_TO + 1, ["a.0", "b"])])
def test_ways_are_tried_beside_each_other_of_few_rows(rows: int, taken: list[str]) -> None:
    """By itself the first way is faster; the step behind it starts earlier behind the second."""

    alone = of_each({"a.0": 2, "a.1": 3, "b": 5})

    def cost(started: Sequence[str], sizes: Mapping[str, int]) -> float:
        return alone(started, sizes) + 4 * (("a.0", "b") in pairwise(started))

    plan = tuned(Timed(plan_of([step("first", "a.0", "a.1"), step("second", "b")]), cost), [shape(1, rows)])
    assert kernels_of(plan.lists[0], rows) == taken


def test_ways_are_found_while_the_clock_falls() -> None:
    """Each run takes longer than the one before. The way that is better in the whole network is slower by itself, and
    tried last."""
    ways = {f"a.{index}": 10 + index / 100 for index in range(5)}
    alone, runs = of_each({**ways, "b.0": 10, "b.1": 10.1}), count()

    def cost(started: Sequence[str], sizes: Mapping[str, int]) -> float:
        beside = len(started) > 1 and "b.1" in started
        return (alone(started, sizes) - 0.7 * beside) * (1 + next(runs) / 700)

    steps = [step("first", *ways), step("second", "b.0", "b.1")]
    plan = tuned(Timed(plan_of(steps), cost), [shape(1, TRIED_UP_TO + 1)])
    assert kernels_of(plan.lists[0], TRIED_UP_TO + 1)[1] == "b.1"


def test_alternatives_are_timed_in_turn() -> None:
    """Once each, and then again and again, by themselves and where they are near in the whole network, so that none
    has the GPU while its clock is high."""
    session = Timed(plan_of([step("a", "one", "two", "three")]), of_each({"one": 1, "two": 1.01, "three": 2}))
    tuned(session, [shape(1, TRIED_UP_TO + 1)])
    alone, beside = [("one",), ("two",), ("three",)], [("one",), ("two",)]
    assert [started for _, started in session.runs] == alone * (1 + REPLAYS) + beside * REPLAYS


@pytest.mark.parametrize(
    ("rows", "slower", "taken"),
    [(COUNTED[-1], 1.01, 0), (COUNTED[-1] + 1, 1.029, 1), (COUNTED[-1] + 1, 1.031, 0)],
)
def test_ways_of_least_effort_stay_at_the_power_limit(rows: int, slower: float, taken: int) -> None:
    """Untried beside other steps, as long as they take little longer by themselves."""
    frugal = replace(step("a", "fast", "frugal"), choices=((COUNTED[-1], 0), (0, 1)), is_frugal=True)
    session = Timed(plan_of([frugal, step("b", "other")]), of_each({"fast": 1, "frugal": slower, "other": 1}))
    ((found, _),) = tuned(session, [shape(1, rows)]).lists
    assert (found.choices, found.is_frugal) == (((rows, taken),), False)
    assert (("fast", "other") in [started for _, started in session.runs]) == (taken == 0)


def test_ways_of_least_effort_that_do_not_run() -> None:
    """As on a part of a GPU that has no room for their clusters: another is taken."""
    frugal = replace(step("a", "slow", "fails", "fast"), choices=((COUNTED[-1], 0), (0, 1)), is_frugal=True)
    session = Timed(plan_of([frugal]), of_each({"slow": 2, "fast": 1}))
    ((found,),) = tuned(session, [shape(1, COUNTED[-1] + 1)]).lists
    assert found.choices == ((COUNTED[-1] + 1, 2),)


def test_a_plan_from_before_least_effort_is_read() -> None:
    plan = plan_of([step("a", "one")])
    older = json.loads(plan.to_json())
    del older["lists"][0][0]["is_frugal"]
    assert read_plan(json.dumps(older)) == plan


def test_lists_are_compared_while_the_clock_falls() -> None:
    """From the first run to the last. The better list is timed behind the other, and five runs cost more than it
    brings."""
    alone, runs = of_each({"plain": 10, "folded": 9.95}), count()

    def cost(started: Sequence[str], sizes: Mapping[str, int]) -> float:
        return alone(started, sizes) * (1 + next(runs) / 700)

    found = tuned(Timed(plan_of([step("a", "plain")], [step("a", "folded")]), cost), [shape(1, 16)])
    assert found.choices == ((16, 1),)


def test_all_steps_run_before_one_is_timed() -> None:
    """So that products multiply numbers: by the first way that is ours, since the library's algorithms are not chosen
    yet; of each list, since the other one's buffers lie elsewhere."""
    product = Product(Place("x"), Place("w"), Place("y"), Size(1, ("tokens",)), Size(64), 64, 64)
    plain = [step("first", "a", "b"), Step("second", ((product,), (launch("c"),))), Step("third", ((product,),))]
    times = dict.fromkeys("abcdefx", 1.0)
    session = Timed(plan_of(plain, [step("first", "d"), step("second", "e", "f")]), of_each(times), [b"x"])
    tuned(session, [shape(1, 16)])
    assert [kernel for _, kernel in takewhile(lambda each: not each[0], session.started)][:2] == ["a", "c"]
    of_folded = [each for each in session.started if each[1] in "def"]
    assert [kernel for _, kernel in takewhile(lambda each: not each[0], of_folded)][:2] == ["d", "e"]


@pytest.mark.parametrize(
    ("algorithms", "way", "kept"),
    [
        ((b"slow", b"fails", b"fast"), 1, b"fast"),
        ((b"slow",), 0, b"slow"),
        ((b"fails",), 0, None),
        ((), 0, None),
    ],
)
def test_products_of_the_library(algorithms: Sequence[bytes], way: int, kept: bytes | None) -> None:
    """By its fastest algorithm; where none runs, that is no way."""
    product = Product(Place("x"), Place("w"), Place("y"), Size(1, ("tokens",)), Size(64), 64, 64)
    steps = [Step("a", ((launch("ours"),), (product,)))]
    session = Timed(plan_of(steps), of_each({"ours": 2, "slow": 3, "fast": 1}), algorithms)
    plan = tuned(session, [shape(1, 16)])
    assert plan.lists[0][0].choices == ((16, way),)
    assert [*plan.algorithms.values()] == ([kept.hex()] if kept else [])
    assert kernels_of(plan.pruned().lists[0], 16) == (["ours"] if way == 0 else [])


def test_attention_finds_sequences_without_padding() -> None:
    plan = plan_of([step("a", "attention")])
    vectors = {name: Buffer("i32", Size(1, ("batch",))) for name in ("lengths", "starts")}
    session = Timed(replace(plan, buffers=vectors), of_each({"attention": 1}))
    tuned(session, [shape(3, 7)])
    assert session.uploaded == {"lengths": [7, 7, 7], "starts": [0, 7, 14]}
