"""bertc bench: what is said about times, how they are taken, and what is printed.

Set BERTC_GOLDEN=write to write the golden table and picture anew; then read what changed.
"""

from __future__ import annotations

import json
import os
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
from conftest import small_spec

import bertc
from bertc.bench import bench
from bertc.bench.lengths import draw_lengths
from bertc.bench.machine import FIELDS, Gpu, parse_gpu
from bertc.bench.measure import Contestant, Protocol, Times, measure
from bertc.bench.op_times import OpTime
from bertc.bench.picture import Line, picture
from bertc.bench.report import Cold, Report, Row, compared, measured, picture_lines, to_text
from bertc.bench.statistics import Quartiles, dollars_per_million, is_stable, ratios, summary
from bertc.bench.workload import draw_workloads
from bertc.bundle import read_bundle
from bertc.cli import run
from bertc.engine import Engine
from bertc.errors import BertcError, error
from bertc.shapes import Profile, Range
from bertc.targets import Phases

GOLDEN = Path(__file__).parent / "golden" / "bench"


# --------------------------------------------------------------------------------------------------------- statistics


def test_a_percentile_is_a_time_that_was_measured() -> None:
    """The smallest that so many of a hundred do not exceed: of 1 to 200, 180 is the 90th."""
    times = [float(time) for time in np.random.default_rng(0).permutation(np.arange(1, 201))]
    found = summary(times)
    assert (found.p90, found.p95, found.p99) == (180.0, 190.0, 198.0)
    assert (found.runs, found.min, found.max, found.mean, found.median) == (200, 1.0, 200.0, 100.5, 100.5)


def test_one_run_is_all_percentiles() -> None:
    found = summary([7.0])
    assert {found.min, found.max, found.mean, found.median, found.p90, found.p95, found.p99} == {7.0}


def test_ratios_are_of_pairs() -> None:
    """A machine that slows down tenfold on the way does not change them; the ratio of medians would."""
    ours, theirs = [1.0, 2.0, 30.0, 40.0, 50.0], [2.0, 4.0, 60.0, 80.0, 150.0]
    assert ratios(ours, theirs) == Quartiles(2.0, 2.0, 2.0)
    assert ratios([1.0] * 5, [1.0, 2.0, 3.0, 4.0, 5.0]) == Quartiles(2.0, 3.0, 4.0)


@pytest.mark.parametrize(
    ("times", "stable"),
    [([10.0] * 9, True), ([10.0, 10.0, 11.0], True), ([10.0, 10.0, 11.1], False), ([10.0, 10.0], False)],
)
def test_stable_is_three_windows_within_ten_percent(times: list[float], stable: bool) -> None:
    assert is_stable(times) is stable


def test_one_slow_run_does_not_make_a_window_slow() -> None:
    assert is_stable([10.0, 10.0, 99.0, 10.0, 10.0, 10.0, 10.0, 10.0, 10.0])


def test_price() -> None:
    """1000 sequences a second are 3.6 million an hour."""
    assert dollars_per_million(3.6, 1000.0) == pytest.approx(1.0, rel=1e-15)
    assert dollars_per_million(3.2, 5200.0) == pytest.approx(0.17094, abs=1e-5)


# ------------------------------------------------------------------------------------------------------------ measuring


