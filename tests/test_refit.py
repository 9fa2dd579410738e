"""New weights in a bundle that was built: what comes out is what a build from them gives."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import small_spec, weights_of
from cuda_double import gpu
from safetensors.numpy import load_file, save_file
from tensorrt_double import double
from tensorrt_wheel import imported

import bertc
from bertc.bundle import read_bundle
from bertc.cli import run
from bertc.elaborate import elaborate
from bertc.engine import Engine
from bertc.errors import BertcError
from bertc.reference import evaluate
from bertc.targets import rtx
from bertc.targets.cuda.plan import Kernel
from bertc.weights_io.safetensors_writer import write_safetensors

TENSORRT = (("tensorrt", "10.16"), ("tensorrt", "11.4"), ("rtx", "rtx-1.7"))


def files_of(path: Path) -> dict[str, bytes]:
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def checkpoint(path: Path, seed: int, spec: Any = None) -> Path:
    write_safetensors(path, weights_of(elaborate(spec or small_spec()), seed))
    return path


def refusal(bundle: Path, weights: Path) -> tuple[str, str]:
    """The code and message that it ends with, and the bundle as it was."""
    before = files_of(bundle)
    with pytest.raises(BertcError) as caught:
        bertc.refit(bundle, weights)
    assert files_of(bundle) == before
    assert sorted(path.name for path in bundle.parent.iterdir() if path.name.startswith(".")) == []
    return caught.value.diagnostics[0].code, caught.value.diagnostics[0].message


# --------------------------------------------------------------------------------------------------------------- onnx


def test_a_fine_tuned_minilm(
    minilm: Path, minilm_engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """To the bit what a build gives: the model, its tokenizer, the manifest."""
    tuned = tmp_path / "tuned"
    shutil.copytree(minilm, tuned)
    generator = np.random.default_rng(0)
    tensors = load_file(minilm / "model.safetensors")
    moved = {
        name: array * (1 + 1e-3 * generator.standard_normal(array.shape)).astype(array.dtype)
        if array.dtype.kind == "f"
        else array
        for name, array in tensors.items()
    }
    save_file(moved, tuned / "model.safetensors")
    pooling = json.loads((tuned / "1_Pooling" / "config.json").read_text())
    (tuned / "1_Pooling" / "config.json").write_text(
        json.dumps({**pooling, "pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True})
    )
    shutil.copytree(minilm_engine.bundle.path, tmp_path / "refitted")
    expected = bertc.build(bertc.load(str(tuned)), tmp_path / "built", "onnx").manifest
    assert run(["weights", "--refit", str(tmp_path / "refitted"), str(tuned), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["schema"], found["weights_hash"]) == ("bertc-weights-refitted/1", expected.weights_hash)
    refitted, built = files_of(tmp_path / "refitted"), files_of(tmp_path / "built")
    assert refitted.keys() == built.keys()
    assert [name for name in built if refitted[name] != built[name]] == ["manifest.json"]
    manifest = read_bundle(tmp_path / "refitted").manifest
    assert replace(manifest, spec=expected.spec) == expected
    assert manifest.text.pooling == "cls"


@pytest.mark.parametrize(
    ("fields", "hosting"),
    [
        ({"precision": "fp16"}, {}),
        ({"network": "{head: masked_lm}", "input_names": "demobert"}, {"portable": True}),
        ({"network": "{mask: any_padding}"}, {"provider": "gpu"}),
    ],
)
def test_onnx(fields: Mapping[str, str], hosting: Mapping[str, Any], tmp_path: Path) -> None:
    spec = small_spec(**fields)
    new = checkpoint(tmp_path / "new", 1, spec)
    bertc.build(spec, tmp_path / "refitted", "onnx", random_seed=0, hosting=hosting)
    bertc.build(spec, tmp_path / "built", "onnx", weights=new, hosting=hosting)
    bertc.refit(tmp_path / "refitted", new)
    assert files_of(tmp_path / "refitted") == files_of(tmp_path / "built")


def test_weights_beside_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bertc.targets.onnx.EXTERNAL_OVER", 0)
    new = checkpoint(tmp_path / "new", 1)
    bertc.build(small_spec(), tmp_path / "refitted", "onnx", random_seed=0)
    bertc.build(small_spec(), tmp_path / "built", "onnx", weights=new)
    bertc.refit(tmp_path / "refitted", new)
    assert "model.onnx.data" in files_of(tmp_path / "built")
    assert files_of(tmp_path / "refitted") == files_of(tmp_path / "built")


def test_another_model_of_the_same_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bertc.build(small_spec(), tmp_path / "x", "onnx", random_seed=0)
    monkeypatch.setattr("bertc.targets.onnx.lowering.absorbed_projections", lambda graph: [])
    code, message = refusal(tmp_path / "x", checkpoint(tmp_path / "new", 1))
    assert (code, message) == ("B0516", f"`{tmp_path / 'x'}` has another model of its graph than this bertc makes")


# --------------------------------------------------------------------------------------------------------------- cuda


def uncompiled(sources: Any, architecture: str, shared: int, folder: Path) -> Iterator[tuple[str, Kernel]]:
    """Every kernel, as a file without machine code."""
    for source in sources:
        (folder / f"{source.key}.cubin").write_bytes(b"")
        yield source.key, Kernel(f"{source.key}.cubin", source.function, 4, 0, ())


def test_cuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights as a build lays them out; plan and kernels, which are left out here, stay as they are."""
    monkeypatch.setattr("bertc.targets.cuda.compile_kernels", uncompiled)
    wide = {"hidden": 48, "embedding_size": 48, "head_size": 16}  # heads that its kernel takes
    spec = replace(small_spec(precision="fp16"), sizes={**small_spec().sizes, **wide})
    new = checkpoint(tmp_path / "new", 1, spec)
    bertc.build(spec, tmp_path / "refitted", "cuda", random_seed=0, architectures=["sm_90"])
    bertc.build(spec, tmp_path / "built", "cuda", weights=new, architectures=["sm_90"])
    before = files_of(tmp_path / "refitted")
    bertc.refit(tmp_path / "refitted", new)
    after = files_of(tmp_path / "refitted")
    assert after == files_of(tmp_path / "built")
    assert {name for name in after if after[name] != before[name]} == {"weights.bin", "manifest.json"}
    monkeypatch.setattr("bertc.targets.cuda.ALIGNMENT", 512)
    assert refusal(tmp_path / "refitted", new)[0] == "B0516"


