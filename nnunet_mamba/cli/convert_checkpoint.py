"""`nnunet-mamba convert-checkpoint`: a published checkpoint as an nnU-Net model folder, or as pretrained weights."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from nnunet_mamba.whole_files import read_object


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=Path, help="file with published weights (read without running code in it)")
    parser.add_argument("-o", type=Path, metavar="FOLDER", help="nnU-Net model folder to write; must not exist")
    parser.add_argument("--pretrained", type=Path, metavar="FILE", help="file for nnUNetv2_train -pretrained_weights")
    parser.add_argument(
        "--plans", type=Path, required=True, metavar="JSON", help="plans of the dataset it was made for"
    )
    parser.add_argument("--dataset-json", type=Path, metavar="JSON", help="dataset.json with its labels (for -o)")
    parser.add_argument("-c", default="3d_fullres", metavar="CONFIGURATION", help="default: %(default)s")
    parser.epilog = (
        "example: nnunet-mamba convert-checkpoint segmamba.pt -o model --plans nnUNetPlans.json --dataset-json "
        "dataset.json; then nnUNetv2_predict_from_modelfolder -i IN -o OUT -m model -f all"
    )


def run(options: argparse.Namespace) -> int:
    """Returns 0. Raises ValueError for files and sizes that do not fit together; then nothing is written."""
    from nnunet_mamba.datasets import check_configuration_name

    if options.o is None and options.pretrained is None:
        raise ValueError("nothing to write: give -o FOLDER, --pretrained FILE, or both")
    if options.o is not None and options.dataset_json is None:
        raise ValueError("-o needs --dataset-json: a model folder carries the labels")
    for path in (options.checkpoint, options.plans, options.dataset_json):
        if path is not None and not path.is_file():
            raise ValueError(f"{path}: no such file")
    if options.o is not None and options.o.exists():
        raise ValueError(f"-o {options.o}: exists already; give another folder or remove it")
    _check_target(options.pretrained)
    plans = _read(options.plans, "configurations", "nnU-Net plans (nnUNet_preprocessed/DATASET/nnUNetPlans.json)")
    dataset = _read(options.dataset_json, "labels", "a dataset.json of nnU-Net") if options.dataset_json else None
    check_configuration_name(options.c, options.plans)

    from nnunet_mamba.released.checkpoint import convert

    made = convert(options.checkpoint, plans, options.c, dataset)
    print(f"{options.checkpoint} holds {made.kind}: {made.config}")
    for key in made.ignored:
        print(f"  left out, never used by the released forward: {key}")
    print(f"  not in the checkpoint, new: {', '.join(made.new) or 'nothing'}")
    print(f"  mirrored in prediction: {_mirrored(made.mirroring)}")
    if options.pretrained is not None:
        made.write_pretrained(options.pretrained)
        print(f"written: {options.pretrained}; train with -tr {made.trainer} -pretrained_weights")
    if options.o is not None and dataset is not None:
        made.write_model_folder(options.o, dataset)
        print(f"written: {options.o}; predict with nnUNetv2_predict_from_modelfolder -m {options.o} -f all")
    return 0


def _check_target(file: Path | None) -> None:
    if file is not None and file.is_dir():
        raise ValueError(f"--pretrained {file} is a folder; name a file in it")
    if file is not None and not file.parent.is_dir():
        raise ValueError(f"--pretrained {file}: no such folder: {file.parent}; make it first")


def _read(path: Path, key: str, what: str) -> dict[str, Any]:
    """Raises ValueError for what is no JSON, or JSON without the key that `what` has."""
    content = read_object(path)
    if not isinstance(content.get(key), dict):
        raise ValueError(f'{path} is not {what}: it has no "{key}"')
    return content


def _mirrored(axes: tuple[int, ...] | None) -> str:
    return "nothing; the checkpoint names no axes" if axes is None else f"axes {', '.join(map(str, axes)) or 'none'}"
