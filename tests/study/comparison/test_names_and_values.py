"""`nnunet-mamba compare` with other metrics first, odd names, values that no label has, and scores of other code."""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from nnunet_mamba import markdown
from nnunet_mamba.cli import main as cli
from nnunet_mamba.study.comparison import plots, tables
from nnunet_mamba.study.comparison import scores as scoring
from nnunet_mamba.study.comparison.candidates import Candidate
from nnunet_mamba.study.comparison.cases import Groups
from nnunet_mamba.study.comparison.compare import _labels, _shown_cases
from nnunet_mamba.study.comparison.report import Report, Section, write_markdown
from nnunet_mamba.study.comparison.tables import Table
from nnunet_mamba.study.comparison.viewer import ViewedCase, encode
from nnunet_mamba.study.evaluation import kept
from nnunet_mamba.study.evaluation.empty_masks import EmptyRule
from nnunet_mamba.study.evaluation.evaluate import EMPTY, INDEX, Question

DATASET = "Dataset007_Names"
SHAPE = (8, 12, 10)


def _labels_of(shift: int, second: int = 2) -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint8)
    labels[2:6, 2 + shift : 6 + shift, 2:8] = 1
    labels[3:5, 3 + shift : 5 + shift, 3:6] = second
    return labels


def _write(path: Path, voxels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(voxels), str(path))


@pytest.fixture
def space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(tmp_path / name))
    _describe(tmp_path, {"background": 0, "a": 1, "b": 2})
    return tmp_path


def _describe(space: Path, labels: dict[str, Any]) -> None:
    raw = space / "nnUNet_raw" / DATASET
    raw.mkdir(parents=True, exist_ok=True)
    (raw / "dataset.json").write_text(json.dumps({"labels": labels, "file_ending": ".nii.gz"}))


def _fill(space: Path, cases: dict[str, int], models: tuple[str, ...] = ("first", "second")) -> list[Path]:
    """cases: name -> by how many voxels the second model's prediction is shifted"""
    for case, shift in cases.items():
        _write(space / "ref" / f"{case}.nii.gz", _labels_of(0))
        for number, model in enumerate(models):
            _write(space / model / f"{case}.nii.gz", _labels_of(number * shift))
    return [space / model for model in models]


def _run(space: Path, *more: str | Path, models: tuple[str, ...] = ("first", "second")) -> int:
    folders = [str(space / model) for model in models]
    places = ["-ref", str(space / "ref"), "-o", str(space / "out")]
    return cli.main(["compare", *folders, "-d", "7", *places, *map(str, more)])


def _worst(space: Path) -> list[str]:
    text = (space / "out" / "report.md").read_text(encoding="utf-8").split("## Worst cases")[1].split("\n## ")[0]
    return re.findall(r"^\| (c\d)", text, re.MULTILINE)


SHIFTS = {"c0": 0, "c1": 1, "c2": 2, "c3": 4, "c4": 3, "c5": 0, "c6": 1}


@pytest.mark.parametrize(("metric", "note"), [("Dice", "lowest means"), ("HD95", "highest means"), ("ASSD", "highest")])
def test_worst_is_worst_whatever_the_metric(space: Path, metric: str, note: str) -> None:
    _fill(space, SHIFTS)
    assert _run(space, "-metrics", metric) == 0
    assert _worst(space)[:3] == ["c3", "c4", "c2"]
    assert note in (space / "out" / "report.md").read_text(encoding="utf-8").split("## Worst cases")[1]


def test_volumes_alone(space: Path) -> None:
    _fill(space, SHIFTS)
    larger, smaller = _labels_of(0), _labels_of(0)
    larger[2:6, 2:10, 2:8] = 1
    smaller[:, :3] = 0
    _write(space / "second" / "c4.nii.gz", larger)
    _write(space / "second" / "c1.nii.gz", smaller)
    assert _run(space, "-metrics", "Volume") == 0
    assert _worst(space)[:2] == ["c4", "c1"], "too large and too small alike"
    assert "| mask | model | Volume | cases |" in (space / "out" / "report.md").read_text(encoding="utf-8")


