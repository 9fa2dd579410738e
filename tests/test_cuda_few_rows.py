"""Steps for few rows from build to run: which steps a session starts, what a bundle keeps, other weights in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import weights_of
from test_cuda import WITH_ROLES, norms_in_products, wide_spec
from test_cuda_session import HostDevice, InterpretedSession, NoProducts
from test_refit import checkpoint, files_of, refusal, uncompiled

import bertc
from bertc.compiler import compile
from bertc.elaborate import elaborate
from bertc.errors import BertcError
from bertc.reference import evaluate
from bertc.shapes import Profile, Range
from bertc.spec import Spec
from bertc.targets.cuda import _write_weights, draft
from bertc.targets.cuda import session as session_module
from bertc.targets.cuda.hopper import COUNTED, rounds
from bertc.targets.cuda.lower import Lowering
from bertc.targets.cuda.plan import Kernel, Launch, Operation, Plan, read_plan
from bertc.targets.cuda.session import PLAN, WEIGHTS
from bertc.targets.cuda.tune import TRIED_UP_TO

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")  # rows of padding overflow in the interpreter

FEW_UP_TO = 16


class Recording(InterpretedSession):
    """The session that notes what it starts."""

    started: list[Operation]

    def start(self, operation: Operation, sizes: Mapping[str, int], addresses: Mapping[str, int]) -> None:
        self.started.append(operation)
        super().start(operation, sizes, addresses)


@pytest.fixture(scope="module", params=["[default]", "[default, pack_sequences]"], ids=["padded", "packed"])
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Recording, Spec]:
    """A session with steps for few rows, and its spec."""
    spec = wide_spec(passes=request.param, precision="fp16")
    layer = {"encoder": replace(spec.network["encoder"], repeat=1)}
    spec = replace(spec, sizes={**spec.sizes, "layers": 1}, network={**spec.network, **layer})
    weights = weights_of(elaborate(spec))
    plain = Lowering(compile(spec, "cuda"), weights, "f16", architecture="sm_80")
    outputs = plain.run()
    few = Lowering(plain.graph, weights, "f16", architecture="sm_80", of=plain)
    few.run()
    folder = tmp_path_factory.mktemp("plan")
    plan = Plan(
        *("sm_90", plain.buffers | few.buffers, _write_weights(plain.constants, plain.constants, folder / WEIGHTS), {}),
        *((tuple(plain.steps), tuple(few.steps)), outputs),
        choices=((2 * FEW_UP_TO, 1), (0, 0)),
        alone=((FEW_UP_TO, 1), (0, 0)),
    )
    (folder / PLAN).write_text(plan.to_json())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session_module, "Blas", NoProducts)
        session = Recording(folder, HostDevice())  # pyright: ignore[reportArgumentType]
    session.lowering = plain
    return session, spec


@pytest.mark.parametrize(
    ("batch", "seq", "few"),
    [(1, 5, True), (1, FEW_UP_TO, True), (1, FEW_UP_TO + 1, False), (2, FEW_UP_TO, True), (4, FEW_UP_TO, False)],
)
def test_a_session_takes_them_for_few_rows(batch: int, seq: int, few: bool, opened: tuple[Recording, Spec]) -> None:
    """One sequence, or a batch: all of its steps are started and timed, none of the others, and both compute the
    same."""
    session, spec = opened
    tokens, taken = batch * seq, session.plan.lists[few]
    ids = np.random.default_rng(tokens).integers(0, 53, (batch, seq)).astype(np.int32)
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    session.started = []
    answers = session.run(inputs)
    once = [operation for step in taken for operation in step.way(tokens)]
    assert {*session.started} == {*once}  # before the capture, and in what it captured
    assert session.started[-len(once) :] == once
    clusters = [op for op in once if isinstance(op, Launch) and op.kernel.startswith("linear_cluster-")]
    assert len(clusters) == (4 * spec.sizes["layers"] if few else 0)
    assert session.step_times(inputs, 1).keys() == {step.name for step in taken}
    graph = elaborate(spec)
    for name, expected in evaluate(graph, inputs, weights_of(graph)).items():
        assert np.abs(answers[name] - expected).max() < 2e-2, name  # f16, as in test_cuda


def test_constants_of_a_norm_are_rounded_once(opened: tuple[Recording, Spec]) -> None:
    """Its reader's weight, without the means of its rows, and both biases: from weights as they are given."""
    lowering = opened[0].lowering
    (name,) = (name for name in lowering.constants if name.endswith(", centred"))
    w, scale = name.removesuffix(", centred").split(" · ")
    shift = scale.replace("weight", "bias")
    given = lowering.constants[w][1].astype(np.float64)
    assert (given != given.astype(np.float16)).any()
    scaled = given * lowering.float32(scale)
    element, found = lowering.constants[name]
    assert (element, found.dtype) == ("f16", np.float32)
    once = scaled - scaled.mean(1, keepdims=True)
    unit = 2.0**-11 * np.abs(once).max()  # by less than which f16 rounds; a mean of such errors is 3.4 times as small
    np.testing.assert_allclose(found, once, rtol=0, atol=unit / np.sqrt(once.shape[1]))
    left, of_once = (np.abs(values.astype(np.float16).sum(1, dtype=np.float64)).mean() for values in (found, once))
    assert left < of_once / 2, "rounding has brought the means back"
    of_reader, of_residual = (
        next(known for known in lowering.constants if known.endswith(f"{end}{shift}")) for end in (f"{w} · ", "bias + ")
    )
    for found, added in ((of_reader, given @ lowering.float32(shift)), (of_residual, lowering.float32(shift))):
        bias = lowering.float32(found.split(" + ")[1])
        element, values = lowering.constants[found]
        np.testing.assert_allclose(values, bias + added, rtol=0, atol=1e-6)
        assert element == "f32"


