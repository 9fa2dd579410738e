"""A document's code blocks, and what doing them means.

    ```sh        each line is a command; `# exit 1` behind it says that it ends with that code, `> FILE` where it prints
    ```text      what the commands of the block before print; `...` stands for anything
    ```python    a program of its own
    ```yaml      and net, toml: read as what they are; ```diff is of two dumps

A block whose first line is `# NAME.yaml` (.net, .py, .toml) is that file. One that begins with `# needs ...` (a GPU,
minutes, a checkpoint of your own) is not run, but read: its commands have only flags that there are.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from conftest import forgetting

from bertc import cli
from bertc.arguments import make_parser
from bertc.errors import Source
from bertc.parser import parse
from bertc.spec import load_spec, parse_spec

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "README.md", *ROOT.glob("docs/**/*.md")))


@dataclass(frozen=True)
class Block:
    language: str
    text: str
    line: int

    @property
    def file(self) -> str | None:
        found = re.match(r"# ([\w.-]+\.(?:yaml|net|py|toml))\b", self.text)
        return found[1] if found else None

    @property
    def needs(self) -> bool:
        return self.text.startswith("# needs ")

    def __str__(self) -> str:
        return f"the block in line {self.line}:\n{self.text}"


def blocks(document: str) -> Iterator[Block]:
    """The fenced blocks; all code is in fences, so that none escapes."""
    lines = (ROOT / document).read_text("utf-8").split("\n")
    number = 0
    while number < len(lines):
        line = lines[number]
        number += 1
        if line.startswith("```"):
            end = lines.index("```", number)
            yield Block(line.removeprefix("```"), "\n".join(lines[number:end]) + "\n", number + 1)
            number = end + 1
        assert not line.startswith("    "), f"{document}:{number}: code stands in a fence that names its language"


class Runner:
    """Does the blocks of one document, in their order, in the working directory."""

    def __init__(self) -> None:
        self.printed = ""

    def do(self, block: Block) -> None:
        if block.needs:
            self.read(block)
        elif block.language == "text":
            assert matches(block.text, self.printed), f"{block}\nis not what was printed:\n{self.printed}"
        elif block.file is not None:
            Path(block.file).write_text(block.text, "utf-8")
            if block.language == "yaml":
                load_spec(block.file)
        elif block.language == "sh":
            self.printed = "".join(command(line) for line in commands(block))
        elif block.language == "python":
            self.printed = program([sys.executable, "-c", block.text], 0)
        else:
            self.read(block)

    def read(self, block: Block) -> None:
        match block.language:
            case "sh":
                for line in commands(block):
                    look_at(line)
            case "python":
                compile(block.text, "document", "exec")
            case "yaml":
                parse_spec(Source("document.yaml", block.text))
            case "net":
                assert parse(block.text)
            case "toml":
                tomllib.loads(block.text)
            case "diff":
                pass  # of two dumps, which test_docs makes
            case language:
                raise AssertionError(f"{language!r} is no language of {block}")


def commands(block: Block) -> list[str]:
    """The lines that are commands; a backslash joins two."""
    lines = block.text.replace("\\\n", " ").split("\n")
    return [line for line in lines if shlex.split(line, comments=True)]


def command(line: str) -> str:
    """Run a line, and give what it prints."""
    words = shlex.split(line, comments=True)
    if ">" in words:
        Path(words[words.index(">") + 1]).write_text(command(line.partition(" > ")[0]), "utf-8")
        return ""
    expected = re.search(r"# exit (\d+)$", line)
    code = int(expected[1]) if expected else 0
    match words:
        case ["bertc", *arguments] if "cuda" not in arguments:
            return in_process(arguments, code)
        case ["bertc", *arguments]:
            return program([sys.executable, "-m", "bertc", *arguments], code)
        case ["python", *arguments] if not arguments[0].startswith("benchmarks"):
            return program([sys.executable, *arguments], code)
        case _:
            look_at(line)
            return ""


def in_process(arguments: list[str], code: int) -> str:
    out, err = io.StringIO(), io.StringIO()
    with forgetting(), redirect_stdout(out), redirect_stderr(err):
        found = cli.run(arguments)
    assert found == code, f"bertc {shlex.join(arguments)} ended with {found}:\n{out.getvalue()}{err.getvalue()}"
    return out.getvalue() + (err.getvalue() if code else "")


def program(words: list[str], code: int) -> str:
    """A process of its own, without what tests have put into the environment."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, f"{shlex.join(words)} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    return done.stdout + (done.stderr if code else "")


def look_at(line: str) -> None:
    """That a command could be run, without running it."""
    words = shlex.split(line, comments=True)
    while "=" in words[0]:
        words = words[1:]
    match words:
        case ["bertc", *arguments]:
            _, unknown = make_parser().parse_known_args(arguments)
            assert not unknown, f"{line}: {unknown} is no argument"
        case ["make", target, *_]:
            assert f"\n{target}:" in (ROOT / "Makefile").read_text("utf-8"), line
        case ["python", "-m", _, *_]:
            pass
        case ["python", script, *arguments]:
            text = (ROOT / script).read_text("utf-8")
            assert all(flag in text for flag in arguments if flag.startswith("--")), line
        case ["pip", "install", *packages]:
            extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
            named = [extra for package in packages for extra in re.findall(r"bertc\[(\w+)\]", package)]
            assert named, line
            assert set(named) <= extras.keys(), line
        case _:
            raise AssertionError(f"{line!r} is a command that documents do not use")


def matches(expected: str, printed: str) -> bool:
    """Whether a text is printed, `...` standing for anything."""
    pattern = ".*".join(map(re.escape, expected.strip().split("...")))
    return re.fullmatch(pattern, printed.strip(), re.DOTALL) is not None
