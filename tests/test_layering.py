"""Imports go one way: a module may import its own layer and the layers below, never one above."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "nnunet_mamba"

RANK = {
    "names": 0, "nnunet_folders": 0, "plan_checks": 0, "checkpoints": 0, "whole_files": 0, "markdown": 0, "version": 0,
    "skeletons": 0,
    "ops": 0,
    "blocks": 1, "planning.memory": 1, "datasets": 1, "architectures": 2,
    "planning": 3, "released": 3, "trainers": 3, "study.evaluation": 3,
    "study.calibration": 4, "study.crossval": 4, "study.comparison": 4, "discovery": 4, "benchmarks": 4,
    "metrics": 4, "study.protocol": 5, "trust": 5, "demo": 6, "doctor": 6, "export": 6, "prediction": 7, "cli": 8,
    "calibration": 8,
}  # fmt: skip
WITHOUT_NNUNET = (
    "names",
    "whole_files",
    "version",
    "markdown",
    "nnunet_folders",
    "plan_checks",
    "checkpoints",
    "skeletons",
    "ops",
    "blocks",
    "architectures",
    "released",
    "planning.memory",
)
BUT_NOT = ("released/checkpoint.py",)
"""Makes nnU-Net's files of a checkpoint."""
ONLY_IN_NAMESAKE = ("numba", "triton", "mamba_ssm", "onnx")


def _layer(path: Path) -> str:
    return _layer_of(path.relative_to(PACKAGE).with_suffix("").parts)


def _layer_of(parts: tuple[str, ...]) -> str:
    """Of a module's name below the package: its first part, or its first two where these have a rank of their own"""
    within = ".".join(parts[:2])
    return within if within in RANK else parts[0]


def _imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            found.add(node.module)
            if node.module == "nnunet_mamba":
                found.update(f"nnunet_mamba.{alias.name}" for alias in node.names)
    return found


def _modules() -> list[Path]:
    return sorted(p for p in PACKAGE.rglob("*.py") if p.parent != PACKAGE or p.name != "__init__.py")


@pytest.mark.parametrize("path", _modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_module_imports_only_its_layer_and_below(path: Path) -> None:
    layer = _layer(path)
    for name in _imports(path):
        parts = name.split(".")
        imported = _layer_of(tuple(parts[1:])) if parts[0] == "nnunet_mamba" and len(parts) > 1 else None
        if imported in RANK:
            below = RANK[imported] < RANK[layer]
            assert imported == layer or below, f"{path}: layer {layer} must not import {name}"
        if layer in WITHOUT_NNUNET and path.relative_to(PACKAGE).as_posix() not in BUT_NOT:
            assert parts[0] != "nnunetv2", f"{path}: {layer} must work without nnunetv2"
        assert parts[0] != "tests"


@pytest.mark.parametrize("path", _modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_optional_packages_stay_in_their_backend_file(path: Path) -> None:
    for package in ONLY_IN_NAMESAKE:
        if package not in path.stem:
            assert not any(name.split(".")[0] == package for name in _imports(path)), f"{path} imports {package}"


def test_every_layer_is_ranked() -> None:
    folders = {p.name for p in PACKAGE.iterdir() if p.is_dir() and p.name not in ("data", "__pycache__")}
    within = {f"study.{p.name}" for p in (PACKAGE / "study").iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert folders - {"study"} | within <= set(RANK)


def test_dataset_conversion_imports_nothing_of_the_package() -> None:
    for path in (ROOT / "dataset_conversion").rglob("*.py"):
        assert not any(name.split(".")[0] == "nnunet_mamba" for name in _imports(path)), path


def _documented() -> list[Path]:
    return [*_modules(), *sorted((ROOT / "dataset_conversion").rglob("*.py"))]


@pytest.mark.parametrize("path", _documented(), ids=lambda p: str(p.relative_to(ROOT)))
def test_what_is_public_says_what_it_is(path: Path) -> None:
    """Modules, their classes and functions; a verb's `add_arguments` needs none."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree) or path.name == "__init__.py"
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            assert ast.get_docstring(node) or node.name == "add_arguments", f"{path.name}: {node.name}"
