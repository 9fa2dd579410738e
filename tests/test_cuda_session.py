"""The cuda target's session without a GPU: its memory is the host's, its kernels run in Triton's interpreter."""

from __future__ import annotations

import ctypes
import threading
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import weights_of
from test_cuda import CLUSTERS, TYPES, Interpreted, wide_spec

from bertc.bundle import Bundle, Manifest
from bertc.compiler import compile
from bertc.elaborate import elaborate
from bertc.engine import Engine
from bertc.errors import BertcError
from bertc.reference import evaluate
from bertc.spec import Spec
from bertc.targets import Runtime, cuda
from bertc.targets.cuda import _write_weights
from bertc.targets.cuda import session as session_module
from bertc.targets.cuda.lower import Lowering
from bertc.targets.cuda.plan import EIGHTS, INPUTS, PAIRS, Kernel, Launch, Operation, Plan, Size, Step
from bertc.targets.cuda.session import PLAN, WEIGHTS, Session, bucket

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")  # rows of padding overflow in the interpreter

BOUND = 2e-5
"""float32, as in test_cuda."""


class HostDevice:
    """What the session asks of a device, done at once by the host; copies wait until the stream is waited for."""

    architecture, name, stream = "sm_90", "the host", 0

    def __init__(self) -> None:
        self.memory: dict[int, Any] = {}
        self.pinned: dict[int, Any] = {}
        self.pending: list[Callable[[], None]] = []
        self.contexts = threading.local()
        self.inside = 0
        self.graphs = 0

    @contextmanager
    def current(self) -> Generator[None]:
        before, self.contexts.current = self.is_current, True
        yield
        self.contexts.current = before

    @property
    def is_current(self) -> bool:
        """Whether it is the calling thread's."""
        return getattr(self.contexts, "current", False)

    def allocate(self, size: int) -> int:
        return self._made(self.memory, size).ctypes.data

    def pin(self, size: int) -> Any:
        return self._made(self.pinned, size)

    @staticmethod
    def _made(owner: dict[int, Any], size: int) -> Any:
        array = np.full(size + 1, 0xEE, np.uint8)[:size]
        owner[array.ctypes.data] = array
        return array

    def free(self, address: int) -> None:
        del self.memory[address]

    def unpin(self, array: Any) -> None:
        self.wait()
        del self.pinned[array.ctypes.data]

    def clear(self, address: int, size: int) -> None:
        ctypes.memset(address, 0, size)

    def upload(self, address: int, array: Any) -> None:
        ctypes.memmove(address, array.ctypes.data, array.nbytes)

    def start_upload(self, address: int, array: Any) -> None:
        self._copy(address, array.ctypes.data, array.nbytes)

    def start_download(self, array: Any, address: int) -> None:
        self._copy(array.ctypes.data, address, array.nbytes)

    def _copy(self, target: int, source: int, size: int) -> None:
        assert self.is_current, "the GPU is not this thread's"
        self.pending.append(lambda: ctypes.memmove(target, source, size) and None)

    def captured(self, work: Callable[[], None]) -> Callable[[], None]:
        self.graphs += 1
        return work

    def replay(self, graph: Callable[[], None]) -> None:
        self.pending.append(graph)

    def forget(self, graph: Callable[[], None]) -> None:
        self.graphs -= 1

    def wait(self) -> None:
        self.inside += 1
        assert self.inside == 1, "two calls at once on one stream"
        for work in self.pending:
            work()
        self.pending.clear()
        self.inside -= 1

    def milliseconds(self, work: Callable[[], None]) -> float:
        work()
        self.wait()
        return 1.0

    def part_times(self, parts: Sequence[Callable[[], None]], runs: int) -> list[float]:
        for part in parts:
            part()
        return [1.0] * len(parts)

    def close(self) -> None:
        self.memory.clear()
        self.pinned.clear()


