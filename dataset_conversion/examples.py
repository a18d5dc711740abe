"""Invented downloads in the exact layout of real ones: to try a converter before one has the data, and for its tests.

The volumes look like the real ones to a program (headers, value ranges, topology of the truth), not to a doctor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK as sitk
from scipy.interpolate import CubicSpline
from scipy.ndimage import distance_transform_edt, gaussian_filter

AIR, LUNG, WALL, HEART, BLOOD = -1024, -850, 50, 100, 400  # HU
SLICE = 0.625  # mm
COHORTS = ("Normal", "Diseased")


# --- ASOCA ---------------------------------------------------------------------------------------------------------


def make_asoca(
    root: Path,
    n_train: Sequence[int] = (5, 5),
    n_test: Sequence[int] = (1, 1),
    size: tuple[int, int, int] = (64, 64, 32),
    seed: int = 0,
    release: str = "ukds",
    disease_folder: str = "Testset_Disease",
) -> None:
    """An ASOCA tree, sizes as (normal, diseased), volumes of `size` voxels x y z. release: "ukds" or "2020"."""
    random = np.random.default_rng(seed)
    counter = 0
    for cohort, train, test in zip(COHORTS, n_train, n_test, strict=True):
        for k in range(train):
            image, label = coronary_case(random, size, diseased=cohort == "Diseased", padding=k == 1)
            if release == "2020":
                _write(image, root / "ASOCA2020Data" / "Train" / f"{counter}.nrrd")
                _write(label, root / "ASOCA2020Data" / "Train_Masks" / f"{counter}.nrrd")
            else:
                name = f"{cohort}_{k + 1}.nrrd"
                _write(image, root / cohort / "CTCA" / name)
                # the types that the release's labels come in
                kind = {1: sitk.sitkInt16, 2: sitk.sitkFloat64}.get(k, sitk.sitkUInt8)
                _write(sitk.Cast(label, kind), root / cohort / "Annotations" / name)
                for folder, ending in (("Centerlines", "vtp"), ("SurfaceMeshes", "stl")):
                    (root / cohort / folder).mkdir(exist_ok=True)
                    (root / cohort / folder / f"{cohort}_{k + 1}.{ending}").write_text("not read")
            counter += 1
        for k in range(test):
            image, _ = coronary_case(random, size, diseased=cohort == "Diseased")
            number = k if cohort == "Normal" else 10 + k
            if release != "2020":
                folder = "Testset_Normal" if cohort == "Normal" else disease_folder
                _write(image, root / cohort / folder / f"{number}.nrrd")


def coronary_case(
    random: np.random.Generator, size: tuple[int, int, int], diseased: bool = False, padding: bool = False
) -> tuple[sitk.Image, sitk.Image]:
    """CT angiography in HU (int16) and its coronary arteries (uint8), left-posterior-superior."""
    pixel = round(float(random.uniform(0.3, 0.45)) * 128 / size[0], 4)
    spacing = np.array([pixel, pixel, SLICE * 64 / size[2]])
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in size), indexing="ij"), -1) * spacing
    extent = np.array(size) * spacing
    centre, axes = extent / 2, extent * [0.34, 0.3, 0.36]
    ellipsoid = np.sqrt((((grid - centre) / axes) ** 2).sum(-1))
    image = np.full(size, LUNG, np.float64) + random.normal(0, 40, size)
    image[(((grid - centre) / (extent / 2)) ** 2).sum(-1) > 0.9] = WALL
    image[ellipsoid < 1] = HEART
    aorta = np.linalg.norm((grid - (centre + axes * [0, -0.2, 0]))[..., :2], axis=-1) < 0.16 * extent[0]
    image[aorta & (ellipsoid < 1.1)] = BLOOD
    inside = np.zeros(size, bool)
    for side in (-1, 1):
        _grow(random, grid, spacing, centre, axes, side, inside, diseased)
    image[inside] = random.uniform(300, 450)
    image = gaussian_filter(image, 0.7 / spacing)
    if diseased:
        shell = np.asarray(distance_transform_edt(~inside)) < 1.5
        wall = np.argwhere(shell & ~inside)
        for spot in wall[random.integers(0, len(wall), 4)]:
            image[tuple(slice(max(0, i - 1), i + 1) for i in spot)] = random.uniform(700, 1300)
    image += gaussian_filter(random.normal(0, 25, size), 0.5)
    if padding:
        image[:4, :4] = -3024
    image[:, :2] = AIR
    origin = np.array([-90.0, -210.0, -150.0]) + np.round(random.uniform(-5, 5, 3), 3)
    return _lps(np.clip(image, -3100, 3000).astype(np.int16), spacing, origin), _lps(
        inside.astype(np.uint8), spacing, origin
    )


def _grow(
    random: np.random.Generator,
    grid: np.ndarray,
    spacing: np.ndarray,
    centre: np.ndarray,
    axes: np.ndarray,
    side: int,
    inside: np.ndarray,
    diseased: bool,
    generations: int = 3,
) -> None:
    """One coronary tree on the heart's surface: branches that taper and divide, r0^3 = r1^3 + r2^3 (Murray)"""
    tips = [(np.array([0.5 * np.pi + side * 0.6, 0.35 * np.pi]), np.array([side * 0.5, 0.35]), 2.0)]
    for _ in range(generations):
        grown = []
        for start, heading, r0 in tips:
            steps = np.cumsum(np.vstack([start, *(heading * random.uniform(0.25, 0.45) for _ in range(3))]), 0)
            steps += np.vstack([np.zeros(2), random.normal(0, 0.05, (3, 2))])
            along = CubicSpline(np.arange(4), steps)(np.linspace(0, 3, 60))
            r = np.linspace(r0, 0.75 * r0, 60)
            if diseased and random.random() < 0.6:
                at = random.integers(10, 50)
                r[at - 5 : at + 5] *= random.uniform(0.3, 0.6)
            _paint(grid, spacing, centre, axes, along, np.maximum(r, 0.6), inside)
            share = random.uniform(0.4, 0.6)
            for part, turn in ((share, 0.5), (1 - share, -0.5)):
                c, s = np.cos(turn), np.sin(turn)
                grown.append((along[-1], np.array([[c, -s], [s, c]]) @ heading, 0.75 * r0 * part ** (1 / 3)))
        tips = grown


