"""Bare environments in which the built wheel is installed as a user would install it, without any download.

Each is a venv whose site-packages gets one extra search path: this environment's site-packages, for torch and nnU-Net.
Start-up files (.pth) of such a path are not run, so only the installation under test can make discovery work.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
DEPENDENCIES = Path(sysconfig.get_paths()["purelib"])


@dataclass(frozen=True)
class Environment:
    root: Path

    @property
    def python(self) -> Path:
        return self.root / "bin" / "python"

    @property
    def site_packages(self) -> Path:
        return next((self.root / "lib").glob("python3*/site-packages"))

    def files(self) -> set[str]:
        """Everything in site-packages but byte code."""
        return {
            str(p.relative_to(self.site_packages))
            for p in self.site_packages.rglob("*")
            if p.suffix != ".pyc" and p.name != "__pycache__"
        }

    def pip(self, *arguments: str | Path) -> None:
        command = [sys.executable, "-m", "pip", "--python", str(self.python), *map(str, arguments)]
        subprocess.run(command, check=True, capture_output=True, text=True, env=_environment())

    def run(self, code: str, succeeds: bool = True, **variables: str) -> str:
        done = subprocess.run(
            [str(self.python), "-c", code],
            capture_output=True,
            text=True,
            check=False,
            env=_environment(**variables),
            cwd=self.root,
        )
        assert (done.returncode == 0) == succeeds, done.stdout + done.stderr
        return done.stdout + done.stderr


def _environment(**variables: str) -> dict[str, str]:
    hidden = ("PYTHONPATH", "NNUNET_MAMBA_AUTOLOAD", "nnUNet_extTrainer")
    return {**{k: v for k, v in os.environ.items() if k not in hidden}, "PIP_NO_INDEX": "1", **variables}


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from this tree with the build backend that is installed here."""
    target = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-build-isolation",
        "--no-deps",
        "--no-index",
        "-w",
        target,
        ROOT,
    ]
    subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True)
    return next(target.glob("*.whl"))


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    venv.create(tmp_path / "venv", with_pip=False, symlinks=True)
    made = Environment(tmp_path / "venv")
    (made.site_packages / "dependencies.pth").write_text(f"{DEPENDENCIES}\n")
    return made
