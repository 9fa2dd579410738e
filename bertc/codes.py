"""Every diagnostic's code: what it exits with, and what `bertc explain CODE` says of it. The hundreds are its subject."""

from __future__ import annotations

from dataclasses import dataclass

CHECK_SAID_NO, USAGE, BAD_INPUT, UNSUPPORTED, BUILDER_FAILED, OUR_BUG = 1, 2, 3, 4, 5, 70
"""Exit codes of the command line; 0 is success."""


@dataclass(frozen=True)
class Code:
    name: str
    exit_code: int
    title: str
    explanation: str


CODES = {
    code.name: code
    for code in (
        Code(
            "B0001",
            USAGE,
            "unknown name on the command line",
            "A verb, flag, pass, target, spec or code was misspelt. `bertc --help` and `bertc VERB --help` list what there is.",
        ),
        Code(
            "B0002",
            BAD_INPUT,
            "file not found",
            "The file or directory does not exist or cannot be read. Relative paths in a spec start at the spec's own folder, others at the working directory.",
        ),
        Code("B0003", USAGE, "output exists", "Nothing is overwritten unless `--force` says so."),
        Code(
            "B0101",
            BAD_INPUT,
            "syntax",
            "The text is not in the notation; docs/architecture.md shows it in use, bertc/notation.lark is the grammar.",
        ),
        Code(
            "B0102",
            BAD_INPUT,
            "nested too deep",
            "No real network nests brackets or blocks this deep; the limit keeps hostile files from exhausting the stack.",
        ),
        Code(
            "B0103",
            BAD_INPUT,
            "unknown name",
            "A bare name is a value, a size of the spec, or a block argument; a called name is an op, a block, or a slot that the spec binds.",
        ),
        Code("B0104", BAD_INPUT, "defined twice", "Each name in a file or body means one thing."),
        Code("B0105", BAD_INPUT, "wrong arguments", "The call does not fit the signature of the op or block."),
        Code("B0106", BAD_INPUT, "type mismatch", "The types of the operands do not fit the op's signature."),
        Code(
            "B0107",
            BAD_INPUT,
            "blocks call each other in a circle",
            "A block is inlined where it is called, so it cannot contain itself.",
        ),
        Code(
            "B0108",
            BAD_INPUT,
            "graph is not well formed",
            "Values are defined once, before use, and never in a circle.",
        ),
        Code(
            "B0201",
            BAD_INPUT,
            "not YAML, JSON or text",
            "The file is not well formed, so nothing in it could be read. The caret stands where reading stopped, or at the quote or bracket that is never closed.",
        ),
        Code(
            "B0202",
            BAD_INPUT,
            "file beyond bounds",
            "No real spec is this large or nested this deep (bertc/tree.py has the bounds); they keep hostile files from exhausting memory and time.",
        ),
        Code(
            "B0203",
            BAD_INPUT,
            "unknown key",
            "Every key of a spec has a meaning; docs/reference/spec.md lists them all. An unknown one is an error, since a misspelt key would otherwise be a silent default.",
        ),
        Code(
            "B0204",
            BAD_INPUT,
            "key given twice",
            "In a mapping each key stands once; which of two values is meant cannot be known.",
        ),
        Code(
            "B0205",
            BAD_INPUT,
            "unused part of YAML",
            "A spec is plain data: no anchors, aliases, tags, further documents, or keys in brackets. Repeat a value, or put what is shared in a `base`.",
        ),
        Code(
            "B0206",
            BAD_INPUT,
            "wrong value",
            "The value is of another kind than the key expects, out of its range, or not one of its names. Values are YAML 1.2's: `1e-12` is a number, `yes` and `on` are texts.",
        ),
        Code(
            "B0207",
            BAD_INPUT,
            "missing key",
            "A spec without a `base` gives every size that has no default, `norm_eps` and `activation`: none of them can be guessed.",
        ),
        Code(
            "B0208",
            BAD_INPUT,
            "values do not fit each other",
            "Heads divide the hidden size, sequences fit the positions, ranges rise, and labels are as many as the classifier has results.",
        ),
        Code(
            "B0209",
            BAD_INPUT,
            "base of a base",
            "A spec rests on one base at most, so that two files say all about a network.",
        ),
        Code(
            "B0210",
            BAD_INPUT,
            "not a spec",
            "A spec is a shipped name, a .yaml file, or a Hugging Face folder with its config.json.",
        ),
        Code(
            "B0211",
            UNSUPPORTED,
            "model not supported",
            "The folder's config.json describes a network that bertc cannot build exactly, so it builds none.",
        ),
        Code(
            "B0212",
            USAGE,
            "wrong value on the command line",
            "Flags that stand for a field of the spec are checked as the field is; docs/reference/spec.md lists what each may be.",
        ),
        Code(
            "B0301",
            BAD_INPUT,
            "rule cannot be used",
            "A rule must bind every name its right side uses on its left side, and return the same number of values on both.",
        ),
        Code(
            "B0302",
            CHECK_SAID_NO,
            "check failed",
            "A rule or pass changed what the network computes, or broke one of the nine derived checks.",
        ),
        Code(
            "B0303",
            BAD_INPUT,
            "cannot be packed",
            "pack_sequences knows the packed form of fused ops and of everything that takes rows as they come. An op that tells batch from sequence has to be fused before.",
        ),
        Code(
            "B0304",
            BAD_INPUT,
            "extension cannot be used",
            "An extension is a Python file, or a module of an installed package, that declares ops with `@op` or passes with `@graph_pass` under names that are free. docs/tutorial.md writes one.",
        ),
        Code(
            "B0305",
            USAGE,
            "extension not allowed",
            "A spec may come from anyone, and an extension is code that would run as you. So a spec only says which it needs, and whoever builds it names the same files once more with `--extensions`.",
        ),
        Code(
            "B0401",
            BAD_INPUT,
            "checkpoint is damaged",
            "The file is of a known format and breaks its rules: cut short, overlapping, or with sizes that do not add up. Nothing of it is used.",
        ),
        Code(
            "B0402",
            BAD_INPUT,
            "checkpoint format not recognised",
            "The format is recognised by the first bytes of the file, never by its name.",
        ),
        Code(
            "B0403",
            UNSUPPORTED,
            "element type not read",
            "The format allows this type of element, but no network here has weights of it.",
        ),
        Code(
            "B0404",
            BAD_INPUT,
            "shard outside its folder",
            "An index comes with the checkpoint and may be anyone's text, so it can name only files that lie beside it.",
        ),
        Code(
            "B0405",
            BAD_INPUT,
            "two tensors for one parameter",
            "Both names mean the same parameter, and which of the two the network was trained with cannot be known.",
        ),
        Code(
            "B0406",
            UNSUPPORTED,
            "decoder is not tied",
            "The masked-LM head multiplies by the word embeddings. A checkpoint with another matrix for its decoder would give other answers.",
        ),
        Code(
            "B0407",
            BAD_INPUT,
            "checkpoint changed while in use",
            "Values are read when they are needed; a file that is replaced in between would mix two checkpoints.",
        ),
        Code(
            "B0408",
            BAD_INPUT,
            "parameters are missing",
            "Every parameter of the network needs a tensor. Weights are made up only when `--random-weights` asks for it.",
        ),
        Code(
            "B0409",
            BAD_INPUT,
            "unexpected tensors",
            "A tensor that the network does not use, such as a further layer, means that the network is another one than the checkpoint's. Only heads and the pooler may be left out.",
        ),
        Code(
            "B0410",
            BAD_INPUT,
            "tensors do not fit",
            "A tensor has another shape than the sizes of the spec give, or is not of a floating-point type.",
        ),
        Code(
            "B0411",
            BAD_INPUT,
            "layout of query, key and value unknown",
            "Megatron-LM stores the three projections as one, in an order that changed with its `checkpoint_version`: 0 has [3, heads, size], 1 has [heads, size, 3], 2 and later [heads, 3, size]. Read in the wrong order they compute something else without any error.",
        ),
        Code(
            "B0412",
            BAD_INPUT,
            "no tensors in the pickle",
            "A pickled checkpoint is a dict of tensors, or has one as its `model`, `state_dict` or `model_state_dict`. A model that was saved whole needs the code of its classes to be read, and none is run.",
        ),
        Code(
            "B0413",
            UNSUPPORTED,
            "way of storing not read",
            "The format allows values to be stored like this (in slices, in chunks, sparse, highest byte first), but weights of networks are not.",
        ),
        Code(
            "B0414",
            UNSUPPORTED,
            "reader not installed",
            "Most formats are read without further libraries; HDF5 is not.",
        ),
        Code(
            "B0501",
            UNSUPPORTED,
            "target not usable",
            "`bertc doctor` says which targets work on this machine and what each needs.",
        ),
        Code(
            "B0502",
            USAGE,
            "no weights named",
            "A build needs a checkpoint, named by the spec or the command line; random weights must be asked for.",
        ),
        Code(
            "B0511",
            UNSUPPORTED,
            "architecture not built for",
            "Each engine has a list of GPU architectures that it can be built for.",
        ),
        Code("B0512", BUILDER_FAILED, "the engine's builder failed", "The message ends with what the builder said."),
        Code(
            "B0513",
            UNSUPPORTED,
            "engine cannot run here",
            "The bundle was written and is whole, but this machine or this bertc cannot run its engine.",
        ),
        Code(
            "B0514",
            UNSUPPORTED,
            "no kernel for an op",
            "The cuda target runs what its kernels compute: fused ops, products with weights, and what stands behind a product. TensorRT's plugins have some of those kernels. The message names the op and the line it came from.",
        ),
        Code(
            "B0515",
            BUILDER_FAILED,
            "the engine failed",
            "The engine was loaded, and refused or broke off a run, or new weights. The message ends with what its own library said; too little memory on the GPU is the usual reason.",
        ),
        Code(
            "B0516",
            UNSUPPORTED,
            "bundle takes no such weights",
            "`bertc weights --refit` changes values and nothing else: the network has to be the same, the bundle one of this bertc's, and an engine of TensorRT built with `--refit` or `--strip-weights`.",
        ),
        Code(
            "B0601",
            BAD_INPUT,
            "no bundle",
            "A bundle is a directory that `bertc build` wrote, with a manifest.json in it.",
        ),
        Code(
            "B0602",
            BAD_INPUT,
            "damaged manifest",
            "manifest.json is not what `bertc build` writes; build the bundle again.",
        ),
        Code(
            "B0603",
            BAD_INPUT,
            "bundle of another version",
            "The layout of a bundle is named by its schema; another bertc wrote this one.",
        ),
        Code(
            "B0604",
            BAD_INPUT,
            "altered bundle",
            "A file is missing or differs from what the manifest says. An engine is executable code, so that nothing is run.",
        ),
        Code("B0605", BAD_INPUT, "output cannot be written", "The file system refused; nothing was left behind."),
        Code("B0701", BAD_INPUT, "input does not fit the graph", "Every input of a graph needs an array of its shape."),
        Code(
            "B0702",
            BAD_INPUT,
            "input does not fit the engine",
            "Inputs are whole-number arrays [batch, seq] within the shapes that the bundle was built for.",
        ),
        Code(
            "B0703",
            BAD_INPUT,
            "id out of range",
            "Ids are rows of a table; one outside it would read what is not there.",
        ),
        Code(
            "B0704",
            BAD_INPUT,
            "mask with a hole",
            "Networks with `mask: right_padding` take key lengths, so that tokens stand left and padding right.",
        ),
        Code(
            "B0705",
            USAGE,
            "engine is closed",
            "An engine that was closed has given back its memory. Open the bundle again, or close it later.",
        ),
        Code(
            "B0801",
            UNSUPPORTED,
            "peer cannot be measured",
            "`bertc bench --against` runs the same network by other means, which have to be installed and have to know that network.",
        ),
        Code(
            "B0802",
            BAD_INPUT,
            "weights of another bundle",
            "A peer computes the same as the bundle only with the same weights; their hash is in the bundle's manifest.",
        ),
        Code(
            "B0803",
            BAD_INPUT,
            "profile does not fit",
            "`bertc view --profile` takes what `bertc bench --ops --json`, trtexec's --exportProfile or ONNX Runtime's profiling wrote: JSON with times by op or layer, whose names are those of the graph.",
        ),
        Code(
            "B0804",
            UNSUPPORTED,
            "picture needs a package",
            "SVG is written with no further package. `--format png` is drawn by resvg, in Roboto's letters: `pip install 'bertc[png]'` brings both.",
        ),
        Code(
            "B0805",
            UNSUPPORTED,
            "times of ops not known",
            "`bertc bench --ops` asks the engine: ONNX Runtime keeps a record, the cuda target has events between its steps. For TensorRT, `trtexec --exportProfile` writes what `bertc view --profile` takes.",
        ),
        Code(
            "B0901",
            BAD_INPUT,
            "text cannot be used",
            "A text is Unicode and has at least one character that its model's tokenizer does not drop; white space alone is none. `fill` needs a gap to fill.",
        ),
        Code(
            "B0902",
            BAD_INPUT,
            "no tokenizer",
            "`bertc build` copies vocab.txt, tokenizer.json, tokenizer_config.json and special_tokens_map.json from the Hugging Face directory, or from beside the weights, into the bundle. Without them, or with damaged ones, it cannot be known which ids a text has.",
        ),
        Code(
            "B0903",
            UNSUPPORTED,
            "tokenizer needs a package",
            "WordPiece is read from vocab.txt with no further package. Byte-pair encoding, Unigram, and tokens that take in the blanks around them are computed by the package `tokenizers`.",
        ),
        Code(
            "B0904",
            BAD_INPUT,
            "text too long",
            "A model takes so many tokens and no more. `embed` cuts texts as the model's own files say, `ask` reads long passages in windows; the others cut only when `--truncate` asks for it.",
        ),
        Code(
            "B0905",
            UNSUPPORTED,
            "bundle has no such head",
            "A network has one head, and the head decides what it can be asked for. `bertc run BUNDLE --help` lists the tasks.",
        ),
        Code(
            "B0906",
            UNSUPPORTED,
            "way of embedding not supported",
            "sentence-transformers' modules.json says what follows the encoder; bertc has pooling by mean, maximum or first token, and normalisation.",
        ),
        Code(
            "B0907",
            BAD_INPUT,
            "data set cannot be used",
            "`bertc eval` takes SQuAD's JSON files, and GLUE's tables with the columns they are published with. docs/text.md says which keys and columns are read.",
        ),
        Code(
            "B0908",
            CHECK_SAID_NO,
            "not good enough",
            "`--min-f1` and `--atol` say what is good enough; what was measured is printed before.",
        ),
        Code(
            "B0909",
            BAD_INPUT,
            "networks cannot be compared",
            "`bertc compare` runs both on the same sequences, and compares the outputs that have one name and one shape.",
        ),
    )
}
