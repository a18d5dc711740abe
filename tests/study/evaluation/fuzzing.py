"""Hostile inputs of `nnunet-mamba evaluate`, and what must become of them, by other means than the code's own.

A case is made from its number alone. `expected` is None where the pair must be refused, else mask -> Dice; the files
are read back by nibabel (SimpleITK is what the code uses), and Dice is counted voxel by voxel.
"""

from __future__ import annotations

import csv
import gzip
import json
import math
import struct
import warnings
import zlib
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK as sitk

from nnunet_mamba.cli.main import main

SHAPE, SPACING = (6, 7, 5), (1.0, 2.0, 1.5)
LABELS = {"background": 0, "a": 1, "b": 2}
EITHER = "either"
"""It may be refused or scored."""


@dataclass
class Maybe:
    """Readers differ in what it is: it may be refused; if it is scored, then with these."""

    scores: dict[str, float]


@dataclass
class Outcome:
    """What came of one case: "" if all is well, or the kind of failure and a line about it."""

    kind: str = ""
    detail: str = ""


def label_map(random: np.random.Generator) -> np.ndarray:
    """A few boxes of labels in an empty volume"""
    labels = np.zeros(SHAPE, np.uint8)
    for value in random.permutation([1, 2, 1, 2])[: random.integers(1, 5)]:
        low = [int(random.integers(0, n - 1)) for n in SHAPE]
        high = [int(random.integers(a + 1, n + 1)) for a, n in zip(low, SHAPE, strict=True)]
        labels[low[0] : high[0], low[1] : high[1], low[2] : high[2]] = value
    return labels


def write(path: Path, array: np.ndarray, kind: Any = nibabel.Nifti1Image, spacing: tuple[float, ...] = SPACING) -> None:
    """nibabel writes, x y z"""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = kind(array, np.diag([*spacing, 1.0]))
    image.set_qform(image.affine, 1)
    image.set_sform(image.affine, 1)
    nibabel.save(image, path)


def dice(p: np.ndarray, r: np.ndarray) -> float:
    """By its definition, 1 where both are empty"""
    both, total = int((p & r).sum()), int(p.sum()) + int(r.sum())
    return 2 * both / total if total else 1.0


# --- predictions --------------------------------------------------------------------------------------------------


def _flip(data: bytes, random: np.random.Generator) -> bytes:
    damaged = bytearray(data)
    for _ in range(int(random.choice([1, 1, 2, 8]))):
        damaged[int(random.integers(len(data)))] ^= 1 << int(random.integers(8))
    return bytes(damaged)


def _hole(data: bytes, random: np.random.Generator) -> bytes:
    at, size = int(random.integers(len(data))), int(random.integers(1, 60))
    return data[:at] + bytes(len(data[at : at + size])) + data[at + size :]


def _cut(data: bytes, random: np.random.Generator) -> bytes:
    return data[: int(random.integers(len(data)))]


def _longer(data: bytes, random: np.random.Generator) -> bytes:
    return data + random.bytes(int(random.integers(1, 40)))


STREAM = (_flip, _hole, _cut, _longer)
# offset, format, values: fields of the NIfTI-1 header
FIELDS: list[tuple[int, str, list[Any]]] = [
    (0, "i", [0, 347, 540, -1]), (40, "h", [0, 1, 2, 3, 4, 7, -1, 255]), (42, "h", [0, 1, 5, 6, 7, -6, 32767]),
    (44, "h", [0, 1, 7, 8, -7, 32767]), (46, "h", [0, 1, 5, 6, -5]), (48, "h", [0, 1, 2, 3]),
    (70, "h", [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 768, 1024, 1536, 2304, -2, 9999]),
    (72, "h", [0, 1, 8, 16, 32]), (76, "f", [0.0, 1.0, -1.0, 5.0, math.nan]),
    (80, "f", [0.0, -1.0, 1.0, 1.005, 1.2, 1e-30, 1e30, math.nan, math.inf]), (84, "f", [0.0, 2.0, 2.5, math.nan]),
    (108, "f", [0.0, 351.0, 352.0, 353.0, 400.0, 1e9, -1.0, math.nan]),
    (112, "f", [0.0, 1.0, 2.0, 0.5, 1.000001, 1.0001, 1.01, -1.0, math.nan, math.inf, 1e30]),
    (116, "f", [0.0, 1.0, 1e-6, 5e-4, 0.3, -1.0, math.nan, math.inf]), (123, "B", [0, 1, 2, 3, 10, 255]),
    (252, "h", [0, 1, 2, 7, -1]), (254, "h", [0, 1, 2, 7, -1]), (256, "f", [0.1, 0.5, 1.0, math.nan]),
    (268, "f", [0.0, 0.005, 0.02, 5.0, math.nan, math.inf]), (280, "f", [0.0, 1.0, 1.001, -1.0, 2.0, math.nan]),
    (284, "f", [0.0, 0.1, 0.5]), (292, "f", [0.0, 0.004, 0.05, 5.0]),
    (344, "4s", [b"n+1\0", b"ni1\0", b"n+2\0", b"xxxx"]),
]  # fmt: skip


