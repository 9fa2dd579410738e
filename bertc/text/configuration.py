"""JSON files that come with a model, as one: what a key says is what the first file says that has it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bertc.errors import error
from bertc.json_reader import read_json
from bertc.tree import MappingNode, Node, ScalarNode, read_source


@dataclass(frozen=True)
class Configuration:
    trees: tuple[MappingNode, ...]

    def node(self, key: str) -> Node | None:
        """What stands under a key; None where it is null or in no file."""
        found = (tree.get(key) for tree in self.trees)
        return next((node for node in found if not isinstance(node, ScalarNode | None) or _is_given(node)), None)

    def text(self, key: str) -> str | None:
        """None where there is none, or something else than a text."""
        node = self.node(key)
        return node.value if isinstance(node, ScalarNode) and isinstance(node.value, str) else None

    def number(self, key: str) -> int | None:
        """None where there is none, or something else than a whole number."""
        node = self.node(key)
        return node.value if isinstance(node, ScalarNode) and type(node.value) is int else None

    def flag(self, key: str, default: bool) -> bool:
        """Raises B0902 for what is neither true nor false."""
        match self.node(key):
            case None:
                return default
            case ScalarNode(value=bool() as value):
                return value
            case node:
                message = f"expected `{key}` to be true or false, but found another value"
                raise error("B0902", message, node.span, "copy the file again from where the model is from")


def _is_given(node: ScalarNode | None) -> bool:
    return node is not None and node.value is not None


def read_configuration(folder: Path, *names: str) -> Configuration:
    """Of the files that are there. Raises B0201 and B0202 for what is no JSON, B0902 for what is no mapping."""
    trees = [read_json(read_source(folder / name)) for name in names if (folder / name).is_file()]
    for tree in trees:
        if not isinstance(tree, MappingNode):
            help = "copy the file again from where the model is from"
            raise error("B0902", "expected a mapping of keys to values, but found something else", tree.span, help)
    return Configuration(tuple(tree for tree in trees if isinstance(tree, MappingNode)))
