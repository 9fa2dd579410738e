"""The plan that a double's builder writes: one line of JSON, and behind it every constant, byte by byte."""

from __future__ import annotations

import ctypes
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import network_evaluator
import numpy as np

DTYPES: Mapping[str, Any] = network_evaluator.DTYPES


def plan_of(module: Any, network: Mapping[str, Any], flags: set[str]) -> bytes:
    """The engine as bytes, with the constants as they lie in memory now; a stripped one has zeros."""
    names = {id(weights): name for name, weights in network.get("weights_names", {}).items()}
    stripped = "STRIP_PLAN" in flags
    constants = [layer for layer in network["layers"] if layer["kind"] == "CONSTANT"]
    blobs = [content(layer["given"]) for layer in constants]
    entries = [
        [layer["name"], layer["given"].dtype.name, list(layer["shape"]), names.get(id(layer["given"])), digest(blob)]
        for layer, blob in zip(constants, blobs, strict=True)
    ]
    header = {
        "version": module.__version__,
        "build": len(module.builds) - 1,
        "layers": [layer["name"] for layer in network["layers"]],
        "constants": entries,
        "refittable": bool(flags & {"REFIT", "REFIT_IDENTICAL"}),
        "identical": "REFIT_IDENTICAL" in flags,
        "host_code": "VERSION_COMPATIBLE" in flags,
        "streaming": "WEIGHT_STREAMING" in flags,
        "missing": [entry[3] for entry in entries] if stripped else [],
    }
    assert header["refittable"] or not stripped
    return packed(header, [bytes(len(blob)) for blob in blobs] if stripped else blobs)


def packed(header: Mapping[str, Any], blobs: Sequence[bytes]) -> bytes:
    return json.dumps(header).encode() + b"\n" + b"".join(blobs)


def content(weights: Any) -> bytes:
    """What the pointer shows now."""
    size = weights.size * np.dtype(DTYPES[weights.dtype.name]).itemsize
    return ctypes.string_at(weights._state["pointer"], size) if size else b""


def digest(blob: bytes) -> str:
    return hashlib.sha256(blob).hexdigest()
