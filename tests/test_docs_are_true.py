"""What help and pages print can be pasted, and what parsers and signatures have is in the reference."""

from __future__ import annotations

import argparse
import ast
import importlib.util
import inspect
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

import dataset_conversion
from dataset_conversion import declare, generic
from dataset_conversion.command import NAMES
from nnunet_mamba.cli.main import VERBS, parser_of
from nnunet_mamba.plan_checks import check_labels
from nnunet_mamba.planning.grid import load_grid
from nnunet_mamba.planning.recipe_format import check_recipe
from tests.test_readme import PAGES, ROOT

OBJECT = re.compile(r"^\{\n.*?^\}", re.MULTILINE | re.DOTALL)
REFERENCE = (ROOT / "docs" / "reference" / "command-line.md").read_text(encoding="utf-8")


def _generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _parsers() -> dict[str, argparse.ArgumentParser]:
    """Every parser under its heading in the reference, those below verbs and those of datasets included"""
    found: dict[str, argparse.ArgumentParser] = {}

    def add(name: str, parser: argparse.ArgumentParser) -> None:
        found[name] = parser
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for choice, below in action.choices.items():
                    add(f"{name} {choice}", below)

    for verb in VERBS:
        add(f"nnunet-mamba {verb}", parser_of(verb))
    for name, parser in _generate().converters().items():
        found[f"nnunet-mamba convert {name}"] = parser
    return found


def _section(heading: str) -> str:
    match = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#+ nnunet-mamba|\Z)", REFERENCE, re.MULTILINE | re.DOTALL)
    assert match is not None, heading
    return match[1]


def test_every_option_of_every_parser_is_in_its_section() -> None:
    common = _section("nnunet-mamba convert NAME")
    missing = []
    for name, parser in _parsers().items():
        text = _section(name) + (common if name.startswith("nnunet-mamba convert ") else "")
        documented = set(re.findall(r"(?<![\w-])--?[A-Za-z][\w-]*", " ".join(re.findall(r"^\| `([^`]*)`", text, re.M))))
        for action in parser._actions:
            options = [o for o in action.option_strings if o not in ("-h", "--help")]
            missing += [f"{name} {o}" for o in options if o not in documented]
    assert not missing
    for option in ("--describe", "--back", "--year", "--label-order", "--split", "--keep-padding"):
        assert f"`{option} " in REFERENCE or f"`{option}`" in REFERENCE


def test_nothing_in_the_reference_is_told_seven_times() -> None:
    assert REFERENCE.count("`--trust-array`") == 1
    assert set(re.findall(r"^### nnunet-mamba convert (\w+)$", REFERENCE, re.MULTILINE)) == {*NAMES, "NAME"}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_bar_is_escaped_inside_code_of_a_table(page: Path) -> None:
    """The site shows the backslash"""
    rows = [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    assert not [row for row in rows for code in re.findall(r"`[^`]*`", row) if r"\|" in code]


def test_json_of_pages_can_be_pasted() -> None:
    found = 0
    for page in PAGES:
        for block in re.findall(r"```json\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            content = json.loads(block)
            found += 1
            if page.name == "recipes.md":
                assert check_recipe(content).name == "SegMamba"
    assert found >= 1


def test_json_of_help_texts_can_be_pasted(tmp_path: Path) -> None:
    read = []
    for name, parser in _parsers().items():
        for text in OBJECT.findall(f"{parser.description or ''}\n{parser.epilog or ''}"):
            path = tmp_path / "pasted.json"
            path.write_text(text)
            read.append(name)
            if name == "nnunet-mamba sweep":
                assert load_grid(path)["trainer"] == "nnUNetTrainerSegMamba_50epochs"
            elif name == "nnunet-mamba convert generic":
                case = tmp_path / "download" / "P1_a"
                case.mkdir(parents=True)
                for file in ("ct.nii.gz", "tumour.nii.gz"):
                    (case / file).touch()
                (one,) = generic.discover(tmp_path / "download", {"describe": path}).cases
                assert isinstance(one, declare.Case)
            else:
                json.loads(text)
    assert {"nnunet-mamba sweep", "nnunet-mamba convert generic"} <= set(read)


def test_json_of_error_pages_can_be_pasted() -> None:
    page = (ROOT / "docs" / "errors" / "regions-class-order.md").read_text(encoding="utf-8")
    (text,) = re.findall(r'`("labels": .*?)`', page)
    content = json.loads("{" + text + "}")
    check_labels(content["labels"], content["regions_class_order"])


def test_every_json_file_of_the_repository_is_one() -> None:
    for path in (*(ROOT / "plans").glob("*.json"), *(ROOT / "nnunet_mamba").rglob("*.json")):
        json.loads(path.read_text(encoding="utf-8"))


def test_every_dataset_is_found_as_the_page_says() -> None:
    for name in NAMES:
        module = importlib.import_module(f"dataset_conversion.{name}")
        assert callable(module.add_arguments)
        if name != "msd":  # nnU-Net's own converter does the rest
            assert list(inspect.signature(module.discover).parameters) == ["source", "options"]


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "how-to").glob("add-a-*.md")), ids=lambda p: p.name)
def test_pages_for_contributors_name_files_that_are_there(page: Path) -> None:
    """But those that the page itself adds; tests/test_contributor_pages.py does that"""
    text = page.read_text(encoding="utf-8")
    added = set(re.findall(r"^`([^`]+)`, new:", text, re.M))
    for path in re.findall(r"`((?:nnunet_mamba|dataset_conversion|tests|docs)/[\w./]+)`", text):
        assert path in added or (ROOT / path).exists(), path


def test_what_the_converters_need_is_in_their_docstring() -> None:
    used = set()
    for path in Path(dataset_conversion.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                used |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                used.add(node.module.split(".")[0])
    foreign = used - set(sys.stdlib_module_names) - {"dataset_conversion", "nnunetv2"}
    text = (dataset_conversion.__doc__ or "").replace("pynrrd", "nrrd")
    assert foreign
    assert not [name for name in foreign if name not in text]
