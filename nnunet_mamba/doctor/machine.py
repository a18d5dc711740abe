"""Environment variables, folders, shared memory and processes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from nnunet_mamba.doctor.finding import NOTE, OK, PROBLEM, Finding
from nnunet_mamba.nnunet_folders import export_line

AREA = "machine"
FOLDERS = {"nnUNet_raw": 5, "nnUNet_preprocessed": 20, "nnUNet_results": 5}
"""Variable -> GB below which there is a note."""
SHARED, LEAST_SHARED_GB = Path("/dev/shm"), 1
WORKERS = "nnUNet_n_proc_DA"
DEFAULT_WORKERS = 12
OURS = ("nnUNet_mamba_precision", "nnUNet_mamba_seed", "nnUNet_mamba_self_test", "nnUNet_compile", WORKERS)


def findings() -> Iterator[Finding]:
    """Folders, shared memory, data workers, variables"""
    for variable, least in FOLDERS.items():
        yield _folder(variable, least)
    if SHARED.is_dir():
        yield _shared()
    yield _workers()
    given = [f"{name}={os.environ[name]}" for name in OURS if os.environ.get(name)]
    if given:
        yield Finding(AREA, "variables", OK, ", ".join(given))


def _folder(variable: str, least: int) -> Finding:
    value = os.environ.get(variable)
    if not value:
        return Finding(
            AREA, variable, PROBLEM, "not set: nnU-Net cannot work", f"{export_line(variable)}; mkdir -p ${variable}"
        )
    path = Path(value)
    if not path.is_dir():
        return Finding(AREA, variable, PROBLEM, f"{path}: no such folder", f"mkdir -p {path}")
    free = shutil.disk_usage(path).free / 1e9
    if not os.access(path, os.W_OK):
        return Finding(
            AREA, variable, PROBLEM, f"{path}: cannot be written to", f"choose another: export {variable}=..."
        )
    if free < least:
        return Finding(AREA, variable, NOTE, f"{path}: {free:.1f} GB free", "make room, or choose another disk")
    return Finding(AREA, variable, OK, f"{path}, {free:.0f} GB free")


def _shared() -> Finding:
    size = shutil.disk_usage(SHARED).total / 1e9
    if size < LEAST_SHARED_GB:
        text = f"{size:.2f} GB: too little for data workers"
        return Finding(AREA, str(SHARED), PROBLEM, text, "docker run --ipc=host ..., or nnUNet_n_proc_DA=0")
    return Finding(AREA, str(SHARED), OK, f"{size:.1f} GB")


def _workers() -> Finding:
    cores = os.cpu_count() or 1
    given = os.environ.get(WORKERS)
    if given is not None and not given.isdecimal():
        return Finding(
            AREA, WORKERS, PROBLEM, f"{given!r} is not a number", f"export {WORKERS}={min(cores, DEFAULT_WORKERS)}"
        )
    workers = int(given) if given else min(cores, DEFAULT_WORKERS)
    text = f"{workers} data workers on {cores} cores"
    if workers > cores:
        return Finding(AREA, WORKERS, NOTE, f"{text}: they wait for each other", f"export {WORKERS}={cores}")
    return Finding(AREA, WORKERS, OK, text)
