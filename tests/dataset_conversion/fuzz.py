"""Downloads damaged at random, converted by the command; the oracle is how SimpleITK and nnU-Net read what comes out.

`python -m tests.dataset_conversion.fuzz SEED COUNT` runs COUNT cases of every kind and prints what was found.
"""

from __future__ import annotations

import atexit
import contextlib
import gzip
import io
import json
import random
import shutil
import sys
import tempfile
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK as sitk
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

from dataset_conversion.command import main
from dataset_conversion.examples import make_brats
from tests.dataset_conversion.trees import DESCRIPTION, asoca_tree, described, generic_tree, nifti, volumes

TINY = float(np.finfo(np.float32).tiny)
"""Below it float32 loses digits: an intercept of 1e-41 is none to SimpleITK, and one to nibabel"""
EPSILON = float(np.finfo(np.float32).eps)
SLOWEST = 20.0
"""Seconds after which a conversion of these sizes counts as hanging"""
BRATS_SIZE = (6, 7, 5)


class Wrong(Exception):  # noqa: N818
    """What came out is not what went in."""


def outcome(kind: str, seed: int, folder: Path) -> str:
    """ok, refused, or what must not be: traceback, hang, silent error, with what happened"""
    dice = random.Random(f"{kind} {seed}")
    start = time.monotonic()
    told, code, check = io.StringIO(), -1, None
    try:
        arguments, check = KINDS[kind](dice, folder)
        with contextlib.redirect_stderr(told), contextlib.redirect_stdout(told):
            code = main([*arguments, "-o", str(folder / "raw"), "--jobs", "1"])
    except BaseException:
        return f"traceback: {traceback.format_exc()[-600:]}"
    if time.monotonic() - start > SLOWEST:
        return "hang"
    if code == 2:
        return "refused" if not (folder / "raw").exists() else "silent error: refused, but something is written"
    if code:
        return f"traceback: code {code}: {told.getvalue()[-300:]}"
    try:
        (target,) = (folder / "raw").iterdir()
        as_nnunet(target)
        check(target, told.getvalue())
    except Exception:
        return f"silent error: {traceback.format_exc()[-600:]}"
    return "ok"


def as_nnunet(target: Path) -> None:
    """What nnU-Net's integrity check asks for, with its reader and label manager"""
    text = json.loads((target / "dataset.json").read_text(encoding="utf-8"))
    manager = LabelManager(text["labels"], text.get("regions_class_order"))
    values = [*manager.all_labels, *([manager.ignore_label] if manager.has_ignore_label else [])]
    _ask(values == list(range(len(values))), f"labels {values}")
    cases = get_filenames_of_train_images_and_targets(str(target), text)
    _ask(len(cases) == text["numTraining"] == len(list((target / "labelsTr").iterdir())), "numTraining")
    folds = target / "splits_final.json"
    for fold in json.loads(folds.read_text(encoding="utf-8")) if folds.exists() else ():
        _ask(sorted(fold["train"] + fold["val"]) == sorted(cases), "folds")
    for files in cases.values():
        images, a = SimpleITKIO().read_images(files["images"])
        label, b = SimpleITKIO().read_seg(files["label"])
        _ask(len(images) == len(text["channel_names"]) and images.shape[1:] == label.shape[1:], "shapes")
        _ask(bool(np.isfinite(images).all()) and set(np.unique(label)) <= set(values), "values")
        _ask(np.allclose(a["spacing"], b["spacing"]), f"spacing {a['spacing']} {b['spacing']}")
        for part in ("origin", "direction"):
            _ask(np.allclose(a["sitk_stuff"][part], b["sitk_stuff"][part], atol=1e-3), part)


def _ask(holds: bool, what: str) -> None:
    if not holds:
        raise Wrong(what)


