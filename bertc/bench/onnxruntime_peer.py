"""ONNX Runtime as a peer, the way its own documentation goes: transformers, torch.onnx.export, onnxruntime's optimizer.

https://onnxruntime.ai/docs/performance/transformers-optimization.html
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from bertc.bench.measure import Contestant
from bertc.bench.peers import Network, Peer
from bertc.errors import error
from bertc.graph import Graph
from bertc.ops import Array
from bertc.weights_io.names import name_table

onnxruntime: Any = import_module("onnxruntime")
torch: Any = import_module("torch")
transformers: Any = import_module("transformers")

NAME = "onnxruntime"

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
HIDDEN, POOLED = "last_hidden_state", "pooler_output"

GELU, GELU_TANH = "gelu", "gelu_pytorch_tanh"
ACTIVATIONS = {"gelu": GELU, "bias_gelu": GELU, "gelu_tanh": GELU_TANH, "bias_gelu_tanh": GELU_TANH}
"""What transformers calls the activation of an op; a network without one of them has `relu`."""


def open_peer(network: Network) -> Peer:
    """The network as transformers' BertModel, exported and optimised. Raises BertcError B0801 for any other network."""
    model = _model(network)
    provider, options = _provider(network.gpu)
    with TemporaryDirectory() as folder:
        path = _optimised(model, tuple(network.graph.outputs), Path(folder), on_gpu=bool(options))
        session = onnxruntime.InferenceSession(path, providers=[(provider, options)])
    wanted: list[str] = [given.name for given in session.get_inputs()]
    names: list[str] = [output.name for output in session.get_outputs()]

    def prepare(inputs: Mapping[str, Array]) -> Contestant:
        given = {name: inputs[name].astype(np.int64) for name in wanted}
        return Contestant(NAME, lambda: dict(zip(names, session.run(names, given), strict=True)))

    made = f"transformers {transformers.__version__} through onnxruntime's transformers optimizer"
    return Peer(NAME, f"onnxruntime {onnxruntime.__version__}, {made}, {provider}, fp32", prepare)


def _provider(gpu: int | None) -> tuple[str, dict[str, int]]:
    if gpu is not None and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        return "CUDAExecutionProvider", {"device_id": gpu}
    return "CPUExecutionProvider", {}


def _model(network: Network) -> Any:
    """BertModel with the network's weights, as the two outputs that it has."""
    sizes, graph = network.sizes, network.graph
    config = transformers.BertConfig(
        vocab_size=sizes["vocab"],
        hidden_size=sizes["hidden"],
        num_hidden_layers=sizes["layers"],
        num_attention_heads=sizes["heads"],
        intermediate_size=sizes["inner"],
        max_position_embeddings=sizes["positions"],
        type_vocab_size=sizes["types"],
        layer_norm_eps=_norm_eps(graph),
        hidden_act=next((ACTIVATIONS[node.op] for node in graph if node.op in ACTIVATIONS), "relu"),
        attn_implementation="eager",
    )
    model = transformers.BertModel(config, add_pooling_layer=POOLED in graph.outputs)
    table = name_table("bert")
    names = {name: table.canonical_name(name) for name in model.state_dict()}
    if set(names.values()) != {node.key for node in graph.weights} or not {HIDDEN, POOLED}.issuperset(graph.outputs):
        message = "onnxruntime as a peer knows BERT's hidden states and pooler alone, and this network is another"
        raise error("B0801", message, None, "measure against torch")
    values = {name: np.array(network.weights[str(key)].read(), np.float32) for name, key in names.items()}
    model.load_state_dict({name: torch.from_numpy(array) for name, array in values.items()})
    return model.eval()


def _norm_eps(graph: Graph) -> float:
    return next(dict(node.attributes)["eps"] for node in graph if "eps" in dict(node.attributes))


def _optimised(model: Any, outputs: tuple[str, ...], folder: Path, *, on_gpu: bool) -> str:
    """The file of the exported model after onnxruntime's optimizer."""
    optimizer: Any = import_module("onnxruntime.transformers.optimizer")
    exported, optimised = str(folder / "exported.onnx"), str(folder / "optimised.onnx")
    with warnings.catch_warnings():  # about tracing and about the exporter that the optimizer's patterns are made for
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Named(model, outputs),
            tuple(torch.ones((2, 16), dtype=torch.int64) for _ in INPUTS),
            exported,
            input_names=list(INPUTS),
            output_names=list(outputs),
            dynamic_axes={name: {0: "batch", 1: "seq"} for name in INPUTS},
            opset_version=17,
            dynamo=False,
        )
    config = model.config
    made = optimizer.optimize_model(
        exported,
        model_type="bert",
        num_heads=config.num_attention_heads,
        hidden_size=config.hidden_size,
        opt_level=1,
        use_gpu=on_gpu,
    )
    made.save_model_to_file(optimised)
    return optimised


class _Named(torch.nn.Module):
    """A model with its inputs in their order, and as a tuple the outputs that are asked for."""

    def __init__(self, model: Any, outputs: tuple[str, ...]) -> None:
        torch.nn.Module.__init__(self)
        self.model = model
        self.outputs = outputs

    def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> tuple[Any, ...]:
        result = self.model(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
        return tuple(getattr(result, name) for name in self.outputs)