# ------------------------------------------------------------------------------------------------------ bundles


class Opened:
    """What timing opens: the plan as it was compiled, its kernels beside it."""

    def __init__(self, folder: Path, device: HostDevice) -> None:
        self.device = device
        self.plan = read_plan((folder / PLAN).read_text())
        self.closed = False
        assert {path.name for path in folder.glob("*.cubin")} == {kernel.file for kernel in self.plan.kernels.values()}

    def close(self) -> None:
        self.closed = True


def build(
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    few_up_to: int | None,
    precision: str = "fp16",
    sizes: Mapping[str, int] | None = None,
    **arguments: Any,
) -> Plan:
    """A bundle's plan: built without a GPU where `few_up_to` is None, else with one on which the last way of every step
    was the fastest, and the last list of steps up to so many rows."""
    sessions: list[Opened] = []

    def tuned(session: Opened, shapes: object, progress: object) -> Plan:
        sessions.append(session)
        lists = tuple(
            tuple(replace(step, choices=((64, len(step.ways) - 1),)) for step in steps) for steps in session.plan.lists
        )
        choices = ((few_up_to, len(lists) - 1), (0, 0)) if few_up_to else ((0, 0),)
        return replace(session.plan, lists=lists, choices=choices, alone=choices)

    for name, double in {
        "compile_kernels": uncompiled,
        "Session": Opened,
        "Device": HostDevice,
        "tuned": tuned,
    }.items():
        monkeypatch.setattr(f"bertc.targets.cuda.{name}", double)
    monkeypatch.setattr("bertc.targets.cuda._architecture_here", lambda: None if few_up_to is None else "sm_90")
    spec = wide_spec(precision=precision)
    spec = replace(spec, sizes={**spec.sizes, **(sizes or {})})
    bertc.build(spec, path, "cuda", architectures=["sm_90"], **arguments)
    assert [session.closed for session in sessions] == ([] if few_up_to is None else [True])
    return read_plan((path / PLAN).read_text())


