"""What goes to standard output for other programs."""

from __future__ import annotations

import json


def document(schema: str, **content: object) -> int:
    """Print one JSON document that names its schema; the exit code of a command that has done so."""
    print(json.dumps({"schema": f"bertc-{schema}/1", **content}, indent=2))
    return 0
