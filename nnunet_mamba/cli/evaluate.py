"""`nnunet-mamba evaluate`: overlap, distances, centre lines and lesions of predictions against references."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

METRICS = ("Dice", "IoU", "HD95", "HD95area", "HD", "ASSD", "NSD1", "clDice", "LesionDice", "LesionHD95", "Volume",
           "VolumeDifference")  # fmt: skip
DEFAULT_METRICS = ("Dice", "IoU", "HD95", "ASSD", "NSD1")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-ref", required=True, type=Path, metavar="DIR", help="reference segmentations")
    parser.add_argument("-pred", required=True, type=Path, metavar="DIR", help="predictions, with the same file names")
    parser.add_argument("-djfile", type=Path, metavar="dataset.json", help="labels or regions; default: beside the "
                        "predictions, as nnUNetv2_predict leaves it")  # fmt: skip
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
    parser.epilog = "example: nnunet-mamba evaluate -ref labelsTs -pred OUT -metrics Dice HD95 NSD2 clDice -np 4"


def check_quickly(options: argparse.Namespace) -> None:
    """What is wrong without a look at any image, said before torch is imported. Raises ValueError."""
    unknown = [name for name in options.metrics if name not in METRICS and not re.fullmatch(r"NSD\d+(\.\d+)?", name)]
    if unknown:
        raise ValueError(f"metric {unknown[0]!r}; expected some of {', '.join(METRICS)}, NSD2, NSD0.5, ...")
    if options.np < 1:
        raise ValueError(f"-np {options.np}; expected a number of processes")


def run(options: argparse.Namespace) -> int:
    """Returns 0. Raises ValueError for folders that do not fit together."""
    check_quickly(options)
    description = options.djfile or options.pred / "dataset.json"
    if not description.is_file():
        raise ValueError(f"{description}: no such file; name the dataset.json with the labels: -djfile FILE")
    from nnunet_mamba.evaluation.evaluate import Pairs, as_markdown, evaluate, question, report, write_json
    from nnunet_mamba.evaluation.metrics import EmptyRule

    dataset_json = json.loads(description.read_text(encoding="utf-8"))
    asked = question(dataset_json, options.metrics, EmptyRule(options.both_empty, options.one_empty))
    pairs = Pairs.find(options.ref, options.pred, dataset_json["file_ending"])
    missing = pairs.without_prediction
    if missing and not options.allow_missing:
        raise ValueError(
            f"{len(missing)} of {len(missing) + len(pairs.pairs)} references have no prediction, {missing[0]} for "
            "instance. A mean without them would be of easier or other cases; to have it all the same: --allow_missing"
        )
    table = evaluate(pairs, asked, options.np)
    folder = options.o or options.pred
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "evaluation.json", report(table, pairs, asked))
    table.to_csv(folder / "evaluation.csv")
    print(as_markdown(table, asked))
    print(f"\n{len(pairs.pairs)} cases, {len(missing)} without prediction, {len(pairs.without_reference)} predictions "
          f"without reference. Per case: {folder / 'evaluation.csv'}; rules: evaluation.json")  # fmt: skip
    return 0
