"""Specs and configurations that attack: bombs of YAML and JSON, tags that construct, and files that are none."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml  # noqa: F401 - imported lazily by what is tested
from hostile import Build, assert_refused, built

from bertc.spec import load_spec
from bertc.tree import MAXIMUM_BYTES, MAXIMUM_NODES
from bertc.weights_io import Tensor
from bertc.yaml_reader import MAXIMUM_YAML


def spec(content: str | bytes) -> Build:
    def build(folder: Path) -> Path:
        (folder / "my.yaml").write_bytes(content.encode() if isinstance(content, str) else content)
        return folder / "my.yaml"

    return build


def config(content: str | bytes) -> Build:
    def build(folder: Path) -> Path:
        (folder / "config.json").write_bytes(content.encode() if isinstance(content, str) else content)
        return folder

    return build


def full(text: str, size: int = MAXIMUM_YAML) -> str:
    """`text` as often as a spec may be long."""
    return text * (size // len(text.encode()))


LAUGHS = "\n".join(
    ["a0: &a0 [lol, lol]", *(f"a{at}: &a{at} [{', '.join([f'*a{at - 1}'] * 9)}]" for at in range(1, 20))]
)
TEXTS: dict[str, str | bytes] = {
    "a billion laughs": LAUGHS,
    "an alias to itself": "a: &a [*a]",
    "aliases again and again": full("a: &x *x\n"),
    "merged keys": "a: &a {b: 1}\nc:\n  <<: *a",
    "a tag that calls": "a: !!python/object/apply:os.system ['touch executed']",
    "a tag that makes an object": "a: !!python/object/new:subprocess.Popen [['touch', 'executed']]",
    "a tag that imports": "a: !!python/module:os",
    "a tag that names a function": "a: !!python/name:os.system",
    "a tag of one's own": "a: !x 1",
    "a tag of a directive": "%TAG ! tag:yaml.org,2002:python/\n---\na: !name:os.system",
    "binary": "a: !!binary " + "A" * 10_000,
    "two documents": "base: bert-base\n---\nbase: bert-base",
    "documents again and again": full("---\na: 1\n"),
    "directives again and again": full("%YAML 1.2\n"),
    "open brackets": full("["),
    "open braces": full("{a: "),
    "closed brackets": full("[],"),
    "brackets in keys": full("? ["),
    "dashes": full("- "),
    "question marks": full("? "),
    "items": full("- a\n"),
    "items in a line": "[" + full("a,"),
    "unknown keys": "".join(f"key{at}: 1\n" for at in range(MAXIMUM_YAML // 14)),
    "keys nearly known": "".join(f"siz{at}: 1\n" for at in range(MAXIMUM_YAML // 14)),
    "one key again and again": full("a: 1\n"),
    "an open quote": "'" + full("a\n"),
    "an open double quote": '"' + full("\\n"),
    "quotes": full("''"),
    "a literal": "|\n" + full(" a\n"),
    "a folded text": ">\n" + full(" a\n\n"),
    "an endless comment": full("#"),
    "comments": full("#\n"),
    "tabs": full("\t"),
    "spaces": full(" "),
    "lines": full("\n") + "[",
    "lines of spaces": full("          \n"),
    "steps of indentation": "\n".join(" " * depth + "a:" for depth in range(250)),
    "a long key": full("a") + ": 1",
    "a long value": "precision: " + full("a"),
    "a long anchor": "&" + full("a"),
    "a long tag": "!" + full("a"),
    "a number of many digits": "sizes: {layers: " + "9" * 30_000 + "}",
    "a number that overflows": "norm_eps: 1e999999",
    "a number in base 16": "sizes: {layers: 0x" + "f" * 30_000 + "}",
    "an escape beyond characters": 'a: "\\U7fffffff"',
    "half a character": 'a: "\\ud800"',
    "a zero": "a: \0",
    "a byte order mark inside": "a: \ufeff1",
    "escapes of a terminal": '"\\e[2J\\e[H": 1',
    "not UTF-8": b"a: \xff\xfe",
    "UTF-16": "base: bert-base".encode("utf-16"),
    "UTF-32": "base: bert-base".encode("utf-32"),
    "a pickle": b"\x80\x04cos\nsystem\n(X\x0e\x00\x00\x00touch executedtR.",
    "more than is read": "#" * (MAXIMUM_BYTES + 1),
    "an open quote of more than is read": "'" + "a\n" * 400_000,
    "more keys than are read": "".join(f"key{at}: 1\n" for at in range(80_000)),
    "more YAML than is read": "#" * (MAXIMUM_YAML + 1),
    "layers without end": "base: bert-base\nsizes: {layers: 1000000000000}",
    "sizes without end": "base: bert-base\nsizes: {hidden: 999999999999999999999}",
    "profiles without end": "base: bert-base\nshapes: [" + full("{batch: 1, seq: 8},", 30_000) + "]",
    "a base that is a device": "base: /dev/zero",
    "a base that is a folder of the system": "base: /proc/self",
    "a base in nothing": 'base: ""',
    "a base after a zero": 'base: "bert-base\\0"',
    "a base of a long name": "base: " + "a" * 10_000 + ".yaml",
    "a base that is itself": "base: ./my.yaml",
}
NUMBERS = '{"model_type": "bert", "hidden_size": 8, "num_hidden_layers": %s}'
CONFIGS: dict[str, str | bytes] = {
    "brackets": '{"model_type": ' + "[" * 100_000,
    "braces": '{"a":' * 100_000,
    "closed brackets": '{"a": [' + "[]," * 300_000 + "0]}",
    "as many values as are read": '{"a": [' + "0," * (MAXIMUM_NODES - 4) + "0]}",
    "more values than are read": '{"a": [' + "0," * 500_000 + "0]}",
    "as many keys as are read": "{" + ",".join(f'"{at}":0' for at in range(MAXIMUM_NODES - 2)) + "}",
    "keys in keys": '{"a": {' + ",".join(f'"{at}":{{}}' for at in range(40_000)) + "}}",
    "one key again and again": "{" + ",".join(['"a":0'] * 40_000) + "}",
    "labels without end": json.dumps({"model_type": "bert", "id2label": {str(at): "x" for at in range(40_000)}}),
    "labels that are lists": json.dumps({"model_type": "bert", "id2label": {"0": []}}),
    "architectures without end": json.dumps({"architectures": [[]] * 40_000}),
    "a long text": '{"a": "' + "a" * 1_000_000 + '"}',
    "a text without an end": '{"a": "' + "a" * 1_000_000,
    "escapes": '{"' + '\\"' * 500_000,
    "quotes": '{"a": ' + '"' * 1_000_000,
    "lines": '{"a": ' + "\n" * 1_000_000,
    "lines of other kinds": '{"a": "' + "\u2028" * 300_000 + '"}',
    "digits": NUMBERS % ("9" * 900_000),
    "digits of a real number": NUMBERS % ("0." + "7" * 900_000),
    "an exponent": NUMBERS % ("1e" + "9" * 900_000),
    "infinity": NUMBERS % "Infinity",
    "no number": NUMBERS % "NaN",
    "a negative number of layers": NUMBERS % "-1",
    "layers without end": NUMBERS % "1000000000000",
    "a real number of layers": NUMBERS % "1.5",
    "half a character": '{"model_type": "\\ud800"}',
    "a comment": "/* */ {}",
    "a list": "[]",
    "a number": "1",
    "nothing": "",
    "a zero": "\0",
    "not UTF-8": b'{"a": "\xff"}',
    "UTF-16": '{"model_type": "bert"}'.encode("utf-16"),
    "more than is read": " " * (MAXIMUM_BYTES + 1),
    "an object of Python": '{"py/object": "os.system", "py/reduce": ["os.system"]}',
}


def pipe(name: str) -> Build:
    def build(folder: Path) -> Path:
        os.mkfifo(folder / name)
        return folder / name if name.endswith(".yaml") else folder

    return build


def linked(name: str, target: str) -> Build:
    def build(folder: Path) -> Path:
        (folder / name).symlink_to(target)
        return folder / name if name.endswith(".yaml") else folder

    return build


PLACES: dict[str, Build] = {
    "a spec that is a pipe": pipe("my.yaml"),
    "a configuration that is a pipe": pipe("config.json"),
    "a spec that is a device": linked("my.yaml", "/dev/zero"),
    "a configuration that is a device": linked("config.json", "/dev/zero"),
    "a spec that leads to itself": linked("my.yaml", "my.yaml"),
    "a configuration that leads to itself": linked("config.json", "config.json"),
}
HOSTILE: dict[str, Build] = {
    **{f"YAML: {name}": spec(text) for name, text in TEXTS.items()},
    **{f"JSON: {name}": config(text) for name, text in CONFIGS.items()},
    **PLACES,
}


def read_spec(path: Path) -> Mapping[str, Tensor]:
    load_spec(str(path))
    return {}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_specs_are_refused(name: str, tmp_path: Path) -> None:
    assert_refused(read_spec, built(HOSTILE[name], tmp_path))
