"""The pages for contributors, followed literally in a copy of the tree: a toy of each kind is added and tried."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COPIED = ("nnunet_mamba", "dataset_conversion", "plans", "tests", "docs", "pyproject.toml", "README.md", "CHANGELOG.md",
          "mkdocs.yml", "Makefile")  # fmt: skip
STEP = re.compile(r"^`([^`\n]+)`, (new|below `([^\n]+)`|instead of `([^\n]+)`):\n\n```python\n(.*?)```$", re.M | re.S)


def _follow(page: str, tree: Path) -> None:
    """Do what the page says: `FILE`, new; below `LINE`; instead of `LINE`"""
    steps = STEP.findall((ROOT / "docs" / "how-to" / page).read_text(encoding="utf-8"))
    assert steps
    for name, how, below, instead, code in steps:
        file = tree / name
        if how == "new":
            assert not file.exists(), f"{name} is there already"
            file.write_text(code, encoding="utf-8")
            continue
        text, anchor = file.read_text(encoding="utf-8"), (below or instead) + "\n"
        assert text.count(anchor) == 1, f"{name} has {text.count(anchor)} lines like {anchor!r}"
        file.write_text(text.replace(anchor, anchor + code if below else code), encoding="utf-8")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    target = tmp_path / "tree"
    target.mkdir()
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__", "*.nbc", "*.nbi"))
        else:
            shutil.copy(source, target / name)
    return target


def _run(tree: Path, *command: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(tree), "PYTHONSAFEPATH": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command], cwd=tree, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout


@pytest.mark.slow
def test_a_network(tree: Path) -> None:
    _follow("add-a-network.md", tree)
    _run(tree, "-m", "tests.architectures.record_frozen_outputs")
    _run(tree, "docs/generate.py")
    quick = "Toy and not compile and not processes and not train and not random and not drawn"
    tests = ("tests/architectures/test_contract.py", "tests/architectures/test_mixers.py", "tests/test_names.py")
    shown = _run(tree, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", quick, *tests)
    passed = re.search(r"(\d+) passed", shown)
    assert passed
    assert int(passed[1]) > 20
    _run(tree, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "tests/test_docs.py")
    listed = _run(tree, "-c", "from nnunet_mamba.cli.main import main; main(['list'])")
    assert "nnUNetTrainerToy" in listed


def test_a_dataset(tree: Path, tmp_path: Path) -> None:
    _follow("add-a-dataset.md", tree)
    made = f"""
import numpy as np, nibabel as nib
from pathlib import Path
for folder, kind in (("ct", np.int16), ("masks", np.uint8)):
    (Path({str(tmp_path)!r}) / "download" / folder).mkdir(parents=True)
    for n in (1, 2):
        voxels = (np.indices((6, 7, 8)).sum(0) % (n + 1) // n).astype(kind)
        image = nib.Nifti1Image(voxels, np.eye(4))
        nib.save(image, Path({str(tmp_path)!r}) / "download" / folder / f"case{{n}}.nii.gz")
"""
    _run(tree, "-c", made)
    convert = "from nnunet_mamba.cli.main import main; import sys; sys.exit(main(sys.argv[1:]))"
    raw = tmp_path / "raw"
    raw.mkdir()
    _run(tree, "-c", convert, "convert", "toy", "-i", str(tmp_path / "download"), "-o", str(raw))
    written = sorted(str(p.relative_to(raw)) for p in raw.rglob("*.nii.gz"))
    assert written == [
        f"Dataset599_Toy/{folder}/Toy_{n:03d}{channel}.nii.gz"
        for folder, channel in (("imagesTr", "_0000"), ("labelsTr", "")) for n in (1, 2)
    ]  # fmt: skip


def test_a_backend(tree: Path) -> None:
    _follow("add-a-backend.md", tree)
    shown = _run(
        tree, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", "swift", "tests/ops/test_backends_agree.py"
    )
    passed = re.search(r"(\d+) passed", shown)
    assert passed
    assert int(passed[1]) > 20


def test_a_suffix(tree: Path) -> None:
    _follow("add-a-suffix.md", tree)
    code = """
from nnunet_mamba import trainers
from nnunet_mamba.names.suffixes import parse
name = "nnUNetTrainerSegMamba_decay1e-3_5epochs"
assert parse(name).name == name, parse(name)
made = getattr(trainers, name)
trainer = made.__new__(made)
trainer.save_every, trainer.weight_decay = 50, 3e-5
from nnunet_mamba.trainers.suffixed import _set_values
_set_values(trainer, made.parts)
print(trainer.weight_decay, trainer.num_epochs)
"""
    assert _run(tree, "-c", code).split() == ["0.001", "5"]
    assert "weight decay; nnU-Net: 3e-5" in _run(
        tree, "-c", "from nnunet_mamba.cli.main import main; main(['list', '--trainers'])"
    )
