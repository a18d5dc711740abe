"""`nnunet-mamba export`: what it writes, and what it refuses without leaving anything behind."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import stat
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from nnunetv2.model_sharing.model_export import export_pretrained_model

from nnunet_mamba.cli.main import main
from nnunet_mamba.export import folder, onnx_agrees, write_onnx
from nnunet_mamba.export.description import describe
from nnunet_mamba.export.model import TrainedModel
from nnunet_mamba.export.onnx_agrees import Agreement
from nnunet_mamba.nnunet_folders import ModelFolder
from nnunet_mamba.version import __version__
from tests.export.small_model import LABELS, NAME, PATCH, REGIONS, plans, write_model

DATASET = "Dataset004_Hippocampus"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three folds, untrained, and the files that our verbs and nnU-Net put next to them"""
    place = tmp_path_factory.mktemp("results") / DATASET / NAME
    write_model(place, labels=REGIONS, folds=("0", "1", "all"))
    first = torch.load(place / "fold_0" / "checkpoint_final.pth", weights_only=True)
    first["network_weights"]["decoder.seg_layers.0.bias"] += 1.0
    torch.save(first, place / "fold_0" / "checkpoint_final.pth")
    sizes = {
        "names": ["posterior", "whole"],
        "values": [[2], [1, 2]],
        "sizes": [0.0, 50.0],
        "fill": [1, 0],
        "unit": "mm3",
    }
    (place / "minimum_size.json").write_text(json.dumps(sizes))
    chosen = {"regions": ["whole", "posterior"], "thresholds": [0.42, 0.5]}
    (place / "thresholds.json").write_text(json.dumps(chosen))
    cross = place / "crossval_results_folds_0_1"
    cross.mkdir()
    steps = {"postprocessing_fns": ["remove"], "postprocessing_kwargs": [{"labels_or_regions": [1]}]}
    (cross / "postprocessing.json").write_text(json.dumps(steps))
    return place


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Conversions leave an empty file; the folds that were converted"""
    asked: list[str] = []
    original = TrainedModel.network

    def network(self: TrainedModel, fold: str) -> torch.nn.Module:
        asked.append(fold)
        return original(self, fold)

    monkeypatch.setattr(TrainedModel, "network", network)
    monkeypatch.setattr(folder, "write_onnx", lambda network, channels, patch, file: file.write_bytes(b""))
    monkeypatch.setattr(folder, "check_agreement", lambda *given: Agreement(1e-6, 1.0, 1.0))
    return asked


def _run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str]:
    code = main(["export", *map(str, arguments)])
    return code, "".join(capsys.readouterr())


def _zip(path: Path, files: dict[str, bytes | str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def _zip_of(model: Path, path: Path, without: Callable[[Path], bool] = lambda p: False) -> Path:
    files = [p for p in model.rglob("*") if p.is_file() and not without(p)]
    return _zip(path, {f"{DATASET}/{NAME}/{p.relative_to(model)}": p.read_bytes() for p in files})


@pytest.fixture(autouse=True)
def _nothing_is_left(tmp_path: Path) -> Iterator[None]:
    yield
    assert not list(tmp_path.rglob("*.partial*"))


def test_command_writes_one_file_per_fold(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, text = _run(capsys, model, "-o", tmp_path / "out", "-f", "1")
    assert code == 0, text
    assert re.search(r"differs from torch by .* a patch takes .* s in onnxruntime, .* s in torch", text)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["fold_1.onnx", "model.json"]
    content = json.loads((tmp_path / "out" / "model.json").read_text(encoding="utf-8"))
    assert content["onnx"]["input"] == {"name": "image", "type": "float32", "shape": ["batch", 1, *PATCH]}
    assert content["onnx"]["output"]["shape"] == ["batch", 2, *PATCH]
    assert content["versions"]["nnunet_mamba"] == __version__
    (member,) = content["members"]
    assert member["difference_from_torch"] <= onnx_agrees.ALLOWED
    digest = hashlib.sha256((tmp_path / "out" / member["file"]).read_bytes()).hexdigest()
    assert member["sha256"] == {"fold_1.onnx": digest}

    import onnx

    (onnx_file,) = (tmp_path / "out").glob("*.onnx")
    loaded = onnx.load(str(onnx_file))
    onnx.checker.check_model(loaded, full_check=True)
    assert [(i.domain, i.version) for i in loaded.opset_import] == [("", 18)]
    assert str(Path(__file__).parents[2]).encode() not in onnx_file.read_bytes(), "a path of this machine"
    network = TrainedModel.read(ModelFolder(model)).network("0")
    with pytest.raises(ValueError, match=r"differs from torch's by .* of the largest logit; 0.0001 is allowed$"):
        onnx_agrees.check_agreement(network, 1, PATCH, onnx_file)
    monkeypatch.setattr(onnx_agrees, "ALLOWED", 1e-9)
    with pytest.raises(ValueError, match="This network amplifies rounding: torch's own float32 differs"):
        onnx_agrees.check_agreement(TrainedModel.read(ModelFolder(model)).network("1"), 1, PATCH, onnx_file)
    shape = loaded.graph.input[0].type.tensor_type.shape
    assert [d.dim_param or d.dim_value for d in shape.dim] == ["batch", 1, *PATCH]


def test_model_json_has_what_a_runtime_needs(model: Path, quick: list[str], tmp_path: Path) -> None:
    content = folder.export(model, tmp_path / "out")
    assert quick == ["0", "1"], "all but fold all"
    assert json.loads((tmp_path / "out" / "model.json").read_text(encoding="utf-8")) == content
    assert content["channels"] == [
        {"number": 0, "name": "MRI", "file": "CASE_0000.nii.gz", "normalization": "ZScoreNormalization",
         "use_mask": False, "intensities": {}},
    ]  # fmt: skip
    assert content["spacing"] == [1.0, 1.1, 1.2]
    assert content["transpose_forward"] == [0, 1, 2]
    assert content["resampling"]["data"] == {
        "function": "resample_data_or_seg_to_shape", "order": 3, "order_z": 0, "force_separate_z": None,
        "separate_z_threshold": 3,
    }  # fmt: skip
    assert content["resampling"]["logits"]["order"] == 1
    windows = content["windows"]
    assert (windows["patch_size"], windows["tile_step_size"], windows["mirror_axes"]) == (list(PATCH), 0.5, [0, 2])
    assert windows["gaussian"]["sigma_scale"] == 0.125
    output = content["output"]
    assert output["labels"] == REGIONS
    assert output["regions"] == [[1, 2], [2]]
    assert output["regions_class_order"] == output["values"] == [1, 2]
    assert output["thresholds"] == [0.5, 0.5]
    assert output["calibrated_thresholds"] == {"whole": 0.42, "posterior": 0.5}
    assert [m["minimum"] for m in content["postprocessing"]["minimum_component_size"]["masks"]] == [0.0, 50.0]
    (nnunets,) = content["postprocessing"]["nnunet"]
    assert nnunets["chosen_on"] == "crossval_results_folds_0_1"
    assert content["model"] == {
        "dataset": DATASET, "trainer": "nnUNetTrainerUMambaBot", "plans": "nnUNetPlans", "configuration": "3d_fullres",
        "checkpoint": "checkpoint_final.pth", "previous_stage": None,
    }  # fmt: skip


def test_labels_thresholds_and_2d(tmp_path: Path) -> None:
    content = plans(2)
    content["label_manager"] = "LabelManagerThresholds_300"
    labels = {"background": 0, "all": 1, "ignore": 2}
    place = write_model(tmp_path / "m", content, labels, mirroring=None)
    told = describe(TrainedModel.read(ModelFolder(place)), [], {})
    assert told["output"]["thresholds"] == [0.3]
    assert told["output"]["values"] == [1]
    assert told["output"]["ignore_label"] == 2
    assert told["windows"]["patch_size"] == [1, *PATCH[:2]]
    assert told["windows"]["mirror_axes"] == []
    assert told["spacing"] == [None, 1.1, 1.2]
    place = write_model(tmp_path / "n", plans(), LABELS)
    told = describe(TrainedModel.read(ModelFolder(place)), [], {})
    assert told["output"]["thresholds"] is None
    assert told["output"]["values"] == [0, 1, 2]


def test_a_zip_of_nnunets_is_the_same(
    model: Path, quick: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(model.parents[1]))
    for fold in ("0", "1"):
        (model / f"fold_{fold}" / "validation").mkdir(exist_ok=True)
        for file in ("progress.png", "validation/summary.json"):
            (model / f"fold_{fold}" / file).touch()
    (model / "dataset_fingerprint.json").write_text("{}")
    path = tmp_path / "model.zip"
    trainer, name, configuration = NAME.split("__")
    export_pretrained_model(DATASET, str(path), (configuration,), trainer, name, (0, 1))
    from_zip, from_folder = folder.export(path, tmp_path / "a"), folder.export(model, tmp_path / "b")
    for content in (from_zip, from_folder):  # nnU-Net leaves our files out of its zips
        content["postprocessing"]["minimum_component_size"] = content["output"]["calibrated_thresholds"] = None
    assert from_zip == from_folder
    assert folder.export(_zip_of(model, tmp_path / "all.zip"), tmp_path / "c")["output"]["calibrated_thresholds"]


def _empty(model: Path, place: Path) -> Path:
    (place / "model.zip").touch()
    return place / "model.zip"


def _truncated(model: Path, place: Path) -> Path:
    path = _zip_of(model, place / "model.zip")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def _without_end(model: Path, place: Path) -> Path:
    path = _zip_of(model, place / "model.zip", lambda p: p.suffix == ".pth")
    path.write_bytes(path.read_bytes()[:-100])
    return path


def _flipped(model: Path, place: Path) -> Path:
    path = _zip_of(model, place / "model.zip")
    content = bytearray(path.read_bytes())
    where = content.index(b"nnUNetPlans")  # in plans.json, which is stored as it is
    content[where + 2] ^= 1
    while (where := content.find(b'"plans_name"', where + 1)) > 0:
        content[where + 2] ^= 1
    path.write_bytes(content)
    return path


def _link(model: Path, place: Path) -> Path:
    path = _zip_of(model, place / "model.zip")
    entry = zipfile.ZipInfo(f"{DATASET}/{NAME}/fold_0/checkpoint_best.pth")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(entry, "/etc/passwd")
    return path


def _leading_out(name: str) -> Callable[[Path, Path], Path]:
    def make(model: Path, place: Path) -> Path:
        path = _zip_of(model, place / "model.zip")
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(name, "x")
        return path

    return make


def _changed(change: Callable[[Path], Any]) -> Callable[[Path, Path], Path]:
    def make(model: Path, place: Path) -> Path:
        copy = place / "given" / NAME
        shutil.copytree(model, copy)
        change(copy)
        return copy

    return make


def _checkpoint(**changes: Any) -> Callable[[Path, Path], Path]:
    def change(copy: Path) -> None:
        file = copy / "fold_0" / "checkpoint_final.pth"
        torch.save({**torch.load(file, weights_only=True), **changes}, file)

    return _changed(change)


def _json(name: str, **changes: Any) -> Callable[[Path, Path], Path]:
    def change(copy: Path) -> None:
        content = {**json.loads((copy / name).read_text(encoding="utf-8")), **changes}
        (copy / name).write_text(json.dumps({k: v for k, v in content.items() if v is not None}))

    return _changed(change)


REFUSED: dict[str, tuple[Callable[[Path, Path], Path], str]] = {
    "nothing there": (lambda model, place: place / "nowhere", "no such folder or file"),
    "no model": (lambda model, place: place, "no model of nnU-Net, which has a plans.json"),
    "a folder above": (lambda model, place: model.parent, f"did you mean {'.*'}{NAME}"),
    "a file": (lambda model, place: model / "plans.json", "neither a folder nor a zip"),
    "an empty file": (_empty, "empty: the copy or download failed"),
    "truncated zip": (_truncated, "cut off after"),
    "zip without its end": (_without_end, "cut off after"),
    "damaged zip": (_flipped, "damaged zip"),
    "zip of something else": (lambda model, place: _zip(place / "a.zip", {"b.txt": "x"}), "without a model of nnU-Net"),
    "zip of two models": (
        lambda model, place: _zip(
            place / "a.zip", {f"{DATASET}/{n}/{f}": "{}" for n in ("A", "B") for f in ("plans.json", "dataset.json")}
        ),
        "holds 2 models; choose one with -m: A, B",
    ),
    "a name above": (_leading_out("../evil"), "leads out of the folder"),
    "a name within": (_leading_out(f"{DATASET}/{NAME}/fold_0/../../../evil"), "leads out of the folder"),
    "an absolute name": (_leading_out("/tmp/evil"), "leads out of the folder"),
    "a name of Windows": (_leading_out("..\\evil"), "leads out of the folder"),
    "a drive of Windows": (_leading_out("C:evil"), "leads out of the folder"),
    "a link": (_link, "or is a link"),
    "zip without checkpoints": (
        lambda model, place: _zip_of(model, place / "a.zip", lambda p: p.suffix == ".pth"), "none of its folds has any"
    ),
    "no plans": (_json("plans.json", configurations=None), '"configurations" is missing'),
    "plans of another model": (_json("plans.json", configurations={"2d": {}}), "trained on 3d_fullres"),
    "damaged JSON": (_changed(lambda copy: (copy / "dataset.json").write_text("{")), "not JSON"),
    "channels": (_json("dataset.json", channel_names={"0": "a", "1": "b"}), "does not fit the network"),
    "labels": (_json("dataset.json", labels={"background": 0, "x": [1, 2]}), "regions_class_order must have"),
    "unknown trainer": (_checkpoint(trainer_name="nnUNetTrainerNobody"), "neither nnU-Net nor nnunet-mamba has it"),
    "no checkpoint": (_checkpoint(network_weights=[1]), "no checkpoint of a training with nnU-Net"),
    "weights of another": (_checkpoint(network_weights={"a": torch.zeros(1)}), "does not fit the network of"),
    "mirroring": (_checkpoint(inference_allowed_mirroring_axes=["x"]), "expected numbers of axes"),
    "a damaged checkpoint": (
        _changed(lambda copy: (copy / "fold_0" / "checkpoint_final.pth").write_bytes(b"PK\x03\x04x")), "is cut off"
    ),
    "thresholds of others": (
        _changed(lambda copy: (copy / "thresholds.json").write_text("{}")), "no thresholds as calibrate stores them"
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_model_is_refused_in_a_sentence(
    kind: str, model: Path, quick: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, message = REFUSED[kind]
    given = make(model, tmp_path)
    before = sorted(tmp_path.parent.rglob("*"))
    code, text = _run(capsys, given, "-o", tmp_path / "out", "-f", "0")
    assert code == 2, text
    assert re.search(message, text), text
    assert "Traceback" not in text
    assert sorted(tmp_path.parent.rglob("*")) == before, "something is left"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-f", "7"], "-f 7: no checkpoint_final.pth in fold 7; there is -f 0 1 all"),
        (["-f", "0", "0"], "fold 0 is given twice"),
        (["-c", "checkpoint_best.pth"], "its folds have checkpoint_final.pth; choose one with -c"),
        (["-m", "Other"], "leave -m out"),
        (["--format", "tflite"], "--format tflite; expected onnx"),
    ],
)
def test_wrong_options(
    options: list[str], message: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = _run(capsys, model, "-o", tmp_path / "out", *options)
    assert code == 2
    assert message in text
    (tmp_path / "there").mkdir()
    assert "exists already" in _run(capsys, model, "-o", tmp_path / "there")[1]
    assert "make it first" in _run(capsys, model, "-o", tmp_path / "no" / "where")[1]


def test_a_wrong_file_is_not_written(
    model: Path, quick: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def differs(network: torch.nn.Module, channels: int, patch: tuple[int, ...], file: Path) -> Agreement:
        if file.name == "fold_1.onnx":
            raise ValueError("the exported network differs")
        return Agreement(0.0, 1.0, 1.0)

    monkeypatch.setattr(folder, "check_agreement", differs)
    code, text = _run(capsys, model, "-o", tmp_path / "out")
    assert code == 2
    assert "the exported network differs" in text
    assert quick == ["0", "1"]
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_exported_or_run_is_said(tmp_path: Path) -> None:
    class Sorting(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if bool(x.sum() > 0) else -x

    with pytest.raises(ValueError, match="Sorting cannot be exported"):
        write_onnx.write_onnx(Sorting(), 1, (4, 4), tmp_path / "x.onnx")
    (tmp_path / "y.onnx").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="onnxruntime cannot run the exported network"):
        onnx_agrees.check_agreement(Sorting(), 1, (4, 4), tmp_path / "y.onnx")


def test_missing_packages_are_named_with_the_line_to_type(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(write_onnx, "NEEDED", ("onnx", "not_there"))
    code, text = _run(capsys, model, "-o", tmp_path / "out")
    assert code == 2
    assert 'not_there is not installed; type: pip install "nnunet_mamba[export]"' in text
    monkeypatch.setattr(write_onnx, "NEEDED", ("onnx",))
    monkeypatch.setattr(torch, "__version__", "2.8.0+cpu")
    assert "torch 2.8.0+cpu cannot export scans" in _run(capsys, model, "-o", tmp_path / "out")[1]
