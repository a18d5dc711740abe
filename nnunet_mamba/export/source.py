"""The files of a trained model: in nnU-Net's folder, or in a zip that `nnUNetv2_export_model_to_zip` wrote.

From a zip only the files that are needed are taken out, into a folder that goes when it is done with. A zip is a
stranger's file: names that lead out of the folder refuse it, links are never made.
"""

from __future__ import annotations

import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath

from nnunet_mamba.nnunet_folders import (
    DATASET_JSON,
    DEBUG,
    FINGERPRINT,
    PLANS_JSON,
    SUMMARY,
    VALIDATION,
    ModelFolder,
    models_in,
)

STORED = ("thresholds.json", "minimum_size.json", "trust.json")
"""What our commands store beside a model, and nnU-Net leaves out of its zips"""
NEXT_TO_PLANS = (PLANS_JSON, DATASET_JSON, FINGERPRINT, *STORED, "model_card.json")
POSTPROCESSING = "postprocessing.json"
OF_A_FOLD = (POSTPROCESSING, DEBUG)
SCORES = PurePosixPath(VALIDATION, SUMMARY)
SHOWN = 5


@contextmanager
def open_model(path: Path, name: str | None, checkpoint: str) -> Iterator[ModelFolder]:
    """The folder of a model, for as long as the block lasts.

    path: of nnU-Net's folder TRAINER__PLANS__CONFIGURATION, or of a zip. name: which model, where a zip holds several.
    checkpoint: name of the files with weights that are wanted from a zip.
    Raises ValueError in one sentence for what is no model, is damaged, or would write elsewhere.
    """
    if path.is_dir():
        yield _folder(path, name)
    elif not path.exists():
        raise ValueError(f"{path}: no such folder or file; give nnU-Net's folder of a model, or a zip of one")
    elif not zipfile.is_zipfile(path):
        raise ValueError(f"{path}: {_no_zip(path)}; give nnU-Net's folder of a model, or a zip of one")
    else:
        with tempfile.TemporaryDirectory(prefix="nnunet_mamba_model_") as place:
            yield _unpacked(path, name, checkpoint, Path(place))


def _folder(path: Path, name: str | None) -> ModelFolder:
    folder = ModelFolder(path)
    if name is not None and path.resolve().name != name:
        raise ValueError(f"-m {name}: {path} is the folder of one model already; leave -m out")
    if not (folder.plans.is_file() and folder.dataset_json.is_file()):
        inside = models_in(path)
        meant = f"; did you mean {path / inside[0]}?" if inside else ""
        raise ValueError(f"{path}: no model of nnU-Net, which has a {PLANS_JSON} and a {DATASET_JSON}{meant}")
    return folder


def _no_zip(path: Path) -> str:
    if not path.is_file():
        return "neither a folder nor a regular file"
    with path.open("rb") as file:
        start = file.read(4)
    if start.startswith(b"PK"):
        return _cut_off(path)
    return "empty: the copy or download failed" if not start else "neither a folder nor a zip"


def _cut_off(path: Path) -> str:
    return f"a zip that is cut off after {path.stat().st_size / 1e6:.1f} MB: copy or download it again"


def _unpacked(path: Path, name: str | None, checkpoint: str, place: Path) -> ModelFolder:
    try:
        with zipfile.ZipFile(path) as archive:
            # of a zip that is cut off, what is found is a zip inside it: a checkpoint is one
            if min((entry.header_offset for entry in archive.infolist()), default=0) > 0:
                raise ValueError(f"{path}: {_cut_off(path)}")
            _check_names(path, archive.infolist())
            model = _choose(path, archive.namelist(), name)
            for entry in archive.infolist():
                if not entry.is_dir() and _is_needed(PurePosixPath(entry.filename), model, checkpoint):
                    target = place / entry.filename
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with archive.open(entry) as packed, target.open("wb") as unpacked:
                        shutil.copyfileobj(packed, unpacked)  # and compares the checksum
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{path}: a damaged zip ({error}): copy or download it again") from None
    except (NotImplementedError, RuntimeError) as error:  # a compression nobody writes; a password
        raise ValueError(f"{path}: cannot be unpacked ({error}); have nnU-Net write the zip again") from None
    return ModelFolder(place / model)


def _check_names(path: Path, entries: Sequence[zipfile.ZipInfo]) -> None:
    for entry in entries:
        parts = PurePosixPath(entry.filename).parts
        leads_out = ".." in parts or entry.filename.startswith("/") or "\\" in entry.filename
        if leads_out or PureWindowsPath(entry.filename).drive or stat.S_ISLNK(entry.external_attr >> 16):
            raise ValueError(
                f"{path}: holds {entry.filename!r}, which leads out of the folder or is a link; nnU-Net writes no such "
                "zip, so nothing of it is used"
            )


def _choose(path: Path, names: Sequence[str], wanted: str | None) -> PurePosixPath:
    there = {PurePosixPath(n) for n in names}
    found = sorted(p.parent for p in there if p.name == PLANS_JSON and p.parent / DATASET_JSON in there)
    if not found:
        raise ValueError(f"{path}: a zip without a model of nnU-Net, which has a {PLANS_JSON} and a {DATASET_JSON}")
    shown = ", ".join(p.name for p in found[:SHOWN])
    chosen = found if wanted is None else [p for p in found if p.name == wanted]
    if not chosen:
        raise ValueError(f"-m {wanted}: {path} holds {shown}")
    if len(chosen) > 1:
        raise ValueError(f"{path}: holds {len(chosen)} models; choose one with -m: {shown}")
    return chosen[0]


def _is_needed(entry: PurePosixPath, model: PurePosixPath, checkpoint: str) -> bool:
    if entry.parent == model:
        return entry.name in NEXT_TO_PLANS
    if entry.parent.parent == model:
        return entry.name in (checkpoint, *OF_A_FOLD)
    return entry.parent.parent.parent == model and entry.relative_to(entry.parents[1]) == SCORES
