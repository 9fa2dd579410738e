"""The fields of a spec, declared once.

`SPEC` is the one table: a name, a kind, a meaning, a default. From it are derived the check and the errors of every
field (bertc/spec_reader.py), the JSON Schema and the documentation's table (bertc/spec_schema.py). What holds between
fields (heads divide hidden, sequences fit the positions) is bertc/spec.py's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args


@dataclass(frozen=True)
class Whole:
    """A whole number, both bounds included."""

    smallest: int
    largest: int


@dataclass(frozen=True)
class Real:
    """A number between two bounds, neither included."""

    above: float
    below: float


@dataclass(frozen=True)
class Text:
    """What is written there is `meaning`, for people."""

    meaning: str
    pattern: str = r"[^\x00-\x1f]+"


@dataclass(frozen=True)
class Choice:
    names: tuple[str, ...]


@dataclass(frozen=True)
class Items:
    """A list; `or_one` lets a single item stand without brackets."""

    item: Kind
    fewest: int
    most: int
    form: str
    or_one: bool = False


@dataclass(frozen=True)
class Either:
    """The first of the forms that the node's own form fits: number, text, list or mapping."""

    forms: tuple[Kind, ...]


@dataclass(frozen=True)
class Section:
    """A mapping of fields; `noun` says what one of its keys is: "`hiden` is not a size"."""

    noun: str
    fields: tuple[Field, ...]


Kind = Whole | Real | Text | Choice | Items | Either | Section


@dataclass(frozen=True)
class Field:
    """One key. A field that is not required and has no default may be left out; its meaning says what then holds."""

    name: str
    kind: Kind
    meaning: str
    required: bool = False
    default: Any = None


def describe(kind: Kind) -> str:
    """What is expected, as a phrase of an error message or of the documentation."""
    match kind:
        case Whole(smallest, largest):
            return f"a whole number from {smallest} to {largest}"
        case Real(above, below):
            return f"a number between {above:g} and {below:g}"
        case Choice(names):
            return "one of " + ", ".join(f"`{name}`" for name in names)
        case Text(meaning):
            return meaning
        case Items():
            return kind.form
        case Either(forms):
            return " or ".join(describe(form) for form in forms)
        case Section(_, fields):
            return "a mapping of " + ", ".join(f"`{inner.name}`" for inner in fields)


PRECISIONS = ("fp32", "fp16", "bf16")
TARGETS = ("tensorrt", "rtx", "onnx", "cuda", "reference")
PLUGINS = ("attention", "bias_gelu", "bias_gelu_tanh", "embed_norm", "skip_norm", "untyped_embed_norm")
"""The fused ops that TensorRT can be given as plugins."""

ACTIVATIONS = ("gelu", "gelu_tanh", "relu", "silu", "tanh")
FAMILIES = (
    "bert",
    "roberta",
    "distilbert",
    "electra",
    "albert",
    "mpnet",
    "modernbert",
    "nomic_bert",
    "gte",
    "deberta",
    "megatron",
)
"""Each has a table of names, bertc/weights_io/families/FAMILY.toml."""

QkvLayout = Literal["3NH", "NH3", "N3H"]
"""The order in which the rows of query, key and value lie that are one tensor: 3 of them, N heads, H of a head."""

INPUT_NAMES = {
    "hugging_face": ("input_ids", "attention_mask", "token_type_ids"),
    "demobert": ("input_ids", "input_mask", "segment_ids"),
}
"""What an engine calls its three inputs: ids, which of them are tokens, and their types."""

MAXIMUM_REPEAT = 1024

SIZES = Section(
    "a size",
    (
        Field("layers", Whole(1, MAXIMUM_REPEAT), "how often the encoder block repeats", required=True),
        Field("hidden", Whole(1, 65536), "length of the vector that stands for one token", required=True),
        Field("heads", Whole(1, 1024), "attention heads", required=True),
        Field("head_size", Whole(1, 4096), "length of a head's vectors; hidden / heads when left out"),
        Field("inner", Whole(1, 1 << 18), "length of the feed-forward network's inner vector", required=True),
        Field("embedding_size", Whole(1, 65536), "length of the vectors in the embedding tables; hidden when left out"),
        Field("vocab", Whole(1, 1 << 24), "tokens of the vocabulary", required=True),
        Field("positions", Whole(1, 1 << 20), "rows of the position table", required=True),
        Field("types", Whole(1, 1024), "token types (segments)", required=True),
        Field("buckets", Whole(2, 1 << 16), "rows that a table of distances has for those of one sign"),
        Field("window", Whole(2, 1 << 20), "tokens that a layer of local attention sees, half of them on each side"),
        Field("labels", Whole(1, 1 << 16), "results of a classification head; as many as `labels` names, else 2"),
    ),
)