class InterpretedSession(Session):
    """The session whose operations run on the CPU, on the buffers that it has placed."""

    lowering: Lowering

    def start(self, operation: Operation, sizes: Mapping[str, int], addresses: Mapping[str, int]) -> None:
        plan = Interpreted.__new__(Interpreted)
        plan.sizes, plan.lowering = {**sizes, **CLUSTERS}, self.lowering
        buffers = self.plan.buffers
        plan.memory = {
            name: view(address, buffers[name].element, buffers[name].size(sizes)) for name, address in addresses.items()
        }
        for name, (element, array) in self.lowering.constants.items():
            plan.memory[name] = view(self.weights + self.plan.weights[name][1], element, array.size)
        plan.start(operation)


def view(address: int, element: str, count: int) -> Any:
    size = {"f32": 4, "f16": 2, "i32": 4}[element]
    flat = np.ctypeslib.as_array((ctypes.c_uint8 * (count * size)).from_address(address))
    return torch.from_numpy(flat).view(TYPES[element])


class NoProducts:
    """Products are interpreted too, so that the library is not needed."""

    def __init__(self, workspace: int) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.fixture(scope="module", params=["", "[default, pack_sequences]"], ids=["padded", "packed"])
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A session over the host's memory, its spec and its weights."""
    spec = wide_spec(passes=request.param) if request.param else wide_spec()
    spec = replace(spec, sizes={**spec.sizes, "layers": 1})
    elaborated = elaborate(spec)
    weights = weights_of(elaborated)
    lowering = Lowering(compile(spec, "cuda"), weights, "f32", architecture="sm_80")
    outputs = lowering.run()
    folder = tmp_path_factory.mktemp("plan")
    offsets = _write_weights(lowering.constants, lowering.constants, folder / WEIGHTS)
    plan = Plan("sm_90", lowering.buffers, offsets, {}, (tuple(lowering.steps),), outputs)
    (folder / PLAN).write_text(plan.to_json())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session_module, "Blas", NoProducts)
        session = InterpretedSession(folder, HostDevice())  # pyright: ignore[reportArgumentType]
    session.lowering = lowering
    return session, spec, elaborated, weights


def engine(session: Session, spec: Spec) -> Engine:
    names = ("input_ids", "attention_mask", "token_type_ids")
    manifest = Manifest(
        *("small", "", "", "cuda", {}, "fp32", dict(spec.sizes), spec.shapes),
        *({name: name for name in names}, tuple(session.plan.outputs), "right_padding"),
    )
    run_packed = session.run_packed if session.packed else None
    runtime = Runtime(session.run, session.close, session.token_outputs, run_packed, session.phases)
    return Engine(Bundle(Path("x"), manifest), runtime)


def test_padded_batches(opened: Any, padded_batch: Mapping[str, Any]) -> None:
    session, spec, elaborated, weights = opened
    answers = engine(session, spec).run(padded_batch)
    there = padded_batch["attention_mask"] > 0
    for name, expected in evaluate(elaborated, padded_batch, weights).items():
        found = answers[name]
        assert found.shape == expected.shape
        difference = np.abs(found - expected)
        assert (difference[there] if name in session.token_outputs else difference).max() < BOUND, name
    assert session.token_outputs == {"last_hidden_state"}


