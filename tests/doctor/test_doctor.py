"""`nnunet-mamba doctor`: findings of healthy and of sick installations, each with what to type."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from nnunet_mamba.cli import main as cli
from nnunet_mamba.doctor import backends, installation, machine, names
from nnunet_mamba.doctor.finding import NOTE, OK, PROBLEM, Finding
from nnunet_mamba.names import networks
from nnunet_mamba.ops import backends as ops_backends
from nnunet_mamba.ops import self_test
from nnunet_mamba.ops.backends import load as load_backend


def _named(found: Iterator[Finding], name: str) -> Finding:
    (one,) = (f for f in found if f.name == name)
    assert one.state == OK or one.remedy or one.state == NOTE
    return one


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in machine.FOLDERS:
        (tmp_path / variable).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / variable))
    for variable in ("nnUNet_n_proc_DA", "nnUNet_mamba_backend", "NNUNET_MAMBA_AUTOLOAD"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path


def test_a_healthy_installation_as_text_and_json(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In a process of its own, as a user runs it"""
    command = [sys.executable, "-m", "nnunet_mamba.cli.main", "doctor", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ})
    report = json.loads(done.stdout)
    states = {f"{f['area']}: {f['name']}": f["state"] for f in report["findings"]}
    assert states["discovery: a fresh process"] == OK
    assert states["discovery: this process"] == OK
    for op in ("oriented_scan", "oriented_ssd", "selective_scan", "ssd", "causal_conv1d"):
        assert states[f"backends: {op} on cpu"] == OK
    assert states["machine: nnUNet_raw"] == OK
    assert report["problems"] == sum(s == PROBLEM for s in states.values())
    assert done.returncode == (1 if report["problems"] else 0)
    assert all(f["remedy"] for f in report["findings"] if f["state"] == PROBLEM)


def test_text_shows_problems_with_what_to_type(
    folders: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(names, "_fresh", lambda: dict.fromkeys(networks.class_names(), "found"))
    monkeypatch.delenv("nnUNet_raw")
    assert cli.main(["doctor"]) == 1
    text = capsys.readouterr().out
    assert "PROBLEM nnUNet_raw: not set" in text
    assert "-> export nnUNet_raw=$HOME/nnunet/raw" in text
    assert "problem" in text.splitlines()[-1]


def test_folders(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _named(machine.findings(), "nnUNet_results").state == OK
    monkeypatch.setenv("nnUNet_results", str(folders / "nowhere"))
    lost = _named(machine.findings(), "nnUNet_results")
    assert lost.state == PROBLEM
    assert lost.remedy == f"mkdir -p {folders / 'nowhere'}"
    usage = shutil.disk_usage(folders)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: usage._replace(free=1))
    assert _named(machine.findings(), "nnUNet_raw").state == NOTE
    monkeypatch.setattr(machine.os, "access", lambda *_: False)
    assert _named(machine.findings(), "nnUNet_raw").state == PROBLEM


def test_shared_memory_and_workers(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "SHARED", folders)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: SimpleNamespace(total=64e6, free=64e9))
    assert "--ipc=host" in _named(machine.findings(), str(folders)).remedy
    monkeypatch.setattr(machine.os, "cpu_count", lambda: 2)
    assert _named(machine.findings(), machine.WORKERS).state == OK
    monkeypatch.setenv(machine.WORKERS, "12")
    assert _named(machine.findings(), machine.WORKERS).remedy == "export nnUNet_n_proc_DA=2"
    monkeypatch.setenv(machine.WORKERS, "many")
    assert _named(machine.findings(), machine.WORKERS).state == PROBLEM


