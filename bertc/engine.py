"""Run a bundle: the same call for every target, NumPy arrays in and out."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bertc.bundle import TOKENIZER, Bundle, read_bundle
from bertc.compiler import RUNNING, target_module
from bertc.errors import did_you_mean, error
from bertc.sequences import batches, padded, width
from bertc.targets import Runtime
from bertc.text.answers import USUAL, Answer, Reading, ask
from bertc.text.classification import Label, classify
from bertc.text.embeddings import embed
from bertc.text.entities import Entity, find_entities
from bertc.text.files import open_tokenizer
from bertc.text.masked_words import Word, fill
from bertc.text.model import TextModel
from bertc.writing import replacing

Array = NDArray[Any]

STREAMS = ("tensorrt", "rtx")
"""The targets whose engines take several calls at once, as many as asked."""

LARGEST_ARRAYS = 1 << 32
"""Bytes of all arrays of a file, unpacked."""


class Engine:
    """An opened bundle. It may be called from several threads: on a GPU they take turns, or run together on as many
    streams as were asked for; on the CPU they run together.

        with bertc.open("out/minilm") as engine:
            hidden = engine.run({"input_ids": ids, "attention_mask": mask})["last_hidden_state"]

    Engines are independent of each other; each has its own stream and memory, also on one GPU. A thread that calls one
    keeps the CUDA context that it had.
    """

    def __init__(self, bundle: Bundle, runtime: Runtime) -> None:
        self.bundle = bundle
        self._runtime: Runtime | None = runtime

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def close(self) -> None:
        """Give back what the engine holds. It cannot run after that; closing it again does nothing."""
        if self._runtime is not None:
            closing, self._runtime = self._runtime, None
            closing.close()

    @property
    def runtime(self) -> Runtime:
        """What runs the bundle. Raises BertcError B0705 when the engine is closed."""
        if self._runtime is None:
            raise error("B0705", f"the engine of `{self.bundle.path}` is closed", None, "open the bundle again")
        return self._runtime

    def run(self, inputs: Mapping[str, ArrayLike]) -> dict[str, Array]:
        """Run a padded batch.

        `input_ids` [batch, seq], and where they are not all ones and all zeros `attention_mask` and `token_type_ids` of
        the same shape, each of a whole-number type; names are Hugging Face's or those that the spec chose. The mask has
        its ones on the left. Returns each output of the network as float32.

        Raises BertcError B0702 for names, types and shapes, B0703 for ids outside their tables, B0704 for a mask with a
        hole, B0705 when the engine is closed.
        """
        return self.runtime.run(self.checked(inputs))

    def run_sequences(
        self, ids: Sequence[ArrayLike], types: Sequence[ArrayLike] | None = None, *, tokens: int | None = None
    ) -> list[dict[str, Array]]:
        """Run any number of sequences, each as long as it is.

        `ids` has for each sequence its token ids, [length], and `types` its token types, zeros when left out. They are
        sorted by length and run in batches of at most `tokens` tokens (padding counted, unless the bundle was built
        with `pack_sequences` and has none); left out, it is as many as run fastest on the CPU, elsewhere as many as the
        largest shape of the bundle.

        Returns the outputs of each sequence, in the order given, as float32: [length, ...] where `run` gives
        [batch, seq, ...], and [...] where it gives [batch, ...].

        Raises BertcError B0702 for types, shapes and lengths, B0703 for ids outside their tables, B0705 when the
        engine is closed.
        """
        answers: list[dict[str, Array]] = [{} for _ in ids]
        for index, answer in self._answers(ids, types, tokens):
            answers[index] = answer
        return answers

    def _answers(
        self, ids: Sequence[ArrayLike], types: Sequence[ArrayLike] | None, tokens: int | None
    ) -> Iterator[tuple[int, dict[str, Array]]]:
        """The outputs of each sequence with its index, batch by batch, so that no more need be kept than is wanted."""
        runtime, profiles = self.runtime, self.bundle.manifest.profiles
        given = [_array(f"sequence {index}", row) for index, row in enumerate(ids)]
        kinds = [np.zeros_like(row) for row in given]
        if types is not None:
            kinds = [_array(f"the types of sequence {index}", row) for index, row in enumerate(types)]
        self._check_sequences(given, kinds)
        packed = runtime.run_packed is not None
        for batch in batches([len(row) for row in given], profiles, tokens=tokens or runtime.together, packed=packed):
            found = self._run_batch(runtime, [given[index] for index in batch], [kinds[index] for index in batch])
            yield from zip(batch, found, strict=True)

    @cached_property
    def text(self) -> TextModel:
        """The bundle as one that answers texts. Raises BertcError B0902 and B0903 when its tokenizer cannot be used."""
        manifest = self.bundle.manifest
        return TextModel(
            name=str(self.bundle.path),
            tokenizer=open_tokenizer(self.bundle.path / TOKENIZER),
            settings=manifest.text,
            longest=max(profile.seq.largest for profile in manifest.profiles),
            types=manifest.sizes["types"],
            hidden=manifest.sizes["hidden"],
            answers=self._answers,
        )

    def embed(
        self,
        texts: Sequence[str],
        *,
        pooling: str | None = None,
        normalise: bool | None = None,
        limit: int | None = None,
    ) -> Array:
        """A vector for each text, [texts, hidden] float32: their nearness is the cosine of the angle between them.

        `pooling` (`mean`, `cls` or `max`), whether to `normalise`, and the `limit` in tokens to which texts are cut are
        those of the model's own files (sentence-transformers') unless they are given.

        Raises BertcError B0901 for an empty text, B0902 and B0903 when the tokenizer cannot be used, B0904 for a limit
        beyond the engine's, B0905 for a bundle without vectors of tokens, B0906 for a pooling that bertc has not.
        """
        return embed(self.text, texts, pooling=pooling, normalise=normalise, limit=limit)

    def classify(
        self, texts: Sequence[str], pairs: Sequence[str] | None = None, *, truncate: bool = False
    ) -> list[list[Label]]:
        """The labels of each text, or of each with its pair, and their probabilities, the likeliest first.

        `truncate` cuts texts that are too long. Raises BertcError B0901 for an empty text, B0902 and B0903 when the
        tokenizer cannot be used, B0904 for a text that is too long, B0905 for a bundle that gives no labels.
        """
        return classify(self.text, texts, pairs, truncate=truncate)

    def entities(self, texts: Sequence[str], *, truncate: bool = False) -> list[list[Entity]]:
        """What stands where in each text. Raises BertcError as `classify` does."""
        return find_entities(self.text, texts, truncate=truncate)

    def fill(self, texts: Sequence[str], *, best: int = 5, truncate: bool = False) -> list[list[list[Word]]]:
        """For each text and each `[MASK]` in it the `best` words. Raises BertcError as `classify` does, and B0901 for a
        text without a gap."""
        return fill(self.text, texts, best=best, truncate=truncate)

    def ask(self, question: str, passage: str, *, best: int = 1, reading: Reading = USUAL) -> list[Answer]:
        """The `best` answers that a passage of any length has to a question, the likeliest first; there may be none.

        `reading` is how the passage is read: in windows of how many tokens, how far apart. Raises BertcError B0901 to
        B0903 as `classify` does, B0904 for a question that leaves no room, B0905 for a bundle that gives no starts and
        ends.
        """
        return ask(self.text, question, passage, best=best, reading=reading)

    def _run_batch(self, runtime: Runtime, ids: Sequence[Array], types: Sequence[Array]) -> list[dict[str, Array]]:
        lengths = np.array([len(row) for row in ids], np.int32)
        if runtime.run_packed is not None:
            flat = {"input_ids": np.concatenate(ids), "token_type_ids": np.concatenate(types)}
            outputs = runtime.run_packed(
                {name: rows.astype(np.int32) for name, rows in flat.items()} | {"lengths": lengths}
            )
            starts = np.cumsum(lengths)[:-1]
            split = {name: np.split(outputs[name], starts) for name in runtime.token_outputs}
            return [
                {name: split[name][row] if name in split else output[row] for name, output in outputs.items()}
                for row in range(len(ids))
            ]
        seq = width(int(lengths.max()), self.bundle.manifest.profiles)
        mask = np.less(np.arange(seq), lengths[:, None]).astype(np.int32)
        inputs = {"input_ids": padded(ids, seq), "attention_mask": mask, "token_type_ids": padded(types, seq)}
        outputs = runtime.run(inputs)
        return [
            {
                name: output[row, :length] if name in runtime.token_outputs else output[row]
                for name, output in outputs.items()
            }
            for row, length in enumerate(lengths)
        ]

    def checked(self, inputs: Mapping[str, ArrayLike]) -> dict[str, Array]:
        """A padded batch as the runtime takes it: every input, by Hugging Face's names, as i32."""
        names = self.bundle.manifest.inputs
        theirs = {**{name: name for name in names}, **{engine: name for name, engine in names.items()}}
        for name in inputs:
            if name not in theirs:
                raise error("B0702", f"`{name}` is no input", None, did_you_mean(name, theirs))
        given = {theirs[name]: _array(f"`{name}`", array) for name, array in inputs.items()}
        if "input_ids" not in given:
            raise error("B0702", "`input_ids` is missing", None, "give the token ids, an array [batch, seq]")
        ids = given["input_ids"]
        given.setdefault("attention_mask", np.ones_like(ids))
        given.setdefault("token_type_ids", np.zeros_like(ids))
        self._check(given)
        return {name: array.astype(np.int32) for name, array in given.items()}

    def _check(self, given: Mapping[str, Array]) -> None:
        ids = given["input_ids"]
        for name, array in given.items():
            if array.ndim != 2 or array.shape != ids.shape or array.size == 0 or array.dtype.kind not in "iub":
                found = f"{array.dtype} {list(array.shape)} was given"
                help = f"all inputs have the shape of input_ids, {list(ids.shape)}"
                raise error("B0702", f"`{name}` is an array [batch, seq] of whole numbers, but {found}", None, help)
        for name, array in given.items():
            self._check_values(name, array)
        self._check_length(ids.shape[1])
        mask = given["attention_mask"]
        if self.bundle.manifest.padding == "right_padding" and (rises := mask[:, 1:] > mask[:, :-1]).any():
            row = int(rises.any(axis=1).argmax())
            help = "pad on the right, or build with `network: {mask: any_padding}`"
            raise error("B0704", f"row {row} of `attention_mask` has a one behind a zero", None, help)

    def _check_sequences(self, ids: Sequence[Array], types: Sequence[Array]) -> None:
        if len(types) != len(ids):
            raise error("B0702", f"expected types for {len(ids)} sequences, but found them for {len(types)}")
        for index, (row, kinds) in enumerate(zip(ids, types, strict=True)):
            if row.ndim != 1 or row.size == 0 or row.dtype.kind not in "iu":
                found = f"{row.dtype} {list(row.shape)} was given"
                raise error("B0702", f"sequence {index} is an array [length] of whole numbers, but {found}")
            if kinds.shape != row.shape or kinds.dtype.kind not in "iub":
                found = f"{kinds.dtype} {list(kinds.shape)} was given"
                raise error("B0702", f"the types of sequence {index} are {row.size} whole numbers, but {found}")
            self._check_length(row.size)
        if ids:
            self._check_values("input_ids", np.concatenate(ids))
            self._check_values("token_type_ids", np.concatenate(types))

    def _check_values(self, name: str, array: Array) -> None:
        sizes = self.bundle.manifest.sizes
        bound = {"input_ids": sizes["vocab"], "token_type_ids": sizes["types"], "attention_mask": 2}[name]
        low, high = int(array.min()), int(array.max())
        if low < 0 or high >= bound:
            found = low if low < 0 else high
            raise error("B0703", f"`{name}` has values from 0 to {bound - 1}, but {found} was given")

    def _check_length(self, length: int) -> None:
        if length > (longest := max(profile.seq.largest for profile in self.bundle.manifest.profiles)):
            message = f"the bundle takes at most {longest} tokens, but {length} were given"
            raise error("B0702", message, None, "shorten the text, or build with larger `shapes`")


