"""`bertc eval` and `bertc compare`: scores and differences as lines or as JSON, and the bars that they have to pass."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import numpy as np

from bertc.bench.peers import bundle_graph
from bertc.engine import Engine, open
from bertc.errors import error
from bertc.evaluation.comparison import Network, Sequences, blocks_of, compare, random_sequences
from bertc.evaluation.glue import evaluate_glue
from bertc.evaluation.layers import hidden_states, layers_of, open_with_layers
from bertc.evaluation.reference_network import open_reference
from bertc.evaluation.squad import evaluate_squad
from bertc.evaluation.squad_file import read_squad
from bertc.evaluation.transformers_network import open_transformers
from bertc.output import Progress, document, progress_bars
from bertc.tasks import texts_of
from bertc.text.answers import Reading
from bertc.writing import replacing


def run_eval(options: Namespace) -> int:
    return _eval_glue(options) if options.data_set == "glue" else _eval_squad(options)


def _eval_glue(options: Namespace) -> int:
    labels = options.labels.split(",") if options.labels else None
    with open(options.bundle, device=options.device) as engine, progress_bars() as (progress, _):
        scores = evaluate_glue(engine.text, options.task, options.file, labels, progress)
    return _print_scores("eval-glue", scores, options.json)


def _eval_squad(options: Namespace) -> int:
    squad = read_squad(options.file)
    reading = Reading(options.window, options.stride, options.longest_question, options.longest_answer)
    names = ["predictions", "nbest", *(["null_odds"] if squad.has_unanswerable else [])]
    with ExitStack() as opened:
        # Before the work: a folder that cannot be written in is said at once, and the files appear together.
        files = {name: opened.enter_context(replacing(path)) for name, path in _paths(options.output_folder, names)}
        engine = opened.enter_context(open(options.bundle, device=options.device))
        progress, _ = opened.enter_context(progress_bars())
        found = evaluate_squad(engine.text, squad, reading, options.null_threshold, progress)
        for name, path in files.items():
            path.write_text(json.dumps(getattr(found, name), indent=2, ensure_ascii=False) + "\n", "utf-8")
    _print_scores("eval-squad", found.scores, options.json)
    if options.min_f1 is not None and found.scores["f1"] < options.min_f1:
        raise error("B0908", f"expected an F1 of at least {options.min_f1}, but it is {found.scores['f1']:.2f}")
    return 0


def _paths(folder: Path | None, names: Sequence[str]) -> list[tuple[str, Path]]:
    return [] if folder is None else [(name, folder / f"{name}.json") for name in names]


def _print_scores(schema: str, scores: Mapping[str, float], as_json: bool) -> int:
    if as_json:
        return document(schema, scores=scores)
    for name, score in scores.items():
        print(f"{name:20} {score if isinstance(score, int) else format(score, '.4f')}")
    return 0


def run_compare(options: Namespace) -> int:
    with ExitStack() as opened:
        first = opened.enter_context(_opened(options.bundle, options))
        second, engines = _other(options, first, opened)
        progress, _ = opened.enter_context(progress_bars())
        differences = compare(first.run_sequences, second, _sequences(options, engines, progress))
    layers = layers_of(bundle_graph(first.bundle)) if options.layers else ()
    inside, outputs = ([one for one in differences if (one.output in layers) is within] for within in (True, False))
    apart = [one for one in (*inside, *outputs) if options.atol is not None and not one.largest <= options.atol]
    if options.json:
        found = {"layers": [asdict(one) for one in inside]} if options.layers else {}
        document("compare", **found, outputs=[asdict(one) for one in outputs])
    else:
        print(f"{'output':20} {'largest':>10} {'mean':>10} {'cosine':>12}")
        for one in (*inside, *outputs):
            mark = f"  <- the first over {options.atol:g}" if one in apart[:1] else ""
            print(f"{one.output:20} {one.largest:10.3e} {one.mean:10.3e} {one.cosine:12.9f}{mark}")
    for one in apart[:1]:
        raise error("B0908", f"expected `{one.output}` within {options.atol:g}, but it is {one.largest:.3e} apart")
    return 0


def _opened(path: Path, options: Namespace) -> Engine:
    return open_with_layers(path, options.device) if options.layers else open(path, device=options.device)


def _other(options: Namespace, first: Engine, opened: ExitStack) -> tuple[Network, list[Engine]]:
    """What the bundle is held beside, and the engines among the two."""
    vocab = first.bundle.manifest.sizes["vocab"]
    match options.other.partition(":"):
        case ("transformers", ":", folder):
            layers = hidden_states(bundle_graph(first.bundle)) if options.layers else ()
            return open_transformers(Path(folder), vocab, layers), [first]
        case ("reference", ":", spec):
            return open_reference(spec, vocab, layers=options.layers), [first]
        case _:
            second = opened.enter_context(_opened(Path(options.other), options))
            return second.run_sequences, [first, second]


def _sequences(options: Namespace, engines: Sequence[Engine], progress: Progress | None) -> Iterator[Sequences]:
    """The texts that are given as the first bundle's tokenizer cuts them, else random ids that all bundles take."""
    if not options.texts and options.input is None:
        manifests = [engine.bundle.manifest for engine in engines]
        longest = min(max(profile.seq.largest for profile in manifest.profiles) for manifest in manifests)
        vocab = min(manifest.sizes["vocab"] for manifest in manifests)
        yield from blocks_of(*random_sequences(options.sequences, longest, vocab, options.seed), progress)
        return
    model, before = engines[0].text, 0
    for named, texts in texts_of(model, options):
        found = named.encodings(texts, cut=True)
        types = [np.array(one.types) * (model.types > 1) for one in found]
        yield from blocks_of([np.array(one.ids) for one in found], types, progress, before)
        before += len(found)