def same_volume(source: Path, made: Path, geometry: bool = True, map_: Callable[[Any], Any] = lambda v: v) -> None:
    """As SimpleITK reads both; a source that it cannot read, as nibabel does"""
    b = sitk.ReadImage(str(made))
    voxels = sitk.GetArrayFromImage(b)
    try:
        a = sitk.ReadImage(_named_as_it_is(source))
    except RuntimeError:
        if not source.name.endswith((".nii", ".nii.gz")):
            return
        content = source.read_bytes()
        content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
        kind = (
            nibabel.Nifti2Image
            if 540 in {int.from_bytes(content[:4], o) for o in ("little", "big")}
            else nibabel.Nifti1Image
        )
        array = np.asanyarray(kind.from_bytes(content).dataobj).T.reshape(voxels.shape)
        _ask(np.array_equal(map_(array).astype(np.float32), voxels.astype(np.float32)), "voxels, by nibabel")
        return
    array = sitk.GetArrayFromImage(a).reshape(voxels.shape)
    _ask(nearly(map_(array).astype(np.float32), voxels.astype(np.float32)), "voxels")
    if geometry and a.GetDimension() == 3:
        _ask(np.allclose(a.GetSpacing(), b.GetSpacing(), rtol=1e-5), f"spacing {a.GetSpacing()} {b.GetSpacing()}")
        corners = [
            [
                np.array(i.TransformContinuousIndexToPhysicalPoint(tuple(float(n) for n in c)))
                for c in ((0, 0, 0), i.GetSize())
            ]
            for i in (a, b)
        ]
        far = float(np.abs(np.subtract(*corners)).max())
        _ask(far < 0.1 + 1e-5 * float(np.abs(corners).max()), f"{far} mm elsewhere")


