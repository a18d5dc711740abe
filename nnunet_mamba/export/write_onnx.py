"""A network as an ONNX file of standard operators: any batch, one patch size. The only file that needs onnxscript."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nnunet_mamba.ops.exporting import exporting
from nnunet_mamba.version import __version__

OPSET = 18
INPUT, OUTPUT, BATCH = "image", "logits", "batch"
NEEDED = ("onnx", "onnxscript", "onnxruntime")
OLDEST_TORCH = (2, 10)
"""Whose exporter knows the loop over blocks of a scan"""
SHOWN = 300


def check_installed() -> dict[str, str]:
    """Versions of what is needed. Raises ValueError with the line to type where something is missing."""
    found: dict[str, str] = {}
    for name in NEEDED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            raise ValueError(f'{name} is not installed; type: pip install "nnunet_mamba[export]"') from None
    numbers = tuple(int(n) for n in torch.__version__.split("+")[0].split(".")[:2])
    if numbers < OLDEST_TORCH:
        raise ValueError(f"torch {torch.__version__} cannot export scans; type: pip install -U 'torch>=2.10'")
    return {"torch": torch.__version__, **found}


def write_onnx(network: nn.Module, channels: int, patch: Sequence[int], file: Path) -> None:
    """The network, on the CPU and in float32, with input `image` (batch, channels, *patch) and output `logits`.

    Weights beyond 2 GB go to a file of their own next to it, as ONNX wants it.
    Raises ValueError for a network with operators that torch's exporter or ONNX does not know.
    """
    image = torch.zeros(2, channels, *patch)
    said = io.StringIO()
    with torch.no_grad(), exporting(), warnings.catch_warnings(), contextlib.redirect_stdout(said):
        warnings.simplefilter("ignore")  # of the exporter about itself
        try:
            shapes = ({0: torch.export.Dim(BATCH)},)
            program = torch.export.export(network, (image,), dynamic_shapes=shapes, strict=False)
            onnx = torch.onnx.export(
                program, (), dynamo=True, opset_version=OPSET, input_names=[INPUT], output_names=[OUTPUT], verbose=False
            )
        except Exception as error:  # whatever the exporter raises for a network it cannot trace or translate
            raise ValueError(
                f"{type(network).__name__} cannot be exported: {type(error).__name__}: {str(error).strip()[:SHOWN]}"
            ) from error
    assert onnx is not None
    _tidy(onnx.model)
    onnx.save(file)


def _tidy(model: Any) -> None:
    """Without the exporter's notes, which hold this machine's paths; the batch's axis under its name.

    Raises ValueError for operators that are not ONNX's own.
    """
    graph = model.graph
    symbol = str(graph.inputs[0].shape[0])
    values = [*graph.inputs, *graph.outputs]
    foreign = {node.domain for node in graph.all_nodes()} | {f.domain for f in model.functions.values()}
    if foreign - {"", "ai.onnx"}:
        raise ValueError(f"operators of {', '.join(sorted(foreign - {'', 'ai.onnx'}))}, which are not ONNX's own")
    for node in graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        values += node.outputs
    for value in values:
        value.metadata_props.clear()
        for axis, size in enumerate(value.shape or ()):
            if symbol in str(size):
                value.shape[axis] = str(size).replace(symbol, BATCH)
    for of in (model, graph):
        of.metadata_props.clear()
    model.producer_name, model.producer_version = "nnunet-mamba", __version__
