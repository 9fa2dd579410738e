"""What benchmarks/gpu.py checks: kernels, memory, engines side by side, shipped specs, families, a real model.

Each check yields its findings, and fails with an assertion that has the figure.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from functools import cache, partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch

import bertc
from bertc.compiler import bind_weights, compile
from bertc.elaborate import elaborate
from bertc.engine import Engine
from bertc.errors import BertcError
from bertc.ops import Array
from bertc.reference import Weights, evaluate
from bertc.shapes import Profile, Range
from bertc.spec import Spec
from bertc.targets.cuda import draft
from bertc.targets.cuda.driver import Device
from bertc.targets.cuda.plan import Plan
from bertc.targets.cuda.session import WEIGHTS, Session
from bertc.weights_io import Tensor

SPECS = ("minilm-l6", "bert-base", "bert-large", "megatron-345m")

BOUNDS = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1.6e-1}
"""Hidden states reach 5: f16 and bf16 round them to 2^-9 and 2^-6, and layers add that up."""

PACKED_PASSES = ("default", "pack_sequences")

LEAST_COSINE = 0.9999
"""Between an embedding and the same by float64; bf16's weights and values leave 0.99993 of short sentences."""

FAMILIES = Path(__file__).parent.parent / "tests" / "fixtures" / "families"
"""Directories of small models, without weights."""

PADDED_ONLY = ("deberta",)
"""Families whose networks have no packed form."""

PROCESSES = 12
"""Checks that run at once: compiling and the reference take most of the time. Each takes up to 5 GB of host memory."""

SENTENCES = [
    "A man is eating food.",
    "A man is eating a piece of bread.",
    "The girl is carrying a baby.",
    "A man is riding a horse.",
    "A woman is playing the violin.",
    "Two men pushed carts through the woods.",
    "A man is riding a white horse on an enclosed ground.",
    "A monkey is playing drums.",
    "A cheetah is running behind its prey.",
    "Paris is the capital of France, and has been since the Middle Ages.",
    "What is the capital of France?",
    "No.",
]


def check_leaks(folder: Path) -> Iterator[dict[str, int]]:
    """10 000 runs over 200 shapes: the device memory and the host memory that the second half of them takes."""
    profile = Profile(Range(1, 8, 16), Range(8, 64, 128))
    spec = replace(bertc.load("minilm-l6"), precision="fp16", shapes=(profile,))
    bertc.build(spec, folder / "leaks", "cuda", random_seed=0, force=True)
    session = Session(folder / "leaks", Device())
    generator = np.random.default_rng(0)
    drawn = generator.integers((1, 8), (17, 129), (199, 2)).tolist()
    shapes = [(16, 128), *((batch, seq) for batch, seq in drawn)]
    marks: list[tuple[int, int]] = []
    for index, (batch, seq) in enumerate(shapes):
        ids = generator.integers(0, spec.sizes["vocab"], (batch, seq))
        inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        for _ in range(50):
            session.run(inputs)
        if index in (99, 199):
            with session.device.current():
                free = session.device.free_memory()
            marks.append((free, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))
    session.close()
    taken = {"device_bytes": marks[0][0] - marks[1][0], "host_kibibytes": marks[1][1] - marks[0][1]}
    assert taken["device_bytes"] <= 8 << 20, taken
    assert taken["host_kibibytes"] <= 64 << 10, taken
    yield taken


