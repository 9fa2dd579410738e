"""A Triton kernel's PTX with the parameters that TensorRT passes, and no others.

Triton ends every kernel's parameters with two addresses of scratch memory, which its own launcher passes. TensorRT
passes inputs, numbers and outputs; a kernel that expects more would be launched with too few. PTX: NVIDIA's Parallel
Thread Execution ISA, https://docs.nvidia.com/cuda/parallel-thread-execution/.
"""

from __future__ import annotations

import re

SCRATCH = 2
"""Addresses that Triton adds: global and profile scratch."""

ENTRY = re.compile(r"\.visible \.entry (?P<name>\w+)\(\s*(?P<parameters>[^)]*?)\s*\)")


def parameters(ptx: str) -> list[str]:
    """The parameters of the one entry, as PTX declares them."""
    entry = _entry(ptx)
    return [line.strip() for line in entry["parameters"].split(",") if line.strip()]


def without_scratch(ptx: str) -> str:
    """The same kernel without the scratch parameters. Asserts that nothing reads them."""
    entry, declared = _entry(ptx), parameters(ptx)
    kept, dropped = declared[:-SCRATCH], declared[-SCRATCH:]
    for parameter in dropped:
        name = parameter.split()[-1]
        assert ".u64 " in parameter, f"{entry['name']} does not end with scratch memory: {parameter}"
        assert len(re.findall(rf"\b{name}\b", ptx)) == 1, f"{entry['name']} uses scratch memory"
    listed = ",\n\t".join(kept)
    return f"{ptx[: entry.start('parameters')]}{listed}\n{ptx[entry.end('parameters') :].lstrip()}"


def without_lines(ptx: str) -> str:
    """The same code without the files and lines it was written in, so that an engine has no paths in it."""
    body, _, _ = ptx.partition("\n\t.file\t")
    return re.sub(r"^\t\.loc\t.*\n|^\$L__(?:tmp|func_begin|func_end)\d+:\n", "", body, flags=re.MULTILINE)


def _entry(ptx: str) -> re.Match[str]:
    found = ENTRY.findall(ptx)
    assert len(found) == 1, f"a plugin has one kernel, and this has {len(found)}"
    entry = ENTRY.search(ptx)
    assert entry is not None
    return entry
