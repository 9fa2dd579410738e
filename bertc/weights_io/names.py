"""Names of parameters: from what a family's checkpoints call them to the canonical ones, by a table per family.

The tables are families/*.toml; bert.toml says how one is written. Where frameworks call the parameters of a family by
other names, each has a table of its own: bert.tensorflow.toml, bert.gluonnlp.toml.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import islice
from typing import Any

import numpy as np

from bertc.errors import error
from bertc.weights_io.folding import NUMBER, listing
from bertc.weights_io.tensor import Tensor, quoted
from bertc.weights_io.views import view

MAX_NAME = 200
MAX_NUMBERS = 4
"""In a name that a table may have: a stranger's file can have thousands of names, and of numbers in each."""
MAX_ASKED = 1000
"""Names that the tables of all families are asked for."""
_CHOICES = re.compile(r"\{(\w+(?:,\w+)+)\}")


@dataclass(frozen=True)
class NameTable:
    """`canonical` maps bare checkpoint names to canonical ones, `checkpoint` the other way; {N} is a layer.

    A name that ends with one of `transposed` is of a matrix that lies as [in, out], where bertc has [out, in].
    """

    prefixes: tuple[str, ...]
    ignored: frozenset[str]
    canonical: Mapping[str, str]
    checkpoint: Mapping[str, str]
    transposed: tuple[str, ...] = ()

    def bare(self, name: str) -> str:
        """`name` without the prefix it may have."""
        return next((name.removeprefix(prefix) for prefix in self.prefixes if name.startswith(prefix)), name)

    def knows(self, name: str) -> bool:
        return self.canonical_name(name) is not None

    def canonical_name(self, name: str) -> str | None:
        return _translated(self.bare(name), self.canonical)

    def checkpoint_name(self, canonical: str) -> str | None:
        """What a checkpoint of this family calls a parameter: the first of the names in the table, without prefix."""
        return _translated(canonical, self.checkpoint)


@cache
def name_table(family: str) -> NameTable:
    """The table of families/FAMILY.toml."""
    return parse_table(_content(family))


def _content(family: str) -> dict[str, Any]:
    """What stands in families/FAMILY.toml, and below it what stands in the table that it is like."""
    own = tomllib.loads(files("bertc.weights_io").joinpath("families", f"{family}.toml").read_text("utf-8"))
    if "like" not in own:
        return own
    below = _content(own["like"])
    others = {left: right for left, right in below["names"].items() if left not in own["names"]}
    return {**below, **own, "names": own["names"] | others}


@cache
def name_tables(family: str) -> tuple[NameTable, ...]:
    """The family's own table, those of other frameworks' names (families/FAMILY.*.toml), that of canonical names."""
    others = (name_table(name) for name in _stems() if name.startswith(f"{family}."))
    return name_table(family), *others, canonical_table()


@cache
def canonical_table() -> NameTable:
    """The canonical names of all families as names of a checkpoint: what a conversion writes can be read again."""
    same = {canonical: canonical for name in _stems() for canonical in name_table(name).checkpoint}
    return NameTable((), frozenset(), same, same)


def likely_family(names: Collection[str]) -> str:
    """The family whose tables know the most of a checkpoint's first names; BERT where others know no more."""
    first = list(islice(names, MAX_ASKED))

    def known(family: str) -> int:
        return max(sum(map(table.knows, first)) for table in name_tables(family))

    return max(("bert", *(name for name in _stems() if "." not in name)), key=known)


def _stems() -> list[str]:
    """The names of all tables, in order."""
    return sorted(file.name.removesuffix(".toml") for file in files("bertc.weights_io").joinpath("families").iterdir())


def parse_table(content: Mapping[str, Any]) -> NameTable:
    """A table from its TOML content, every {a,b} written out."""
    pairs = [pair for left, right in content["names"].items() for pair in _written_out(left, right)]
    canonical = dict(pairs)
    assert len(canonical) == len(pairs), "a checkpoint name stands in the table once"
    ignored = frozenset(name for pattern in content["ignored"] for name, _ in _written_out(pattern, ""))
    first_names = {right: left for left, right in reversed(pairs)}
    transposed = tuple(content.get("transposed", ()))
    prefixes = tuple(prefix for pattern in content["prefixes"] for prefix, _ in _written_out(pattern, ""))
    return NameTable(prefixes, ignored, canonical, first_names, transposed)


def canonical_names(tensors: Mapping[str, Tensor], family: str = "bert") -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a checkpoint by canonical name, and the names that the family's table does not have.

    Of the family's tables, the one that knows most of the names is used; what it has as transposed is turned.
    Raises B0405 when two tensors have the same canonical name.
    """
    table = max(name_tables(family), key=lambda table: sum(map(table.knows, tensors)))
    found: dict[str, Tensor] = {}
    unknown: list[str] = []
    twice: list[str] = []
    for name, tensor in tensors.items():
        canonical = table.canonical_name(name)
        if table.bare(name) in table.ignored:
            continue
        if canonical is None:
            unknown.append(name)
        elif canonical in found:
            twice.append(f"{quoted(canonical)}: {quoted(found[canonical].name)} and {quoted(name)}")
        else:
            found[canonical] = transposed(tensor) if name.endswith(table.transposed) else tensor
    if twice:
        message = f"the checkpoint has two tensors for each of these {len(twice)} parameters:{listing(twice)}"
        raise error("B0405", message, help="keep one of each two")
    return found, unknown


def transposed(tensor: Tensor) -> Tensor:
    """`tensor` with its axes in reverse order. The values are the same ones, and read when they are asked for."""
    return view(tensor, np.transpose, name=tensor.name, shape=tensor.shape[::-1])


def _translated(name: str, table: Mapping[str, str]) -> str | None:
    """What `table` has for a name, as it is or with any one number in it read as {N}."""
    if name in table:
        return table[name]
    if len(name) > MAX_NAME:
        return None
    for number in islice(NUMBER.finditer(name), MAX_NUMBERS):
        template = name[: number.start()] + "{N}" + name[number.end() :]
        if template in table:
            return table[template].replace("{N}", number[0])
    return None


def _written_out(left: str, right: str) -> Iterator[tuple[str, str]]:
    """`a.{x,y}`, `b.{z,w}` -> (`a.x`, `b.z`), (`a.y`, `b.w`). A right side without choices serves all of them."""
    choices = _CHOICES.search(left)
    if choices is None:
        yield left, right
        return
    counterpart = _CHOICES.search(right)
    lefts = choices[1].split(",")
    rights = counterpart[1].split(",") if counterpart else [""] * len(lefts)
    for one, other in zip(lefts, rights, strict=True):
        yield from _written_out(_CHOICES.sub(one, left, 1), _CHOICES.sub(other, right, 1))
