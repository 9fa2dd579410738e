"""Any tokenizer that is one tokenizer.json: WordPiece, byte-pair encoding and Unigram, by the package `tokenizers`.

Source: https://huggingface.co/docs/tokenizers. Pieces are asked for without the special tokens around them; what the
file puts there is found out once, from texts of one piece, so that pairs, limits and windows are the same for every
tokenizer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from bertc.errors import BertcError, error
from bertc.text.tokenizer import Frame, Pieces, Place, Special, Tokenizer
from bertc.tree import shown

_SOMETHING = ("a", "0", ".", "\N{CJK UNIFIED IDEOGRAPH-4E00}")
"""Texts of which a vocabulary has at least one."""


def read_tokenizer(path: Path, roles: Mapping[str, str]) -> Tokenizer:
    """The tokenizer of a tokenizer.json; `roles` says which of its tokens are special, by transformers' names.

    Raises B0902 when the file is damaged.
    """
    from tokenizers import Tokenizer as Library

    library: Any = _tried(path, lambda: Library.from_file(str(path)))
    library.no_padding()
    library.no_truncation()

    def cut(texts: Sequence[str]) -> list[Pieces]:
        found = _tried(path, lambda: library.encode_batch(list(texts), add_special_tokens=False))
        return [Pieces(encoding.ids, encoding.offsets) for encoding in found]

    something = next((text for text, pieces in zip(_SOMETHING, cut(_SOMETHING), strict=True) if len(pieces)), None)
    if something is None:
        raise _damaged(path, "it makes no tokens of any text")
    return Tokenizer(
        cut,
        _frame(_tried(path, lambda: library.encode(something))),
        _frame(_tried(path, lambda: library.encode(something, something))),
        library.token_to_id(roles["mask_token"]),
        lambda id: _tried(path, lambda: library.decode([id], skip_special_tokens=False)),
    )


def _tried(path: Path, call: Callable[[], Any]) -> Any:
    """What the package does with a file that may be anyone's: it raises nothing narrower, and panics in Rust."""
    try:
        return call()
    except BaseException as problem:
        if isinstance(problem, Exception) or type(problem).__name__ == "PanicException":
            raise _damaged(path, str(problem)) from None
        raise


def _damaged(path: Path, reason: str) -> BertcError:
    message = f"expected a tokenizer at `{shown(str(path))}`, but it cannot be used: {shown(reason, 120)}"
    return error("B0902", message, None, "copy it again from where the model is from, and build again")


def _frame(encoding: Any) -> Frame:
    """What stands around the pieces of one text, or of two."""
    tokens = zip(encoding.sequence_ids, encoding.ids, encoding.type_ids, strict=True)
    parts: list[Special | Place] = []
    for text, run in groupby(tokens, key=lambda token: token[0]):
        if text is None:
            parts += (Special(id, type) for _, id, type in run)
        else:
            parts.append(Place(text, next(run)[2]))
    return tuple(parts)
