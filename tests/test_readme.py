"""The README's Python runs as it is printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from nnunet_mamba import released

README = Path(__file__).parent.parent / "README.md"


def test_python_blocks_run_and_print_what_they_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    small = {"depths": (1, 1, 1, 1), "feat_size": (4, 4, 4, 4), "hidden_size": 4}
    torch.save(released.build("segmamba", **small).state_dict(), "segmamba.pt")
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.S)
    assert len(blocks) == 3
    names: dict = {}
    for block in blocks:
        exec(block, names)
        promised = re.findall(r"print\(.*\)  # (.*)", block)
        assert capsys.readouterr().out.splitlines() == promised


def test_every_network_is_in_the_readme() -> None:
    from nnunet_mamba import registry

    text = README.read_text(encoding="utf-8")
    for record in registry.NETWORKS:
        assert f"`{record.trainer}`" in text
        assert f"`{record.planner}`" in text
