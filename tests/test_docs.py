"""The documents say what bertc does: their dumps are made here, their examples run.

Set BERTC_GOLDEN=write to write the dumps anew.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from difflib import ndiff
from pathlib import Path

import pytest
from documents import DOCUMENTS, Block, Runner, blocks

import bertc
from bertc.errors import Source
from bertc.spec import parse_spec

ROOT = Path(__file__).parent.parent
START, END = "<!-- dumps -->\n", "<!-- end of dumps -->\n"


def dumps() -> Iterator[str]:
    """What changes at each stage, a section each; the elaborated graph stands whole."""
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    (spec,) = re.findall(r"^base: .*\nsizes: .*\n", text, re.MULTILINE)
    before: list[str] = []
    for stage in bertc.stages(parse_spec(Source("one-layer.yaml", spec)), "onnx"):
        after = stage.graph.to_text().splitlines()
        changed = [line for line in ndiff(before, after) if line[0] in "+-"] if before else after
        fence = "diff" if before else "net"
        before = after
        what = "\n".join([f"```{fence}", *changed, "```"]) if changed else "Nothing to do here."
        yield f"### {stage.name}\n\n{what}\n\n"


def test_architecture_shows_every_stage() -> None:
    path = ROOT / "docs" / "architecture.md"
    text = path.read_text("utf-8")
    head, rest = text.split(START)
    tail = rest.split(END)[1]
    expected = head + START + "".join(dumps()) + END + tail
    if os.environ.get("BERTC_GOLDEN") == "write":
        path.write_text(expected, "utf-8")
    assert path.read_text("utf-8") == expected


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_block_does_what_it_says(
    document: str, minilm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("all-MiniLM-L6-v2").symlink_to(minilm)
    runner = Runner()
    for block in blocks(document):
        runner.do(block)


def links(document: Path) -> set[Path]:
    """The files of the repository that a document leads to."""
    targets = re.findall(r"\]\(([\w./-]+\.\w+)\)", document.read_text("utf-8"))
    return {(document.parent / target).resolve() for target in targets}


def test_the_readme_leads_to_every_document() -> None:
    found, waiting = set[Path](), [ROOT / "README.md"]
    while waiting:
        document = waiting.pop()
        assert document.is_file(), document
        if document not in found:
            found.add(document)
            waiting += links(document) if document.suffix == ".md" else ()
    assert {ROOT / document for document in DOCUMENTS} <= found
    assert set(ROOT.glob("docs/images/*.png")) <= found


WRONG = {
    "bertc inspect bert-bse --passes": ("sh", "ended with 2"),
    "# needs a GPU\nbertc build bert-base --targte cuda": ("sh", "is no argument"),
    "# needs time\nmake nothing": ("sh", "make nothing"),
    "# needs time\npip install bertc[nothing]": ("sh", "nothing"),
    "rm -rf out": ("sh", "do not use"),
    "print(1 / 0)": ("python", "ZeroDivisionError"),
    "not printed": ("text", "is not what was printed"),
    "x": ("cobol", "no language"),
}


@pytest.mark.parametrize(("text", "expected"), WRONG.items(), ids=WRONG)
def test_a_block_that_is_wrong_fails(
    text: str, expected: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    language, said = expected
    with pytest.raises(AssertionError, match=said):
        Runner().do(Block(language, f"{text}\n", 1))