@pytest.mark.filterwarnings("ignore:overflow")  # the row of token 68, which nobody reads
def test_inputs_fill_their_buffers(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another shape has left in the memory is not taken for tokens, nor for their places: 67 tokens of 68."""
    session = opened[0]
    there = (np.arange(19) < np.array([[19], [10], [19], [19]])).astype(np.int64)
    inputs = {"input_ids": there, "attention_mask": there, "token_type_ids": there}
    session.run(inputs)
    device = session.device
    seen: dict[str, Any] = {}

    def look(addresses: Mapping[str, int], sizes: Mapping[str, int]) -> None:
        for name in INPUTS:
            if name in addresses:
                seen[name] = view(addresses[name], "i32", session.plan.buffers[name].size(sizes)).clone()
                assert seen[name].max() < 53, name

    def replay(graph: Callable[[], None]) -> None:
        prepared = next(each for each in session._captured._kept.values() if each.graph is graph)
        device.pending.append(lambda: look(prepared.addresses, prepared.sizes))
        device.pending.append(graph)

    arena = device.memory[session._arena]
    arena[:] = 0x7F
    monkeypatch.setattr(device, "replay", replay)
    session.run(inputs)
    assert seen.keys() >= {"input_ids", "token_type_ids", "lengths"}


@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered in reduce")  # rows that nobody reads
def test_lists_of_sequences(opened: Any) -> None:
    """In two batches, in the order given; an arena that grows and pinned memory that grows on the way."""
    session, spec, elaborated, weights = opened
    generator = np.random.default_rng(1)
    rows = [generator.integers(0, 53, length) for length in (2, 9, 1, 16, 5)]
    answers = engine(session, spec).run_sequences(rows, tokens=20)
    for row, answer in zip(rows, answers, strict=True):
        inputs = {"input_ids": row[None], "attention_mask": np.ones_like(row[None])}
        alone = evaluate(elaborated, {**inputs, "token_type_ids": np.zeros_like(row[None])}, weights)
        for name, expected in alone.items():
            assert answer[name].shape == expected.shape[1:]
            assert np.abs(answer[name] - expected[0]).max() < BOUND, name


def test_memory_is_kept_and_given_back(opened: Any, padded_batch: Mapping[str, Any]) -> None:
    session, spec, *_ = opened
    runner = engine(session, spec)
    runner.run(padded_batch)
    device = session.device
    held = (sorted(device.pinned), sorted(device.memory), device.graphs)
    runner.run(padded_batch)
    assert (sorted(device.pinned), sorted(device.memory), device.graphs) == held
    phases = runner.runtime.phases
    assert phases is not None
    assert vars(phases(padded_batch)) == {"host_to_device": 1.0, "compute": 1.0, "device_to_host": 1.0}


def test_other_choices_are_taken_from_then_on(
    opened: Any, padded_batch: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    session = opened[0]
    started: list[Operation] = []

    def start(operation: Operation, *rest: Any) -> None:
        started.append(operation)
        InterpretedSession.start(session, operation, *rest)

    monkeypatch.setattr(session, "start", start)
    first = session.plan
    steps = first.lists[0]
    others = tuple(replace(step, choices=((0, len(step.ways) - 1),)) for step in steps)
    found: list[Any] = []
    for plan, taken in ((replace(first, lists=(others,)), others), (first, steps)):
        session.take(plan)
        started.clear()
        found.append(session.run(padded_batch)["last_hidden_state"])
        assert {*started} == {operation for step in taken for operation in step.way(padded_batch["input_ids"].size)}
    assert steps != others
    np.testing.assert_allclose(*found, rtol=0, atol=BOUND)


def test_each_step_is_timed_once_a_run(opened: Any, padded_batch: Mapping[str, Any]) -> None:
    session, _, _, _ = opened
    times = session.step_times({name: array.astype(np.int32) for name, array in padded_batch.items()}, 3)
    assert times == Counter(step.name for step in session.plan.lists[0])
    assert {"encoder.0.merged", "encoder.0.ffn.norm"} <= times.keys()


def test_threads_take_turns(opened: Any, padded_batch: Mapping[str, Any]) -> None:
    """Each thread makes the GPU its own for a call, and none runs inside another's."""
    session, spec, *_ = opened
    runner = engine(session, spec)
    shorter = {name: array[:, :4] for name, array in padded_batch.items()}
    expected = [runner.run(batch) for batch in (padded_batch, shorter)]
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(runner.run, batch) for batch in (padded_batch, shorter) * 2]
    for index, future in enumerate(futures):
        for name, array in future.result().items():
            assert np.array_equal(array, expected[index % 2][name])
    assert not session.device.is_current


