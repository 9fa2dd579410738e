"""Adds to a graph what trees of the notation stand for: ops, blocks, slots, parameters.

    Elaboration of `y = f(a, b)` in an environment: look up what `f` is (an op, a block, a slot of the spec), compute
    the arguments, and add nodes to the graph. Numbers are computed at once and leave no node.

One elaborator serves all four uses of the notation: a spec's blocks, both sides of a rule, and the text of a graph.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from bertc import notation
from bertc.errors import Span, did_you_mean, error
from bertc.graph import UNUSED, WEIGHT, Graph
from bertc.inference import unify
from bertc.meanings import (
    ARITHMETIC,
    ATTRIBUTE_KINDS,
    Environment,
    Group,
    Meaning,
    Results,
    Value,
    compute,
    describe,
    single,
)
from bertc.notation import (
    Block,
    Body,
    Call,
    Expression,
    List,
    Name,
    Number,
    Star,
    TypeTree,
    Weight,
)
from bertc.ops import Op
from bertc.plugins import OPS, unknown_op
from bertc.spec import Slot
from bertc.types import ELEMENTS, Dim, Shape, Type


@dataclass(frozen=True)
class Frame:
    """Where in the network an expression stands."""

    environment: Environment
    scope: str = ""
    """What weight paths start with: `encoder.3` in the fourth layer, `encoder` where layers share their weights."""
    path: str = ""
    """What names of values start with."""
    layer: str = ""
    """The scope, with the layer's number where layers share their weights."""


