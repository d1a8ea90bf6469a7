"""Export of a network to ONNX with int8 weights, some of its weights as inputs if wanted. Needs the extra `train`."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import TrainingError

__all__ = ["pooled_blocks", "write_network"]


def write_network(
    path: Path, model: Any, layers: list[int], apart: Mapping[str, NDArray[np.float32]]
) -> dict[str, bool]:
    """Write a network as ONNX with int8 weights: token ids and mask in, the embedding out.

    Args:
        path: of the file.
        model: an encoder of transformers, with plain attention.
        layers: whose mean-pooled states, each of length 1, make up the embedding, in this order.
        apart: values of weights, no two alike, that the network shall not hold, but take as inputs of these names.

    Returns:
        For each weight apart, whether the input is its transpose.

    Raises:
        TrainingError: a weight was not found in the network.
    """
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic

    ids = torch.arange(24).reshape(2, 12) % int(model.config.vocab_size)
    shapes = {"ids": {0: "batch", 1: "tokens"}, "mask": {0: "batch", 1: "tokens"}, "embedding": {0: "batch"}}
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        full = str(Path(scratch) / "full.onnx")
        torch.onnx.export(
            _pooling(model, layers),
            (ids, torch.ones_like(ids)),
            full,
            input_names=["ids", "mask"],
            output_names=["embedding"],
            dynamic_axes=shapes,
            opset_version=17,
            dynamo=False,
        )
        inputs = _held(full, apart)
        quantize_dynamic(
            full, str(path), per_channel=True, weight_type=QuantType.QInt8, nodes_to_exclude=_users(full, inputs)
        )
    _take_out(path, {held: name for held, (name, _) in inputs.items()})
    return dict(inputs.values())


def pooled_blocks(config: Any) -> tuple[list[int], list[tuple[str, int]]]:
    """What makes up the embedding of a network of this configuration: inner layers keep what the last one gave up.

    Returns:
        Its pooled layers, the last first, and the name and width of each one's part of the embedding.
    """
    depth, width = int(config.num_hidden_layers), int(config.hidden_size)
    layers = sorted({depth, max(depth - 1, 1), max(depth - 2, 1)}, reverse=True)
    return layers, [("final" if i == depth else f"layer{i}", width) for i in layers]


def _held(path: str, wanted: Mapping[str, NDArray[np.float32]]) -> dict[str, tuple[str, bool]]:
    """By what a network calls a weight: the name it is wanted by, and whether it is held transposed."""
    import onnx

    left, found = dict(wanted), {}
    for tensor in onnx.load(path).graph.initializer if left else ():
        value = onnx.numpy_helper.to_array(tensor)
        for name, weight in left.items():
            turned = not np.array_equal(value, weight)
            if not turned or np.array_equal(value, weight.T):
                found[tensor.name] = name, turned
                del left[name]
                break
    if left:
        raise TrainingError(f"{len(left)} weights of the adapter are not found in the exported network.")
    return found


def _users(path: str, held: Collection[str]) -> list[str]:
    """Names of the nodes that use some weights."""
    import onnx

    return [node.name for node in onnx.load(path).graph.node if set(held) & set(node.input)] if held else []


def _take_out(path: Path, names: Mapping[str, str]) -> None:
    """Make inputs of the weights of a network, called as `names` says."""
    import onnx

    if not names:
        return
    network = onnx.load(str(path))
    graph = network.graph
    for tensor in [each for each in graph.initializer if each.name in names]:
        graph.initializer.remove(tensor)
        value = onnx.helper.make_tensor_value_info(names[tensor.name], tensor.data_type, list(tensor.dims))
        graph.input.append(value)
    for node in graph.node:
        for i, used in enumerate(node.input):
            node.input[i] = names.get(used, used)
    onnx.save(network, str(path))


def _pooling(model: Any, layers: list[int]) -> Any:
    """The model with mean pooling of some layers and normalisation inside the graph."""
    import torch

    class Pooled(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: Any, mask: Any) -> Any:
            states = self.model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
            weight = mask.unsqueeze(-1).to(states[-1].dtype)
            means = [(states[i] * weight).sum(1) / weight.sum(1) for i in layers]
            return torch.cat([torch.nn.functional.normalize(each, dim=-1) for each in means], dim=1)

    return Pooled().eval()
