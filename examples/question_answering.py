# %% [markdown]
# # Answers to questions
#
# From a model without a head for questions to answers over a passage, on the CPU. It runs as a program,
# `python examples/question_answering.py`, and as the notebook docs/question_answering.ipynb, which
# `python docs/notebook.py` makes of it. `all-MiniLM-L6-v2` is the Hugging Face directory of that model; the extras
# `onnx`, `text` and `bench` are installed.
#
# ## A head
#
# A model that was trained on SQuAD is built in one step. This one was trained to compare sentences, so it gets a head
# first: one layer, trained for seconds on made-up sentences such as "In 1921 Ada Novak opened a school in Paris." It
# answers questions of that form, and shows what any other model does in its place.

# %%
import json
import sys
from pathlib import Path

import bertc
from bertc.evaluation.squad import evaluate_squad
from bertc.evaluation.squad_file import read_squad
from bertc.text.answers import Reading

sys.path += ["examples", "../examples"]  # from the root of a clone, or from docs/
from train_heads import train

_, unseen = train("ask", Path("all-MiniLM-L6-v2"), Path("out/heads/ask"))
print(f"{unseen:.0%} of the starts and ends that it did not see are right")

# %% [markdown]
# ## A bundle
#
# The directory is the spec: its config.json says which network it is.
# `bertc build out/heads/ask --target onnx -o out/ask` does the same.

# %%
bertc.build(bertc.load("out/heads/ask"), Path("out/ask"), "onnx", force=Path("out/ask").exists())
engine = bertc.open("out/ask")
print(engine.bundle.manifest.outputs)

# %% [markdown]
# ## Questions
#
# An answer is a span of the passage, with its probability among the best. `best` asks for more than one.

# %%
passage = "It rained for weeks. In 1911 Tom Okafor built a hospital in Athens. The streets were narrow and loud."
for question in (
    "Who built a hospital?",
    "In which year did Tom Okafor build a hospital?",
    "In which city did Tom Okafor build a hospital?",
):
    print(question)
    for answer in engine.ask(question, passage, best=2):
        assert passage[answer.start : answer.end] == answer.text
        print(f"    {answer.score:4.0%}  {answer.text}")

# %% [markdown]
# ## A long passage
#
# A passage may be of any length: it is read in windows, each `stride` tokens behind the one before. A token that is in
# several of them counts in the one where it has most around it. This head learned from short passages, so its windows
# are small; `Reading()` has the 384 and 128 of BERT's own script.

# %%
surroundings = "The food was simple and good. It rained for most of the spring. Nobody knew how long it would last. "
long = surroundings * 20 + "In 1931 Nina Rossi built a theatre in Lisbon. " + surroundings * 10
reading = Reading(window=64, stride=32)
print(f"{len(long.split())} words")
for question in ("Who built a theatre?", "In which year did Nina Rossi build a theatre?"):
    (answer,) = engine.ask(question, long, reading=reading)
    print(f"{question} {answer.text} ({answer.score:.0%}), from character {answer.start} on")

# %% [markdown]
# ## How good it is
#
# SQuAD's files have articles, each with paragraphs, each with questions and the answers that people gave. Below is a
# small one, whose last question has a form that the head never saw.
# `bertc eval out/ask squad out/articles.json --window 64 --stride 32` prints the same scores, and takes the real
# dev-v1.1.json and dev-v2.0.json as well.

# %%
articles = {
    "A hospital": (
        passage,
        {"Who built a hospital?": "Tom Okafor", "In which city did Tom Okafor build a hospital?": "Athens"},
    ),
    "A theatre": (
        long,
        {"Who built a theatre?": "Nina Rossi", "In which year did Nina Rossi build a theatre?": "1931"},
    ),
    "A bridge": (
        "A band played. In 1902 the engineer Karl Weber built a bridge in Prague. The river was high.",
        {"Who built a bridge?": "Karl Weber", "Which town has a bridge?": "Prague"},
    ),
}
data = [
    {
        "title": title,
        "paragraphs": [
            {
                "context": context,
                "qas": [
                    {
                        "id": f"{title}: {question}",
                        "question": question,
                        "answers": [{"text": answer, "answer_start": context.index(answer)}],
                    }
                    for question, answer in answers.items()
                ],
            }
        ],
    }
    for title, (context, answers) in articles.items()
]
Path("out/articles.json").write_text(json.dumps({"version": "1.1", "data": data}), "utf-8")
result = evaluate_squad(engine.text, read_squad(Path("out/articles.json")), reading)
for asked, answer in result.predictions.items():
    print(f"{asked} {answer}")
print({name: round(score, 1) for name, score in result.scores.items()})