# ------------------------------------------------------------------------------------------------ what does not fit


def test_another_network(tmp_path: Path) -> None:
    bertc.build(small_spec(), tmp_path / "x", "onnx", random_seed=0)
    wider = replace(small_spec(), sizes={**small_spec().sizes, "inner": 48})
    code, message = refusal(tmp_path / "x", checkpoint(tmp_path / "wider", 1, wider))
    assert code == "B0410"
    assert "ffn.up.weight" in message
    assert "is [48, 24], expected [40, 24]" in message
    deeper = replace(small_spec(), sizes={**small_spec().sizes, "layers": 3})
    deeper = replace(deeper, network={**deeper.network, "encoder": replace(deeper.network["encoder"], repeat=3)})
    code, message = refusal(tmp_path / "x", checkpoint(tmp_path / "deeper", 1, deeper))
    assert code == "B0409"
    assert "`encoder.2.*` (16 tensors" in message


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"num_attention_heads": 6}, "is of a network with heads 6, but that of the bundle has 12"),
        ({"layer_norm_eps": 1e-5}, "is of a network with norm_eps 1e-05, but that of the bundle has 1e-12"),
    ],
)
def test_what_no_tensor_shows(
    changed: Mapping[str, Any], message: str, minilm: Path, minilm_engine: Engine, tmp_path: Path
) -> None:
    """Heads of another size have tensors of the same shapes, and would compute something else."""
    other = tmp_path / "other"
    other.mkdir()
    for name in ("model.safetensors", "vocab.txt"):
        (other / name).symlink_to(minilm / name)
    config = json.loads((minilm / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, **changed}))
    assert refusal(minilm_engine.bundle.path, other) == ("B0516", f"`{other}` {message}")


def test_an_altered_bundle_is_left_alone(tmp_path: Path) -> None:
    bertc.build(small_spec(), tmp_path / "x", "onnx", random_seed=0)
    (tmp_path / "x" / "graph.net").write_text("graph(): return")
    assert refusal(tmp_path / "x", checkpoint(tmp_path / "new", 1))[0] == "B0604"


