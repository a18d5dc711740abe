"""The benchmark measures what it says, refuses wrong results, and says what is missing. No speed is tested."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nnunet_mamba.benchmarks import conversion, networks, rivals, scan
from nnunet_mamba.benchmarks.measure import measure, peak_extra_bytes
from nnunet_mamba.cli.main import main
from nnunet_mamba.ops.backends import ENVIRONMENT_VARIABLE

CPU = torch.device("cpu")
SMALL_SCAN, SMALL_MIXER = scan.ScanCase("scan", 1, 4, 24), scan.ScanCase("mixer", 1, 4, 24, 3)


def test_memory_of_a_call_is_counted() -> None:
    size = 200 * 2**20
    extra = peak_extra_bytes(lambda: np.ones(size, np.uint8), CPU)
    if extra is None:
        pytest.skip("this system does not tell")
    assert 0.95 * size < extra < 1.5 * size
    assert (peak_extra_bytes(lambda: None, CPU) or 0) < size / 10


def test_time_of_a_call_is_taken() -> None:
    assert 0.05 <= measure(lambda: time.sleep(0.05), CPU).seconds < 1


@pytest.mark.parametrize("case", [SMALL_SCAN, SMALL_MIXER], ids=str)
def test_every_implementation_that_can_run_here_is_right(case: scan.ScanCase) -> None:
    implementations = rivals.scans() if case.op == "scan" else rivals.mixers()
    tried = 0
    for implementation in implementations:
        if implementation.why_not(torch.zeros(1, 1, 1)) is None:
            error, seconds = scan.check(case, implementation, CPU, torch.float32)
            assert error < scan.CHECK_TOLERANCE[torch.float32], implementation.name
            assert set(seconds) == {scan.FORWARD, scan.TRAINING}
            tried += 1
    assert tried >= 3


def test_a_wrong_implementation_gets_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    right = rivals.scans()[0]
    wrong = rivals.Implementation("wrong", lambda **t: right.run(**t) * 1.01, lambda u: None)
    missing = rivals.Implementation("missing", right.run, lambda u: "not installed: pip install it")
    monkeypatch.setattr(scan, "scans", lambda: [right, wrong, missing])
    rows = list(scan.run([SMALL_SCAN], CPU, torch.float32, 60, lambda text: None))
    by_name = {name: [r for r in rows if r.implementation == name] for name in (right.name, "wrong", "missing")}
    assert [r.part for r in by_name[right.name]] == [scan.FORWARD, scan.TRAINING]
    assert all(r.seconds is not None and r.seconds > 0 for r in by_name[right.name])
    assert [(r.seconds, r.note.split(":")[0]) for r in by_name["wrong"]] == [(None, "wrong")]
    assert [(r.seconds, r.note) for r in by_name["missing"]] == [(None, "not installed: pip install it")]


def test_calls_that_would_take_too_long_are_left_out() -> None:
    rows = list(scan.run([SMALL_SCAN], CPU, torch.float32, 0.0, lambda text: None))
    assert all(r.seconds is None for r in rows)
    assert any("by extrapolation" in r.note for r in rows)


def test_ops_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "out.json"
    assert main(["bench", "ops", "-device", "cpu", "-size", "1", "4", "24", "3", "--out", str(target)]) == 0
    written = json.loads(target.read_text(encoding="utf-8"))
    shown = capsys.readouterr().out
    assert "scan: batch 1, 4 channels, 24 tokens, forward (memory floor" in shown
    assert "| numba (ours) |" in shown
    assert "| Mamba-2, 16 states, numba (ours) |" in shown
    assert "| Mamba-2, 64 states, fused, blocked (ours) |" in shown
    assert "mamba-ssm is not installed" in shown or "needs a CUDA tensor" in shown
    assert written["machine"]["copy_gb_per_second"] > 0
    assert written["machine"]["torch"] == torch.__version__.split("+")[0] or written["machine"]["torch"]
    measured = [r for r in written["rows"] if r["seconds"] is not None]
    assert all(r["error"] <= scan.CHECK_TOLERANCE[torch.float32] for r in measured)


def test_network_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "out.json"
    command = ["bench", "network", "-device", "cpu", "-patch", "16", "16", "16", "-features", "4", "8", "8"]
    assert main([*command, "-only", "SegMamba", "PlainConvUNet", "--out", str(target)]) == 0
    rows = json.loads(target.read_text(encoding="utf-8"))["rows"]
    assert [r["network"] for r in rows] == ["SegMamba", "PlainConvUNet"]
    assert all(r["predict_seconds"] > 0 and r["train_seconds"] > 0 and r["parameters"] > 0 for r in rows)
    assert "| PlainConvUNet |" in capsys.readouterr().out


def test_network_with_a_wrong_scan_gets_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    work = networks.task((16, 16, 16), 1, 1, 2, (4, 8, 8))
    monkeypatch.setattr(networks, "_error", lambda network, work, device: 0.5)
    (row,) = networks.run(work, ["SegMamba"], CPU, torch.float32, True, lambda text: None)
    assert row.predict_seconds is None
    assert row.note.startswith("wrong: error 5.0e-01")


def test_a_network_that_cannot_take_the_patch_does_not_end_the_others() -> None:
    """SwinUNETR divides by 32: at 16 voxels it fails, and the row says so."""
    work = networks.task((16, 16, 16), 1, 1, 2, (4, 8))
    rows = list(networks.run(work, ["SwinUNETR", "PlainConvUNet"], CPU, torch.float32, False, lambda text: None))
    assert rows[0].note.startswith("failed:")
    assert rows[1].note == ""
    assert rows[1].predict_seconds is not None


def test_every_candidate_is_built_and_right() -> None:
    work = networks.task((32, 32, 32), 1, 1, 2, (4, 8, 8))
    for name, builder in networks.candidates(work).items():
        if name == "SwinUNETR":
            continue  # MONAI's, and of a fixed large size
        network = builder()
        assert network.eval()(torch.randn(1, 1, *work.patch)).shape == (1, 2, *work.patch), name
        assert networks._error(network, work, CPU) <= networks.TOLERANCE, name


def test_the_environment_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "blocked")
    with networks._backend("reference"):
        assert os.environ[ENVIRONMENT_VARIABLE] == "reference"
    assert os.environ[ENVIRONMENT_VARIABLE] == "blocked"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ops", "-size", "1", "4", "25", "3"], "expected positive numbers, TOKENS % SLICES = 0"),
        (["ops", "-threads", "0"], "-threads 0: expected at least 1"),
        (["network", "-patch", "30", "32", "32", "-features", "4", "4", "4"], "every axis must be divisible by 4"),
        (["network", "-patch", "4", "32", "32"], "expected three axes of at least 8"),
        (["network", "-patch", "32", "32", "32", "-only", "UNet"], "UNet: unknown; known: SegMamba"),
        (["memory", "-only", "UNet"], "UNet: unknown; known: SegMamba"),
        (["memory", "-budget", "0"], "-budget, -batch, -channels, -classes: expected numbers > 0"),
        (["convert", "-repeats", "0"], "-repeats 0: expected at least 1"),
    ],
)
def test_wrong_arguments(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *arguments, *([] if "-threads" in arguments else ["-device", "cpu"])]) == 2
    assert message in capsys.readouterr().err


def test_memory_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "out.json"
    command = ["bench", "memory", "-device", "cpu", "-only", "SegResMamba", "PlainConvUNet", "--out", str(target)]
    assert main([*command, "-patch", "32", "32", "32", "-batch", "2"]) == 0
    shown = capsys.readouterr().out
    rows = json.loads(target.read_text(encoding="utf-8"))["rows"]
    assert [(r["network"], r["patch"], r["batch"]) for r in rows] == [
        ("SegResMamba", [32, 32, 32], 2), ("PlainConvUNet", [32, 32, 32], 2),
    ]  # fmt: skip
    assert all(0.5 < r["ratio"] < 1.5 for r in rows if r["measured"] is not None)
    assert "| PlainConvUNet | 32x32x32 | 2 |" in shown


def test_memory_of_a_budget_that_nothing_fits(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "memory", "-device", "cpu", "-only", "SegMamba", "-budget", "0.01"]) == 0
    assert "SegMamba: no patch fits into 0.01 GB" in capsys.readouterr().out


def test_conversion_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversion, "SIZES", {"asoca": (32, 32, 16), "brats2021": (24, 28, 20)})
    target = tmp_path / "out.json"
    assert main(["bench", "convert", "-device", "cpu", "-repeats", "1", "--out", str(target)]) == 0
    rows = json.loads(target.read_text(encoding="utf-8"))["rows"]
    assert [(r["dataset"], r["files"]) for r in rows] == [("asoca", 8), ("brats2021", 20)]
    assert all(r["plain_seconds"] > 0 and r["converted_seconds"] > 0 for r in rows)
    assert "| asoca | 8 |" in capsys.readouterr().out


def test_figures_measured_before_a_crash_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed process can write nothing at its end: every row is in the file before the next one is measured."""
    target = tmp_path / "out.json"
    real, seen = networks._measure, []

    def measured(name: str, *rest: object) -> networks.NetworkRow:
        if target.exists():
            seen.append([row["network"] for row in json.loads(target.read_text(encoding="utf-8"))["rows"]])
        if name == "SegResMamba":
            raise KeyboardInterrupt
        return real(name, *rest)

    monkeypatch.setattr(networks, "_measure", measured)
    command = ["bench", "network", "-device", "cpu", "-patch", "16", "16", "16", "-features", "4", "8", "8"]
    names = ["PlainConvUNet", "LightMUNet", "SegResMamba"]
    assert main([*command, "--no-training", "-only", *names, "--out", str(target)]) == 130
    assert seen == [[], names[:1], names[:2]]
    written = json.loads(target.read_text(encoding="utf-8"))
    assert [row["network"] for row in written["rows"]] == names[:2]
    assert written["kind"] == "network"
    assert written["machine"]["device"]
    assert [p.name for p in tmp_path.iterdir()] == ["out.json"]