def _tables(values: dict[str, list[float]]) -> dict[str, pd.DataFrame]:
    rows = [{"case": f"c{i}", "mask": "a", "Dice": v, EMPTY: ""} for i, v in enumerate(values["m"])]
    return {"m": pd.DataFrame(rows).set_index(INDEX)}


def test_order_from_best_to_worst() -> None:
    found = _tables({"m": [0.5, 0.9, np.nan, 0.1, 0.9]})
    assert tables.from_best_to_worst(found, "Dice", "a") == ["c1", "c4", "c0", "c3"]
    assert _shown_cases(["c1", "c4", "c0", "c3"]) == {"best": "c1", "median": "c0", "worst": "c3"}
    assert _shown_cases(["c1"]) == {"best": "c1"}
    assert _shown_cases([]) == {}
    worst = tables.worst_cases(found, [], Groups(cohort={"c3": "x"}), "Dice", "a")
    assert [row[:2] for row in worst.rows] == [("c3", "x"), ("c0", "-"), ("c4", "-"), ("c1", "-")]


def test_names_that_mean_something_elsewhere(space: Path) -> None:
    cases = {"NA": 1, "=1+1": 1, "$\\frac$": 3, "<img src=x>": 1}
    models = ("=model", "_$\\frac$_<b>")
    _describe(space, {"background": 0, "None": 1, "all masks": 2})
    _fill(space, cases, models)
    for _ in range(2):  # computed, and kept
        assert _run(space, "-metrics", "Dice", models=models) == 0
        with (space / "out" / "scores.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == 2 * 4 * 3
        assert {r["mask"] for r in rows} == {"None", "all masks", "mean of all masks"}
        assert {r["case"] for r in rows} == {"NA", "'=1+1", "$\\frac$", "<img src=x>"}
        assert not any(
            value.startswith(("=", "-", "+", "@")) for r in rows for value in (r["model"], r["case"], r["mask"])
        )
        text = (space / "out" / "report.md").read_text(encoding="utf-8")
        assert not re.search(r"<(img|b)\b", text)
        assert r"\$\\frac\$" in text
        mean = [r for r in rows if r["mask"] == "mean of all masks" and r["case"] == "NA" and r["model"] == "'=model"]
        assert float(mean[0]["Dice"]) == 1


def test_every_model_is_in_the_legend() -> None:
    names = ["_hidden", "$\\frac$", "plain"]
    rows = [{"case": "c", "mask": "m$_$", "Volume": 1.0, "VolumeDifference": 0.1, "Dice": 0.5, EMPTY: ""}]
    found = {name: pd.DataFrame(rows).set_index(INDEX) for name in names}
    figure = plots.volume_agreement(found, ["m$_$"])
    figure.savefig("/dev/null", format="svg")
    legend = figure.axes[0].get_legend()
    assert legend is not None
    assert [t.get_text() for t in legend.get_texts()] == [" _hidden", r"\$\frac\$", "plain"]
    plots.distributions(found, "Dice", ["m$_$"]).savefig("/dev/null", format="svg")
    plt.close("all")


def test_markdown_shows_names_as_they_are() -> None:
    assert markdown.plain("a < b & c") == "a < b & c"
    assert markdown.plain("<b>&lt;") == "&lt;b>&amp;lt;"
    assert markdown.plain("![x](y) `c` *e* $m$ \\") == r"!\[x\](y) \`c\` \*e\* \$m\$ " + "\\\\"
    assert markdown.plain("BRATS_001 _x_ a__b") == r"BRATS_001 \_x\_ a__b"
    assert markdown.plain("a\nb\t c") == "a b c"


def test_no_tag_gets_into_the_markdown_page(tmp_path: Path) -> None:
    bad = "<img src=x onerror=y>"
    report = Report(
        bad, (bad,), (Section(bad, (Table(bad, bad, (bad,), ((bad,),)),)),), ((bad, bad),), overlays={bad: "f.png"}
    )  # fmt: skip
    write_markdown(report, tmp_path / "r.md")
    assert "<img" not in (tmp_path / "r.md").read_text(encoding="utf-8")


def test_values_that_no_label_has(space: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _fill(space, {"c0": 1, "c1": 2})
    _write(space / "second" / "c1.nii.gz", _labels_of(2, second=7))
    assert _run(space, "-metrics", "Dice") == 2
    assert re.search(r"second/c1.nii.gz holds 7 \(12 voxels\); dataset.json has 0, 1, 2", capsys.readouterr().err)
    assert _run(space, "-metrics", "Dice", "--unknown_as_background") == 0
    assert re.search(r"second/c1.nii.gz: 7 \(12 voxels\) counted as background", capsys.readouterr().out)
    page = (space / "out" / "report.html").read_text(encoding="utf-8")
    data = json.loads(page.split('id="viewer-data">')[1].split("</script>")[0])
    assert data["labels"] == [[1, "a"], [2, "b"], [7, "7, not in dataset.json"]]


def test_headers_that_contradict_themselves_are_told(space: Path) -> None:
    """Also the second time, when scores are taken from the first"""
    _fill(space, {"c0": 1, "c1": 2})
    for path in (space / "ref" / "c1.nii.gz", *(space / name / "c1.nii.gz" for name in ("first", "second"))):
        content = bytearray(gzip.decompress(path.read_bytes()))
        content[268:272] = np.float32(5).tobytes()  # qoffset_x
        path.write_bytes(gzip.compress(bytes(content)))
    for _ in range(2):
        assert _run(space, "-metrics", "Dice") == 0
        told = (space / "out" / "report.md").read_text(encoding="utf-8")
        assert "though their headers contradict themselves" in told
        for part in ("ref", "first", "second"):
            assert re.search(rf"/{part}/c1.nii.gz \(sform and qform disagree by up to", told)


def test_the_legend_names_what_is_shown(tmp_path: Path) -> None:
    asked = Question({"whole": (1, 2), "core": (2,)}, ("Dice",), EmptyRule(), ignore=3)
    truth, large = _labels_of(0), _labels_of(0).astype(np.int32) * 1000
    truth[0, 0, 0] = 3
    large[0, 0, 0] = -5
    for name, voxels in (("t", truth), ("p", large)):
        _write(tmp_path / f"{name}.nii.gz", voxels)
    encoded = encode(ViewedCase("c", None, tmp_path / "t.nii.gz", {"p": tmp_path / "p.nii.gz"}))
    assert encoded["values"] == [0, -5, 1, 2, 3, 1000, 2000]
    assert _labels(asked, [encoded]) == (
        (-5, "-5, not in dataset.json"), (1, "whole"), (2, "whole + core"), (3, "ignore"),
        (1000, "1000, not in dataset.json"), (2000, "2000, not in dataset.json"),
    )  # fmt: skip
    few = encode(ViewedCase("c", None, tmp_path / "t.nii.gz", {}))
    assert few["values"] == [0, 1, 2, 3]


def test_empty_masks_are_marked(space: Path) -> None:
    _fill(space, {"c0": 1, "c1": 2, "c2": 1})
    _write(space / "second" / "c1.nii.gz", np.where(_labels_of(2) == 2, 1, _labels_of(2)).astype(np.uint8))
    assert _run(space, "-metrics", "Dice", "HD95") == 0
    text = (space / "out" / "report.md").read_text(encoding="utf-8")
    scores = text.split("## Scores")[1].split("\n## ")[0]
    assert "b, second: 1 of 3 cases, 1 with an empty prediction" in scores
    assert "one empty: overlap 0, distance the image's diagonal" in scores
    marked = [line for line in scores.splitlines() if line.startswith("|") and "†" in line]
    assert [line.split("|")[1:3] for line in marked] == [[" all masks ", " second "], [" b ", " second "]]
    assert all(line.count("†") == 2 for line in marked)
    changes = text.split("## Paired differences")[1].split("\n## ")[0]
    marked = sorted(line.split("|")[1].strip() for line in changes.splitlines() if "†" in line)
    assert marked == ["all masks", "all masks", "b", "b"], "of Dice and HD95"
    assert "†" in (space / "out" / "report.html").read_text(encoding="utf-8")
    with (space / "out" / "scores.csv").open() as file:
        empty = {(r["case"], r["mask"]): r["empty"] for r in csv.DictReader(file) if r["model"] == "second"}
    assert empty["c1", "b"] == "prediction"
    assert empty["c1", "all masks"] == "some"
    assert {v for k, v in empty.items() if k not in {("c1", "b"), ("c1", "all masks")}} == {""}


def test_a_mean_without_values_set_by_rule_is_not_marked(space: Path) -> None:
    """Distances to an empty mask are left out, overlaps are 0: of the mean over the masks too"""
    _fill(space, {"c0": 1, "c1": 2, "c2": 1})
    _write(space / "second" / "c1.nii.gz", np.where(_labels_of(2) == 2, 1, _labels_of(2)).astype(np.uint8))
    (space / "cohorts.csv").write_text("case,cohort\nc0,x\nc1,x\nc2,y\n")
    rule = ("-metrics", "HD95", "Dice", "-one_empty", "nan", "-cohorts", space / "cohorts.csv")
    assert _run(space, *rule) == 0
    text = (space / "out" / "report.md").read_text(encoding="utf-8")

    def marked(section: str) -> list[tuple[str, str, list[bool]]]:
        rows = [line.split("|")[1:] for line in text.split(f"## {section}")[1].split("\n## ")[0].splitlines()[4:]]
        return [(r[0].strip(), r[1].strip(), ["†" in cell for cell in r[2:4]]) for r in rows if len(r) > 4 and r[1]]

    assert [m for m in marked("Scores") if any(m[2])] == [
        ("all masks", "second", [False, True]), ("b", "second", [False, True])]  # fmt: skip
    assert [m for m in marked("Cohorts") if any(m[2])] == [("x", "second", [False, True])]


@pytest.mark.parametrize(("spoil", "reason"), [
    (lambda p: p.write_bytes(b""), "cannot be read"),
    (lambda p: p.write_bytes(p.read_bytes()[:-20]), "is cut off"),
    (lambda p: (p.unlink(), os.mkfifo(p)), "is not a regular file"),
    (lambda p: _write(p, np.zeros((3, 4, 5), np.float32)), r"\(5, 4, 3\) voxels, but .*ref/c0.nii.gz has"),
])  # fmt: skip
def test_an_image_that_cannot_be_shown_is_told_and_ends_nothing(space: Path, spoil: Any, reason: str) -> None:
    """A pipe would be waited for."""
    _fill(space, {"c0": 1, "c1": 2})
    for case in ("c0", "c1"):
        _write(space / "images" / f"{case}_0000.nii.gz", _labels_of(0).astype(np.float32))
    spoil(space / "images" / "c0_0000.nii.gz")
    assert _run(space, "-metrics", "Dice", "-images", space / "images") == 0
    text = (space / "out" / "report.md").read_text(encoding="utf-8")
    assert re.search(f"Without its image: c0: .*images/c0_0000.nii.gz:? {reason}", text)
    assert re.search(r"\]\(pictures/worst_0.png\)", text), "of c1"
    assert "pictures/best_0.png" not in text


def test_a_folder_given_as_a_dot_has_its_name(space: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fill(space, {"c0": 1, "c1": 2})
    monkeypatch.chdir(space / "first")
    places = ["-ref", str(space / "ref"), "-o", str(space / "out"), "-metrics", "Dice"]
    assert cli.main(["compare", ".", "../second/../second/.", "-d", "7", *places]) == 0
    with (space / "out" / "scores.csv").open() as file:
        assert {row["model"] for row in csv.DictReader(file)} == {"first", "second"}


def test_scores_of_other_code_are_computed_again(space: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fill(space, {"c0": 1, "c1": 2})
    real, asked = scoring.evaluate, []
    monkeypatch.setattr(scoring, "evaluate", lambda pairs, *a: asked.append(sorted(pairs.pairs)) or real(pairs, *a))
    question = Question({"a": (1,), "b": (2,)}, ("Dice", "HD95"), EmptyRule(both="nan"))

    def scored(question: Question = question) -> pd.DataFrame:
        files = {part: {c: space / part / f"{c}.nii.gz" for c in ("c0", "c1")} for part in ("ref", "second")}
        candidate = Candidate("second", files["second"], {})
        return scoring.scores_of(candidate, files["ref"], ["c0", "c1"], question, space / "kept", 1).table

    first = scored()
    pd.testing.assert_frame_equal(scored(), first)
    assert asked == [["c0", "c1"]]
    _write(space / "second" / "c1.nii.gz", _labels_of(1))
    assert scored().loc[("c1", "a"), "Dice"] != first.loc[("c1", "a"), "Dice"]
    assert asked[1:] == [["c1"]], "only what has changed"
    monkeypatch.setattr(kept, "code_version", lambda: "another")
    scored()
    assert asked[2:] == [["c0", "c1"]]
    for other in ({"known": frozenset({0, 1, 2})}, {"unknown_is_background": True}, {"rule": EmptyRule(one="nan")},
                  {"ignore": 3}, {"metrics": ("Dice",)}, {"masks": {"a": (1,), "b": (1, 2)}}):  # fmt: skip
        scored()
        asked.clear()
        scored(replace(question, **other))
        assert asked == [["c0", "c1"]], other
    (space / "kept" / "second.json").write_text("[1")
    asked.clear()
    scored()
    assert asked == [["c0", "c1"]]


def test_the_code_is_part_of_its_version() -> None:
    version = kept.code_version()
    assert re.search(r"\b[0-9a-f]{64}\b", version)
    assert all(name in version for name in ("monai", "scipy", "scikit-image"))


def test_a_bad_file_keeps_the_other_scores(space: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _fill(space, {"c0": 1, "c1": 2})
    (space / "first" / "c0.nii.gz").write_bytes(b"nothing")
    _write(space / "second" / "c1.nii.gz", np.zeros((2, 2, 2), np.uint8))
    assert _run(space, "-metrics", "Dice") == 2
    shown = capsys.readouterr().err
    assert "2 pairs could not be scored; the others' scores are kept:" in shown
    assert "first/c0.nii.gz cannot be read" in shown
    assert "second/c1.nii.gz: (2, 2, 2) voxels" in shown
    assert list(json.loads((space / "out" / "scores" / "first.json").read_text(encoding="utf-8"))) == ["c1"]


def test_the_output_folder_is_asked_for_first(
    space: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _fill(space, {"c0": 1})
    monkeypatch.setattr(scoring, "evaluate", lambda *a: pytest.fail("scored first"))
    (space / "out").write_text("a file")
    assert _run(space) == 2
    assert "out is a file; expected a folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"background": 0}, "name no foreground"),
        ({"background": 0, "a": "one"}, "label 'a' is \"one\"; expected a whole number"),
        ([], "labels are \\[\\]; expected"),
    ],
)
def test_descriptions_without_meaning(
    space: Path, capsys: pytest.CaptureFixture[str], labels: Any, message: str
) -> None:
    _fill(space, {"c0": 1})
    _describe(space, labels)
    assert _run(space) == 2
    assert re.search(f"dataset.json of {DATASET}: .*{message}", capsys.readouterr().err)