def test_flags_that_exclude_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for more, expected in ((["--spec", "bert-base"], "--spec is not for --refit"), (["--convert", "y"], "not allowed")):
        with pytest.raises(SystemExit) as stopped:
            run(["weights", "--refit", "x", "new", *more])
        assert stopped.value.code == 2
        assert expected in capsys.readouterr().err


# ----------------------------------------------------------------------------------------------------------- tensorrt


@pytest.fixture(params=TENSORRT, ids=lambda param: param[1])
def engine_of(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The target of a double."""
    target, version = request.param
    made = double(version)
    with gpu(monkeypatch) as made.driver:
        if target == "rtx":
            monkeypatch.setattr(rtx, "trt", made)
            yield target
        else:
            with imported(made, version):
                yield target


def assert_computes(bundle: Path, new: Path, spec: Any, batch: Mapping[str, Any], bound: float) -> None:
    graph = elaborate(spec)
    expected = evaluate(graph, batch, weights_of(graph, int(new.name)))
    with bertc.open(bundle) as engine:
        found = engine.run(batch)
    for name, array in expected.items():
        assert np.abs(found[name] - array).max() < bound


@pytest.mark.parametrize(("precision", "bound"), [("fp32", 1e-5), ("fp16", 2e-2), ("bf16", 2e-1)])
@pytest.mark.parametrize("strip", [False, True])
def test_tensorrt(
    strip: bool, precision: str, bound: float, engine_of: str, padded_batch: Mapping[str, Any], tmp_path: Path
) -> None:
    """Twice, since an engine that was refitted can be refitted again; a stripped one runs only after it."""
    spec = small_spec(precision=precision, plugins="none")
    bertc.build(spec, tmp_path / "x", engine_of, random_seed=0, builder={"refit": True, "strip_weights": strip})
    if strip:
        with pytest.raises(BertcError, match="has no weights yet"):
            bertc.open(tmp_path / "x")
    for seed in (1, 2):
        new = checkpoint(tmp_path / str(seed), seed)
        bertc.refit(tmp_path / "x", new)
        assert_computes(tmp_path / "x", new, spec, padded_batch, bound)
    built = bertc.build(spec, tmp_path / "y", engine_of, weights=new).manifest
    assert read_bundle(tmp_path / "x").manifest.weights_hash == built.weights_hash


def test_a_stripped_engine_takes_back_its_own_weights_alone(
    engine_of: str, padded_batch: Mapping[str, Any], tmp_path: Path
) -> None:
    spec = small_spec(plugins="none")
    own, other = checkpoint(tmp_path / "0", 0), checkpoint(tmp_path / "1", 1)
    bertc.build(spec, tmp_path / "x", engine_of, weights=own, builder={"strip_weights": True})
    code, message = refusal(tmp_path / "x", other)
    assert code == "B0516"
    assert message.endswith("takes back the weights it was built for, but these are others")
    bertc.refit(tmp_path / "x", own)
    assert_computes(tmp_path / "x", own, spec, padded_batch, 1e-5)


def test_an_engine_that_was_not_built_for_it(engine_of: str, tmp_path: Path) -> None:
    bertc.build(small_spec(plugins="none"), tmp_path / "x", engine_of, random_seed=0)
    code, message = refusal(tmp_path / "x", checkpoint(tmp_path / "1", 1))
    assert code == "B0516"
    assert message.endswith("was built without `--refit`, so that its weights cannot be replaced")


def test_tensorrt_says_why_not(engine_of: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bertc.build(small_spec(plugins="none"), tmp_path / "x", engine_of, random_seed=0, builder={"refit": True})
    monkeypatch.setattr("bertc.targets.tensorrt.refitting._arrays", shortened)
    code, message = refusal(tmp_path / "x", checkpoint(tmp_path / "1", 1))
    assert code == "B0515"
    assert f"{'tensorrt_rtx' if engine_of == 'rtx' else 'tensorrt'} could not take `" in message
    assert message.endswith("has another type or count")


def test_rtx_needs_a_gpu_for_it(tmp_path: Path) -> None:
    """Its own builder: without the flag it builds here."""
    with pytest.raises(BertcError, match="only where there is a GPU") as caught:
        bertc.build(small_spec(), tmp_path / "x", "rtx", random_seed=0, builder={"refit": True})
    assert caught.value.diagnostics[0].code == "B0501"


def shortened(record: Any, graph: Any, weights: Any, folder: Path) -> dict[str, Any]:
    return {name: np.zeros(1, np.float32) for name in record.entries}