class Machine:
    """A clock that engines move: what they do, and when, is written down."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[str] = []

    def engine(self, name: str, seconds: Iterator[float] | float, phases: Phases | None = None) -> Contestant:
        def work() -> None:
            self.log.append(name)
            self.now += seconds if isinstance(seconds, float) else next(seconds)

        return Contestant(name, work, None if phases is None else lambda: self.phases(name, phases))

    def phases(self, name: str, phases: Phases) -> Phases:
        self.log.append(f"{name}'s device")
        return phases

    def sleep(self, seconds: float) -> None:
        self.log.append("rest")
        self.now += seconds

    def measure(self, contestants: list[Contestant], protocol: Protocol, progress: Any = None) -> list[Times]:
        return measure(contestants, protocol, clock=lambda: self.now, sleep=self.sleep, progress=progress)


def test_engines_take_turns() -> None:
    machine = Machine()
    pair = [machine.engine("a", 1.0), machine.engine("b", 2.0)]
    found = machine.measure(pair, Protocol(runs=3, duration=0.0, warm_up=0.0))
    assert "".join(machine.log) == "ab" + "ab" + "ba" + "ab"
    assert [times.latency for times in found] == [(1000.0,) * 3, (2000.0,) * 3]
    assert [times.phases for times in found] == [(), ()]


def test_rest_and_an_untimed_run_before_each_turn() -> None:
    """What follows the other engine's run is slow, and is not counted."""
    machine = Machine()
    slow = machine.engine("a", iter([5.0, *[9.0, 1.0] * 2]))
    found = machine.measure([slow], Protocol(runs=2, duration=0.0, warm_up=0.0, rest=0.1))
    assert machine.log == ["a", *["rest", "a", "a"] * 2]
    assert found[0].latency == pytest.approx((1000.0, 1000.0))


def test_runs_and_duration_are_the_least() -> None:
    for protocol, runs in ((Protocol(3, 0.0, 0.0), 3), (Protocol(3, 10.0, 0.0), 10), (Protocol(30, 10.0, 0.0), 30)):
        machine = Machine()
        assert len(machine.measure([machine.engine("a", 1.0)], protocol)[0].latency) == runs


def test_warm_up_is_not_counted() -> None:
    machine = Machine()
    found = machine.measure([machine.engine("a", 1.0)], Protocol(runs=2, duration=0.0, warm_up=3.0))
    assert len(machine.log) == 3 + 2
    assert len(found[0].latency) == 2


def test_the_device_is_asked_after_each_timed_run() -> None:
    machine, phases, told = Machine(), Phases(0.1, 2.0, 0.3), list[tuple[int, int]]()
    engine = machine.engine("a", 1.0, phases)
    found = machine.measure([engine], Protocol(2, 0.0, 0.0), lambda done, of: told.append((done, of)))
    assert machine.log == ["a", *["a", "a's device"] * 2]
    assert found[0].phases == (phases, phases)
    assert told == [(1, 2), (2, 2)]


# -------------------------------------------------------------------------------------------------------------- lengths


def test_lengths_of_squad() -> None:
    """Means 150 to 178 are published for SQuAD 1.1 with BERT's tokens; the longest are cut at 384."""
    drawn = draw_lengths("squad", 10_000, 384)
    assert 150 < drawn.mean() < 178
    assert 24 <= drawn.min() < 50
    assert drawn.max() == 384
    assert np.array_equal(drawn, draw_lengths("squad", 10_000, 384, seed=0))
    assert not np.array_equal(drawn, draw_lengths("squad", 10_000, 384, seed=1))
    assert set(draw_lengths("squad", 100, 16).tolist()) == {16}


def test_lengths_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "lengths.txt"
    path.write_text("3\n5\n\n900\n")
    assert set(draw_lengths(str(path), 200, 64).tolist()) == {3, 5, 64}
    assert draw_lengths("constant", 3, 7).tolist() == [7, 7, 7]


@pytest.mark.parametrize(
    ("content", "found"),
    [("", "nothing"), ("3 0", "`0`"), ("3\n-1", "`-1`"), ("2.5", "`2.5`"), ("9" * 30, "`9"), ("٣", "`٣`")],
)
def test_lengths_that_are_none(tmp_path: Path, content: str, found: str) -> None:
    path = tmp_path / "lengths.txt"
    path.write_text(content)
    with pytest.raises(BertcError) as caught:
        draw_lengths(str(path), 1, 64)
    assert (caught.value.diagnostics[0].code, caught.value.exit_code) == ("B0212", 2)
    assert f"but {found}" in str(caught.value)


