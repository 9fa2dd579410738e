"""Tokenizers: the same ids and the same spans as transformers, over every code point and many random texts."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from tokenizer_builder import byte_pairs
from tokenizers import Tokenizer as Library
from tokenizers import models, normalizers, pre_tokenizers
from transformers import BertTokenizerFast

from bertc.errors import BertcError
from bertc.text import files
from bertc.text.characters import Casing, words
from bertc.text.files import open_tokenizer
from bertc.text.tokenizer import Encoding, Tokenizer, cut_longest_first, framed, room_of

CASINGS = {
    "uncased": ({}, Casing()),
    "cased": ({"do_lower_case": False}, Casing(lower=False, strip_accents=False)),
    "accents": ({"strip_accents": False}, Casing(strip_accents=False)),
    "no accents": ({"do_lower_case": False, "strip_accents": True}, Casing(lower=False)),
    "japanese": ({"tokenize_chinese_chars": False}, Casing(chinese=False)),
}


def theirs(minilm: Path, **settings: Any) -> Any:
    return BertTokenizerFast(vocab=str(minilm / "vocab.txt"), **settings)


def ours(minilm: Path, folder: Path, settings: Mapping[str, Any]) -> Tokenizer:
    """bertc's own WordPiece, from a folder with nothing but the vocabulary and the settings."""
    (folder / "vocab.txt").write_bytes((minilm / "vocab.txt").read_bytes())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return open_tokenizer(folder)


LETTERS = (
    range(0x3400),
    range(0xA000, 0xAC00),
    range(0xF800, 0x12800),
    range(0x16800, 0x17000),
    range(0x1B000, 0x20000),
)
"""Blocks of letters, marks and symbols."""
ALL = (range(0xD800), range(0xE000, 0x110000))


def code_points(blocks: Sequence[range], behind: str) -> Iterator[str]:
    """The code points of some blocks, 2048 in a text, and what is to stand behind each."""
    for start in (start for block in blocks for start in block[::2048]):
        yield "".join(f"{chr(point)}{behind}" for point in range(start, start + 2048))


def random_texts(count: int) -> list[str]:
    """Letters, words, marks in any order, and characters from everywhere."""
    chooser = random.Random(0)
    alphabets = (
        "abcxyzABCXYZ ,.'\t\n",
        "éÈçñÅßİıſΣσς ",
        "\u0301\u0323\u0327\u3099\u302e\u302f\u1b44\ua953\U0001d165\U0001d166\U0001d15e\ue0001e\u0344",
        "你好世界한국어日本語カタカナｶﾀｶﾅ",
        "\u0000\u00ad\u200b\u200d\u2028\u3000\ufffd\ufeff\U000e0041",
        "กำहिन्दीالعربيةעִבְרִית",
    )
    whole = ("[MASK]", "[SEP]", "[mask]", "unaffable", "1,234.56", "don't", "🙂", "👩‍👩‍👧")

    def piece() -> str:
        if (chance := chooser.random()) < 0.6:
            return chooser.choice(chooser.choice(alphabets))
        if chance < 0.8:
            return chooser.choice(whole)
        return chr(
            chooser.choice(chooser.choice((range(0x80, 0x3000), range(0xE000, 0x12000), range(0x1D000, 0x1E000))))
        )

    return ["".join(piece() for _ in range(chooser.randrange(25))) for _ in range(count)]


@pytest.mark.parametrize("casing", CASINGS)
def test_every_code_point_is_taken_for_the_same(casing: str) -> None:
    settings = {"do_lower_case": True, "strip_accents": None, "tokenize_chinese_chars": True} | CASINGS[casing][0]
    normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=settings["tokenize_chinese_chars"],
        strip_accents=settings["strip_accents"],
        lowercase=settings["do_lower_case"],
    )
    cut = pre_tokenizers.BertPreTokenizer()
    for text in (*code_points(LETTERS, "b "), *code_points(ALL if casing == "uncased" else (), "")):
        expected = [word for word, _ in cut.pre_tokenize_str(normalizer.normalize_str(text))]
        assert ["".join(c.text for c in word) for word in words(text, CASINGS[casing][1])] == expected


@pytest.mark.parametrize("casing", CASINGS)
def test_ids_and_spans_are_those_of_transformers(casing: str, minilm: Path, tmp_path: Path) -> None:
    settings = CASINGS[casing][0]
    expected, found = theirs(minilm, **settings), ours(minilm, tmp_path, settings)
    texts = random_texts(10_000 if casing == "uncased" else 1_000)
    texts += code_points(LETTERS if casing == "uncased" else (), "b ")
    wanted = expected(texts, add_special_tokens=False, return_offsets_mapping=True)
    for text, pieces, ids, spans in zip(
        texts, found.cut(texts), wanted["input_ids"], wanted["offset_mapping"], strict=True
    ):
        assert list(pieces.ids) == ids, ascii(text)
        assert list(pieces.spans) == spans, ascii(text)


def both(minilm: Path, tmp_path: Path) -> dict[str, Tokenizer]:
    """The same tokenizer, by bertc and by the package, whose file asks for padding and truncation to 128 tokens."""
    assert json.loads((minilm / "tokenizer.json").read_text())["truncation"]["max_length"] == 128
    return {"ours": ours(minilm, tmp_path, {}), "tokenizer.json": open_tokenizer(minilm)}


def encoded(tokenizer: Tokenizer, *texts: str) -> Encoding:
    return framed(tokenizer.single if len(texts) == 1 else tokenizer.pair, *tokenizer.cut(texts))


