"""What the viewer's document says: what replaced what, why rules did not fire, times, weights; what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import small_spec, weights_of

import bertc
from bertc.cli import run
from bertc.compiler import explain_pass
from bertc.errors import BertcError
from bertc.graph import Graph
from bertc.passes import FUSIONS
from bertc.viewer import page, spec_subject, view
from bertc.viewer.attempts import attempts
from bertc.viewer.document import document
from bertc.viewer.histograms import MOST, histogram
from bertc.viewer.profile import read_profile
from bertc.viewer.replaced import replacements
from bertc.weights_io import Tensor
from bertc.weights_io.safetensors_writer import write_safetensors

STAGES = {stage.name: stage for stage in bertc.stages(small_spec())}


def before(name: str) -> Graph:
    names = list(STAGES)
    return STAGES[names[names.index(name) - 1]].graph


@pytest.mark.parametrize("name", FUSIONS)
def test_a_group_for_each_firing(name: str) -> None:
    """What a pass replaced, found by the names of values alone, is as many groups as its rules fired."""
    found = replacements(before(name), STAGES[name].graph)
    assert len(found) == STAGES[name].fired
    went = [key for group in found for key in group.went]
    came = [key for group in found for key in group.came]
    assert len(set(went)) == len(went)
    assert len(set(came)) == len(came)
    gone = {node.key for node in before(name)} - {node.key for node in STAGES[name].graph}
    assert gone <= set(went)


def test_groups_say_what_became_what() -> None:
    groups = replacements(before("fuse_skip_norm"), STAGES["fuse_skip_norm"].graph)
    assert [(group.went, group.came) for group in groups[:2]] == [
        (("encoder.0.add_1", "encoder.0.attention.norm"), ("encoder.0.attention.norm",)),
        (("encoder.0.add_2", "encoder.0.ffn.norm"), ("encoder.0.ffn.norm",)),
    ]


def test_expanding_is_a_replacement_too() -> None:
    stages = {stage.name: stage.graph for stage in bertc.stages(small_spec(), "onnx")}
    groups = replacements(stages["fold_constants"], stages["expand_unhosted"])
    assert (("encoder.1.ffn.norm",), ("encoder.1.add_2", "encoder.1.ffn.norm")) in [(g.went, g.came) for g in groups]


@pytest.mark.parametrize("name", [name for name in FUSIONS if name != "canonicalize"])
def test_misses_are_those_that_explain_gives(name: str) -> None:
    spec = small_spec()
    for mine, theirs in zip(attempts(name, before(name)), explain_pass(spec, name), strict=True):
        assert mine.rule.name == theirs["rule"]
        assert list(mine.fired) == theirs["fired"]
        reasons = [miss.reason for miss in mine.misses.values()]
        if reasons:
            assert any(theirs["miss"].startswith(reason) for reason in reasons)
        else:
            assert mine.fired or "which its left side ends with" in theirs["miss"]


def test_document_can_be_rebuilt_stage_by_stage() -> None:
    """What came and what went, applied one after the other, gives the nodes of each stage."""
    subject = spec_subject(small_spec())
    (side,) = document([subject], None, histograms=False)["sides"]
    shown: dict[str, dict[str, Any]] = {}
    for stage, one in zip(subject.stages, side["passes"], strict=True):
        shown = {key: node for key, node in shown.items() if key not in one["went"]}
        came = [dict(zip(side["fields"], side["nodes"][row], strict=True)) for row in one["came"]]
        shown |= {node["key"]: node for node in came}
        assert {key: (node["op"], node["inputs"], node["attributes"]) for key, node in shown.items()} == {
            node.key: (node.op, node.inputs, dict(node.attributes)) for node in stage.graph
        }
        assert one["ops"] == len(stage.graph)


def test_targets_say_what_they_make_of_a_fused_op() -> None:
    (side,) = document([spec_subject(small_spec(), "onnx")], None, histograms=False)["sides"]
    last = side["passes"][8]
    assert last["name"] == "fuse_skip_norm"
    nodes = [dict(zip(side["fields"], side["nodes"][row], strict=True)) for row in last["came"]]
    (fate, *_) = {json.dumps(side["fates"][node["fates"]]["onnx"]) for node in nodes if node["op"] == "skip_norm"}
    assert json.loads(fate)[0] == "expanded"
    assert "twice the time" in json.loads(fate)[1]


# ------------------------------------------------------------------------------------------------------------ weights


def test_weights_have_the_checkpoints_names_and_histograms(tmp_path: Path) -> None:
    spec = small_spec()
    write_safetensors(tmp_path / "w.safetensors", weights_of(STAGES["elaborate"].graph))
    subject = spec_subject(spec, weights=tmp_path / "w.safetensors")
    (side,) = document([subject], None, histograms=True)["sides"]
    assert side["names"]["encoder.1.ffn.up.weight"] == "encoder.1.ffn.up.weight"
    assert spec_subject(spec).names["encoder.1.ffn.up.weight"] == "encoder.layer.1.intermediate.dense.weight"
    low, high, mean, deviation, every, counts = side["histograms"]["encoder.1.ffn.up.weight"]
    assert low < mean < high
    assert deviation > 0
    assert (sum(counts), every) == (40 * 24, 1)


def test_histogram_counts_every_value_or_says_which() -> None:
    values = np.array([0.0, 1.0, 1.0, 4.0, np.nan, np.inf], np.float32)
    found = histogram(Tensor("x", (6,), "f32", lambda: values))
    assert (found.low, found.high, found.mean, sum(found.counts)) == (0.0, 4.0, 1.5, 4)
    assert (found.counts[0], found.counts[10], found.counts[-1]) == (1, 2, 1)
    large = np.zeros(MOST + 1, np.float32)
    assert histogram(Tensor("y", large.shape, "f32", lambda: large)).every == 2
    nothing = np.full(3, np.nan, np.float32)
    assert sum(histogram(Tensor("z", (3,), "f32", lambda: nothing)).counts) == 0


# ----------------------------------------------------------------------------------------------------------- profiles


def write(tmp_path: Path, content: Any) -> Path:
    path = tmp_path / "profile.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_trtexec_profile(tmp_path: Path) -> None:
    """Names that the engine joined or added to count for the first node they name."""
    layers = {
        "encoder.0.merged": 0.5,
        "encoder.0.ffn.up.matmul + encoder.0.gelu": 0.25,
        "encoder.0.merged.cast_3": 0.125,
        "Reformatting CopyNode for Input Tensor 0": 0.0625,
    }
    entries = [{"count": 100}, *({"name": name, "averageMs": time, "timeMs": 1} for name, time in layers.items())]
    profile = read_profile(write(tmp_path, entries), STAGES["drop_unused"].graph)
    assert profile.milliseconds == {"encoder.0.merged": 0.625, "encoder.0.ffn.up.matmul": 0.25}
    assert profile.others == {"Reformatting CopyNode for Input Tensor 0": 0.0625}


def test_bench_profile(tmp_path: Path) -> None:
    """Of the shape that was measured first; what is no node's is told apart."""
    ops = [
        {"name": "encoder.0.merged", "op": "attention", "microseconds": 500.0, "share": 0.8},
        {"name": "CopyNode", "op": "", "microseconds": 125.0, "share": 0.2},
    ]
    rows = [{"batch": 1, "ops": ops}, {"batch": 8, "ops": [{**ops[0], "microseconds": 9e3}]}]
    profile = read_profile(write(tmp_path, {"schema": "bertc-bench/1", "rows": rows}), STAGES["drop_unused"].graph)
    assert profile.milliseconds == {"encoder.0.merged": 0.5}
    assert profile.others == {"CopyNode": 0.125}


