"""Query, key, value and attention in one kernel: it compiles and has the memory that it says, and on a GPU it leaves
what its double leaves."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from cuda_launching import launch, resources
from hopper_double import projected_context
from test_kernels import ATTENTION_ULPS, DEVICE, assert_close, draw, nothing
from test_kernels_of_clusters import rows_of, stored_moments

from bertc.kernels.qkv_attention import CONSTANTS, PARAMETERS, SIZE, TOKENS, cluster, shared_bytes, source, warps
from bertc.targets.cuda.compile_kernels import Source, compile_kernels
from bertc.targets.cuda.driver import Device
from bertc.targets.cuda.hopper import SHARED_MEMORY
from bertc.targets.cuda.nvrtc import compile_text
from bertc.targets.cuda.plan import Kernel
from bertc.targets.cuda.qkv_attention import stages

HEADS = 2


class Case(NamedTuple):
    element: str
    k: int
    packed: bool
    normed: bool = True

    @property
    def constants(self) -> dict[str, Any]:
        given = {"ELEMENT": self.element, "K": self.k, "HEADS": HEADS, "SCALE": SIZE**-0.5, "STAGES": stages(self.k)}
        return given | {"PACKED": self.packed, "X_NORM": self.normed, "X_EPS": 1e-5, "PDL": True}


COMPILED = [
    Case("f16", 1024, packed=False),
    Case("bf16", 1024, packed=True),
    Case("f16", 768, packed=True),
    Case("bf16", 64, packed=False, normed=False),
]


def compiled(case: Case, folder: Path) -> Kernel:
    file, constants = "qkv_attention", case.constants
    ((_, kernel),) = compile_kernels(
        [Source(file, file, (), tuple(constants.items()), warps(constants))], "sm_90", SHARED_MEMORY, folder
    )
    assert kernel is not None
    return kernel


@pytest.mark.parametrize("case", COMPILED, ids=str)
def test_compiles(case: Case, tmp_path: Path) -> None:
    """Without anything of a thread in memory, and with as much shared memory as is said: the kernel's own Memory."""
    kernel = compiled(case, tmp_path)
    assert case.constants.keys() == set(CONSTANTS)
    assert (len(kernel.boxes), kernel.cluster, kernel.shared) == (2, 6, shared_bytes(case.constants))
    assert b"sm_90a" in (tmp_path / kernel.file).read_bytes()
    assert resources(tmp_path / kernel.file)["STACK"] == 0
    compile_text(source(case.constants) + "static_assert(sizeof(Memory) == BYTES);\n", "sm_90a")


def test_all_of_a_weight_has_a_place_or_is_loaded_a_second_time() -> None:
    """Up to a width of 1024; a seventeenth box of x leaves too few places."""
    assert [stages(width) for width in (64, 384, 768, 832, 1024)] == [1, 6, 12, 11, 8]
    assert [stages(width) for width in (32, 96, 1088, 4096)] == [0] * 4


if DEVICE != "cpu":  # a cluster's memory has no interpreter
    LENGTHS: dict[str, Sequence[int]] = {
        "one token": [1],
        "half": [64],
        "one more": [65],
        "whole": [128],
        "short ones": [5, 77, 3],
        "none": [17, 0, 128],
        "each": range(1, TOKENS + 1),
    }

    ULPS = {element: ulps + 1 for element, ulps in ATTENTION_ULPS.items()}
    """Attention's, of values that are rounded once more: its double's sums are others, which may round otherwise."""

    @pytest.mark.parametrize(("k", "normed"), [(64, False), (768, True), (1024, False), (1024, True)])
    @pytest.mark.parametrize("packed", [False, True])
    @pytest.mark.parametrize("element", ["f16", "bf16"])
    def test_qkv_attention(element: str, packed: bool, k: int, normed: bool, tmp_path: Path) -> None:
        case = Case(element, k, packed, normed)
        kernel = compiled(case, tmp_path)
        with closing(Device()) as device, device.current():
            for lengths in LENGTHS.values():
                check(device, case, kernel, lengths, max(lengths), tmp_path)

    def test_whole_sequences(tmp_path: Path) -> None:
        """Two of every number of tokens."""
        case = Case("f16", 768, packed=False)
        kernel = compiled(case, tmp_path)
        with closing(Device()) as device, device.current():
            for seq in range(1, TOKENS + 1):
                check(device, case, kernel, [seq] * 2, seq, tmp_path)

    def test_a_sequence_without_tokens(tmp_path: Path) -> None:
        """Is no number, as behind attention_specialised, and leaves its neighbours as they are."""
        case = Case("f16", 768, packed=False)
        given = arguments(case, [0, 3], 3)
        given["context"] = torch.zeros_like(given["context"])
        with closing(Device()) as device, device.current():
            start(device, case, compiled(case, tmp_path), given, tmp_path)
        found = given["context"].reshape(-1, HEADS * SIZE)
        assert torch.isnan(found[:3]).all()
        assert not torch.isnan(found[3:]).any()

    def check(device: Device, case: Case, kernel: Kernel, lengths: Sequence[int], seq: int, folder: Path) -> None:
        """Rows that are nobody's are no numbers, as padding may be. Behind the last row nothing is written."""
        given, width = arguments(case, lengths, seq), HEADS * SIZE
        rows = given["rows"]
        expected = projected_context(case.constants, {**given, "batch": len(lengths)}).reshape(-1, width)
        start(device, case, kernel, given, folder)
        found, asked = given["context"].reshape(-1, width), ~torch.isnan(given["x"][:, 0])
        assert torch.isnan(found[rows:]).all()
        assert not case.packed or torch.isnan(found[:rows][~asked]).all()
        assert_close(found[:rows][asked], expected[:rows][asked.cpu().numpy()], case.element, ULPS[case.element])

    def start(device: Device, case: Case, kernel: Kernel, given: dict[str, Any], folder: Path) -> None:
        torch.cuda.synchronize()
        grid = (cluster(case.constants) * HEADS, len(given["lengths"]), 1)
        launch(device, folder, kernel, grid, PARAMETERS, given, case.element)()
        device.wait()

    def arguments(case: Case, lengths: Sequence[int], seq: int) -> dict[str, Any]:
        starts = [sum(lengths[:index]) if case.packed else index * seq for index in range(len(lengths))]
        rows, n = sum(lengths) + 5 if case.packed else len(lengths) * seq, 3 * HEADS * SIZE
        x = rows_of(case.element, rows, case.k, 0)
        moments = stored_moments(x)
        nobodys = torch.ones(rows, dtype=torch.bool)
        for first, length in zip(starts, lengths, strict=True):
            nobodys[first : first + length] = False
        x[nobodys] = torch.nan
        moments.reshape(-1, rows, 2)[:, nobodys] = torch.nan
        w = (draw("f32", n, case.k, seed=7) * case.k**-0.5).to(x.dtype)
        given = {"x": x, "w": w, "bias": draw("f32", n, seed=2), "x_moments": moments}
        given |= {"starts": torch.tensor(starts, device=DEVICE).int()}
        given |= {"lengths": torch.tensor(list(lengths), device=DEVICE).int()}
        return given | {"context": nothing(case.element, (rows + TOKENS) * HEADS * SIZE), "seq": seq, "rows": rows}
