"""Small heads for a BERT without one, trained on made-up data in under a minute on the CPU.

    python examples/train_heads.py all-MiniLM-L6-v2 out/heads classify tokens fill ask

writes a Hugging Face directory for each task, out/heads/ask and so on, which transformers and `bertc build` read. The
body stays as it is, so that each text goes through it once; what is learned is the head, of the vectors that the body
gave, by L-BFGS on the cross entropy. Two seeds make two sets of examples: one to learn from, one that is not seen.
Needs the extra `bench` for torch and transformers.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.nn.functional import cross_entropy
from transformers import AutoTokenizer

STEPS, DECAY = 60, 1e-4
SEEN, UNSEEN = 0, 1
"""Seeds."""


# ------------------------------------------------------------------------------------------------------------- examples

PEOPLE = "Ada Novak|Peter Brandt|Clara Jensen|Tom Okafor|Nina Rossi|Hugo Laurent|Mary Walsh|Ivan Petrov|Lucy Chen"
PLACES = "Paris|London|Rome|Vienna|Lisbon|New York|Prague|Dublin|San Francisco|Athens|Berlin|Warsaw"
THINGS = "a school|a library|a theatre|a bakery|a museum|a hospital|a bridge|a garden"
DEEDS = {"opened": "open", "built": "build", "bought": "buy", "sold": "sell"}
SURROUNDINGS = (
    "The streets were wide and quiet.|It rained for most of the spring.|Visitors came from far away.|"
    "The walls were painted blue.|Nobody knew how long it would last.|The food was simple and good.|"
    "A band played in the evening.|The river was high that week."
)

OPINIONS = {
    "positive": "a wonderful|a charming|a brilliant|a touching|a very funny",
    "negative": "a dreadful|a boring|a clumsy|a tiresome|a very silly",
}
WORKS = "film|book|play|story|concert"
REMARKS = "{} from the first minute|{} by a young author|what {}|I found it {}|{} and nothing else"

CAPITALS = (
    "france paris|italy rome|spain madrid|germany berlin|russia moscow|japan tokyo|china beijing|egypt cairo|"
    "greece athens|austria vienna|portugal lisbon|poland warsaw|ireland dublin|norway oslo|cuba havana"
)
GAPS = (
    "the capital of {country} is [MASK].",
    "[MASK] is the capital of {country}.",
    "we flew to [MASK], the capital of {country}.",
    "[MASK] lies in {country}.",
    "in {country} they went to [MASK].",
)


@dataclass(frozen=True)
class Sentence:
    """Somebody did something somewhere in some year."""

    who: str
    where: str
    when: str
    deed: str
    thing: str

    def __str__(self) -> str:
        return f"In {self.when} {self.who} {self.deed} {self.thing} in {self.where}."

    def question(self, about: str) -> str:
        match about:
            case "where":
                return f"In which city did {self.who} {DEEDS[self.deed]} {self.thing}?"
            case "when":
                return f"In which year did {self.who} {DEEDS[self.deed]} {self.thing}?"
            case _:
                return f"Who {self.deed} {self.thing}?"


def sentence(chooser: random.Random) -> Sentence:
    who, where, thing = (chooser.choice(names.split("|")) for names in (PEOPLE, PLACES, THINGS))
    return Sentence(who, where, str(chooser.randint(1850, 1990)), chooser.choice(list(DEEDS)), thing)


def questions(seed: int) -> Iterator[tuple[str, str, str]]:
    """A question, a passage, and the answer in it."""
    chooser = random.Random(seed)
    for _ in range(500 if seed == SEEN else 100):
        told, about = sentence(chooser), chooser.choice(("who", "where", "when"))
        around = chooser.sample(SURROUNDINGS.split("|"), chooser.randint(0, 3))
        around.insert(chooser.randint(0, len(around)), str(told))
        yield told.question(about), " ".join(around), getattr(told, about)


def sentences(seed: int) -> Iterator[tuple[str, dict[str, str]]]:
    """A text, and the names in it with their kinds."""
    chooser = random.Random(seed)
    for _ in range(150):
        told = sentence(chooser)
        yield str(told), {told.who: "PER", told.where: "LOC"}


def reviews(seed: int) -> Iterator[tuple[str, str]]:
    """A text and its label."""
    chooser = random.Random(seed)
    for _ in range(150):
        label = chooser.choice(list(OPINIONS))
        thing = f"{chooser.choice(OPINIONS[label].split('|'))} {chooser.choice(WORKS.split('|'))}"
        yield chooser.choice(REMARKS.split("|")).format(thing), label


def gaps(seed: int) -> Iterator[tuple[str, str]]:
    """A text with a gap, and the word for it; the last way to say it is the one that is not seen."""
    for country, capital in map(str.split, CAPITALS.split("|")):
        for text in GAPS[:-1] if seed == SEEN else GAPS[-1:]:
            yield text.format(country=country), capital


# -------------------------------------------------------------------------------------------------------------- lessons

Tensor = torch.Tensor
Lesson = tuple[Tensor, Tensor]
"""What a head is given, and the class that is right: vectors [n, hidden] and [n], or for spans [n, seq, hidden] and
[n, 2]."""


def lesson_of_labels(model: Any, tokenizer: Any, seed: int) -> Lesson:
    texts, labels = zip(*reviews(seed), strict=True)
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    right = [model.config.label2id[label] for label in labels]
    return model.bert(**batch).pooler_output, torch.tensor(right)


def lesson_of_entities(model: Any, tokenizer: Any, seed: int) -> Lesson:
    texts, names = zip(*sentences(seed), strict=True)
    batch = tokenizer(texts, padding=True, return_tensors="pt", return_offsets_mapping=True)
    offsets = batch.pop("offset_mapping")
    right = torch.zeros(offsets.shape[:2], dtype=torch.int64)
    for row, (text, kinds) in enumerate(zip(texts, names, strict=True)):
        for name, kind in kinds.items():
            inside = tokens_of(offsets[row], text.index(name), len(name))
            right[row, inside] = model.config.label2id[f"I-{kind}"]
            right[row, inside[0]] = model.config.label2id[f"B-{kind}"]
    is_word = offsets[:, :, 1] > 0
    return model.bert(**batch).last_hidden_state[is_word], right[is_word]


def lesson_of_words(model: Any, tokenizer: Any, seed: int) -> Lesson:
    texts, words = zip(*gaps(seed), strict=True)
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    is_gap = batch["input_ids"] == tokenizer.mask_token_id
    return model.bert(**batch).last_hidden_state[is_gap], torch.tensor(tokenizer.convert_tokens_to_ids(words))


def lesson_of_spans(model: Any, tokenizer: Any, seed: int) -> Lesson:
    asked, passages, answers = zip(*questions(seed), strict=True)
    batch = tokenizer(asked, passages, padding=True, return_tensors="pt", return_offsets_mapping=True)
    offsets = batch.pop("offset_mapping") * batch["token_type_ids"][:, :, None]
    right = [
        tokens_of(spans, passage.index(answer), len(answer))
        for spans, passage, answer in zip(offsets, passages, answers, strict=True)
    ]
    return model.bert(**batch).last_hidden_state, torch.tensor([[inside[0], inside[-1]] for inside in right])


def tokens_of(offsets: Tensor, start: int, length: int) -> Sequence[int]:
    """The tokens of a stretch of a text."""
    first, end = offsets[:, 0], offsets[:, 1]
    return torch.nonzero((first >= start) & (end <= start + length) & (end > 0)).flatten().tolist()


@dataclass(frozen=True)
class Task:
    kind: str
    """The class of transformers."""
    lesson: Callable[[Any, Any, int], Lesson]
    head: str
    """The module that turns a lesson's vectors into logits."""
    learned: tuple[str, ...]
    """Parameters that are learned, by what they start with."""
    settings: Mapping[str, Any]
    """Of its configuration."""