def test_onnxruntime_profile(tmp_path: Path) -> None:
    """A profile that ONNX Runtime itself wrote: nodes are found, times are of one run."""
    import onnxruntime

    bertc.build(small_spec(), tmp_path / "x", "onnx", random_seed=0)
    options = onnxruntime.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(tmp_path / "trace")
    session = onnxruntime.InferenceSession(tmp_path / "x" / "model.onnx", options)
    ids = np.ones((2, 8), np.int32)
    for _ in range(3):
        session.run(None, {"input_ids": ids, "attention_mask": ids, "token_type_ids": 0 * ids})
    trace = Path(session.end_profiling())
    profile = read_profile(trace, bertc.compile(small_spec(), "onnx"))
    events = [event for event in json.loads(trace.read_text()) if event["name"].endswith("_kernel_time")]
    total = sum(event["dur"] for event in events) / 1e3 / 3
    assert sum(profile.milliseconds.values()) + sum(profile.others.values()) == pytest.approx(total, rel=1e-9)
    assert "encoder.1.merged" in profile.milliseconds
    assert profile.others == {}


def test_a_profile_of_many_runs(tmp_path: Path) -> None:
    """ONNX Runtime writes an event with all shapes for each op of each run: here a hundred runs of seventy ops."""
    shapes = [{"float": [8, 128, 384]}] * 9
    event = {"cat": "Node", "name": "encoder.0.merged_kernel_time", "dur": 2000, "args": {"input_type_shape": shapes}}
    profile = read_profile(write(tmp_path, [event] * 7000), STAGES["drop_unused"].graph)
    assert profile.milliseconds == {"encoder.0.merged": pytest.approx(2.0, rel=1e-12)}


