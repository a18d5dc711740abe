"""Pages say what is there: links lead somewhere, trainer names exist, every suffix is explained."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nnunet_mamba import registry, trainer_names
from nnunet_mamba.cli.main import VERBS

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\]\(([^)#:]+)(#[^)]*)?\)")
TRAINER = re.compile(r"-tr (nnUNetTrainer[\w-]+)")
VERB = re.compile(r"^nnunet-mamba ([a-z-]+)", re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_names_and_verbs(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    missing = [target for target, _ in LINK.findall(text) if not (page.parent / target).exists()]
    assert not missing
    assert not [name for name in TRAINER.findall(text) if registry.locate(name) is None]
    assert set(VERB.findall(text)) <= set(VERBS)


def test_every_suffix_is_in_the_recipes() -> None:
    text = (ROOT / "docs" / "how-to" / "training-recipes.md").read_text(encoding="utf-8")
    for suffix in trainer_names.SUFFIXES:
        if suffix.field not in ("iterations",):
            assert all(f"`{form}`" in text for form in suffix.form.split(", ")), suffix.form


def test_every_how_to_is_in_the_list() -> None:
    folder = ROOT / "docs" / "how-to"
    listed = (folder / "README.md").read_text(encoding="utf-8")
    assert not [p.name for p in folder.glob("*.md") if p.name != "README.md" and f"({p.name})" not in listed]
