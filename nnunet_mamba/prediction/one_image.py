"""`nnunet_mamba.predict`: one image, in Python."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import SimpleITK as sitk
import torch

from nnunet_mamba.nnunet_folders import FINAL
from nnunet_mamba.prediction.images import Case, Source, cases_of
from nnunet_mamba.prediction.model import Named, Use, open_usable
from nnunet_mamba.prediction.predictor import OVERLAP_AS_NNUNET, default_device
from nnunet_mamba.prediction.run import Run
from nnunet_mamba.prediction.scans import Reading

Image = str | PathLike[str] | sitk.Image


def predict(
    model: str | PathLike[str],
    image: Image | Sequence[Image],
    *,
    device: str | None = None,
    folds: Sequence[int | str] | None = None,
    checkpoint: str = FINAL,
    name: str | None = None,
    stored: bool = True,
    mirroring: bool = True,
    step: float = OVERLAP_AS_NNUNET,
    bf16: bool = False,
    onednn: bool = False,
    turn: bool = False,
) -> sitk.Image:
    """Labels of one image, with its geometry; `sitk.GetArrayFromImage` makes an array (z y x) of them.

    model: a zip of nnUNetv2_export_model_to_zip, nnU-Net's folder of a model, or the number or name of a data set with
        one trained model.
    image: a file, the folder of a DICOM series, or a SimpleITK image; several channels as a list, in the model's order.
    device: "cuda" or "cpu"; None: a GPU where torch sees one.
    folds: None for all. name: which model, where a zip holds several.
    stored: use thresholds and minimum sizes that calibrate and postprocess have stored with the model.
    mirroring: False for one pass instead of the mean of mirrored ones. step: distance of windows, as a share of them.
    bf16: convolutions in bfloat16, on a CPU. onednn: all of them through oneDNN, on a CPU; not both.
    turn: predict files, too, the way round that the training images lie, if that is known; DICOM series always are.

    Where the image is unlike the training data, labels touch its border, or the members of the prediction disagree so
    much that one should look at it (`nnunet-mamba trust`), a UserWarning says so. Raises ValueError in
    one sentence for what is no model and no image that the model can take.
    """
    if folds is not None and not folds:
        raise ValueError("folds: none of them given; expected numbers, or None for all")
    given = [image] if isinstance(image, (str, PathLike, sitk.Image)) else list(image)
    named = Named(
        str(model), name=name, folds=None if folds is None else [str(f) for f in folds], checkpoint=checkpoint
    )
    use = Use(stored, mirroring=mirroring, step=step, bf16=bf16, onednn=onednn)
    with tempfile.TemporaryDirectory(prefix="nnunet_mamba_predict_") as folder, open_usable(named, use) as usable:
        place = Path(folder)
        if len(given) != len(usable.channels):
            raise ValueError(
                f"{len(given)} image{'' if len(given) == 1 else 's'} given; this model needs {len(usable.channels)} "
                f"channels: {', '.join(usable.channels)}"
            )
        case = Case("image", tuple(_source(one, place / f"given_{k}.nrrd") for k, one in enumerate(given)))
        run = Run(usable, torch.device(device or default_device()), Reading(turn=turn))
        scan = run.check(case)
        files = run.files(scan, place)
        made = run.predict(scan, files, place / f"labels{usable.ending}")
    for text in (*made.warnings, *([str(made.trust)] if made.trust is not None and made.trust.look else [])):
        warnings.warn(text, stacklevel=2)
    return made.labels


def _source(image: Image, file: Path) -> Source:
    if isinstance(image, sitk.Image):
        axes, components = image.GetDimension(), image.GetNumberOfComponentsPerPixel()
        if axes != 3 or components != 1:
            raise ValueError(f"an image of {axes} axes, {components} values per voxel; expected three axes, one value")
        sitk.WriteImage(image, str(file))
        return Source(file)
    ((source,),) = (case.channels for case in cases_of([Path(image)], ["image"]))
    return source
