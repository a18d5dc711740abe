"""`nnunet-mamba evaluate`: overlap, distances, centre lines and lesions of predictions against references."""

from __future__ import annotations

import argparse
import re
import sys
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_mamba.nnunet_folders import DATASET_JSON
from nnunet_mamba.study.evaluation.empty_masks import EmptyRule

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nnunet_mamba.study.evaluation.description import Description
    from nnunet_mamba.study.evaluation.evaluate import Pairs

METRICS = ("Dice", "IoU", "HD95", "HD95area", "HD", "ASSD", "NSD1", "clDice", "LesionDice", "LesionHD95", "Volume",
           "VolumeDifference")  # fmt: skip
DEFAULT_METRICS = ("Dice", "IoU", "HD95", "ASSD", "NSD1")
MOST_SHOWN = 20
MOST_NAMED = 3
UNFINISHED = "evaluation.unfinished"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pair", nargs="*", type=Path, metavar="FILE", help="a prediction and its reference, instead of "
                        "two folders: their scores are printed")  # fmt: skip
    parser.add_argument("-ref", type=Path, metavar="DIR", help="reference segmentations")
    parser.add_argument("-pred", type=Path, metavar="DIR", help="predictions, with the same file names")
    parser.add_argument("-djfile", type=Path, metavar=DATASET_JSON, help="labels or regions; default: next to the "
                        "predictions, as nnUNetv2_predict leaves it; without one, the values found")  # fmt: skip
    parser.add_argument("-metrics", nargs="+", default=list(DEFAULT_METRICS), metavar="NAME",
                        help="Dice IoU HD95 HD95area HD ASSD NSD1 (at 1 mm; NSD2, NSD0.5, ...) clDice LesionDice "
                        f"LesionHD95 Volume VolumeDifference; default: {' '.join(DEFAULT_METRICS)}")  # fmt: skip
    parser.add_argument("-both_empty", default="best", metavar="RULE", help="score where both masks are empty: best "
                        "(1, or 0 mm) or nan (left out, as in nnU-Net); default: best")  # fmt: skip
    parser.add_argument("-one_empty", default="diagonal", metavar="RULE", help="distance where one mask is empty: "
                        "diagonal (of the image), nan, or mm such as 374; overlap is 0; default: diagonal")  # fmt: skip
    parser.add_argument("-o", type=Path, metavar="DIR", help="where evaluation.json and evaluation.csv go; default: "
                        "the folder of predictions")  # fmt: skip
    parser.add_argument("-np", type=int, default=1, metavar="N", help="processes; default: 1")
    parser.add_argument("--allow_missing", action="store_true", help="leave references without prediction out")
    parser.add_argument("--unknown_as_background", action="store_true", help="count label values that dataset.json "
                        "does not have as background; default: a pair with such values is not scored")  # fmt: skip
    parser.epilog = (
        "example: nnunet-mamba evaluate -ref labelsTs -pred OUT -metrics Dice HD95 NSD2 clDice -np 4; for one pair: "
        "nnunet-mamba evaluate prediction.nii.gz reference.nii.gz"
    )


def check_quickly(options: argparse.Namespace) -> None:
    """What is wrong without a look at any image, said before torch is imported. Raises ValueError."""
    unknown = [n for n in options.metrics if n not in METRICS and not re.fullmatch(r"NSD\d{1,6}(\.\d{1,6})?", n)]
    if unknown:
        known = {name.lower(): name for name in METRICS}
        near = get_close_matches(unknown[0].lower(), known, 1)
        hint = f". Did you mean {known[near[0]]}?" if near else ""
        raise ValueError(f"metric {unknown[0]!r}; expected some of {', '.join(METRICS)}, NSD2, NSD0.5, ...{hint}")
    if options.np < 1:
        raise ValueError(f"-np {options.np}; expected a number of processes")
    EmptyRule(options.both_empty, options.one_empty)


