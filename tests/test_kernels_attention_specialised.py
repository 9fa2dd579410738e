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
    "tiles that are not there, and sequences": [384, 5, 0, 200, 1000] * 20,
}


def compiled(
    element: str, tile: tuple[int, int, int], folder: Path, *, packed: bool, has_lengths: bool = True
) -> tuple[dict[str, Any], Kernel]:
    constants: dict[str, Any] = {"ELEMENT": element, "HEADS": HEADS, "SCALE": SIZE**-0.5, "PACKED": packed}
    constants |= {"HAS_LENGTHS": has_lengths, **dict(zip(("GROUPS", "KEYS", "STAGES"), tile, strict=True)), "PDL": True}
    file = "attention_specialised"
    source = Source(file, file, (), tuple(constants.items()), warps(constants))
    ((_, kernel),) = compile_kernels([source], "sm_90", SHARED_MEMORY, folder)
    assert kernel is not None
    return constants, kernel


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("tile", SPECIALISED, ids=str)
@pytest.mark.parametrize("element", ["f16", "bf16"])
def test_compiles(element: str, tile: tuple[int, int, int], packed: bool, tmp_path: Path) -> None:
    constants, kernel = compiled(element, tile, tmp_path, packed=packed)
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
        """Keys and values behind a sequence are no numbers, as padding may be."""
        lengths = LENGTHS[case]
        seq = max(lengths) + 3
        starts = [sum(lengths[:index]) if packed else index * seq for index in range(len(lengths))]
        constants, kernel = compiled(element, tile, tmp_path, packed=packed)
        rows = sum(lengths) if packed else len(lengths) * seq
        check(element, constants, kernel, starts, lengths, rows, seq, tmp_path)

    @pytest.mark.parametrize("tile", SPECIALISED, ids=str)
    def test_whole_sequences(tile: tuple[int, int, int], tmp_path: Path) -> None:
        """Without lengths."""
        constants, kernel = compiled("f16", tile, tmp_path, packed=False, has_lengths=False)
        check("f16", constants, kernel, [0, 200, 400], [200] * 3, 600, 200, tmp_path)

    def check(
        element: str,
        constants: dict[str, Any],
        kernel: Kernel,
        starts: list[int],
        lengths: list[int],
        rows: int,
        seq: int,
        folder: Path,
    ) -> None:
        """Queries of padding are numbers, but nobody asks what they become; behind the last row nothing is written."""
        width = HEADS * SIZE
        columns = draw(element, rows + 200, 3 * width)
        asked = torch.zeros(rows + 200, dtype=torch.bool, device=DEVICE)
        for start, length in zip(starts, lengths, strict=True):
            asked[start : start + length] = True
        columns[~asked, width:] = torch.nan
        given = {name: columns[:, index * width :][:, :width] for index, name in enumerate(("query", "key", "value"))}
        given |= {"starts": torch.tensor(starts, device=DEVICE).int(), "batch": len(lengths), "seq": seq}
        given |= {"lengths": torch.tensor(lengths, device=DEVICE).int()}
        given |= {"context": nothing(element, (rows + 200) * width)}
        expected = context(constants, given).reshape(-1, width)
        with closing(Device()) as device, device.current():
            torch.cuda.synchronize()
            launch(device, folder, kernel, (MULTIPROCESSORS, 1, 1), PARAMETERS, given, element)()
            device.wait()
        found = given["context"].reshape(-1, width)
        assert torch.isnan(found[rows:]).all()
        assert_close(found[asked], expected[asked.cpu().numpy()], element, ATTENTION_ULPS[element])
