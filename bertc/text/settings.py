"""What a model's own files say about texts: what it can be asked for, and how.

| file | what is read |
|---|---|
| `config.json` | `problem_type` |
| `modules.json`, `1_Pooling/config.json` | how vectors of tokens become one of a text |
| `sentence_bert_config.json`, `tokenizer_config.json` | how long a text may be, and whether in small letters |
| `config_sentence_transformers.json` | what stands before each text |

Source: transformers' PretrainedConfig; sentence-transformers' SentenceTransformer, which pools by the mean and does not
normalise where a model says nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bertc.graph import Graph
from bertc.json_reader import read_json
from bertc.text.configuration import Configuration, read_configuration
from bertc.tree import MappingNode, SequenceNode, read_source

POOLINGS = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls", "pooling_mode_max_tokens": "max"}
"""What sentence-transformers calls a pooling, and what bertc does; others are known by their keys."""

TRANSFORMER = "sentence_bert_config.json"

_POOLING_KEYS = "pooling_mode_"


@dataclass(frozen=True)
class TextSettings:
    tasks: tuple[str, ...] = ()
    """What the network's head can answer: `embed`, `classify`, `tokens`, `fill`, `ask`."""
    labels: tuple[str, ...] = ()
    problem: str = ""
    """transformers' `problem_type`; empty where it is not said."""
    pooling: str = "mean"
    """`mean`, `cls`, `max`, or what the model asks for and bertc has not."""
    normalise: bool = False
    limit: int = 0
    """Tokens that a text is cut to before it is embedded; 0 where the model's length is the only one."""
    prompt: str = ""
    """What stands before each text that is embedded."""
    lower: bool = False
    """Whether texts are put into small letters before they are embedded, whatever the tokenizer does."""


def tasks_of(graph: Graph, sizes: Mapping[str, int]) -> tuple[str, ...]:
    """What the results of a network, not packed, are good for."""
    shapes = {name: graph.type_of(value).shape for name, value in graph.outputs.items()}
    logits = [str(size) for size in shapes.get("logits", ())]
    labels, vocab = str(sizes["labels"]), str(sizes["vocab"])
    found = {
        "embed": "last_hidden_state" in shapes,
        "classify": len(logits) == 2 and logits[-1] == labels,
        "tokens": len(logits) == 3 and logits[-1] == labels,
        "fill": len(logits) == 3 and logits[-1] == vocab,
        "ask": {"start_logits", "end_logits"} <= shapes.keys(),
    }
    return tuple(task for task, is_there in found.items() if is_there)


def read_settings(folder: Path | None, tasks: tuple[str, ...], labels: tuple[str, ...], count: int) -> TextSettings:
    """The settings of the model in a Hugging Face directory, or the usual ones where there is none.

    `labels` are those that the spec names; transformers calls the `count` labels without names `LABEL_0` and so on.
    """
    names = labels or tuple(f"LABEL_{index}" for index in range(count))
    if folder is None:
        return TextSettings(tasks, names)
    modules = dict(_modules(folder))
    return TextSettings(
        tasks=tasks,
        labels=names,
        problem=read_configuration(folder, "config.json").text("problem_type") or "",
        pooling=_pooling(folder, modules),
        normalise="Normalize" in modules,
        limit=_limit(folder),
        prompt=_prompt(folder),
        lower=read_configuration(folder, TRANSFORMER).flag("do_lower_case", False),
    )


def _modules(folder: Path) -> Iterator[tuple[str, str]]:
    """The class of each module and its folder."""
    if not (folder / "modules.json").is_file():
        return
    tree = read_json(read_source(folder / "modules.json"))
    for node in tree.items if isinstance(tree, SequenceNode) else ():
        if isinstance(node, MappingNode):
            module = Configuration((node,))
            yield (module.text("type") or "").rpartition(".")[2], module.text("path") or ""


def _pooling(folder: Path, modules: Mapping[str, str]) -> str:
    others = modules.keys() - {"Transformer", "Pooling", "Normalize"}
    if others:
        return " and ".join(sorted(others))
    if "Pooling" not in modules:
        return "mean"
    path = modules["Pooling"]
    if Path(path).name != path or not (folder / path / "config.json").is_file():
        return "Pooling without its config.json"
    pooling = read_configuration(folder / path, "config.json")
    keys = [entry.key for tree in pooling.trees for entry in tree.entries if entry.key.startswith(_POOLING_KEYS)]
    chosen = [key for key in keys if pooling.flag(key, False)]
    name = " and ".join(POOLINGS.get(key, key.removeprefix(_POOLING_KEYS)) for key in chosen)
    return name if pooling.flag("include_prompt", True) or not _prompt(folder) else f"{name} without the prompt"


def _prompt(folder: Path) -> str:
    config = read_configuration(folder, "config_sentence_transformers.json")
    name, prompts = config.text("default_prompt_name"), config.node("prompts")
    return (Configuration((prompts,)).text(name) or "") if name and isinstance(prompts, MappingNode) else ""


def _limit(folder: Path) -> int:
    own = read_configuration(folder, TRANSFORMER).number("max_seq_length")
    return own or read_configuration(folder, "tokenizer_config.json").number("model_max_length") or 0
