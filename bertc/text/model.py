"""A bundle's engine as the tasks see it: texts go in as tokens, and each comes back with the network's results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bertc.errors import error
from bertc.ops import Array
from bertc.text.settings import TextSettings
from bertc.text.tokenizer import Encoding, Pieces, Tokenizer, cut_longest_first, framed, room_of
from bertc.tree import shown

Results = dict[str, Array]

HEADS = {
    "embed": "vectors of its tokens",
    "classify": "logits of a text's labels",
    "tokens": "logits of its tokens' labels",
    "fill": "logits of the words of its vocabulary",
    "ask": "logits of an answer's start and end",
}
"""What each task needs of a network."""


@dataclass(frozen=True)
class TextModel:
    name: str
    """Of the bundle."""
    tokenizer: Tokenizer
    settings: TextSettings
    longest: int
    """Tokens that the engine takes."""
    types: int
    """Token types that the network knows."""
    hidden: int
    """The length of a token's vector."""
    answers: Callable[[Sequence[Array], Sequence[Array], int | None], Iterator[tuple[int, Results]]]
    """Ids and types of sequences, and how many tokens run together -> the results of each with its index."""
    name_of: Callable[[int], str] = lambda index: f"text {index + 1}"
    """What a text is called in errors, by its index; as lines are, texts are counted from 1."""
    prepare: Callable[[str], str] = str
    """What is done to a text before it is cut into tokens."""

    def of_lines(self, path: Path, first: int) -> TextModel:
        """The same, whose texts are the lines of a file from `first` on, and are called so in errors."""

        def name_of(index: int) -> str:
            return f"line {first + index} of `{shown(str(path))}`"

        return replace(self, name_of=name_of)

    def require(self, task: str) -> None:
        """Raises B0905 when the network has not the head that a task needs."""
        if task in self.settings.tasks:
            return
        message = f"`{task}` needs {HEADS[task]}, but `{self.name}` has none"
        tasks = ", ".join(f"`{known}`" for known in self.settings.tasks) or "no task but to run on arrays"
        raise error("B0905", message, None, f"it can be asked for {tasks}")

    def pieces(self, texts: Sequence[str]) -> list[Pieces]:
        """The pieces of each text. Raises B0901 for what is no list of texts, and for a text without any piece."""
        if isinstance(texts, str):
            raise error("B0901", "expected a list of texts, but found one text", None, "put it into brackets")
        for index, text in enumerate(texts):
            if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
                message = f"expected Unicode, but {self.name_of(index)}, `{shown(text)}`, has something else in it"
                raise error("B0901", message, None, "is it UTF-8?")
        pieces = self.tokenizer.cut([self.prepare(text) for text in texts])
        for index, tokens in enumerate(pieces):
            if len(tokens) == 0 or not texts[index].strip():
                found = f", `{shown(texts[index])}`, has nothing to read" if texts[index] else " is empty"
                raise error("B0901", f"expected a text, but {self.name_of(index)}{found}", None, "leave it out")
        return pieces

    def encodings(self, texts: Sequence[str], pairs: Sequence[str] | None = None, *, cut: bool) -> list[Encoding]:
        """Each text, or each with its pair, as a sequence that the engine takes.

        Those that are too long are cut, or refused unless `cut`. Raises B0901 as `pieces` does, and when there are not
        as many pairs as texts; B0904 for a text that is too long.
        """
        frame = self.tokenizer.single
        groups: list[tuple[Pieces, ...]] = [(pieces,) for pieces in self.pieces(texts)]
        if pairs is not None:
            frame, groups = self.tokenizer.pair, self._paired(groups, pairs)
        room = room_of(frame, self.longest)
        for index, group in enumerate(groups):
            if not cut and (length := sum(map(len, group))) > room:
                message = f"expected at most {room} tokens, but {self.name_of(index)} has {length}"
                help = "shorten it, cut it with `--truncate`, or build with larger `shapes`"
                raise error("B0904", message, None, help)
        return [framed(frame, *cut_longest_first(group, room)) for group in groups]

    def _paired(self, firsts: Sequence[tuple[Pieces, ...]], pairs: Sequence[str]) -> list[tuple[Pieces, ...]]:
        if len(pairs) != len(firsts):
            raise error("B0901", f"expected pairs of {len(firsts)} texts, but found {len(pairs)}")

        def name_of_pair(index: int) -> str:
            return f"the pair of {self.name_of(index)}"

        seconds = replace(self, name_of=name_of_pair).pieces(pairs)
        return [(*first, second) for first, second in zip(firsts, seconds, strict=True)]

    def run(self, sequences: Sequence[Encoding], tokens: int | None = None) -> Iterator[tuple[int, Results]]:
        """The results of each sequence and its index, as the batches are done."""
        ids = [np.array(sequence.ids, np.int64) for sequence in sequences]
        types = [np.array(sequence.types, np.int64) * (self.types > 1) for sequence in sequences]
        return self.answers(ids, types, tokens)


def softmax(logits: Array) -> Array:
    """exp(x) / sum(exp(x)) over the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)
