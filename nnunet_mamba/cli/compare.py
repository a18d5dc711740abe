"""`nnunet-mamba compare`: models on the same cases, with intervals, tests, costs and pictures, as a page to send."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunet_mamba.cli.evaluate import DEFAULT_METRICS, check_quickly
from nnunet_mamba.nnunet_folders import FIRST_CHANNEL, VARIABLES, Dataset, ModelFolder, roots
from nnunet_mamba.study.comparison import TESTS
from nnunet_mamba.study.evaluation.empty_masks import EmptyRule


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("models", nargs="+", metavar="MODEL", help="TRAINER__PLANS__CONFIGURATION among the dataset's "
                        "results, or a path to one; with -ref, folders of predictions")  # fmt: skip
    parser.add_argument("-d", required=True, metavar="DATASET", help="dataset id or name")
    parser.add_argument("-f", nargs="+", type=int, metavar="FOLD", help="folds; default: all that have finished")
    parser.add_argument("-ref", type=Path, metavar="DIR", help="compare folders of predictions with these references")
    parser.add_argument("-images", type=Path, metavar="DIR", help="with -ref: images of these cases, to look at")
    parser.add_argument("-metrics", nargs="+", default=list(DEFAULT_METRICS), metavar="NAME", help="as of nnunet-mamba "
                        f"evaluate; the first decides; default: {' '.join(DEFAULT_METRICS)}")  # fmt: skip
    parser.add_argument(
        "-both_empty", default="best", metavar="RULE", help="as of nnunet-mamba evaluate; default: best"
    )
    parser.add_argument("-one_empty", default="diagonal", metavar="RULE", help="default: diagonal")
    parser.add_argument("-test", default="permutation", help="permutation or wilcoxon: whose p-values are corrected; "
                        "default: permutation")  # fmt: skip
    parser.add_argument("-cohorts", type=Path, metavar="FILE.csv", help="columns case and cohort, patient or both; "
                        "default: cases.csv in the raw dataset, if it is there")  # fmt: skip
    parser.add_argument("-o", type=Path, metavar="DIR", help="default: comparison in the dataset's folder of results")
    parser.add_argument("-np", type=int, default=1, metavar="N", help="processes; default: 1")
    parser.add_argument("--allow_missing", action="store_true", help="compare the cases that all models have")
    parser.add_argument("--unknown_as_background", action="store_true", help="as of nnunet-mamba evaluate")
    parser.epilog = """Writes report.html (one file, to send), report.md with pictures, scores.csv.

example: nnunet-mamba compare -d 4 nnUNetTrainerSegMamba__nnUNetPlans__2d nnUNetTrainer__nnUNetPlans__2d"""


def run(options: argparse.Namespace) -> int:
    """Returns 0. Raises ValueError for models that cannot be compared."""
    check_quickly(options)
    if options.test not in TESTS:
        raise ValueError(f"-test {options.test}; expected {' or '.join(TESTS)}")
    dataset, models = _asked_for(options)
    from nnunet_mamba.datasets import read_dataset_json
    from nnunet_mamba.study.comparison import candidates as found
    from nnunet_mamba.study.comparison.cases import FILE, Groups, read_groups
    from nnunet_mamba.study.comparison.compare import Inputs, compare
    from nnunet_mamba.study.comparison.report import write_html, write_markdown
    from nnunet_mamba.study.evaluation.description import describe, ending_of
    from nnunet_mamba.study.evaluation.evaluate import question
    from nnunet_mamba.study.evaluation.masks import files_by_case
    from nnunet_mamba.study.evaluation.output import writable_folder

    dataset_json = read_dataset_json(dataset.name)
    where = f"dataset.json of {dataset.name}"
    rule = EmptyRule(options.both_empty, options.one_empty)
    asked = question(describe(dataset_json, where), options.metrics, rule, options.unknown_as_background)
    ending = ending_of(dataset_json, where)
    if options.ref is None:
        given = [found.from_model(ModelFolder(model), options.f) for model in models]
        truth, images = dataset.truths, dataset.images
    else:
        given = [found.from_folder(folder, ending) for folder in models]
        truth, images = options.ref, options.images
    named = found.with_short_names(given)
    references = files_by_case(truth, ending)
    cases = found.common_cases(named, references, options.allow_missing)
    table = options.cohorts or dataset.raw / FILE
    groups = read_groups(table, cases) if table.is_file() else Groups()
    out = writable_folder((options.o or dataset.results / "comparison").resolve())
    pictures = {} if images is None else files_by_case(images, FIRST_CHANNEL + ending)
    inputs = Inputs(
        dataset.name, named, references, pictures, cases, groups, asked, options.test, out.parent / "energy"
    )
    report = compare(inputs, out, options.np)
    write_markdown(report, out / "report.md")
    write_html(report, out / "report.html")
    print((out / "report.md").read_text(encoding="utf-8").split("\n## Definitions")[0].split("\n## Cases")[0])
    print(f"\nReport, one file to send: {out / 'report.html'}\nEvery score: {out / 'scores.csv'}")
    return 0


def _asked_for(options: argparse.Namespace) -> tuple[Dataset, list[Path]]:
    """The dataset, and the folders of models or of predictions, before torch is imported."""
    from nnunet_mamba.datasets import dataset_name, find_model

    for option, folder in (("-ref", options.ref), ("-images", options.images)):
        if folder is not None and not folder.is_dir():
            raise ValueError(f"{option} {folder}: no such folder")
    if options.cohorts is not None and not options.cohorts.is_file():
        raise ValueError(f"-cohorts {options.cohorts}: no such file")
    if options.o is not None and options.o.is_file():
        raise ValueError(f"-o {options.o} is a file; expected a folder")
    roots(*VARIABLES)
    dataset = dataset_name(options.d)
    if options.ref is None:
        models = [Path(n) if Path(n).is_dir() else find_model(dataset, n).path for n in options.models]
    else:
        models = [Path(n) for n in options.models]
        missing = [str(m) for m in models if not m.is_dir()]
        if missing:
            raise ValueError(f"{', '.join(missing)}: no such folder; with -ref, name folders of predictions")
    return Dataset(dataset), models
