"""The tokenizer that comes with a model, from the files of its Hugging Face directory.

| file | what is read |
|---|---|
| `vocab.txt` | a piece a line, its id the number of the line |
| `tokenizer.json` | everything, by the package `tokenizers` |
| `tokenizer_config.json`, `special_tokens_map.json` | casing, and which tokens are special |

Source: transformers' BertTokenizer and PreTrainedTokenizerBase. What tokenizer.json says about padding and truncation
is how one user once called the tokenizer, and is left out.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from bertc.errors import error
from bertc.text.characters import Casing
from bertc.text.configuration import Configuration, read_configuration
from bertc.text.tokenizer import Frame, Place, Special, Tokenizer
from bertc.text.wordpiece import WordPiece
from bertc.tree import MappingNode, Node, ScalarNode, read_source, shown

VOCABULARY = "vocab.txt"
LIBRARY = "tokenizer.json"
CONFIGURATION = ("tokenizer_config.json", "special_tokens_map.json")
FILES = (VOCABULARY, LIBRARY, *CONFIGURATION)
LARGEST_VOCABULARY = 1 << 24
"""Bytes: three times that of a model of a hundred languages."""

ROLES = {"cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]", "mask_token": "[MASK]", "pad_token": "[PAD]"}
"""What BERT calls its special tokens; a model's files may call them otherwise."""

WORDPIECE = ("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer")
"""The classes that are BERT's tokenizer; `Fast` may stand behind each."""

_ID = re.compile("[0-9]{1,9}")

_PACKAGE = "pip install 'bertc[text]'"


def open_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer whose files are in `folder`.

    Raises B0902 when there is none or its files are damaged, B0903 when it needs the package `tokenizers`.
    """
    library = folder / LIBRARY
    if library.is_file() and find_spec("tokenizers") is not None:
        from bertc.text.tokenizer_json import read_tokenizer

        return read_tokenizer(library, {role: token.text for role, token in _tokens(folder).items() if role in ROLES})
    if (folder / VOCABULARY).is_file():
        return _word_piece(folder)
    if library.is_file():
        raise error("B0903", f"`{shown(str(library))}` needs the package tokenizers", None, _PACKAGE)
    message = f"expected a {VOCABULARY} or {LIBRARY} in `{shown(str(folder))}`, but there is none"
    raise error("B0902", message, None, "put the tokenizer's files beside the weights, and build again")


def copy_tokenizer(source: Path, target: Path) -> None:
    """Put the files of the tokenizer in `source`, where there is one, into the new folder `target`."""
    if not has_tokenizer(source):
        return
    target.mkdir()
    for name in FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (VOCABULARY, LIBRARY))


@dataclass(frozen=True)
class _Token:
    text: str
    plain: bool
    """Whether it stands for itself, whatever is around it."""


def _word_piece(folder: Path) -> Tokenizer:
    config, tokens = read_configuration(folder, *CONFIGURATION), _tokens(folder)
    vocabulary = _vocabulary(folder / VOCABULARY)
    kind = config.text("tokenizer_class")
    is_bert = kind is None or kind.removesuffix("Fast") in WORDPIECE
    if not is_bert or not all(token.plain for token in tokens.values()):
        message = f"the tokenizer of `{shown(str(folder))}` is not BERT's, and needs the package tokenizers"
        raise error("B0903", message, None, f"{_PACKAGE}, and keep its {LIBRARY}")
    for role in ("cls_token", "sep_token", "unk_token"):
        if tokens[role].text not in vocabulary:
            message = f"expected {VOCABULARY} to have `{shown(tokens[role].text)}`, but it has not"
            raise error("B0902", message, None, f"`{role}` of tokenizer_config.json says which token it is")
    first, last, unknown = (vocabulary[tokens[role].text] for role in ("cls_token", "sep_token", "unk_token"))
    lower = config.flag("do_lower_case", True)
    casing = Casing(lower, config.flag("strip_accents", lower), config.flag("tokenize_chinese_chars", True))
    whole = {token.text: vocabulary[token.text] for token in tokens.values() if token.text in vocabulary}
    whole |= {token.text: int(key) for key, token in tokens.items() if _ID.fullmatch(key)}
    by_id = {id: piece for piece, id in vocabulary.items()}
    single: Frame = (Special(first, 0), Place(0, 0), Special(last, 0))
    return Tokenizer(
        cut=WordPiece(vocabulary, unknown, casing, whole).cut,
        single=single,
        pair=(*single, Place(1, 1), Special(last, 1)),
        mask=vocabulary.get(tokens["mask_token"].text),
        written=lambda id: by_id.get(id, tokens["unk_token"].text),
    )


def _vocabulary(path: Path) -> dict[str, int]:
    lines = read_source(path, largest=LARGEST_VOCABULARY).text.replace("\r\n", "\n").removesuffix("\n").split("\n")
    return {piece: id for id, piece in enumerate(lines)}


def _tokens(folder: Path) -> dict[str, _Token]:
    """The special tokens, by their role, and what else is added to the vocabulary, by its id."""
    config = read_configuration(folder, *CONFIGURATION)
    tokens = {role: _token(config.node(role)) or _Token(text, True) for role, text in ROLES.items()}
    match config.node("added_tokens_decoder"):
        case MappingNode(entries):
            added = {entry.key: token for entry in entries if (token := _token(entry.node)) is not None}
        case _:
            added = {}
    return tokens | added


def _token(node: Node | None) -> _Token | None:
    """A token as text, or as a mapping of its text and of how it takes what is around it."""
    match node:
        case ScalarNode(value=str() as text) if text:
            return _Token(text, True)
        case MappingNode():
            token = Configuration((node,))
            text = token.text("content")
            flags = [token.flag(flag, False) for flag in ("lstrip", "rstrip", "single_word", "normalized")]
            return None if text is None else _Token(text, not any(flags))
        case _:
            return None