def _field(data: bytes, random: np.random.Generator) -> bytes:
    content = bytearray(gzip.decompress(data))
    for _ in range(int(random.choice([1, 1, 1, 2, 3]))):
        at, form, values = FIELDS[int(random.integers(len(FIELDS)))]
        struct.pack_into(f"<{form}", content, at, values[int(random.integers(len(values)))])
    return gzip.compress(bytes(content))


def _content(data: bytes, random: np.random.Generator) -> bytes:
    """Another length of the unpacked content, with a right checksum"""
    content = gzip.decompress(data)
    return gzip.compress(content[: int(random.integers(len(content)))])


def _something_else(data: bytes, random: np.random.Generator) -> bytes:
    content = gzip.decompress(data)
    others = [b"", b"\x1f\x8b", b"<!DOCTYPE html><html></html>", b"version https://git-lfs.github.com/spec/v1\noid x",
              b"PK\x03\x04" + bytes(60), b"NRRD0004\ntype: uchar\n", content, gzip.compress(b""), gzip.compress(b"x"),
              gzip.compress(data), random.bytes(400), gzip.compress(random.bytes(400)), content[:348]]  # fmt: skip
    return others[int(random.integers(len(others)))]


def _values(random: np.random.Generator, labels: np.ndarray) -> np.ndarray:
    """The label map with values that mean something else, or nearly the same"""
    plain = labels.astype(np.float64)
    place = tuple(int(random.integers(n)) for n in SHAPE)
    one = np.zeros(SHAPE)
    one[place] = 1
    kinds: list[Callable[[], np.ndarray]] = [
        lambda: np.where(labels == 2, random.choice([3, 4, 7, 255]), labels).astype(np.uint8),
        lambda: (plain * random.choice([1.000001, 1.0001, 0.9999])).astype(np.float32),
        lambda: (plain * random.choice([1.01, 0.99, 0.5, 1.5, 127.5])).astype(np.float32),
        lambda: (plain + one * random.choice([0.0009, 0.002, 0.5, -1, 1e9, 1e30])).astype(np.float64),
        lambda: np.where(one > 0, random.choice([math.nan, math.inf, -math.inf]), plain).astype(np.float32),
        lambda: random.uniform(0, 1, SHAPE).astype(np.float32),
        lambda: -labels.astype(np.int8), lambda: labels.astype(np.int8) - one.astype(np.int8),
        lambda: (labels.astype(np.uint16) * np.uint16(random.choice([1, 256, 300]))).astype(np.uint16),
        lambda: labels.astype(np.int32) + (one * 2**30).astype(np.int32),
        lambda: labels.astype(random.choice(["int16", "uint16", "int32", "uint32", "float32", "f8", ">i2", ">f4"])),
        lambda: labels.astype(np.complex64), lambda: labels[..., None], lambda: np.stack([labels, labels], -1),
        lambda: labels[:, :, :1], lambda: labels[:, :, 0], lambda: labels[1:], lambda: np.zeros(SHAPE, np.uint8),
    ]  # fmt: skip
    return kinds[int(random.integers(len(kinds)))]()


