"""Versions of what is installed, and whether they go together."""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

import torch

from nnunet_mamba.doctor.finding import NOTE, OK, PROBLEM, Finding

AREA = "installation"
NEEDED = ("nnunetv2", "torch", "numba", "monai", "SimpleITK")
OPTIONAL = {
    "triton": "comes with torch on Linux; without it GPUs use the slower blocked backend",
    "mamba-ssm": "not needed; a backend on request: pip install 'nnunet-mamba[mamba-ssm]'",
    "causal-conv1d": "not needed; goes with mamba-ssm",
    "onnxruntime": "not needed; for nnunet-mamba export: pip install 'nnunet_mamba[export]'",
}
LEAST_NNUNET = (2, 8, 1)


def findings() -> Iterator[Finding]:
    """Versions, and what does not go together"""
    yield Finding(AREA, "Python", OK, f"{platform.python_version()} at {sys.executable}, {platform.platform()}")
    for name in NEEDED:
        found = installed(name)
        if found is None:
            yield Finding(AREA, name, PROBLEM, "not installed", "pip install --force-reinstall nnunet-mamba")
        else:
            yield _judged(name, found)
    for name, why in OPTIONAL.items():
        yield Finding(AREA, name, OK, installed(name) or f"not installed; {why}")
    yield _cuda()
    beside = shutil.which("nnUNetv2_train")
    if beside is None:
        yield Finding(
            AREA, "nnUNetv2_train", PROBLEM, "not on the PATH", f"activate the environment of {sys.executable}"
        )


def installed(package: str) -> str | None:
    """Version of a package, None without it"""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _judged(name: str, found: str) -> Finding:
    numbers = tuple(int(n) for n in found.split("+")[0].split(".")[:3] if n.isdecimal())
    if name == "nnunetv2" and numbers < LEAST_NNUNET:
        return Finding(AREA, name, PROBLEM, f"{found} is older than 2.8.1", "pip install -U nnunetv2")
    if name == "torch" and numbers[:2] == (2, 9):
        return Finding(AREA, name, PROBLEM, f"{found}: nnU-Net excludes 2.9", "pip install -U 'torch!=2.9.*'")
    return Finding(AREA, name, OK, found)


def _cuda() -> Finding:
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        built = torch.version.cuda or f"ROCm {torch.version.hip}"
        return Finding(AREA, "GPU", OK, f"{names}; torch built for CUDA {built}")
    if torch.version.cuda is None and torch.version.hip is None:
        return Finding(AREA, "GPU", NOTE, "torch is a CPU build", "for a GPU: pip install --force-reinstall torch")
    if shutil.which("nvidia-smi") is None:
        return Finding(AREA, "GPU", NOTE, "none seen, and no NVIDIA driver", "use -device cpu, or install the driver")
    text = f"torch is built for CUDA {torch.version.cuda} and sees no GPU, though there is a driver"
    return Finding(
        AREA, "GPU", PROBLEM, text, "compare with the version that nvidia-smi prints; reinstall torch for it"
    )
