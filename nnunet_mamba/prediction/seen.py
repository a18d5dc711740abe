"""How the training images lay in space, which nnU-Net's fingerprint does not say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from dataset_conversion.grid import geometry
from nnunet_mamba.nnunet_folders import ModelFolder
from nnunet_mamba.study.evaluation.description import ENDINGS
from nnunet_mamba.whole_files import read_object

CARD_JSON = "model_card.json"
LOOKED_AT = 50
"""Headers read; more say the same."""


def orientations_of(folder: ModelFolder) -> tuple[str, ...]:
    """Nibabel's letters of the axes, the commonest first: by the model's card, or by the predictions of its validation;
    empty where neither is there."""
    card = folder.path / CARD_JSON
    if card.is_file():
        stored = read_object(card).get("orientations")
        if isinstance(stored, list) and all(isinstance(o, str) for o in stored):
            return tuple(stored)
    return orientations_in(folder.validated())


def orientations_in(files: Iterable[Path]) -> tuple[str, ...]:
    """Of the images among these files, the commonest first"""
    images = [p for p in files if p.name.endswith(ENDINGS) and not p.name.startswith(".")][:LOOKED_AT]
    counts = Counter(sorted(filter(None, map(_orientation, images))))
    return tuple(letters for letters, _ in counts.most_common())


def _orientation(path: Path) -> str:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return ""
    if reader.GetDimension() != 3:
        return ""
    affine = np.eye(4)
    affine[:3, :3] = np.array(reader.GetDirection()).reshape(3, 3)
    return geometry(reader.GetSize(), affine).orientation
