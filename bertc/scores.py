"""`bertc eval` and `bertc compare`: scores and differences as lines or as JSON, and the bars that they have to pass."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import numpy as np

from bertc.engine import Engine, open
from bertc.errors import error
from bertc.evaluation.comparison import Sequences, compare, random_sequences
from bertc.evaluation.glue import evaluate_glue
from bertc.evaluation.squad import evaluate_squad
from bertc.evaluation.squad_file import read_squad
from bertc.evaluation.transformers_network import open_transformers
from bertc.output import document, progress_bars, write_text
from bertc.text.answers import Reading

TRANSFORMERS = "transformers:"
"""What stands before a directory that transformers is to run."""


def run_eval(options: Namespace) -> int:
    return _eval_glue(options) if options.data_set == "glue" else _eval_squad(options)


def _eval_glue(options: Namespace) -> int:
    labels = options.labels.split(",") if options.labels else None
    with open(options.bundle, device=options.device) as engine:
        scores = evaluate_glue(engine.text, options.task, options.file, labels)
    return _print_scores("eval-glue", scores, options.json)


def _eval_squad(options: Namespace) -> int:
    squad = read_squad(options.file)
    reading = Reading(options.window, options.stride, options.longest_question, options.longest_answer)
    with open(options.bundle, device=options.device) as engine, progress_bars() as (progress, _):
        found = evaluate_squad(engine.text, squad, reading, options.null_threshold, progress)
    if options.output_folder is not None:
        _write_json(options.output_folder / "predictions.json", found.predictions)
        _write_json(options.output_folder / "nbest.json", found.nbest)
        if squad.has_unanswerable:
            _write_json(options.output_folder / "null_odds.json", found.null_odds)
    _print_scores("eval-squad", found.scores, options.json)
    if options.min_f1 is not None and found.scores["f1"] < options.min_f1:
        raise error("B0908", f"expected an F1 of at least {options.min_f1}, but it is {found.scores['f1']:.2f}")
    return 0


def _print_scores(schema: str, scores: Mapping[str, float], as_json: bool) -> int:
    if as_json:
        return document(schema, scores=scores)
    for name, score in scores.items():
        print(f"{name:20} {score if isinstance(score, int) else format(score, '.4f')}")
    return 0


def _write_json(path: Path, content: object) -> None:
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def run_compare(options: Namespace) -> int:
    with ExitStack() as opened:
        first = opened.enter_context(open(options.bundle, device=options.device))
        if options.other.startswith(TRANSFORMERS):
            second = open_transformers(Path(options.other.removeprefix(TRANSFORMERS)))
            engines = [first]
        else:
            engines = [first, opened.enter_context(open(options.other, device=options.device))]
            second = engines[1].run_sequences
        differences = compare(first.run_sequences, second, _sequences(options, engines))
    if options.json:
        document("compare", outputs=[asdict(one) for one in differences])
    else:
        print(f"{'output':20} {'largest':>10} {'mean':>10} {'cosine':>12}")
        for one in differences:
            print(f"{one.output:20} {one.largest:10.3e} {one.mean:10.3e} {one.cosine:12.9f}")
    for one in differences:
        if options.atol is not None and not one.largest <= options.atol:
            raise error("B0908", f"expected `{one.output}` within {options.atol:g}, but it is {one.largest:.3e} apart")
    return 0


def _sequences(options: Namespace, engines: Sequence[Engine]) -> Iterator[Sequences]:
    """The texts that are given as the first bundle's tokenizer cuts them, else random ids that all bundles take."""
    if not options.texts:
        manifests = [engine.bundle.manifest for engine in engines]
        longest = min(max(profile.seq.largest for profile in manifest.profiles) for manifest in manifests)
        vocab = min(manifest.sizes["vocab"] for manifest in manifests)
        yield random_sequences(options.sequences, longest, vocab, options.seed)
        return
    model = engines[0].text
    found = model.encodings(options.texts, cut=True)
    yield [np.array(one.ids) for one in found], [np.array(one.types) * (model.types > 1) for one in found]
