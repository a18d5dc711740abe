"""What README and documentation print runs: Python as it stands, commands with words and options that exist."""

from __future__ import annotations

import argparse
import importlib.util
import re
import shlex
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch

from nnunet_mamba import released
from nnunet_mamba.cli.main import VERBS, parser_of
from nnunet_mamba.names import networks

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
FOLLOWED = "add-a-*"
"""Pages that tests/test_contributor_pages.py follows: parts of files, and names that are there afterwards"""
PAGES = sorted({README, *(ROOT / "docs").rglob("*.md")} - set((ROOT / "docs").rglob(f"{FOLLOWED}.md")))
NOT_OURS = ("pip", "make", "git", "cd", "export", "mkdir", "unset", "python", "wandb", "docker")
SHELL = re.compile(r"\s+#.*$")


def _blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.S)


def _commands(page: Path) -> list[list[str]]:
    """Lines of shell blocks without comments and variables in front; a line that ends in a backslash goes on"""
    lines = "\n".join(_blocks(page, "bash")).replace("\\\n", " ").splitlines()
    found = []
    for line in lines:
        for part in re.split(r"\s(?:&&|;)\s", SHELL.sub("", line)):
            words = shlex.split(part.strip(), comments=True)
            while words and re.fullmatch(r"\w+=\S*", words[0]):
                words = words[1:]
            if words:
                found.append(words)
    return found


WITH_PYTHON = [p for p in PAGES if _blocks(p, "python")]


@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda p: str(p.relative_to(ROOT)))
def test_python_blocks_run_and_print_what_they_say(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    small = {"depths": (1, 1, 1, 1), "feat_size": (4, 4, 4, 4), "hidden_size": 4}
    for name in ("segmamba.pt", "segmamba_brats.pt"):
        torch.save(released.build("segmamba", **small).state_dict(), name)
    names: dict = {"__name__": "page"}
    for block in _blocks(page, "python"):
        exec(block, names)
        promised = re.findall(r"^\s*print\(.*\)  # (.*)", block, re.MULTILINE)
        printed = capsys.readouterr().out.splitlines()
        assert not promised or printed == promised


def test_there_are_blocks_to_run() -> None:
    assert README in WITH_PYTHON
    assert len(WITH_PYTHON) >= 3
    assert sum(len(_commands(p)) for p in PAGES) > 80


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_exist_with_their_options(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for words in _commands(page):
        if words[0] == "nnunet-mamba":
            _check_ours(words[1:], monkeypatch)
        elif words[0].startswith("nnUNetv2_"):
            _check_nnunets(words)
        else:
            assert words[0] in NOT_OURS, f"{page.name}: {words}"


def _check_ours(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert words[0] in VERBS or words[0].startswith("-"), words
    if words[0] not in VERBS or "--help" in words:
        return
    monkeypatch.setattr("sys.argv", ["nnunet-mamba", *words])
    numbers = {"DATASET": "4", "ID": "4"}
    given = [numbers.get(w, w) for w in words[1:] if w not in ("...", "|", "head")]

    def fail(message: str) -> None:
        raise AssertionError(f"{words}: {message}")

    parser = parser_of(words[0])
    for one in _with_below(parser):
        monkeypatch.setattr(one, "error", fail, raising=False)
    parser.parse_args(given)


def _with_below(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    below = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    return [parser, *(p for action in below for child in action.choices.values() for p in _with_below(child))]


def _check_nnunets(words: list[str]) -> None:
    (script,) = (e for e in entry_points(group="console_scripts") if e.name == words[0])
    spec = importlib.util.find_spec(script.module)
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).read_text(encoding="utf-8")
    for word in words[1:]:
        if word.startswith("-") and word != "-":
            assert re.search(rf"""['"]{re.escape(word)}['"]""", source), f"{words[0]} has no {word}"


def test_every_network_is_in_the_readme() -> None:
    text = README.read_text(encoding="utf-8")
    for record in networks.NETWORKS:
        assert f"`{record.trainer}`" in text
        assert f"`{record.planner}`" in text


def test_the_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 120
