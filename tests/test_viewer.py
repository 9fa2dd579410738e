"""The viewer's page in headless Chromium: it opens, steps, searches, unfolds, and says nothing on its console."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from chromium import Chromium
from conftest import small_spec

import bertc
from bertc.cli import run
from bertc.elaborate import read_graph
from bertc.parser import parse_graph
from bertc.passes import FINISH, FUSIONS, Stage
from bertc.viewer import page, spec_subject, view

FOLDED = "[data-fold]"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    with Chromium() as browser:
        yield browser


@pytest.fixture
def browser(chromium: Chromium) -> Iterator[Chromium]:
    """At 1280 x 800, and silent to the end of the test."""
    chromium.problems.clear()
    chromium.size(1280, 800)
    chromium.scheme("light")
    yield chromium
    assert chromium.problems == []


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("view") / "bert-large.html"
    assert run(["view", "bert-large", "--no-open", "-o", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("view") / "small.html"
    path.write_text(view([spec_subject(small_spec(), "onnx")]), "utf-8")
    return path


def count(browser: Chromium, selector: str) -> int:
    return browser.evaluate(f"document.querySelectorAll({json.dumps(selector)}).length")


def text(browser: Chromium, selector: str) -> str:
    return browser.evaluate(f"document.querySelector({json.dumps(selector)}).innerText")


def ops(browser: Chromium, classes: str) -> list[str]:
    """The ops of the boxes with these classes, as they stand in the document."""
    return browser.evaluate(f"[...document.querySelectorAll('.node{classes} .op')].map(op => op.textContent)")


def unfed(browser: Chromium) -> list[str]:
    """Boxes that no line leads to, of those that read something."""
    return browser.evaluate(
        """(() => {
            const lines = [...document.querySelectorAll('.line')];
            const ends = lines.map(line => line.getPointAtLength(line.getTotalLength()));
            return [...document.querySelectorAll('.node')].filter(node => !node.matches('.input')).filter(node => {
                const [x, y] = node.getAttribute('transform').match(/-?[0-9.]+/g).map(Number);
                const middle = x + Number(node.querySelector('.box').getAttribute('width')) / 2;
                return !ends.some(end => Math.abs(end.x - middle) < 2 && Math.abs(end.y - y) < 2);
            }).map(node => node.dataset.key);
        })()"""
    )


def chosen(browser: Chromium) -> str:
    """The pass that is shown."""
    return text(browser, "#timeline [aria-selected=true] b")


def node(key: str, went: bool = False) -> str:
    return f'.node[data-key="{key}"][data-went="{int(went)}"]'


# ----------------------------------------------------------------------------------------------------------- bert-large


def test_bert_large_is_small_and_opens(browser: Chromium, large: Path) -> None:
    assert large.stat().st_size < 2_000_000
    started = time.perf_counter()
    browser.open(large)
    opened = time.perf_counter() - started
    print(f"{large.stat().st_size / 1e6:.2f} MB, opened in {opened * 1e3:.0f} ms")
    names = browser.evaluate("[...document.querySelectorAll('#timeline b')].map(name => name.textContent)")
    assert names == ["elaborate", *FUSIONS, *FINISH]
    assert chosen(browser) == "drop_unused"
    assert int(browser.evaluate("document.documentElement.dataset.ready")) > 0


def test_arrow_keys_step_and_show_what_went_and_came(browser: Chromium, large: Path) -> None:
    browser.open(large)
    browser.press("Home")
    assert chosen(browser) == "elaborate"
    assert count(browser, ".node.went") == count(browser, ".node.came") == 0
    for name in FUSIONS[: FUSIONS.index("fuse_attention") + 1]:
        browser.press("ArrowDown")
        assert chosen(browser) == name
    assert ops(browser, ".came") == ["attention"]
    assert sorted(ops(browser, ".went")) == ["matmul", "matmul", "reshape", "scaled_softmax", "transpose", "transpose"]
    assert "attention ← transpose, matmul, scaled_softmax, matmul, transpose, reshape × 24" in text(browser, "#details")
    browser.press("ArrowUp")
    assert chosen(browser) == "fuse_scaled_softmax"
    browser.press("End")
    browser.press("ArrowRight")
    assert chosen(browser) == "drop_unused"


def test_fused_and_replaced_ops_are_linked_both_ways(browser: Chromium, large: Path) -> None:
    browser.open(large, "#pass=fuse_attention&view=changes")
    browser.click(node("encoder.0.merged"))
    assert "came" in text(browser, "#details h2")
    assert count(browser, ".node.went.linked") == 6
    links = browser.evaluate("[...document.querySelectorAll('#details [data-gone=\"1\"]')].map(to => to.dataset.go)")
    assert links[:3] == ["encoder.0.transpose", "encoder.0.matmul", "encoder.0.softmax"]
    browser.click('#details [data-go="encoder.0.softmax"][data-gone="1"]')
    assert "scaled_softmax" in text(browser, "#details h2")
    assert text(browser, "#details .tag") == "went"
    assert count(browser, ".node.came.linked") == 1
    browser.click('#details [data-go="encoder.0.merged"]')
    assert text(browser, "#details .key") == "encoder.0.merged"
    assert "attention" in text(browser, "#details h2")


def test_layers_unfold_and_fold(browser: Chromium, large: Path) -> None:
    browser.open(large, "#pass=drop_unused&view=graph")
    assert len(ops(browser, "")) == 23
    assert unfed(browser) == []
    browser.click(FOLDED)
    assert unfed(browser) == []
    found = ops(browser, "")
    assert found.count("attention") == 24
    assert found.count("skip_norm") == 48
    tops = browser.evaluate(
        "[...document.querySelectorAll('.node[data-key$=\".merged\"]')].map(node => node.getBoundingClientRect().top)"
    )
    assert tops == sorted(set(tops))
    browser.press("u")
    assert ops(browser, "").count("attention") == 1
    browser.click('[aria-label="The next layer"]')
    assert count(browser, node("encoder.1.merged")) == 1
    assert count(browser, node("encoder.0.merged")) == 0


def test_search_goes_to_the_layer_that_it_finds(browser: Chromium, large: Path) -> None:
    browser.open(large, "#pass=drop_unused&view=graph")
    browser.press("/")
    browser.type("matmul 17.ffn")
    assert count(browser, "#found li") == 2
    browser.press("Enter")
    assert text(browser, "#details .key") == "encoder.17.ffn.up.matmul"
    assert count(browser, node("encoder.17.ffn.up.matmul") + ".selected.match") == 1
    browser.press("Enter")
    assert text(browser, "#details .key") == "encoder.17.ffn.down.matmul"
    inside = browser.evaluate(
        """(() => { const box = document.querySelector('.node.selected').getBoundingClientRect(),
        frame = document.querySelector('main').getBoundingClientRect();
        return box.top > frame.top && box.bottom < frame.bottom && box.left > frame.left
            && box.right < frame.right; })()"""
    )
    assert inside
    browser.press("Escape")
    assert count(browser, ".searching") == 0


def test_a_node_tells_all(browser: Chromium, large: Path) -> None:
    browser.open(large, "#pass=drop_unused&view=graph&node=encoder.5.ffn.up.matmul")
    details = text(browser, "#details")
    for expected in (
        "z[..., i, j] = Σₖ x[..., i, k] · y[..., k, j]",
        "f32[batch, seq, 4096]",
        "encoder.5.ffn.up.weight",
        "encoder.layer.5.intermediate.dense.weight",
        "8.59 GFLOP",  # 2 · 8 · 128 · 1024 · 4096
        "8 388 608 · batch · seq",
        "228 FLOP/B",
        "native",
    ):
        assert expected in details
    assert "return matmul(x, transpose(weight, [1, 0]))" in text(browser, "#details pre .here")
    assert text(browser, "#details pre .here b") == "matmul(x, transpose(weight, [1, 0]))"


def test_sizes_can_be_changed(browser: Chromium, large: Path) -> None:
    browser.open(large, "#pass=drop_unused&view=graph&node=encoder.5.ffn.up.matmul")
    browser.evaluate(
        """(() => { const it = document.getElementById('batch');
        it.value = 16;
        it.dispatchEvent(new Event('input')); })()"""
    )
    assert "17.18 GFLOP" in text(browser, "#details")


def test_why_a_rule_did_not_fire(browser: Chromium, large: Path) -> None:
    """The reason is that of `bertc explain`; the pass can be chosen without going there."""
    browser.open(large, "#pass=fuse_embed_norm&view=changes&node=encoder.0.attention.norm")
    reason = text(browser, "#details .reason")
    assert "`add` was expected, but `encoder.0.attention.output` is" in reason or "embedding" in reason
    browser.evaluate(
        """(() => { const it = document.getElementById('why');
        it.value = [...it.options].find(option => option.text === 'fuse_skip_norm').value;
        it.dispatchEvent(new Event('change', {bubbles: true})); })()"""
    )
    assert "fires here" in text(browser, "#details .reason")
    assert chosen(browser) == "fuse_embed_norm"


# ------------------------------------------------------------------------------------------------------ other documents


def profile(graph: Any, slowest: str) -> Sequence[Mapping[str, Any]]:
    keys = [node.key for node in graph if not graph.is_constant(node.key) and node.op != "input"]
    return [{"count": 9}, *({"name": key, "averageMs": 4.0 if key == slowest else 0.5} for key in keys)]


def test_times_make_the_slowest_hot(browser: Chromium, tmp_path: Path) -> None:
    spec = small_spec()
    slowest = "encoder.1.merged"
    (tmp_path / "p.json").write_text(json.dumps(profile(bertc.compile(spec), slowest)))
    (tmp_path / "x.html").write_text(view([spec_subject(spec)], tmp_path / "p.json"), "utf-8")
    browser.open(tmp_path / "x.html")
    assert text(browser, "#details table .to") == "merged"
    browser.click("#details table .to")
    assert text(browser, "#details .key") == slowest
    assert "4 ms" in text(browser, "#details")
    heat = browser.evaluate(
        "Object.fromEntries([...document.querySelectorAll('.node:has(.heat)')].map("
        "node => [node.dataset.key, Number(node.querySelector('.heat').getAttribute('opacity'))]))"
    )
    assert max(heat, key=lambda key: heat[key]) == slowest
    assert "mask.lengths" in heat
    assert "input_ids" not in heat


def test_two_side_by_side(browser: Chromium, tmp_path: Path) -> None:
    one, other = small_spec(), small_spec("bert-base", norm_eps="0.001", without="[fuse_bias_gelu]")
    (tmp_path / "x.html").write_text(view([spec_subject(one), spec_subject(other)]), "utf-8")
    browser.open(tmp_path / "x.html")
    first, second = (f".canvas:nth-child({number})" for number in (1, 2))
    assert count(browser, f"{first} .node.only") == 0
    assert ops(browser, ".only") == ["add"]
    assert count(browser, f"{second} {node('encoder.0.ffn.up')}.only") == 1
    differing = browser.evaluate(
        f"[...document.querySelectorAll('{first} .node.differs')].map(node => node.dataset.key)"
    )
    assert sorted(differing) == ["embeddings.norm", "encoder.0.attention.norm", "encoder.0.ffn.norm", "encoder.0.gelu"]
    browser.click(f"{first} {node('embeddings.norm')}")
    assert "eps=0.001" in text(browser, "#details")
    assert count(browser, ".node.selected") == 2
    browser.press("ArrowUp")
    assert text(browser, f"{second} h3") == "small: set_precision"


def test_a_bundle_has_its_one_graph(browser: Chromium, tmp_path: Path) -> None:
    bertc.build(small_spec(), tmp_path / "x", "onnx", random_seed=0)
    assert run(["view", str(tmp_path / "x"), "--no-open", "-o", str(tmp_path / "x.html")]) == 0
    browser.open(tmp_path / "x.html")
    assert chosen(browser) == "bundle"
    browser.click(node("encoder.0.merged"))
    assert "operator" in text(browser, "#details")
    assert "graph.net" in text(browser, "#details")


def test_layers_that_take_turns_unfold_too(browser: Chromium, tmp_path: Path) -> None:
    """A unit of three layers, four times: turned, its boxes are those of the next three; unfolded, all are there."""
    text_of = ["graph(x: f32[batch, 8]):", "    encoder.0.y = tanh(x)"]
    for number in range(1, 13):
        text_of.append(f"    encoder.{number}.y = {'gelu' if number % 3 else 'relu'}(encoder.{number - 1}.y)")
    graph = read_graph(parse_graph("\n".join([*text_of, "    return encoder.12.y", ""])))
    subject = replace(spec_subject(small_spec()), stages=(Stage("only", graph, 0, 0.0),))
    (tmp_path / "x.html").write_text(view([subject]), "utf-8")
    browser.open(tmp_path / "x.html")
    keys = "[...document.querySelectorAll('.node')].map(node => node.dataset.key).filter(key => key.startsWith('enc'))"
    assert sorted(browser.evaluate(keys)) == ["encoder.0.y", "encoder.1.y", "encoder.2.y", "encoder.3.y"]
    browser.click(node("encoder.2.y"))
    browser.click('[aria-label="The layer before"]')
    assert sorted(browser.evaluate(keys)) == ["encoder.0.y", "encoder.10.y", "encoder.11.y", "encoder.12.y"]
    assert text(browser, "#details .key") == "encoder.11.y"
    browser.click(FOLDED)
    assert sorted(browser.evaluate(keys)) == sorted(f"encoder.{number}.y" for number in range(13))


@pytest.mark.parametrize(
    "lines",
    [
        ["graph(x: f32[4]):", "    y = gelu(x)", "    return y"],
        ["graph(größe: f32[4]):", "    return größe"],
        ["graph(w: weight[4]):", "    y = gelu(w)", "    return y"],
    ],
    ids=["one op", "none", "constants alone"],
)
def test_the_smallest_graphs_take_every_key(browser: Chromium, tmp_path: Path, lines: list[str]) -> None:
    graph = read_graph(parse_graph("\n".join([*lines, ""])))
    subject = replace(spec_subject(small_spec()), stages=(Stage("only", graph, 0, 0.0),))
    (tmp_path / "x.html").write_text(view([subject]), "utf-8")
    browser.open(tmp_path / "x.html")
    for key in ("1", "2", "3", "j", "k", "n", "p", "u", "f", "0", "+", "-", "t", "Home", "End", "Escape"):
        browser.press(key)
    assert chosen(browser) == "only"
    assert count(browser, ".node") == len(list(graph)) + len(graph.outputs)


def test_the_focus_stays_where_the_keyboard_has_it(browser: Chromium, large: Path) -> None:
    """What is pressed is drawn anew; its next state has the focus, so that it can be pressed again."""
    browser.open(large, "#pass=drop_unused&view=graph")
    focused = "document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent"

    def press_on(selector: str, key: str = "Enter") -> str:
        browser.evaluate(f"document.querySelector({json.dumps(selector)}).focus()")
        browser.press(key)
        return browser.evaluate(focused)

    assert press_on('[aria-label="The next layer"]') == "The next layer"
    browser.press("Enter")
    assert count(browser, node("encoder.2.merged")) == 1
    assert press_on(FOLDED) == "Fold 24 layers that are alike"
    browser.press(" ")
    assert browser.evaluate(focused) == "Unfold 24 layers that are alike"
    assert press_on(node("encoder.2.merged")) == "attention encoder.2.merged"
    assert text(browser, "#details .key") == "encoder.2.merged"
    assert press_on('#details [data-go="mask.padding_mask"]') == "Details"
    assert press_on('[data-view="constants"]') == "With constants"


def test_constants_can_be_shown(browser: Chromium, small: Path) -> None:
    browser.open(small)
    assert count(browser, ".node.constant") == 0
    browser.press("3")
    assert count(browser, ".node.constant") > 20
    browser.press("/")
    browser.type("pooler.weight")
    browser.press("Enter")
    browser.press("Escape")
    browser.click(node("pooler.weight"))
    assert "f32[24, 24]" in text(browser, "#details")
    browser.press("2")
    assert count(browser, ".node.constant") == 0


def test_walking_with_the_keyboard(browser: Chromium, small: Path) -> None:
    browser.open(small)
    for key, expected in (("j", "input_ids"), ("j", "embeddings.norm"), ("k", "input_ids"), ("n", "attention_mask")):
        browser.press(key)
        assert text(browser, "#details .key") == expected
    browser.press("Escape")
    assert text(browser, "#details h2") == "drop_unused"
    browser.press("?")
    assert browser.evaluate("document.getElementById('help').open")


def test_light_and_dark(browser: Chromium, small: Path) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    browser.open(small)
    light = browser.evaluate(ground)
    browser.press("t")
    dark = browser.evaluate(ground)
    assert light != dark
    browser.scheme("dark")
    browser.open(small)
    assert browser.evaluate(ground) == dark
    browser.click("#theme")
    assert browser.evaluate(ground) == light


def test_every_control_has_a_name(browser: Chromium, small: Path) -> None:
    """As a screen reader gets them: the browser's own accessibility tree."""
    browser.open(small, "#pass=fuse_attention&view=changes&node=encoder.0.merged")
    nodes = browser.call("Accessibility.getFullAXTree")["nodes"]
    controls = (
        "button",
        "combobox",
        "spinbutton",
        "option",
        "radio",
        "listbox",
        "searchbox",
        "complementary",
        "navigation",
    )
    found = [one for one in nodes if not one["ignored"] and one["role"]["value"] in controls]
    assert len(found) > 40
    assert [one["role"]["value"] for one in found if not one["name"]["value"].strip()] == []
    names = [one["name"]["value"] for one in found]
    assert "attention encoder.0.merged, came" in names


