"""JSON texts (RFC 8259) to trees that know their places: for configurations that other programs wrote.

The standard library says whether the text is JSON; its tokens then say where everything stands.
"""

from __future__ import annotations

import json
import re

from bertc.errors import Source, error
from bertc.tree import Node, Places, TreeBuilder, resolve, too_deep

_TOKEN = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[\]{}]|[^\s\[\]{}:,"]+')


def read_json(source: Source) -> Node:
    """The value of a JSON text.

    Raises B0201 for what is not JSON (NaN and Infinity are not), B0202 beyond the bounds of bertc.tree, B0204 for keys
    given twice.
    """
    places = Places(source)
    try:
        json.loads(source.text, parse_int=str, parse_float=str)
    except json.JSONDecodeError as problem:
        message = f"expected JSON, but it is not well formed: {problem.msg}"
        raise error("B0201", message, places.span(problem.pos), "check that the file is whole") from None
    except RecursionError:
        raise too_deep(places.span(0)) from None
    builder = TreeBuilder(source)
    for match in _TOKEN.finditer(source.text):
        token, span = match[0], places.span(match.start(), len(match[0]))
        match token[0]:
            case "{" | "[":
                builder.open(span, is_mapping=token == "{")
            case "}" | "]":
                builder.close(span)
            case '"':
                text = json.loads(token)
                builder.add(text, text, span)
            case _ if token.endswith(("NaN", "Infinity")):
                raise error("B0201", f"expected a number, but JSON has no `{token}`", span, "write a finite number")
            case _:
                builder.add(token, resolve(token, span), span)
    return builder.finish()