def nearly(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal up to what is lost in float32 beside the largest value: an intercept of 7e-21 is none"""
    return np.allclose(a, b, rtol=1e-6, atol=max(TINY, EPSILON * float(np.abs(a).max(initial=0, where=np.isfinite(a)))))


def _named_as_it_is(path: Path) -> str:
    """SimpleITK goes by the name, we by the content"""
    if not path.name.endswith((".nii", ".nii.gz")):
        return str(path)
    packed = path.read_bytes()[:2] == b"\x1f\x8b"
    if packed == path.name.endswith(".gz"):
        return str(path)
    copy = path.with_name(f"as_it_is{'.nii.gz' if packed else '.nii'}")
    shutil.copy(path, copy)
    return str(copy)


# --- kinds: each makes a download, and gives the command's arguments and a check of what was written --------------

FIELDS = {
    "sizeof_hdr": (0, 4), "dim": (40, 16), "datatype": (70, 2), "bitpix": (72, 2), "pixdim": (76, 32),
    "vox_offset": (108, 4), "scl_slope": (112, 4), "scl_inter": (116, 4), "xyzt_units": (123, 1),
    "qform_code": (252, 2), "sform_code": (254, 2), "quatern": (256, 12), "qoffset": (268, 12), "srow": (280, 48),
    "magic": (344, 4), "any": (0, 348),
}  # fmt: skip
FLOATS = (0.0, -1.0, 1e-9, 1e9, float("nan"), float("inf"), 0.5, 2.0, 1000.0)


def _mutate_nifti(dice: random.Random, content: bytearray) -> None:
    for _ in range(dice.randint(1, 3)):
        name = dice.choice(list(FIELDS))
        place, length = FIELDS[name]
        if (
            name in ("pixdim", "quatern", "qoffset", "srow", "scl_slope", "scl_inter", "vox_offset")
            and dice.random() < 0.8
        ):
            at = place + 4 * dice.randrange(length // 4)
            content[at : at + 4] = np.float32(dice.choice(FLOATS)).tobytes()
        elif name in ("dim", "datatype", "bitpix", "qform_code", "sform_code") and dice.random() < 0.8:
            at = place + 2 * dice.randrange(length // 2)
            content[at : at + 2] = np.int16(
                dice.choice((-1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 16, 64, 128, 256, 512, 768))
            ).tobytes()
        else:
            content[place + dice.randrange(length)] = dice.randrange(256)


def _damage(dice: random.Random, content: bytearray, start: int = 0) -> bytes:
    """Of a compressed body: flipped bits, a hole, an end too early"""
    how = dice.randrange(4)
    place = dice.randrange(start, len(content))
    if how == 0:
        return bytes(content[:place])
    for _ in range(1 if how == 1 else 8):
        content[dice.randrange(start, len(content))] ^= 1 << dice.randrange(8)
    if how == 3:
        content[place : place + 64] = bytes(len(content[place : place + 64]))
    return bytes(content)


def _generic(folder: Path, **change: Any) -> list[str]:
    return ["generic", "-i", str(folder / "d"), "--describe", str(described(folder / "description", **change))]


KINDS_OF_VOXELS = (np.uint8, np.int8, np.int16, np.uint16, np.int32, np.float32, np.float64)


def nifti_case(dice: random.Random, folder: Path) -> tuple[list[str], Callable[[Path, str], None]]:
    """Image and label of one header each, or one of them, changed; the body too, sometimes"""
    root = generic_tree(folder / "d", 2)
    both, packed = dice.random() < 0.7, dice.random() < 0.7
    kind = dice.choice(KINDS_OF_VOXELS)
    state = dice.getstate()
    paths = []
    for part, array in zip(("images", "labels"), volumes(7), strict=True):
        path = nifti(root / part / "x.nii", np.abs(array).astype(kind) % 100 if part == "images" else array)
        paths.append(path.with_name("x.nii.gz"))
        content = bytearray(path.read_bytes())
        path.unlink()
        if both or part == "images":
            dice.setstate(state)
            _mutate_nifti(dice, content)
        whole = gzip.compress(bytes(content), 1) if packed else bytes(content)
        paths[-1].write_bytes(_damage(dice, bytearray(whole)) if dice.random() < 0.2 else whole)
    arguments = _generic(folder, **dice.choice(({}, {}, {"lowest": -5}, {"lowest": 0.5})))
    options = [o for o in ("--skip-incomplete", "--nan-to-zero", "--fix-shear", "--trust-array") if dice.random() < 0.3]
    prefer = dice.choice(([], [], ["--prefer", "sform"], ["--prefer", "qform"]))

    def check(target: Path, told: str) -> None:
        if not (target / "labelsTr" / "x.nii.gz").exists():
            _ask("refused" in told, "left out without a word")
            return
        repaired = any(word in told for word in (" by its sform", "sform and qform", "its coordinates", "off the first",
                                                 "made perpendicular", "not finite", "below", "_code"))  # fmt: skip
        if "not finite numbers" not in told and "below" not in told:
            same_volume(paths[0], target / "imagesTr" / "x_0000.nii.gz", not repaired)
        same_volume(paths[1], target / "labelsTr" / "x.nii.gz", not repaired, np.rint)

    return [*arguments, *options, *prefer], check


def _other_format(dice: random.Random, folder: Path, ending: str) -> tuple[list[str], Callable[[Path, str], None]]:
    root = folder / "d"
    kind = dice.choice(KINDS_OF_VOXELS)
    arrays = [np.abs(volumes(7)[0]).astype(kind) % 100, volumes(7)[1]]
    for name in ("c0", "x"):
        for part, array in zip(("images", "labels"), arrays, strict=True):
            (root / part).mkdir(parents=True, exist_ok=True)
            image = sitk.GetImageFromArray(np.ascontiguousarray((array[::-1] if name == "c0" else array).T))
            image.SetSpacing((0.5, 0.7, 1.3))
            sitk.WriteImage(image, str(root / part / f"{name}.{ending}"), useCompression=True)
    paths = [root / part / f"x.{ending}" for part in ("images", "labels")]
    path = dice.choice(paths)
    content = bytearray(path.read_bytes())
    body = content.index(b"\n\n") + 2 if ending == "nrrd" else content.index(b"LOCAL\n") + 6
    in_body = dice.random() < 0.5
    if in_body:
        path.write_bytes(_damage(dice, content, body))
    else:
        lines = bytes(content[:body]).splitlines(keepends=True)
        k = dice.randrange(1, len(lines))
        name, sign, _ = lines[k].partition(b": " if ending == "nrrd" else b" = ")
        values = (b"", b"0", b"-1", b"nan", b"1e99", b"gzip", b"raw", b"True", b"False", b"6 7 8", b"6 7 7", b"7 6 8",
                  b"3", b"short", b"MET_SHORT", b"(1,0,0) (0,1,0) (0,0,1)", b"(1,0,0) (0.1,1,0) (0,0,1)",
                  b"1 0 0 0 1 0 0.2 0 1", b"(1,0) (0,1)", b"(1,0,0) (1,0,0) (0,0,1)", b"big", b"0 0 0",
                  b"x")  # fmt: skip
        lines[k] = name + sign + dice.choice(values) + b"\n" if dice.random() < 0.8 else b""
        path.write_bytes(b"".join(lines) + bytes(content[body:]))
    arguments = _generic(folder, images={"CT": f"images/{{case}}.{ending}"}, label=f"labels/{{case}}.{ending}")

    def check(target: Path, told: str) -> None:
        made = [target / "imagesTr" / "x_0000.nii.gz", target / "labelsTr" / "x.nii.gz"]
        for source, file, array in zip(paths, made, arrays, strict=True):
            moved = any(word in told for word in ("made perpendicular", "off the first", "pynrrd"))
            same_volume(source, file, not moved)
            if in_body:
                voxels = sitk.GetArrayFromImage(sitk.ReadImage(str(file))).T
                is_whole = np.array_equal(voxels, array) or (source == path and holds(source, voxels, array.dtype))
                _ask(is_whole, "damage went in")

    options = [o for o in ("--fix-shear", "--trust-array") if dice.random() < 0.3]
    return [*arguments, *options], check


def holds(path: Path, voxels: np.ndarray, kind: Any) -> bool:
    """Whether a file's compressed body has these voxels and their checksum: that it is damaged nothing can tell"""
    content = path.read_bytes()
    unpack, mark = (gzip.decompress, b"\n\n") if path.suffix == ".nrrd" else (zlib.decompress, b"LOCAL\n")
    try:
        whole = unpack(content[content.index(mark) + len(mark) :])
    except (OSError, EOFError, zlib.error):
        return False
    return np.array_equal(np.frombuffer(whole, kind), voxels.T.ravel())


def nrrd_case(dice: random.Random, folder: Path) -> tuple[list[str], Callable[[Path, str], None]]:
    """A line of a header, or the compressed body"""
    return _other_format(dice, folder, "nrrd")


def mha_case(dice: random.Random, folder: Path) -> tuple[list[str], Callable[[Path, str], None]]:
    """A line of a header, or the compressed body"""
    return _other_format(dice, folder, "mha")


HOSTILE = (None, True, 0, -1, 1, 2, 3, 300, 10**30, 0.5, float("nan"), "", "a", "{case}", "a\n", "\ud800", "../{case}",
           "(", "(.)", [], [1], [1, 2], [[1]], [2, 1], {}, {"a": 1}, {"0": 0}, {"0": 0, "1": 2}, {"background": 0},
           {"background": 0, "a": 1, "b": 2}, {"background": 0, "a": [1, 2], "b": 2}, {"background": 0, "a": 2},
           {"CT": "images/{case}.nii.gz", "MR": "labels/{case}.nii.gz"})  # fmt: skip


def description_case(dice: random.Random, folder: Path) -> tuple[list[str], Callable[[Path, str], None]]:
    """One to three keys of a description with values that mean nothing"""
    generic_tree(folder / "d", 2)
    keys = [*DESCRIPTION, "test_images", "label_map", "regions_class_order", "patient", "stratum", "orientation",
            "lowest", "licence", "unknown"]  # fmt: skip
    change = {dice.choice(keys): dice.choice(HOSTILE) for _ in range(dice.randint(1, 3))}
    arguments = _generic(folder, **change)
    text = (folder / "description" / "description.json").read_text(encoding="utf-8")
    if dice.random() < 0.1:
        (folder / "description" / "description.json").write_text(text[: dice.randrange(len(text))])

    def check(target: Path, told: str) -> None:
        labels = {**DESCRIPTION, **change}["labels"]
        _ask(json.loads((target / "dataset.json").read_text(encoding="utf-8"))["labels"] == labels, "labels")

    return arguments, check


def _spoil(dice: random.Random, root: Path) -> None:
    """Files lost, emptied, cut off, copied, renamed, made folders"""
    for _ in range(dice.randint(1, 3)):
        files = sorted(p for p in root.rglob("*") if p.is_file())
        path, other = dice.choice(files), dice.choice(files)
        how = dice.randrange(8)
        if how == 0:
            path.unlink()
        elif how == 1:
            path.write_bytes(dice.choice((b"", b"x", b"<html>", b"version https://git-lfs", b"NRRD0004\n\n")))
        elif how == 2:
            path.write_bytes(path.read_bytes()[: dice.randrange(path.stat().st_size + 1)])
        elif how == 3 and path.stat().st_size:
            path.write_bytes(_damage(dice, bytearray(path.read_bytes())))
        elif how == 4 and path != other:
            shutil.copy(path, other)
        elif how == 5:
            path.rename(path.with_name(dice.choice(("._", "x ", "ü", "a\n", "\udcff")) + path.name))
        elif how == 6:
            shutil.copy(path, path.with_name(path.name.removesuffix(".gz") + ".nii"))
        else:
            path.unlink()
            path.mkdir()


@cache
def _tree(name: str) -> Path:
    """A whole download, made once"""
    root = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, root)
    if name == "asoca":
        return asoca_tree(root / "d")
    for k in range(3):
        make_brats(root / "d" / "BraTS2021_Training_Data", 2021, f"BraTS2021_0000{k}", seed=k, size=BRATS_SIZE)
    return root / "d"


