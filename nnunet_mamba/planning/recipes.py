"""Small JSON recipes (`plans/`): which come with the package, and reading one."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import nnunet_mamba
from nnunet_mamba.whole_files import read_object


def recipe_folder() -> Path:
    """Where the recipes are: in an installed package, or next to it in a source tree."""
    package = Path(nnunet_mamba.__file__).parent
    installed = package / "recipes"
    return installed if installed.is_dir() else package.parent / "plans"


def recipe_names() -> list[str]:
    """Recipes that come with the package"""
    return sorted(p.stem for p in recipe_folder().glob("*.json"))


def load_recipe(name_or_path: str | Path) -> dict[str, Any]:
    """A recipe by path or by the name of one that comes with the package. Raises ValueError naming those."""
    path = Path(name_or_path)
    if str(name_or_path) in recipe_names():
        path = recipe_folder() / f"{name_or_path}.json"
    try:
        there = path.is_file()
    except OSError:  # too long to be a file's name
        there = False
    if not there:
        near = difflib.get_close_matches(str(name_or_path), recipe_names(), n=1)
        meant = f". Did you mean {near[0]}?" if near else ""
        raise ValueError(
            f"no recipe {str(name_or_path)!r}: neither a file nor one of: {', '.join(recipe_names())}{meant}"
        )
    return read_object(path)
