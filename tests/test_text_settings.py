"""What a bundle keeps of a model's directory: its tokenizer, its labels, and how it makes embeddings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import small_graph, small_spec
from transformers import BertConfig

import bertc
from bertc.bundle import read_bundle
from bertc.errors import BertcError
from bertc.text.settings import TextSettings, read_settings, tasks_of

VOCABULARY = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n##b\n"
KEPT = {"tokenizer/vocab.txt", "tokenizer/tokenizer_config.json"}


@pytest.mark.parametrize(
    ("head", "tasks"),
    {
        "pooled": ("embed",),
        "hidden_states": ("embed",),
        "sequence_classification": ("classify",),
        "token_classification": ("tokens",),
        "masked_lm": ("fill",),
        "question_answering": ("ask",),
        "replaced_tokens": (),
    }.items(),
)
def test_the_head_says_what_can_be_asked(head: str, tasks: tuple[str, ...]) -> None:
    assert tasks_of(small_graph(network=f"{{head: {head}}}"), small_spec().sizes) == tasks


def model(folder: Path, **files: object) -> Path:
    """A directory that build takes: tiny sizes, a vocabulary, and the given files with __ for / in their names."""
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 40}
    config = BertConfig(vocab_size=7, max_position_embeddings=16, architectures=["BertModel"], **sizes)
    folder.mkdir()
    (folder / "config.json").write_text(config.to_json_string())
    (folder / "vocab.txt").write_text(VOCABULARY)
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 1000000000000000019884624838656}')
    for name, content in files.items():
        path = folder / f"{name.replace('__', '/')}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))
    return folder


def test_a_bundle_keeps_the_tokenizer_and_vouches_for_it(tmp_path: Path) -> None:
    spec = bertc.load(str(model(tmp_path / "model")))
    manifest = bertc.build(spec, tmp_path / "x", "onnx", random_seed=0).manifest
    assert {name for name in manifest.files if "/" in name} == KEPT
    assert manifest.text == TextSettings(("embed",), ("LABEL_0", "LABEL_1"), limit=1000000000000000019884624838656)
    assert read_bundle(tmp_path / "x").manifest == manifest
    kept = tmp_path / "x" / "tokenizer"
    (kept / "vocab.txt").write_text(VOCABULARY.replace("a\n", "c\n"))
    with pytest.raises(BertcError, match="expected sha256"):
        read_bundle(tmp_path / "x")
    (kept / "vocab.txt").write_text(VOCABULARY)
    kept.rename(tmp_path / "elsewhere")
    kept.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BertcError, match="found a link"):
        read_bundle(tmp_path / "x")


def test_the_tokenizer_may_lie_beside_the_weights(tmp_path: Path) -> None:
    folder = model(tmp_path / "model")
    (tmp_path / "my.yaml").write_text(
        "base: bert-base\nsizes: {layers: 1, hidden: 24, heads: 3, inner: 40, vocab: 7, positions: 16}\n"
        "weights: model/x.safetensors\n"
    )
    (folder / "x.safetensors").write_bytes(b"")
    spec = bertc.load(str(tmp_path / "my.yaml"))
    manifest = bertc.build(spec, tmp_path / "x", "onnx", random_seed=0).manifest
    assert {name for name in manifest.files if "/" in name} == KEPT


MODULES = [{"type": f"sentence_transformers.models.{name}", "path": path} for name, path in
           (("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize"))]  # fmt: skip


def test_sentence_transformers_files(tmp_path: Path) -> None:
    def of(pooling: dict[str, object], modules: list[dict[str, str]], folder: str) -> TextSettings:
        path = model(
            tmp_path / folder,
            modules=modules,
            **{"1_Pooling__config": pooling},
            sentence_bert_config={"max_seq_length": 9},
        )
        return read_settings(path, ("embed",), ("yes", "no"), 2)

    usual = of({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, MODULES, "a")
    assert usual == TextSettings(("embed",), ("yes", "no"), "", "mean", True, 9)
    first = of({"pooling_mode_cls_token": True, "include_prompt": True}, MODULES[:2], "b")
    assert (first.pooling, first.normalise) == ("cls", False)
    two = of({"pooling_mode_cls_token": True, "pooling_mode_lasttoken": True}, MODULES, "c")
    assert two.pooling == "cls and lasttoken"
    (tmp_path / "a" / "config_sentence_transformers.json").write_text(
        '{"default_prompt_name": "query", "prompts": {"query": "Q: ", "document": ""}}'
    )
    (tmp_path / "a" / "sentence_bert_config.json").write_text('{"do_lower_case": true}')
    prompted = read_settings(tmp_path / "a", ("embed",), (), 2)
    assert (prompted.prompt, prompted.lower, prompted.limit) == ("Q: ", True, 10**30 + 19884624838656)
    (tmp_path / "a" / "1_Pooling" / "config.json").write_text(
        '{"pooling_mode_mean_tokens": true, "include_prompt": false}'
    )
    assert read_settings(tmp_path / "a", ("embed",), (), 2).pooling == "mean without the prompt"
    dense = of({"pooling_mode_cls_token": True}, [*MODULES, {"type": "sentence_transformers.models.Dense"}], "d")
    assert dense.pooling == "Dense"
    outside = of({"pooling_mode_cls_token": True}, [MODULES[1] | {"path": "../b/1_Pooling"}], "e")
    assert outside.pooling == "Pooling without its config.json"