@pytest.mark.parametrize("sizes", [{}, WITH_ROLES], ids=["two lists", "three"])
@pytest.mark.parametrize("few_up_to", [None, 0, 32])
def test_a_bundle_keeps_what_can_be_taken(
    few_up_to: int | None, sizes: Mapping[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Timed: one way of each step, of those for few rows only where they won. Not timed: what a rule chooses, norms
    along with products, of few rows and of many, and for one sequence of up to 128 tokens attention too."""
    plan = build(tmp_path / "x", monkeypatch, few_up_to, sizes=sizes, random_seed=0)
    every = [
        step
        for rows, batch in product((1, 100, 192, 193, TRIED_UP_TO + 1), (1, 2))
        for step in plan.taken({"batch": batch, "tokens": rows})
    ]
    assert {*every} == {step for steps in plan.lists for step in steps}
    assert len(plan.lists) == (2 if few_up_to or (few_up_to is None and sizes) else 1)
    assert {len(step.ways) for step in every} == ({1, 2, 3} if few_up_to is None else {1})
    for rows in (1, 32, 33, 128, 129, 5000):
        assert norms_go_along(plan, rows) == (few_up_to is None or rows <= few_up_to)
        assert is_joined(plan, rows, 1) == (sizes == WITH_ROLES and rows <= (128 if few_up_to is None else few_up_to))
        assert is_joined(plan, rows, 2) == (sizes == WITH_ROLES and few_up_to is not None and rows <= few_up_to)
    launched = {op.kernel for step in every for way in step.ways for op in way if isinstance(op, Launch)}
    assert plan.kernels.keys() == launched
    files = {name for name in files_of(tmp_path / "x") if name.endswith(".cubin")}
    assert files == {kernel.file for kernel in plan.kernels.values()}
    read = {place.name for step in every for way in step.ways for operation in way for place in operation.places}
    assert plan.weights.keys() == read - plan.buffers.keys()
    assert any("centred" in name for name in plan.weights) == (few_up_to != 0)


def norms_go_along(plan: Plan, rows: int) -> bool:
    """Whether products of so many rows are those that can take norms along: by clusters, or of a centred weight."""
    taken = [operation for step in plan.taken({"batch": 2, "tokens": rows}) for operation in step.way(rows)]
    by_clusters = any(isinstance(op, Launch) and op.kernel.startswith("linear_cluster-") for op in taken)
    return by_clusters or any("centred" in place.name for op in taken for place in op.places)


def is_joined(plan: Plan, rows: int, batch: int) -> bool:
    """Whether query, key and value of so many rows are in one kernel with their attention."""
    steps = plan.taken({"batch": batch, "tokens": rows})
    taken = [op.kernel.split("-")[0] for step in steps for op in step.way(rows) if isinstance(op, Launch)]
    assert not ("qkv_attention" in taken and "attention" in taken)
    return "qkv_attention" in taken


WIDTH_320 = {"hidden": 320, "embedding_size": 320, "heads": 10, "head_size": 32, "inner": 1280}


@pytest.mark.parametrize(
    ("precision", "sizes", "batch", "up_to"),
    [("fp16", {}, 25, inf), ("fp16", WIDTH_320, 24, 192), ("bf16", {}, 24, 192), ("bf16", {}, 25, 0)],
)
def test_untimed_norms_go_along(
    precision: str,
    sizes: Mapping[str, int],
    batch: int,
    up_to: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In bf16, and of widths that large tiles do not fit, only where a shape has few rows, 192 at most; nothing is kept
    of steps that no rows take."""
    monkeypatch.setattr("bertc.targets.cuda.compile_kernels", uncompiled)
    spec = replace(wide_spec(precision=precision), shapes=(Profile(Range(batch, batch, batch), Range(8, 8, 16)),))
    spec = replace(spec, sizes={**spec.sizes, **sizes})
    bertc.build(spec, tmp_path / "x", "cuda", random_seed=0, architectures=["sm_90"])
    plan = read_plan((tmp_path / "x" / PLAN).read_text())
    assert [norms_go_along(plan, rows) for rows in (1, 192, 193, 5000)] == [
        rows <= up_to for rows in (1, 192, 193, 5000)
    ]
    assert len(plan.lists) == (2 if up_to == 192 else 1)


@pytest.mark.parametrize(
    ("precision", "batch", "seq", "joined"),
    [("fp16", 1, 128, True), ("fp16", 1, 129, False), ("fp16", 2, 64, False), ("bf16", 1, 128, True)],
)
def test_untimed_attention_goes_along(
    precision: str, batch: int, seq: int, joined: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For one sequence of up to 128 tokens, where there is such a shape."""
    monkeypatch.setattr("bertc.targets.cuda.compile_kernels", uncompiled)
    spec = replace(wide_spec(precision=precision), shapes=(Profile(Range(batch, 8, 8), Range(seq, seq, seq)),))
    spec = replace(spec, sizes={**spec.sizes, **WITH_ROLES})
    bertc.build(spec, tmp_path / "x", "cuda", random_seed=0, architectures=["sm_90"])
    plan = read_plan((tmp_path / "x" / PLAN).read_text())
    assert [is_joined(plan, rows, 1) for rows in (1, 128, 129, 5000)] == [joined, joined, False, False]
    assert not any(is_joined(plan, rows, 2) for rows in (2, 128, 129))
    assert any(name.startswith("qkv_attention-") for name in plan.kernels) == joined


@pytest.mark.parametrize(("rows", "kernel"), [(512, "linear_cluster"), (513, "linear_specialised")])
def test_untimed_products_of_norms(rows: int, kernel: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By clusters of few rows, by warps with roles of many."""
    plan = build(tmp_path / "x", monkeypatch, None, random_seed=0)
    steps = plan.taken({"batch": 2, "tokens": rows})
    taken = [op.kernel for step in steps for op in step.way(rows) if isinstance(op, Launch)]
    products = [name.split("-")[0] for name in taken if name.startswith("linear_")]
    assert products == [kernel] * 8


@pytest.mark.parametrize("rows", [513, 1024, 3000, 8192, 8193, 50_000])
def test_untimed_tiles(rows: int) -> None:
    """Of many rows each product takes the tile of fewest rounds, for the number of rows that is counted next; of more
    than are counted, the one that reads the least of the L2 cache, of those that fit."""
    spec = wide_spec(precision="fp16")
    spec = replace(spec, sizes={**spec.sizes, "hidden": 768, "embedding_size": 768, "inner": 512})
    _, lowering, _ = norms_in_products(spec, weights_of(elaborate(spec)))
    seen, clusters = 0, set[tuple[int, int]]()
    for step in lowering.steps:
        large = [constants for way in step.ways if "DOWN" in (constants := fixed(lowering, way))]
        if large:
            taken = fixed(lowering, step.way(rows))
            counted = next((limit for limit in COUNTED if rows <= limit), None)
            if counted is None:  # 384 columns are not made 512
                cluster = (4, 2) if taken["N"] % 512 == 0 else (2, 1)
                assert of_tile(taken) == ((128, 192, 2, 1) if taken["N"] == 384 else (128, 256, *cluster))
                clusters.add(cluster)
            else:
                least = min(rounds(tile, tile["N"], counted) for tile in large)
                assert rounds(taken, taken["N"], counted) == least
            seen += 1
    assert seen
    assert clusters == (set() if rows <= COUNTED[-1] else {(2, 1), (4, 2)})


def of_tile(constants: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(constants[name] for name in ("ROWS", "COLUMNS", "DOWN", "OVER"))


@pytest.mark.parametrize(
    ("too_large", "architecture"),
    [("", "sm_90"), ("linear_specialised-", "sm_90"), ("linear_cluster-", "sm_90"), ("linear-", "sm_80")],
)
def test_untimed_builds_compile_what_they_keep(
    too_large: str, architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no more, but those that turn out to want too much shared memory, in whose place others come."""
    asked: list[str] = []
    told: list[tuple[int, int]] = []

    def compiling(sources: Any, architecture: str, shared: int, folder: Path) -> Iterator[tuple[str, Kernel | None]]:
        for key, kernel in uncompiled(sources, architecture, shared, folder):
            asked.append(key)
            if too_large and key.startswith(too_large):
                (folder / kernel.file).unlink()
            yield key, None if too_large and key.startswith(too_large) else kernel

    monkeypatch.setattr("bertc.targets.cuda.compile_kernels", compiling)
    bertc.build(
        *(wide_spec(precision="fp16"), tmp_path / "x", "cuda"),
        random_seed=0,
        architectures=[architecture],
        progress=lambda what, done, of: told.append((done, of)) if what == "compiling kernels" else None,
    )
    plan = read_plan((tmp_path / "x" / PLAN).read_text())
    assert len(asked) == len({*asked})
    assert [done for done, _ in told] == list(range(1, len(asked) + 1))
    assert told[-1] == (len(asked), len(asked))
    assert plan.kernels.keys() == plan.launched()
    assert ({*asked} == plan.kernels.keys()) == (too_large == "")
    assert not (too_large and any(key.startswith(too_large) for key in plan.kernels))
    assert {name for name in files_of(tmp_path / "x") if name.endswith(".cubin")} == {
        kernel.file for kernel in plan.kernels.values()
    }
    assert all(step.way(rows) for rows in (1, 5000) for step in plan.taken({"batch": 2, "tokens": rows}))


def fixed(lowering: Lowering, way: Sequence[Operation]) -> dict[str, Any]:
    """What the first kernel of a way is compiled for."""
    return dict(lowering.sources[way[0].kernel].constants) if isinstance(way[0], Launch) else {}


@pytest.mark.parametrize("sizes", [{}, WITH_ROLES], ids=["two lists", "three"])
@pytest.mark.parametrize("few_up_to", [None, 0, 32])
def test_other_weights(
    few_up_to: int | None, sizes: Mapping[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a build lays them out, those that norms in products need where timing has kept these."""
    new = checkpoint(tmp_path / "new", 1, wide_spec(precision="fp16"))
    build(tmp_path / "refitted", monkeypatch, few_up_to, sizes=sizes, random_seed=0)
    built = build(tmp_path / "built", monkeypatch, few_up_to, sizes=sizes, weights=new)
    bertc.refit(tmp_path / "refitted", new)
    assert files_of(tmp_path / "refitted") == files_of(tmp_path / "built")
    assert any(" · " in name for name in built.weights) == (few_up_to != 0)


@pytest.mark.parametrize(("rows", "lists"), [(1024, 2), (1025, 1)])
def test_steps_for_few_rows(rows: int, lists: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are there to be timed up to as many rows as clusters won at. In bf16 there is nothing else, of which many
    rows take no norms along."""
    monkeypatch.setattr("bertc.targets.cuda.compile_kernels", uncompiled)
    spec = replace(wide_spec(precision="bf16"), shapes=(Profile(Range(1, 1, 1), Range(rows, rows, rows)),))
    spec = replace(spec, sizes={**spec.sizes, "positions": rows})
    plan, _ = draft(compile(spec, "cuda"), weights_of(elaborate(spec)), tmp_path, spec, "sm_90")
    assert len(plan.lists) == lists


def test_other_weights_where_no_shape_has_few_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then nothing is laid out for them in bf16, of which many rows take no norms along."""
    shape = Profile(Range(128, 128, 128), Range(16, 16, 16))
    spec = replace(wide_spec(precision="bf16"), shapes=(shape,))
    monkeypatch.setattr("bertc.targets.cuda.compile_kernels", uncompiled)
    new = checkpoint(tmp_path / "new", 1, spec)
    for name, source in (("refitted", {"random_seed": 0}), ("built", {"weights": new})):
        bertc.build(spec, tmp_path / name, "cuda", architectures=["sm_90"], **source)
    bertc.refit(tmp_path / "refitted", new)
    assert files_of(tmp_path / "refitted") == files_of(tmp_path / "built")
    built = read_plan((tmp_path / "built" / PLAN).read_text())
    assert len(built.lists) == 1
    assert not any(" · " in name for name in built.weights)


def test_a_step_without_a_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all of its kernels want too much shared memory, the build says so, and leaves nothing."""

    def none(sources: Any, *_: Any) -> Iterator[tuple[str, Kernel | None]]:
        return ((source.key, None) for source in sources)

    monkeypatch.setattr("bertc.targets.cuda.compile_kernels", none)
    with pytest.raises(BertcError, match="none of its kernels fits into the shared memory of sm_86"):
        bertc.build(wide_spec(precision="fp16"), tmp_path / "x", "cuda", random_seed=0, architectures=["sm_86"])
    assert not list(tmp_path.iterdir())


def test_a_layout_without_what_the_plan_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bertc that names a constant otherwise does not refit the bundle."""
    new = checkpoint(tmp_path / "new", 1, wide_spec(precision="fp16"))
    build(tmp_path / "x", monkeypatch, 32, random_seed=0)
    monkeypatch.setattr("bertc.targets.cuda.products.folding.fits", lambda lowering, x, n: False)
    assert refusal(tmp_path / "x", new)[0] == "B0516"
