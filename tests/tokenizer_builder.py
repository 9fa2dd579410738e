"""A tokenizer that is no WordPiece, as a model's directory has it."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer as Library
from tokenizers import models, pre_tokenizers, processors, trainers


def byte_pairs(folder: Path) -> Library:
    """A small byte-pair encoding with RoBERTa's special tokens."""
    library = Library(models.BPE(unk_token="<unk>"))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    library.train_from_iterator(["the cat sat on the mat"], trainer)
    library.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    library.enable_truncation(3)
    library.enable_padding(length=20)
    library.save(str(folder / "tokenizer.json"))
    (folder / "special_tokens_map.json").write_text('{"mask_token": {"content": "<mask>", "lstrip": true}}')
    return Library.from_file(str(folder / "tokenizer.json"))
