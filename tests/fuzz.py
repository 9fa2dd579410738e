"""Files of every format changed at random, and what reading them does.

    python tests/fuzz.py [--seconds 60] [FORMAT ...]         writes what it finds to out/fuzz
    python tests/fuzz.py FORMAT --number 1234                does that attempt again

An attempt is known by its format and its number. It may end in tensors that can all be read or in a BertcError, within
the bounds of `hostile`; whatever else happens is a finding. Attempts run in a process of their own, so that one that
ends the process, as damaged files can make a library in C do, is a finding like the others.
"""

from __future__ import annotations

import argparse
import mmap
import os
import pickle
import resource
import shutil
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from fuzz_formats import FORMATS, Files
from hostile import guarded_outcome, outcome

FINDINGS = Path(__file__).parents[1] / "out" / "fuzz"
BATCH = 500
MAX_MEMORY = 4 << 30
"""Bytes of addresses that a process may take beyond its own: what takes more is refused by the kernel, and found."""
ACCEPTED, REFUSED = range(2)
EXIT_CODES = (3, 4)


@dataclass(frozen=True)
class Finding:
    format: str
    number: int
    reason: str

    @property
    def command(self) -> str:
        return f"python tests/fuzz.py {self.format} --number {self.number}"


def changed(format: str, number: int) -> Files:
    """The files of an attempt; the first is the one to open."""
    choose = Random(f"{format} {number}")
    return FORMATS[format].mutate(choose.choice(FORMATS[format].seeds()), choose)


def read_whole(format: str) -> None:
    """Reads the files that the attempts start from; what is imported or cached at the first reading then is there."""
    for files in FORMATS[format].seeds():
        with tempfile.TemporaryDirectory() as folder:
            for name, content in files.items():
                (Path(folder) / name).write_bytes(content)
            assert outcome(FORMATS[format].read, Path(folder) / next(iter(files))) is None


def attempt(format: str, number: int, folder: Path) -> bool:
    """Whether the files of this attempt were refused. What raises anything else is a finding."""
    files = changed(format, number)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    refused = guarded_outcome(FORMATS[format].read, folder / next(iter(files)))
    assert refused is None or refused.exit_code in EXIT_CODES, refused
    for name in files:
        (folder / name).unlink()
    return refused is not None


def run(format: str, numbers: Iterable[int]) -> tuple[list[int], list[Finding]]:
    """How many attempts were accepted and refused, and what was found."""
    waiting = list(numbers)
    counts, findings = [0, 0], list[Finding]()
    while waiting:
        done, found = _in_a_process(format, waiting[:BATCH], counts)
        findings += found
        waiting = waiting[done:]
    return counts, findings


def _in_a_process(format: str, numbers: list[int], counts: list[int]) -> tuple[int, list[Finding]]:
    """How many of the attempts came to an end, and what was found."""
    read_whole(format)
    progress = mmap.mmap(-1, 12)
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(reader)
        _child(format, numbers, progress, writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        found: list[Finding] = list(_received(pipe.read()))
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    done, *outcomes = struct.unpack("<3I", progress[:])
    for place, count in enumerate(outcomes):
        counts[place] += count
    if status != 0:
        found.append(Finding(format, numbers[done], f"the process ended with {status}"))
        done += 1
    return done, found


def _child(format: str, numbers: list[int], progress: mmap.mmap, writer: int) -> None:
    soft = int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE + MAX_MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (soft, soft))
    outcomes = [0, 0]
    with tempfile.TemporaryDirectory() as folder:
        for done, number in enumerate(numbers):
            progress[:] = struct.pack("<3I", done, *outcomes)
            try:
                outcomes[REFUSED if attempt(format, number, Path(folder)) else ACCEPTED] += 1
            except BaseException:
                os.write(writer, _sent(Finding(format, number, traceback.format_exc(limit=-12))))
                shutil.rmtree(folder)
                Path(folder).mkdir()
        progress[:] = struct.pack("<3I", len(numbers), *outcomes)
    os._exit(0)


def _sent(finding: Finding) -> bytes:
    content = pickle.dumps(finding)
    return struct.pack("<I", len(content)) + content


def _received(content: bytes) -> Iterator[Finding]:
    while content:
        (size,) = struct.unpack_from("<I", content)
        yield pickle.loads(content[4 : 4 + size])
        content = content[4 + size :]


def keep(finding: Finding) -> None:
    """The files of a finding, what happened, and the command that does it again."""
    folder = FINDINGS / f"{finding.format}-{finding.number}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, content in changed(finding.format, finding.number).items():
        (folder / name).write_bytes(content)
    (folder / "finding.txt").write_text(f"{finding.command}\n\n{finding.reason}\n")
    print(f"{folder}: {finding.reason.splitlines()[-1]}\n    {finding.command}")


def _fuzz(format: str, seconds: float) -> int:
    """The number of findings."""
    start, ends, total = time.time_ns() // 1000, time.monotonic() + seconds, 0
    counts = [0, 0]
    first = start
    while time.monotonic() < ends:
        (accepted, refused), findings = run(format, range(first, first + BATCH))
        for finding in findings:
            keep(finding)
        counts = [counts[0] + accepted, counts[1] + refused]
        first, total = first + BATCH, total + len(findings)
    print(f"{format}: {first - start} attempts, {counts[0]} read and {counts[1]} refused, {total} findings")
    return total


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Read files changed at random.")
    parser.add_argument("formats", nargs="*", metavar="FORMAT", help=", ".join(FORMATS))
    parser.add_argument("--seconds", type=float, default=60, help="for each format")
    parser.add_argument("--number", type=int, help="do this attempt again")
    given = parser.parse_args(arguments)
    if unknown := set(given.formats) - FORMATS.keys():
        parser.error(f"there is no format {', '.join(sorted(unknown))}")
    formats = given.formats or list(FORMATS)
    if given.number is None:
        return min(1, sum(_fuzz(format, given.seconds) for format in formats))
    with tempfile.TemporaryDirectory() as folder:
        print("refused" if attempt(formats[0], given.number, Path(folder)) else "read")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
