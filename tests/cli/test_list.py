"""`nnunet-mamba list` shows every network with its names, sizes and sources."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from nnunet_mamba.cli.list import count_parameters
from nnunet_mamba.cli.main import main
from nnunet_mamba.names import networks, suffixes
from nnunet_mamba.names.locate import locate


def test_every_network_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    for record in networks.NETWORKS:
        for text in (record.name, record.trainer, record.planner, record.plans, record.paper, record.url):
            assert text in shown
    assert "67.4 M" in shown, "SegMamba at its published widths"


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    command = f"'{sys.executable}' -u -m nnunet_mamba.cli.main list --cite | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_citations(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--cite"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("@") == len({n.citation for n in networks.NETWORKS if n.citation})


@pytest.mark.parametrize("record", networks.NETWORKS, ids=lambda r: r.name)
def test_the_twin_is_smaller(record: networks.Network) -> None:
    assert 0 < count_parameters(record.twin) < count_parameters(record)


def test_every_suffix_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--trainers"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in networks.trainers())
    for suffix in suffixes.SUFFIXES:
        assert all(form in shown for form in suffix.form.split(", "))
        assert " ".join(suffix.meaning.split()) in " ".join(shown.split())
    example = shown.split("-tr ")[-1].strip()
    assert locate(example) is not None


def test_everything_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [n["trainer"] for n in told["networks"]] == [n.trainer for n in networks.NETWORKS]
    sizes = [size for n in told["networks"] for size in n["sizes"]]
    assert {s["planner"] for s in sizes} | {s["control"]["planner"] for s in sizes} == set(networks.planners())
    assert {n["planner"] for n in told["networks"]} <= {s["planner"] for s in sizes}
    assert [s["form"] for s in told["planner_suffixes"]] == ["_Mamba2", "_SameSize", "_Conv3d", "_torchres"]
    assert len(told["suffixes"]) == len(suffixes.SUFFIXES)
    assert "segmamba_brats" in told["recipes"]
    assert "asoca" in told["datasets"]