def _tree_options(dice: random.Random) -> list[str]:
    return [o for o in ("--skip-incomplete", "--skip-incomplete", "--keep-duplicates") if dice.random() < 0.5]


def asoca_case(dice: random.Random, folder: Path) -> tuple[list[str], Callable[[Path, str], None]]:
    """A tree of ASOCA"""
    root = Path(shutil.copytree(_tree("asoca"), folder / "d"))
    _spoil(dice, root)

    def check(target: Path, told: str) -> None:
        for name in ("Normal_01", "Normal_02", "Diseased_01", "Diseased_02"):
            made = target / "labelsTr" / f"{name}.nii.gz"
            if made.exists():
                cohort, number = name.split("_")
                file = f"{cohort}_{int(number)}.nrrd"
                same_volume(root / cohort / "Annotations" / file, made)
                same_volume(root / cohort / "CTCA" / file, target / "imagesTr" / f"{name}_0000.nii.gz", True, _at_least)

    return ["asoca", "-i", str(root), *_tree_options(dice)], check


def _at_least(array: np.ndarray) -> np.ndarray:
    return array if array.dtype.kind == "u" else np.maximum(array, -1024)


def brats_case(dice: random.Random, folder: Path) -> tuple[list[str], Callable[[Path, str], None]]:
    """A tree of BraTS 2021"""
    root = Path(shutil.copytree(_tree("brats"), folder / "d")) / "BraTS2021_Training_Data"
    _spoil(dice, root)

    def check(target: Path, told: str) -> None:
        for k in range(3):
            name = f"BraTS2021_0000{k}"
            label, source = target / "labelsTr" / f"{name}.nii.gz", root / name / f"{name}_seg.nii.gz"
            if label.exists() and source.is_file():
                same_volume(source, label, True, lambda v: np.where(v == 4, 3, v))
            for channel, part in enumerate(("t1", "t1ce", "t2", "flair")):
                source = root / name / f"{name}_{part}.nii.gz"
                if label.exists() and source.is_file():
                    same_volume(source, target / "imagesTr" / f"{name}_{channel:04d}.nii.gz")

    return ["brats", "-i", str(root.parent), *_tree_options(dice)], check


