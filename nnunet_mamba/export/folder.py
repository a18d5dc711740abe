"""The exported model in a folder: one ONNX file per member and model.json, complete or not there at all."""

from __future__ import annotations

import hashlib
import shutil
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nnunet_mamba.export.description import describe
from nnunet_mamba.export.model import TrainedModel
from nnunet_mamba.export.onnx_agrees import check_agreement
from nnunet_mamba.export.source import open_model
from nnunet_mamba.export.write_onnx import check_installed, write_onnx
from nnunet_mamba.nnunet_folders import FINAL, FOLD
from nnunet_mamba.whole_files import write_json

MODEL_JSON = "model.json"


def export(
    source: Path,
    target: Path,
    folds: Sequence[str] | None = None,
    checkpoint: str = FINAL,
    name: str | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Export a model and compare every member with torch -> what model.json says.

    source: nnU-Net's folder of a model, or a zip; name: which of a zip's. target: a folder that does not exist yet.
    folds: None for all. say: told of every member.
    Raises ValueError, and leaves nothing behind, for what is no model, and for a network that onnxruntime computes
    otherwise than torch.
    """
    versions = check_installed()
    if target.exists():
        raise ValueError(f"-o {target}: exists already; give another folder or remove it")
    if not target.resolve().parent.is_dir():
        raise ValueError(f"-o {target}: no such folder: {target.resolve().parent}; make it first")
    with open_model(source, name, checkpoint) as folder:
        model = TrainedModel.read(folder, folds, checkpoint)
        partial = target.with_name(f"{target.name}.{uuid.uuid4().hex}.partial")
        partial.mkdir()
        try:
            members = [_write_member(model, fold, partial, say) for fold in model.folds]
            content = describe(model, members, versions)
            write_json(partial / MODEL_JSON, content, indent=2, allow_nan=False)
            partial.rename(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return content


def _write_member(model: TrainedModel, fold: str, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    file = folder / f"{FOLD}{fold}.onnx"
    network = model.network(fold)
    write_onnx(network, model.inputs, model.patch, file)
    found = check_agreement(network, model.inputs, model.patch, file)
    times = f"a patch takes {found.onnx_seconds:.3g} s in onnxruntime, {found.torch_seconds:.3g} s in torch"
    say(
        f"{file.name}: {file.stat().st_size / 1e6:.1f} MB, differs from torch by {found.difference:.1e} of the largest "
        f"logit; on this CPU {times}"
    )
    digests = {path.name: _sha256(path) for path in sorted(folder.glob(f"{file.name}*"))}  # and weights beyond 2 GB
    return {"fold": fold, "file": file.name, "sha256": digests, "difference_from_torch": found.difference}


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as content:
        while block := content.read(2**20):
            digest.update(block)
    return digest.hexdigest()