def damaged_prediction(number: int, folder: Path) -> tuple[Any, str]:
    """Case "c" with something wrong (or right) in reference or prediction; expected Dice, and what was done"""
    random = np.random.default_rng(number)
    reference, prediction = label_map(random), label_map(random)
    files = [folder / part / "c.nii.gz" for part in ("ref", "pred")]
    which = int(random.random() < 0.8)  # mostly the prediction
    for path, array in zip(files, (reference, prediction), strict=True):
        write(path, array)
    (folder / "pred" / "dataset.json").write_text(json.dumps({"labels": LABELS, "file_ending": ".nii.gz"}))
    target, labels = files[which], (reference, prediction)[which]
    if random.random() < 0.35:
        changed = _values(random, labels)
        write(target, changed, nibabel.Nifti2Image if random.random() < 0.2 else nibabel.Nifti1Image)
        done = f"values {changed.dtype} {np.unique(changed)[:6]}"
    else:
        kind = [*STREAM, _field, _field, _field, _content, _something_else][int(random.integers(9))]
        target.write_bytes(kind(target.read_bytes(), random))
        done = kind.__name__
    return _expected(files, done), f"{number}: {done} in {target.parent.name}"


def _expected(files: list[Path], done: str) -> Any:
    arrays = []
    two = any(_start(path) in NIFTI2 for path in files)  # which not every SimpleITK reads
    for path in files:
        read = _by_nibabel(path)
        if read is None:
            return None if done in ("_flip", "_hole", "_cut", "_longer", "_content") else EITHER
        arrays.append(read)
    (r, r_affine), (p, p_affine) = arrays
    if r.shape != p.shape:
        return None
    for array in (r, p):
        if not np.isfinite(array).all() or np.abs(array - np.rint(array)).max() > 1e-3:
            return None
        if not np.isin(np.rint(array), (0, 1, 2)).all():
            return None
    r, p = np.rint(r), np.rint(p)
    scores = {name: dice(p == v, r == v) for name, v in LABELS.items() if v}
    corners = np.array([[i, j, k, 1] for i in (0, r.shape[0] - 1) for j in (0, 6) for k in (0, 4)], float)
    apart = [float(np.nan_to_num(np.abs((a - b) @ corners.T).max(), nan=1e9)) for a in r_affine for b in p_affine]

    def agree(affines: list[np.ndarray]) -> bool:
        """Whether the file's own two forms say the same; where they do not, readers choose differently"""
        return len(affines) == 2 and float(np.nan_to_num(np.abs(affines[0] - affines[1]).max(), nan=1e9)) < 1e-3

    if min(apart) > 0.0101:
        return None if agree(r_affine) and agree(p_affine) else Maybe(scores)
    usual = all(len(affines) == 2 for affines in (r_affine, p_affine)) and not two and done != "_field"
    one_reading = usual and max(apart) < 0.0099 and all(p.read_bytes()[:2] == b"\x1f\x8b" for p in files)
    return scores if one_reading else Maybe(scores)


NIFTI2 = (b"\x1c\x02\0\0", b"\0\0\x02\x1c")


def _start(path: Path) -> bytes:
    try:
        return gzip.decompress(path.read_bytes())[:4]
    except Exception:
        return b""


def _by_nibabel(path: Path) -> tuple[np.ndarray, list[np.ndarray]] | None:
    """Voxels, and the affines that its header may be read to have; None if it is damaged or no NIfTI"""
    data = path.read_bytes()
    try:
        content = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
        kind = nibabel.Nifti2Image if content[:4] in NIFTI2 else nibabel.Nifti1Image
        if kind is nibabel.Nifti1Image and struct.unpack("<f", content[108:112])[0] < 348:
            return None  # inside the header, where nibabel begins to read and SimpleITK does not
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = kind.from_bytes(content)
            array = np.asanyarray(image.dataobj)
        if array.dtype.kind not in "iuf" or array.ndim > 4:
            return None
        array = array.reshape(array.shape[:3]) if array.ndim == 4 and array.shape[3] == 1 else array
        forms = image.header.get_qform(coded=True), image.header.get_sform(coded=True)
        affines = [form for form, code in forms if code] or [image.header.get_base_affine()]
    except Exception:
        return None
    if array.ndim != 3 or 0 in array.shape:
        return None
    return array.astype(float), affines


