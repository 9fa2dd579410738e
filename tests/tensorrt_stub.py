"""The interface of a TensorRT module as a Python stub: every class, member, signature and enumerated name.

`python tests/tensorrt_stub.py MODULE > tests/tensorrt_api/NAME.pyi` writes one from a module that is installed. Its C++
binding keeps signatures as the first line of a docstring, which is all that is read. The stubs of TensorRT itself were
made where it is installed, since its libraries are too large to be had for tests alone.

Of older versions the difference is enough: `python tests/tensorrt_stub.py OLDER.pyi NEWER.pyi > OLDER.lacks`.
"""

from __future__ import annotations

import re
import sys
from ast import AnnAssign, Assign, ClassDef, FunctionDef, Name, parse, unparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

ENUM, READ_ONLY, BASE = "enum member", "property (read-only)", "its base"

Members = Mapping[str, Any]
"""Name -> signatures of a method, "enum member", or "property" with its type after a colon, read-only or not."""

LEFT_OUT = ("_pybind11_conduit_v1_", "__enter__", "__exit__")

SPELLING = (
    (r"\b(?:tensorrt\w*\.)+", ""),
    (r"nvinfer1::|nvonnxparser::|v_1_0::|typing_extensions\.|typing\.|collections\.abc\.|numpy\.", ""),
    (r"SupportsInt", "int"),
    (r"SupportsFloat", "float"),
    (r"FallbackString", "str"),
    (r"\bPluginFieldCollection_\b", "PluginFieldCollection"),
    (r"\bCapsuleType\b|detail::accessor<[^>]*>+", "object"),
    (r"= <[^>]*>", "= ..."),
    (r"= None", "= ..."),
    (r"\bin: ", "in_: "),
    (r"= (?:''|0|1|True|False)", "= ..."),
    (r" = \.\.\.(?=.*, \w+: \w+\) ->)", ""),  # C++ lets a parameter without a default follow
)


@dataclass(frozen=True)
class Parameter:
    name: str
    type: str
    optional: bool


@dataclass(frozen=True)
class Signature:
    parameters: tuple[Parameter, ...]
    result: str

    def __str__(self) -> str:
        return f"({', '.join(f'{p.name}: {p.type}' for p in self.parameters)}) -> {self.result}"


@dataclass(frozen=True)
class Class:
    """A class of a stub."""

    name: str
    base: str | None
    members: tuple[str, ...]
    """Of an enumeration."""
    methods: Mapping[str, tuple[Signature, ...]]
    properties: Mapping[str, tuple[str, bool]]
    """Name -> its type, and whether it is read-only."""


def read_stub(text: str) -> list[Class]:
    """The classes of a stub, each after its base."""
    return [_class(node) for node in parse(text).body if isinstance(node, ClassDef)]


def _class(node: ClassDef) -> Class:
    methods: dict[str, tuple[Signature, ...]] = {}
    properties: dict[str, tuple[str, bool]] = {}
    members: list[str] = []
    for line in node.body:
        if isinstance(line, FunctionDef):
            methods[line.name] = (*methods.get(line.name, ()), _signature(line))
        elif isinstance(line, AnnAssign):
            type = unparse(line.annotation)
            read_only = type.startswith("Final[")
            properties[unparse(line.target)] = (type[len("Final[") : -1] if read_only else type, read_only)
        elif isinstance(line, Assign):
            members += [target.id for target in line.targets if isinstance(target, Name)]
    base = unparse(node.bases[0]) if node.bases and not members else None
    return Class(node.name, base, tuple(members), methods, properties)


def _signature(node: FunctionDef) -> Signature:
    given = node.args.args[1:]
    required = len(given) - len(node.args.defaults)
    parameters = (Parameter(p.arg, unparse(p.annotation), place >= required) for place, p in enumerate(given))
    return Signature(tuple(parameters), unparse(node.returns))


