"""YAML texts to trees that know their places.

PyYAML's event stream gives structure and places, and nothing more of PyYAML is used: its resolver follows YAML 1.1,
where `1e-12` is a text, `on` is true and `010` is eight, its constructor drops the first of two equal keys, and its C
parser overflows the stack. Anchors, aliases, tags, further documents and keys that are not words are refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import yaml

from bertc.errors import BertcError, Source, Span, error
from bertc.tree import Node, Places, TreeBuilder, resolve, shown

MAXIMUM_YAML = 1 << 16
"""Characters: PyYAML takes up to 5 µs for each. A shipped spec has 500."""


def read_yaml(source: Source) -> Node:
    """The one document of a YAML text.

    Raises B0201 for what is not YAML, B0202 beyond the bounds of bertc.tree, and all at once: B0204 for a key given
    twice and B0205 for what YAML has and a spec does not.
    """
    if len(source.text) > MAXIMUM_YAML:
        message = f"expected at most {MAXIMUM_YAML} characters of YAML, but there are {len(source.text)}"
        raise error("B0202", message, Span(source, 1, 1), "check that it is the file you mean")
    builder = TreeBuilder(source)
    documents = 0
    for event in _events(source):
        span = _span(source, event)
        _refuse_unused(builder, event, span)
        match event:
            case yaml.ScalarEvent(value=text, style=None):
                builder.add(text, resolve(text, span), span)
            case yaml.ScalarEvent(value=text):
                builder.add(text, text, span)
            case yaml.AliasEvent(anchor=name):
                builder.add(name, name, span)
            case yaml.MappingStartEvent():
                builder.open(span, is_mapping=True)
            case yaml.SequenceStartEvent():
                builder.open(span, is_mapping=False)
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                builder.close(span)
            case yaml.DocumentStartEvent():
                documents += 1
                if documents > 1:
                    message = "expected one document, but found a second after `---`"
                    raise error("B0205", message, span, "give each spec a file of its own")
            case _:
                pass  # the ends of documents, and of the stream
    return builder.finish()


def _refuse_unused(builder: TreeBuilder, event: yaml.Event, span: Span) -> None:
    if getattr(event, "anchor", None) is not None:
        builder.refuse("B0205", "anchors and aliases (`&`, `*`) have no use in a spec", span, "write the value out")
    if getattr(event, "tag", None) is not None:
        builder.refuse("B0205", "tags (`!`) have no use in a spec", span, "write the value alone")


def _events(source: Source) -> Iterator[yaml.Event]:
    try:
        yield from yaml.parse(source.text, Loader=yaml.SafeLoader)  # pyright: ignore[reportUnknownMemberType]
    except yaml.reader.ReaderError as problem:
        place = Places(source).span(problem.position)
        message = f"expected printable text, but found the character U+{ord(source.text[problem.position]):04X}"
        raise error("B0201", message, place, "write it as an escape in double quotes") from None
    except yaml.MarkedYAMLError as problem:
        raise _not_yaml(source, problem) from None
    except (ValueError, OverflowError):  # PyYAML hands the digits of escapes and directives to chr() and int()
        message = "expected YAML, but the number in an escape or directive is out of range"
        raise error("B0201", message, Span(source, 1, 1), "look for `\\U` and `%`") from None


def _span(source: Source, event: yaml.Event) -> Span:
    start, end = event.start_mark, event.end_mark
    length = end.column - start.column if end.line == start.line else len(source.text)
    return Span(source, start.line + 1, start.column + 1, max(1, length))


@dataclass(frozen=True)
class _Mistake:
    """What PyYAML says of a mistake, and what we say; the caret is at the mistake, or where the construct `opened`."""

    said: str
    message: str
    help: str
    opened: bool = False


_COLON = "keys line up and end in a colon and a space; a text with colons stands in quotes"
_MISTAKES = (
    _Mistake("found character '\\t'", "expected spaces, but found a tab", "indent with spaces"),
    _Mistake("found unexpected end of", "expected this quote to be closed, but the file ends", "close the quote", True),
    _Mistake("expected ',' or ']'", "expected this `[` to be closed, with `,` between its items", "add a `]`", True),
    _Mistake("expected ',' or '}'", "expected this `{` to be closed, with `,` between its items", "add a `}`", True),
    _Mistake("<stream end>", "expected a value, but the file ends", "close what is open: a quote, `[` or `{`"),
    _Mistake("expected the node content", "expected a value, but found none", "an item stands between two commas"),
    _Mistake("mapping values are not", "expected no colon here, but found one", _COLON),
    _Mistake("could not find expected ':'", "expected `key: value`, but found no colon", _COLON, True),
    _Mistake("expected <block end>", "expected this line to line up with those above", "check the indentation"),
    _Mistake("cannot start any token", "expected a value, but found a reserved character", "put the text in quotes"),
)


def _not_yaml(source: Source, problem: yaml.MarkedYAMLError) -> BertcError:
    said = problem.problem or "no reason is given"
    message = f"expected YAML, but it is not well formed: {shown(said, 100)}"
    unknown = _Mistake(said, message, "docs/spec.md shows how a spec is written")
    mistake = next((mistake for mistake in _MISTAKES if mistake.said in said), unknown)
    mark = problem.context_mark if mistake.opened and problem.context_mark else problem.problem_mark
    place = Span(source, mark.line + 1, mark.column + 1) if mark else Span(source, 1, 1)
    return error("B0201", mistake.message, place, mistake.help)