def damaged_body(number: int, folder: Path) -> tuple[Any, str]:
    """Case "c" as compressed NRRD or MHA, whose voxels are damaged behind the header; expected Dice, what was done"""
    random = np.random.default_rng(number)
    ending = (".nrrd", ".mha")[int(random.integers(2))]
    reference, prediction = label_map(random), label_map(random)
    # noise, so that a changed bit changes something far behind it
    prediction = np.where(random.random(SHAPE) < 0.3, random.integers(0, 3, SHAPE), prediction).astype(np.uint8)
    files = [folder / part / f"c{ending}" for part in ("ref", "pred")]
    for path, array in zip(files, (reference, prediction), strict=True):
        for other in (".nrrd", ".mha"):
            path.with_name(f"c{other}").unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(sitk.GetImageFromArray(array), str(path), True)
    (folder / "pred" / "dataset.json").write_text(json.dumps({"labels": LABELS, "file_ending": ending}))
    data = files[1].read_bytes()
    end = b"\n\n" if ending == ".nrrd" else b"LOCAL\n"
    at = data.index(end) + len(end)
    kind = [*STREAM, _flip, _flip][int(random.integers(6))]
    body = kind(data[at:], random)
    files[1].write_bytes(data[:at] + body)
    try:
        content = (gzip.decompress if ending == ".nrrd" else zlib.decompress)(body)
        whole = content == prediction.tobytes()
        if len(content) == prediction.size and not whole:
            # other voxels with the same checksum, which nothing in the file can tell: of small ones, one in thousands
            return EITHER, f"{number}: {kind.__name__} in the voxels of c{ending}, with the same checksum"
    except Exception:
        whole = False
    scores = {name: dice(prediction == v, reference == v) for name, v in LABELS.items() if v}
    # bytes behind the end of a zlib stream are nobody's
    longer = kind is _longer and ending == ".mha"
    return (Maybe(scores) if whole or longer else None), f"{number}: {kind.__name__} in the voxels of c{ending}"


# --- dataset.json --------------------------------------------------------------------------------------------------

PIECES: list[Any] = [
    None, True, False, 0, 1, 2, 3, -1, 1.0, 1.5, 10**12, 10**40, "", "0", "1", "2", "x", "background", "1.5", "²", [],
    [0], [1], [1, 2], [2, 1], [[1]], [1, "2"], [True], [None], {}, {"a": 1}, {"0": "background", "1": "a", "2": "b"},
    {"background": 0}, {"background": 0, "a": 1, "b": 2}, {"0": "background", "1": "a", "2": "a"},
    {"0": 0, "1": 1, "2": 2}, ".nii.gz", "nii.gz", "../x", "*", ".nii", [".nii.gz"], "\0", "\n", "🩻",
]  # fmt: skip
KEYS = ["a", "b", "background", "ignore", "labels", "file_ending", "0", "1", "2", "", " ", "x", "all masks", "NA", "=1"]


def dataset_json(number: int) -> bytes:
    """nnU-Net's or the decathlon's, with some values replaced, added or taken away; or something else"""
    random = np.random.default_rng(number)
    content: Any = {"labels": dict(LABELS), "file_ending": ".nii.gz", "numTraining": 1}
    if random.random() < 0.2:
        content = {"labels": {"0": "background", "1": "a", "2": "b"}, "name": "msd"}
    for _ in range(int(random.integers(0, 4))):
        piece = deepcopy(PIECES[int(random.integers(len(PIECES)))])
        key = KEYS[int(random.integers(len(KEYS)))]
        inside = isinstance(content, dict) and isinstance(content.get("labels"), dict) and random.random() < 0.7
        target = content["labels"] if inside else content
        if random.random() < 0.05 or not isinstance(target, dict):
            content = piece
        elif random.random() < 0.25:
            target.pop(key, None)
        else:
            target[key] = piece
    text = json.dumps(content, ensure_ascii=bool(random.random() < 0.5))
    if random.random() < 0.1:
        texts = ["", "{", "[" * 100_000, text[:-1], f"\ufeff{text}", '{"labels": {"a": 1, "a": 2}}', "NaN", f"{text} x"]
        text = texts[int(random.integers(len(texts)))]
    data = text.encode("utf-8", "surrogatepass")
    return data[:8] + b"\xff\xfe" + data[8:] if random.random() < 0.03 else data


