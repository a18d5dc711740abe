"""The command line: help, wrong words, and the demo's handling of nnU-Net's commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nnunet_mamba.cli import main as cli
from nnunet_mamba.demo import Demo
from nnunet_mamba.names.locate import locate
from nnunet_mamba.planning.recipes import load_recipe
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


@pytest.mark.parametrize("training", ["1epoch_2its", "AdamW_lr3e-3_4epochs_2its"])
def test_demo_trains_trainers_that_exist(tmp_path: Path, training: str) -> None:
    recipe = {"cpu": {"training": training}}
    demo = Demo(tmp_path, "Dataset004_Hippocampus", tmp_path, "cpu", recipe)
    assert all(locate(name) is not None for name in demo.trainers)


WRONG = {
    "crossval -d 4 -tr nnUNetTrainerSegMama": "Did you mean nnUNetTrainerSegMamba?",
    "crossval -d 4 -tr nnUNetTrainerSegMamba_x": "_x is not a suffix",
    "crossval -d 4 -tr nnUNetTrainer": "the environment variable nnUNet_raw is not set",
    "evaluate -ref a -pred b -metrics Dicee": "metric 'Dicee'; expected some of Dice",
    "evaluate -ref a -pred b": "-ref a: no such folder",
    "compare -d 4 A B -test t": "-test t; expected permutation or wilcoxon",
    "compare -d 4 A B -np 0": "-np 0; expected a number of processes",
    "sweep -d 4 nowhere.json": "nowhere.json: no such file",
    "nonsense": "invalid choice: 'nonsense'",
    "export nowhere -o out": "nowhere: no such folder or file; give nnU-Net's folder of a model",
    "export . -o .": "-o .: exists already",
    "doctor --nonsense": "unrecognized arguments: --nonsense",
    "convert": "which dataset? One of asoca",
    "convert asoca -i nowhere": "-o FOLDER is missing",
}


def _said_without_torch(lines: list[str], folder: Path, **variables: str) -> dict[str, str]:
    """What every command prints; each ends with 2 and before torch, which alone takes seconds, is imported."""
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
        [sys.executable, "-c", code, json.dumps(lines)], capture_output=True, text=True, check=False,
        env={**environment, **variables}, cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    for line, (exit_code, text, heavy) in said.items():
        assert exit_code == 2, (line, text)
        assert not heavy, f"{line}: torch was imported"
    return {line: text for line, (_, text, _) in said.items()}


def test_what_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    for line, text in _said_without_torch(list(WRONG), tmp_path).items():
        assert WRONG[line] in text, (line, text)


UNKNOWN = "-d 66: no Dataset066_* in "
MODEL = "nnUNetTrainer__nnUNetPlans__3d_fullres"
WRONG_NAMES = {
    "crossval -d 66 -tr nnUNetTrainer": UNKNOWN,
    "compare -d 66 A B": UNKNOWN,
    "plan-from-recipe -d 66 segmamba_brats": UNKNOWN,
    "sweep -d 66 grid.json": UNKNOWN,
    "calibrate -d 66 -c 3d_fullres -tr nnUNetTrainer -p nnUNetPlans": UNKNOWN,
    "postprocess -d 66 -c 3d_fullres -tr nnUNetTrainer -p nnUNetPlans": UNKNOWN,
    "crossval -d 4 -tr nnUNetTrainer -c 3d_full": "-c 3d_full: nnUNetPlans has 2d, 3d_fullres. Did you mean 3d_fullres",
    "crossval -d 4 -tr nnUNetTrainer -p nnUNetSegMambaPlans -c 3d_full": "planners make 2d, 3d_lowres, 3d_fullres",
    "crossval -d 4 -tr nnUNetTrainer -p myPlans": "no planner known that writes them",
    "crossval -d 4 -tr nnUNetTrainer -f 5": "-f 5: the dataset is split into 5 folds",
    "crossval -d 4 -tr nnUNetTrainer nnUNetTrainer": "given twice",
    "crossval -d 4 -tr nnUNetTrainer --hours 0": "--hours 0.0; expected a number > 0",
    "crossval -d 4 -tr nnUNetTrainer --gpus 0 -device cpu": "--gpus 0 with -device cpu",
    "crossval -d 4 -tr nnUNetTrainer -o grid.json": "grid.json is a file; expected a folder",
    "crossval -d 4 -tr nnUNetTrainerSegMamba_1epochs": "this one is written nnUNetTrainerSegMamba_1epoch.",
    f"compare -d 4 {MODEL} nnUNetTrainer__nnUNetPlans__3d_full": f"In Dataset004_X: {MODEL}. Did you mean {MODEL}?",
    "compare -d 4 A B -ref nowhere": "-ref nowhere: no such folder",
    "compare -d 4 A B -ref .": "A, B: no such folder; with -ref, name folders of predictions",
    "compare -d 4 A B -cohorts nowhere.csv": "-cohorts nowhere.csv: no such file",
    "compare -d 4 A B -o grid.json": "-o grid.json is a file; expected a folder",
    "calibrate -d 4 -c 3d_full -tr nnUNetTrainer -p nnUNetPlans": f"Did you mean {MODEL}?",
    "sweep -d 4 wrong.json": "wrong.json: unknown patch; allowed: purpose, plans",
    "sweep -d 4 grid.json": "configuration 3d_lowres: nnUNetPlans has 2d, 3d_fullres",
    "sweep -d 4 grid.json -gpu_memory_target -1": "-gpu_memory_target -1; expected GB, a number > 0",
    "sweep -d 4 misspelt.json": "Did you mean nnUNetTrainerSegMamba",
    "plan-from-recipe -d 4 itself.json": "configuration and inherits_from are both 3d_fullres, and nothing",
    "plan-from-recipe segmamba_brats": "-d DATASET is missing",
    "plan-from-recipe -d 4 segmamba_brat": "Did you mean segmamba_brats?",
    "plan-from-recipe -d 4 hippocampus_demo": "not a recipe for plans",
    "plan-from-recipe -d 4 segmamba_brats -p myPlans": "Dataset004_X has no myPlans; it has nnUNetPlans",
    "convert-checkpoint grid.json --plans nowhere.json -o new": "-o needs --dataset-json",
    "convert-checkpoint grid.json --plans nowhere.json --pretrained new": "nowhere.json: no such file",
    "convert-checkpoint grid.json --plans grid.json --pretrained new": "grid.json is not nnU-Net plans",
    "convert-checkpoint grid.json --plans plans.json --pretrained new -c 2": "-c 2: plans has 2d, 3d_fullres",
    "convert-checkpoint grid.json --plans plans.json --pretrained no/new": "--pretrained no/new: no such folder: no",
    "convert-checkpoint grid.json --plans plans.json --pretrained .": "--pretrained . is a folder; name a file in it",
    "demo --recipe segmamba_brats": "cpu, gpu missing; not a recipe for the demo",
    "convrt": "Did you mean convert?",
    "explain": "Verbs: demo, doctor",
    "": "cross-validate several models",
}


def test_wrong_names_are_told_with_what_is_there(tmp_path: Path) -> None:
    variables = {v: str(tmp_path / v) for v in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    for folder in variables.values():
        (Path(folder) / "Dataset004_X").mkdir(parents=True)
    plans = tmp_path / "nnUNet_preprocessed" / "Dataset004_X" / "nnUNetPlans.json"
    plans.write_text(json.dumps({"configurations": {"2d": {}, "3d_fullres": {}}}))
    (tmp_path / "plans.json").write_text(plans.read_text(encoding="utf-8"))
    (tmp_path / "nnUNet_results" / "Dataset004_X" / MODEL).mkdir()
    (tmp_path / "nnUNet_results" / "Dataset004_X" / MODEL / "plans.json").touch()
    grid = {"configuration": "3d_lowres", "trainer": "nnUNetTrainer", "batch_size": [2]}
    (tmp_path / "grid.json").write_text(json.dumps(grid))
    misspelt = {**grid, "configuration": "2d", "trainer": "nnUNetTrainerSegMama"}
    (tmp_path / "misspelt.json").write_text(json.dumps(misspelt))
    recipe = load_recipe("segmamba_brats")
    (tmp_path / "itself.json").write_text(json.dumps({**recipe, "configuration": recipe["inherits_from"]}))
    (tmp_path / "wrong.json").write_text(json.dumps({**grid, "patch": 1}))
    for line, text in _said_without_torch(list(WRONG_NAMES), tmp_path, **variables).items():
        assert WRONG_NAMES[line] in text, (line, text)
        if WRONG_NAMES[line] == UNKNOWN:
            assert "there are: 4 (X)" in text, (line, text)


def test_errors_name_the_page_that_explains_them(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.delenv(variable, raising=False)
    code, text = _exit(capsys, "crossval", "-d", "4", "-tr", "nnUNetTrainer")
    assert code == 2
    command = text.strip().splitlines()[-1]
    assert command == "More: nnunet-mamba doctor --explain paths-not-set"
    assert _exit(capsys, *command.split()[2:])[0] == 0
    _, text = _exit(capsys, "compare", "-d", "4", "A", "B", "-test", "t")
    assert "More:" not in text, "no page about it"


def test_metrics_are_those_of_the_evaluation() -> None:
    from nnunet_mamba.cli import evaluate
    from nnunet_mamba.study.evaluation import metrics

    assert set(evaluate.METRICS) == set(metrics.METRICS)


def test_what_the_system_refuses_is_one_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from nnunet_mamba.cli import list as verb
    from nnunet_mamba.cli import main as cli

    def full(options: object) -> int:
        raise OSError(28, "No space left on device", "/data/plans.json")

    monkeypatch.setattr(verb, "run", full)
    assert cli.main(["list"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("nnunet-mamba list: [Errno 28] No space left on device: '/data/plans.json'")
    assert "doctor --explain disk-full" in said
