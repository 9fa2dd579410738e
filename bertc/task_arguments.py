"""The flags of what takes texts and data sets: `run BUNDLE TASK` and `eval BUNDLE DATA_SET`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from bertc.argument_parser import Parser, add_device, amount, count, number

GLUE_TASKS = ("cola", "sst-2", "mrpc", "qqp", "sts-b", "mnli", "qnli", "rte", "wnli")


def add_tasks(run: argparse.ArgumentParser) -> None:
    tasks = run.add_subparsers(dest="task", metavar="TASK", parser_class=Parser)

    def task(name: str, help: str) -> Parser:
        added = tasks.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.", allow_abbrev=False)
        added.set_defaults(parser=added)
        add_device(added, argparse.SUPPRESS)  # which leaves what stands before the task
        form = added.add_mutually_exclusive_group()
        form.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="one JSON document")
        form.add_argument("--json-lines", action="store_true", help="a JSON document a line, as the answers come")
        return added

    embed = task("embed", "a vector for each text, as the model's own files say")
    add_texts(embed)
    embed.add_argument("--pooling", choices=("mean", "cls", "max"), help="of the vectors of a text's tokens")
    embed.add_argument("--normalise", action=argparse.BooleanOptionalAction, help="to vectors of length 1")
    embed.add_argument("--limit", type=count, metavar="N", help="tokens that a text is cut to")

    classify = task("classify", "the labels of a text, or of a text and its pair, and their probabilities")
    add_texts(classify, "a text, and perhaps its pair", "; a tab stands between those of a pair")
    tokens = task("tokens", "the entities in each text, with their places")
    add_texts(tokens)
    fill = task("fill", "words for each [MASK] in a text")
    add_texts(fill)
    for added in (classify, tokens, fill):
        added.add_argument("--truncate", action="store_true", help="cut texts that are too long for the model")

    ask = task("ask", "the answers that a passage has to a question")
    ask.add_argument("--passage", required=True, metavar="FILE|TEXT", help="of any length; it is read in windows")
    ask.add_argument("--question", help="questions are read from standard input when left out")
    _add_reading(ask)
    for added, usual in ((fill, 5), (ask, 1)):
        added.add_argument("--best", type=count, default=usual, metavar="N", help=f"how many; {usual}")
    for added in (embed, classify, tokens, fill, ask):
        added.read_environment(os.environ)


def add_texts(parser: argparse.ArgumentParser, what: str = "one or more", form: str = "") -> None:
    parser.add_argument("texts", metavar="TEXT", nargs="*", help=what)
    help = f"a file of texts, one a line{form}; - is standard input"
    parser.add_argument("--input", type=Path, metavar="FILE", help=help)


def _add_reading(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--window", type=count, default=384, metavar="N", help="tokens that are read at once; 384")
    parser.add_argument("--stride", type=count, default=128, metavar="N", help="tokens from window to window; 128")
    parser.add_argument(
        "--longest-question", type=count, default=64, metavar="N", help="in tokens; the rest is cut; 64"
    )
    parser.add_argument("--longest-answer", type=count, default=30, metavar="N", help="in tokens; 30")


def add_data_sets(parser: argparse.ArgumentParser) -> None:
    data_sets = parser.add_subparsers(required=True, dest="data_set", metavar="DATA_SET", parser_class=Parser)

    def data_set(name: str, help: str) -> Parser:
        added = data_sets.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.", allow_abbrev=False)
        added.set_defaults(parser=added)
        return added

    squad = data_set("squad", "exact match and F1 of the answers to SQuAD's questions, version 1.1 or 2.0")
    squad.add_argument("file", metavar="FILE.json", type=Path, help="such as dev-v1.1.json or dev-v2.0.json")
    _add_reading(squad)
    squad.add_argument(
        "--null-threshold", type=number, default=0.0, metavar="X", help="2.0: odds above which there is no answer; 0"
    )
    squad.add_argument(
        "--output-folder", type=Path, metavar="FOLDER", help="for predictions.json, nbest.json and null_odds.json"
    )
    squad.add_argument("--min-f1", type=amount, metavar="PERCENT", help="less is exit code 1")
    glue = data_set("glue", "the metrics of a task of GLUE: accuracy, F1, Matthews, Pearson and Spearman")
    glue.add_argument("task", metavar="TASK", choices=GLUE_TASKS, help=", ".join(GLUE_TASKS))
    glue.add_argument("file", metavar="FILE.tsv", type=Path, help="the task's dev.tsv")
    glue.add_argument(
        "--labels", metavar="NAME,NAME", help="what the network's labels mean, in its order, where it does not say"
    )
    for added in (squad, glue):
        add_device(added)
        added.add_argument("--json", action="store_true", help="one JSON document on standard output")
        added.read_environment(os.environ)
