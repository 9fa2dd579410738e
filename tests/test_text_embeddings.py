"""Embeddings: what sentence-transformers computes, from the model's own files or as asked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizer_builder import byte_pairs
from transformers import AutoModel, AutoTokenizer, RobertaConfig, RobertaModel

import bertc
from bertc.engine import Engine
from bertc.errors import BertcError
from bertc.ops import Array
from bertc.text.embeddings import embed

TEXTS = (
    "A cat sat on the mat.",
    "a kitten rests on a rug",
    "The stock market fell today.",
    "shares dropped in trading",
    "Ça va? 你好, [MASK]!",
    "word " * 400,
    "x",
)
BOUND = 1e-5
"""float32: vectors of length 1, after six layers."""


@pytest.fixture(scope="module")
def theirs(minilm: Path) -> Any:
    """What sentence-transformers does: transformers' model over texts cut to 256 tokens, then pooling in PyTorch."""
    tokenizer, model = AutoTokenizer.from_pretrained(minilm), AutoModel.from_pretrained(minilm).eval()

    def embed(texts: tuple[str, ...], pooling: str = "mean", limit: int = 256, normalise: bool = True) -> Array:
        batch = tokenizer(list(texts), padding=True, truncation=True, max_length=limit, return_tensors="pt")
        with torch.no_grad():
            hidden = model(**batch).last_hidden_state
        mask = batch["attention_mask"][:, :, None]
        pooled = {
            "mean": lambda: (hidden * mask).sum(1) / mask.sum(1),
            "cls": lambda: hidden[:, 0],
            "max": lambda: hidden.masked_fill(mask == 0, -1e9).max(1).values,
        }[pooling]()
        return (torch.nn.functional.normalize(pooled) if normalise else pooled).numpy()

    return embed


def test_as_the_models_own_files_say(minilm_engine: Engine, theirs: Any) -> None:
    found = minilm_engine.embed(TEXTS)
    assert found.shape == (len(TEXTS), 384)
    assert found.dtype == np.float32
    assert np.abs(found - theirs(TEXTS)).max() < BOUND
    nearness = found @ found.T
    assert nearness[0, 1] > 0.5 > 0.2 > nearness[0, 2]
    assert nearness[2, 3] > 0.5 > 0.2 > nearness[1, 3]


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_as_asked(pooling: str, minilm_engine: Engine, theirs: Any) -> None:
    found = minilm_engine.embed(TEXTS, pooling=pooling, normalise=False, limit=9)
    expected = theirs(TEXTS, pooling, 9, False)
    assert np.linalg.norm(expected[0]) > 2
    assert np.abs(found - expected).max() < 3 * BOUND  # vectors of length 6 for 1


def test_prompts_and_small_letters(minilm_engine: Engine) -> None:
    settings = replace(minilm_engine.text.settings, prompt="İ says: ", lower=True)
    prompted = embed(replace(minilm_engine.text, settings=settings), ["  A CAT [MASK]\n"])
    assert np.abs(prompted - minilm_engine.embed(["i says: a cat [ mask ]"])).max() < BOUND
    with pytest.raises(BertcError, match="text 1 is empty"):
        embed(replace(minilm_engine.text, settings=settings), [""])


def test_another_family_with_byte_pairs(tmp_path: Path) -> None:
    """RoBERTa: its tokenizer is no WordPiece, its places start behind that of padding, and its tokens have no types."""
    config = RobertaConfig(
        vocab_size=300,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=40,
        max_position_embeddings=22,
        type_vocab_size=1,
        architectures=["RobertaModel"],
    )
    torch.manual_seed(0)
    model = RobertaModel(config).eval()
    model.save_pretrained(tmp_path)
    library = byte_pairs(tmp_path)
    library.no_padding()
    library.enable_truncation(20)
    bertc.build(bertc.load(str(tmp_path)), tmp_path / "x", "onnx")
    found = bertc.open(tmp_path / "x").embed(["the cat sat", "a dög", "the mat " * 30])
    for text, vector in zip(("the cat sat", "a dög", "the mat " * 30), found, strict=True):
        with torch.no_grad():
            hidden = model(input_ids=torch.tensor([library.encode(text).ids])).last_hidden_state[0]
        assert np.abs(vector - hidden.mean(0).numpy()).max() < BOUND


WRONG: dict[str, tuple[Any, dict[str, Any], str, str]] = {
    "one text": ("a cat", {}, "B0901", "expected a list of texts, but found one text"),
    "nothing": (["a cat", ""], {}, "B0901", "expected a text, but text 2 is empty"),
    "blanks": ([" \u200b\n"], {}, "B0901", "text 1, ` ��`, has nothing to read"),
    "half a character": (["a", "\ud800"], {}, "B0901", "text 2, `�`, has something else in it"),
    "pooling": (["a"], {"pooling": "man"}, "B0906", "did you mean `mean`?"),
    "limit": (["a"], {"limit": 513}, "B0904", "at most 512 tokens, but found 513"),
    "no room": (["a"], {"limit": 2}, "B0904", "at least 3"),
}


@pytest.mark.parametrize(("texts", "asked", "code", "says"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_embedded(texts: Any, asked: Any, code: str, says: str, minilm_engine: Engine) -> None:
    with pytest.raises(BertcError) as caught:
        minilm_engine.embed(texts, **asked)
    assert caught.value.diagnostics[0].code == code
    assert says in str(caught.value)


def test_no_texts(minilm_engine: Engine) -> None:
    assert minilm_engine.embed([]).shape == (0, 384)
