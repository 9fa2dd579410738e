"""What is said of a spec that is wrong: the text of every error, and that there is never anything but a text.

`python tests/test_spec_errors.py` writes the golden texts anew, for the eye to judge in the diff.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from bertc.codes import BAD_INPUT, UNSUPPORTED, USAGE
from bertc.errors import BertcError, Source
from bertc.spec import Spec, load_spec, parse_spec, shipped_specs

GOLDEN = Path(__file__).parent / "golden" / "spec_errors"
CASES = sorted(path.name for path in GOLDEN.iterdir() if path.suffix != ".txt")
EXIT_4 = {"other_model_type", "other_architecture", "decoder", "untied_masked_lm"}


def error_of(case: str) -> BertcError:
    with pytest.raises(BertcError) as caught:
        load_spec(f"./{case}")
    return caught.value


@pytest.mark.parametrize("case", CASES)
def test_golden(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(GOLDEN)
    found = error_of(case)
    assert f"{found}\n" == Path(case).with_suffix(".txt").read_text("utf-8")
    assert found.exit_code == (UNSUPPORTED if case in EXIT_4 else BAD_INPUT)


def test_every_golden_text_has_its_case() -> None:
    assert {path.stem for path in GOLDEN.glob("*.txt")} == {Path(case).stem for case in CASES}


@pytest.mark.parametrize(
    ("argument", "code", "said", "exit_code"),
    [
        ("bert-bas", "B0001", "did you mean `bert-base`?", USAGE),
        ("no/such.yaml", "B0002", "expected a file at `no/such.yaml`", BAD_INPUT),
        ("no/such", "B0002", "expected a spec at `no/such`", BAD_INPUT),
        ("no/such\0.yaml", "B0002", "expected a file", BAD_INPUT),
        ("x" * 5000 + ".yaml", "B0002", "expected a file", BAD_INPUT),
        ("", "B0210", "expected a folder or a .yaml file", BAD_INPUT),
        ("config.json", "B0210", "for a config.json, name its folder", BAD_INPUT),
        ("pipe.yaml", "B0002", "expected a file", BAD_INPUT),
        ("large.yaml", "B0202", "at most 1048576 bytes", BAD_INPUT),
    ],
)
def test_arguments(
    argument: str, code: str, said: str, exit_code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe.yaml")
    Path("config.json").write_text("{}")
    Path("large.yaml").write_bytes(b"#" * (1 << 20) + b"\n")
    with pytest.raises(BertcError) as caught:
        load_spec(argument)
    assert caught.value.diagnostics[0].code == code
    assert said in str(caught.value)
    assert caught.value.exit_code == exit_code


SHIPPED = Path(__file__).parents[1] / "bertc" / "specs"


def spec_or_error(text: str) -> Spec | BertcError:
    """Any other exception leaves here, and fails the test."""
    try:
        return parse_spec(Source("cut.yaml", text))
    except BertcError as problem:
        return problem


@pytest.mark.parametrize("name", shipped_specs())
def test_cut_at_every_byte(name: str) -> None:
    text = (SHIPPED / f"{name}.yaml").read_text("ascii")
    found = [spec_or_error(text[:end]) for end in range(len(text) + 1)]
    assert isinstance(found[0], BertcError)
    assert found[-1] == parse_spec(Source("cut.yaml", text))


EVERYTHING = """\
base: bert-base
sizes: {layers: 0x2, hidden: 64, "heads": 4, head_size: 16, inner: 128, labels: 2}
norm_eps: 1e-5
activation: gelu_tanh
position_offset: 2
network: {head: token_classification, encoder: {block: pre_norm, repeat: layers}, final: final_norm}
blocks: []
shapes:
  - {batch: [1, 8, 32], seq: [16, 128, 384]}
  - batch: 1
    seq: 510
precision: bf16
weights: 'it''s here/model.safetensors'   # a comment
target: rtx
passes: [default, fuse_attention]
without: [fuse_bias_gelu]
input_names: demobert
labels: [no, "y\\u00e9s"]
"""


def test_changed_bytes() -> None:
    """1000 changes of one to three characters, to those that mean something to YAML."""
    assert isinstance(spec_or_error(EVERYTHING), Spec)
    choose = random.Random(2018)
    outcomes = {Spec: 0, BertcError: 0}
    for _ in range(1000):
        text = list(EVERYTHING)
        for _ in range(choose.randint(1, 3)):
            text[choose.randrange(len(text))] = choose.choice("[]{}:,-?|>&*!%@#'\"\\\t\n\r \0\x85\u2028é🙂0x")
        outcomes[type(spec_or_error("".join(text)))] += 1
    assert min(outcomes.values()) > 30, outcomes


def test_config_cut_at_every_byte(tmp_path: Path) -> None:
    text = (GOLDEN / "decoder" / "config.json").read_bytes().replace(b"true", b"false")
    for end in range(len(text)):
        (tmp_path / "config.json").write_bytes(text[:end])
        with pytest.raises(BertcError):
            load_spec(str(tmp_path))


if __name__ == "__main__":
    os.chdir(GOLDEN)
    for case in CASES:
        Path(case).with_suffix(".txt").write_text(f"{error_of(case)}\n", "utf-8")
