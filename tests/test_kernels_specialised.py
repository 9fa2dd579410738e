"""Products by warps with roles: for every tile the kernel compiles and keeps to its registers, and on a GPU it leaves
what its double leaves."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cluster_machine_code import disassembled
from cuda_launching import launch, resources
from hopper_double import factors, grid_of, results
from test_kernels import BITS, DEVICE, nothing, wide
from test_kernels_of_clusters import FORMS, arguments

from bertc.errors import BertcError
from bertc.kernels.hopper import DEPTH, GRANULE
from bertc.kernels.linear_specialised import CONSTANTS, PARAMETERS, warps
from bertc.ops import PRIMITIVES, Array
from bertc.targets.cuda.compile_kernels import Source, compile_kernels
from bertc.targets.cuda.driver import Device
from bertc.targets.cuda.hopper import MULTIPROCESSORS, SHARED_MEMORY, SPECIALISED, rounds, specialised_tiles
from bertc.targets.cuda.plan import EIGHT, Kernel

SIZES = ((768, 192), (1024, 1024), (832, 64))
"""n and k: whole tiles of both kinds, and columns beyond the last tile of one step."""


PLAIN = dict.fromkeys(("X_NORM", "R_NORM", "HAS_RESIDUAL", "HAS_MOMENTS"), False) | {"ACTIVATION": ""}


def sources(form: Mapping[str, Any], element: str, n: int, k: int) -> Iterator[list[Source]]:
    """For each tile that n columns can be cut into; clusters of eight have pairs beside them."""
    sizes = {"ELEMENT": element, "N": n, "K": k, "X_EPS": 1e-12, "R_EPS": 1e-5, "PDL": True, "LED": 0, "LEADS": False}
    for rows, columns, stages, down, over in SPECIALISED:
        if -(-n // columns) % over:
            continue
        tile = {"ROWS": rows, "COLUMNS": columns, "STAGES": stages, "DOWN": down, "OVER": over}
        kernels = [{**PLAIN, **sizes, **tile, **form}]
        if down * over == EIGHT:
            both = {**kernels[0], "LED": rows * down}
            kernels = [both | {"LEADS": True}, both | {"DOWN": 2, "OVER": 1}]
        yield [Source("linear_specialised", "linear_specialised", (), tuple(of.items()), warps(of)) for of in kernels]


def compiled(
    form: Mapping[str, Any], element: str, n: int, k: int, folder: Path
) -> Iterator[list[tuple[dict[str, Any], Kernel]]]:
    """For each tile its kernels with their constants."""
    for of_tile in sources(form, element, n, k):
        kernels: list[tuple[dict[str, Any], Kernel]] = []
        for source in of_tile:
            constants = dict(source.constants)
            ((_, kernel),) = compile_kernels([source], "sm_90", SHARED_MEMORY, folder)
            assert kernel is not None, f"{constants} want more memory than there is"
            kernels.append((constants, kernel))
        yield kernels


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("element", ["f16", "bf16"])
def test_compiles(form: str, element: str, tmp_path: Path) -> None:
    for constants, kernel in chain(*compiled(FORMS[form], element, 1024, 1024, tmp_path)):
        assert constants.keys() == set(CONSTANTS)
        assert kernel.cluster == constants["DOWN"] * constants["OVER"]
        assert b"sm_90a" in (tmp_path / kernel.file).read_bytes()
        assert_registers(constants, tmp_path / kernel.file)


def test_kernels_wait_for_those_in_front(tmp_path: Path) -> None:
    """By the machine code of each of the three roles. One that takes all rows may wait behind its start of the next;
    one that leads waits before it starts the one that follows. That one loads at once, and waits when all is loaded, so
    that it does not end before the other."""
    starts, waits = "PREEXIT", "ACQBULK"
    shared: list[bool] = []
    for constants, kernel in chain(*compiled({}, "f16", 1024, 1024, tmp_path)):
        code = [instruction.text.split()[0] for instruction in disassembled(tmp_path / kernel.file)]
        signals = [name for name in code if name in (starts, waits)]
        if not constants["LED"]:
            assert signals == 3 * [starts, waits]
            continue
        shared.append(constants["LEADS"])
        assert signals == (3 * [waits, starts] if constants["LEADS"] else [*3 * [starts], waits])
        last_load = max(at for at, name in enumerate(code) if name.startswith("UTMALDG"))
        assert (code.index(waits) > last_load) == (not constants["LEADS"])
    assert shared == [True, False]


def assert_registers(constants: Mapping[str, Any], machine_code: Path) -> None:
    """Threads start with as many as there are for all, the kernel's START. Nothing spills: had the warps that multiply
    no more than that, sums would. But where the moments of 1024 columns take 32 of the 40 registers beside the sums, up
    to 8 of what each tile needs once wait elsewhere."""
    used = resources(machine_code)
    has_moments = constants["X_NORM"] or constants["R_NORM"]
    is_full = (constants["ROWS"], constants["COLUMNS"]) == (192, 192) and has_moments
    assert used["REG"] == 65536 // (32 * warps(constants)) // 8 * 8
    assert used["STACK"] <= (32 if is_full else 0), constants


def test_says_at_once_that_the_compiler_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before Triton has compiled its kernels, which takes minutes."""
    monkeypatch.setitem(sys.modules, "cuda.bindings.nvrtc", None)
    module = import_module("bertc.targets.cuda.compile_kernels")
    monkeypatch.setattr(module, "_compile_triton", lambda *_: pytest.fail("not at once"))
    of_triton = Source("bias_gelu", "bias_activation", (), (), 4)
    with pytest.raises(BertcError) as caught:
        next(compile_kernels([of_triton, *chain(*sources(PLAIN, "f16", 768, 192))], "sm_90", SHARED_MEMORY, tmp_path))
    assert caught.value.diagnostics[0].code == "B0501"