@pytest.mark.parametrize("make", [lambda path: None, Path.mkdir, lambda path: path.write_bytes(b"\xff")])
def test_lengths_that_cannot_be_read(tmp_path: Path, make: Callable[[Path], Any]) -> None:
    make(tmp_path / "sqaud")
    with pytest.raises(BertcError, match="lengths cannot be read") as caught:
        draw_lengths(str(tmp_path / "sqaud"), 1, 64)
    assert caught.value.diagnostics[0].code == "B0002"


# --------------------------------------------------------------------------------------------------------------- report

OPS = (
    OpTime("encoder.0.merged", "attention", 300.0, 0.6),
    *(OpTime(f"encoder.{layer}.ffn.up.matmul", "matmul", 87.5, 0.175) for layer in (0, 1)),
    OpTime("Reformat 0", "", 25.0, 0.05),
)

GPU = Gpu("NVIDIA H200", "580.10", 1980.0, 1980.0, 690.5, 700.0, 61.0)


def report() -> Report:
    """Every part that may be there: a peer, a price, a GPU; one row bound by copies and not stable."""
    rows: list[Row] = []
    for batch, latency, copies in ((1, 0.5, 0.01), (128, 20.0, 9.0)):
        ours = Times((latency,) * 6, (Phases(copies, 0.4 * latency, copies),) * 6)
        drift = np.linspace(1.2, 1.2 * (1 if batch == 1 else 2), 6).tolist()
        theirs = Times(tuple(latency * x for x in drift), tuple(Phases(copies, 0.6 * latency, copies) for _ in drift))
        engines = tuple(
            measured(name, times, batch, 128 * batch, 3.2) for name, times in (("bertc", ours), ("torch", theirs))
        )
        ratios = (compared("torch", ours, theirs, 1e-3 / batch),)
        rows.append(Row(batch, 128, 128 * batch, engines, ratios, GPU, OPS if batch == 1 else None))
    about = {"bertc": "bertc 0.1.0, target cuda", "torch": "torch 2.13, torch.compile and CUDA graphs"}
    return Report(
        "out/x", "bert-large", "cuda", "fp16", "squad", 0, "AMD EPYC, 16 cores", about, False, Cold(812.4, 131.26),
        3.2, tuple(rows),
    )  # fmt: skip


def same_as_golden(name: str, text: str) -> None:
    if os.environ.get("BERTC_GOLDEN") == "write":
        (GOLDEN / name).write_text(text)
    assert text == (GOLDEN / name).read_text()


def test_the_table() -> None:
    same_as_golden("table.txt", to_text(report()))


def test_throughput_counts_what_is_there() -> None:
    """Two batches of 4 in 20 + 30 ms: 160 a second, and of tokens those that are no padding."""
    found = measured("bertc", Times((20.0, 30.0), ()), batch=4, tokens=100, price=None)
    assert found.sequences_per_second == pytest.approx(160.0, rel=1e-12)
    assert found.tokens_per_second == pytest.approx(4000.0, rel=1e-12)
    assert (found.device_ms, found.bound_by, found.dollars_per_million) == (None, None, None)


@pytest.mark.parametrize(
    ("phases", "bound"), [(Phases(1, 8, 0.5), None), (Phases(3, 4, 2), "copies"), (Phases(0.5, 3, 1), "host")]
)
def test_what_it_is_bound_by(phases: Phases, bound: str | None) -> None:
    assert measured("bertc", Times((10.0,), (phases,)), 1, 1, None).bound_by == bound


def test_compared_on_the_device_where_both_have_one() -> None:
    ours, theirs = Times((2.0,), (Phases(0, 1.0, 0),)), Times((3.0,), (Phases(0, 4.0, 0),))
    assert compared("torch", ours, theirs, None).compute == Quartiles(4.0, 4.0, 4.0)
    assert compared("onnxruntime", ours, Times((3.0,), ()), None).compute is None
    assert compared("onnxruntime", ours, theirs, None).latency.median == 1.5


def test_the_picture() -> None:
    lines = picture_lines(report())
    assert [line.name for line in lines] == ["bertc, seq 128", "torch, seq 128"]
    assert lines[0].points == ((1, 0.5), (128, 20.0))
    text = picture("bert-large & fp16", lines)
    same_as_golden("latency.svg", text)
    root = ElementTree.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert next(root.iter("{http://www.w3.org/2000/svg}text")).text == "bert-large & fp16"


