"""Scans turned to how the training images lay in space, and what was found turned back.

nnU-Net takes voxels as a file orders them. Series of DICOM files order them in their own way (mostly LPS), not as the
files that a model was trained on (mostly converted, RAS or LAS): a network would see the patient mirrored.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import SimpleITK as sitk

from nnunet_mamba.prediction.fingerprint import Known
from nnunet_mamba.prediction.scans import Scan

UNKNOWN = (
    "how the training images lay in space is not known, and nnU-Net does not turn images: look whether left and right, "
    "or front and back, are taken for each other; nnunet-mamba card FOLDER -zip ZIP writes into a zip how they lay"
)


def wanted(scan: Scan, known: Known, always: bool) -> str | None:
    """In which of nibabel's letters the scan is predicted: those of most training images; None as it is.

    always: not series of DICOM files alone.
    """
    if not known.orientations or scan.grid.orientation in known.orientations or not (always or _is_series(scan)):
        return None
    return known.orientations[0]


def note(scan: Scan, known: Known, always: bool) -> list[str]:
    """What to warn of where a scan is to be turned, and nobody knows how"""
    return [UNKNOWN] if (always or _is_series(scan)) and not known.turns and not known.orientations else []


def _is_series(scan: Scan) -> bool:
    return any(source.series is not None for source in scan.case.channels)


def turned(files: Sequence[Path], letters: str, place: Path, ending: str) -> list[Path]:
    """Copies in `place`, their axes exchanged and reversed as the letters say: no voxel changes its value."""
    found = []
    for number, file in enumerate(files):
        found.append(place / f"turned_{number:04d}{ending}")
        sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(str(file)), letters), str(found[-1]))
    return found


def turn_back(file: Path, like: Path) -> None:
    """The image in its place, its axes as those of another one"""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(like))
    reader.ReadImageInformation()
    letters = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(reader.GetDirection())
    partial = file.with_name(f"turned_{file.name}")
    sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(str(file)), letters), str(partial))
    partial.replace(file)
