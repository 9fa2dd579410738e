"""Attention by warps with roles: the kernel compiles and keeps to its registers, and on a GPU it leaves what its double
leaves."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from cuda_launching import launch, resources
from hopper_double import context
from test_kernels import ATTENTION_ULPS, DEVICE, assert_close, draw, nothing

from bertc.kernels.attention_specialised import CONSTANTS, PARAMETERS, SIZE, warps
from bertc.targets.cuda.attention import SPECIALISED
from bertc.targets.cuda.compile_kernels import Source, compile_kernels
from bertc.targets.cuda.driver import Device
from bertc.targets.cuda.hopper import MULTIPROCESSORS, SHARED_MEMORY
from bertc.targets.cuda.plan import Kernel

HEADS = 2

LENGTHS = {
    "one token": [1],
    "whole tiles": [384, 384],
    "one beside whole tiles": [383, 385, 129, 127],
    "short ones": [5, 77, 3],
    "more tiles than blocks": [128] * 150,
    "long": [1000, 640],
}


def compiled(element: str, tile: tuple[int, int, int], packed: bool, folder: Path) -> tuple[dict[str, Any], Kernel]:
    constants: dict[str, Any] = {"ELEMENT": element, "HEADS": HEADS, "SCALE": SIZE**-0.5, "PACKED": packed}
    constants |= {"HAS_LENGTHS": True, **dict(zip(("GROUPS", "KEYS", "STAGES"), tile, strict=True)), "PDL": True}
    file = "attention_specialised"
    ((_, kernel),) = compile_kernels(
        [Source(file, file, (), tuple(constants.items()), warps(constants))], "sm_90", SHARED_MEMORY, folder
    )
    assert kernel is not None
    return constants, kernel


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("tile", SPECIALISED, ids=str)
@pytest.mark.parametrize("element", ["f16", "bf16"])
def test_compiles(element: str, tile: tuple[int, int, int], packed: bool, tmp_path: Path) -> None:
    constants, kernel = compiled(element, tile, packed, tmp_path)
    assert constants.keys() == set(CONSTANTS)
    assert len(kernel.boxes) == 3
    assert b"sm_90a" in (tmp_path / kernel.file).read_bytes()
    used = resources(tmp_path / kernel.file)
    assert (used["REG"], used["STACK"]) == (65536 // (32 * kernel.warps) // 8 * 8, 0)


if DEVICE != "cpu":  # warps with roles have no interpreter

    @pytest.mark.parametrize("case", LENGTHS)
    @pytest.mark.parametrize("packed", [False, True])
    @pytest.mark.parametrize("tile", SPECIALISED, ids=str)
    @pytest.mark.parametrize("element", ["f16", "bf16"])
    def test_attention(element: str, tile: tuple[int, int, int], packed: bool, case: str, tmp_path: Path) -> None:
        """What lies behind the last sequence is no number, and stays as it is; between padded ones it is no number
        either, but for queries, of which nobody asks what they become."""
        lengths = LENGTHS[case]
        batch, seq, width = len(lengths), max(lengths) + 3, HEADS * SIZE
        starts = [sum(lengths[:index]) if packed else index * seq for index in range(batch)]
        rows = sum(lengths) if packed else batch * seq
        columns = draw(element, rows + 200, 3 * width)
        columns[rows:] = torch.nan
        asked = torch.zeros(rows, dtype=torch.bool, device=DEVICE)
        for start, length in zip(starts, lengths, strict=True):
            asked[start : start + length] = True
        columns[:rows][~asked, width:] = torch.nan
        constants, kernel = compiled(element, tile, packed, tmp_path)
        given = {name: columns[:, index * width :][:, :width] for index, name in enumerate(("query", "key", "value"))}
        given |= {"starts": torch.tensor(starts, device=DEVICE).int(), "batch": batch, "seq": seq}
        given |= {"lengths": torch.tensor(lengths, device=DEVICE).int()}
        given |= {"context": nothing(element, (rows + 200) * width)}
        expected = context(constants, given)
        with closing(Device()) as device, device.current():
            torch.cuda.synchronize()
            launch(device, tmp_path, kernel, (MULTIPROCESSORS, 1, 1), PARAMETERS, given, element)()
            device.wait()
        found = given["context"].reshape(-1, width)
        assert torch.isnan(found[rows:]).all()
        expected = expected.reshape(-1, width)[:rows][asked.cpu().numpy()]
        assert_close(found[:rows][asked], expected, element, ATTENTION_ULPS[element])