def run(options: argparse.Namespace) -> int:
    """Returns 0, or 2 if some pairs could not be scored. Raises ValueError for folders that do not fit together."""
    check_quickly(options)
    if options.pair:
        _check_pair(options)
        return _print_pair(options)
    _check_folders(options)
    from nnunet_mamba.study.evaluation.evaluate import as_markdown, evaluate, question, report
    from nnunet_mamba.study.evaluation.kept import Kept, key_of
    from nnunet_mamba.study.evaluation.output import keep_other_results, writable_folder, write_csv
    from nnunet_mamba.whole_files import write_json

    description, pairs = _what_to_score(options)
    asked = question(
        description, options.metrics, EmptyRule(options.both_empty, options.one_empty), options.unknown_as_background
    )
    missing = pairs.without_prediction
    if missing and not options.allow_missing:
        raise ValueError(
            f"{len(missing)} of {len(missing) + len(pairs.pairs)} references have no prediction, {missing[0]} for "
            "instance. A mean without them would be of easier or other cases; to have it all the same: --allow_missing"
        )
    folder = writable_folder(options.o or options.pred, "evaluation.json", "evaluation.csv")
    unfinished = Kept(folder / UNFINISHED, {case: key_of(pair, asked) for case, pair in pairs.pairs.items()})
    known = unfinished.read()
    if known:
        print(f"{len(known)} of {len(pairs.pairs)} cases were scored before an earlier evaluation was ended")
    result = evaluate(pairs, asked, options.np, known, unfinished.add)
    if result.table.empty:
        _tell_not_scored(result.not_scored)
        raise ValueError(f"none of {len(pairs.pairs)} pairs could be scored; nothing is written")
    content = report(result, pairs, asked)
    kept = keep_other_results(folder, content)
    write_json(folder / "evaluation.json", content, indent=2, allow_nan=False)
    write_csv(folder / "evaluation.csv", result.table)
    unfinished.remove()
    print(as_markdown(result.table, asked))  # after writing: whoever reads it may have gone
    for line in (*_first([n for notes in result.notes.values() for n in notes]), *kept):
        print(line)
    scored = len(pairs.pairs) - len(result.not_scored)
    print(f"\n{scored} cases, {len(missing)} without prediction, {len(pairs.without_reference)} predictions "
          f"without reference. Per case: {folder / 'evaluation.csv'}; rules: evaluation.json")  # fmt: skip
    _tell_contradicting(result.contradicting)
    if result.not_scored:
        _tell_not_scored(result.not_scored)
        print(f"nnunet-mamba evaluate: {len(result.not_scored)} of {len(pairs.pairs)} pairs could not be scored; the "
              "numbers above are without them; all reasons: evaluation.json", file=sys.stderr)  # fmt: skip
        return 2
    return 0


def _check_pair(options: argparse.Namespace) -> None:
    if len(options.pair) != 2:
        raise ValueError(f"{len(options.pair)} file given; expected a prediction and its reference")
    others = [name for name, value in (("-ref", options.ref), ("-pred", options.pred), ("-o", options.o)) if value]
    if others:
        raise ValueError(f"{others[0]} goes with two folders; the scores of two files are printed")
    for path in options.pair:
        if not path.is_file():
            told = "a folder; give two folders by -ref and -pred" if path.is_dir() else "no such file"
            raise ValueError(f"{path}: {told}")