BAD = {
    "not JSON": ("no", "is not JSON"),
    "without --ops": ({"schema": "bertc-bench/1", "rows": [{"ops": None}]}, "has no times of ops or layers"),
    "no rows": ({"schema": "bertc-bench/1", "rows": []}, "has no times of ops or layers"),
    "no times": ([{"count": 3}], "has no times of ops or layers"),
    "another network": ([{"name": "conv1", "averageMs": 1.0}], "none of them named as in this graph"),
    "too deep": ("[" * 100_000, "deep"),
}


@pytest.mark.parametrize(("content", "says"), BAD.values(), ids=BAD)
def test_a_profile_that_does_not_fit_is_refused(content: Any, says: str, tmp_path: Path) -> None:
    with pytest.raises(BertcError, match=says) as caught:
        read_profile(write(tmp_path, content), STAGES["drop_unused"].graph)
    assert caught.value.diagnostics[0].code == "B0803"
    assert caught.value.exit_code == 3


# ------------------------------------------------------------------------------------------------------- command line


def test_view_writes_one_page(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["view", "minilm-l6", "--no-open", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["page"] == "out/minilm-l6.html"
    text = Path(answer["page"]).read_text("utf-8")
    assert len(text.encode()) == answer["bytes"]
    assert "<title>minilm-l6: bertc</title>" in text
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    assert run(["view", "minilm-l6", "--without", "fuse_attention", "--against", "minilm-l6", "-o", "x.html"]) == 0
    assert opened == [(tmp_path / "x.html").as_uri()]


@pytest.mark.parametrize("flags", [["--passes", "default"], ["--without", "fuse_attention"], ["--histograms"]])
def test_a_bundle_refuses_what_is_for_specs(flags: list[str], tmp_path: Path, capsys: Any) -> None:
    bertc.build(small_spec(), tmp_path / "x", "onnx", random_seed=0)
    assert run(["view", str(tmp_path / "x"), *flags, "--no-open", "-o", str(tmp_path / "x.html")]) == 2
    assert f"`{flags[0]}` is for specs, but `{tmp_path / 'x'}` is a bundle" in capsys.readouterr().err
    assert not (tmp_path / "x.html").exists()


def test_no_text_of_a_document_ends_its_element() -> None:
    text = page("</title><b>", {"sources": {"x": "</script><script>alert(1)</script><!--"}})
    assert text.count("</script>") == 2
    assert "<title>&lt;/title&gt;&lt;b&gt;</title>" in text


def test_equal_specs_give_equal_documents() -> None:
    """But for the times of the passes."""

    def content() -> Any:
        found = document([spec_subject(small_spec())], None, histograms=False)
        for one in found["sides"][0]["passes"]:
            del one["milliseconds"]
        return json.dumps(found)

    assert content() == content()
    assert view([spec_subject(small_spec())]).startswith("<!doctype html>")


def test_model_explorer_collection(capsys: pytest.CaptureFixture[str]) -> None:
    """Every edge starts at a node that is there, at one of its outputs; node data has the same ids."""
    assert run(["inspect", "minilm-l6", "--after", "merge_qkv", "--format", "model-explorer"]) == 0
    (graph,) = json.loads(capsys.readouterr().out)["graphs"]
    nodes = {node["id"]: node for node in graph["nodes"]}
    assert len(nodes) == len(graph["nodes"])
    for node in graph["nodes"]:
        for edge in node["incomingEdges"]:
            outputs = [output["id"] for output in nodes[edge["sourceNodeId"]]["outputsMetadata"]]
            assert edge["sourceNodeOutputId"] in outputs
    assert nodes["encoder.3.attention.query.merged"]["namespace"] == "encoder/3/attention/query"
    assert nodes["encoder.3.ffn.up.matmul"]["label"] == "matmul"
    assert run(["inspect", "minilm-l6", "--after", "merge_qkv", "--format", "model-explorer-data"]) == 0
    data = json.loads(capsys.readouterr().out)
    results = data[graph["id"]]["results"]
    assert results.keys() <= nodes.keys()
    assert results["encoder.3.ffn.up.matmul"] == {"value": 2 * 128 * 384 * 1536}
