"""docs/reference is what docs/generate.py makes of the declarations, and leaves nothing out.

BERTC_GOLDEN=write, or the script itself, writes it anew.
"""

from __future__ import annotations

import os
import runpy
from pathlib import Path

import pytest

from bertc.codes import CODES
from bertc.passes import CHOSEN, FINISH, FUSIONS
from bertc.plugins import OPS
from bertc.spec_fields import SPEC

DOCS = Path(__file__).parent.parent / "docs"
GENERATE = runpy.run_path(str(DOCS / "generate.py"))
PAGES: dict[str, str] = GENERATE["reference"]()


@pytest.mark.parametrize("name", PAGES)
def test_it_is_current(name: str) -> None:
    if os.environ.get("BERTC_GOLDEN") == "write":
        GENERATE["write"](PAGES)
    assert (DOCS / "reference" / name).read_text("utf-8") == PAGES[name], "python docs/generate.py"


def test_there_are_no_other_pages() -> None:
    assert {path.name for path in (DOCS / "reference").iterdir()} == set(PAGES)


def test_nothing_is_left_out() -> None:
    assert [name for name in OPS if f"\n### {name}\n\n`{name}(" not in PAGES["ops.md"]] == []
    assert [name for name in (*FUSIONS, *FINISH, *CHOSEN) if f"\n## {name}\n" not in PAGES["passes.md"]] == []
    assert [code for code in CODES if f"\n| `{code}` |" not in PAGES["codes.md"]] == []
    assert [field.name for field in SPEC.fields if f"\n| `{field.name}` |" not in PAGES["spec.md"]] == []


def test_every_op_says_its_equation() -> None:
    assert [op.name for op in OPS.values() if not op.equation] == []
