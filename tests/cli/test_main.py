"""The command line: help, wrong words, and the demo's handling of nnU-Net's commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nnunet_mamba import registry
from nnunet_mamba.cli import main as cli
from nnunet_mamba.cli.demo import Demo
from nnunet_mamba.version import __version__


def _exit(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    try:
        code = cli.main(list(arguments))
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = _exit(capsys, "--help")
    assert code == 0
    for verb in cli.VERBS:
        assert verb in text
        code, help_text = _exit(capsys, verb, "--help")
        assert code == 0
        assert f"example: nnunet-mamba {verb}" in help_text
    assert _exit(capsys, "--version") == (0, f"nnunet-mamba {__version__}\n")


@pytest.mark.parametrize("arguments", [(), ("train",), ("demo", "-device", "tpu"), ("demo", "--nonsense")])
def test_wrong_words_end_with_2(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert _exit(capsys, *arguments)[0] == 2


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda root: root / "Hippocampus", "the folder's name must be TaskXX_Name"),
        (lambda root: root / "Task04_Hippocampus", "imagesTr, labelsTr, imagesTs, dataset.json not found"),
    ],
)
def test_demo_refuses_unusable_data_without_importing_torch(prepare, message: str, tmp_path: Path) -> None:
    code = (
        "import sys; from nnunet_mamba.cli.main import main\n"
        f"code = main(['demo', '--data', {str(prepare(tmp_path))!r}, '--out', {str(tmp_path / 'out')!r}])\n"
        "assert 'torch' not in sys.modules; sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert not (tmp_path / "out").exists()


def test_demo_needs_five_cases(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "Task09_Few"
    for name in ("imagesTr", "labelsTr", "imagesTs"):
        (data / name).mkdir(parents=True)
    (data / "dataset.json").write_text("{}")
    (data / "imagesTr" / "a.nii.gz").write_bytes(b"")
    code, text = _exit(capsys, "demo", "--data", str(data))
    assert code == 2
    assert "1 training images; 5-fold cross-validation needs at least 5" in text


@pytest.mark.parametrize("epochs", [1, 4])
def test_demo_trains_trainers_that_exist(tmp_path: Path, epochs: int) -> None:
    recipe = {"cpu": {"epochs": epochs, "iterations": 2}}
    demo = Demo(tmp_path, "Dataset004_Hippocampus", tmp_path, "cpu", recipe)
    assert all(registry.locate(name) is not None for name in demo.trainers)


WRONG = {
    "crossval -d 4 -tr nnUNetTrainerSegMama": "Did you mean nnUNetTrainerSegMamba?",
    "crossval -d 4 -tr nnUNetTrainerSegMamba_x": "_x is no suffix",
    "crossval -d 4 -tr nnUNetTrainer": "the environment variable nnUNet_raw is not set",
    "evaluate -ref a -pred b -metrics Dicee": "metric 'Dicee'; expected some of Dice",
    "evaluate -ref a -pred b": "-ref a: no such folder",
    "compare -d 4 A B -test t": "-test t; expected permutation or wilcoxon",
    "compare -d 4 A B -np 0": "-np 0; expected a number of processes",
    "sweep -d 4 nowhere.json": "nowhere.json: no such file",
    "nonsense": "invalid choice: 'nonsense'",
    "doctor --nonsense": "unrecognized arguments: --nonsense",
    "convert": "which dataset? One of asoca",
    "convert asoca -i nowhere": "-o FOLDER is missing",
}


def test_what_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    """Before torch is imported, which alone takes seconds; one process for all."""
    code = (
        "import io, json, sys; from contextlib import redirect_stderr, redirect_stdout\n"
        "from nnunet_mamba.cli.main import main\n"
        "said = {}\n"
        "for line in json.loads(sys.argv[1]):\n"
        "    out = io.StringIO()\n"
        "    with redirect_stderr(out), redirect_stdout(out):\n"
        "        sys.argv = ['nnunet-mamba', *line.split()]\n"
        "        try:\n"
        "            code = main()\n"
        "        except SystemExit as stop:\n"
        "            code = stop.code\n"
        "    said[line] = [code, out.getvalue(), 'torch' in sys.modules]\n"
        "print(json.dumps(said))"
    )
    hidden = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
    environment = {k: v for k, v in os.environ.items() if k not in hidden}
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(list(WRONG))], capture_output=True, text=True, check=False,
        env=environment, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for line, (exit_code, text, heavy) in json.loads(done.stdout).items():
        assert exit_code == 2, (line, text)
        assert WRONG[line] in text, (line, text)
        assert not heavy, f"{line}: torch was imported"


def test_metrics_are_those_of_the_evaluation() -> None:
    from nnunet_mamba.cli import evaluate
    from nnunet_mamba.evaluation import metrics

    assert set(evaluate.METRICS) == set(metrics.METRICS)
