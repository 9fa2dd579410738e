"""Pickles read as inert data: a stack machine with a closed set of opcodes, which calls and imports nothing.

What a pickle would import is a `Global`, what it would call a `Call`, what it keeps elsewhere a `Persistent`; long
texts and all bytes stay in the file as a `Stretch`. Every opcode puts at most one thing on the stack and one into the
memo, so that the bound on opcodes bounds memory and time; each length is held against the bytes left before it is used.

Source: CPython's Lib/pickletools.py, which specifies protocols 0 to 5. Of the standard `pickle` only the names of the
opcodes are used. Left out are opcodes that nothing since Python 3 writes into a file of weights: copyreg's extension
codes, old-style classes, texts with Python 2's escapes, and buffers outside the stream.
"""

from __future__ import annotations

import codecs
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

from bertc.weights_io.budget import MAX_OPCODES, Budget
from bertc.weights_io.pickle_stack import Call, Global, Machine, Persistent, Stretch
from bertc.weights_io.tensor import quoted

MAX_TEXT = 1 << 16
"""Bytes; names are far shorter. What is longer is a Stretch."""
MAX_GLOBAL = 1000
"""Characters of a class and its module: put together from two texts, which can be the same two again and again."""
MAX_INTEGER = 64
"""Bytes: the state of a random generator has 16. Decimal digits too, whose conversion takes quadratic time."""


@dataclass(frozen=True)
class Pickle:
    """What a pickle holds: None, bool, int, float, str, list, tuple, dict and the records above. Sets are lists.

    A dict keeps the entries whose keys are texts or integers of 64 bits: nothing else is the name of a tensor.
    """

    value: Any
    persistent: list[Persistent]


def read_pickle(path: Path, file: BinaryIO, end: int, opcodes: Budget) -> Pickle:
    """The pickle that starts where `file` stands and ends before byte `end`; `file` is left behind it.

    The pickles of one checkpoint share their `opcodes`. Raises B0401, with `path` for its name, when the pickle is
    malformed, beyond the bounds or uses another opcode.
    """
    machine = Machine(path, file, end, file.tell())
    while opcodes.spend():
        opcode = machine.take(1)
        if opcode == pickle.STOP:
            return Pickle(machine.pop(), machine.persistent)
        step = STEPS.get(opcode)
        if step is None:
            raise machine.refusal(f"has the opcode 0x{opcode.hex()}, which no file of weights needs,")
        step(machine)
    raise machine.refusal(f"has more opcodes than the {MAX_OPCODES} that are read of a checkpoint")


Step = Callable[[Machine], None]


def _skip(count: int) -> Step:
    def skip(machine: Machine) -> None:
        machine.take(count)

    return skip


def _constant(value: Any) -> Step:
    return lambda machine: machine.push(value)


def _number(layout: str) -> Step:
    return lambda machine: machine.push(machine.number(layout))


def _text(size: str) -> Step:
    def push_text(machine: Machine) -> None:
        count = machine.number(size)
        machine.push(_stretch(machine, count, "text") if count > MAX_TEXT else machine.text(machine.take(count)))

    return push_text


def _text_of_python_2(size: str) -> Step:
    def push_text(machine: Machine) -> None:
        count = machine.number(size)
        if not 0 <= count <= MAX_TEXT:
            raise machine.refusal(f"has a text of Python 2 with {count} bytes")
        machine.push(machine.text(machine.take(count), codecs.latin_1_decode))

    return push_text


def _bytes(size: str) -> Step:
    return lambda machine: machine.push(_stretch(machine, machine.number(size), "bytes"))


def _stretch(machine: Machine, count: int, kind: Literal["bytes", "text"]) -> Stretch:
    offset = machine.position
    machine.reserve(count)
    machine.file.seek(machine.position)
    return Stretch(offset, count, kind)


def _integer(size: str) -> Step:
    def push_integer(machine: Machine) -> None:
        count = machine.number(size)
        if not 0 <= count <= MAX_INTEGER:
            raise machine.refusal(f"has an integer of {count} bytes")
        machine.push(int.from_bytes(machine.take(count), "little", signed=True))

    return push_integer


def _decimal(machine: Machine) -> None:
    machine.push(_parsed(machine, int, machine.line().removesuffix(b"L")))