def _paint(
    grid: np.ndarray,
    spacing: np.ndarray,
    centre: np.ndarray,
    axes: np.ndarray,
    angles: np.ndarray,
    radii: np.ndarray,
    inside: np.ndarray,
) -> None:
    turn, down = angles.T
    sphere = np.stack([np.sin(down) * np.cos(turn), np.sin(down) * np.sin(turn), np.cos(down)], -1)
    points = centre + axes * sphere
    for point, r in zip(points, radii, strict=True):
        r = max(r, 0.6 * spacing.max())  # at least one voxel wide on coarse grids
        low = np.maximum(0, np.floor((point - r) / spacing).astype(int))
        high = np.minimum(inside.shape, np.ceil((point + r) / spacing).astype(int) + 1)
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        inside[box] |= np.linalg.norm(grid[box] - point, axis=-1) <= r


def _lps(array: np.ndarray, spacing: np.ndarray, origin: np.ndarray) -> sitk.Image:
    """x y z array"""
    image = sitk.GetImageFromArray(array.transpose(2, 1, 0))
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(origin.tolist())
    return image


def _write(image: sitk.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path), useCompression=True)


# --- BraTS ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BratsNames:
    """How a year calls things"""

    training: str
    validation: str
    case: str
    files: tuple[str, ...]
    enhancing: int


_OLD, _NEW = ("_t1", "_t1ce", "_t2", "_flair", "_seg"), ("-t1n", "-t1c", "-t2w", "-t2f", "-seg")
_2023 = "ASNR-MICCAI-BraTS2023-GLI-Challenge-"
_DATED, _GLI = "_TCIA{:02d}_{:03d}_1", "BraTS-GLI-{:05d}-{:03d}"
_2018, _2019 = "MICCAI_BraTS_2018_Data_", "MICCAI_BraTS_2019_Data_"
BRATS = {
    2018: BratsNames(f"{_2018}Training", f"{_2018}Validation", f"Brats18{_DATED}", _OLD, 4),
    2019: BratsNames(f"{_2019}Training", f"{_2019}Validation", f"BraTS19{_DATED}", _OLD, 4),
    2020: BratsNames(
        "MICCAI_BraTS2020_TrainingData", "MICCAI_BraTS2020_ValidationData", "BraTS20_Training_{:03d}", _OLD, 4
    ),
    2021: BratsNames("BraTS2021_Training_Data", "BraTS2021_ValidationData", "BraTS2021_{:05d}", _OLD, 4),
    2023: BratsNames(f"{_2023}TrainingData", f"{_2023}ValidationData", _GLI, _NEW, 3),
    2024: BratsNames("training_data1_v2", "validation_data", _GLI, _NEW, 3),
}