def names_in(text: str) -> set[str]:
    """The classes of a stub, and their members as `Class.member`."""
    classes = read_stub(text)
    members = {f"{of.name}.{name}" for of in classes for name in (*of.members, *of.methods, *of.properties)}
    return members | {of.name for of in classes}


def lacking(older: str, newer: str) -> list[str]:
    """What a stub has and that of an older version has not; of a class that is not there, its name alone."""
    found = names_in(newer) - names_in(older)
    return sorted(name for name in found if "." not in name or name.split(".")[0] not in found)


def read_module(module: Any) -> Mapping[str, Members]:
    """The members of every public class of a module."""
    found: dict[str, dict[str, Any]] = {}
    for name, value in sorted(vars(module).items()):
        if isinstance(value, type) and not name.startswith("_") and not issubclass(value, BaseException | dict):
            found[name] = {member: text for member in sorted(dir(value)) if (text := _member(value, member))}
            if hasattr(module, value.__bases__[0].__name__):
                found[name][BASE] = value.__bases__[0].__name__
    return found


def stub(classes: Mapping[str, Members]) -> str:
    """The stub's text: a class for each, with what it does not inherit."""
    bases = {name: members.get(BASE) for name, members in classes.items()}
    lines: list[str] = []
    for name in sorted(classes, key=lambda name: (_depth(name, bases), name)):
        base = bases[name]
        if names := [member for member, value in classes[name].items() if value == ENUM]:
            lines += [f"class {name}(Enum):", f"    {' = '.join(sorted(names))} = ..."]
            continue
        lines.append(f"class {name}({base}):" if base else f"class {name}:")
        inherited = classes[base] if base else {}
        own = [
            line
            for member in sorted(classes[name].keys() - {BASE})
            for line in _lines(member, classes[name], inherited, name)
        ]
        lines += [f"    {line}" for line in own] or ["    ..."]
    return "\n".join(lines) + "\n"


def _member(owner: type, name: str) -> Any:
    if name in LEFT_OUT or (name.startswith("__") and name != "__init__"):
        return None
    value = getattr(owner, name, None)
    if name in getattr(owner, "__members__", {}):
        return ENUM
    if isinstance(value, property):
        kind = "property" if value.fset else READ_ONLY
        signature = (value.fset or value.fget).__doc__ or ""
        type = re.search(r"arg1: (.*)\) ->" if value.fset else r"-> (.*)", signature)
        return f"{kind}: {type[1]}" if type else kind
    documented = (getattr(value, "__doc__", None) or "").strip().splitlines()
    return [line for line in documented if re.match(rf"(\d+\. )?{name}\(", line)] or None


def _depth(name: str, bases: Mapping[str, str | None]) -> int:
    base = bases.get(name)
    return 0 if base is None else 1 + _depth(base, bases)


def _signatures(value: Any) -> Sequence[str]:
    if isinstance(value, str):
        return ()
    return [line for line in value if "*args, **kwargs" not in line]


def _lines(name: str, members: Members, inherited: Members, owner: str) -> Iterator[str]:
    value = members[name]
    if isinstance(value, str):
        if inherited.get(name) == value:
            return
        kind, _, type = value.partition(": ")
        type = _spelt(type) or "object"
        yield f"{name}: Final[{type}]" if kind == READ_ONLY else f"{name}: {type}"
        return
    lines = _signatures(value)
    for line in lines:
        if f"(self: {owner}" not in _spelt(line):
            continue
        text = re.sub(r"self: \w+", "self", _spelt(re.sub(r"^\d+\. ", "", line)))
        if len(lines) > 1:
            yield "@overload"
        yield f"def {text}: ..."


def _spelt(text: str) -> str:
    for pattern, replacement in SPELLING:
        text = re.sub(pattern, replacement, text)
    return text.strip()


if __name__ == "__main__":
    module, *newer = sys.argv[1:]
    if newer:
        names = lacking(Path(module).read_text("utf-8"), Path(newer[0]).read_text("utf-8"))
        sys.stdout.writelines(f"{name}\n" for name in names)
    else:
        sys.stdout.write(stub(read_module(import_module(module))))