def test_both_ways_are_the_same_and_nothing_is_padded_or_cut(minilm: Path, tmp_path: Path) -> None:
    long = "the unaffable cat's [MASK] " * 100
    expected = theirs(minilm)
    for name, tokenizer in both(minilm, tmp_path).items():
        for texts in (("A cat.",), ("A cat.", "déjà vu"), (long,), (long, "x" * 101 + " x")):
            wanted = expected(*texts, return_offsets_mapping=True)
            found = encoded(tokenizer, *texts)
            assert list(found.ids) == wanted["input_ids"], name
            assert list(found.types) == wanted["token_type_ids"], name
            assert list(found.spans) == wanted["offset_mapping"], name
            assert list(found.texts) == wanted.sequence_ids(), name
        assert tokenizer.mask == expected.mask_token_id
        assert [tokenizer.written(id) for id in (100, 1037, 4937)] == ["[UNK]", "a", "cat"]


def test_pairs_are_cut_as_by_transformers(minilm: Path, tmp_path: Path) -> None:
    library, tokenizer = theirs(minilm), ours(minilm, tmp_path, {})
    for first, second in ((5, 9), (9, 5), (7, 7), (1, 12), (12, 2), (2, 2)):
        texts = ["cat " * first, "dog " * second]
        for limit in range(5, 26):
            wanted = library(*texts, truncation="longest_first", max_length=limit)["input_ids"]
            pair = cut_longest_first(tokenizer.cut(texts), room_of(tokenizer.pair, limit))
            assert list(framed(tokenizer.pair, *pair).ids) == wanted


def test_byte_pairs_by_the_package(tmp_path: Path) -> None:
    library = byte_pairs(tmp_path)
    library.no_padding()
    library.no_truncation()
    tokenizer = open_tokenizer(tmp_path)
    for texts in (("the cat",), ("the  cat", " sät on 🙂")):
        wanted, found = library.encode(*texts), encoded(tokenizer, *texts)
        assert list(found.ids) == wanted.ids
        assert list(found.types) == wanted.type_ids
        assert list(found.spans) == wanted.offsets
        assert list(found.texts) == wanted.sequence_ids
    assert tokenizer.mask == 4


def folder_of(tmp_path: Path, **contents: str) -> Path:
    for name, content in contents.items():
        (tmp_path / f"{name.replace('_txt', '.txt').replace('_json', '.json')}").write_text(content)
    return tmp_path


VOCABULARY = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n##b\n"
MPNET = '{"tokenizer_class": "MPNetTokenizer"}'
PANICS = {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}, "model": {"type": "BPE"}}
LSTRIP = '{"added_tokens_decoder": {"4": {"content": "[MASK]", "lstrip": true}}}'

REFUSED: dict[str, tuple[dict[str, str], str, str]] = {
    "nothing": ({}, "B0902", "expected a vocab.txt or tokenizer.json in"),
    "no frame": ({"vocab_txt": "a\nb\n"}, "B0902", "expected vocab.txt to have `[CLS]`"),
    "not JSON": ({"vocab_txt": VOCABULARY, "tokenizer_config_json": "{"}, "B0201", "expected JSON"),
    "list": ({"vocab_txt": VOCABULARY, "tokenizer_config_json": "[]"}, "B0902", "expected a mapping"),
    "flag": ({"vocab_txt": VOCABULARY, "tokenizer_config_json": '{"do_lower_case": 1}'}, "B0902", "true or false"),
    "class": ({"vocab_txt": VOCABULARY, "tokenizer_config_json": MPNET}, "B0903", "not BERT's"),
    "lstrip": ({"vocab_txt": VOCABULARY, "tokenizer_config_json": LSTRIP}, "B0903", "not BERT's"),
    "damaged": ({"tokenizer_json": "{}"}, "B0902", "cannot be used"),
    "panics": ({"tokenizer_json": json.dumps(PANICS)}, "B0902", "cannot be used"),
    "no tokens": ({"tokenizer_json": Library(models.WordLevel({}, "?")).to_str()}, "B0902", "cannot be used"),
}  # fmt: skip


@pytest.mark.parametrize(("contents", "code", "says"), REFUSED.values(), ids=REFUSED)
def test_a_folder_without_a_tokenizer(contents: dict[str, str], code: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(BertcError) as caught:
        open_tokenizer(folder_of(tmp_path, **contents))
    assert caught.value.diagnostics[0].code == code
    assert says in str(caught.value)


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "find_spec", lambda name: None)
    byte_pairs(tmp_path)
    with pytest.raises(BertcError, match=r"needs the package tokenizers[^$]*bertc\[text\]") as caught:
        open_tokenizer(tmp_path)
    assert caught.value.exit_code == 4
    tokenizer = open_tokenizer(folder_of(tmp_path, vocab_txt=VOCABULARY, special_tokens_map_json="{}"))
    assert encoded(tokenizer, "Ab c") == Encoding(
        [2, 5, 6, 1, 3], [0] * 5, [None, 0, 0, 0, None], [(0, 0), (0, 1), (1, 2), (3, 4), (0, 0)]
    )


def test_tokens_that_were_added(tmp_path: Path) -> None:
    """An added token has the id that the configuration gives, also behind the vocabulary's; absurd ids are none."""
    added = {"7": {"content": "[E]"}, "8": {"content": "[E]b"}, "9" * 5000: {"content": "b"}, "-1": {"content": "c"}}
    config = json.dumps({"added_tokens_decoder": added})
    tokenizer = open_tokenizer(folder_of(tmp_path, vocab_txt=VOCABULARY, tokenizer_config_json=config))
    (pieces,) = tokenizer.cut(["ab[E]b[E] A"])
    assert list(pieces.ids) == [5, 6, 8, 7, 5]
    assert list(pieces.spans) == [(0, 1), (1, 2), (2, 6), (6, 9), (10, 11)]