def test_room_is_asked_for_only_for_clusters(opened: Any) -> None:
    """HostDevice cannot say what fits it."""
    opened[0].require_clusters()


def test_closing_gives_everything_back(opened: Any) -> None:
    """Last: it closes what the others share."""
    session, spec, *_ = opened
    engine(session, spec).close()
    device = session.device
    assert (device.memory, device.pinned, device.graphs) == ({}, {}, 0)


@pytest.mark.parametrize(
    ("count", "rounded"), [(1, 16), (17, 32), (513, 544), (1025, 1088), (16385, 17408), (41780, 41984)]
)
def test_buckets(count: int, rounded: int) -> None:
    """One of 32 parts of the power of two above, of 16 tokens at least and 1024 at most."""
    assert bucket(count) == rounded


@pytest.mark.parametrize(("eights", "pairs", "beside"), [(15, 66, 6), (16, 66, 2), (14, 57, 1), (16, 64, 1)])
def test_kernels_of_clusters_take_what_fits(
    eights: int, pairs: int, beside: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many clusters of eight as there is room for, and pairs beside them; one of these at least."""
    device = Clustered({"first": eights, "rest": pairs})
    monkeypatch.setattr(session_module, "Blas", NoProducts)
    session = Session(clustered(tmp_path), device)  # pyright: ignore[reportArgumentType]
    for operation in session.plan.operations():
        session.start(operation, {}, {})
    assert device.launched == [("first", 8 * eights, 8 * eights), ("rest", 2 * beside, 2 * beside), ("other", 132, 132)]


def test_no_room_for_a_cluster_of_eight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said when the bundle is opened, and the GPU is given back."""
    device = Clustered({"first": 0, "rest": 6})
    monkeypatch.setattr(session_module, "Blas", NoProducts)

    def opened(number: int) -> Clustered:
        return device

    monkeypatch.setattr(cuda, "Device", opened)
    with pytest.raises(BertcError, match=r"clusters of 8 blocks, but the host, .* has room for none") as refused:
        cuda.open_session(clustered(tmp_path), {})
    assert refused.value.diagnostics[0].code == "B0513"
    assert not device.memory


KERNELS = ("first", "rest", "other"), (8, 2, 1)


def clustered(folder: Path) -> Path:
    """A plan of three kernels, the first by clusters of eight, the second by pairs."""
    launches = [
        Launch(name, (size, Size(1), Size(1)), (size,), (), ())
        for name, size in {"first": Size(8, (EIGHTS,)), "rest": Size(2, (PAIRS,)), "other": Size(132)}.items()
    ]
    kernels = {name: Kernel(name, name, 12, 1 << 17, (), cluster) for name, cluster in zip(*KERNELS, strict=True)}
    plan = Plan("sm_90", {}, {}, kernels, ((Step("product", (tuple(launches),)),),), {})
    (folder / PLAN).write_text(plan.to_json())
    (folder / WEIGHTS).write_bytes(b"")
    for name in kernels:
        (folder / name).write_bytes(b"")
    return folder


class Clustered(HostDevice):
    """A device that says how many clusters of a kernel fit it, and notes the grids and the numbers of launches."""

    def __init__(self, fitting: Mapping[str, int]) -> None:
        super().__init__()
        self.fitting = fitting
        self.launched: list[tuple[str, int, int]] = []

    def upload(self, address: int, array: Any) -> None:
        assert not array.size

    def function(self, path: Path, entry: str, shared: int) -> str:
        return entry

    def clusters(self, function: str, warps: int, shared: int, cluster: int) -> int:
        assert (warps, shared, cluster) == (12, 1 << 17, dict(zip(*KERNELS, strict=True))[function])
        return self.fitting[function]

    def launch(
        self, function: str, grid: tuple[int, int, int], warps: int, shared: int, values: Any, cluster: int
    ) -> None:
        ((value, _),) = values
        self.launched.append((function, grid[0], value))