def make_brats_tree(
    root: Path, year: int, n_train: int = 6, n_test: int = 1, size: tuple[int, int, int] = (48, 56, 40), seed: int = 0
) -> None:
    """A BraTS tree: one case without enhancing tumour, from 2023 on one patient with two time points."""
    names = BRATS[year]
    for k in range(n_train):
        folder = root / names.training
        if year <= 2019:
            folder /= "HGG" if k % 2 == 0 else "LGG"
        # the last two of 2023 and 2024 are one patient
        patient = n_train - 2 if year >= 2023 and k == n_train - 1 else k
        make_brats(folder, year, case_name(year, patient, k - patient), seed + k, size, enhancing=k != 1)
    for k in range(n_test):
        name = case_name(year, 100 + k).replace("Training", "Validation")
        make_brats(root / names.validation, year, name, seed + 1000 + k, size, label=False)


def case_name(year: int, number: int, time_point: int = 0) -> str:
    """The name of a year's n-th invented patient"""
    pattern = BRATS[year].case
    if year <= 2019:
        return pattern.format(1 + number % 9, 100 + number)
    if year >= 2023:
        return pattern.format(number, time_point + (100 if year == 2024 else 0))
    return pattern.format(number + 1)


def make_brats(
    folder: Path,
    year: int,
    name: str,
    seed: int = 0,
    size: tuple[int, int, int] = (48, 56, 40),
    enhancing: bool = True,
    label: bool = True,
) -> Path:
    """One case; returns its folder."""
    names = BRATS[year]
    images, segmentation = brain(np.random.default_rng(seed), size, names.enhancing, enhancing, cavity=year == 2024)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    affine[1, 3] = 239.0
    made = folder / name
    made.mkdir(parents=True, exist_ok=True)
    for part, array in zip(names.files, [*images, segmentation] if label else images, strict=False):
        image = nibabel.Nifti1Image(array, affine)
        image.header.set_qform(affine, 1)
        image.header.set_sform(affine, 1)
        nibabel.save(image, made / f"{name}{part}.nii.gz")
    return made


def brain(
    random: np.random.Generator, size: tuple[int, int, int], enhancing_value: int, enhancing: bool, cavity: bool
) -> tuple[list[np.ndarray], np.ndarray]:
    """Four int16 sequences (T1, T1ce, T2, FLAIR), zero outside the head, and nested tumour labels (uint8), x y z."""
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in size), indexing="ij"), -1)
    head = np.sqrt(((grid / 0.9) ** 2).sum(-1)) < 1
    texture = gaussian_filter(random.normal(0, 1, size), 3)
    texture /= np.abs(texture).max()
    white, fluid = texture > 0.1, texture < -0.45
    t1 = np.where(white, 700.0, np.where(fluid, 250.0, 500.0))
    t2 = np.where(white, 350.0, np.where(fluid, 900.0, 500.0))
    flair = np.where(white, 400.0, np.where(fluid, 200.0, 550.0))
    centre = random.uniform(-0.3, 0.3, 3)
    distance = np.sqrt((((grid - centre) / [0.45, 0.4, 0.5]) ** 2).sum(-1)) + 0.25 * texture
    edema, core, necrosis = distance < 1, distance < 0.6, distance < 0.35
    ring = core & ~necrosis if enhancing else np.zeros(size, bool)
    t1ce = t1 * np.where(ring, 1.6, 1.0) * np.where(necrosis, 0.5, 1.0)
    t2, flair = (m * np.where(edema, 1.4, 1.0) * np.where(necrosis, 1.3, 1.0) for m in (t2, flair))
    labels = np.zeros(size, np.uint8)
    labels[edema], labels[core] = 2, 1
    labels[ring] = enhancing_value
    if cavity:
        labels[np.sqrt(((grid - centre - [0.5, 0, 0]) ** 2).sum(-1)) < 0.2] = 4
    labels[~head] = 0
    noisy = [np.where(head, np.maximum(1, m + random.normal(0, 25, size)), 0) for m in (t1, t1ce, t2, flair)]
    return [m.astype(np.int16) for m in noisy], labels
