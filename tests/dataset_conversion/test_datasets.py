"""Every dataset: recognised in its layouts, named, labelled and split as it should be, accepted by nnU-Net."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st
from nnunetv2.utilities.label_handling.label_handling import LabelManager

import nnunet_mamba
from dataset_conversion import aiib23, asoca, brats, btcv, generic, imagecas, splits
from dataset_conversion.command import EXAMPLES, MADE, NAMES, main
from dataset_conversion.convert import convert
from dataset_conversion.declare import CT, Case, Options
from dataset_conversion.examples import case_name, make_asoca, make_brats, make_brats_tree
from nnunet_mamba.plan_checks import check_labels
from tests.dataset_conversion.trees import BRATS_SIZE, SIZE, asoca_tree, brats_tree, find_asoca, find_brats

YEARS = [y.year for y in brats.YEARS]


def _volume(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(array, np.diag([-1.0, -1, 2, 1]))
    nibabel.save(image, path)


def _pair(image: Path, label: Path, seed: int, most: int = 1) -> None:
    random = np.random.default_rng(seed)
    _volume(image, random.integers(-1000, 1000, (6, 7, 8)).astype(np.int16))
    _volume(label, random.integers(0, most + 1, (6, 7, 8)).astype(np.uint8))


# --- ASOCA ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("disease_folder", ["Testset_Disease", "Testset_Diseased"])
def test_asoca(disease_folder: str, tmp_path: Path) -> None:
    make_asoca(tmp_path / "x" / "y", (5, 5), (2, 2), SIZE, disease_folder=disease_folder)
    report = convert(find_asoca(tmp_path / "x"), tmp_path / "raw", Options())
    target = tmp_path / "raw" / "Dataset510_ASOCA"
    assert len(list((target / "imagesTr").iterdir())) == len(list((target / "labelsTr").iterdir())) == 10
    assert {p.name for p in (target / "imagesTs").iterdir()} == {
        f"Test_{c}_{n:02d}_0000.nii.gz" for c, n in (("Normal", 0), ("Normal", 1), ("Diseased", 10), ("Diseased", 11))
    }
    names = json.loads((target / "test_names.json").read_text(encoding="utf-8"))
    assert names["Test_Diseased_10"] == f"Diseased/{disease_folder}/10.nrrd"
    assert json.loads((target / "dataset.json").read_text(encoding="utf-8"))["channel_names"] == {"0": "CT"}
    lines = (target / "cases.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "case,patient,cohort"
    assert len(lines) == 15
    assert all(line.split(",")[2] in line.split(",")[0] for line in lines[1:])
    folds = json.loads((target / "splits_final.json").read_text(encoding="utf-8"))
    assert len(folds) == report.folds == 5
    for fold in folds:
        assert sorted(name.split("_")[0] for name in fold["val"]) == ["Diseased", "Normal"]
        assert len(fold["train"]) == 8


def test_asoca_at_full_count_has_four_of_each_cohort_per_fold() -> None:
    cases = [Case(f"{c}_{k:02d}", (), None, stratum=c) for c in ("Normal", "Diseased") for k in range(1, 21)]
    for fold in splits.folds(cases):
        assert [sum(n.startswith(c) for n in fold["val"]) for c in ("Normal", "Diseased")] == [4, 4]


@pytest.mark.parametrize("names", [("ASOCA_Normal", "ASOCA_Diseased"), ("ASOCA Normal", "ASOCA Diseased")])
def test_asoca_folder_variants(names: tuple[str, str], tmp_path: Path) -> None:
    root = asoca_tree(tmp_path / "d")
    for old, new in zip(("Normal", "Diseased"), names, strict=True):
        (root / old).rename(root / new)
    assert len(find_asoca(root).cases) == 6
    inner = root / names[0] / "Normal"
    inner.mkdir()
    for part in ("CTCA", "Annotations"):
        (root / names[0] / part).rename(inner / part)
    assert len(find_asoca(root).cases) == 6


def test_asoca_of_2020_and_fixed_split(tmp_path: Path) -> None:
    make_asoca(tmp_path / "d", (5, 5), (0, 0), SIZE, release="2020")
    found = find_asoca(tmp_path / "d", split="80-20")
    assert {c.id for c in found.cases} == {f"ASOCA_{k:02d}" for k in range(10)}
    convert(found, tmp_path / "raw", Options())
    (fold,) = json.loads((tmp_path / "raw" / "Dataset510_ASOCA" / "splits_final.json").read_text(encoding="utf-8"))
    assert (len(fold["train"]), len(fold["val"])) == (8, 2)


# --- BraTS ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("year", YEARS)
def test_brats_of_every_year(year: int, tmp_path: Path) -> None:
    make_brats_tree(tmp_path / "d", year, 6, 1, BRATS_SIZE)
    found = find_brats(tmp_path / "d")
    report = convert(found, tmp_path / "raw", Options())
    target = tmp_path / "raw" / found.dataset.folder
    assert found.dataset.name == f"BraTS{year}"
    assert [sum(c.is_test == t for c in report.cases) for t in (False, True)] == [6, 1]
    assert not report.problems
    text = json.loads((target / "dataset.json").read_text(encoding="utf-8"))
    check_labels(text["labels"], text["regions_class_order"])
    folds = json.loads((target / "splits_final.json").read_text(encoding="utf-8"))
    if year >= 2023:
        ends = ("000", "001") if year == 2023 else ("100", "101")
        twice = {f"BraTS-GLI-00004-{e}" for e in ends}
        assert any(twice <= set(f["val"]) for f in folds), "one patient, one fold"
    source = found.cases[0]
    assert source.label is not None
    before = nibabel.load(source.label).get_fdata().astype(int)
    after = nibabel.load(target / "labelsTr" / f"{source.id}.nii.gz").get_fdata().astype(int)
    assert np.array_equal(np.where(before == 4, 3, before) if year <= 2021 else before, after)


@pytest.mark.parametrize("order", ["native", "nnunet137"])
@pytest.mark.parametrize("year", YEARS)
def test_regions_are_painted_back_to_the_labels(year: int, order: str, tmp_path: Path) -> None:
    make_brats(tmp_path / "d", year, case_name(year, 1), size=BRATS_SIZE)
    found = find_brats(tmp_path / "d", label_order=order)
    convert(found, tmp_path / "raw", Options())
    target = tmp_path / "raw" / found.dataset.folder
    text = json.loads((target / "dataset.json").read_text(encoding="utf-8"))
    manager = LabelManager(text["labels"], text["regions_class_order"])
    path = target / "labelsTr" / f"{case_name(year, 1)}.nii.gz"
    labels = nibabel.load(path).get_fdata().astype(int)
    assert len(np.unique(labels)) == (5 if year == 2024 else 4)
    regions = np.stack([np.isin(labels, region) for region in manager.foreground_regions])
    painted = manager.convert_probabilities_to_segmentation(regions.astype(np.float32))
    assert np.array_equal(painted, labels)

    assert main(["brats", "--back", str(path.parent), "--year", str(year), "--label-order", order, "-o",
                 str(tmp_path / "back")]) == 0  # fmt: skip
    assert found.cases[0].label is not None
    original, back = nibabel.load(found.cases[0].label), nibabel.load(tmp_path / "back" / path.name)
    assert np.array_equal(original.get_fdata(), back.get_fdata())
    assert np.allclose(original.affine, back.affine)


def test_brats_grades_and_patients_of_2020(tmp_path: Path) -> None:
    root = brats_tree(tmp_path, 2020, 4)
    rows = ["Grade,TCGA_TCIA_subject_ID,BraTS_2020_subject_ID"]
    rows += [f"{'HGG' if k < 2 else 'LGG'},{'TCGA-1' if k in (0, 3) else 'NA'},{case_name(2020, k)}" for k in range(4)]
    (root / "name_mapping.csv").write_text("\n".join(rows))
    cases = {c.id: c for c in find_brats(root).cases}
    assert [cases[case_name(2020, k)].stratum for k in range(4)] == ["HGG", "HGG", "LGG", "LGG"]
    assert cases[case_name(2020, 0)].patient == cases[case_name(2020, 3)].patient == "TCGA-1"


def test_only_folders_of_the_download_tell_validation_cases(tmp_path: Path) -> None:
    root = brats_tree(tmp_path / "validation of a method" / "download")
    case = find_brats(root).cases[0]
    assert case.label is not None
    case.label.unlink()
    found = find_brats(root)
    assert not any(c.is_test for c in found.cases), "a training case that lacks its label"
    assert any("no segmentation" in p.text for p in found.problems)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["BraTS-PED-00001-000"], "BraTS-PED, not the adult glioma task"),
        (["BraTS-MEN-00001-000"], "BraTS-MEN, not the adult glioma task .* `convert generic`"),
        (["nothing"], "no BraTS cases found; looked for folders named like Brats18_TCIA01"),
        (["BraTS2021_00001", "BraTS20_Training_001"], "cases of BraTS 2020, 2021; choose one with --year"),
    ],
)
def test_other_tasks_and_mixed_years_are_refused(names: list[str], message: str, tmp_path: Path) -> None:
    for name in names:
        (tmp_path / "d" / name).mkdir(parents=True)
    with pytest.raises(ValueError, match=message):
        find_brats(tmp_path / "d")


# --- the others ----------------------------------------------------------------------------------------------------


@pytest.fixture
def imagecas_tree(tmp_path: Path) -> Path:
    root = tmp_path / "d"
    for k in range(1, 9):
        folder = root / ("1-200" if k < 5 else "201-400")
        _pair(folder / f"{k}.img.nii.gz", folder / f"{k}.label.nii.gz", k)
    return root


def _sheet(path: Path, ids: list[Any]) -> None:
    parts = ["Training"] * 5 + ["Val"] + ["Testing"] * 2
    rows: list[list[Any]] = [["4-fold cross validation", "", ""], ["FileName", "Split-1", "Split-2"]]
    rows += [[i, p, q] for i, p, q in zip(ids, parts, parts[::-1], strict=True)]
    if path.suffix == ".csv":
        empty = [[None] * 3] * 2  # as spreadsheets leave them at the end
        pandas.DataFrame([*rows[1:], *empty]).to_csv(path, header=False, index=False)
    else:
        pandas.DataFrame(rows).to_excel(path, header=False, index=False)


@pytest.mark.parametrize("name", ["imageCAS_data_split.xlsx", "imageCAS_data_split.csv"])
def test_imagecas_split_sheet(name: str, imagecas_tree: Path, tmp_path: Path) -> None:
    _sheet(imagecas_tree / name, list(range(1, 9)))
    report = convert(imagecas.discover(imagecas_tree, {"split": 1}), tmp_path / "raw", Options())
    target = tmp_path / "raw" / "Dataset511_ImageCAS"
    assert {p.name for p in (target / "labelsTs").iterdir()} == {f"ImageCAS_{k:04d}.nii.gz" for k in (7, 8)}
    (fold,) = json.loads((target / "splits_final.json").read_text(encoding="utf-8"))
    assert fold == {"train": [f"ImageCAS_{k:04d}" for k in range(1, 6)], "val": ["ImageCAS_0006"]}
    assert report.as_json()["training"] == 6
    other = imagecas.discover(imagecas_tree, {"split": 2})
    assert [c.id for c in other.cases if c.is_test] == ["ImageCAS_0001", "ImageCAS_0002"]


def test_imagecas_sheet_of_the_older_release(imagecas_tree: Path) -> None:
    _sheet(imagecas_tree / "imageCAS_data_split.xlsx", [10000000 + k for k in range(8)])
    with pytest.raises(ValueError, match=r"8 of 8 cases are not in it .* --match-by-row"):
        imagecas.discover(imagecas_tree, {})
    assert sum(c.is_test for c in imagecas.discover(imagecas_tree, {"match_by_row": True}).cases) == 2


def test_imagecas_without_sheet_and_packed(imagecas_tree: Path, tmp_path: Path) -> None:
    found = imagecas.discover(imagecas_tree, {})
    assert found.folds is None
    assert "no split sheet" in found.problems[0].text
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "1-200.change2zip").write_bytes(b"")
    with pytest.raises(ValueError, match=r"rename it to \.zip and unpack it"):
        imagecas.discover(tmp_path / "packed", {})


def test_btcv(tmp_path: Path) -> None:
    root = tmp_path / "d" / "RawData"
    for k in (1, 2, 3, 4, 8, 35, 36):
        training = root / "Training"
        _pair(training / "img" / f"img{k:04d}.nii.gz", training / "label" / f"label{k:04d}.nii.gz", k, 13)
    _pair(root / "Testing" / "img" / "img0061.nii.gz", tmp_path / "unused.nii.gz", 61)
    convert(btcv.discover(tmp_path / "d", {"split": "24-6"}), tmp_path / "raw", Options())
    target = tmp_path / "raw" / "Dataset512_BTCV"
    (fold,) = json.loads((target / "splits_final.json").read_text(encoding="utf-8"))
    assert fold["val"] == ["BTCV_0035", "BTCV_0036"]
    assert (target / "imagesTs" / "BTCV_0061_0000.nii.gz").is_file()
    assert len(json.loads((target / "dataset.json").read_text(encoding="utf-8"))["labels"]) == 14
    transunet = btcv.discover(tmp_path / "d", {"split": "transunet"}).folds
    assert transunet is not None
    assert transunet[0]["val"] == [f"BTCV_{k:04d}" for k in (1, 2, 3, 4, 8, 35, 36)]
    assert btcv.discover(tmp_path / "d", {}).folds is None


def test_aiib23(tmp_path: Path) -> None:
    for k in (3, 12):
        folder = tmp_path / "d" / "AIIB23_Train_T1"
        _pair(folder / "img" / f"AIIB23_{k}.nii.gz", folder / "gt" / f"AIIB23_{k}.nii.gz", k)
    (tmp_path / "d" / "AIIB23_Train_T1" / "gt" / "AIIB23_99.nii.gz").write_bytes(b"")
    found = aiib23.discover(tmp_path / "d", {})
    assert sorted(c.id for c in found.cases) == ["AIIB23_003", "AIIB23_012"]
    assert "a label without image" in found.problems[0].text


def test_generic(tmp_path: Path) -> None:
    for seed, case in enumerate(("P1_a", "P1_b", "P2_a", "P3 ä")):
        folder = tmp_path / "d" / case
        _pair(folder / "ct.nii.gz", folder / "tumour.nii.gz", seed)
    _pair(tmp_path / "d" / "T9" / "scan.nii.gz", tmp_path / "unused.nii.gz", 5)
    description = tmp_path / "d.json"
    text = {**generic.EXAMPLE, "test_images": {"CT": "{case}/scan.nii.gz"}}
    description.write_text(json.dumps(text))
    report = convert(generic.discover(tmp_path / "d", {"describe": description}), tmp_path / "raw", Options())
    assert {c.id for c in report.cases} == {"P1_a", "P1_b", "P2_a", "P3__", "T9"}
    folds = json.loads((tmp_path / "raw" / "Dataset530_Colon" / "splits_final.json").read_text(encoding="utf-8"))
    assert any({"P1_a", "P1_b"} == set(f["val"]) for f in folds), "patients stay together"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": None}, "label missing"),
        ({"colour": 1}, "unknown colour; allowed: name, images"),
        ({"name": "My set"}, "name 'My set'; expected letters and digits only"),
        ({"images": {"CT": "ct.nii.gz"}}, "'ct.nii.gz' has no {case}"),
        ({"labels": {"tumour": 1}}, "background must be there and 0"),
        ({"labels": {"background": 0, "all": [1, 2]}}, "regions_class_order is missing"),
        ({"patient": "P"}, "patient: 'P' has no group in parentheses"),
        ({"patient": "("}, "patient: "),
        ({"images": {"CT": "{case}/x.nii.gz"}}, "no file matches"),
    ],
)
def test_generic_descriptions_that_are_wrong(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    text = {k: v for k, v in {**generic.EXAMPLE, **change}.items() if v is not None}
    (tmp_path / "d.json").write_text(json.dumps(text))
    with pytest.raises(ValueError, match=message):
        generic.discover(tmp_path, {"describe": tmp_path / "d.json"})


def test_msd_through_nnunets_converter(tmp_path: Path) -> None:
    source = Path(nnunet_mamba.__file__).parent / "data" / "hippocampus" / "Task04_Hippocampus"
    assert main(["msd", "-i", str(source), "-o", str(tmp_path / "raw"), "-d", "44"]) == 0
    target = tmp_path / "raw" / "Dataset044_Hippocampus"
    assert {p.name for p in target.parent.iterdir()} == {target.name}, "no leftovers"
    n = json.loads((target / "dataset.json").read_text(encoding="utf-8"))["numTraining"]
    assert n == len(list((target / "labelsTr").iterdir())) == len(list((source / "labelsTr").glob("*.nii.gz")))
    assert len(json.loads((target / "splits_final.json").read_text(encoding="utf-8"))) == 5


# --- common --------------------------------------------------------------------------------------------------------


def test_ct_is_called_so() -> None:
    for dataset in (asoca.ASOCA, imagecas.IMAGECAS, btcv.BTCV, aiib23.AIIB23):
        assert dataset.channels == (CT,) == ("CT",)


def test_every_name_has_a_file_with_help(capsys: pytest.CaptureFixture[str]) -> None:
    for name in NAMES:
        with pytest.raises(SystemExit) as ended:
            main([name, "--help"])
        assert ended.value.code == 0
        told = capsys.readouterr().out
        assert "--resume" in told
        assert ("--skip-incomplete" in told) == ("-i DOWNLOAD" in told) == (name not in MADE)


@given(st.lists(st.tuples(st.integers(0, 30), st.sampled_from("ab")), min_size=2, max_size=60), st.integers(0, 9))
def test_folds_keep_patients_together_and_strata_balanced(people: list[tuple[int, str]], shift: int) -> None:
    cases = [Case(f"c{k:03d}", (), None, patient=f"p{p}", stratum=s) for k, (p, s) in enumerate(people)]
    folds = splits.folds(cases)
    assert folds == splits.folds(cases[shift:] + cases[:shift]), "independent of the order"
    n_patients = len({c.patient for c in cases})
    assert len(folds) == (0 if n_patients < 2 else min(5, n_patients))
    fold_of = {i: k for k, fold in enumerate(folds) for i in fold["val"]}
    if folds:
        assert set(fold_of) == {c.id for c in cases}
        assert all(sorted(f["train"] + f["val"]) == sorted(fold_of) for f in folds)
        for patient in {c.patient for c in cases}:
            assert len({fold_of[c.id] for c in cases if c.patient == patient}) == 1
        sizes = [len({c.patient for c in cases if fold_of[c.id] == k}) for k in range(len(folds))]
        assert max(sizes) - min(sizes) <= 1


def test_folds_are_those_of_earlier_versions() -> None:
    """Models of two versions can be compared only on the same folds."""
    folds = splits.folds([Case(f"c{k}", (), None) for k in range(7)])
    assert [fold["val"] for fold in folds] == [["c4", "c6"], ["c3", "c5"], ["c0"], ["c2"], ["c1"]]


def test_simpleitk_sees_the_same_geometry(tmp_path: Path) -> None:
    root = asoca_tree(tmp_path / "d")
    convert(find_asoca(root, keep_padding=True), tmp_path / "raw", Options())
    before = sitk.ReadImage(str(root / "Normal" / "CTCA" / "Normal_1.nrrd"))
    after = sitk.ReadImage(str(tmp_path / "raw" / "Dataset510_ASOCA" / "imagesTr" / "Normal_01_0000.nii.gz"))
    assert np.array_equal(sitk.GetArrayFromImage(before), sitk.GetArrayFromImage(after))
    assert after.GetSpacing() == pytest.approx(before.GetSpacing(), rel=1e-6)
    assert after.GetOrigin() == pytest.approx(before.GetOrigin(), abs=1e-4)
    assert after.GetDirection() == pytest.approx(before.GetDirection(), abs=1e-6)


@pytest.mark.parametrize("year", brats.YEARS, ids=lambda y: str(y.year))
def test_names_in_messages_are_names_of_cases(year: brats.Year) -> None:
    assert [y.year for y in brats.YEARS if y.pattern.match(year.example)] == [year.year]
    assert year.pattern.match(case_name(year.year, 7))


@pytest.mark.parametrize("kind", EXAMPLES)
def test_examples_convert(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--make-example", kind, str(tmp_path / "trial")]) == 0
    name = "asoca" if kind.startswith("asoca") else "brats"
    assert f"next: nnunet-mamba convert {name} -i {tmp_path / 'trial'}" in capsys.readouterr().out
    assert main([name, "-i", str(tmp_path / "trial"), "-o", str(tmp_path / "raw"), "--jobs", "1", "--dry-run"]) == 0
    assert not (tmp_path / "raw").exists()
    assert main(["--make-example", kind, str(tmp_path / "trial")]) == 2
    assert "is there already and not empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "which dataset? One of asoca, brats"),
        (["brats"], "-i DOWNLOAD is missing"),
        (["brats", "-i", "/nowhere"], "/nowhere: no such folder"),
        (["brats", "--back", "x"], "--back needs --year"),
        (["brats", "--back", "/nowhere", "--year", "2021", "-o", "x"], "no .nii.gz files there"),
        (["generic", "-i", "."], "--describe JSON is missing"),
        (["asoca", "-i", ".", "-d", "5000"], "-d: expected 1 to 999"),
        (["asoca", "-i", ".", "--jobs", "0"], "--jobs: expected at least 1"),
        (["--make-example", "foo", "x"], "--make-example foo: unknown; one of asoca"),
    ],
)
def test_wrong_arguments(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("nnUNet_raw", "/nowhere")
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
