"""`bertc compare`: two bundles, and a bundle beside transformers with the same weights."""

from __future__ import annotations

import io
import json
import math
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import bertc
from bertc.cli import run
from bertc.engine import Engine
from bertc.errors import BertcError
from bertc.evaluation.comparison import FIRST_ID, Network, blocks_of, compare, random_sequences

HEADS = {
    "hidden": "BertModel",
    "labels": "BertForSequenceClassification",
    "words": "BertForMaskedLM",
    "answers": "BertForQuestionAnswering",
}
BOUND = 1e-5
"""Sums of float32 in another order, of values of size 1."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For each head a model of transformers, NAME-model, and its bundle, NAME; `other` has other weights."""
    folder = tmp_path_factory.mktemp("compare")
    words = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijk")
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 40}
    config = transformers.BertConfig(vocab_size=len(words), max_position_embeddings=16, initializer_range=0.3, **sizes)
    torch.manual_seed(0)
    for name, kind in {**HEADS, "other": "BertModel"}.items():
        getattr(transformers, kind)(config).save_pretrained(folder / f"{name}-model")
        (folder / f"{name}-model" / "vocab.txt").write_text("\n".join(words))
        bertc.build(bertc.load(str(folder / f"{name}-model")), folder / name, "onnx")
    return folder