def _array(name: str, given: ArrayLike) -> Array:
    try:
        return np.asarray(given)
    except ValueError:  # rows of different lengths
        message = f"{name} has rows of different lengths, so it is no array"
        raise error("B0702", message, None, "`run_sequences` takes sequences of different lengths") from None


def open(path: str | Path, *, device: int = 0, streams: int = 1) -> Engine:
    """Open a bundle on a device, its hashes checked first.

    `device` is a GPU's number, counted from 0; ONNX Runtime's CPU is device 0. `streams`, for bundles of targets
    `tensorrt` and `rtx`, is how many calls run on the GPU at once; each has its own buffers there.

    Raises BertcError B0212 for several streams of a target that has one, B0501 when a package that runs it is missing,
    B0511 for a GPU it was not built for, B0513 when there is no such device or its library does not load the engine,
    B0601 to B0604 when the bundle is not as it was written.
    """
    bundle = read_bundle(Path(path))
    target = bundle.manifest.target
    module = target_module(target, RUNNING)
    if streams == 1:
        return Engine(bundle, module.open_session(bundle.path, bundle.manifest.inputs, device))
    if target not in STREAMS or streams < 1:
        message = f"a bundle of target {target} cannot have {streams} streams"
        raise error("B0212", message, None, f"targets {' and '.join(STREAMS)} have one or more, others one")
    return Engine(bundle, module.open_session(bundle.path, bundle.manifest.inputs, device, streams))


def read_arrays(path: Path) -> dict[str, Array]:
    """The arrays of an .npz file; pickled ones are refused. Raises BertcError B0002 when it cannot be read."""
    if not path.is_file():
        raise error("B0002", f"expected a file of arrays at `{path}`, but there is none", None, "check the path")
    try:
        with zipfile.ZipFile(path) as members:
            size = sum(member.file_size for member in members.infolist())
        if size > LARGEST_ARRAYS:
            raise ValueError(f"they take {size} bytes, and {LARGEST_ARRAYS} are read at most")
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except Exception as problem:  # NumPy and zipfile raise whatever they stumble on
        message = f"`{path}` is not an .npz file of arrays: {problem}"
        raise error("B0002", message, None, "write it with numpy.savez") from None


def write_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write an .npz file. Raises BertcError B0605 as `replacing` does."""
    with replacing(path) as beside, beside.open("wb") as file:  # to a name, numpy would add an ending
        np.savez(file, allow_pickle=False, **arrays)
