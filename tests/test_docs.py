"""Pages say what is there: links lead somewhere, trainer names exist, every suffix is explained."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from nnunet_mamba.cli.main import VERBS
from nnunet_mamba.doctor.messages import MESSAGES
from nnunet_mamba.names import suffixes
from nnunet_mamba.names.locate import locate

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
    assert not [name for name in TRAINER.findall(text) if locate(name) is None]
    assert set(VERB.findall(text)) <= set(VERBS)


def test_every_suffix_is_in_the_recipes() -> None:
    text = (ROOT / "docs" / "how-to" / "training-recipes.md").read_text(encoding="utf-8")
    for suffix in suffixes.SUFFIXES:
        if suffix.field not in ("iterations",):
            assert all(f"`{form}`" in text for form in suffix.form.split(", ")), suffix.form


def test_every_how_to_is_in_the_list() -> None:
    folder = ROOT / "docs" / "how-to"
    listed = (folder / "README.md").read_text(encoding="utf-8")
    assert not [p.name for p in folder.glob("*.md") if p.name != "README.md" and f"({p.name})" not in listed]


def test_made_pages_are_those_of_the_code() -> None:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    old = [str(path.relative_to(ROOT)) for path, text in generate.pages().items()
           if not path.is_file() or path.read_text(encoding="utf-8") != text]  # fmt: skip
    assert not old, "run: python docs/generate.py"


def test_every_page_is_in_the_navigation_and_every_error_has_a_page() -> None:
    listed = re.findall(r"([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    there = {str(p.relative_to(ROOT / "docs")) for p in (ROOT / "docs").rglob("*.md")}
    assert sorted(listed) == sorted(there)
    for message in MESSAGES:
        page = (ROOT / "docs" / "errors" / f"{message.key}.md").read_text(encoding="utf-8")
        assert all(line in page for line in message.examples), "searchable by its literal text"


def test_every_environment_variable_is_documented() -> None:
    code = "\n".join(p.read_text(encoding="utf-8") for p in (ROOT / "nnunet_mamba").rglob("*.py"))
    used = set(re.findall(r"\"(nnUNet_mamba_\w+|NNUNET_MAMBA_[A-Z]+)\"", code))
    page = (ROOT / "docs" / "reference" / "environment-variables.md").read_text(encoding="utf-8")
    assert used
    assert not [name for name in used if f"`{name}`" not in page]
