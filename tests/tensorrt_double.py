"""A strict double of a `tensorrt` module: it takes what the real one takes, refuses the rest, and records the network.

Classes, members and signatures come from a stub (tests/tensorrt_api): an attribute that is not there, a call with other
arguments, or a value of another type fails as it does in the C++ binding, with AttributeError or TypeError. What a call
does stands in tests/tensorrt_recorder.py; what nobody wrote there fails too. Numbers behind enumerated names are made
up, so that code which knows them by heart does not pass.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from enum import Enum, EnumMeta
from importlib.machinery import ModuleSpec
from numbers import Integral, Real
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from tensorrt_building import HostMemory
from tensorrt_recorder import FUNCTIONS, RECORDERS
from tensorrt_stub import Class, Signature, read_stub

STUBS = Path(__file__).parent / "tensorrt_api"

VERSIONS = {"10.16": "10.16.1.11", "11.4": "11.4.0.106", "rtx-1.7": "1.7.1.116"}

OLDER = {"10.12": "10.12.0.36", "10.14": "10.14.1.48"}
"""They have what 10.16 has, but for the names in tests/tensorrt_api/*.lacks. Made of the classes of NVIDIA's own
bindings, as tensorrt_stub.py reads them; they have no name that 10.16 has not, and the signatures are the same."""

ALIASES = {
    "float32": "FLOAT", "float16": "HALF", "bfloat16": "BF16", "int8": "INT8", "uint8": "UINT8", "int32": "INT32",
    "int64": "INT64", "bool": "BOOL", "fp8": "FP8", "int4": "INT4", "fp4": "FP4", "e8m0": "E8M0",
}  # fmt: skip
"""Of DataType, in the module itself."""

SEVERITIES = ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE")

SCALARS: Mapping[str, Any] = {
    "float": Real,
    "str": str,
    "bool": bool | np.bool_,
    "object": object,
    "ndarray": np.ndarray,
    "tuple": tuple,
    "Callable": Callable,
    "Buffer": bytes | bytearray | memoryview | np.ndarray,
}


class Strict:
    """What every class of a double is: slots alone, so that an unknown attribute is an error, in subclasses too as far
    as their bases declare it."""

    __slots__ = ("_state",)
    _double: Any

    def __new__(cls, *_: Any, **__: Any) -> Any:
        made = object.__new__(cls)
        object.__setattr__(made, "_state", None)
        return made


def double(name: str, without: Collection[str] = (), fails: str | None = None, refused: Collection[str] = ()) -> Any:
    """The double of a version: `10.16`, `11.4`, `rtx-1.7` or an older one.

    `without` names classes and members (`INetworkDefinition.add_attention`) that it lacks besides; with `fails` every
    build logs that as an error and gives None, and so does what `refused` names (`Builder.__init__`). Engines run on
    the stream of a `driver`, and fail at the shape `fails_at`. A damaged timing cache is an empty one, as TensorRT for
    RTX 1.7 has it, unless `damaged_cache_is_none`.
    """
    module: Any = ModuleType("tensorrt_rtx" if name.startswith("rtx") else "tensorrt")
    module.__path__, module.__spec__ = [], ModuleSpec(module.__name__, None)
    module.__version__ = {**VERSIONS, **OLDER}[name]
    if name in OLDER:
        without = {*without, *(STUBS / f"{name}.lacks").read_text("utf-8").split()}
        name = "10.16"
    module.builds, module.fails, module.registry = [], fails, {}
    module.driver, module.fails_at, module.refused = None, None, frozenset(refused)
    module.damaged_cache_is_none = False
    for stub in read_stub((STUBS / f"{name}.stub").read_text("utf-8")):
        if stub.name in without:
            continue
        if stub.members:
            members = [member for member in stub.members if f"{stub.name}.{member}" not in without]
            made: Any = Enumeration(stub.name, members, module=module.__name__)
        else:
            made = _class(module, stub, without)
        setattr(module, stub.name, made)
    module.IHostMemory = HostMemory
    module.Dims.MAX_DIMS = 8  # pybind11 lets a class have properties of its own
    for alias, member in ALIASES.items():
        setattr(module, alias, module.DataType.__members__[member])
    module.ILogger.Severity = module.Logger.Severity = Enumeration("Severity", SEVERITIES, module=module.__name__)
    for severity in module.ILogger.Severity.__members__.values():
        setattr(module.ILogger, severity.name, severity)
        setattr(module.Logger, severity.name, severity)
    for function, body in FUNCTIONS.items():
        setattr(module, function, _bound(body, module))
    return module


class NoContainer(EnumMeta):
    """pybind11's enumerations are looked into through `__members__` alone."""

    def __getitem__(cls, name: str) -> Any:
        raise TypeError(f"type '{cls.__name__}' is not subscriptable")

    def __iter__(cls) -> Any:
        raise TypeError(f"type '{cls.__name__}' is not iterable")


class Enumeration(Enum, metaclass=NoContainer):
    """pybind11's enumerations: a number when asked for, and no number otherwise."""

    def __int__(self) -> int:
        return self.value

    def __index__(self) -> int:
        return self.value


def _bound(body: Callable[..., Any], module: Any) -> Callable[..., Any]:
    return lambda *arguments: body(module, *arguments)


def _class(module: Any, stub: Class, without: Collection[str]) -> type:
    base = getattr(module, stub.base) if stub.base else Strict
    recorder: Mapping[str, Any] = vars(RECORDERS.get(stub.name, object))
    content: dict[str, Any] = {"__slots__": (), "__module__": module.__name__, "_double": module}
    for name, signatures in stub.methods.items():
        if f"{stub.name}.{name}" not in without:
            content[name] = _method(module, stub.name, name, signatures, recorder.get(name))
    for name, (type_, read_only) in stub.properties.items():
        if f"{stub.name}.{name}" not in without:
            content[name] = _property(module, stub.name, name, type_, read_only, recorder)
    if "__init__" not in content and base is Strict:
        content["__init__"] = _no_constructor
    content |= {
        name: recorder[name] for name in ("__iter__", "__len__", "__getitem__", "__setitem__") if name in recorder
    }
    return type(stub.name, (base,), content)


def _no_constructor(self: Any, *_: Any, **__: Any) -> None:
    raise TypeError(f"{type(self).__name__}: No constructor defined!")


def _method(module: Any, owner: str, name: str, signatures: Sequence[Signature], recorded: Any) -> Callable[..., Any]:
    def call(self: Any, *arguments: Any, **named: Any) -> Any:
        for signature in signatures:
            given = _bind(module, signature, arguments, named)
            if given is not None:
                break
        else:
            expected = " or ".join(map(str, signatures))
            raise TypeError(f"{owner}.{name}{expected} was called with {_shown(arguments, named)}")
        if f"{owner}.{name}" in module.refused:
            _refuse(module, f"{owner}.{name}", given["logger"] if "logger" in given else self._state["logger"])
            return {"int": -1, "bool": False}.get(signature.result)
        if name == "__init__":
            if self._state is None:
                object.__setattr__(self, "_state", {})
            return recorded(self, **given) if recorded else None
        if recorded is not None:
            return recorded(self, **given)
        if name.startswith("add_") and owner == "INetworkDefinition":
            return RECORDERS[owner].add_layer(self, name, signature.result, given)
        raise NotImplementedError(f"the double does not know what {owner}.{name} does")

    call.__name__ = name
    return call


def _refuse(module: Any, what: str, logger: Any) -> None:
    """As TensorRT's binding does it: an error in the log, and a TypeError of constructors."""
    logger.log(module.ILogger.Severity.ERROR, f"Error Code 3: {what} was refused")
    if what.endswith(".__init__"):
        raise TypeError("pybind11::init(): factory function returned nullptr")


def _bind(
    module: Any, signature: Signature, arguments: Sequence[Any], named: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Parameter -> argument, where they fit the signature."""
    names = [parameter.name for parameter in signature.parameters]
    if len(arguments) > len(names) or not set(named) <= set(names[len(arguments) :]):
        return None
    given = dict(zip(names, arguments, strict=False)) | dict(named)
    for parameter in signature.parameters:
        missing = parameter.name not in given
        if missing and not parameter.optional:
            return None
        if not missing and not accepts(module, parameter.type, given[parameter.name]):
            return None
    return given


def accepts(module: Any, type: str, value: Any) -> bool:
    """Whether pybind11 would take a value for a parameter of that type."""
    if type == "int":
        return isinstance(value, Integral | Enumeration) and not isinstance(value, bool)
    if type in SCALARS:
        return isinstance(value, SCALARS[type])
    if found := re.fullmatch(r"(?:Sequence|Iterable|list)(?:\[(.*)\])?", type):
        return isinstance(value, Sequence) and all(accepts(module, found[1] or "object", item) for item in value)
    if type in ("Dims", "Permutation") and isinstance(value, tuple | list):
        return all(isinstance(size, Integral) and not isinstance(size, bool) for size in value)
    if type == "Weights" and isinstance(value, np.ndarray):
        return True
    wanted = module
    for part in type.split("."):
        wanted = getattr(wanted, part)
    if not isinstance(value, wanted):
        return False
    return not isinstance(value, Strict) or value._state is not None  # a subclass has to call its base's __init__


def _property(module: Any, owner: str, name: str, type: str, read_only: bool, recorder: Mapping[str, Any]) -> property:
    declared = recorder.get(name)

    def get(self: Any) -> Any:
        if isinstance(declared, property):
            return declared.fget(self)
        if name in self._state:
            return self._state[name]
        raise NotImplementedError(f"the double does not know {owner}.{name} before it was set")

    def set(self: Any, value: Any) -> None:
        if read_only:
            raise AttributeError(f"{owner}.{name} is read-only")
        if not accepts(module, type, value):
            raise TypeError(f"{owner}.{name} is {type}, but {value!r} was given")
        if isinstance(declared, property) and declared.fset is not None:
            declared.fset(self, value)
        else:
            self._state[name] = value

    return property(get, set)


def _shown(arguments: Sequence[Any], named: Mapping[str, Any]) -> str:
    shown = [type(value).__name__ for value in arguments]
    return f"({', '.join([*shown, *(f'{name}={type(value).__name__}' for name, value in named.items())])})"