_SLOT = Text("the name of a block", r"[a-z_][a-z0-9_]*")
_REPEATED_SLOT = Either(
    (
        _SLOT,
        Section(
            "a key of a slot",
            (
                Field(
                    "block",
                    Either((_SLOT, Items(_SLOT, 1, MAXIMUM_REPEAT, "a list of blocks"))),
                    "the block that fills the slot; the copies take those of a list in turn",
                    required=True,
                ),
                Field(
                    "repeat",
                    Either((Choice(tuple(size.name for size in SIZES.fields)), Whole(1, MAXIMUM_REPEAT))),
                    "how often, as a size or a number",
                ),
                Field(
                    "weights",
                    Choice(("own", "shared")),
                    "whether each copy has weights of its own, `own` when left out",
                ),
            ),
        ),
    )
)
NETWORK = Section(
    "a slot of the network",
    (
        Field("wiring", _SLOT, "how the other slots are joined", default="network"),
        Field("embeddings", _REPEATED_SLOT, "ids to vectors", default="bert_embeddings"),
        Field("mask", _REPEATED_SLOT, "which tokens are seen", default="right_padding"),
        Field("encoder", _REPEATED_SLOT, "one layer", default={"block": "post_norm", "repeat": "layers"}),
        Field("final", _REPEATED_SLOT, "what follows the last layer", default="identity"),
        Field("pooling", _REPEATED_SLOT, "what heads of classification take for a whole sequence", default="first_row"),
        Field("head", _REPEATED_SLOT, "vectors to results", default="pooled"),
    ),
)

RANGE_LIMIT = Whole(1, 1 << 20)
_RANGE = Either((RANGE_LIMIT, Items(RANGE_LIMIT, 3, 3, "a list [smallest, usual, largest]")))
PROFILE = Section(
    "a dimension of shapes",
    (
        Field("batch", _RANGE, "sequences in one call: [smallest, usual, largest], or one number", required=True),
        Field("seq", _RANGE, "tokens in one sequence: [smallest, usual, largest], or one number", required=True),
    ),
)

_PASS = Text("the name of a pass or the path of a .net file of rules", r"[a-z][a-z0-9_]*|[^\x00-\x1f]+\.net")

SPEC = Section(
    "a key of a spec",
    (
        Field("base", Text("a shipped spec, or the path of a spec"), "the spec that has what this one leaves out"),
        Field("sizes", SIZES, "the sizes of the network", required=True),
        Field("norm_eps", Real(0.0, 1.0), "epsilon of every layer norm", required=True),
        Field("activation", Choice(ACTIVATIONS), "of the feed-forward network; `gelu` is the erf form", required=True),
        Field("position_offset", Whole(0, 1024), "row of the position table that the first token takes", default=0),
        Field("rotary_base", Real(0.0, 1e12), "of rotary positions: place p turns pair i by p / base^(2i / head_size)"),
        Field("local_rotary_base", Real(0.0, 1e12), "the same, of layers of local attention"),
        Field("network", NETWORK, "the block that fills each slot"),
        Field(
            "blocks",
            Items(Text("the path of a .net file", r"[^\x00-\x1f]+\.net"), 0, 64, "a list of paths"),
            "files of blocks beside the shipped ones",
            default=(),
        ),
        Field(
            "extensions",
            Items(Text("the path of a .py file", r"[^\x00-\x1f]+\.py"), 0, 64, "a list of paths"),
            "Python files of ops and passes; they are run only when `--extensions` names them too",
            default=(),
        ),
        Field(
            "shapes",
            Items(PROFILE, 1, 16, "a mapping of `batch` and `seq`, or a list of such", or_one=True),
            "what the engine is built for, a profile each; batch [1, 8, 32] and seq [1, 128, 512] when left out, "
            "cut to the positions there are",
        ),
        Field("precision", Choice(PRECISIONS), "of weights and products; norms and softmax stay fp32", default="fp32"),
        Field("weights", Text("a path"), "the checkpoint, in any format that bertc reads"),
        Field("family", Choice(FAMILIES), "whose names the parameters have in the checkpoint", default="bert"),
        Field(
            "qkv_layout",
            Choice(get_args(QkvLayout)),
            "how Megatron's query_key_value lies in the checkpoint (N heads of size H); by its version when left out",
        ),
        Field("target", Choice(TARGETS), "the engine to build for; the best that the machine has when left out"),
        Field(
            "plugins",
            Items(Choice(("auto", "all", "none", *PLUGINS)), 1, 16, "`auto`, `all`, `none` or fused ops", or_one=True),
            "target tensorrt: fused ops that are plugins; `auto` takes one where TensorRT has no layer",
            default=("auto",),
        ),
        Field("passes", Items(_PASS, 0, 64, "a list of passes"), "the pipeline", default=("default",)),
        Field(
            "without",
            Items(Text("the name of a pass", r"[a-z][a-z0-9_]*"), 0, 64, "a list of passes"),
            "passes that the pipeline leaves out",
            default=(),
        ),
        Field(
            "input_names",
            Choice(tuple(INPUT_NAMES)),
            "`attention_mask` and `token_type_ids`, or `input_mask` and `segment_ids`",
            default="hugging_face",
        ),
        Field(
            "labels",
            Items(Text("a label"), 0, 1 << 16, "a list of labels"),
            "names of a classification head's results, in their order",
            default=(),
        ),
    ),
)