class Elaborator:
    """Adds the nodes that trees stand for to one graph."""

    def __init__(
        self,
        graph: Graph,
        blocks: Mapping[str, Block] | None = None,
        slots: Mapping[str, Slot] | None = None,
        constants: Mapping[str, Meaning] | None = None,
        spans: Mapping[str, Span] | None = None,
        *,
        place: float | None = None,
    ) -> None:
        self.graph = graph
        self.blocks = blocks or {}
        self.slots = slots or {}
        self.constants = dict(constants or {})
        self.spans = spans or {}
        self.place = place
        self.element = "f32"
        self._inside: list[str] = []

    # ---------------------------------------------------------------------------------------------- statements

    def body(self, body: Body, frame: Frame, hint: str | None = None, wanted: tuple[str | None, ...] = ()) -> Results:
        """Run the assignments and give what is returned.

        `wanted` names the returned values: an assignment whose target is returned, or the returned expression itself,
        is given that name in the graph.
        """
        environment = dict(frame.environment)
        frame = replace(frame, environment=environment)
        items = body.returns.items
        wanted = wanted or (hint,) * (len(items) == 1) or (None,) * len(items)
        renamed = {
            item.value.path: name for item, name in zip(items, wanted, strict=True) if isinstance(item.value, Name)
        }
        for assign in body.assigns:
            hints = tuple(renamed.get(t) or _join(frame.path, t) if t != UNUSED else UNUSED for t in assign.targets)
            self._assign(assign, hints, frame)
        values: list[Meaning] = []
        names: list[str | None] = []
        for item, name in zip(items, wanted, strict=True):
            meaning = self._meaning(item.value, frame, name or (_join(frame.path, item.name) if item.name else None))
            if isinstance(meaning, Results) and len(items) == 1 and (item.name is None or len(meaning.values) > 1):
                return meaning
            values.append(single(meaning))
            names.append(item.name or (item.value.path if isinstance(item.value, Name) else None))
        return Results(tuple(values), tuple(names))

    def _assign(self, assign: notation.Assign, hints: tuple[str, ...], frame: Frame) -> None:
        if len(assign.targets) == 1:
            frame.environment[assign.targets[0]] = self.expression(assign.value, frame, hints[0])
            return
        meaning = self._call(assign.value, frame, None, hints) if isinstance(assign.value, Call) else None
        count = len(meaning.values) if isinstance(meaning, Results) else 1
        if not isinstance(meaning, Results) or count != len(assign.targets):
            raise error("B0105", f"{len(assign.targets)} names are assigned, but {count} value is given", assign.span)
        frame.environment.update(zip(assign.targets, meaning.values, strict=True))

    # --------------------------------------------------------------------------------------------- expressions

    def expression(self, tree: Expression, frame: Frame, hint: str | None = None) -> Meaning:
        """What an expression stands for; a value it adds is called `hint` when one is given."""
        return single(self._meaning(tree, frame, hint))

    def _meaning(self, tree: Expression, frame: Frame, hint: str | None = None) -> Meaning:
        match tree:
            case Number():
                return tree.value
            case Name():
                return self._name(tree, frame)
            case Weight():
                return self._weight(tree, frame)
            case List():
                return tuple(self.expression(item, frame) for item in tree.items)
            case Call():
                return self._call(tree, frame, hint, ())

    def _name(self, tree: Name, frame: Frame) -> Meaning:
        if tree.path in frame.environment:
            return frame.environment[tree.path]
        if tree.path in self.constants:
            return self.constants[tree.path]
        if tree.path in ELEMENTS:
            return tree.path
        first, dot, rest = tree.path.partition(".")
        if isinstance(group := frame.environment.get(first), Group) and dot:
            return Group(_join(group.path, rest), _join(group.name, rest))
        if dot:
            return Group(_join(frame.scope, tree.path), _join(frame.layer, tree.path))
        known = {*frame.environment, *self.constants}
        raise error(
            "B0103", f"`{tree.path}` is neither a value nor a size here", tree.span, did_you_mean(tree.path, known)
        )

    def _weight(self, tree: Weight, frame: Frame) -> Value:
        first, dot, rest = tree.path.partition(".")
        group = frame.environment.get(first)
        if isinstance(group, Value) or not dot:
            raise error("B0103", f"`{tree.path}[...]` is read as a trained parameter, whose path has a dot", tree.span)
        path = _join(group.path, rest) if isinstance(group, Group) else _join(frame.scope, tree.path)
        type = Type(tree.element or self.element, self.dims(tree.dims, frame))
        if path not in self.graph:
            self.graph.leaf(WEIGHT, path, type, tree.span)
        elif self.graph.type_of(path) != type or self.graph.producer(path).op != WEIGHT:
            found = self.graph.type_of(path)
            raise error("B0104", f"`{path}` is {type} here, but {found} where it was first used", tree.span)
        return Value(path)

    def dims(self, trees: tuple[notation.TypeDim, ...], frame: Frame) -> Shape:
        sizes: list[Dim] = []
        for tree in trees:
            if isinstance(tree, Star):
                raise error("B0101", "`*` stands in signatures only; a size is expected here", None)
            size = self.expression(tree, frame)
            if not isinstance(size, int | str) or (isinstance(size, int) and size < 1):
                raise error(
                    "B0106", f"a size is a whole number of at least 1, but {describe(size)} stands here", tree.span
                )
            sizes.append(size)
        return tuple(sizes)

    # --------------------------------------------------------------------------------------------------- calls

    def _call(self, tree: Call, frame: Frame, hint: str | None, hints: tuple[str, ...]) -> Meaning:
        slot = self.slots.get(tree.name)
        if slot is not None:
            return self._slot(tree, slot, frame, hint)
        if tree.name in self.blocks:
            return self._block(tree, self.blocks[tree.name], frame, hint)
        arguments = [self.expression(argument, frame) for argument in tree.arguments]
        keywords = {name: self.expression(value, frame) for name, value in tree.keywords}
        if all(isinstance(a, int | float) for a in arguments) and not keywords and tree.name in ARITHMETIC:
            return compute(tree, arguments)
        if tree.name not in OPS:
            known = {*OPS, *self.blocks, *self.slots, "sqrt"}
            raise error("B0103", f"`{tree.name}` is no op and no block", tree.span, unknown_op(tree.name, known))
        return self._op(tree, OPS[tree.name], arguments, keywords, frame, hint, hints)

    def _op(
        self,
        tree: Call,
        op: Op,
        arguments: list[Meaning],
        keywords: dict[str, Meaning],
        frame: Frame,
        hint: str | None,
        hints: tuple[str, ...],
    ) -> Meaning:
        count = len(arguments) if op.variadic else len(op.operands)
        operands = [self._operand(argument, tree) for argument in arguments[:count]]
        attributes = dict(zip(op.attributes, arguments[count:], strict=False))
        if extra := len(arguments) - count - len(attributes):
            raise error("B0105", f"{op.name} was given {extra} arguments too many" if extra > 0 else "", tree.span)
        if twice := attributes.keys() & keywords.keys():
            raise error("B0105", f"`{min(twice)}` of {op.name} is given twice", tree.span)
        given = tuple((name, self._attribute(op, name, value, tree)) for name, value in (attributes | keywords).items())
        base = hint or _join(frame.path, op.name)
        if hints:
            names = tuple(UNUSED if name == UNUSED else self.graph.unique(name) for name in hints)
        elif len(op.results) > 1:
            names = tuple(self.graph.unique(f"{base}.{index}") for index in range(len(op.results)))
        else:
            names = (self.graph.unique(base),) if op.shapes is None or op.name != "split" else ()
        node = self.graph.add(op.name, operands, given, names, tree.span, self.place)
        values = tuple(Value(name) for name in node.results)
        return values[0] if len(values) == 1 else Results(values, (None,) * len(values))

    def _operand(self, meaning: Meaning, tree: Call) -> str | int | float:
        if isinstance(meaning, Value):
            return meaning.name
        if isinstance(meaning, int | float):
            return meaning
        raise error("B0105", f"an operand of {tree.name} is a value, but {describe(meaning)} was given", tree.span)

    def _attribute(self, op: Op, name: str, meaning: Meaning, tree: Call) -> Any:
        if name not in op.attributes:
            raise error("B0105", f"{op.name} has no attribute `{name}`", tree.span, did_you_mean(name, op.attributes))
        kind = op.attributes[name].annotation
        expected, convert = ATTRIBUTE_KINDS[kind]
        value = convert(meaning)
        if value is None:
            raise error("B0105", f"`{name}` of {op.name} is {expected}, but {describe(meaning)} was given", tree.span)
        return value

    def _slot(self, tree: Call, slot: Slot, frame: Frame, hint: str | None) -> Meaning:
        """The block bound to a slot; a repeated one feeds its own result to its first argument, layer after layer."""
        called = replace(tree, name=slot.block)
        known = {*self.blocks, *OPS}
        for block in (slot.block, *slot.others):
            if block not in known:
                span = self.spans.get(f"network.{tree.name}") or self.spans.get(tree.name)
                raise error("B0103", f"block `{block}` does not exist", span, did_you_mean(block, known))
        if slot.repeat is None:
            inner = replace(frame, path=_join(frame.path, tree.name) if slot.block in self.blocks else frame.path)
            if slot.block not in self.blocks:
                return self._call(called, frame, hint, ())
            return self._block(called, self.blocks[slot.block], frame, None, inner)
        names = tuple(f" {index}" for index in range(len(tree.arguments)))
        environment = {name: self.expression(a, frame) for name, a in zip(names, tree.arguments, strict=True)}
        for layer in range(slot.repeat):
            scope = _join(frame.scope, tree.name)
            path = f"{scope}.{layer}"
            inner = Frame({**frame.environment, **environment}, scope if slot.shared else path, path, path)
            repeated = replace(called, arguments=tuple(Name(name) for name in names))
            environment[names[0]] = single(self._block(repeated, self.blocks[slot.turn(layer)], inner, None, inner))
        return environment[names[0]]

    def _block(self, tree: Call, block: Block, frame: Frame, hint: str | None, inner: Frame | None = None) -> Meaning:
        environment = self._bind(tree, block, frame)
        groups = [value.name for value in environment.values() if isinstance(value, Group)]
        if inner is None:
            path = groups[0] if groups else hint or frame.path
            hint = groups[0] if groups else hint
            inner = replace(frame, path=path)
        with self._entered(tree, block):
            return self.body(block.body, replace(inner, environment=environment), hint)

    @contextmanager
    def _entered(self, tree: Call, block: Block) -> Generator[None]:
        if block.name in self._inside:
            circle = " -> ".join([*self._inside[self._inside.index(block.name) :], block.name])
            raise error("B0107", f"blocks call each other in a circle: {circle}", tree.span)
        self._inside.append(block.name)
        yield
        self._inside.pop()

    def _bind(self, tree: Call, block: Block, frame: Frame) -> Environment:
        """The environment of a block's body: arguments by parameter name, and the sizes their types name."""
        keywords = dict(tree.keywords)
        names = [parameter.name for parameter in block.parameters]
        given = dict(zip(names, tree.arguments, strict=False))
        if len(tree.arguments) > len(names) or given.keys() & keywords.keys() or given.keys() | keywords != set(names):
            expected = f"{block.name}({', '.join(names)})"
            found = len(tree.arguments) + len(keywords)
            raise error("B0105", f"{expected} takes {len(names)} arguments, but {found} were given", tree.span)
        arguments = {name: self.expression(value, frame) for name, value in (given | keywords).items()}
        environment: Environment = {}
        for parameter in block.parameters:
            environment[parameter.name] = argument = arguments[parameter.name]
            if parameter.type is not None and not self.fits(argument, parameter.type, environment):
                found = self.graph.type_of(argument.name) if isinstance(argument, Value) else describe(argument)
                expected = notation.to_text(parameter.type)
                raise error(
                    "B0106", f"`{parameter.name}` of {block.name} is {expected}, but {found} was given", tree.span
                )
        return environment

    def fits(self, argument: Meaning, wanted: TypeTree, environment: Environment) -> bool:
        """Whether an argument is what a parameter's type says; sizes that the type names are bound in `environment`."""
        if wanted.kind == "number":
            return isinstance(argument, int | float)
        if not isinstance(argument, Value) or (wanted.kind == "weight" and not self.graph.is_constant(argument.name)):
            return False
        type = self.graph.type_of(argument.name)
        if wanted.element is not None and type.element != wanted.element:
            return False
        if wanted.element is None and not type.is_float and wanted.dims is not None:
            return False
        if wanted.dims is None:
            return True
        sizes = {**self.constants, **environment}
        pattern = tuple(_pattern(dim, sizes) for dim in wanted.dims)
        if wanted.kind == "broadcast":
            return _broadcasts(type.shape, pattern, sizes)
        if not unify(pattern, type.shape, sizes):
            return False
        environment.update({name: sizes[name] for name in pattern if isinstance(name, str)})
        return True


# ---------------------------------------------------------------------------------------------- names, sizes of types


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _pattern(dim: notation.TypeDim, sizes: Environment) -> Dim:
    """A size of a type as `unify` takes it; what is known already stands as itself."""
    match dim:
        case Star():
            return "*"
        case Number() if isinstance(dim.value, int):
            return dim.value
        case Name():
            return dim.path
        case _:
            raise error("B0101", "a size in a signature is a name or a whole number", getattr(dim, "span", None))


def _broadcasts(shape: Shape, pattern: tuple[Dim, ...], sizes: Environment) -> bool:
    """Whether a shape broadcasts to a pattern: not longer, and each size 1 or equal."""
    if len(shape) > len(pattern):
        return False
    wanted = [sizes.get(size, size) if isinstance(size, str) else size for size in pattern[len(pattern) - len(shape) :]]
    return all(size in (1, expected) for size, expected in zip(shape, wanted, strict=True))