@pytest.fixture(autouse=True)
def in_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def compared(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert run(["compare", *arguments, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "bertc-compare/1"
    return {one["output"]: one for one in document["outputs"]}


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("texts", [(), ("a b c d", "k", "a " * 40)], ids=["random", "texts"])
def test_transformers_gives_the_same(name: str, texts: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    found = compared(capsys, name, f"transformers:{name}-model", *texts)
    outputs = {"hidden": {"last_hidden_state", "pooler_output"}, "answers": {"start_logits", "end_logits"}}
    assert found.keys() == outputs.get(name, {"logits"})
    for one in found.values():
        assert 0 < one["mean"] <= one["largest"] < BOUND
        assert one["cosine"] == pytest.approx(1, abs=1e-9)


def test_the_measures(capsys: pytest.CaptureFixture[str]) -> None:
    ids = [[2, *range(5, 9), 3], [2, 15, 3]]
    rows = [
        [output["last_hidden_state"].astype(np.float64).ravel() for output in bertc.open(name).run_sequences(ids)]
        for name in ("hidden", "other")
    ]
    x, y = (np.concatenate(row) for row in rows)
    found = compared(capsys, "hidden", "other", "a b c d", "k")["last_hidden_state"]
    assert found["largest"] == pytest.approx(max(map(abs, x - y)), abs=BOUND)
    assert found["mean"] == pytest.approx(sum(map(abs, x - y)) / len(x), abs=BOUND)
    assert found["cosine"] == pytest.approx(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)), abs=BOUND)
    assert abs(found["cosine"]) < 0.9


def test_a_bundle_is_itself_and_the_seed_counts(capsys: pytest.CaptureFixture[str]) -> None:
    for one in compared(capsys, "hidden", "hidden").values():
        assert (one["largest"], one["mean"]) == (0, 0)
        assert one["cosine"] == pytest.approx(1, abs=1e-15)
    first, again, others, few = (
        compared(capsys, "hidden", "other", *flags)
        for flags in ((), ("--seed", "0"), ("--seed", "1"), ("--sequences", "2"))
    )
    assert first == again
    assert first != others
    assert first != few


def test_the_bar(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compare", "hidden", "transformers:hidden-model", "--atol", "1e-5"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [
        *("output", "last_hidden_state", "pooler_output")
    ]
    assert run(["compare", "hidden", "other", "--atol", "0.1"]) == 1
    output = capsys.readouterr()
    assert len(output.out.splitlines()) == 3
    assert output.err.startswith("error[B0908]: expected `last_hidden_state` within 0.1, but it is ")


def test_random_sequences() -> None:
    ids, types = random_sequences(200, 7, 20, 0)
    assert {len(row) for row in ids} == set(range(1, 8))
    assert {int(token) for row in ids for token in row} == set(range(FIRST_ID, 20))
    assert all(row.shape == kinds.shape and not kinds.any() for row, kinds in zip(ids, types, strict=True))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
@pytest.mark.parametrize("texts", [(), ("a b", "c")], ids=["random", "texts"])
def test_progress_is_a_bar_on_a_terminal(
    texts: tuple[str, ...], stream: type[io.StringIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", stream())
    assert run(["compare", "hidden", "other", *texts]) == 0
    assert ("sequences" in sys.stderr.getvalue()) == (stream is Terminal)


def test_progress_is_told_when_a_block_is_done() -> None:
    """A file comes in parts: the second, of 11 sequences after 5."""
    told: list[tuple[str, int, int]] = []
    seen: list[int] = []
    for ids, _ in blocks_of(*random_sequences(11, 3, 9, 0), lambda *step: told.append(step), 5):
        assert len(told) == len(seen)
        seen.append(len(ids))
    assert seen == [8, 3]
    assert told == [("sequences", 13, 16), ("sequences", 16, 16)]


def network(*outputs: Mapping[str, Sequence[float]]) -> Network:
    return lambda ids, types: [{name: np.array(values) for name, values in one.items()} for one in outputs]


def test_what_is_no_number_is_no_match() -> None:
    blocks = [random_sequences(2, 3, 9, 0)]
    first = network({"x": [1.0, math.nan]}, {"x": [1.0, 1.0]})
    second = network({"x": [1.0, 1.0]}, {"x": [1.0, 1.0]})
    assert math.isnan(compare(first, second, blocks)[0].largest)
    nothing, something = (network({"x": [value]}, {"x": [value]}) for value in (0.0, 1.0))
    assert [compare(nothing, other, blocks)[0].cosine for other in (nothing, something)] == [1.0, 0.0]


def test_outputs_of_other_shapes() -> None:
    blocks = [random_sequences(1, 3, 9, 0)]
    with pytest.raises(BertcError, match=r"expected `x` to have one shape in both, but found \[1\] and \[2\]"):
        compare(network({"x": [1.0]}), network({"x": [1.0, 2.0]}), blocks)


def test_what_cannot_be_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compare", "labels", "answers"]) == 3
    assert "error[B0909]: expected an output that both have, but the first has `logits`" in capsys.readouterr().err
    (tmp_path / "config.json").write_text("{")
    for missing in (tmp_path, tmp_path / "nowhere"):
        assert run(["compare", "hidden", f"transformers:{missing}"]) == 3
        error = capsys.readouterr().err
        assert error.startswith("error[B0909]: transformers cannot open `")
        assert error.count("\n") == 2
    assert run(["compare", "hidden", "nowhere"]) == 3


# -------------------------------------------------------------------------------------------------------------- layers


LAYERED = ("post-norm", "pre-norm")


@pytest.fixture(scope="module")
def layered(folder: Path) -> Path:
    """Models of three layers and their bundles; `changed` is `post-norm` with another weight in its second layer."""
    words, sizes = 16, {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 40}
    bert = transformers.BertConfig(vocab_size=words, max_position_embeddings=16, initializer_range=0.3, **sizes)
    special = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 0)
    modern = transformers.ModernBertConfig(vocab_size=words, max_position_embeddings=16, **special, **sizes)
    models = [transformers.BertModel(bert), transformers.ModernBertForSequenceClassification(modern)]
    for name, model in zip(LAYERED, models, strict=True):
        model.save_pretrained(folder / f"{name}-model")
    with torch.no_grad():
        models[0].encoder.layer[1].output.dense.weight[0, 0] += 1
    models[0].save_pretrained(folder / "changed-model")
    for name in (*LAYERED, "changed"):
        bertc.build(bertc.load(str(folder / f"{name}-model")), folder / name, "onnx")
    return folder


def layers_compared(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, float]:
    assert run(["compare", *arguments, "--layers", "--json"]) == 0
    return {one["output"]: one["largest"] for one in json.loads(capsys.readouterr().out)["layers"]}


@pytest.mark.parametrize("kind", ["transformers", "reference"])
@pytest.mark.parametrize("name", LAYERED)
def test_every_layer_is_what_transformers_and_the_reference_have(
    name: str, kind: str, layered: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = layers_compared(capsys, name, f"{kind}:{name}-model")
    groups = ["embeddings", "encoder.0", "encoder.1", "encoder.2"]
    behind_the_final_norm = kind == "transformers" and name == "pre-norm"
    assert list(found) == groups[: 3 if behind_the_final_norm else 4]
    assert all(0 < largest < BOUND for largest in found.values())


def test_the_first_layer_that_is_apart(layered: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compare", "post-norm", "changed", "--layers", "--atol", "1e-5"]) == 1
    output = capsys.readouterr()
    rows = [line.split() for line in output.out.splitlines()[1:]]
    assert [row[0] for row in rows] == [
        *("embeddings", "encoder.0", "encoder.1", "encoder.2"),
        *("last_hidden_state", "pooler_output"),
    ]
    assert [float(row[1]) for row in rows[:2]] == [0, 0]
    assert [row[0] for row in rows if "<-" in row] == ["encoder.1"]
    assert output.err.startswith("error[B0908]: expected `encoder.1` within 1e-05, but it is ")
    assert layers_compared(capsys, "post-norm", "changed").keys() == {row[0] for row in rows[:4]}


def test_layers_that_cannot_be_had(layered: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree("post-norm", tmp_path / "rtx")
    manifest = (tmp_path / "rtx" / "manifest.json").read_text()
    (tmp_path / "rtx" / "manifest.json").write_text(manifest.replace('"target": "onnx"', '"target": "rtx"'))
    for pair in (["post-norm", str(tmp_path / "rtx")], [str(tmp_path / "rtx"), "post-norm"]):
        assert run(["compare", *pair, "--layers"]) == 3
        assert "`--layers` needs what is inside an engine, and those of target rtx keep it" in capsys.readouterr().err
    assert run(["compare", "hidden", "transformers:post-norm-model", "--layers"]) == 3
    assert "expected 1 layers, as the bundle has, but transformers has 3" in capsys.readouterr().err


def test_a_file_of_texts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = ["a b c d", "k", *(" ".join("abcdefgh"[: length % 8 + 1]) for length in range(20))]
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(texts))
    assert compared(capsys, "hidden", "other", "--input", str(path)) == compared(capsys, "hidden", "other", *texts)
    path.write_text("a b\n\nc\n")
    assert run(["compare", "hidden", "other", "--input", str(path)]) == 3
    assert "error[B0901]: expected a text, but line 2 of `" in capsys.readouterr().err
    path.write_text("")
    assert run(["compare", "hidden", "other", "--input", str(path)]) == 3
    assert "error[B0909]: expected sequences to compare the networks on" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        run(["compare", "hidden", "other", "a", "--input", str(path)])
    assert caught.value.code == 2


def test_a_network_of_another_vocabulary(minilm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for other in (f"transformers:{minilm}", f"reference:{minilm}"):
        assert run(["compare", "hidden", other]) == 3
        assert "expected a vocabulary of 16, as the bundle has, but `" in capsys.readouterr().err


def test_a_reference_without_weights(capsys: pytest.CaptureFixture[str], minilm_engine: Engine) -> None:
    assert run(["compare", str(minilm_engine.bundle.path), "reference:minilm-l6"]) == 2
    assert "names no weights" in capsys.readouterr().err