def _print_pair(options: argparse.Namespace) -> int:
    """Scores of one prediction and its reference, label by label"""
    from nnunet_mamba import markdown
    from nnunet_mamba.study.evaluation import metrics
    from nnunet_mamba.study.evaluation.description import Description, describe
    from nnunet_mamba.study.evaluation.evaluate import EMPTY, evaluate_case, question
    from nnunet_mamba.study.evaluation.found_values import MOST
    from nnunet_mamba.study.evaluation.masks import counts_of, read_labels
    from nnunet_mamba.whole_files import read_object

    prediction, reference = options.pair
    if options.djfile is not None:
        if not options.djfile.is_file():
            raise ValueError(f"-djfile {options.djfile}: no such file; expected the dataset.json with the labels")
        description = describe(read_object(options.djfile), options.djfile)
    else:
        values = sorted({v for path in options.pair for v in counts_of(read_labels(path)[0])} - {0})
        if not values or len(values) > MOST:
            told = "both are empty" if not values else f"{len(values)} different values: images, not label maps?"
            raise ValueError(f"{prediction} and {reference}: {told}; what is scored, -djfile FILE says")
        description = Description({str(v): (v,) for v in values}, None)
    rule = EmptyRule(options.both_empty, options.one_empty)
    asked = question(description, options.metrics, rule, options.unknown_as_background)
    scores = evaluate_case(asked, (prediction.name, (reference, prediction)))
    found = metrics.find(asked.metrics)
    head = ["label", *(f"{m.name}{f' in {m.unit}' if m.unit else ''}" for m in found), "empty"]
    rows = [[str(r["mask"]), *(f"{r[m.name]:.4g}" for m in found), r[EMPTY] or "neither"] for r in scores.rows]
    print(markdown.table(head, rows), "", *(f"{m.name}: {m.definition}" for m in found), sep="\n")
    if any(r[EMPTY] for r in scores.rows):
        print(f"where a mask is empty: {rule}")
    for note in scores.notes:
        print(note)
    _tell_contradicting({prediction.name: scores.contradicting})
    return 0


def _check_folders(options: argparse.Namespace) -> None:
    missing = [name for name, folder in (("-ref", options.ref), ("-pred", options.pred)) if folder is None]
    if missing:
        raise ValueError(f"{' and '.join(missing)} missing; give -ref DIR and -pred DIR, or two files")
    for name, folder in (("-ref", options.ref), ("-pred", options.pred)):
        if not folder.is_dir():
            raise ValueError(f"{name} {folder}: {'a file, not a folder' if folder.exists() else 'no such folder'}")
    if options.ref.resolve() == options.pred.resolve():
        raise ValueError(f"-ref and -pred are the same folder, {options.ref}; every score would be perfect")
    if options.djfile is not None and not options.djfile.is_file():
        raise ValueError(f"-djfile {options.djfile}: no such file; expected the dataset.json with the labels")


def _what_to_score(options: argparse.Namespace) -> tuple[Description, Pairs]:
    """By the dataset.json; what that does not say, or where there is none, by what is in the folders"""
    from nnunet_mamba.study.evaluation.description import describe
    from nnunet_mamba.study.evaluation.evaluate import Pairs
    from nnunet_mamba.study.evaluation.found_values import found_ending, found_labels
    from nnunet_mamba.whole_files import read_object

    path = options.djfile or options.pred / DATASET_JSON
    if path.is_file():
        description = describe(read_object(path), path)
        ending = description.ending or found_ending(options.ref, options.pred)
        if not description.ending:
            print(f"{path} has no file_ending; scored are *{ending} files")
        return description, Pairs.find(options.ref, options.pred, ending)
    pairs = Pairs.find(options.ref, options.pred, found_ending(options.ref, options.pred))
    description, lines = found_labels(pairs.pairs, options.np)
    print(f"No {path}: scored are the values found, each as a label (-djfile FILE for names and regions)")
    print("\n".join(lines))
    return description, pairs


def _tell_not_scored(reasons: Mapping[str, str]) -> None:
    for line in _first([f"not scored: {case!r}: {reason}" for case, reason in reasons.items()]):
        print(line, file=sys.stderr)


def _tell_contradicting(found: Mapping[str, Mapping[str, Sequence[str]]]) -> None:
    files = [f"{path} ({reasons[0]})" for of_case in found.values() for path, reasons in of_case.items()]
    if files:
        more = f" and {len(files) - MOST_NAMED} more" if len(files) > MOST_NAMED else ""
        print(f"nnunet-mamba evaluate: scored as nnU-Net reads them, though their headers contradict themselves: "
              f"{', '.join(files[:MOST_NAMED])}{more}; all: evaluation.json", file=sys.stderr)  # fmt: skip


def _first(lines: list[str]) -> list[str]:
    more = len(lines) - MOST_SHOWN
    return [*lines[:MOST_SHOWN], *([f"and {more} more"] if more > 0 else [])]