def test_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"nnunetv2": "2.5.1", "torch": "2.9.1+cu128", "numba": "0.61", "monai": "1.5", "SimpleITK": None}

    def version(name: str) -> str:
        if given.get(name) is None:
            raise PackageNotFoundError(name)
        return str(given[name])

    monkeypatch.setattr(installation, "version", version)
    monkeypatch.setattr(installation.shutil, "which", lambda _: None)
    found = {f.name: f for f in installation.findings()}
    assert found["nnunetv2"].remedy == "pip install -U nnunetv2"
    assert found["torch"].state == PROBLEM
    assert found["SimpleITK"].state == PROBLEM
    assert found["triton"].state == OK, "optional"
    assert found["nnUNetv2_train"].state == PROBLEM


@pytest.mark.parametrize(("version", "state"), [("2.8.1", OK), ("2.8.0", PROBLEM), ("2.9", OK), ("2.10.0+x", OK)])
def test_the_oldest_nnunet_that_works(version: str, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "version", lambda name: version)
    assert _named(installation.findings(), "nnunetv2").state == state


def test_a_driver_that_torch_cannot_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(installation.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert _named(installation.findings(), "GPU").state == PROBLEM
    monkeypatch.setattr(torch.version, "cuda", None)
    assert _named(installation.findings(), "GPU").text == "torch is a CPU build"


def test_discovery_turned_off_or_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NNUNET_MAMBA_AUTOLOAD", "0")
    lost = _named(names.findings(), "a fresh process")
    assert lost.state == PROBLEM
    count = len(networks.class_names())
    assert f"{count} of {count} names are not found" in lost.text
    assert _named(iter([f for f in names.findings() if f.name == "start-up file"]), "start-up file").remedy
    monkeypatch.setattr(names, "locate", lambda name: None)
    assert _named(names.findings(), "this process").state == PROBLEM


def test_backends_that_cannot_run_or_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_mamba_backend", "tritn")
    forced = _named(backends.findings(), "forced")
    assert (forced.state, forced.remedy) == (PROBLEM, "unset nnUNet_mamba_backend")
    real = self_test.problem
    monkeypatch.setattr(
        self_test,
        "problem",
        lambda op, name, *a: "differs from the reference" if name == "numba" else real(op, name, *a),
    )
    scan = _named(backends.findings(), "selective_scan on cpu")
    assert scan.state == NOTE
    assert scan.text.startswith("blocked, not the fastest. numba: differs from the reference")


def test_the_operator_that_networks_call_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    assert backends.OPS[0] == "oriented_scan"
    real = self_test.problem
    monkeypatch.setattr(
        self_test, "problem", lambda op, *a: "differs from the reference" if op == "oriented_scan" else real(op, *a)
    )
    found = {f.name: f for f in backends.findings() if f.name != "forced"}
    assert next(iter(found)) == "oriented_scan on cpu"
    assert found["oriented_scan on cpu"].state == PROBLEM
    assert found["oriented_scan on cpu"].remedy
    assert found["selective_scan on cpu"].state == OK


def test_backends_of_a_gpu_are_asked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine with a GPU, whose list begins with Triton; here Triton refuses the CPU tensor"""
    pytest.importorskip("triton", reason="Triton has no build for this system")
    monkeypatch.setitem(ops_backends.PREFERENCE, "cpu", ("triton", "numba"))
    found = _named(backends.findings(), "oriented_scan on cpu")
    assert found.state == NOTE
    assert found.text.startswith("numba, not the fastest. triton: needs a CUDA or ROCm tensor, got cpu")


def test_a_backend_that_one_operator_has_is_no_problem_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    only_one = load_backend("oriented_scan", "blocked")
    monkeypatch.setitem(sys.modules, "nnunet_mamba.ops.oriented_scan.swift", only_one)
    monkeypatch.setitem(ops_backends.PREFERENCE, "cpu", ("swift", "numba"))
    found = {f.name: f for f in backends.findings() if f.name != "forced"}
    assert found["oriented_scan on cpu"].text.startswith("swift, self-test passed")
    assert found["selective_scan on cpu"].text.startswith("numba, self-test passed")
    assert found["selective_scan on cpu"].state == OK