@pytest.mark.parametrize("width", [375, 1280])
def test_it_fits_the_screen(browser: Chromium, small: Path, width: int) -> None:
    browser.size(width, 844, mobile=width < 900)
    browser.open(small, "#pass=fuse_attention&view=changes")
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate("document.querySelector('svg.graph').getBoundingClientRect().height") > 200
    browser.click(node("encoder.0.merged"))
    assert text(browser, "#details .key") == "encoder.0.merged"
    assert browser.evaluate("parseFloat(getComputedStyle(document.getElementById('details')).fontSize)") >= 13


def test_texts_of_a_document_stay_texts(browser: Chromium, tmp_path: Path) -> None:
    """Names and sources are somebody's: none of them becomes an element or runs."""
    from bertc.viewer.document import document

    evil = "</script><img src=x onerror=alert(1)><script>window.hit = 1</script>"
    content = document([spec_subject(small_spec())], None, histograms=False)
    content["sides"][0]["name"] = evil
    content["sources"] = dict.fromkeys(content["sources"], f"{evil}\n" * 90)
    (tmp_path / "x.html").write_text(page(evil, content), "utf-8")
    browser.open(tmp_path / "x.html", "#node=encoder.0.merged")
    assert "onerror" in text(browser, "#details pre")
    assert count(browser, "img") == 0
    assert browser.evaluate("window.hit") is None