def msd_case(dice: random.Random, folder: Path) -> tuple[list[str], Callable[[Path, str], None]]:
    """A task of the Decathlon with two channels: files, or values of its dataset.json"""
    root = folder / "d" / "Task05_Prostate"
    for k in range(3):
        image = np.stack([volumes(10 * k + c)[0] for c in range(2)], axis=-1)
        nifti(root / "imagesTr" / f"p{k}.nii.gz", image)
        nifti(root / "labelsTr" / f"p{k}.nii.gz", volumes(k)[1])
    text = {"modality": {"0": "T2", "1": "ADC"}, "labels": {"0": "background", "1": "PZ"}, "numTraining": 3,
            "training": [{"image": f"./imagesTr/p{k}.nii.gz"} for k in range(3)], "test": []}  # fmt: skip
    if dice.random() < 0.4:
        text[dice.choice(list(text))] = dice.choice(HOSTILE)
    (root / "dataset.json").write_text(json.dumps(text))
    if dice.random() < 0.7:
        _spoil(dice, root)

    def check(target: Path, told: str) -> None:
        for k in range(3):
            made, source = target / "labelsTr" / f"p{k}.nii.gz", root / "labelsTr" / f"p{k}.nii.gz"
            if not made.exists() or not source.is_file():
                continue
            same_volume(source, made)
            whole = sitk.GetArrayFromImage(sitk.ReadImage(str(root / "imagesTr" / f"p{k}.nii.gz")))
            for c in range(2):
                image = sitk.ReadImage(str(target / "imagesTr" / f"p{k}_{c:04d}.nii.gz"))
                _ask(np.array_equal(sitk.GetArrayFromImage(image), whole[c]), "channels")

    return ["msd", "-i", str(root.parent), *_tree_options(dice)], check


KINDS: dict[str, Callable[[random.Random, Path], tuple[list[str], Callable[[Path, str], None]]]] = {
    "nifti": nifti_case, "nrrd": nrrd_case, "mha": mha_case, "description": description_case, "asoca": asoca_case,
    "brats": brats_case, "msd": msd_case,
}  # fmt: skip


def count(kind: str, seeds: range) -> tuple[Counter[str], list[str]]:
    """How often each outcome came, and what must not be, with its seed"""
    found: Counter[str] = Counter()
    wrong = []
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            made = outcome(kind, seed, Path(folder))
        found[made.partition(":")[0]] += 1
        if made not in ("ok", "refused"):
            wrong.append(f"{kind} {seed}: {made}")
    return found, wrong


if __name__ == "__main__":
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    first, n = int(sys.argv[1]), int(sys.argv[2])
    for name in sys.argv[3:] or KINDS:
        start = time.monotonic()
        numbers, bad = count(name, range(first, first + n))
        print(
            f"{name}: seeds {first} to {first + n - 1}, {dict(numbers)}, {time.monotonic() - start:.0f} s", flush=True
        )
        print(*bad[:8], sep="\n", flush=True)
