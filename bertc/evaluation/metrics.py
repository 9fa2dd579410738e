"""How near predictions are to what is right: the metrics of GLUE's tasks, each from -1 or 0 to 1.

    accuracy = mean(found = gold)
    F1       = 2 TP / (2 TP + FP + FN)                                            of label 1
    Matthews = (TP TN - FP FN) / sqrt((TP + FP)(TP + FN)(TN + FP)(TN + FN))       of two labels
    Pearson  = cov(x, y) / (std(x) std(y))
    Spearman = Pearson(ranks(x), ranks(y)), equal values sharing the mean of their ranks

Where a denominator is 0, so is the metric. Source: Wang et al. 2018, https://arxiv.org/abs/1804.07461, and the
definitions of scikit-learn and SciPy, which GLUE's own evaluation uses.
"""

from __future__ import annotations

import math

import numpy as np

from bertc.ops import Array


def accuracy(found: Array, gold: Array) -> float:
    return int(np.count_nonzero(found == gold)) / len(gold)


def f1(found: Array, gold: Array) -> float:
    hits, others = int(np.sum((found == 1) & (gold == 1))), int(np.sum((found == 1) ^ (gold == 1)))
    return 2 * hits / (2 * hits + others) if hits else 0.0


def matthews(found: Array, gold: Array) -> float:
    hits, rejections = int(np.sum((found == 1) & (gold == 1))), int(np.sum((found != 1) & (gold != 1)))
    alarms, misses = int(np.sum((found == 1) & (gold != 1))), int(np.sum((found != 1) & (gold == 1)))
    chance = (hits + alarms) * (hits + misses) * (rejections + alarms) * (rejections + misses)
    return (hits * rejections - alarms * misses) / math.sqrt(chance) if chance else 0.0


def pearson(found: Array, gold: Array) -> float:
    x, y = found - found.mean(), gold - gold.mean()
    scale = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / scale if scale else 0.0


def spearman(found: Array, gold: Array) -> float:
    return pearson(_ranks(found), _ranks(gold))


def _ranks(values: Array) -> Array:
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[places]
