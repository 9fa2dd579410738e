"""Long lists of names made short: layers that share a fate become one line."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence

NUMBER = re.compile(r"(?<![0-9A-Za-z])(?:0|[1-9][0-9]{0,3})(?![0-9A-Za-z])")
"""A number that is a part of a name by itself, as in `layer.3.` or `layer_3/`."""

MAX_LINES = 8


def fold(names: Collection[str], among: Iterable[str]) -> dict[str, list[str]]:
    """Patterns that stand for `names`, each with the names it stands for.

    Names that differ in the number of their layer only become `encoder.{0..11}.ffn.up.weight`; layers of which no name
    in `among` is left out become `encoder.{6..11}.*`.
    """
    chosen = frozenset(names)
    broken = {_layer(name) for name in among if name not in chosen}
    sizes = Counter(map(_layer, chosen))
    members: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for name in names:
        layer = _layer(name)
        rest = name[len(layer) :]
        is_whole = layer and layer not in broken and sizes[layer] > 1
        members[NUMBER.sub("", layer), f"{rest[:1]}*" if is_whole else rest].append(name)
    return {before + _ranges(group) + rest: group for (before, rest), group in members.items()}


def listing(lines: Sequence[str]) -> str:
    """Lines to stand below a message: indented, and no more than a reader wants."""
    shown = lines if len(lines) <= MAX_LINES else [*lines[: MAX_LINES - 1], f"and {len(lines) - MAX_LINES + 1} more"]
    return "".join(f"\n    {line}" for line in shown)


def layer_number(name: str) -> int | None:
    number = NUMBER.search(name)
    return int(number[0]) if number else None


def _layer(name: str) -> str:
    """`encoder.3` of `encoder.3.ffn.up.weight`; nothing where there is no number."""
    number = NUMBER.search(name)
    return name[: number.end()] if number else ""


def _ranges(names: Sequence[str]) -> str:
    """The numbers of the layers of `names`, as `3`, `{0..11}` or `{0,2..4}`."""
    runs: list[list[int]] = []
    for number in sorted({number for number in map(layer_number, names) if number is not None}):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    texts = [str(run[0]) if len(run) == 1 else f"{run[0]}..{run[-1]}" for run in runs]
    alone = not runs or (len(runs) == 1 and len(runs[0]) == 1)
    return "".join(texts) if alone else "{" + ",".join(texts) + "}"