if DEVICE != "cpu":  # warps with roles have no interpreter

    @pytest.mark.parametrize(("n", "k"), SIZES)
    @pytest.mark.parametrize("form", ["plain", "gelu", "of a norm", "to a sum", "to the first norm", "to a norm"])
    @pytest.mark.parametrize("element", ["f16", "bf16"])
    def test_linear_specialised(element: str, form: str, n: int, k: int, tmp_path: Path) -> None:
        check(form, element, n, k, tmp_path)

    @pytest.mark.parametrize("form", [*(FORMS.keys() - {"plain", "gelu", "to a sum", "to a norm"})])
    def test_forms(form: str, tmp_path: Path) -> None:
        check(form, "f16", 1024, 192, tmp_path)

    def check(form: str, element: str, n: int, k: int, folder: Path) -> None:
        """Every tile: one tile alone, several for each block, and rows beyond the last; nothing is written behind."""
        tiles = list(compiled(FORMS[form], element, n, k, folder))
        with closing(Device()) as device, device.current():
            for rows in (1, 1000, 9000):
                given = arguments(element, rows, n, k)
                constants, _ = tiles[0][0]
                expected = results(constants, given)
                off = rounding(constants, given, element)
                for kernels in tiles:
                    left = {"y": nothing(element, (rows + 256) * n)}
                    left["y_moments"] = nothing("f32", (rows + 256) * n // GRANULE * 2)
                    torch.cuda.synchronize()
                    start(device, folder, kernels, {**given, **left}, element)
                    assert_left(left, expected, off, element)

    def start(
        device: Device,
        folder: Path,
        kernels: Sequence[tuple[Mapping[str, Any], Kernel]],
        given: Mapping[str, Any],
        element: str,
    ) -> None:
        """What one tile's kernels leave, of 15 clusters of eight and six pairs where they share the rows."""
        led = 15 * EIGHT
        blocks = {"leading": led, "following": MULTIPROCESSORS - led}
        given = {**given, **blocks}
        for constants, kernel in kernels:
            launch(device, folder, kernel, grid_of(constants, given), PARAMETERS, given, element)()
        device.wait()

    def rounding(constants: Mapping[str, Any], given: Mapping[str, Any], element: str) -> Array:
        """[rows, n]: how far results may be off, before they are rounded: a product is rounded when it is handed over,
        which a norm of x scales and gelu makes 1.13 times as much of; sums and series leave 2e-4. In pairs of f16 the
        norm's factor, the bias and gelu's argument are rounded as well, and gelu is off by 2.7 half units of that."""
        half = 2.0 ** -(BITS[element] + 1)
        product = wide(given["x"]) @ wide(given["w"]).T
        if constants["X_NORM"]:
            product *= factors(given["x_moments"], given["rows"], constants["K"], constants["X_EPS"])[1]
        off = 1.13 * half * np.abs(product) + 2e-4
        if (element, constants["ACTIVATION"]) == ("f16", "gelu"):
            bias = wide(given["bias"])
            off += 1.13 * half * (np.abs(product) + np.abs(bias)) + (1.13 + 2.7) * half * np.abs(product + bias)
        return off

    def test_gelu_of_every_number(tmp_path: Path) -> None:
        """In f16, by a product with 1: no more than 2.7 half units in the last place of x off, all that far from 0 it
        is x or nothing, and on average of normal x 5e-6, where a tanh for Φ leaves 5.6e-5."""
        size = 64
        every = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(torch.float16).reshape(-1, size)
        x = torch.where(every.abs() < 65504, every, 0).to(DEVICE)
        given = {
            **dict.fromkeys(("x_moments", "residual", "r_moments", "r_scale", "y_moments"), nothing("f32", size)),
            "x": x,
            "w": torch.eye(size, dtype=x.dtype, device=DEVICE),
            "bias": torch.zeros(size, device=DEVICE),
            "y": nothing("f16", x.numel()),
            "rows": len(x),
        }
        with closing(Device()) as device, device.current():
            for kernels in compiled({"ACTIVATION": "gelu"}, "f16", size, size, tmp_path):
                start(device, tmp_path, kernels, given, "f16")
                numbers, y = wide(x), wide(given["y"]).reshape(x.shape)
                off = y - PRIMITIVES["gelu"].reference(numbers)
                half = np.spacing(np.abs(x.cpu().numpy())).astype(np.float64) / 2
                assert (np.abs(off) <= 2.7 * half).all()
                assert (y[numbers > 6] == numbers[numbers > 6]).all()
                assert not y[numbers < -8].any()
                weights = np.exp(-(numbers**2) / 2) * half
                assert abs((weights * off).sum() / weights.sum()) < 5e-6

    def test_gelu_of_rows_without_deviation(tmp_path: Path) -> None:
        """Whose factor is more than f16 has: of rows of 0 it leaves what the bias alone gives, rounded to f16, and then
        2.7 half units off; 2e-7 for what is below normal numbers."""
        given = {**arguments("f16", 300, 768, 192), "y_moments": nothing("f32", 1)}
        given["x"][::3] = 0
        given["x_moments"].reshape(-1, 300, 2)[:, ::3] = 0
        with closing(Device()) as device, device.current():
            for kernels in compiled(FORMS["gelu"], "f16", 768, 192, tmp_path):
                given["y"] = nothing("f16", 300 * 768)
                start(device, tmp_path, kernels, given, "f16")
                y = wide(given["y"]).reshape(300, 768)
                bias = wide(given["bias"])
                off = np.abs(y[::3] - PRIMITIVES["gelu"].reference(bias))
                assert np.isfinite(y).all()
                assert (off <= (1.13 + 2.7) * 2.0**-11 * np.abs(bias) + 2e-7).all()

    def assert_left(found: Mapping[str, Any], expected: Mapping[str, Array], off: Array, element: str) -> None:
        rows, n = off.shape
        y = wide(found["y"][: rows * n]).reshape(rows, n)
        bound = off + 2.0 ** -(BITS[element] + 1) * np.abs(expected["y"])
        assert (np.abs(y - expected["y"]) <= bound).all(), (
            f"{(np.abs(y - expected['y']) / bound).max():.2f} of the bound"
        )
        assert torch.isnan(found["y"][rows * n :]).all()
        count = expected["y_moments"].size if "y_moments" in expected else 0
        assert torch.isnan(found["y_moments"][count:]).all()
        if count:
            wanted = expected["y_moments"]  # [granules, rows, 2]
            moments = wide(found["y_moments"][:count]).reshape(wanted.shape)
            most = off.reshape(rows, -1, GRANULE).max(2).T
            assert (np.abs(moments - wanted)[..., 0] <= most).all()
            spread = 2 * np.sqrt(GRANULE * wanted[..., 1]) * most + GRANULE * most**2
            assert (np.abs(moments - wanted)[..., 1] <= spread + 2e-5 * wanted[..., 1]).all()


@pytest.mark.parametrize(
    ("rows", "n", "best"), [(1024, 768, 24576), (3072, 1024, 24576), (3072, 3072, 73728), (49152, 768, 294912)]
)
def test_rounds(rows: int, n: int, best: int) -> None:
    """What the best of the tiles takes: at 3072 rows 1024 columns are 128 tiles of 192 × 128, which is one round, and
    3072 are two of 192 × 192; 49152 rows of 768 columns are nine of 128 × 256."""
    assert min(rounds(tile, n, rows) for tile in specialised_tiles(n, DEPTH)) == best
