"""What is derived from the table of fields: the JSON Schema; docs/reference has the table."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from bertc.errors import Source
from bertc.spec import parse_spec
from bertc.spec_fields import SPEC, Field, Section
from bertc.spec_schema import schema_text

ROOT = Path(__file__).parents[1]


def test_the_schema_is_the_derived_one() -> None:
    found = (ROOT / "bertc" / "specs" / "schema.json").read_text("utf-8")
    assert found == schema_text(), "python -m bertc.spec_schema > bertc/specs/schema.json"


def fields(section: Section) -> list[Field]:
    return [
        inner
        for declared in section.fields
        for inner in (declared, *(fields(declared.kind) if isinstance(declared.kind, Section) else []))
    ]


@pytest.mark.parametrize("declared", fields(SPEC), ids=lambda declared: declared.name)
def test_every_field_says_what_it_means(declared: Field) -> None:
    assert declared.meaning
    assert "|" not in declared.meaning  # it would break the table
    assert not (declared.required and declared.default is not None)


def test_the_schema_knows_all_keys_and_no_others() -> None:
    schema = json.loads(schema_text())
    assert schema["additionalProperties"] is False
    assert list(schema["properties"]) == [declared.name for declared in SPEC.fields]
    assert schema["properties"]["sizes"]["properties"]["heads"] == {
        "description": "attention heads",
        "type": "integer",
        "minimum": 1,
        "maximum": 1024,
    }
    needs: list[Any] = schema["anyOf"]
    assert needs[0] == {"required": ["base"]}
    assert needs[1]["required"] == ["sizes", "norm_eps", "activation"]
    assert "labels" not in needs[1]["properties"]["sizes"]["required"]


def test_the_examples_of_the_documentation_are_specs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my-rules.net").touch()
    examples = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "spec.md").read_text("utf-8"), re.DOTALL)
    assert len(examples) == 3
    for text in examples:
        parse_spec(Source("example.yaml", text))