def test_a_rival_that_fails_in_any_way_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**tensors: torch.Tensor) -> torch.Tensor:
        raise AttributeError("module 'rival' has no attribute 'scan'")

    right = rivals.scans()[0]
    monkeypatch.setattr(scan, "scans", lambda: [rivals.Implementation("broken", broken, lambda u: None), right])
    rows = list(scan.run([SMALL_SCAN], CPU, torch.float32, 60, lambda text: None))
    assert rows[0].note == "failed: module 'rival' has no attribute 'scan'"
    assert [r.implementation for r in rows[1:] if r.seconds] == [right.name] * 2


def test_out_needs_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before hours of measuring, not after"""
    assert main(["bench", "ops", "-device", "cpu", "--out", str(tmp_path / "no" / "out.json")]) == 2
    assert "there is no folder" in capsys.readouterr().err


def test_what_the_clocks_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    from nnunet_mamba.benchmarks import machine

    told = SimpleNamespace(stdout="580.159.04, 1980 MHz, 1980 MHz, 3201 MHz, 700.00 W\n")
    monkeypatch.setattr(machine.subprocess, "run", lambda *a, **k: told)
    expected = {"driver": "580.159.04", "clock": "1980 MHz", "most_clock": "1980 MHz", "memory_clock": "3201 MHz"}
    assert machine._clocks() == expected | {"power_limit": "700.00 W"}
    monkeypatch.setattr(machine.subprocess, "run", lambda *a, **k: SimpleNamespace(stdout=""))
    assert machine._clocks() == {}
    monkeypatch.undo()
    monkeypatch.setenv("PATH", "")
    assert machine._clocks() == {}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_memory_in_another_precision(dtype: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["bench", "memory", "-device", "cpu", "-only", "PlainConvUNet", "-patch", "16", "16", "16", "-dtype"]
    assert main([*command, dtype]) == (0 if dtype == "float32" else 2)
    assert dtype == "float32" or "on a CPU nnU-Net trains in float32" in capsys.readouterr().err


def test_networks_with_other_mixers_are_measured_by_the_names_of_their_trainers() -> None:
    work = networks.task((16, 16, 16), 1, 1, 2, (4, 8))
    assert networks.select(work, ["SegMamba_Mamba2", "UMamba2_SameSize"]) == ["SegMamba_Mamba2", "UMamba2_SameSize"]
    assert not any("_" in name for name in networks.select(work, ())), "all as published, if none is named"
    with pytest.raises(ValueError, match=r"-only UMamba2_Mamba2: unknown; known: .* UMamba2_SameSize"):
        networks.select(work, ["UMamba2_Mamba2"])
    (row,) = networks.run(work, ["UMambaBot_SameSize"], torch.device("cpu"), torch.float32, True, lambda text: None)
    assert (row.network, row.note) == ("UMambaBot_SameSize", "")
    assert row.train_seconds