def _decimal_or_bool(machine: Machine) -> None:
    digits = machine.line()
    booleans = {b"00": False, b"01": True}
    machine.push(booleans[digits] if digits in booleans else _parsed(machine, int, digits))


def _parsed(machine: Machine, kind: type[int] | type[float], digits: bytes) -> int | float:
    if len(digits) <= MAX_INTEGER:
        try:
            return kind(digits)
        except ValueError:
            pass
    raise machine.refusal(f"has {quoted(digits[:MAX_INTEGER].decode('latin-1'))} for a number")


def _mark(machine: Machine) -> None:
    machine.marks.append(len(machine.stack))


def _drop(machine: Machine) -> None:
    """POP takes a mark where one is on top: the pickler writes it so when a tuple contains itself."""
    if machine.marks and machine.marks[-1] == len(machine.stack):
        machine.marks.pop()
    else:
        machine.pop()


def _drop_to_mark(machine: Machine) -> None:
    machine.pop_to_mark()


def _tuple_of(count: int) -> Step:
    def push_tuple(machine: Machine) -> None:
        items = [machine.pop() for _ in range(count)]
        machine.push(tuple(reversed(items)))

    return push_tuple


def _append(machine: Machine) -> None:
    item = machine.pop()
    _extend(machine, [item])


def _extend_to_mark(machine: Machine) -> None:
    items = machine.pop_to_mark()
    _extend(machine, items)


def _extend(machine: Machine, items: list[Any]) -> None:
    container = machine.top()
    if isinstance(container, list):
        cast(list[Any], container).extend(items)
    elif not isinstance(container, Call):
        raise machine.refusal("puts an item into what is no list")


def _set_item(machine: Machine) -> None:
    value, key = machine.pop(), machine.pop()
    _update(machine, [key, value])


def _update_to_mark(machine: Machine) -> None:
    items = machine.pop_to_mark()
    _update(machine, items)


def _update(machine: Machine, items: list[Any]) -> None:
    container = machine.top()
    if isinstance(container, dict):
        cast(dict[Any, Any], container).update(_entries(machine, items))
    elif not isinstance(container, Call):
        raise machine.refusal("puts an entry into what is no dict")


def _entries(machine: Machine, items: list[Any]) -> dict[Any, Any]:
    if len(items) % 2:
        raise machine.refusal("has a key without a value")
    pairs = zip(items[::2], items[1::2], strict=True)
    return {key: value for key, value in pairs if isinstance(key, str) or _is_int64(key)}


def _is_int64(key: Any) -> bool:
    """Larger integers can be chosen so that their hashes collide."""
    return isinstance(key, int) and -(2**63) <= key < 2**63


def _get(layout: str) -> Step:
    return lambda machine: machine.push(_recalled(machine, machine.number(layout)))


def _get_line(machine: Machine) -> None:
    machine.push(_recalled(machine, int(_parsed(machine, int, machine.line()))))


def _recalled(machine: Machine, index: int) -> Any:
    if index not in machine.memo:
        raise machine.refusal(f"recalls number {index}, which it has not stored,")
    return machine.memo[index]


def _put(layout: str) -> Step:
    def put(machine: Machine) -> None:
        machine.memo[machine.number(layout)] = machine.top()

    return put


def _put_line(machine: Machine) -> None:
    machine.memo[int(_parsed(machine, int, machine.line()))] = machine.top()


def _memoize(machine: Machine) -> None:
    machine.memo[len(machine.memo)] = machine.top()


def _global(machine: Machine) -> None:
    module, name = machine.line(), machine.line()
    machine.push(Global(machine.text(module + b"." + name)))


def _global_of_stack(machine: Machine) -> None:
    name, module = machine.pop(), machine.pop()
    if not (isinstance(name, str) and isinstance(module, str)):
        raise machine.refusal("names a class by something else than texts")
    if len(module) + len(name) > MAX_GLOBAL:
        raise machine.refusal(f"names a class by more than {MAX_GLOBAL} characters")
    machine.push(Global(f"{module}.{name}"))


def _call(machine: Machine) -> None:
    arguments, function = machine.pop(), machine.pop()
    is_dict = isinstance(function, Global) and function.name in DICTS
    machine.push({} if is_dict else Call(function, arguments))