@pytest.mark.parametrize("points", [((8, 1.0),), ((1, 1.0), (2, 1.0)), ((1, 3.1), (2, 3.2))])
def test_a_picture_of_little(points: tuple[tuple[float, float], ...]) -> None:
    ElementTree.fromstring(picture("little", [Line("a", points)]))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("NVIDIA H200, 580.10, 1980, 1980, 690.5, 700.00, 61\n", GPU),
        ("NVIDIA T4, 1, [N/A], 1590, [N/A], 70.00, 40", Gpu("NVIDIA T4", "1", None, 1590.0, None, 70.0, 40.0)),
        ("No devices were found", None),
        ("", None),
    ],
)
def test_the_state_of_a_gpu(line: str, expected: Gpu | None) -> None:
    assert len(FIELDS) == len(fields(Gpu))
    assert parse_gpu(line) == expected


# --------------------------------------------------------------------------------------------------------- command line


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bench") / "x"
    bertc.build(small_spec(), path, "onnx", random_seed=0)
    return path


QUICK = ["--runs", "2", "--duration", "1e-9", "--warm-up", "1e-9"]


def keys(kind: Any) -> Any:
    """The keys of a dataclass's JSON, from its annotations; what may be null is given whole."""
    if is_dataclass(kind):
        return {name: keys(hint) for name, hint in get_type_hints(kind).items()}
    inner = [keys(part) for part in get_args(kind) if is_dataclass(part)]
    return inner[0] if inner else None


def shape(value: Any) -> Any:
    """The keys of a JSON document; of a list those of its first item."""
    if isinstance(value, list):
        return shape(value[0]) if value else None
    return {name: shape(item) for name, item in value.items()} if isinstance(value, dict) else None


