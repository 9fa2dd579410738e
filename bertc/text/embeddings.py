"""Texts to vectors, as sentence-transformers computes them.

    mean: e = sum_i x_i / n        cls: e = x_0        max: e_j = max_i x_ij        normalised: e / |e|

over the vectors x [n, hidden] of the tokens of a text, those of the frame among them. Source: Reimers and Gurevych
2019, https://arxiv.org/abs/1908.10084.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from bertc.errors import did_you_mean, error
from bertc.ops import Array
from bertc.text.model import TextModel
from bertc.text.settings import TextSettings

POOLINGS = ("mean", "cls", "max")
SMALLEST_NORM = 1e-12
"""A shorter vector is divided by this: PyTorch's `normalize`."""


def embed(
    model: TextModel,
    texts: Sequence[str],
    *,
    pooling: str | None = None,
    normalise: bool | None = None,
    limit: int | None = None,
) -> Array:
    """The vector of each text, [texts, hidden]; what is None is as the model's own files say.

    Texts of more than `limit` tokens are cut. Raises B0901 for an empty text, B0904 for a limit beyond the engine's,
    B0905 for a network without vectors of tokens, B0906 for a pooling that bertc has not.
    """
    model.require("embed")
    if limit is not None and not 2 < limit <= model.longest:
        message = f"expected a limit of at least 3 and at most {model.longest} tokens, but found {limit}"
        raise error("B0904", message, None, "longer texts need a bundle of larger `shapes`")
    chosen = model.settings.pooling if pooling is None else pooling
    if chosen not in POOLINGS:
        message = f"expected pooling by mean, cls or max, but found `{chosen}`"
        raise error("B0906", message, None, did_you_mean(chosen, POOLINGS) if pooling else "choose with `--pooling`")
    longest = limit or min(model.settings.limit or model.longest, model.longest)
    sequences = replace(model, longest=longest, prepare=_preparation(model.settings)).encodings(texts, cut=True)
    vectors = np.empty((len(sequences), model.hidden), np.float32)
    for index, results in model.run(sequences):
        vectors[index] = _pooled(results["last_hidden_state"], chosen)
    if model.settings.normalise if normalise is None else normalise:
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), SMALLEST_NORM)
    return vectors


def _preparation(settings: TextSettings) -> Callable[[str], str]:
    """What sentence-transformers' Transformer does to a text before the tokenizer sees it."""

    def prepare(text: str) -> str:
        stripped = (settings.prompt + text).strip()
        return stripped.lower() if settings.lower else stripped

    return prepare


def _pooled(vectors: Array, pooling: str) -> Array:
    """[n, hidden] -> [hidden]."""
    match pooling:
        case "mean":
            return vectors.mean(axis=0)
        case "max":
            return vectors.max(axis=0)
        case _:
            return vectors[0]
