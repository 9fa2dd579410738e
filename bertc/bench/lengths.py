"""How long the sequences of a measurement are: all as long as the batch is wide, or drawn with a seed."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from bertc.errors import error
from bertc.ops import Array

_LENGTH = re.compile(r"0*[1-9][0-9]{0,8}", re.ASCII)

CONSTANT, SQUAD = "constant", "squad"


def draw_lengths(source: str, count: int, longest: int, seed: int = 0) -> Array:
    """`count` numbers of tokens, none above `longest`: [count] i64.

    `constant`: all `longest`. `squad`: like those of SQuAD 1.1's questions with their paragraphs, which is log-normal
    around 165 and at least 24. Anything else is a file of whole numbers, one a line, from which they are drawn with
    replacement.

    Raises BertcError B0002 when there is no such file, B0212 when it holds anything but numbers from 1 on.
    """
    generator = np.random.default_rng(seed)
    if source == CONSTANT:
        return np.full(count, longest)
    if source == SQUAD:
        return np.clip(generator.lognormal(5.02, 0.4, count).astype(np.int64), min(24, longest), longest)
    return np.minimum(generator.choice(_read(Path(source)), count), longest)


def _read(path: Path) -> Array:
    try:
        words = path.read_text("utf-8").split()
    except (OSError, UnicodeDecodeError) as problem:
        found = problem.strerror if isinstance(problem, OSError) else "it is not UTF-8 text"
        message = f"lengths cannot be read from `{path}`: {found}"
        raise error("B0002", message, None, "`constant`, `squad`, or a file of whole numbers, one a line") from None
    wrong = next((word for word in words if not _LENGTH.fullmatch(word)), None)
    if wrong is not None or not words:
        found = f"`{wrong[:20]}`" if wrong is not None else "nothing"
        message = f"`{path}` is a file of lengths, whole numbers from 1 on, but {found} was found"
        raise error("B0212", message, None, "one number of tokens a line")
    return np.array([int(word) for word in words])