DICTS = ("collections.OrderedDict", "collections.defaultdict")
"""Dicts to us. Their entries are set one by one after the call, and its argument is none of them."""


def _call_with_keywords(machine: Machine) -> None:
    machine.pop()
    _call(machine)


def _build(machine: Machine) -> None:
    """Gives a Call its state; the state of a dict is the attributes of an OrderedDict, which are no entries."""
    state = machine.pop()
    target = machine.top()
    if isinstance(target, Call):
        target.state = state
    elif not isinstance(target, dict):
        raise machine.refusal("gives a state to what has none")


def _persistent(machine: Machine) -> None:
    record = Persistent(machine.pop())
    machine.persistent.append(record)
    machine.push(record)


STEPS: dict[bytes, Step] = {
    pickle.PROTO: _skip(1),
    pickle.FRAME: _skip(8),
    pickle.NONE: _constant(None),
    pickle.NEWTRUE: _constant(True),
    pickle.NEWFALSE: _constant(False),
    pickle.INT: _decimal_or_bool,
    pickle.LONG: _decimal,
    pickle.BININT: _number("<i"),
    pickle.BININT1: _number("<B"),
    pickle.BININT2: _number("<H"),
    pickle.LONG1: _integer("<B"),
    pickle.LONG4: _integer("<i"),
    pickle.FLOAT: lambda machine: machine.push(_parsed(machine, float, machine.line())),
    pickle.BINFLOAT: _number(">d"),
    pickle.UNICODE: lambda machine: machine.push(machine.text(machine.line(), codecs.raw_unicode_escape_decode)),
    pickle.SHORT_BINUNICODE: _text("<B"),
    pickle.BINUNICODE: _text("<I"),
    pickle.BINUNICODE8: _text("<Q"),
    pickle.SHORT_BINSTRING: _text_of_python_2("<B"),
    pickle.BINSTRING: _text_of_python_2("<i"),
    pickle.SHORT_BINBYTES: _bytes("<B"),
    pickle.BINBYTES: _bytes("<I"),
    pickle.BINBYTES8: _bytes("<Q"),
    pickle.BYTEARRAY8: _bytes("<Q"),
    pickle.EMPTY_LIST: lambda machine: machine.push([]),
    pickle.EMPTY_SET: lambda machine: machine.push([]),
    pickle.EMPTY_DICT: lambda machine: machine.push({}),
    pickle.EMPTY_TUPLE: _constant(()),
    pickle.LIST: lambda machine: machine.push(machine.pop_to_mark()),
    pickle.FROZENSET: lambda machine: machine.push(machine.pop_to_mark()),
    pickle.TUPLE: lambda machine: machine.push(tuple(machine.pop_to_mark())),
    pickle.TUPLE1: _tuple_of(1),
    pickle.TUPLE2: _tuple_of(2),
    pickle.TUPLE3: _tuple_of(3),
    pickle.DICT: lambda machine: machine.push(_entries(machine, machine.pop_to_mark())),
    pickle.APPEND: _append,
    pickle.APPENDS: _extend_to_mark,
    pickle.ADDITEMS: _extend_to_mark,
    pickle.SETITEM: _set_item,
    pickle.SETITEMS: _update_to_mark,
    pickle.MARK: _mark,
    pickle.POP: _drop,
    pickle.POP_MARK: _drop_to_mark,
    pickle.DUP: lambda machine: machine.push(machine.top()),
    pickle.GET: _get_line,
    pickle.BINGET: _get("<B"),
    pickle.LONG_BINGET: _get("<I"),
    pickle.PUT: _put_line,
    pickle.BINPUT: _put("<B"),
    pickle.LONG_BINPUT: _put("<I"),
    pickle.MEMOIZE: _memoize,
    pickle.GLOBAL: _global,
    pickle.STACK_GLOBAL: _global_of_stack,
    pickle.REDUCE: _call,
    pickle.NEWOBJ: _call,
    pickle.NEWOBJ_EX: _call_with_keywords,
    pickle.BUILD: _build,
    pickle.BINPERSID: _persistent,
}
"""What each opcode does. FRAME's length is only advice to a reader, and so is PROTO's number."""
