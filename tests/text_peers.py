"""What transformers makes of a text with the same weights; where it has no pipeline, by the definition, written out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer, pipeline

from bertc.text.answers import Reading

BOUND = 1e-4
"""Probabilities in float32, of logits of size 10."""


def theirs(task: str, model: Any, minilm: Path, **options: Any) -> Any:
    return pipeline(task, model=model, tokenizer=AutoTokenizer.from_pretrained(minilm), device="cpu", **options)


def original(model: Any, minilm: Path, question: str, passage: str, reading: Reading) -> list[tuple[str, float, int]]:
    """run_squad's predictions by its definition, over the windows and the logits of transformers."""
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    room = reading.window - len(tokenizer(question, add_special_tokens=False)["input_ids"]) - 3
    batch = tokenizer(
        question,
        passage,
        truncation="only_second",
        max_length=reading.window,
        stride=room - reading.stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        padding=True,
        return_tensors="pt",
    )
    with torch.no_grad():
        output = model(**{name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")})
    lengths, spans = batch["attention_mask"].sum(1).tolist(), batch["offset_mapping"].tolist()
    context: dict[tuple[int, int], list[tuple[float, int]]] = {}
    for window, offsets in enumerate(spans):
        places = [place for place, text in enumerate(batch.sequence_ids(window)) if text == 1]
        for place in places:
            score = min(place - places[0], places[-1] - place) + 0.01 * len(places)
            context.setdefault(tuple(offsets[place]), []).append((-score, window))
    predictions: list[tuple[float, int, int]] = []
    for window, (length, offsets) in enumerate(zip(lengths, spans, strict=True)):
        starts, ends = output.start_logits[window].tolist(), output.end_logits[window].tolist()
        texts = batch.sequence_ids(window)
        for start in sorted(range(length), key=lambda place: -starts[place])[: reading.candidates]:
            for end in sorted(range(length), key=lambda place: -ends[place])[: reading.candidates]:
                inside = texts[start] == texts[end] == 1 and start <= end < start + reading.longest_answer
                if inside and min(context[tuple(offsets[start])])[1] == window:
                    predictions.append((starts[start] + ends[end], offsets[start][0], offsets[end][1]))
    best: dict[str, tuple[float, int]] = {}
    for score, start, end in sorted(predictions, reverse=True):
        best.setdefault(passage[start:end], (score, start))
    kept = list(best.items())[: reading.candidates]
    total = sum(np.exp(score - kept[0][1][0]) for _, (score, _) in kept)
    return [(text, float(np.exp(score - kept[0][1][0]) / total), start) for text, (score, start) in kept]
