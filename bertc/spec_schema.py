"""The table of a spec's fields as a JSON Schema, for editors, and as Markdown, for docs/reference.

python -m bertc.spec_schema > bertc/specs/schema.json
"""

from __future__ import annotations

import json
import sys
from typing import Any

from bertc.spec_fields import SPEC, Choice, Either, Field, Items, Kind, Real, Section, Text, Whole, describe


def schema_text() -> str:
    """JSON Schema, draft 2020-12 (https://json-schema.org/draft/2020-12)."""
    document = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "bertc spec",
        "description": "A transformer encoder, as bertc compiles it",
        **_schema(SPEC),
    }
    required = {"required": document.pop("required"), "properties": {"sizes": {"required": _sizes_required(document)}}}
    document["anyOf"] = [{"required": ["base"]}, required]
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _sizes_required(document: dict[str, Any]) -> list[str]:
    """A base may give any of the sizes, so what they need is asked for where the base is not."""
    return document["properties"]["sizes"].pop("required")


def _schema(kind: Kind) -> dict[str, Any]:
    match kind:
        case Whole(smallest, largest):
            return {"type": "integer", "minimum": smallest, "maximum": largest}
        case Real(above, below):
            return {"type": "number", "exclusiveMinimum": above, "exclusiveMaximum": below}
        case Text(_, pattern):
            return {"type": "string", "pattern": f"^({pattern})$"}
        case Choice(names):
            return {"enum": list(names)}
        case Items(item, fewest, most):
            several = {"type": "array", "items": _schema(item), "minItems": fewest, "maxItems": most}
            return {"anyOf": [_schema(item), several]} if kind.or_one else several
        case Either(forms):
            return {"anyOf": [_schema(form) for form in forms]}
        case Section(_, fields):
            properties = {declared.name: _field_schema(declared) for declared in fields}
            required = [declared.name for declared in fields if declared.required]
            found = {"type": "object", "properties": properties, "additionalProperties": False}
            return found | {"required": required} if required else found


def _field_schema(declared: Field) -> dict[str, Any]:
    default = {} if declared.default is None else {"default": declared.default}
    return {"description": declared.meaning, **default, **_schema(declared.kind)}


def table_text() -> str:
    """One row for each field: key, value, default, meaning."""
    rows = ["| key | value | default | meaning |", "|---|---|---|---|", *_rows(SPEC, "")]
    return "\n".join(rows) + "\n"


def _rows(section: Section, prefix: str) -> list[str]:
    rows: list[str] = []
    for declared in section.fields:
        path = prefix + declared.name
        value = "a mapping" if isinstance(declared.kind, Section) else describe(declared.kind)
        rows.append(f"| `{path}` | {value} | {_default(declared)} | {declared.meaning} |")
        if isinstance(declared.kind, Section):
            rows += _rows(declared.kind, f"{path}.")
    return rows


def _default(declared: Field) -> str:
    if declared.required:
        return "required"
    if declared.default is None:
        return ""
    return f"`{json.dumps(declared.default)}`".replace('"', "")


if __name__ == "__main__":
    sys.stdout.write(schema_text())
