"""The fuzzer: a few hundred attempts at each format, always the same ones, and that it would find what there is."""

from __future__ import annotations

import faulthandler
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from random import Random

import fuzz
import numpy as np
import pytest
from fuzz import changed, run
from fuzz_formats import FORMATS, checked, h5_seeds

from bertc.errors import error
from bertc.weights_io import Tensor

ATTEMPTS = 400
MIXED = 0.03
"""The least share of attempts that are read, and that are refused: mutations that always break a file test little."""


@pytest.mark.parametrize("format", FORMATS)
def test_whatever_is_in_a_file(format: str) -> None:
    (read, refused), findings = run(format, range(ATTEMPTS))
    assert findings == []
    assert read + refused == ATTEMPTS
    assert min(read, refused) > MIXED * ATTEMPTS


def test_an_attempt_is_known_by_its_number() -> None:
    for format in FORMATS:
        assert [changed(format, number) for number in range(5)] == [changed(format, number) for number in range(5)]
        assert changed(format, 1) != changed(format, 2)


def test_checksums_that_are_right_stay_as_they_are() -> None:
    for content in h5_seeds():
        assert checked(lambda content, _: content)(content, Random(0)) == content


def opens_another_file(path: Path) -> Mapping[str, Tensor]:
    (path.parents[1] / "elsewhere").open("wb").close()
    return {}


def takes_too_long(path: Path) -> Mapping[str, Tensor]:
    while True:
        time.process_time()


def takes_memory(path: Path) -> Mapping[str, Tensor]:
    np.ones(100 << 20, np.uint8)
    return {}


def takes_all_memory(path: Path) -> Mapping[str, Tensor]:
    np.ones(1 << 40, np.uint8)
    return {}


def says_it_is_a_bug(path: Path) -> Mapping[str, Tensor]:
    raise error("B0302", f"`{path}` is odd")


def ends(path: Path) -> Mapping[str, Tensor]:
    faulthandler.disable()  # whose trace would look as if the tests had crashed
    os.abort()


FAULTS: dict[str, tuple[Callable[[Path], Mapping[str, Tensor]], str]] = {
    "another exception": (lambda path: {}[path], "KeyError"),
    "a file elsewhere": (opens_another_file, "'open', "),
    "time": (takes_too_long, "TookTooLongError"),
    "memory": (takes_memory, "bytes of memory"),
    "all memory": (takes_all_memory, "MemoryError"),
    "another exit code": (says_it_is_a_bug, "B0302"),
    "the end of the process": (ends, "ended with -6"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_it_finds(
    fault: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One attempt of three goes wrong, and is found with the command that does it again."""
    format = FORMATS["mxnet"]
    read, reason = FAULTS[fault]
    wrong = changed("mxnet", 1)["file"]
    faulty = replace(format, read=lambda path: read(path) if path.read_bytes() == wrong else format.read(path))
    monkeypatch.setattr(fuzz, "FORMATS", {"mxnet": faulty})
    monkeypatch.setattr(fuzz, "FINDINGS", tmp_path / "found")
    counts, (finding,) = run("mxnet", range(3))
    assert sum(counts) == 2
    assert finding.number == 1
    assert reason in finding.reason
    fuzz.keep(finding)
    assert (tmp_path / "found" / "mxnet-1" / "file").read_bytes() == wrong
    assert "python tests/fuzz.py mxnet --number 1" in capsys.readouterr().out