def test_json_has_the_keys_of_the_report(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", str(bundle), "--json", "--against", "torch", "--price", "3.2", *QUICK]) == 0
    document = json.loads(capsys.readouterr().out)
    found = shape(document)
    expected = {"schema": None, **keys(Report)}
    expected["engines"] = {"bertc": None, "torch": None}
    rows = expected["rows"]
    rows["gpu"] = rows["engines"]["device_ms"] = rows["ratios"]["compute"] = rows["ops"] = None
    assert found == expected
    assert document["schema"] == "bertc-bench/1"
    (row,) = document["rows"]
    assert (row["batch"], row["seq"], row["tokens"]) == (2, 8, 16)
    assert [engine["latency_ms"]["runs"] for engine in row["engines"]] == [2, 2]
    assert document["same_weights"] is True
    assert row["ratios"][0]["difference"] < 5e-6
    assert row["engines"][0]["dollars_per_million"] == pytest.approx(
        dollars_per_million(3.2, row["engines"][0]["sequences_per_second"]), rel=1e-12
    )


def test_keys_stay() -> None:
    """Programs read them: a change here is a change of the schema."""
    document = json.loads(json.dumps(asdict(report())))
    same_as_golden("keys.json", json.dumps(shape(document), indent=1) + "\n")


def test_shapes_lengths_and_a_picture(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "lengths.txt").write_text("1 2 3 4 5")
    arguments = ["--batch", "3,4", "--seq", "6,16", "--lengths", str(tmp_path / "lengths.txt")]
    assert run(["bench", str(bundle), *arguments, "--plot", str(tmp_path / "x.svg"), *QUICK]) == 0
    text = capsys.readouterr().out
    assert [line for line in text.splitlines() if line.startswith("batch")] == [
        "batch 3, seq 6: 12 tokens, 2 runs",
        "batch 3, seq 16: 12 tokens, 2 runs",
        "batch 4, seq 6: 14 tokens, 2 runs",
        "batch 4, seq 16: 14 tokens, 2 runs",
    ]
    assert "fast as" not in text
    ElementTree.parse(tmp_path / "x.svg")


def test_times_of_ops(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nodes of the bundle's graph with their ops, the slowest first, by which all of the record is accounted for."""
    assert run(["bench", str(bundle), "--ops", "--json", *QUICK]) == 0
    ops = json.loads(capsys.readouterr().out)["rows"][0]["ops"]
    kinds = {op["name"]: op["op"] for op in ops}
    assert kinds["encoder.1.merged"] == "attention"
    assert kinds["encoder.0.ffn.down.matmul"] == "matmul"
    assert kinds["embeddings.norm"] == "embed_norm"
    assert "" not in kinds.values()
    times = [op["microseconds"] for op in ops]
    assert times == sorted(times, reverse=True)
    assert sum(op["share"] for op in ops) == pytest.approx(1.0, rel=1e-9)
    assert ops[0]["share"] == pytest.approx(times[0] / sum(times), rel=1e-9)


def test_the_first_runs_are_not_in_the_record(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer has an event for each run that counts."""

    def counted(events: Any) -> Counter[str]:
        return Counter(event["name"] for event in events)

    monkeypatch.setattr("bertc.targets.onnx.session.of_onnxruntime", counted)
    with bertc.open(bundle) as engine:
        measure = engine.runtime.step_times
        assert measure is not None
        found = measure(engine.checked({"input_ids": np.ones((2, 8), np.int32)}), 4)
    assert found["model_run"] == found["encoder.1.merged_kernel_time"] == 4


def test_times_of_ops_that_the_engine_does_not_tell(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = bertc.open(bundle)
    runtime = replace(opened.runtime, step_times=None)
    monkeypatch.setattr("bertc.bench.open", lambda path, device: Engine(opened.bundle, runtime))
    with pytest.raises(BertcError) as caught:
        bench(bundle, protocol=Protocol(2, 0.0, 0.0), ops=True)
    assert (caught.value.diagnostics[0].code, caught.value.exit_code) == ("B0805", 4)


def test_trtexec_names(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", str(bundle), "--iterations", "3", "--duration", "1e-9", "--warmUp", "1"]) == 0
    assert "3 runs" in capsys.readouterr().out


def test_each_profile_has_its_usual_shape(tmp_path: Path) -> None:
    manifest = read_bundle_of(tmp_path).manifest
    assert [(len(load.ids), load.seq) for load in draw_workloads(manifest, (), (), "constant", 0)] == [(2, 8), (1, 16)]
    chosen = draw_workloads(manifest, (5,), (), "constant", 0)
    assert [(len(load.ids), load.seq, load.whole) for load in chosen] == [(5, 8, True)]
    again = draw_workloads(manifest, (5,), (), "constant", 0)
    assert all(np.array_equal(one, other) for one, other in zip(chosen[0].ids, again[0].ids, strict=True))


def read_bundle_of(folder: Path) -> Any:
    profiles = (Profile(Range(1, 2, 4), Range(1, 8, 16)), Profile(Range(1, 1, 1), Range(16, 16, 19)))
    bertc.build(replace(small_spec(), shapes=profiles), folder / "two", "onnx", random_seed=0)
    return read_bundle(folder / "two")


def test_on_a_gpu_the_device_is_asked_for_every_batch(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six sequences are two batches of four at most; whole ones are the one batch that was asked for."""
    (tmp_path / "lengths.txt").write_text("3 9")
    opened = bertc.open(bundle)
    runtime = replace(opened.runtime, phases=lambda given: Phases(1.0, float(given["input_ids"].size), 2.0), gpu="0:0")
    monkeypatch.setattr("bertc.bench.open", lambda path, device: Engine(opened.bundle, runtime))
    monkeypatch.setattr("bertc.bench.gpu_state", {"0:0": GPU}.get)
    shapes: dict[str, Any] = {"batch_sizes": (6,), "seqs": (16,), "protocol": Protocol(2, 0.0, 0.0)}
    drawn = bench(bundle, lengths=str(tmp_path / "lengths.txt"), **shapes)
    lengths = sorted(draw_lengths(str(tmp_path / "lengths.txt"), 6, 16), reverse=True)
    computed = 4.0 * lengths[0] + 2.0 * lengths[4]
    assert drawn.rows[0].engines[0].device_ms == Phases(2.0, computed, 4.0)
    assert drawn.rows[0].gpu == GPU
    assert bench(bundle, **shapes).rows[0].engines[0].device_ms == Phases(1.0, 96.0, 2.0)


def test_shapes_that_the_engine_does_not_take_are_refused_before_any_runs(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Drawn sequences are: they come in batches that it takes."""
    (tmp_path / "lengths.txt").write_text("3 9")
    opened, ran = bertc.open(bundle), list[int]()

    def check_shape(batch: int, seq: int) -> None:
        if batch > 4:
            raise error("B0702", f"{batch} of {seq} do not fit")

    def counted(inputs: Mapping[str, Any]) -> dict[str, Any]:
        ran.append(len(inputs["input_ids"]))
        return opened.runtime.run(inputs)

    runtime = replace(opened.runtime, run=counted, check_shape=check_shape)
    monkeypatch.setattr("bertc.bench.open", lambda path, device: Engine(opened.bundle, runtime))
    shapes: dict[str, Any] = {"batch_sizes": (2, 5), "seqs": (8,), "protocol": Protocol(2, 0.0, 0.0)}
    with pytest.raises(BertcError, match="5 of 8 do not fit"):
        bench(bundle, **shapes)
    assert ran == []
    bench(bundle, lengths=str(tmp_path / "lengths.txt"), **(shapes | {"seqs": (9,)}))
    assert ran


def test_progress_is_told(bundle: Path) -> None:
    told: list[tuple[str, int, int]] = []
    bench(bundle, protocol=Protocol(2, 0.0, 0.0), progress=lambda *step: told.append(step))
    assert told == [("2 x 8", 1, 2), ("2 x 8", 2, 2)]


WRONG: dict[str, tuple[list[str], int, str]] = {
    "a peer that is not there": (["--against", "onnxruntme"], 2, "did you mean `onnxruntime`?"),
    "too wide": (["--seq", "17"], 3, "at most 16 tokens, but 17 were asked for"),
    "too many": (
        ["--batch", "1,100000000"],
        3,
        "at most 16777216 tokens are measured at once, but 100000000 sequences",
    ),
    "no such lengths": (["--lengths", "sqaud"], 3, "lengths cannot be read from `sqaud`: No such file or directory\n"),
    "no such device": (["--device", "1"], 4, "there is no device 1"),
    "no such spec": (["--spec", "bert-bas"], 2, "did you mean `bert-base`?"),
    "a folder": (["--plot", ".", "--against", "nobody"], 3, "`.` cannot be written: a folder stands there"),
    "no folder": (["--plot", "/dev/null/x.svg", *QUICK], 3, "`/dev/null/x.svg` cannot be written"),
}


@pytest.mark.parametrize(("arguments", "code", "says"), WRONG.values(), ids=WRONG)
def test_wrong_input_gives_one_error(bundle: Path, arguments: list[str], code: int, says: str, capfd: Any) -> None:
    assert run(["bench", str(bundle), *arguments]) == code
    message = capfd.readouterr().err
    assert message.count("error[") == 1
    assert says in message


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--batch", "1,0"], "a whole number from 1 to 999999999, but `0`"),
        (["--seq", "1,,2"], "but `` was found"),
        (["--runs", "two"], "but `two` was found"),
        (["--price", "-3"], "a number above 0, but `-3`"),
        (["--duration", "nan"], "a number above 0, but `nan`"),
        (["--weights", "x"], "--weights needs --spec"),
    ],
)
def test_wrong_flags_are_usage_errors(bundle: Path, arguments: list[str], says: str, capfd: Any) -> None:
    with pytest.raises(SystemExit) as caught:
        run(["bench", str(bundle), *arguments])
    assert caught.value.code == 2
    assert says in capfd.readouterr().err