def named(*labels: str) -> dict[str, Any]:
    return {
        "id2label": dict(enumerate(labels)),
        "label2id": {label: number for number, label in enumerate(labels)},
    }


OPINION = named(*OPINIONS)
NAMES = named("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
WORDS = ("cls.predictions.transform", "cls.predictions.bias")

TASKS = {
    "classify": Task("SequenceClassification", lesson_of_labels, "classifier", ("classifier",), OPINION),
    "tokens": Task("TokenClassification", lesson_of_entities, "classifier", ("classifier",), NAMES),
    "fill": Task("MaskedLM", lesson_of_words, "cls", WORDS, {"tie_word_embeddings": True}),
    "ask": Task("QuestionAnswering", lesson_of_spans, "qa_outputs", ("qa_outputs",), {}),
}


# ------------------------------------------------------------------------------------------------------------- learning


def train(name: str, body: Path, folder: Path) -> tuple[float, float]:
    """Put the body with a head for a task into `folder`; the share of right answers to what it saw, and to the rest."""
    task = TASKS[name]
    torch.manual_seed(0)
    transformers.logging.set_verbosity_error()  # the head is missing, and that is why we are here
    transformers.logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(body)
    kind = getattr(transformers, f"BertFor{task.kind}")
    model = kind.from_pretrained(body, **task.settings).eval()
    for parameter_name, parameter in model.named_parameters():
        parameter.requires_grad = parameter_name.startswith(task.learned)
    head = model.get_submodule(task.head)
    with torch.no_grad():
        seen, unseen = (task.lesson(model, tokenizer, seed) for seed in (SEEN, UNSEEN))
    fit(head, *seen)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return accuracy(head, *seen), accuracy(head, *unseen)


def fit(head: Any, vectors: Tensor, right: Tensor) -> None:
    learned = [parameter for parameter in head.parameters() if parameter.requires_grad]
    optimizer = torch.optim.LBFGS(learned, max_iter=STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        total = cross_entropy(head(vectors), right) + DECAY * sum((values**2).sum() for values in learned)
        total.backward()
        return total

    optimizer.step(loss)


@torch.no_grad()
def accuracy(head: Any, vectors: Tensor, right: Tensor) -> float:
    return float((head(vectors).argmax(1) == right).double().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("body", type=Path, help="the Hugging Face directory of a BERT, such as all-MiniLM-L6-v2")
    parser.add_argument("folder", type=Path, help="the heads are written here, each in a directory of its task")
    parser.add_argument("tasks", nargs="+", choices=TASKS, metavar="TASK", help=", ".join(TASKS))
    options = parser.parse_args()
    for name in options.tasks:
        seen, unseen = train(name, options.body, options.folder / name)
        print(f"{options.folder / name}: {seen:.0%} right of what it saw, {unseen:.0%} of what it did not", flush=True)


if __name__ == "__main__":
    main()