def masks_by_hand(data: bytes) -> dict[str, set[int]] | None:
    """What may be scored by such a file: a plain reading of its labels; None where there is no meaning in it"""
    try:
        content = json.loads(data.decode("utf-8-sig"), object_pairs_hook=list)
    except (ValueError, RecursionError):
        return None
    fields = dict(content) if isinstance(content, list) and all(isinstance(x, tuple) for x in content) else {}
    labels = fields.get("labels")
    if not labels or not isinstance(labels, list) or not all(isinstance(x, tuple) for x in labels):
        return None
    names = [n for n, _ in labels]
    if len(set(names)) < len(names):
        return None
    pairs: list[tuple[Any, Any]] = labels
    if all(n.isdecimal() for n in names) and all(isinstance(v, str) and not v.isdecimal() for _, v in labels):
        pairs = [(v, n) for n, v in labels]
        if len({n for n, _ in pairs}) < len(pairs):
            return None
    masks = {}
    for name, value in pairs:
        several = value if isinstance(value, list) else [value]
        if not several or not name.strip() or any(isinstance(v, (bool, list, tuple)) or v is None for v in several):
            return None
        try:
            numbers = {int(str(v)) if isinstance(v, str) else v for v in several}
        except ValueError:
            return None
        if any(v != int(v) or not 0 <= v < 2**31 for v in numbers):
            return None
        masks[name] = {int(v) for v in numbers}
    if masks.get("background", {0}) != {0}:
        return None
    return masks


# --- running -------------------------------------------------------------------------------------------------------


def judge(folder: Path, expected: Any, about: str, capsys: Any, case: str = "c") -> Outcome:
    """Run the command and compare: a traceback, a silent error, or nothing wrong"""
    for name in ("evaluation.json", "evaluation.csv"):
        (folder / "pred" / name).unlink(missing_ok=True)
    capsys.readouterr()
    try:
        code = main(
            ["evaluate", "-ref", str(folder / "ref"), "-pred", str(folder / "pred"), "-metrics", "Dice", "HD95"]
        )
    except BaseException as error:
        return Outcome("traceback", f"{about}: {type(error).__name__}: {error}")
    shown = capsys.readouterr().err
    if code == 2:
        told = [line for line in shown.splitlines() if "nnunet-mamba evaluate: " in line and len(line) > 40]
        if not told or "Traceback" in shown:
            return Outcome("silent", f"{about}: refused without a reason: {_told(shown)}")
        if isinstance(expected, dict):
            return Outcome("refused", f"{about}: {_told(shown)}")
        return Outcome()
    if code != 0:
        return Outcome("silent", f"{about}: exit code {code}")
    expected = expected.scores if isinstance(expected, Maybe) else expected
    if expected is None:
        return Outcome("silent", f"{about}: scored, but must be refused")
    result = json.loads((folder / "pred" / "evaluation.json").read_text(encoding="utf-8"))
    scores = {mask: value["Dice"] for mask, value in result["cases"][case].items()}
    if expected != EITHER and scores != {m: float(v) for m, v in expected.items()} and not _close(scores, expected):
        return Outcome("silent", f"{about}: {scores}, by hand {expected}")
    if not all(math.isfinite(of["HD95"]) and of["HD95"] >= 0 for of in result["cases"][case].values()):
        return Outcome("silent", f"{about}: {result['cases'][case]}")
    with (folder / "pred" / "evaluation.csv").open(newline="", encoding="utf-8") as file:
        rows = {row["mask"]: float(row["Dice"]) for row in csv.DictReader(file)}
    if len(rows) != len(scores) or any(name[:1] in "=+-@" for name in rows):
        return Outcome("silent", f"{about}: table has {list(rows)}")
    return Outcome()


def _told(shown: str) -> str:
    return " / ".join(line[:200] for line in shown.splitlines() if line.strip() and "it/s" not in line)


def _close(scores: dict[str, float], expected: dict[str, float]) -> bool:
    return scores.keys() == expected.keys() and all(math.isclose(scores[m], expected[m], abs_tol=1e-9) for m in scores)
