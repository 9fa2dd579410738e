"""The reference, docs/reference: made of bertc's own declarations, and of nothing else.

python docs/generate.py     writes it anew; a test holds it to be current
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from difflib import ndiff
from importlib.resources import files
from pathlib import Path

import bertc
from bertc.codes import CODES, Code
from bertc.errors import Source
from bertc.ops import PRIMITIVES, Op, Pattern
from bertc.passes import CHOSEN, FINISH, FUSIONS, rules
from bertc.plugins import PACKED, PLUGINS
from bertc.rule import Rule
from bertc.spec import parse_spec
from bertc.spec_schema import table_text
from bertc.writing import write_text

HERE = Path(__file__).parent
FOLDER = HERE / "reference"
GOLDEN = HERE.parent / "tests" / "golden" / "passes"

MADE = "<!-- made by docs/generate.py; do not edit -->"

EXITS = {1: "the check said no", 2: "usage", 3: "bad input", 4: "not supported", 5: "the engine's builder failed"}


def reference() -> dict[str, str]:
    """File name -> text."""
    return {
        "README.md": page("Reference", index()),
        "ops.md": page("Ops", ops()),
        "passes.md": page("Passes", passes()),
        "codes.md": page("Codes", codes()),
        "spec.md": page("Keys of a spec", keys()),
    }


def page(title: str, paragraphs: Iterator[str]) -> str:
    return "\n\n".join([f"# {title}", MADE, *paragraphs]) + "\n"


def index() -> Iterator[str]:
    yield (
        "* [Ops](ops.md): every primitive and fused op, with its signature and its equation\n"
        "* [Passes](passes.md): every pass, with its rules and a graph before and after it\n"
        "* [Codes](codes.md): every diagnostic, as `bertc explain CODE` tells it\n"
        "* [Keys of a spec](spec.md): every key, its values, its default"
    )


# ----------------------------------------------------------------------------------------------------------------- ops


def ops() -> Iterator[str]:
    yield (
        "In a signature `*` stands for any leading sizes, `...` for any shape; a name is the same size wherever it "
        "stands. An element type is written where only one will do. Attributes stand behind the `;`."
    )
    yield "## Primitive"
    for op in PRIMITIVES.values():
        yield from entry(op)
    yield "## Fused"
    yield "Each means the left side of its rule ([passes.md](passes.md)), which a target without a kernel computes."
    for op in PLUGINS.values():
        if op.name not in PACKED:
            yield from entry(op, next((name for name in FUSIONS for rule in rules(name) if makes(rule, op)), None))
    yield "## Packed"
    yield "What `pack_sequences` makes of ops that tell batch from sequence."
    for op in PACKED.values():
        yield from entry(op)


def entry(op: Op, made_by: str | None = None) -> Iterator[str]:
    yield f"### {op.name}"
    yield f"`{signature(op)}`" + (f" · made by [{made_by}](passes.md#{made_by})" if made_by else "")
    yield op.equation


def signature(op: Op) -> str:
    operands = ", ".join(
        f"{'*' if op.variadic else ''}{name}{' ' + text(pattern) if text(pattern) else ''}"
        for name, pattern in zip(op.operand_names, op.operands, strict=True)
    )
    attributes = ", ".join(
        f"{name}: {parameter.annotation}" + (f" = {op.defaults[name]!r}" if name in op.defaults else "")
        for name, parameter in op.attributes.items()
    )
    results = ", ".join(text(pattern) for pattern in op.results)
    return f"{op.name}({operands}{'; ' if operands and attributes else ''}{attributes}) -> {results}"


def text(pattern: Pattern) -> str:
    dims = "..." if pattern.dims is None else ", ".join(map(str, pattern.dims))
    return f"{pattern.element or ''}[{dims}]"


def makes(rule: Rule, op: Op) -> bool:
    return op.name in [node.op for node in rule.reversed.pattern]


# -------------------------------------------------------------------------------------------------------------- passes


def passes() -> Iterator[str]:
    yield (
        f"`default` in a spec's `passes` stands for the fusions, in this order: {', '.join(map(linked, FUSIONS))}. "
        f"Every pipeline ends with {', '.join(map(linked, FINISH))}. "
        f"{', '.join(map(linked, CHOSEN))} is done where it is named."
    )
    for name in (*FUSIONS, *FINISH, *CHOSEN):
        yield f"## {name}"
        yield from about(name)
        yield "Before and after:"
        yield example(name)


def linked(name: str) -> str:
    return f"[{name}](#{name})"


def about(name: str) -> Iterator[str]:
    """What the pass's own file says of it: its docstring, and its rules."""
    folder = files("bertc.passes")
    if (module := folder.joinpath(f"{name}.py")).is_file():
        said = ast.get_docstring(ast.parse(module.read_text("utf-8"))) or ""
        said = said.removeprefix(f"{name}: ")
        yield said[0].upper() + said[1:]
    if (net := folder.joinpath(f"{name}.net")).is_file():
        yield f"```net\n{net.read_text('utf-8').strip()}\n```"


def example(name: str) -> str:
    path = GOLDEN / f"{name}.net"
    if path.is_file():
        return f"```net\n{path.read_text('utf-8').strip()}\n```"
    return "\n".join(["```diff", *changes(name), "```"])


def changes(name: str) -> Iterator[str]:
    """The lines that a pass changes in a network of one small layer."""
    sizes = "{layers: 1, hidden: 64, heads: 2, inner: 256, vocab: 100, positions: 64}"
    source = Source("small.yaml", f"base: bert-base\nsizes: {sizes}\npasses: [default, {name}]\n")
    stages = {stage.name: stage.graph.to_text().splitlines() for stage in bertc.stages(parse_spec(source))}
    order = list(stages)
    before, after = stages[order[order.index(name) - 1]], stages[name]
    yield from (line for line in ndiff(before, after) if line[0] in "+-")


# --------------------------------------------------------------------------------------------------------- codes, keys


def codes() -> Iterator[str]:
    yield "A diagnostic begins with its code, as in `error[B0103]`; `bertc explain B0103` prints what stands here."
    rows = [row(code) for code in sorted(CODES.values(), key=lambda code: code.name)]
    yield "\n".join(["| code | meaning | exit code | |", "|---|---|---|---|", *rows])


def row(code: Code) -> str:
    exit_code = f"{code.exit_code}, {EXITS[code.exit_code]}"
    return " | ".join([f"| `{code.name}`", cell(code.title), exit_code, f"{cell(code.explanation)} |"])


def cell(words: str) -> str:
    return words.replace("|", "\\|")


def keys() -> Iterator[str]:
    yield (
        "Without a `base`, what is marked required has no default, since none could be guessed. "
        "`bertc/specs/schema.json` is the same as JSON Schema; [spec.md](../spec.md) says how specs are written."
    )
    yield table_text().strip()


def write(pages: Mapping[str, str], folder: Path = FOLDER) -> None:
    for name, words in pages.items():
        write_text(folder / name, words)


if __name__ == "__main__":
    write(reference())