def check_kernels(folder: Path) -> Iterator[dict[str, str]]:
    """The cases of tests/test_kernels*.py, compiled and on this GPU, the files side by side; pytest's last lines. That
    all kernels compile is tested without a GPU."""
    del folder
    tests = sorted((Path(__file__).parent.parent / "tests").glob("test_kernels*.py"))
    environment = {**os.environ, "BERTC_TEST_DEVICE": "cuda"}

    def tested(file: Path) -> subprocess.CompletedProcess[str]:
        options = ("-q", "-p", "no:cacheprovider", "-o", "addopts=", "-k", "not test_compiles")
        command = [sys.executable, "-m", "pytest", *options, str(file)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    with ThreadPoolExecutor() as pool:
        for file, result in zip(tests, pool.map(tested, tests), strict=True):
            if result.returncode:
                raise AssertionError(result.stdout[-3000:] + result.stderr[-2000:])
            yield {"file": file.name, "cases": result.stdout.strip().splitlines()[-1]}


Case = tuple[str, str, bool]
"""The spec or its directory, the precision, and whether it runs packed."""


def check_specs(folder: Path) -> Iterator[dict[str, Any]]:
    """Every shipped spec with random weights."""
    del folder
    yield from _side_by_side(_shipped, list(product(SPECS, BOUNDS, (False, True))))


def _shipped(case: Case) -> dict[str, Any]:
    spec = _as_in(case)
    return _agreement(case[0], spec, _random(spec), ((3, 37), (1, 11)))


def check_families(folder: Path) -> Iterator[dict[str, Any]]:
    """A small network of every family, with weights five times as far apart as random ones, so that scores tell keys
    apart; 592 tokens are more than small tiles are taken for where nothing is timed."""
    del folder
    cases = product(map(str, sorted(FAMILIES.iterdir())), BOUNDS, (False, True))
    yield from _side_by_side(
        _of_family, [case for case in cases if not (case[2] and Path(case[0]).name in PADDED_ONLY)]
    )


def _of_family(case: Case) -> dict[str, Any]:
    spec = _as_in(case)
    spread = {name: replace(tensor, read=partial(_spread, tensor)) for name, tensor in _random(spec).items()}
    return _agreement(Path(case[0]).name, spec, spread, ((16, 37), (1, 11)))


def _as_in(case: Case) -> Spec:
    name, precision, packed = case
    return replace(bertc.load(name), precision=precision, passes=PACKED_PASSES if packed else ("default",))


def _side_by_side(check: Callable[[Case], dict[str, Any]], cases: Sequence[Case]) -> Iterator[dict[str, Any]]:
    """Each case in one of some processes, for compiling and the reference take the processor's time, not the GPU's."""
    with ProcessPoolExecutor(PROCESSES, get_context("spawn")) as pool:
        yield from pool.map(check, cases)


def _random(spec: Spec) -> dict[str, Tensor]:
    """Weights that are drawn once each."""
    weights = bind_weights(spec, elaborate(spec), None, 0)
    return {name: replace(tensor, read=cache(tensor.read)) for name, tensor in weights.items()}


def _spread(tensor: Tensor) -> Array:
    centre = 1.0 if tensor.name.endswith("norm.weight") else 0.0
    return centre + 5.0 * (tensor.read() - centre)


def _agreement(name: str, spec: Spec, weights: Weights, shapes: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """Padded batches of each shape by every list of steps and every way of each, twice in turn: graphs are captured,
    and replayed after others. The largest difference from float64, at tokens that are there."""
    batches, seqs = zip(*shapes, strict=True)
    profile = Profile(Range(min(batches), max(batches), max(batches)), Range(min(seqs), max(seqs), max(seqs)))
    spec = replace(spec, shapes=(profile,))
    graph, generator = elaborate(spec), np.random.default_rng(0)
    given = [_padded_batch(spec, batch, seq, generator) for batch, seq in shapes]
    expected = [evaluate(graph, inputs, weights) for inputs in given]
    differences: list[float] = []
    with TemporaryDirectory() as folder:
        device = Device()
        plan, _ = draft(compile(spec, "cuda"), weights, Path(folder), spec, device.architecture)
        offered = [len(plan.offered({"batch": batch, "tokens": batch * seq})) for batch, seq in shapes]
        with closing(Session(Path(folder), device)) as session:
            for index, taking in _each_way(plan):
                session.take(taking)
                for lists, inputs, wanted in 2 * [*zip(offered, given, expected, strict=True)]:
                    if index < lists:
                        differences.append(_difference(session.run(inputs), wanted, inputs["attention_mask"] > 0))
    difference, bound, packed = worst(differences), BOUNDS[spec.precision], spec.passes == PACKED_PASSES
    found = {"network": name, "precision": spec.precision, "packed": packed, "runs": len(differences)}
    found |= {"difference": difference, "bound": bound}
    assert difference < bound, found
    return found


def _each_way(plan: Plan) -> Iterator[tuple[int, Plan]]:
    """Every list of steps, and every way of its steps: the list's number, and the plan that takes the nth way of each
    of its steps."""
    for index, steps in enumerate(plan.lists):
        for way in range(max(len(step.ways) for step in steps)):
            taken = tuple(replace(step, choices=((0, way % len(step.ways)),)) for step in steps)
            lists = (*plan.lists[:index], taken, *plan.lists[index + 1 :])
            yield index, replace(plan, lists=lists, choices=((0, index),), alone=((0, index),))


def _padded_batch(spec: Spec, batch: int, seq: int, generator: np.random.Generator) -> dict[str, Array]:
    """Sequences of any length, the first of them full."""
    lengths = generator.integers(1, seq + 1, (batch, 1))
    lengths[0] = seq
    return {
        "input_ids": generator.integers(0, spec.sizes["vocab"], (batch, seq)),
        "attention_mask": (np.arange(seq) < lengths).astype(np.int64),
        "token_type_ids": generator.integers(0, spec.sizes["types"], (batch, seq)),
    }


def _difference(found: Mapping[str, Array], expected: Mapping[str, Array], there: Array) -> float:
    """The largest of all outputs, padding left out."""
    return worst(
        np.abs(found[key] - value)[there if value.shape[:2] == there.shape else ...].max()
        for key, value in expected.items()
    )


def worst(differences: Iterable[float]) -> float:
    """The largest; NaN where there is one."""
    return float(np.max(list(differences)))


def check_embeddings(checkpoint: Path, folder: Path) -> Iterator[dict[str, Any]]:
    """A real model's embeddings of some sentences against those by float64: the least cosine."""
    for precision, packed in product(BOUNDS, (False, True)):
        profile = Profile(Range(1, 8, 16), Range(3, 32, 128))
        passes = PACKED_PASSES if packed else ("default",)
        spec = replace(bertc.load(str(checkpoint)), precision=precision, shapes=(profile,), passes=passes)
        bertc.build(spec, folder / "embeddings", "cuda", force=True)
        engine = bertc.open(folder / "embeddings")
        graph = elaborate(spec)
        weights = bind_weights(spec, graph, spec.weights, None)
        cosines: list[float] = []
        sequences = engine.text.encodings(SENTENCES, cut=True)
        for sequence, vector in zip(sequences, engine.embed(SENTENCES), strict=True):
            ids = np.array([sequence.ids])
            inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
            mean = evaluate(graph, inputs, weights)["last_hidden_state"][0].mean(0)
            cosines.append(float(vector @ mean / np.linalg.norm(mean)))
        engine.close()
        least = float(np.min(cosines))
        found = {"precision": precision, "packed": packed, "cosine": least, "bound": LEAST_COSINE}
        assert least > LEAST_COSINE, found
        yield found


def check_engines(folder: Path) -> Iterator[dict[str, Any]]:
    """Two engines on every GPU, whose threads take turns: lists of sequences again and again, and against one at a
    time; and the bytes that an engine takes of its own GPU and of others."""
    spec = replace(bertc.load("minilm-l6"), precision="fp16", shapes=(Profile(Range(1, 8, 16), Range(8, 64, 128)),))
    rows = [np.random.default_rng(index).integers(0, spec.sizes["vocab"], 1 + 7 * index % 128) for index in range(60)]
    numbers = range(torch.cuda.device_count())
    for passes in (("default",), PACKED_PASSES):
        bundle = folder / "engines"
        bertc.build(replace(spec, passes=passes), bundle, "cuda", random_seed=0, force=True)
        own, others = _memory_of_engines(bundle, numbers)
        engines = [bertc.open(bundle, device=number) for number in numbers for _ in range(2)]
        for engine in engines:
            _assert_same_each_time(engine, rows)
        with ThreadPoolExecutor(2 * len(engines)) as pool:
            answers = list(pool.map(partial(Engine.run_sequences, ids=rows, tokens=500), engines * 3))
        alone = [engines[0].run({"input_ids": row[None]}) for row in rows]
        difference = worst(
            np.abs(answer[name] - one[name][0]).max()
            for answered in answers
            for answer, one in zip(answered, alone, strict=True)
            for name in one
        )
        for engine in engines:
            engine.close()
        found = {"packed": passes == PACKED_PASSES, "gpus": len(numbers), "engines": len(engines)}
        assert difference < BOUNDS["fp16"], f"lists of sequences differ by {difference:.1e}: {found}"
        yield {**found, "difference": difference, "own_bytes": own, "others_bytes": others}
    with pytest.raises(BertcError, match=f"there is no GPU {len(numbers)}"):
        bertc.open(folder / "engines", device=len(numbers))


def _assert_same_each_time(engine: Engine, rows: Sequence[Array]) -> None:
    """No kernel reads what has not come yet: a hundred runs of many sequences, whose products have several blocks on a
    multiprocessor, answer the same to the bit."""
    first = engine.run_sequences(ids=rows, tokens=1500)
    for _ in range(99):
        for one, other in zip(first, engine.run_sequences(ids=rows, tokens=1500), strict=True):
            for name, values in one.items():
                np.testing.assert_array_equal(other[name], values)


def _memory_of_engines(bundle: Path, numbers: Sequence[int]) -> tuple[int, int]:
    """Bytes that an engine takes: at least, of the GPU that it was opened on; at most, of another."""
    own: list[int] = []
    others: list[int] = [0]
    for number in numbers:
        before = [torch.cuda.mem_get_info(index)[0] for index in numbers]
        with bertc.open(bundle, device=number):
            after = [torch.cuda.mem_get_info(index)[0] for index in numbers]
        taken = [was - now for was, now in zip(before, after, strict=True)]
        own.append(taken.pop(number))
        others += taken
    weights = (bundle / WEIGHTS).stat().st_size
    assert min(own) >= weights, f"an engine of {weights} bytes of weights takes {min(own)} of its GPU"
    assert max(others) <= 1 << 20, f"an engine takes {max(others)} bytes of a GPU that it does not run on"
    return min(own), max(others)


CHECKS: Mapping[str, Callable[[Path], Iterator[dict[str, Any]]]] = {
    "kernels": check_kernels,
    "leaks": check_leaks,
    "engines": check_engines,
    "families": check_families,
    "specs": check_specs,
}
"""Name -> a check, which is given a folder for its bundles; check_embeddings wants a model too."""
